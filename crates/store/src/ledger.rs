//! Small documents that change: who changes one does so alone, and who reads one sees it before or after, never between.
//!
//! ```text
//! <directory>/
//!   .lock      flock: exclusive by who changes a document
//!   .tmp/      drafts of who holds the lock; what is there when it is taken was left by a process that died
//!   <key>      a document: JSON. Keys are relative paths of which no part starts with a dot
//! ```
//!
//! Whoever may write to the directory may change what is in it. Documents are replaced, not written to, so the rights of a
//! file mean nothing.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::lock::FileLock;

/// A directory of documents.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    directory: PathBuf,
}

/// A ledger that nobody else changes meanwhile.
pub(crate) struct Locked<'a> {
    ledger: &'a Ledger,
    _lock: FileLock,
}

impl Ledger {
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    /// The document called `key`, if there is one.
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let path = self.path(key);
        match std::fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(document) => Ok(Some(document)),
                Err(error) => Err(Error::corrupt(&path, error.to_string())),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(None),
            Err(error) => Err(error).at("read", &path),
        }
    }

    /// The keys of all documents, sorted.
    pub(crate) fn keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        collect(&self.directory, "", &mut keys)?;
        keys.sort();
        Ok(keys)
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
        let mut text = serde_json::to_vec(document).map_err(|error| Error::corrupt(&path, error.to_string()))?;
        text.push(b'\n');
        if let Some(directory) = path.parent() {
            durable::create_directory(directory)?;
        }
        durable::write(&self.ledger.drafts(), &path, &text)?;
        // The directories above may be new.
        let above = path.ancestors().skip(2);
        above
            .take_while(|directory| directory.starts_with(&self.ledger.directory))
            .try_for_each(durable::sync_directory)
    }

    /// Removes a document; one that is not there is fine.
    pub(crate) fn remove(&self, key: &str) -> Result<()> {
        let path = self.ledger.path(key);
        durable::remove(&path)?;
        if let Some(directory) = path.parent() {
            match durable::sync_directory(directory) {
                // It is not asked for first: of a disk that fails nothing is there, and what is removed would come back.
                Err(error) if error.is_gone() => {}
                result => result?,
            }
        }
        for directory in path.ancestors().skip(1) {
            // Directories that other documents are in stay.
            if directory == self.ledger.directory || !durable::remove_empty_directory(directory) {
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
    use super::*;

    #[test]
    fn documents_come_and_go_with_their_directories() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(directory.path().join("x"));
        assert_eq!(ledger.keys().unwrap(), Vec::<String>::new());
        assert_eq!(ledger.read::<u32>("a/b:c").unwrap(), None);
        let locked = ledger.lock().unwrap();
        locked.write("a/b:c", &1).unwrap();
        locked.write("a/b/d:c", &2).unwrap();
        locked.write("a/b:c", &3).unwrap();
        assert_eq!(ledger.keys().unwrap(), ["a/b/d:c", "a/b:c"]);
        assert_eq!(ledger.read::<u32>("a/b:c").unwrap(), Some(3));
        locked.remove("a/b:c").unwrap();
        locked.remove("a/b:c").unwrap();
        locked.remove("a/b/d:c").unwrap();
        assert_eq!(ledger.keys().unwrap(), Vec::<String>::new());
        assert!(!ledger.path("a").exists());
        drop(locked);
        std::fs::write(ledger.path(".tmp/draft-1-0"), "half").unwrap();
        ledger.lock().unwrap().write("a", &4).unwrap();
        assert_eq!(std::fs::read_dir(ledger.path(".tmp")).unwrap().count(), 0);
    }
}
