//! Why environments are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::digest::Digest;
use crate::environment::Environment;
use crate::error::Result;
use crate::linked;
use crate::name::Name;
use crate::names::Names;
use crate::roots::{Owner, Pin, Roots};
use crate::store::Store;
use crate::writable;

/// What keeps an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// A name stands for it, or did not long ago.
    Name {
        /// The name.
        name: Name,
        /// The number of the change since which it does.
        number: u64,
        /// Whether it does so now.
        current: bool,
    },
    /// Somebody pinned it.
    Pin(Pin),
    /// Somebody needs it.
    Owner {
        /// Who.
        owner: Owner,
        /// Since when, in seconds since 1970-01-01 UTC.
        since_unix_s: u64,
    },
    /// It is mounted, runs, or is about to.
    Use {
        /// Where it is seen.
        mount_point: PathBuf,
    },
    /// It was linked into a directory.
    Linked {
        /// The directory.
        mount_point: PathBuf,
    },
    /// It is below what was written into a mount.
    Writable {
        /// Where that is, or was, mounted.
        mount_point: PathBuf,
    },
    /// Another one that is kept inherits from it.
    Base {
        /// The other one.
        of: Digest,
    },
}

/// An environment in use, as the mount tables and leases tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The first digits of its signature, or all.
    pub signature_digits: String,
    /// Where it is seen.
    pub mount_point: PathBuf,
}

/// What keeps each of `environments`. Of each name the last `keep_last` environments count.
///
/// # Errors
/// When something that keeps environments is damaged or cannot be read: then nobody knows what is to be kept.
pub fn reasons(
    store: &Store,
    environments: &BTreeMap<Digest, Environment>,
    keep_last: usize,
    uses: &[Use],
    now_unix_s: u64,
) -> Result<BTreeMap<Digest, Vec<Reason>>> {
    let mut found = Found {
        environments,
        reasons: BTreeMap::new(),
    };
    for named in Names::of(store).list()? {
        let named = named?;
        for (index, signature) in named.last(keep_last).enumerate() {
            let since = named.changes().find(|change| change.signature == signature);
            found.add(
                signature,
                Reason::Name {
                    name: named.name.clone(),
                    number: since.map_or(0, |change| change.number),
                    current: index == 0,
                },
            );
        }
    }
    let roots = Roots::of(store);
    for (signature, pins) in roots.pins()? {
        for pin in pins.into_iter().filter(|pin| pin.holds(now_unix_s)) {
            found.add(signature, Reason::Pin(pin));
        }
    }
    for owned in roots.owners()? {
        for (signature, since_unix_s) in owned.environments {
            let owner = owned.owner.clone();
            found.add(signature, Reason::Owner { owner, since_unix_s });
        }
    }
    for used in uses {
        found.add_all_like(
            &used.signature_digits,
            &Reason::Use {
                mount_point: used.mount_point.clone(),
            },
        );
    }
    for record in linked::list(store)? {
        let mount_point = record.mount_point;
        found.add(record.signature, Reason::Linked { mount_point });
    }
    for state in writable::states(store)? {
        let mount_point = state.mount_point;
        found.add(state.signature, Reason::Writable { mount_point });
    }
    found.add_bases();
    Ok(found.reasons)
}

struct Found<'a> {
    environments: &'a BTreeMap<Digest, Environment>,
    reasons: BTreeMap<Digest, Vec<Reason>>,
}

impl Found<'_> {
    /// What is not in the store cannot be kept.
    fn add(&mut self, signature: Digest, reason: Reason) {
        if self.environments.contains_key(&signature) {
            self.reasons.entry(signature).or_default().push(reason);
        }
    }

    fn add_all_like(&mut self, digits: &str, reason: &Reason) {
        let alike: Vec<Digest> = self
            .environments
            .keys()
            .filter(|signature| signature.to_string().starts_with(digits))
            .copied()
            .collect();
        for signature in alike {
            self.add(signature, reason.clone());
        }
    }

    /// Whatever is kept keeps what it inherits from.
    fn add_bases(&mut self) {
        let mut pending: Vec<Digest> = self.reasons.keys().copied().collect();
        while let Some(signature) = pending.pop() {
            let Some(base) = self
                .environments
                .get(&signature)
                .and_then(|environment| environment.base)
            else {
                continue;
            };
            if !self.reasons.contains_key(&base) {
                pending.push(base);
            }
            self.add(base, Reason::Base { of: signature });
        }
    }
}
