//! Who uses what: a lease is a locked file, and the kernel drops the lock with its process.
//!
//! A crash never leaks a lease: a file that nobody holds locked is one whose process is gone, and whoever lists
//! leases sweeps it.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
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
    /// The process that holds it: where there is a server, that one.
    pub pid: u32,
    /// The process that starts another server if that one dies, and holds the lease with it.
    #[serde(default)]
    pub keeper_pid: Option<u32>,
    /// The user that holds it.
    pub uid: u32,
    /// Since when, in seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
}

/// Records are padded to a multiple of this, so that another process number changes no length.
const PADDED_BYTES: usize = 64;

/// A lease that is held until it is dropped.
#[derive(Debug)]
pub struct Lease {
    lock: FileLock,
    path: PathBuf,
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
        let path = store.path("leases").join(name);
        let lock = FileLock::transient(&path)?;
        lock.file().set_len(0).at("write", &path)?;
        let lease = Self { lock, path };
        lease.update(record)?;
        Ok(lease)
    }

    /// Changes what it says. A process that was forked holds the leases of the one that forked it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn update(&self, record: &LeaseRecord) -> Result<()> {
        let mut text = serde_json::to_vec(record).map_err(|error| Error::corrupt(&self.path, error.to_string()))?;
        let padded = text.len().next_multiple_of(PADDED_BYTES);
        // Written at once over what is there: whoever reads meanwhile sees a whole record.
        text.resize(padded - 1, b' ');
        text.push(b'\n');
        let file = self.lock.file();
        file.write_all_at(&text, 0).at("write", &self.path)?;
        file.set_len(text.len() as u64).at("write", &self.path)
    }
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
            keeper_pid: None,
            uid: 0,
            started_unix_s: 1,
        };
        let lease = Lease::take(&store, &record).unwrap();
        assert_eq!(list(&store).unwrap(), [record.clone()]);
        let changed = LeaseRecord {
            pid: u32::MAX,
            keeper_pid: Some(record.pid),
            ..record
        };
        lease.update(&changed).unwrap();
        assert_eq!(list(&store).unwrap(), [changed]);
        drop(lease);
        assert_eq!(list(&store).unwrap(), []);
        std::fs::write(store.root().join("leases/1-abandoned.json"), "{}").unwrap();
        assert_eq!(list(&store).unwrap(), []);
        assert_eq!(std::fs::read_dir(store.root().join("leases")).unwrap().count(), 0);
    }
}
