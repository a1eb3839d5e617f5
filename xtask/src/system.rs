//! What the machine must have: programs from Debian's packages, and a usable `/dev/fuse`.
//!
//! Nothing is installed in silence: each step is announced on stderr first. This room does not know what the programs
//! are for.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sh;

/// The device through which FUSE servers speak to the kernel.
const FUSE_DEVICE: &str = "/dev/fuse";

/// Sees to it that each program is there, by installing the Debian package that has it.
///
/// # Errors
/// When a package is missing and cannot be installed; the message says what to type.
pub(crate) fn ensure_programs(wanted: &[(&str, &str)]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for (program, package) in wanted {
        if sh::find_program(program).is_none() && !packages.contains(package) {
            packages.push(package);
        }
    }
    if packages.is_empty() {
        Ok(())
    } else {
        install(&packages)
    }
}

/// Installs Debian packages.
///
/// # Errors
/// When that needs rights we do not have, or fails; the message says what to type.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("install it by hand: apt-get install {}", packages.join(" "));
    if sh::find_program("apt-get").is_none() {
        bail!(
            "{} is needed and there is no apt-get here; {by_hand}",
            packages.join(", ")
        );
    }
    sh::say(&format!("installing Debian packages: {}", packages.join(" ")));
    let once = || {
        let mut install = as_root("apt-get")?;
        install
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages);
        sh::run_quiet(install.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // A fresh image has no lists, an old one has lists of versions that are gone.
    if once().is_ok() {
        return Ok(());
    }
    update_package_lists().and_then(|()| once()).with_context(|| by_hand)
}

/// Fetches the lists of what Debian has.
///
/// # Errors
/// When that needs rights we do not have, or fails.
pub(crate) fn update_package_lists() -> Result<()> {
    sh::say("fetching Debian's package lists (apt-get update)");
    sh::run_quiet(as_root("apt-get")?.arg("update"))
}

/// Sees to it that this user can mount.
///
/// # Errors
/// When the FUSE device is missing or closed to this user; the message says what to do.
pub(crate) fn require_fuse_device() -> Result<()> {
    let mode = fuse_device_mode()?;
    if mode & 0o006 != 0o006 && !is_root() {
        bail!(
            "{FUSE_DEVICE} has mode {mode:o} and is closed to you: chmod 0666 {FUSE_DEVICE} as root, the mode that udev gives it"
        );
    }
    Ok(())
}

/// Sees to it that every user can mount, for tests that change to an ordinary one: root gives the device the mode that
/// udev gives it on an ordinary Debian machine.
///
/// # Errors
/// As [`require_fuse_device`].
pub(crate) fn open_fuse_device() -> Result<()> {
    let mode = fuse_device_mode()?;
    if mode & 0o006 == 0o006 || !is_root() {
        return require_fuse_device();
    }
    sh::say(&format!(
        "setting {FUSE_DEVICE} to mode 0666, as udev does (it was {mode:o})"
    ));
    fs::set_permissions(FUSE_DEVICE, fs::Permissions::from_mode(0o666)).with_context(|| format!("chmod {FUSE_DEVICE}"))
}

/// Sees to it that ordinary users may let others see what they mount (fuse.conf(5)).
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn allow_others() -> Result<()> {
    let text = fs::read_to_string(FUSE_CONFIGURATION).unwrap_or_default();
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return Ok(());
    }
    sh::say(&format!("adding user_allow_other to {FUSE_CONFIGURATION}"));
    fs::write(FUSE_CONFIGURATION, format!("{text}user_allow_other\n"))
        .with_context(|| format!("cannot write {FUSE_CONFIGURATION}"))
}

/// What fusermount3 allows.
const FUSE_CONFIGURATION: &str = "/etc/fuse.conf";

fn fuse_device_mode() -> Result<u32> {
    let metadata = fs::metadata(FUSE_DEVICE).with_context(|| {
        format!("{FUSE_DEVICE} is missing: load the module (modprobe fuse), or give the container the device (--device {FUSE_DEVICE})")
    })?;
    Ok(metadata.permissions().mode() & 0o777)
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// A command run as root: as it is when we are root, else by sudo.
fn as_root(program: &str) -> Result<Command> {
    if is_root() {
        return Ok(sh::command(program));
    }
    if sh::find_program("sudo").is_none() {
        bail!("`{program}` needs root: run this once as root, or install sudo");
    }
    let mut command = sh::command("sudo");
    command.args(["--non-interactive", program]);
    Ok(command)
}
