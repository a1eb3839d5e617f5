//! Paths that follow names: which path shows what a name stands for, and on which machine.
//!
//! Only the record is kept here, in `links/`; what stands at the path is made by who mounts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::name::Name;
use crate::store::Store;

/// The version of the record's fields. A reader refuses any other.
const FORMAT_VERSION: u32 = 1;

/// How many digits of the digest of machine and path name a record.
const KEY_DIGITS: usize = 32;

/// A path that follows a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    format: u32,
    /// The name.
    pub name: Name,
    /// The path.
    pub path: PathBuf,
    /// The machine on which it is: mounts are seen on one only.
    pub machine: String,
}

impl Link {
    /// A path on a machine that follows `name`.
    #[must_use]
    pub fn new(name: Name, path: PathBuf, machine: String) -> Self {
        Self {
            format: FORMAT_VERSION,
            name,
            path,
            machine,
        }
    }
}

/// The paths that follow names of a store.
#[derive(Debug, Clone)]
pub struct Links {
    ledger: Ledger,
}

impl Links {
    /// Those of `store`.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            ledger: Ledger::of(store, "links"),
        }
    }

    /// The files that they are kept in.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Checks the file at `path`, which is that of `key` or its copy.
    pub(crate) fn check(&self, path: &Path, key: &str) -> Result<()> {
        self.ledger.read_at::<Link>(path, key).map(drop)
    }

    /// Remembers one, in place of another at the same path.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn add(&self, link: &Link) -> Result<()> {
        self.ledger.lock()?.write(&key(&link.machine, &link.path), link)
    }

    /// Forgets the one at `path`, and returns it, if there was one.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn remove(&self, machine: &str, path: &Path) -> Result<Option<Link>> {
        let locked = self.ledger.lock()?;
        let key = key(machine, path);
        let link = self.ledger.read::<Link>(&key)?;
        locked.remove(&key)?;
        Ok(link)
    }

    /// Those on `machine`, by path.
    ///
    /// # Errors
    /// When one cannot be read or is damaged.
    pub fn on(&self, machine: &str) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        for key in self.ledger.keys()? {
            match self.ledger.read::<Link>(&key)? {
                Some(link) if link.format != FORMAT_VERSION => {
                    return Err(Error::NewerFormat {
                        path: self.ledger.path(&key),
                        what: format!("links of version {}", link.format),
                    });
                }
                Some(link) if link.machine == machine => links.push(link),
                _ => {}
            }
        }
        links.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(links)
    }
}

fn key(machine: &str, path: &Path) -> String {
    let text = [machine.as_bytes(), b"\0", path.as_os_str().as_encoded_bytes()].concat();
    Digest::of(&text).to_string()[..KEY_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_follows_one_name_on_one_machine() {
        let directory = tempfile::tempdir().unwrap();
        let links = Links::of(&Store::open(directory.path()).unwrap());
        let link =
            |name: &str, path: &str, machine: &str| Link::new(name.parse().unwrap(), path.into(), machine.into());
        links.add(&link("a", "/envs/x", "here")).unwrap();
        links.add(&link("b", "/envs/x", "here")).unwrap();
        links.add(&link("a", "/envs/w", "here")).unwrap();
        links.add(&link("c", "/envs/x", "there")).unwrap();
        assert_eq!(
            links.on("here").unwrap(),
            [link("a", "/envs/w", "here"), link("b", "/envs/x", "here")]
        );
        assert!(links.remove("here", Path::new("/envs/x")).unwrap().is_some());
        assert!(links.remove("here", Path::new("/envs/x")).unwrap().is_none());
        assert_eq!(links.on("there").unwrap().len(), 1);
    }
}
