//! The one place where an error becomes a number for the kernel.
//!
//! What a program did wrong is only answered. What the store did wrong is also written to the log, because the
//! number alone (`EIO`) says nothing.

use std::io;

use nix::errno::Errno;

use crate::causes::with_causes;
use crate::fs::FsError;

/// The number for `error`, after logging what is the store's fault.
#[must_use]
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NoSuchInode(_) => Errno::ENOENT,
        FsError::NotADirectory(_) => Errno::ENOTDIR,
        FsError::NameTooLong(_) => Errno::ENAMETOOLONG,
        FsError::IsADirectory(_) => Errno::EISDIR,
        FsError::WrongKind(_) => Errno::EINVAL,
        FsError::Store(error) => {
            let errno = store_errno(error);
            tracing::warn!(%errno, "{}", with_causes(error));
            errno
        }
        FsError::Journal(source) => {
            tracing::warn!("{error}: {source}");
            Errno::ENOMEM
        }
    }
}

/// A file that was promised and is not there is damage, not `ENOENT`: its name was looked up before.
fn store_errno(error: &envfs_store::Error) -> Errno {
    match error {
        envfs_store::Error::Io { source, .. } => match source.raw_os_error().map(Errno::from_raw) {
            Some(shortage @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => shortage,
            _ if source.kind() == io::ErrorKind::PermissionDenied => Errno::EACCES,
            _ => Errno::EIO,
        },
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(errno: Errno) -> FsError {
        FsError::Store(envfs_store::Error::Io {
            action: "open",
            path: "objects/ab".into(),
            source: errno.into(),
        })
    }

    #[test]
    fn a_programs_mistake_and_the_stores_differ() {
        assert_eq!(errno(&FsError::NoSuchInode(7)), Errno::ENOENT);
        assert_eq!(errno(&FsError::NotADirectory(7)), Errno::ENOTDIR);
        assert_eq!(errno(&FsError::IsADirectory(7)), Errno::EISDIR);
        assert_eq!(errno(&io_error(Errno::ENOENT)), Errno::EIO);
        assert_eq!(errno(&io_error(Errno::EMFILE)), Errno::EMFILE);
        assert_eq!(errno(&io_error(Errno::EACCES)), Errno::EACCES);
    }
}
