//! A part file: the bytes of an archive that are already here, their running digests, and who may add to them.
//!
//! ```text
//! <spool_dir>/<sha256 of the archive, or of its URL>.part     locked (flock) by the one who downloads
//! ```
//!
//! A part file outlives an interrupted run; the next one takes the lock, hashes what is there and goes on. When the
//! archive is whole and checked the file is unlinked and lives on without a name, for as long as someone holds it open.
//! Whoever waited for the lock then finds, in the file that they have open, the whole archive.
//! Knows nothing of HTTP.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rattler_digest::{Md5, Sha256, digest::Digest};
use url::Url;

use super::FetchError;
use crate::network::redact;
use crate::package::LockedPackage;
use crate::pypi::LockedWheel;

/// How often someone else's download is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After so long without a byte, someone else's download is not waited for any more.
const STALLED_AFTER: Duration = Duration::from_secs(90);

/// What the lock says about an archive.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) url: Url,
    pub(super) file_name: String,
    sha256: Option<[u8; 32]>,
    md5: Option<[u8; 16]>,
    pub(super) size_bytes: Option<u64>,
}

impl Wanted {
    pub(super) fn of_package(package: &LockedPackage) -> Self {
        Self {
            url: package.record().url.clone(),
            file_name: package.file_name(),
            sha256: package.sha256(),
            md5: package.md5(),
            size_bytes: package.size_bytes(),
        }
    }

    pub(super) fn of_wheel(wheel: &LockedWheel) -> Self {
        Self {
            url: wheel.parsed_url().clone(),
            file_name: wheel.file_name().to_string(),
            sha256: wheel.sha256(),
            md5: None,
            size_bytes: wheel.size_bytes(),
        }
    }

    /// What its part file is called. The digest names the content and is best; without one the URL must do.
    pub(super) fn part_key(&self) -> String {
        match self.sha256 {
            Some(sha256) => hex::encode(sha256),
            None => hex::encode(Sha256::digest(self.url.as_str())),
        }
    }

    fn needs_md5(&self) -> bool {
        self.sha256.is_none() && self.md5.is_some()
    }
}

/// Running digests of the bytes seen so far.
#[derive(Clone)]
pub(super) struct Digests {
    sha256: Sha256,
    md5: Option<Md5>,
    size_bytes: u64,
}

impl Digests {
    fn new(wanted: &Wanted) -> Self {
        Self {
            sha256: Sha256::new(),
            md5: wanted.needs_md5().then(Md5::new),
            size_bytes: 0,
        }
    }

    /// Digests of a whole file, which is left at its first byte.
    pub(super) fn of_whole(file: &mut File, wanted: &Wanted) -> io::Result<Self> {
        let mut digests = Self::new(wanted);
        let mut buffer = vec![0; 256 * 1024];
        file.rewind()?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            digests.update(&buffer[..read]);
        }
        file.rewind()?;
        Ok(digests)
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.size_bytes += bytes.len() as u64;
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The SHA-256, if the bytes are what the lock wants.
    pub(super) fn check(self, wanted: &Wanted) -> Result<[u8; 32], FetchError> {
        let (url, size_bytes) = (&wanted.url, self.size_bytes);
        let sha256: [u8; 32] = self.sha256.finalize().into();
        let md5: Option<[u8; 16]> = self.md5.map(|md5| md5.finalize().into());
        let (algorithm, expected, found) = match (wanted.sha256, wanted.md5, md5) {
            (Some(expected), ..) => ("sha256", hex::encode(expected), hex::encode(sha256)),
            (None, Some(expected), Some(found)) => ("md5", hex::encode(expected), hex::encode(found)),
            // Without a digest the size is all there is to go by.
            _ => ("size", String::new(), String::new()),
        };
        let is_short = wanted.size_bytes.filter(|&expected_bytes| size_bytes < expected_bytes);
        match is_short {
            Some(expected_bytes) if expected != found || algorithm == "size" => Err(FetchError::Truncated {
                url: redact(url),
                expected_bytes,
                found_bytes: size_bytes,
            }),
            _ if expected != found => Err(FetchError::WrongDigest {
                url: redact(url),
                algorithm,
                expected,
                found,
            }),
            _ => Ok(sha256),
        }
    }
}

/// A part file that nobody else writes to.
pub(super) struct Spool {
    file: File,
    path: PathBuf,
    digests: Digests,
    wanted: Wanted,
}

impl Spool {
    /// Opens the part file of an archive, or makes it, and waits until it is ours.
    ///
    /// What it holds then counts as received. If another download of the same archive makes no progress for a minute
    /// and a half, or the file system has no locks, a private file is used instead.
    pub(super) async fn open(dir: &Path, wanted: &Wanted) -> Result<Self, FetchError> {
        let path = dir.join(format!("{}.part", wanted.part_key()));
        let failed = |action| {
            let path = path.clone();
            move |source| FetchError::Io { action, path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed("create"))?;
        loop {
            let file = open_part(&path).map_err(failed("open"))?;
            if !wait_for_lock(&file, STALLED_AFTER).await {
                return Self::private(dir, wanted);
            }
            let hashed = tokio::task::spawn_blocking({
                let wanted = wanted.clone();
                move || -> io::Result<(File, Digests)> {
                    let mut file = file;
                    let digests = Digests::of_whole(&mut file, &wanted)?;
                    file.seek(SeekFrom::End(0))?;
                    Ok((file, digests))
                }
            });
            let hashed = hashed.await.map_err(io::Error::other).and_then(|hashed| hashed);
            let (file, digests) = hashed.map_err(failed("read"))?;
            let is_named = has_name(&file, &path);
            // The one before us unlinked it: then it is whole and ours to read, or of no use to anybody.
            if is_named || digests.clone().check(wanted).is_ok() {
                return Ok(Self {
                    file,
                    path,
                    digests,
                    wanted: wanted.clone(),
                });
            }
        }
    }

    fn private(dir: &Path, wanted: &Wanted) -> Result<Self, FetchError> {
        let file = tempfile::tempfile_in(dir).map_err(|source| FetchError::Io {
            action: "create a file in",
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            path: dir.to_owned(),
            digests: Digests::new(wanted),
            wanted: wanted.clone(),
        })
    }

    pub(super) fn received_bytes(&self) -> u64 {
        self.digests.size_bytes
    }

    /// Whether what is here is already what the lock wants.
    pub(super) fn check(&self) -> Result<[u8; 32], FetchError> {
        self.digests.clone().check(&self.wanted)
    }

    /// Whether the bytes that are here can be told to be the whole archive, without asking the server.
    pub(super) fn is_known_whole(&self) -> bool {
        let has_digest = self.wanted.sha256.is_some() || self.wanted.md5.is_some();
        has_digest && self.received_bytes() > 0 && self.check().is_ok()
    }

    // Writing and hashing a chunk takes some ten microseconds: less than handing it to another thread.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file
            .write_all(bytes)
            .map_err(|source| self.failed("write", source))?;
        self.digests.update(bytes);
        Ok(())
    }

    /// Throws away what is here.
    pub(super) fn restart(&mut self) -> Result<(), FetchError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|source| self.failed("empty", source))?;
        self.digests = Digests::new(&self.wanted);
        Ok(())
    }

    /// The file at its first byte, without a name.
    pub(super) fn finish(mut self) -> Result<(File, u64), FetchError> {
        if has_name(&self.file, &self.path) {
            std::fs::remove_file(&self.path).map_err(|source| self.failed("remove", source))?;
        }
        self.file.rewind().map_err(|source| self.failed("read", source))?;
        // A lock that cannot be given back, or was never there, ends with the file.
        let _ = self.file.unlock();
        Ok((self.file, self.digests.size_bytes))
    }

    /// Leaves what is here to a later run; if that is nothing, leaves nothing.
    pub(super) fn abandon(self) {
        if self.received_bytes() == 0 && has_name(&self.file, &self.path) {
            // At worst an empty file stays, which the next download of the archive uses.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> FetchError {
        FetchError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

fn open_part(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Whether the lock was got. False means: do not wait for this file.
async fn wait_for_lock(file: &File, stalled_after: Duration) -> bool {
    let mut last_size_bytes = None;
    let mut last_growth = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return true,
            Err(TryLockError::Error(error)) => {
                tracing::debug!("a part file cannot be locked: {error}");
                return false;
            }
            Err(TryLockError::WouldBlock) => {}
        }
        let size_bytes = file.metadata().map(|metadata| metadata.len()).ok();
        if size_bytes != last_size_bytes {
            last_size_bytes = size_bytes;
            last_growth = Instant::now();
        }
        if last_growth.elapsed() > stalled_after {
            tracing::debug!("someone else's download of the same archive stalls");
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn has_name(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    ours.dev() == named.dev() && ours.ino() == named.ino()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_download_that_stalls_is_not_waited_for_but_one_that_grows_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        let mut holder = open_part(&path).unwrap();
        holder.lock().unwrap();
        let waiter = open_part(&path).unwrap();
        let stalled_after = Duration::from_millis(200);
        assert!(!block_on(wait_for_lock(&waiter, stalled_after)));

        let grower = std::thread::spawn(move || {
            for _ in 0..8 {
                holder.write_all(b"more").unwrap();
                std::thread::sleep(stalled_after / 3);
            }
            drop(holder);
        });
        assert!(block_on(wait_for_lock(&waiter, stalled_after)));
        grower.join().unwrap();
    }

    #[test]
    fn a_private_file_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            url: "file:///x".parse().unwrap(),
            file_name: "x".to_owned(),
            sha256: None,
            md5: None,
            size_bytes: None,
        };
        let mut spool = Spool::private(dir.path(), &wanted).unwrap();
        spool.append(b"bytes").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let (mut file, size_bytes) = spool.finish().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), size_bytes), ("bytes", 5));
    }
}
