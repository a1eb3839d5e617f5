//! What a command in a sandbox may do: write into its environment and a few directories, see its own processes, and
//! use the network only if it is allowed to. Knows nothing of environments.
//!
//! ```text
//! the watcher        the first process of the namespace        the command
//! leave the rest read-only
//! fork ----------->  its own /proc, no privileges
//!                    fork ---------------------------------->  exec
//!                    wait for it, reap what it leaves
//!      <- exit code  end: the kernel kills all that is left
//! ```
//!
//! Whoever of them is killed takes those to the right along.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::causes::with_causes;
use crate::kernel::{Attributes, detached};
use crate::namespace::{NamespaceError, refused};
use crate::process;
use crate::supervise;

/// What root's commands keep: they may treat files as their own, and change who they are (capabilities(7): `CAP_CHOWN`,
/// `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_KILL`, `CAP_SETGID`, `CAP_SETUID`).
const KEPT_CAPABILITIES: [i32; 7] = [0, 1, 3, 4, 5, 6, 7];

/// The devices that every program may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What is a link in `/dev`, and where it leads.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// What a command in a sandbox is kept to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Whether it may use the network of the machine. Otherwise there is none, not even of its own.
    pub network: bool,
    /// The directories that it may write to, beside its environment: all else is read-only. They must exist.
    pub writable: Vec<PathBuf>,
    /// The directories that it may read and seems to write to.
    pub forgotten: Vec<Forgotten>,
    /// The directories that it may not write to even where they lie in one that it may. What is writable may lie in them.
    pub kept: Vec<PathBuf>,
}

/// A directory that stays as it is whatever is written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// The directory. It must exist.
    pub directory: PathBuf,
    /// Where is kept what is written, for as long as somebody wants it. Nothing is there yet.
    pub kept_in: PathBuf,
}

impl Limits {
    /// In a mount namespace of its own: makes everything but `prefix`, a mount, and the writable directories read-only. The
    /// next child of this process is the first one of its own process namespace.
    ///
    /// # Errors
    /// When a step is not allowed.
    pub(crate) fn apply(&self, prefix: Option<&Path>) -> Result<(), NamespaceError> {
        let mut flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
        if !self.network {
            flags |= CloneFlags::CLONE_NEWNET;
        }
        nix::sched::unshare(flags)
            .map_err(|errno| refused("make namespaces for processes and networks")(errno.into()))?;
        // Copies of what stays as it is, made before the rest changes.
        let mut shown = Vec::new();
        for path in &self.writable {
            shown.push((path.as_path(), detached::directory_with_mounts(path)?));
        }
        for forgotten in &self.forgotten {
            shown.push((forgotten.directory.as_path(), forgotten.mount()?));
        }
        let devices: Vec<(&str, OwnedFd)> = DEVICES
            .iter()
            .filter_map(|name| Some((*name, detached::directory(&Path::new("/dev").join(name)).ok()?)))
            .collect();
        let kept = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        set_flags(Path::new("/"), libc::MOUNT_ATTR_RDONLY | kept, 0, true)?;
        if let Some(prefix) = prefix {
            set_flags(prefix, 0, libc::MOUNT_ATTR_RDONLY, false)?;
        }
        for path in &self.kept {
            shown.push((path.as_path(), detached::directory_with_mounts(path)?));
        }
        // Whatever lies in another comes after it, and is seen in its place.
        shown.sort_by_cached_key(|(path, _)| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
        for (path, mount) in shown {
            detached::attach(&mount, path)?;
            set_flags(path, kept, 0, false)?;
        }
        make_devices(&devices)
    }

    /// Lets what was to be forgotten be removed: overlayfs locks its own directory, also to the user who owns it.
    pub(crate) fn unlock(&self) {
        for forgotten in &self.forgotten {
            let _ = fs::set_permissions(forgotten.work().join("work"), PermissionsExt::from_mode(0o700));
        }
    }
}

impl Forgotten {
    /// The directory with what is written kept elsewhere. Where the kernel has no overlay for it, an empty one: what is in the
    /// directory then is not seen.
    fn mount(&self) -> Result<OwnedFd, NamespaceError> {
        let (upper, work) = (self.kept_in.join("upper"), self.work());
        for directory in [&upper, &work] {
            fs::create_dir_all(directory).map_err(refused("make a directory for what is forgotten"))?;
        }
        let lower = detached::directory(&self.directory)?;
        let overlay = detached::writable("envfs-forgotten", lower.as_fd(), &upper, &work, Attributes::User);
        overlay.or_else(|refusal| {
            tracing::debug!("{refusal}: {} is seen empty", self.directory.display());
            Ok(detached::directory(&upper)?)
        })
    }

    fn work(&self) -> PathBuf {
        self.kept_in.join("work")
    }
}

/// Runs `become_command` as a child in the process namespace that [`Limits::apply`] made, and gives its exit code;
/// nothing is left of it and what it started. What goes wrong before is said on `channel`, which the command gets.
/// All of it ends with the process `runner`, the parent of this one.
pub(crate) fn supervise(
    runner: Pid,
    mut channel: UnixStream,
    become_command: impl FnOnce(UnixStream) -> u8,
) -> Result<u8, NamespaceError> {
    let watcher = process::open_pidfd(nix::unistd::getpid()).map_err(refused("watch a process"))?;
    // Whoever forks lets go of the channel: only the command keeps it, until it is executed.
    let first = process::spawn(&[], move || {
        if let Err(error) = enter_processes().and_then(|()| give_up_privileges(&watcher)) {
            let _ = channel.write_all(format!("-{}", with_causes(&error)).as_bytes());
            return 1;
        }
        match process::spawn(&[], move || become_command(channel)) {
            Ok(command) => supervise::wait(command, |_| {}).unwrap_or(1),
            Err(_) => 1,
        }
    })
    .map_err(|error| refused("start a process")(io::Error::other(error)))?;
    die_with_parent()?;
    if nix::unistd::getppid() != runner {
        let _ = nix::sys::signal::kill(first, Signal::SIGKILL);
    }
    supervise::wait(first, |_| {}).map_err(|error| refused("wait for a process")(io::Error::other(error)))
}

/// Shows this process namespace in `/proc`. Where a container hides parts of its own, the kernel allows no other.
fn enter_processes() -> Result<(), NamespaceError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    match nix::mount::mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>) {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(refused("mount /proc")(errno.into())),
    }
}

fn give_up_privileges(watcher: &OwnedFd) -> Result<(), NamespaceError> {
    process::keep_capabilities(&KEPT_CAPABILITIES).map_err(refused("give up capabilities"))?;
    prctl::set_no_new_privs().map_err(|errno| refused("give up privileges")(errno.into()))?;
    die_with_parent()?;
    // It may have been killed before this one was bound to it.
    if process::wait_for_end(watcher, Duration::ZERO) {
        return Err(refused("go on without a watcher")(Errno::ESRCH.into()));
    }
    Ok(())
}

fn die_with_parent() -> Result<(), NamespaceError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| refused("bind a process to another")(errno.into()))
}

/// Covers `/dev` with the few devices that do no harm, and shared memory of its own.
fn make_devices(devices: &[(&str, OwnedFd)]) -> Result<(), NamespaceError> {
    let directory = Path::new("/dev");
    let make = refused("make devices");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("envfs-dev"), directory, Some("tmpfs"), flags, Some("mode=0755"))
        .map_err(|errno| refused("mount /dev")(errno.into()))?;
    let links = || -> io::Result<()> {
        for (name, target) in DEVICE_LINKS {
            std::os::unix::fs::symlink(target, directory.join(name))?;
        }
        let shared_memory = directory.join("shm");
        fs::create_dir(&shared_memory)?;
        fs::set_permissions(&shared_memory, PermissionsExt::from_mode(0o1777))
    };
    links().map_err(make)?;
    for (name, device) in devices {
        let place = directory.join(name);
        File::create(&place).map_err(refused("make a device"))?;
        detached::attach(device, &place)?;
    }
    Ok(())
}

fn set_flags(path: &Path, set: u64, clear: u64, recursive: bool) -> Result<(), NamespaceError> {
    let action = refused("make the file system read-only");
    match CString::new(path.as_os_str().as_bytes()) {
        Ok(path) => process::set_mount_flags(&path, set, clear, recursive).map_err(action),
        Err(_) => Err(action(Errno::EINVAL.into())),
    }
}
