//! Environments that stay mounted though nobody uses them, and until when.
//!
//! ```text
//! <store>/warm/<uid>-<first digits of the signature>.json   one of them; its time is when it was used last
//! <store>/warm/<uid>-<the same>.lock                        held by who mounts or unmounts it
//! <store>/warm/<uid>.lock                                   held by the process of that user that looks after them
//! ```
//!
//! A record is only a wish: whether something is mounted, the kernel knows. Knows nothing of mounting.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, Result};
use crate::lock::FileLock;
use crate::store::Store;

/// How many digits of the signature name a record.
const NAME_DIGITS: usize = 16;

/// Until when an environment stays mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "until")]
pub enum Until {
    /// It is stopped.
    Stopped,
    /// Others were used more recently.
    Outrun,
    /// Nobody has used it for so long.
    Idle {
        /// In seconds.
        idle_s: u64,
    },
}

/// An environment that stays mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmRecord {
    /// Which.
    pub signature: Digest,
    /// Where.
    pub mount_point: PathBuf,
    /// For whom.
    pub uid: u32,
    /// Until when.
    #[serde(flatten)]
    pub until: Until,
}

impl WarmRecord {
    /// Notes it, in place of an earlier wish for the same environment. It counts as used now.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn register(&self, store: &Store) -> Result<()> {
        let path = self.path(store);
        durable::create_directory(&store.path("warm"))?;
        let mut text = serde_json::to_vec(self).map_err(|error| Error::corrupt(&path, error.to_string()))?;
        text.push(b'\n');
        durable::write_evictable(&store.path("tmp"), &path, &text)
    }

    /// Takes the wish back.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn forget(&self, store: &Store) -> Result<()> {
        durable::remove(&self.path(store))
    }

    /// Notes that it is used now.
    pub fn touch(&self, store: &Store) {
        // Whoever may not write it has no part in how long it stays.
        let _ = durable::touch(&self.path(store));
    }

    /// When it was used last, by clocks that may have been set since; none if it is not noted any more.
    #[must_use]
    pub fn used(&self, store: &Store) -> Option<SystemTime> {
        self.path(store)
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
    }

    /// For how long nobody has used it.
    #[must_use]
    pub fn idle(&self, store: &Store) -> Duration {
        clock::age(&self.path(store)).unwrap_or_default()
    }

    fn path(&self, store: &Store) -> PathBuf {
        let name = format!("{}-{}.json", self.uid, &self.signature.to_string()[..NAME_DIGITS]);
        store.path("warm").join(name)
    }
}

/// The environments that stay mounted for the user `uid`.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list(store: &Store, uid: u32) -> Result<Vec<WarmRecord>> {
    let records = crate::store::list(&store.path("warm"))?.into_iter();
    let records = records.filter_map(|path| {
        let record: WarmRecord = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (record.uid == uid).then_some(record)
    });
    Ok(records.collect())
}

/// Holds the coming and going of the warm mount of `signature` for `uid`; none if another process does and this one is not to
/// wait.
///
/// # Errors
/// When the store cannot be written, or another process holds it for too long.
pub fn reserve(store: &Store, signature: &Digest, uid: u32, is_patient: bool) -> Result<Option<FileLock>> {
    durable::create_directory(&store.path("warm"))?;
    let path = store
        .path("warm")
        .join(format!("{uid}-{}.lock", &signature.to_string()[..NAME_DIGITS]));
    match is_patient {
        true => FileLock::transient(&path).map(Some),
        false => FileLock::try_transient(&path),
    }
}

/// Makes this process the one that looks after the mounts of `uid`; none if another one does.
///
/// # Errors
/// When the store cannot be written.
pub fn tender(store: &Store, uid: u32) -> Result<Option<FileLock>> {
    durable::create_directory(&store.path("warm"))?;
    FileLock::try_transient(&tender_path(store, uid))
}

/// The process that looks after the mounts of `uid`, if one does.
#[must_use]
pub fn tender_pid(store: &Store, uid: u32) -> Option<u32> {
    let path = tender_path(store, uid);
    crate::lock::holders(&path).first().map(|holder| holder.pid)
}

fn tender_path(store: &Store, uid: u32) -> PathBuf {
    store.path("warm").join(format!("{uid}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_its_own_and_one_tender() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let record = |uid, until| WarmRecord {
            signature: Digest::of(b"x"),
            mount_point: "/envs/x".into(),
            uid,
            until,
        };
        let mine = record(1000, Until::Idle { idle_s: 600 });
        mine.register(&store).unwrap();
        record(1001, Until::Stopped).register(&store).unwrap();
        assert_eq!(list(&store, 1000).unwrap(), [mine]);
        let pinned = record(1000, Until::Stopped);
        pinned.register(&store).unwrap();
        assert_eq!(list(&store, 1000).unwrap(), std::slice::from_ref(&pinned));
        assert!(pinned.idle(&store) < Duration::from_secs(60));
        // A clock that was ahead keeps no mount until that time comes.
        let file = std::fs::File::open(pinned.path(&store)).unwrap();
        let ahead = SystemTime::now() + Duration::from_secs(86_400);
        file.set_modified(ahead).unwrap();
        assert_eq!(pinned.idle(&store), Duration::ZERO);
        assert!(file.metadata().unwrap().modified().unwrap() < ahead);

        let held = tender(&store, 1000).unwrap().unwrap();
        assert!(tender(&store, 1000).unwrap().is_none());
        assert!(tender(&store, 1001).unwrap().is_some());
        drop(held);
        pinned.forget(&store).unwrap();
        assert_eq!(list(&store, 1000).unwrap(), []);
    }
}
