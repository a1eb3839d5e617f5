//! Mounts that end with the test that made them, and what is left of mounts, processes and leases.

use std::path::{Path, PathBuf};
use std::process::Command;

use envfs_store::Store;
use envfs_store::digest::Digest;
use envfs_store::lease;

use crate::data::skip;
use crate::program::{Envfs, finish};
pub use crate::user::Who;

/// An environment mounted for as long as this lives.
pub struct Mounted<'a> {
    envfs: &'a Envfs,
    path: PathBuf,
    who: Who,
}

/// Whether mounting is possible here; says loudly if it is not.
///
/// # Panics
/// Never; the device is only looked at.
#[must_use]
pub fn is_possible() -> bool {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    match device {
        Ok(_) => true,
        Err(error) => {
            skip(&format!("a test that mounts: /dev/fuse: {error}"));
            false
        }
    }
}

impl<'a> Mounted<'a> {
    /// Mounts at `path`, which is made, as `who`, whose store it must be.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn at(envfs: &'a Envfs, signature: &Digest, path: &Path, who: Who) -> Self {
        Self::with(envfs, signature, path, who, &[])
    }

    /// As [`Mounted::at`], with more options.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn with(envfs: &'a Envfs, signature: &Digest, path: &Path, who: Who, options: &[&str]) -> Self {
        std::fs::create_dir_all(path).unwrap();
        who.owns(path);
        let mut mount = envfs.command();
        mount.args(["mount", &signature.to_string()]).arg(path).args(options);
        finish(who.runs(&mut mount)).success();
        Self {
            envfs,
            path: path.to_owned(),
            who,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command of the environment, without activation.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path.join(program));
        command
            .env_clear()
            .env("PATH", format!("{}/bin:/usr/bin:/bin", self.path.display()))
            .env("CONDA_PREFIX", &self.path)
            .env("HOME", self.envfs.path().join("home"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/");
        self.who.runs(&mut command);
        command
    }

    /// Unmounts, which must succeed and leave nothing.
    ///
    /// # Panics
    /// When it fails.
    pub fn unmount(self) {
        let mut unmount = self.envfs.command();
        unmount.arg("umount").arg(&self.path);
        finish(self.who.runs(&mut unmount)).success();
        assert!(!is_mounted(&self.path), "{} is still mounted", self.path.display());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if is_mounted(&self.path) {
            // A test has failed: the machine must not keep its mount.
            let mut unmount = self.envfs.command();
            finish(unmount.args(["umount", "--lazy"]).arg(&self.path));
            if is_mounted(&self.path) {
                finish(Command::new("umount").arg("-l").arg(&self.path));
            }
        }
    }
}

/// Whether something is mounted at `path`.
///
/// # Panics
/// When the mounts cannot be listed.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    mounts_below(path).iter().any(|mount| mount == path)
}

/// What is mounted at `path` and below it.
///
/// # Panics
/// When the mounts cannot be listed.
#[must_use]
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let unescaped = points.map(|point| PathBuf::from(point.replace("\\040", " ")));
    unescaped.filter(|point| point.starts_with(path)).collect()
}

/// No process is left that has to do with `path`; what ends after a mount is gone has a moment to do so.
///
/// # Panics
/// When one stays.
pub fn assert_no_process_of(path: &Path) {
    for _ in 0..200 {
        if processes_of(path).is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("still running: {:?}", processes_of(path));
}

/// Processes whose command line or environment names `path`: servers and commands that were left behind.
///
/// # Panics
/// When processes cannot be listed.
#[must_use]
pub fn processes_of(path: &Path) -> Vec<String> {
    let needle = path.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        let is_process = process
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
        if !is_process || process.ends_with(std::process::id().to_string()) {
            continue;
        }
        let read = |file: &str| std::fs::read(process.join(file)).unwrap_or_default();
        let mentions = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
        let (command_line, environment) = (read("cmdline"), read("environ"));
        if mentions(environment) || mentions(command_line.clone()) {
            found.push(format!(
                "{}: {}",
                process.display(),
                String::from_utf8_lossy(&command_line).replace('\0', " ")
            ));
        }
    }
    found
}

/// The leases of a store that somebody holds.
///
/// # Panics
/// When they cannot be listed.
#[must_use]
pub fn leases(store: &Store) -> usize {
    lease::list(store).unwrap().len()
}
