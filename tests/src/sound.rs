//! What must be true of a store whatever has happened to those who wrote to it, and what it holds, to be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use envfs_store::Store;
use envfs_store::digest::Digest;
use envfs_store::environment;
use envfs_store::lease;
use envfs_store::names::Names;
use envfs_store::roots::Roots;
use envfs_store::verify::Kind;
use envfs_store::workspace::Workspace;
use nix::fcntl::{Flock, FlockArg};

use crate::program::files_below;

/// What a store holds: what of it has a name that others know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Objects of their own, layers and environments.
    pub files: BTreeSet<PathBuf>,
    /// Names, and what they stand for.
    pub names: BTreeMap<String, Digest>,
    /// Environments that are pinned, and how often.
    pub pins: BTreeMap<Digest, usize>,
    /// Owners, and what they need.
    pub owners: BTreeMap<String, BTreeSet<Digest>>,
}

impl Content {
    /// What the store at `root` holds; nothing where there is none yet.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        if !root.join("FORMAT").exists() {
            return Self::default();
        }
        let store = Store::open(root).unwrap();
        let mut files = BTreeSet::new();
        for part in ["layers", "environments"] {
            files.extend(files_below(&root.join(part)));
        }
        for shard in files_below(&root.join("objects")) {
            files.extend(files_below(&shard));
        }
        let names = Names::of(&store).list().unwrap();
        let names = names.into_iter().map(|named| {
            let named = named.unwrap();
            (named.name.to_string(), named.current.signature)
        });
        let roots = Roots::of(&store);
        let owners = roots.owners().unwrap();
        Self {
            files,
            names: names.collect(),
            pins: roots
                .pins()
                .unwrap()
                .into_iter()
                .map(|(signature, pins)| (signature, pins.len()))
                .collect(),
            owners: owners
                .into_iter()
                .map(|owned| (owned.owner.to_string(), owned.environments.into_keys().collect()))
                .collect(),
        }
    }

    /// The environments.
    #[must_use]
    pub fn environments(&self) -> BTreeSet<&Path> {
        let files = self.files.iter().map(PathBuf::as_path);
        files
            .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
            .collect()
    }
}

/// Everything that is wrong with the store at `root`: what does not verify, what refers to nothing, what is still locked. Where
/// there is no store yet, nothing is.
///
/// # Panics
/// Never; what cannot be read is wrong.
#[must_use]
pub fn wrongs(root: &Path) -> Vec<String> {
    if !root.join("FORMAT").exists() {
        return Vec::new();
    }
    let mut wrongs = Vec::new();
    if let Err(error) = look(root, &mut wrongs) {
        wrongs.push(shown(&error));
    }
    wrongs
}

fn look(root: &Path, wrongs: &mut Vec<String>) -> envfs_store::Result<()> {
    let store = Store::open(root)?;
    let findings = store.verify()?.findings.into_iter();
    // What is made again when it is missed may be cut off.
    let truths = findings.filter(|finding| !matches!(finding.kind, Kind::Cache | Kind::Index));
    wrongs.extend(truths.map(|finding| finding.message));
    for named in Names::of(&store).list()? {
        let named = named?;
        if environment::get(&store, &named.current.signature)?.is_none() {
            wrongs.push(format!("{} stands for nothing", named.name));
        }
    }
    let roots = Roots::of(&store);
    let pinned = roots.pins()?.into_keys();
    let owned = roots
        .owners()?
        .into_iter()
        .flat_map(|owned| owned.environments.into_keys());
    for signature in pinned.chain(owned) {
        if environment::get(&store, &signature)?.is_none() {
            wrongs.push(format!("{signature} is kept, and not there"));
        }
    }
    wrongs.extend(
        lease::list(&store)?
            .iter()
            .map(|record| format!("a lease is held: {record:?}")),
    );
    let locks = locks_below(root);
    wrongs.extend(
        locks
            .iter()
            .filter(|path| is_held(path))
            .map(|path| format!("{} is held", path.display())),
    );
    Ok(())
}

/// How many trees there are. What one is called depends on who was first to bring an object.
#[must_use]
pub fn count_trees(root: &Path) -> usize {
    files_below(&root.join("trees")).len()
}

/// What is left in the store at `root` of those that have ended, after the next one has begun to write.
///
/// # Panics
/// When the store cannot be opened.
#[must_use]
pub fn leftovers(root: &Path) -> Vec<PathBuf> {
    let store = Store::open(root).unwrap();
    drop(Workspace::create(&store).unwrap());
    let mut left = files_below(&root.join("tmp"));
    // A draft of the format file may be one of somebody who is just making the store: it goes after a minute.
    left.retain(|path| {
        !path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("draft-"))
    });
    left.extend(files_below(&root.join("leases")));
    left
}

fn locks_below(root: &Path) -> Vec<PathBuf> {
    let places = ["", "tmp", "refs", "roots/pins", "roots/owners", "links", "leases"];
    let files = places.iter().flat_map(|place| files_below(&root.join(place)));
    let is_lock = |path: &PathBuf| path.is_file() && path.to_string_lossy().ends_with("lock");
    files.filter(is_lock).collect()
}

fn is_held(path: &Path) -> bool {
    std::fs::File::open(path).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}

fn shown(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", shown(cause)),
        None => error.to_string(),
    }
}
