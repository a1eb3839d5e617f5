//! Who uses what: a lease is a locked file, and the kernel drops the lock with its process.
//!
//! A crash never leaks a lease: a file that nobody holds locked is one whose process is gone, and whoever lists
//! leases sweeps it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::environment;
use crate::error::{Error, IoContext, Result};
use crate::lock::FileLock;
use crate::store::Store;

/// Why something is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// It is mounted.
    Mount,
    /// A command runs in it.
    Run,
    /// It is about to be mounted or run.
    Claim,
}

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Why.
    pub kind: LeaseKind,
    /// Which environment.
    pub signature: Digest,
    /// Where it is seen.
    pub mount_point: PathBuf,
    /// The process that holds it.
    pub pid: u32,
    /// The user that holds it.
    pub uid: u32,
    /// Since when, in seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
}

/// A lease that is held until it is dropped.
#[derive(Debug)]
pub struct Lease {
    _lock: FileLock,
}

impl Lease {
    /// Takes a lease for this process.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn take(store: &Store, record: &LeaseRecord) -> Result<Self> {
        let name = format!(
            "{}-{}.json",
            record.pid,
            &Digest::of(record.mount_point.as_os_str().as_encoded_bytes()).to_string()[..16]
        );
        Self::take_as(store, &name, record)
    }

    fn take_as(store: &Store, name: &str, record: &LeaseRecord) -> Result<Self> {
        let path = store.path("leases").join(name);
        let lock = FileLock::transient(&path)?;
        let mut text = serde_json::to_vec(record).map_err(|error| Error::corrupt(&path, error.to_string()))?;
        text.push(b'\n');
        let mut file = lock.file();
        file.set_len(0).at("write", &path)?;
        file.write_all(&text).at("write", &path)?;
        Ok(Self { _lock: lock })
    }
}

/// Takes the environment `signature` for something that is about to be mounted at `mount_point`, before anything else
/// holds it: from here on it is not collected. Notes that it is used.
///
/// # Errors
/// When it is not in the store. Of a store that may only be read nothing can be taken, and nothing is.
pub fn claim(store: &Store, signature: &Digest, mount_point: &Path) -> Result<Option<Lease>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let _shared = match store.share() {
        Err(Error::Io { source, .. }) if is_read_only(&source) => return Ok(None),
        shared => shared?,
    };
    environment::load(store, signature)?;
    environment::touch(store, signature);
    let record = LeaseRecord {
        kind: LeaseKind::Claim,
        signature: *signature,
        mount_point: mount_point.to_owned(),
        pid: std::process::id(),
        uid: nix::unistd::getuid().as_raw(),
        started_unix_s: std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs()),
    };
    let name = format!("{}-claim-{}.json", record.pid, NEXT.fetch_add(1, Ordering::Relaxed));
    match Lease::take_as(store, &name, &record) {
        Err(Error::Io { source, .. }) if is_read_only(&source) => Ok(None),
        result => result.map(Some),
    }
}

fn is_read_only(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// The leases that are held now. Sweeps those whose processes are gone.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list(store: &Store) -> Result<Vec<LeaseRecord>> {
    let mut leases = Vec::new();
    for path in crate::store::list(&store.path("leases"))? {
        match FileLock::try_transient(&path) {
            // Nobody held it: dropping our own lock removes the file.
            Ok(Some(_abandoned)) => {}
            Ok(None) => {
                if let Some(record) = std::fs::read(&path)
                    .ok()
                    .and_then(|text| serde_json::from_slice(&text).ok())
                {
                    leases.push(record);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_it_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let record = LeaseRecord {
            kind: LeaseKind::Mount,
            signature: Digest::of(b"x"),
            mount_point: "/envs/x".into(),
            pid: std::process::id(),
            uid: 0,
            started_unix_s: 1,
        };
        let lease = Lease::take(&store, &record).unwrap();
        assert_eq!(list(&store).unwrap(), [record]);
        drop(lease);
        assert_eq!(list(&store).unwrap(), []);
        std::fs::write(store.root().join("leases/1-abandoned.json"), "{}").unwrap();
        assert_eq!(list(&store).unwrap(), []);
        assert_eq!(std::fs::read_dir(store.root().join("leases")).unwrap().count(), 0);
    }
}
