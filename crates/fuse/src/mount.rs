//! Attaching a FUSE connection to a directory: with mount(2) where that is allowed, else by `fusermount3`.
//!
//! Gives the descriptor of `/dev/fuse` to whoever serves it, and knows nothing of what is served.

pub(crate) mod fusermount;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use envfs_store::Digest;
use envfs_store::linked::LinkedRecord;
use nix::errno::Errno;
use nix::mount::MsFlags;

use crate::mountinfo::{self, MountEntry};

pub(crate) use crate::mountinfo::source;

/// The device behind every FUSE connection (fuse(4)).
const DEVICE: &str = "/dev/fuse";

/// How something is mounted.
#[derive(Debug, Clone, Copy)]
pub struct MountOptions {
    /// The environment, for the mount table.
    pub signature: Digest,
    /// Whether other users see the files. Always so for root; ordinary users need `user_allow_other` in
    /// `/etc/fuse.conf`.
    pub allow_other: bool,
}

/// An environment cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no directory to mount on.
    #[error("the mount point `{0}` does not exist: make it with `mkdir -p`")]
    Missing(PathBuf),
    /// Only directories are mounted on.
    #[error("the mount point `{0}` is not a directory: name an empty directory")]
    NotADirectory(PathBuf),
    /// Mounting would hide files.
    #[error("the mount point `{0}` is not empty: name an empty directory")]
    NotEmpty(PathBuf),
    /// Something of ours is there.
    #[error("`{path}` is already a mount point, of the environment {digits}: `envfs umount` it first")]
    Mounted {
        /// The mount point.
        path: PathBuf,
        /// The first digits of the signature of what is there.
        digits: String,
    },
    /// Something else is there.
    #[error("`{path}` is already a mount point, of {kind}: name another directory")]
    Occupied {
        /// The mount point.
        path: PathBuf,
        /// The type of the file system that is there.
        kind: String,
    },
    /// The kernel has no FUSE, or the container hides it.
    #[error("{DEVICE} does not exist: load the module with `modprobe fuse`; in a container add `--device {DEVICE}`")]
    NoDevice,
    /// The device may not be opened.
    #[error(
        "{DEVICE} may not be opened by this user: as root run `chmod 666 {DEVICE}`, or for good, write \
         `KERNEL==\"fuse\", MODE=\"0666\"` into /etc/udev/rules.d/99-fuse.rules; in a container add `--device {DEVICE}`"
    )]
    DeviceForbidden,
    /// The kernel refuses mounts of this process.
    #[error("mounting on `{0}` is not permitted here: in a container add `--cap-add SYS_ADMIN --device {DEVICE}`")]
    Forbidden(PathBuf),
    /// The helper for ordinary users is not installed.
    #[error("fusermount3 is missing, which mounts for ordinary users: install it with `apt install fuse3`")]
    NoHelper,
    /// The helper refused.
    #[error("fusermount3 cannot mount on `{path}`: {message}")]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        message: String,
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
}

impl MountError {
    /// Whether it would be the same with any other mount point: FUSE does not work here for this user.
    #[must_use]
    pub fn is_about_this_machine(&self) -> bool {
        matches!(
            self,
            Self::NoDevice | Self::DeviceForbidden | Self::Forbidden(_) | Self::NoHelper | Self::Helper { .. }
        )
    }
}

/// Checks that something can be mounted on `path`, and gives it without symlinks.
///
/// # Errors
/// When it is missing, not a directory, not empty, or already a mount point.
pub fn check_mount_point(path: &Path) -> Result<PathBuf, MountError> {
    let system = |action, source| MountError::System {
        action,
        path: path.to_owned(),
        source,
    };
    let mounts = mountinfo::read().map_err(|source| system("read the mounts for", source))?;
    // A mount whose server is gone cannot even be looked at: find it by name first.
    let absolute = std::path::absolute(path).map_err(|source| system("resolve", source))?;
    refuse_mounted(&mounts, &absolute)?;
    let canonical = match path.canonicalize() {
        Ok(canonical) => canonical,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(MountError::NotADirectory(path.to_owned()));
        }
        Err(source) => return Err(system("resolve", source)),
    };
    refuse_mounted(&mounts, &canonical)?;
    if !canonical.is_dir() {
        return Err(MountError::NotADirectory(path.to_owned()));
    }
    if let Some(record) = LinkedRecord::of(&canonical) {
        return Err(MountError::Mounted {
            digits: record.signature.to_string()[..mountinfo::SOURCE_DIGITS].to_owned(),
            path: path.to_owned(),
        });
    }
    let mut entries = canonical.read_dir().map_err(|source| system("list", source))?;
    match entries.next() {
        None => Ok(canonical),
        Some(_) => Err(MountError::NotEmpty(path.to_owned())),
    }
}

/// Mounts on `path`, which [`check_mount_point`] has passed, so that all processes see it.
///
/// # Errors
/// When the device, the kernel or the helper refuses.
pub fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    if nix::unistd::geteuid().is_root() {
        mount_directly(path, options)
    } else {
        fusermount::mount(path, options)
    }
}

/// Mounts on `path` with mount(2), which takes `CAP_SYS_ADMIN` in the user namespace of this process.
pub(crate) fn mount_directly(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid(),
    );
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    let kind = mountinfo::FILE_SYSTEM_TYPE;
    match nix::mount::mount(
        Some(source(&options.signature).as_str()),
        path,
        Some(kind),
        flags,
        Some(data.as_str()),
    ) {
        Ok(()) => Ok(device.into()),
        Err(Errno::EPERM | Errno::EACCES) => Err(MountError::Forbidden(path.to_owned())),
        Err(Errno::ENODEV) => Err(MountError::NoDevice),
        Err(errno) => Err(MountError::System {
            action: "mount on",
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Opens `/dev/fuse`.
pub(crate) fn open_device() -> Result<File, MountError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoDevice,
            io::ErrorKind::PermissionDenied => MountError::DeviceForbidden,
            _ if error.raw_os_error() == Some(libc::ENXIO) || error.raw_os_error() == Some(libc::ENODEV) => {
                MountError::NoDevice
            }
            _ => MountError::System {
                action: "open",
                path: DEVICE.into(),
                source: error,
            },
        })
}

fn refuse_mounted(mounts: &[MountEntry], path: &Path) -> Result<(), MountError> {
    match mountinfo::at(mounts, path) {
        None => Ok(()),
        Some(entry) => Err(match entry.signature_digits() {
            Some(digits) => MountError::Mounted {
                path: path.to_owned(),
                digits: digits.to_owned(),
            },
            None => MountError::Occupied {
                path: path.to_owned(),
                kind: entry.file_system_type.clone(),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_must_be_an_empty_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        std::fs::create_dir(path("empty")).unwrap();
        std::fs::create_dir(path("full")).unwrap();
        std::fs::write(path("full/file"), "x").unwrap();
        std::os::unix::fs::symlink("empty", path("link")).unwrap();
        let message = |name| check_mount_point(&path(name)).unwrap_err().to_string();
        assert!(message("missing").contains("does not exist"));
        assert!(message("full").contains("is not empty"));
        assert!(message("full/file").contains("is not a directory"));
        assert!(message("full/file/below").contains("is not a directory"));
        assert_eq!(
            check_mount_point(&path("link")).unwrap(),
            path("empty").canonicalize().unwrap()
        );
        let message = check_mount_point(Path::new("/proc")).unwrap_err().to_string();
        assert_eq!(
            message,
            "`/proc` is already a mount point, of proc: name another directory"
        );
    }
}
