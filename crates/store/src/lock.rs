//! Who may do what at the same time: advisory locks on files, dropped by the kernel with their process.
//!
//! | lock | shared | exclusive |
//! | --- | --- | --- |
//! | `lock` of the store | for moments: between a look at something and the reference that keeps it | for moments: whoever moves things to the trash |
//! | `refs/.lock`, `roots/*/.lock` | | whoever changes a name, a pin or an owner |
//! | `tmp/<name>.lock` | | whoever makes the thing called `<name>`; others wait, then find it made |
//! | `tmp/work-*/lock` | | the process that writes drafts there; without it the directory is swept |

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, IoContext, Result};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct FileLock {
    flock: Flock<File>,
    path: PathBuf,
    remove_on_drop: bool,
}

impl FileLock {
    /// Waits until nobody holds `path` exclusively, and holds it shared.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn shared(path: &Path) -> Result<Self> {
        Self::take(path, FlockArg::LockShared, false).map(|lock| lock.expect("waited for"))
    }

    /// Waits until nobody holds `path`, and holds it alone.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn exclusive(path: &Path) -> Result<Self> {
        Self::take(path, FlockArg::LockExclusive, false).map(|lock| lock.expect("waited for"))
    }

    /// Holds `path` alone, or nothing when somebody else holds it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        Self::take(path, FlockArg::LockExclusiveNonblock, false)
    }

    /// As [`FileLock::exclusive`], for a file that exists only while somebody holds or awaits it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn transient(path: &Path) -> Result<Self> {
        Self::take(path, FlockArg::LockExclusive, true).map(|lock| lock.expect("waited for"))
    }

    /// As [`FileLock::transient`], or nothing when somebody else holds it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_transient(path: &Path) -> Result<Option<Self>> {
        Self::take(path, FlockArg::LockExclusiveNonblock, true)
    }

    /// The locked file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.flock
    }

    fn take(path: &Path, how: FlockArg, remove_on_drop: bool) -> Result<Option<Self>> {
        loop {
            let file = open(path)?;
            let flock = match lock_retrying(file, how) {
                Ok(flock) => flock,
                Err(Errno::EWOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).at("lock", path),
            };
            // Whoever held it may have removed the file: then this is a lock on nothing.
            if still_named(&flock, path)? {
                return Ok(Some(Self {
                    flock,
                    path: path.to_owned(),
                    remove_on_drop,
                }));
            }
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.remove_on_drop {
            // Removed while it is still held: who waits for it sees that and starts over.
            let _ = crate::durable::remove(&self.path);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let result = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    match result {
        // A lock can be taken on a file that may only be read, as in a store of somebody else.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            File::open(path).map_err(|_| error)
        }
        result => result,
    }
    .at("open", path)
}

fn lock_retrying(mut file: File, how: FlockArg) -> Result<Flock<File>, Errno> {
    loop {
        match Flock::lock(file, how) {
            Ok(flock) => return Ok(flock),
            Err((returned, Errno::EINTR)) => file = returned,
            Err((_, error)) => return Err(error),
        }
    }
}

fn still_named(file: &File, path: &Path) -> Result<bool> {
    let held = file.metadata().at("inspect", path)?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io {
            action: "inspect",
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transient_lock_leaves_no_file_and_admits_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let held = FileLock::transient(&path).unwrap();
        assert!(FileLock::try_transient(&path).unwrap().is_none());
        drop(held);
        assert!(!path.exists());
        assert!(FileLock::try_transient(&path).unwrap().is_some());
    }
}
