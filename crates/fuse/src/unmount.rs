//! Detaching: the mount is gone, and the process that served it has ended.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use envfs_store::Store;
use envfs_store::lease::{self, LeaseKind};
use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::unistd::Pid;

use crate::holders::{Holder, holders};
use crate::link::{self, LinkError};
use crate::mount::fusermount;
use crate::mountinfo::{self, MountEntry};
use crate::process;

/// A server has nothing to do after its mount is gone; one that takes longer than this hangs.
const SERVER_END_LIMIT: Duration = Duration::from_secs(10);

/// How long before it is looked who may still see it.
const LOOK_WAIT: Duration = Duration::from_millis(200);

/// How many of the processes that use a mount are named.
const NAMED_HOLDERS: usize = 5;

/// A mount cannot be detached.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Nothing of ours is there.
    #[error("`{0}` is not a mounted environment: `envfs ps` lists those that are")]
    NotMounted(PathBuf),
    /// Somebody uses it.
    #[error("`{}` is in use{}: end them, or detach it once they are done with `--lazy`", path.display(), by(holders))]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// Names and numbers of some of the processes that use it.
        holders: Vec<String>,
    },
    /// It belongs to somebody else.
    #[error("`{0}` was mounted by another user: unmount it as that user or as root")]
    Forbidden(PathBuf),
    /// The helper for ordinary users is not installed.
    #[error("fusermount3 is missing, which unmounts for ordinary users: install it with `apt install fuse3`")]
    NoHelper,
    /// The helper refused.
    #[error("fusermount3 cannot unmount `{path}`: {message}")]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The mount is gone and its server stays.
    #[error("`{path}` is unmounted, but its server, process {pid}, has not ended: end it with `kill {pid}`")]
    ServerStays {
        /// The mount point.
        path: PathBuf,
        /// The server.
        pid: u32,
    },
    /// The operating system refused something else.
    #[error("cannot {action} `{path}`")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A directory of links cannot be removed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The leases cannot be read.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

/// Unmounts what is mounted at `path`, and waits until its server has ended. A mount whose server is already gone
/// is unmounted too. With `lazy` it vanishes from the directory tree at once, and its server ends with the last
/// process that uses it, which is not waited for. Of an environment that was linked the files are removed; with `lazy` also
/// what others have put among them.
///
/// # Errors
/// When nothing of ours is mounted there, it is in use, or it is somebody else's.
pub fn unmount(store: &Store, path: &Path, lazy: bool) -> Result<(), UnmountError> {
    let entry = match find(path) {
        Err(UnmountError::NotMounted(_)) if path.canonicalize().is_ok_and(|path| link::is_linked(&path)) => {
            let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            return Ok(link::remove(&canonical, lazy)?);
        }
        found => found?,
    };
    let mount_point = &entry.mount_point;
    let servers = servers_of(store, mount_point)?;
    detach_patiently(mount_point, lazy).map_err(|error| name_holders(error, mount_point))?;
    for (pid, pidfd) in servers {
        let start = Instant::now();
        while !process::wait_for_end(&pidfd, LOOK_WAIT) {
            if lazy || is_seen_elsewhere(&entry) {
                return Ok(());
            }
            if start.elapsed() > SERVER_END_LIMIT {
                return Err(UnmountError::ServerStays {
                    path: mount_point.clone(),
                    pid,
                });
            }
        }
    }
    Ok(())
}

/// Whether a view of the file systems that somebody has to himself still shows the mount: it was made while the mount was
/// there, and nothing reaches it that happens here since. The server goes on for it.
fn is_seen_elsewhere(entry: &MountEntry) -> bool {
    let views = mountinfo::read_all_namespaces().unwrap_or_default();
    let mut mounts = views.iter().flatten();
    mounts.any(|mount| mount.mount_point == entry.mount_point && mount.source == entry.source)
}

/// What a start is accompanied by holds files of the mount until it has seen that they were opened, which takes
/// microseconds, or longer on a busy machine. So it is tried again as long as nobody else is seen to use it.
fn detach_patiently(mount_point: &Path, lazy: bool) -> Result<(), UnmountError> {
    let start = Instant::now();
    let mut is_used = false;
    loop {
        match detach(mount_point, lazy) {
            Err(UnmountError::Busy { .. }) if start.elapsed() < BUSY_LIMIT => {}
            result => return result,
        }
        // The company itself may be seen once.
        let was_used = std::mem::replace(&mut is_used, !holders(mount_point, 1).is_empty());
        if was_used && is_used {
            return detach(mount_point, lazy);
        }
        std::thread::sleep(BUSY_PAUSE);
    }
}

/// How long, and how long after the last time, it is tried again to unmount what is in use.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Takes `mount_point` out of the directory tree, without waiting for its server.
///
/// # Errors
/// When it is in use (then [`UnmountError::Busy`] names nobody yet), or somebody else's.
pub(crate) fn detach(mount_point: &Path, lazy: bool) -> Result<(), UnmountError> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazy);
    match nix::mount::umount2(mount_point, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => detach_by_helper(mount_point, lazy),
        Err(Errno::EPERM) => Err(UnmountError::Forbidden(mount_point.to_owned())),
        Err(Errno::EBUSY) => Err(busy(mount_point)),
        Err(errno) => Err(UnmountError::System {
            action: "unmount",
            path: mount_point.to_owned(),
            source: errno.into(),
        }),
    }
}

/// What of ours is mounted at `path`. Works without looking at the mount itself, whose server may be gone.
fn find(path: &Path) -> Result<MountEntry, UnmountError> {
    let system = |action| {
        move |source| UnmountError::System {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let mounts = mountinfo::read().map_err(system("read the mounts for"))?;
    mountinfo::names_of(path)
        .map_err(system("resolve"))?
        .find_map(|path| mountinfo::at(&mounts, &path))
        .filter(|entry| entry.is_envfs())
        .cloned()
        .ok_or_else(|| UnmountError::NotMounted(path.to_owned()))
}

/// The processes that serve `mount_point`, as the leases of this store tell.
fn servers_of(store: &Store, mount_point: &Path) -> Result<Vec<(u32, OwnedFd)>, UnmountError> {
    let lease = lease::list(store)?
        .into_iter()
        .find(|lease| matches!(lease.kind, LeaseKind::Mount | LeaseKind::Serve) && lease.mount_point == mount_point);
    let pids = lease
        .into_iter()
        .flat_map(|lease| lease.keeper_pid.into_iter().chain([lease.pid]));
    Ok(pids
        .filter_map(|pid| {
            let raw = i32::try_from(pid).ok()?;
            // It may end at any moment, which is what is waited for.
            Some((pid, process::open_pidfd(Pid::from_raw(raw)).ok()?))
        })
        .collect())
}

fn detach_by_helper(mount_point: &Path, lazy: bool) -> Result<(), UnmountError> {
    let path = mount_point.to_owned();
    match fusermount::unmount(mount_point, lazy) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(message)) if message.contains("Device or resource busy") => Err(busy(mount_point)),
        Ok(Err(message)) if message.contains("Operation not permitted") || message.contains("not found in") => {
            Err(UnmountError::Forbidden(path))
        }
        Ok(Err(message)) => Err(UnmountError::Helper { path, message }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(UnmountError::NoHelper),
        Err(source) => Err(UnmountError::System {
            action: "start fusermount3 for",
            path,
            source,
        }),
    }
}

fn busy(mount_point: &Path) -> UnmountError {
    UnmountError::Busy {
        path: mount_point.to_owned(),
        holders: Vec::new(),
    }
}

fn name_holders(error: UnmountError, mount_point: &Path) -> UnmountError {
    match error {
        UnmountError::Busy { path, .. } => {
            let found = holders(mount_point, NAMED_HOLDERS);
            UnmountError::Busy {
                path,
                holders: found
                    .iter()
                    .map(|Holder { pid, name }| format!("{name} ({pid})"))
                    .collect(),
            }
        }
        error => error,
    }
}

fn by(holders: &[String]) -> String {
    match holders {
        [] => " by processes that this user cannot see".into(),
        some => format!(" by {}", some.join(", ")),
    }
}
