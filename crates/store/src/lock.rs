//! Who may do what at the same time: advisory locks on files, dropped by the kernel with their process.
//!
//! | lock | shared | exclusive |
//! | --- | --- | --- |
//! | `lock` of the store | for moments: between a look at something and the reference that keeps it | for moments: whoever moves things to the trash |
//! | `refs/.lock`, `roots/*/.lock` | | whoever changes a name, a pin or an owner |
//! | `tmp/<name>.lock` | | whoever makes the thing called `<name>`; others wait, then find it made |
//! | `tmp/work-*/lock` | | the process that writes drafts there; without it the directory is swept |

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::durable;
use crate::error::{Error, Holder, IoContext, Result};

/// How long to wait for a lock. Builds hold one for as long as a package takes to arrive; what takes longer hangs, or is held by
/// a host that is gone.
pub const WAIT_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Between two looks at a lock that somebody holds. A blocking flock(2) could wait for ever, over a network also for a
/// process that nobody here can see.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

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
    /// When the file cannot be opened or locked, or is held for longer than [`WAIT_LIMIT`].
    pub fn shared(path: &Path) -> Result<Self> {
        Self::wait(path, FlockArg::LockSharedNonblock, false, WAIT_LIMIT)
    }

    /// Waits until nobody holds `path`, and holds it alone.
    ///
    /// # Errors
    /// As [`FileLock::shared`].
    pub fn exclusive(path: &Path) -> Result<Self> {
        Self::wait(path, FlockArg::LockExclusiveNonblock, false, WAIT_LIMIT)
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
    /// As [`FileLock::shared`].
    pub fn transient(path: &Path) -> Result<Self> {
        Self::wait(path, FlockArg::LockExclusiveNonblock, true, WAIT_LIMIT)
    }

    /// As [`FileLock::transient`], or nothing when somebody else holds it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_transient(path: &Path) -> Result<Option<Self>> {
        Self::take(path, FlockArg::LockExclusiveNonblock, true)
    }

    /// Leaves the file of a transient lock in its place.
    pub(crate) fn leave(mut self) {
        self.remove_on_drop = false;
    }

    /// The locked file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.flock
    }

    /// Tries until it is held, or `limit` is over.
    fn wait(path: &Path, how: FlockArg, remove_on_drop: bool, limit: Duration) -> Result<Self> {
        let started = Instant::now();
        let mut pause = SHORTEST_PAUSE;
        loop {
            if let Some(lock) = Self::take(path, how, remove_on_drop)? {
                return Ok(lock);
            }
            if started.elapsed() >= limit {
                return Err(Error::Held {
                    path: path.to_owned(),
                    limit,
                    holders: holders(path),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn take(path: &Path, how: FlockArg, remove_on_drop: bool) -> Result<Option<Self>> {
        loop {
            let file = durable::open_to_lock(path).at("open", path)?;
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
            let _ = durable::remove(&self.path);
        }
    }
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

/// The processes of this host that hold `path` locked, as the kernel lists them (proc(5), `/proc/locks`). None where it is held by
/// another host.
pub(crate) fn holders(path: &Path) -> Vec<Holder> {
    let Ok(metadata) = path.metadata() else {
        return Vec::new();
    };
    let device = metadata.dev();
    let place = format!(
        "{:02x}:{:02x}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device),
        metadata.ino()
    );
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // "1: FLOCK ADVISORY WRITE 4711 08:01:131 0 EOF"; who waits has an arrow behind the number.
        let [_, "FLOCK", _, _, pid, at, ..] = words.as_slice() else {
            return None;
        };
        let pid = pid.parse().ok().filter(|_| *at == place)?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Holder {
            pid,
            name: name.trim_end().to_owned(),
        })
    };
    locks.lines().filter_map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_too_long_is_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = FileLock::exclusive(&path).unwrap();
        let limit = Duration::from_millis(20);
        let wait = |how| FileLock::wait(&path, how, false, limit);
        for how in [FlockArg::LockSharedNonblock, FlockArg::LockExclusiveNonblock] {
            let error = wait(how).unwrap_err();
            let Error::Held { holders, .. } = &error else {
                panic!("{error}")
            };
            let pids: Vec<u32> = holders.iter().map(|holder| holder.pid).collect();
            // Where the kernel's list says another device for a file than stat does, nobody is named.
            assert!(pids.is_empty() || pids == [std::process::id()], "{error}");
            assert!(error.to_string().contains("is held by"), "{error}");
        }
        drop(held);
        let _shared = wait(FlockArg::LockSharedNonblock).unwrap();
        let _too = wait(FlockArg::LockSharedNonblock).unwrap();
    }

    #[test]
    fn who_waits_gets_it_when_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let held = FileLock::transient(&path).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| FileLock::transient(&path).map(drop));
            std::thread::sleep(Duration::from_millis(30));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }

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
