//! A private view of the file systems: a mount that only one command and its children see, and that vanishes with
//! the last of them, however they end.
//!
//! Root gets a mount namespace (mount_namespaces(7)), an ordinary user a user namespace around it in which it
//! keeps its own numbers (user_namespaces(7)).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use envfs_store::{Digest, Store};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use crate::kernel::Refused;
use crate::mount::{self, MountError, MountOptions};
use crate::mountinfo;

/// The source of the temporary file system that holds the mount points, by which a nested run knows it.
const DIRECTORY_SOURCE: &str = "envfs-run";

/// The mount points take next to nothing; this only bounds what a mistake could take.
const DIRECTORY_OPTIONS: &str = "mode=0755,size=1m,nr_inodes=1024";

/// A private view cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// This machine or container does not allow namespaces to this user.
    #[error("private mounts are not allowed here: cannot {action}")]
    Refused {
        /// What was tried, as a verb.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Mounting failed for another reason.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel does not take the mount.
    #[error(transparent)]
    Kernel(#[from] Refused),
}

/// Where a private run sees the environment `signature` of `store`: the same path for every run, so that what
/// programs note of their paths (in caches, in compiled files) stays true.
#[must_use]
pub fn private_prefix(store: &Store, signature: &Digest) -> PathBuf {
    let directory = store.mount_root();
    let directory = directory.canonicalize().unwrap_or(directory);
    directory.join(&signature.to_string()[..mountinfo::SOURCE_DIGITS])
}

/// Moves this process into a view of its own, in which there is a directory `mount_point`: one that exists, or one that
/// [`private_prefix`] gave.
pub(crate) fn enter_with_directory(mount_point: &Path) -> Result<(), NamespaceError> {
    enter()?;
    if mount_point.is_dir() {
        return Ok(());
    }
    let directory = mount_point.parent().unwrap_or(Path::new("/"));
    cover(directory)?;
    fs::create_dir(mount_point).map_err(refused("make a private directory"))
}

/// Mounts at `mount_point` in the view of this process. Gives the connection, to be served by a process outside.
pub(crate) fn mount_fuse(mount_point: &Path, options: &MountOptions) -> Result<OwnedFd, NamespaceError> {
    match mount::mount_directly(mount_point, options) {
        Err(MountError::Forbidden(_)) => Err(refused("mount privately")(Errno::EPERM.into())),
        result => Ok(result?),
    }
}

/// Moves this process into a view of its own, without anything in it.
pub(crate) fn enter() -> Result<(), NamespaceError> {
    match nix::sched::unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => {}
        Err(Errno::EPERM) => enter_as_user()?,
        Err(errno) => return Err(refused("make a mount namespace")(errno.into())),
    }
    // What others mount later is seen here too; what is mounted here is seen nowhere else.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
        .map_err(|errno| refused("make mounts private")(errno.into()))
}

fn enter_as_user() -> Result<(), NamespaceError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| refused("make a user namespace")(errno.into()))?;
    // A group may be mapped only once nobody can drop groups, which could open what a group is kept from.
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{uid} {uid} 1")),
        ("/proc/self/gid_map", format!("{gid} {gid} 1")),
    ];
    maps.into_iter()
        .try_for_each(|(path, text)| fs::write(path, text))
        .map_err(refused("keep the user's number in a user namespace"))
}

/// Covers `directory` with an empty one that lives in memory, unless a run around this one has done so: its
/// environment must stay visible.
fn cover(directory: &Path) -> Result<(), NamespaceError> {
    let mounts = mountinfo::read().map_err(refused("read the mounts"))?;
    if mountinfo::at(&mounts, directory).is_some_and(|entry| entry.source == DIRECTORY_SOURCE) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(
        Some(DIRECTORY_SOURCE),
        directory,
        Some("tmpfs"),
        flags,
        Some(DIRECTORY_OPTIONS),
    )
    .map_err(|errno| refused("mount a private directory")(errno.into()))
}

pub(crate) fn refused(action: &'static str) -> impl FnOnce(io::Error) -> NamespaceError {
    move |source| NamespaceError::Refused { action, source }
}
