//! Directories into which an environment was linked because nothing could be mounted.
//!
//! Each holds a record of itself ([`MARKER`]), and the store the same one, by which they are listed. The one in the
//! directory decides: without it the directory is somebody's own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::store::Store;

/// The name of the record in the directory.
pub const MARKER: &str = ".envfs-linked.json";

/// How many digits of the digest of its path name a directory in the store.
const NAME_DIGITS: usize = 16;

/// What a linked directory says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkedRecord {
    /// The store it was linked from.
    pub store: PathBuf,
    /// The environment.
    pub signature: Digest,
    /// The tree of the environment.
    pub tree: Digest,
    /// Where it is.
    pub mount_point: PathBuf,
    /// The boot of the machine that linked it: what it wrote was not synced, and may not have survived.
    pub boot: String,
    /// The user who linked it.
    pub uid: u32,
    /// Since when, in seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
}

impl LinkedRecord {
    /// What the directory at `path` says of itself; nothing if it is not a linked one.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        Self::parse(path, &std::fs::read(path.join(MARKER)).ok()?)
    }

    fn parse(path: &Path, text: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(text).ok()?;
        // A copy of a linked directory is somebody's own.
        (record.mount_point == path).then_some(record)
    }

    /// The record as it stands in files.
    ///
    /// # Errors
    /// When the path is not UTF-8.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text =
            serde_json::to_vec(self).map_err(|error| Error::corrupt(&self.mount_point, error.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Whether its directory is there and says so, or cannot be asked now: another user's, or one on a disk with errors.
    fn may_hold(&self) -> bool {
        match std::fs::read(self.mount_point.join(MARKER)) {
            Ok(text) => Self::parse(&self.mount_point, &text).as_ref() == Some(self),
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    /// Adds it to those that `store` lists.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn register(&self, store: &Store) -> Result<()> {
        durable::create_directory(&store.path("linked"))?;
        durable::write_evictable(&store.path("tmp"), &place(store, &self.mount_point), &self.to_json()?)
    }
}

/// The linked directories of `store` that are still there, or may be. Forgets the others, and records that a power cut
/// has left unwritten: of links that were made before it nobody is sure either.
///
/// # Errors
/// When the directory cannot be listed, or a record cannot be read.
pub fn list(store: &Store) -> Result<Vec<LinkedRecord>> {
    let mut records = Vec::new();
    for path in crate::store::list(&store.path("linked"))? {
        let text = match std::fs::read(&path) {
            // Since it was listed, or another user's who closes what is new to others.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => continue,
            text => text.at("read", &path)?,
        };
        match serde_json::from_slice::<LinkedRecord>(&text) {
            Ok(record) if record.may_hold() => records.push(record),
            // Somebody else's, in a store that may only be read, stays listed nowhere.
            _ => drop(durable::remove(&path)),
        }
    }
    Ok(records)
}

/// Takes the directory at `mount_point` off the list.
///
/// # Errors
/// When the store cannot be written.
pub fn forget(store: &Store, mount_point: &Path) -> Result<()> {
    durable::remove(&place(store, mount_point))
}

fn place(store: &Store, mount_point: &Path) -> PathBuf {
    let name = Digest::of(mount_point.as_os_str().as_encoded_bytes()).to_string();
    store.path("linked").join(format!("{}.json", &name[..NAME_DIGITS]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_as_long_as_it_says_so_itself() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let mount_point = directory.path().join("x");
        std::fs::create_dir(&mount_point).unwrap();
        let record = LinkedRecord {
            store: store.root().to_owned(),
            signature: Digest::of(b"x"),
            tree: Digest::of(b"y"),
            mount_point: mount_point.clone(),
            boot: "1".into(),
            uid: 0,
            started_unix_s: 1,
        };
        std::fs::write(mount_point.join(MARKER), record.to_json().unwrap()).unwrap();
        record.register(&store).unwrap();
        assert_eq!(list(&store).unwrap(), std::slice::from_ref(&record));
        let copy = directory.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(mount_point.join(MARKER), copy.join(MARKER)).unwrap();
        assert_eq!(LinkedRecord::of(&copy), None);
        std::fs::remove_file(mount_point.join(MARKER)).unwrap();
        std::os::unix::fs::symlink(MARKER, mount_point.join(MARKER)).unwrap();
        assert_eq!(list(&store).unwrap(), [record], "what cannot be asked may hold");
        std::fs::remove_file(mount_point.join(MARKER)).unwrap();
        assert_eq!(list(&store).unwrap(), []);
        assert_eq!(std::fs::read_dir(store.path("linked")).unwrap().count(), 0);
    }
}
