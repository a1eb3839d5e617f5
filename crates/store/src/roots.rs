//! What is kept beside what has a name: pins, which may expire, and what owners need.
//!
//! ```text
//! <store>/roots/
//!   pins/<signature>   why an environment is kept, and until when
//!   owners/<owner>     the environments that somebody needs, such as a workflow
//! ```
//!
//! Both are [`crate::ledger`]s. Who may write to them may keep things, and no longer keep them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::environment;
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::name::is_name_byte;
use crate::store::Store;

/// The version of the fields of both kinds of files. A reader refuses any other.
const FORMAT_VERSION: u32 = 1;

/// An owner is the name of a file, which file systems limit to 255 bytes.
const MAX_OWNER_BYTES: usize = 200;

/// A reason to keep an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Until when, in seconds since 1970-01-01 UTC; for ever if nothing is said.
    pub until_unix_s: Option<u64>,
    /// Why.
    pub reason: Option<String>,
    /// Who wants it.
    pub by: String,
    /// Since when, in seconds since 1970-01-01 UTC.
    pub at_unix_s: u64,
}

impl Pin {
    /// Whether it keeps anything at the time `now_unix_s`.
    #[must_use]
    pub fn holds(&self, now_unix_s: u64) -> bool {
        self.until_unix_s.is_none_or(|until| until > now_unix_s)
    }
}

/// Who needs environments: a workflow, a service, a person.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

/// A text that is no owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be an owner: it takes 1 to 200 letters, digits, `.`, `_`, `-`, `+`, `:`, `@` and `=`, the first a letter or digit"
)]
pub struct InvalidOwner(String);

impl FromStr for Owner {
    type Err = InvalidOwner;

    fn from_str(text: &str) -> Result<Self, InvalidOwner> {
        let is_valid = text.len() <= MAX_OWNER_BYTES
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && text
                .bytes()
                .all(|byte| is_name_byte(byte) || matches!(byte, b':' | b'@' | b'='));
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidOwner(text.to_owned()))
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Owner {
    type Error = InvalidOwner;

    fn try_from(text: String) -> Result<Self, InvalidOwner> {
        text.parse()
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.0
    }
}

/// What an owner needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owned {
    /// Who.
    pub owner: Owner,
    /// The environments, and since when in seconds since 1970-01-01 UTC.
    pub environments: BTreeMap<Digest, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    format: u32,
    pins: Vec<Pin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Needs {
    format: u32,
    environments: BTreeMap<Digest, u64>,
}

/// The pins and owners of a store.
#[derive(Debug, Clone)]
pub struct Roots {
    store: Store,
    pins: Ledger,
    owners: Ledger,
}

impl Roots {
    /// The pins and owners of `store`.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            store: store.clone(),
            pins: Ledger::of(store, "roots/pins"),
            owners: Ledger::of(store, "roots/owners"),
        }
    }

    /// The files that pins are kept in.
    pub(crate) fn pin_ledger(&self) -> &Ledger {
        &self.pins
    }

    /// The files that needs are kept in.
    pub(crate) fn owner_ledger(&self) -> &Ledger {
        &self.owners
    }

    /// Checks the file at `path`, which is that of the pins of `key` or their copy.
    pub(crate) fn check_pins(&self, path: &Path, key: &str) -> Result<()> {
        self.pins.read_at::<Pins>(path, key).map(drop)
    }

    /// Checks the file at `path`, which is that of the owner `key` or its copy.
    pub(crate) fn check_owner(&self, path: &Path, key: &str) -> Result<()> {
        self.owners.read_at::<Needs>(path, key).map(drop)
    }

    /// Keeps the environment `signature`. Another pin by the same person for the same reason is replaced.
    ///
    /// # Errors
    /// When the environment is not in the store, or the directory cannot be written.
    pub fn pin(&self, signature: &Digest, pin: Pin) -> Result<()> {
        let locked = self.pins.lock()?;
        // Nothing is removed between the look at the environment and the pin that keeps it.
        let _shared = self.store.share()?;
        environment::load(&self.store, signature)?;
        let mut pins = self.pins_of(signature)?;
        pins.retain(|other| (&other.by, &other.reason) != (&pin.by, &pin.reason));
        pins.push(pin);
        locked.write(
            &signature.to_string(),
            &Pins {
                format: FORMAT_VERSION,
                pins,
            },
        )
    }

    /// Removes the pins of the environment `signature` that `is_meant`, and says how many.
    ///
    /// # Errors
    /// When the file is damaged, or the directory cannot be written.
    pub fn unpin(&self, signature: &Digest, is_meant: impl Fn(&Pin) -> bool) -> Result<usize> {
        let locked = self.pins.lock()?;
        let mut pins = self.pins_of(signature)?;
        let count = pins.len();
        pins.retain(|pin| !is_meant(pin));
        let removed = count - pins.len();
        match (removed, pins.is_empty()) {
            (0, _) => {}
            (_, true) => locked.remove(&signature.to_string())?,
            (_, false) => locked.write(
                &signature.to_string(),
                &Pins {
                    format: FORMAT_VERSION,
                    pins,
                },
            )?,
        }
        Ok(removed)
    }

    /// All pins, by environment, those that have expired among them.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    pub fn pins(&self) -> Result<BTreeMap<Digest, Vec<Pin>>> {
        let signatures = self
            .pins
            .keys()?
            .into_iter()
            .filter_map(|key| key.parse::<Digest>().ok());
        signatures
            .map(|signature| Ok((signature, self.pins_of(&signature)?)))
            .collect()
    }

    /// Notes that `owner` needs `environments`, beside what it needs already.
    ///
    /// # Errors
    /// When an environment is not in the store, or the directory cannot be written.
    pub fn add(&self, owner: &Owner, environments: &[Digest], now_unix_s: u64) -> Result<()> {
        let locked = self.owners.lock()?;
        let _shared = self.store.share()?;
        let mut needed = self.needs_of(owner)?.unwrap_or_default();
        for signature in environments {
            environment::load(&self.store, signature)?;
            needed.entry(*signature).or_insert(now_unix_s);
        }
        locked.write(
            &owner.to_string(),
            &Needs {
                format: FORMAT_VERSION,
                environments: needed,
            },
        )
    }

    /// Notes that `owner` no longer needs `environments`, or without these anything. Says how many it needed.
    ///
    /// # Errors
    /// When the file is damaged, or the directory cannot be written.
    pub fn drop_needs(&self, owner: &Owner, environments: Option<&[Digest]>) -> Result<usize> {
        let locked = self.owners.lock()?;
        let mut needed = self.needs_of(owner)?.unwrap_or_default();
        let count = needed.len();
        needed.retain(|signature, _| environments.is_some_and(|dropped| !dropped.contains(signature)));
        let dropped = count - needed.len();
        if needed.is_empty() {
            locked.remove(&owner.to_string())?;
        } else if dropped > 0 {
            locked.write(
                &owner.to_string(),
                &Needs {
                    format: FORMAT_VERSION,
                    environments: needed,
                },
            )?;
        }
        Ok(dropped)
    }

    /// All owners and what they need.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    pub fn owners(&self) -> Result<Vec<Owned>> {
        let mut owned = Vec::new();
        for owner in self.owners.keys()?.iter().filter_map(|key| key.parse::<Owner>().ok()) {
            if let Some(environments) = self.needs_of(&owner)? {
                owned.push(Owned { owner, environments });
            }
        }
        Ok(owned)
    }

    pub(crate) fn pins_of(&self, signature: &Digest) -> Result<Vec<Pin>> {
        let key = signature.to_string();
        match self.pins.read::<Pins>(&key)? {
            None => Ok(Vec::new()),
            Some(document) if document.format == FORMAT_VERSION => Ok(document.pins),
            Some(document) => Err(newer(&self.pins, &key, document.format)),
        }
    }

    pub(crate) fn needs_of(&self, owner: &Owner) -> Result<Option<BTreeMap<Digest, u64>>> {
        let key = owner.to_string();
        match self.owners.read::<Needs>(&key)? {
            None => Ok(None),
            Some(document) if document.format == FORMAT_VERSION => Ok(Some(document.environments)),
            Some(document) => Err(newer(&self.owners, &key, document.format)),
        }
    }
}

fn newer(ledger: &Ledger, key: &str, format: u32) -> Error {
    Error::NewerFormat {
        path: ledger.path(key),
        what: format!("roots of version {format}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::workspace::Workspace;

    fn pin(by: &str, until_unix_s: Option<u64>) -> Pin {
        Pin {
            until_unix_s,
            reason: Some("why".into()),
            by: by.into(),
            at_unix_s: 1,
        }
    }

    #[test]
    fn pins_and_needs_are_kept_each_for_itself() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let workspace = Workspace::create(&store).unwrap();
        let tree = crate::tree::merge::Merge::new()
            .write(&store, &workspace, None)
            .unwrap();
        let [a, b, unknown] = [b"a", b"b", b"c"].map(|name| Digest::of(name));
        for signature in [a, b] {
            let environment = Environment::new(signature, "linux-64".into(), tree.digest);
            environment.publish(&store, &workspace).unwrap();
        }
        let roots = Roots::of(&store);
        assert!(roots.pin(&unknown, pin("x", None)).is_err());
        roots.pin(&a, pin("x", None)).unwrap();
        roots.pin(&a, pin("y", Some(10))).unwrap();
        roots.pin(&a, pin("x", Some(20))).unwrap();
        let pins = roots.pins().unwrap().remove(&a).unwrap();
        assert_eq!(pins, [pin("y", Some(10)), pin("x", Some(20))]);
        assert_eq!([9, 10].map(|now| pins[0].holds(now)), [true, false]);
        assert!(pin("x", None).holds(u64::MAX));
        assert_eq!(roots.unpin(&a, |pin| !pin.holds(15)).unwrap(), 1);
        assert_eq!(roots.unpin(&a, |_| true).unwrap(), 1);
        assert_eq!(roots.unpin(&a, |_| true).unwrap(), 0);
        assert!(roots.pins().unwrap().is_empty());

        let owner: Owner = "workflow:1@x".parse().unwrap();
        assert!(roots.add(&owner, &[a, unknown], 1).is_err());
        assert_eq!(roots.owners().unwrap(), []);
        roots.add(&owner, &[a], 1).unwrap();
        roots.add(&owner, &[a, b], 2).unwrap();
        let owned = roots.owners().unwrap();
        assert_eq!(owned[0].owner, owner);
        assert_eq!(owned[0].environments, BTreeMap::from([(a, 1), (b, 2)]));
        assert_eq!(roots.drop_needs(&owner, Some(&[a, unknown])).unwrap(), 1);
        assert_eq!(roots.drop_needs(&owner, None).unwrap(), 1);
        assert_eq!(roots.drop_needs(&owner, None).unwrap(), 0);
        assert_eq!(roots.owners().unwrap(), []);
    }

    #[test]
    fn owners_are_file_names() {
        for text in ["", ".a", "a/b", "a b", &"x".repeat(201)] {
            assert!(text.parse::<Owner>().is_err(), "{text:?}");
        }
    }
}
