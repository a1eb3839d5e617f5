//! Collection: what nothing keeps goes, and nothing else.
//!
//! Mark and sweep, from names, pins, owners and uses. It stops nobody for long, and may be killed anywhere:
//!
//! 1. Which environments go is decided and done in one short moment in which nobody else can begin to rely on one
//!    ([`Store::share`]): their records are moved to the trash.
//! 2. What the other environments hold is marked, while others go on.
//! 3. Layers and trees that nothing holds are moved to the trash, then packs and objects, some hundred in each such moment.
//!    Before each, what was published meanwhile is marked too.
//! 4. Packs with little in them that is alive are written anew, durably, before the old ones go; where the rest is still too large,
//!    others with something dead in them, too.
//! 5. Answers that nobody asks for, and copies, traces and built wheels that belong to what is gone are removed: they are made again when they are missed.
//! 6. What is in the trash is unlinked, once every process that was writing when it was moved there has ended: such a
//!    process may have found it "already there", and gets it back when it publishes something that refers to it.
//!
//! So two things always hold: a record in `environments/` has everything that it refers to in its place, and so has a layer
//! in `layers/`.

mod choose;
mod inventory;
mod mark;
pub mod reasons;
mod repack;
pub mod shares;
mod sweep;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::ballast;
use crate::cache::Boot;
use crate::clock;
use crate::digest::Digest;
use crate::environment::{self, Environment};
use crate::error::Result;
use crate::store::Store;
use crate::trash;
use crate::workspace::Workspace;
use crate::writable;
use choose::{Candidate, Limits, Sizes};
use inventory::{Holding, Inventory};
use mark::Live;
use reasons::{Reason, Use};
use sweep::Sweep;

/// What may stay.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of each name so many of the last environments are kept.
    pub keep_last: usize,
    /// What was made or used within so much time is left alone.
    pub grace: Duration,
    /// Of what nothing keeps, that goes which was not used for so long. Without this and the next all goes.
    pub max_age: Option<Duration>,
    /// Of what nothing keeps, so much goes that the rest takes at most so many bytes: objects, packs, layers and trees. Packs are
    /// written anew without what is dead in them as far as it takes that.
    pub max_bytes: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What only the caller knows of the machine.
pub trait Machine {
    /// The environments that are in use. Leases must be looked at before mount tables: a mount is in the table before its
    /// claim is dropped.
    ///
    /// # Errors
    /// When it cannot be told: then nothing is collected.
    fn uses(&self) -> Result<Vec<Use>>;

    /// The running boot, whose cache is cleaned.
    fn boot(&self) -> Option<Boot>;

    /// Where an environment is seen whenever it is run: what the cache holds for that place stays.
    fn usual_place(&self, signature: &Digest) -> std::path::PathBuf;
}

/// What was collected.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The environments that are gone.
    pub environments: Vec<Digest>,
    /// How many trees, layers, packs, whole objects and files of the cache are gone.
    pub trees: u64,
    /// The same of layers.
    pub layers: u64,
    /// The same of packs.
    pub packs: u64,
    /// The same of whole objects.
    pub objects: u64,
    /// The same of copies in the cache, which are made again when they are needed.
    pub cached: u64,
    /// How many packs were written anew without what nothing holds.
    pub rewritten_packs: u64,
    /// What all of that took on disk, less what was written anew.
    pub freed_bytes: u64,
    /// What of it is still in the trash because a process that writes may rely on it: the next collection unlinks it.
    pub waiting_bytes: u64,
    /// What is left of objects, packs, layers and trees, on disk.
    pub left_bytes: u64,
}

/// Collects.
///
/// # Errors
/// When what keeps environments or what they hold is damaged, or the store cannot be written. What was collected before is
/// gone, and the next collection goes on.
pub fn collect(store: &Store, options: &Options, machine: &dyn Machine) -> Result<Collected> {
    let collected = match collect_once(store, options, machine) {
        // What was collected until then is gone, and the second one goes on.
        Err(error) if error.is_full() && ballast::release(store.root()) => collect_once(store, options, machine),
        result => result,
    }?;
    // Also of a dry run, which may have needed it too.
    ballast::keep(store.root());
    Ok(collected)
}

fn collect_once(store: &Store, options: &Options, machine: &dyn Machine) -> Result<Collected> {
    let _only = store.reserve("collection")?;
    // Sweeps what dead writers have left, and holds what is written anew.
    let workspace = Workspace::create(store)?;
    // What is collected has been dated by the same clock, be it another machine's.
    let started = clock::now_in(workspace.path());
    if !options.dry_run {
        trash::unlink_sealed(store.root())?;
        writable::forget_gone(store)?;
    }
    let mut sweep = Sweep::new(store, &workspace, started, options);
    let environments = load_all(store)?;
    let doomed = choose_environments(store, &environments, options, machine, started)?;
    sweep.environments(doomed, |signatures| {
        let still_there = load_all(store)?;
        // Whatever has begun to keep one since it was chosen wins.
        let kept = reasons::reasons(
            store,
            &still_there,
            options.keep_last,
            &machine.uses()?,
            unix_s(started),
        )?;
        Ok(signatures
            .into_iter()
            .filter(|signature| !kept.contains_key(signature))
            .collect())
    })?;
    sweep.mark()?;
    sweep.layers_and_trees()?;
    sweep.packs_and_objects()?;
    sweep.cache(machine)?;
    sweep.remade()?;
    sweep.unlink()?;
    sweep.finish()
}

/// What keeps each environment of the store; nothing for those that the next collection may remove.
///
/// # Errors
/// When what keeps environments is damaged or cannot be read.
pub fn kept(store: &Store, keep_last: usize, machine: &dyn Machine) -> Result<BTreeMap<Digest, Vec<Reason>>> {
    let environments = load_all(store)?;
    let now_unix_s = unix_s(SystemTime::now());
    let mut kept = reasons::reasons(store, &environments, keep_last, &machine.uses()?, now_unix_s)?;
    for signature in environments.keys() {
        kept.entry(*signature).or_default();
    }
    Ok(kept)
}

/// The environments that hold an object: in a file of their own tree or of the one below, or in a package's list.
///
/// # Errors
/// When a tree or layer is missing or damaged.
pub fn holders(store: &Store, object: &Digest) -> Result<Vec<Digest>> {
    let mut inventory = Inventory::default();
    let mut found = Vec::new();
    for (signature, environment) in load_all(store)? {
        let holding = inventory.read(store, &environment)?;
        if let Some(number) = inventory.number(object)
            && inventory.objects_of(&holding).contains(&number)
        {
            found.push(signature);
        }
    }
    Ok(found)
}

/// All environments in their places. None of them inherits from itself.
pub(crate) fn load_all(store: &Store) -> Result<BTreeMap<Digest, Environment>> {
    let signatures = environment::own_signatures(store)?.into_iter();
    let environments: BTreeMap<_, _> = signatures
        .filter_map(|signature| match environment::get(store, &signature) {
            Ok(found) => found.map(|environment| Ok((signature, environment))),
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_>>()?;
    for environment in environments.values() {
        environment::check_circle(store, environment, |base| environments.get(base)?.base)?;
    }
    Ok(environments)
}

fn choose_environments(
    store: &Store,
    environments: &BTreeMap<Digest, Environment>,
    options: &Options,
    machine: &dyn Machine,
    started: SystemTime,
) -> Result<HashSet<Digest>> {
    let now_unix_s = unix_s(started);
    let kept = reasons::reasons(store, environments, options.keep_last, &machine.uses()?, now_unix_s)?;
    let mut candidates = Vec::new();
    for (signature, environment) in environments {
        if !options.dry_run {
            clock::settle(&environment::own_path(store, signature), started);
        }
        if !kept.contains_key(signature)
            && let Some(last_used_unix_s) = environment::facts(store, signature).last_used_unix_s
        {
            candidates.push(Candidate {
                signature: *signature,
                base: environment.base,
                last_used_unix_s,
            });
        }
    }
    let mut inventory = Inventory::default();
    let mut holdings = BTreeMap::new();
    if options.max_bytes.is_some() {
        for (signature, environment) in environments {
            holdings.insert(*signature, inventory.read(store, environment)?);
        }
    } else {
        holdings.extend(environments.keys().map(|signature| (*signature, Holding::default())));
    }
    let limits = Limits {
        now_unix_s,
        grace: options.grace,
        max_age: options.max_age,
        max_bytes: options.max_bytes,
    };
    Ok(choose::choose(
        &candidates,
        &limits,
        &mut Sizes::new(&inventory, &holdings),
    ))
}

pub(crate) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

#[cfg(test)]
mod tests;
