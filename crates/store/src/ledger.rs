//! Small documents that change: who changes one does so alone, and who reads one sees it before or after, never between.
//!
//! ```text
//! <directory>/
//!   .lock      flock: exclusive by who changes a document
//!   .tmp/      drafts of who holds the lock; what is there when it is taken was left by a process that died
//!   .copies/   every document once more: nothing else knows what stands in one
//!   <key>      a document: sealed JSON. Keys are relative paths of which no part starts with a dot
//! ```
//!
//! A copy goes before its document changes, and is written after it. So what has a copy and is not there was lost, a copy that
//! differs is damaged, and a change that was killed in the middle leaves no copy.
//!
//! Whoever may write to the directory may change what is in it. Documents are replaced, not written to, so the rights of a
//! file mean nothing.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::lock::FileLock;
use crate::sealed;
use crate::store::Store;

/// A directory of documents.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    directory: PathBuf,
    /// What the directory is called in its store.
    name: &'static str,
}

/// A ledger that nobody else changes meanwhile.
pub(crate) struct Locked<'a> {
    ledger: &'a Ledger,
    _lock: FileLock,
}

impl Ledger {
    /// The documents in the directory `name` of `store`.
    pub(crate) fn of(store: &Store, name: &'static str) -> Self {
        Self {
            directory: store.path(name),
            name,
        }
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    /// The document called `key`, if there is one.
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.read_at(&self.path(key), key)
    }

    /// The document called `key` as it stands in the file at `path`: in its place, or in its copy.
    pub(crate) fn read_at<T: DeserializeOwned>(&self, path: &Path, key: &str) -> Result<Option<T>> {
        match std::fs::read(path) {
            Ok(bytes) => sealed::open(path, &self.place(key), &bytes).map(|opened| Some(opened.document)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(None),
            Err(error) => Err(error).at("read", path),
        }
    }

    /// The keys of all documents, sorted.
    pub(crate) fn keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        collect(&self.directory, "", &mut keys)?;
        keys.sort();
        Ok(keys)
    }

    /// The keys of all copies, sorted.
    pub(crate) fn copied_keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        collect(&self.copies(), "", &mut keys)?;
        keys.sort();
        Ok(keys)
    }

    /// Where the copy of the document called `key` is.
    pub(crate) fn copy(&self, key: &str) -> PathBuf {
        self.copies().join(key)
    }

    fn copies(&self) -> PathBuf {
        self.path(".copies")
    }

    fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.name)
    }

    /// Waits until nobody else changes documents.
    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        let drafts = self.drafts();
        if !drafts.exists() {
            let missing = drafts.ancestors().skip(1).take_while(|directory| !directory.exists());
            let missing: Vec<_> = missing.collect();
            durable::create_directory(&drafts)?;
            // The first document must not be lost with a directory that it is in.
            let mut above = missing.into_iter().filter_map(Path::parent);
            above.try_for_each(durable::sync_directory)?;
        }
        let lock = FileLock::exclusive(&self.path(".lock"))?;
        for abandoned in crate::store::list(&drafts)? {
            durable::remove(&abandoned)?;
        }
        Ok(Locked {
            ledger: self,
            _lock: lock,
        })
    }

    fn drafts(&self) -> PathBuf {
        self.path(".tmp")
    }
}

impl Locked<'_> {
    /// Writes a document, durably.
    pub(crate) fn write(&self, key: &str, document: &impl Serialize) -> Result<()> {
        let path = self.ledger.path(key);
        let bytes = sealed::seal(&self.ledger.place(key), document)
            .map_err(|error| Error::corrupt(&path, error.to_string()))?;
        self.take(&self.ledger.copy(key), &self.ledger.copies())?;
        self.put(&path, &bytes)?;
        self.put(&self.ledger.copy(key), &bytes)
    }

    /// Puts the document and its copy in the place of whichever of both is damaged or lost.
    pub(crate) fn restore(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.put(&self.ledger.copy(key), bytes)?;
        self.put(&self.ledger.path(key), bytes)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if let Some(directory) = path.parent() {
            durable::create_directory(directory)?;
        }
        durable::write(&self.ledger.drafts(), path, bytes)?;
        // The directories above may be new.
        let above = path.ancestors().skip(2);
        above
            .take_while(|directory| directory.starts_with(&self.ledger.directory))
            .try_for_each(durable::sync_directory)
    }

    /// Removes a document; one that is not there is fine.
    pub(crate) fn remove(&self, key: &str) -> Result<()> {
        self.take(&self.ledger.copy(key), &self.ledger.copies())?;
        self.take(&self.ledger.path(key), &self.ledger.directory)
    }

    fn take(&self, path: &Path, top: &Path) -> Result<()> {
        durable::remove(path)?;
        if let Some(directory) = path.parent() {
            match durable::sync_directory(directory) {
                // It is not asked for first: of a disk that fails nothing is there, and what is removed would come back.
                Err(error) if error.is_gone() => {}
                result => result?,
            }
        }
        for directory in path.ancestors().skip(1) {
            // Directories that other documents are in stay.
            if directory == top || !durable::remove_empty_directory(directory) {
                break;
            }
        }
        Ok(())
    }
}

fn collect(directory: &Path, above: &str, keys: &mut Vec<String>) -> Result<()> {
    for path in crate::store::list(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let key = format!("{above}{name}");
        if path.is_dir() {
            collect(&path, &format!("{key}/"), keys)?;
        } else {
            keys.push(key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn documents_come_and_go_with_their_directories() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let ledger = Ledger::of(&store, "x");
        assert_eq!(ledger.keys().unwrap(), Vec::<String>::new());
        let document = |number: u32| BTreeMap::from([("number".to_owned(), number)]);
        let read = |key: &str| ledger.read::<BTreeMap<String, u32>>(key).unwrap();
        assert_eq!(read("a/b:c"), None);
        let locked = ledger.lock().unwrap();
        locked.write("a/b:c", &document(1)).unwrap();
        locked.write("a/b/d:c", &document(2)).unwrap();
        locked.write("a/b:c", &document(3)).unwrap();
        assert_eq!(ledger.keys().unwrap(), ["a/b/d:c", "a/b:c"]);
        assert_eq!(ledger.copied_keys().unwrap(), ["a/b/d:c", "a/b:c"]);
        assert_eq!(read("a/b:c"), Some(document(3)));
        std::fs::rename(ledger.path("a/b:c"), ledger.path("a/b/d:c")).unwrap();
        let moved = ledger.read::<BTreeMap<String, u32>>("a/b/d:c").unwrap_err();
        assert!(moved.to_string().contains("written there"), "{moved}");
        locked.remove("a/b:c").unwrap();
        locked.remove("a/b:c").unwrap();
        locked.remove("a/b/d:c").unwrap();
        assert_eq!(ledger.keys().unwrap(), Vec::<String>::new());
        assert_eq!(ledger.copied_keys().unwrap(), Vec::<String>::new());
        assert!(!ledger.path("a").exists() && !ledger.copy("a").exists());
        drop(locked);
        std::fs::write(ledger.path(".tmp/draft-1-0"), "half").unwrap();
        ledger.lock().unwrap().write("a", &document(4)).unwrap();
        assert_eq!(std::fs::read_dir(ledger.path(".tmp")).unwrap().count(), 0);
    }
}
