//! Names of environments: what each stands for now, and what it stood for before.
//!
//! A name is one small file in `refs/` with all its history, replaced as a whole: a reader sees a change or does not, and
//! two that change a name at the same time do so one after the other. Who may write to `refs/` may change names.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::environment;
use crate::error::Error;
use crate::ledger::{Ledger, Locked};
use crate::name::Name;
use crate::store::Store;

/// The version of the file's fields. A reader refuses any other.
const FORMAT_VERSION: u32 = 1;

/// Older changes are forgotten: a name that changes every hour is read as quickly after years.
const MAX_CHANGES: usize = 1000;

/// One change of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The number of the change: 1 is the first of this name, and none is given twice.
    pub number: u64,
    /// What the name stands for since then.
    pub signature: Digest,
    /// When, in seconds since 1970-01-01 UTC.
    pub at_unix_s: u64,
    /// Who did it.
    pub by: String,
    /// Why, as they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The name that the environment was promoted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_from: Option<Name>,
    /// The number of the earlier change that was restored by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
}

/// A name with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: Name,
    /// The last change: what the name stands for.
    pub current: Change,
    /// All earlier changes that are remembered, the latest first.
    pub earlier: Vec<Change>,
}

/// A name among those of several stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub named: Named,
    /// Whether it is one of the store below.
    pub is_lower: bool,
}

/// Who changes a name, and why.
#[derive(Debug, Clone, Default)]
pub struct Author {
    /// Who.
    pub by: String,
    /// Why.
    pub message: Option<String>,
}

/// What must be true of a name for it to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// There is no such name.
    Nothing,
    /// It stands for this environment.
    Signature(Digest),
}

/// A name cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// There is no such name.
    #[error("there is no name `{0}`: `envfs name ls` lists them")]
    Unknown(Name),
    /// Somebody else was faster.
    #[error("`{name}` was not changed: it stands for {}, not for {}", shown(found.as_ref()), expected.shown())]
    Unexpected {
        /// The name.
        name: Name,
        /// What was expected.
        expected: Expected,
        /// What it stands for.
        found: Option<Digest>,
    },
    /// There is nothing to go back to.
    #[error(
        "`{0}` has no earlier environment to go back to: `envfs name history {0}` lists its changes, `envfs rollback {0} --to N` goes to one"
    )]
    NothingBefore(Name),
    /// The history has no such change.
    #[error("`{name}` has no change number {number}: `envfs name history {name}` lists them")]
    NoSuchChange {
        /// The name.
        name: Name,
        /// What was asked for.
        number: u64,
    },
    /// The environment is not in the store.
    #[error("the environment {} is not in the store: build it again first", shown(Some(.0)))]
    NotBuilt(Digest),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Expected {
    fn shown(&self) -> String {
        match self {
            Self::Nothing => shown(None),
            Self::Signature(signature) => shown(Some(signature)),
        }
    }

    fn is(&self, found: Option<&Digest>) -> bool {
        match self {
            Self::Nothing => found.is_none(),
            Self::Signature(signature) => found == Some(signature),
        }
    }
}

fn shown(signature: Option<&Digest>) -> String {
    signature.map_or_else(
        || "nothing".to_owned(),
        |signature| signature.to_string()[..16].to_owned(),
    )
}

/// The file of a name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    /// The earliest first; never empty.
    changes: Vec<Change>,
}

/// The names of a store.
#[derive(Debug, Clone)]
pub struct Names {
    store: Store,
    ledger: Ledger,
}

impl Names {
    /// The names of `store`.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            store: store.clone(),
            ledger: Ledger::of(store, "refs"),
        }
    }

    /// The files that names are kept in.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Checks the file at `path`, which is that of the name `key` or its copy.
    pub(crate) fn check(&self, path: &Path, key: &str) -> Result<(), Error> {
        self.ledger.read_at::<Document>(path, key).map(drop)
    }

    /// What `name` stands for, with its history; nothing if there is no such name.
    ///
    /// # Errors
    /// When its file cannot be read or is damaged.
    pub fn get(&self, name: &Name) -> Result<Option<Named>, Error> {
        let key = name.to_string();
        let Some(document) = self.ledger.read::<Document>(&key)? else {
            return Ok(None);
        };
        let path = self.ledger.path(&key);
        if document.format != FORMAT_VERSION {
            return Err(Error::NewerFormat {
                path,
                what: format!("names of version {}", document.format),
            });
        }
        let mut changes = document.changes;
        let current = changes
            .pop()
            .ok_or_else(|| Error::corrupt(&path, "it lists no change"))?;
        changes.reverse();
        Ok(Some(Named {
            name: name.clone(),
            current,
            earlier: changes,
        }))
    }

    /// What `name` stands for, with its history.
    ///
    /// # Errors
    /// When there is no such name, or its file is damaged.
    pub fn load(&self, name: &Name) -> Result<Named, NameError> {
        self.get(name)?.ok_or_else(|| NameError::Unknown(name.clone()))
    }

    /// What `name` stands for in `store`, or in the one below it: a user's own name hides that of the system.
    ///
    /// # Errors
    /// When its file cannot be read or is damaged.
    pub fn find(store: &Store, name: &Name) -> Result<Option<Found>, Error> {
        match (Self::of(store).get(name)?, store.lower()) {
            (None, Some(lower)) => {
                let below = Self::find(lower, name)?;
                Ok(below.map(|found| Found {
                    is_lower: true,
                    ..found
                }))
            }
            (named, _) => Ok(named.map(|named| Found { named, is_lower: false })),
        }
    }

    /// All names, sorted, each with its own error where its file is damaged. Files that are called like no name are left out.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn list(&self) -> Result<Vec<Result<Named, Error>>, Error> {
        let keys = self.ledger.keys()?;
        let names = keys
            .iter()
            .filter(|key| key.contains(':'))
            .filter_map(|key| key.parse().ok());
        Ok(names.filter_map(|name| self.get(&name).transpose()).collect())
    }

    /// All names of `store` and of the one below it, sorted, as [`Names::find`] finds each; with an error for each file that is
    /// damaged.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn list_all(store: &Store) -> Result<Vec<Result<Found, Error>>, Error> {
        let below = store.lower().map(Self::list_all).transpose()?.unwrap_or_default();
        let below = below.into_iter().map(|found| {
            found.map(|found| Found {
                is_lower: true,
                ..found
            })
        });
        let own = Self::of(store).list()?.into_iter();
        let own = own.map(|named| named.map(|named| Found { named, is_lower: false }));
        let mut all: BTreeMap<Name, Found> = BTreeMap::new();
        let mut damaged = Vec::new();
        for found in below.chain(own) {
            match found {
                // A user's own comes later, and hides the other.
                Ok(found) => drop(all.insert(found.named.name.clone(), found)),
                Err(error) => damaged.push(Err(error)),
            }
        }
        Ok(all.into_values().map(Ok).chain(damaged).collect())
    }

    /// Lets `name` stand for the environment `signature`. What it stands for already is no change, and recorded as none.
    ///
    /// # Errors
    /// When the environment is not in the store, the name does not stand for what is `expected`, or the directory cannot
    /// be written.
    pub fn set(
        &self,
        name: &Name,
        signature: &Digest,
        author: &Author,
        expected: Option<&Expected>,
    ) -> Result<Named, NameError> {
        self.change(name, author, expected, |_| {
            Ok(Target {
                signature: *signature,
                promoted_from: None,
                restores: None,
            })
        })
    }

    /// Lets the name `to` stand for what `from` stands for.
    ///
    /// # Errors
    /// As [`Names::set`], and when there is no name `from`.
    pub fn promote(
        &self,
        from: &Name,
        to: &Name,
        author: &Author,
        expected: Option<&Expected>,
    ) -> Result<Named, NameError> {
        self.change(to, author, expected, |_| {
            // Read while nobody changes names: what is promoted is what it stands for now.
            Ok(Target {
                signature: self.load(from)?.current.signature,
                promoted_from: Some(from.clone()),
                restores: None,
            })
        })
    }

    /// Lets `name` stand again for what it stood for after the change number `to`; without one, for the last other
    /// environment before this one. Going back twice goes back further.
    ///
    /// # Errors
    /// As [`Names::set`], and when there is nothing to go back to.
    pub fn rollback(
        &self,
        name: &Name,
        to: Option<u64>,
        author: &Author,
        expected: Option<&Expected>,
    ) -> Result<Named, NameError> {
        self.change(name, author, expected, |found| {
            let named = found.ok_or_else(|| NameError::Unknown(name.clone()))?;
            let restored = match to {
                Some(number) => named.change(number).ok_or_else(|| NameError::NoSuchChange {
                    name: name.clone(),
                    number,
                })?,
                None => named.before().ok_or_else(|| NameError::NothingBefore(name.clone()))?,
            };
            Ok(Target {
                signature: restored.signature,
                promoted_from: None,
                restores: Some(restored.number),
            })
        })
    }

    /// Forgets a name and its history.
    ///
    /// # Errors
    /// When there is no such name, it does not stand for what is `expected`, or the directory cannot be written.
    pub fn remove(&self, name: &Name, expected: Option<&Expected>) -> Result<Named, NameError> {
        let locked = self.ledger.lock()?;
        let named = self.load(name)?;
        check(name, expected, Some(&named.current.signature))?;
        locked.remove(&name.to_string())?;
        Ok(named)
    }

    fn change(
        &self,
        name: &Name,
        author: &Author,
        expected: Option<&Expected>,
        target: impl FnOnce(Option<&Named>) -> Result<Target, NameError>,
    ) -> Result<Named, NameError> {
        let locked = self.ledger.lock()?;
        let found = self.get(name)?;
        check(name, expected, found.as_ref().map(|named| &named.current.signature))?;
        let target = target(found.as_ref())?;
        match found {
            Some(named) if named.current.signature == target.signature => Ok(named),
            found => self.record(&locked, name, author, &target, found),
        }
    }

    fn record(
        &self,
        locked: &Locked<'_>,
        name: &Name,
        author: &Author,
        target: &Target,
        found: Option<Named>,
    ) -> Result<Named, NameError> {
        // Nothing is removed between the look at the environment and the name that keeps it.
        let _shared = self.store.share()?;
        if environment::get(&self.store, &target.signature)?.is_none() {
            return Err(NameError::NotBuilt(target.signature));
        }
        let mut changes = found.map(Named::into_changes).unwrap_or_default();
        let forgotten = (changes.len() + 1).saturating_sub(MAX_CHANGES);
        changes.drain(..forgotten);
        changes.push(Change {
            number: changes.last().map_or(1, |change| change.number + 1),
            signature: target.signature,
            at_unix_s: std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs()),
            by: author.by.clone(),
            message: author.message.clone(),
            promoted_from: target.promoted_from.clone(),
            restores: target.restores,
        });
        let document = Document {
            format: FORMAT_VERSION,
            changes,
        };
        locked.write(&name.to_string(), &document)?;
        self.load(name)
    }
}

/// What a name is to stand for.
struct Target {
    signature: Digest,
    promoted_from: Option<Name>,
    restores: Option<u64>,
}

impl Named {
    /// All changes that are remembered, the latest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        [&self.current].into_iter().chain(&self.earlier)
    }

    /// The environments that it stands for or stood for last, `count` of them and the present one among these.
    pub fn last(&self, count: usize) -> impl Iterator<Item = Digest> {
        let mut seen = Vec::new();
        for change in self.changes() {
            if seen.len() >= count.max(1) {
                break;
            }
            if !seen.contains(&change.signature) {
                seen.push(change.signature);
            }
        }
        seen.into_iter()
    }

    fn change(&self, number: u64) -> Option<&Change> {
        self.changes().find(|change| change.number == number)
    }

    /// The change to go back to: the last one to another environment, before the one that the present one comes from.
    fn before(&self) -> Option<&Change> {
        let origin = self.current.restores.unwrap_or(self.current.number);
        self.earlier
            .iter()
            .find(|change| change.number < origin && change.signature != self.current.signature)
    }

    fn into_changes(self) -> Vec<Change> {
        let mut changes = self.earlier;
        changes.reverse();
        changes.push(self.current);
        changes
    }
}

fn check(name: &Name, expected: Option<&Expected>, found: Option<&Digest>) -> Result<(), NameError> {
    match expected {
        Some(expected) if !expected.is(found) => Err(NameError::Unexpected {
            name: name.clone(),
            expected: expected.clone(),
            found: found.copied(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
