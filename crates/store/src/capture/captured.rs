//! A captured layer: what it brings, removes and names, and the tree and the environment that it makes of those below.
//!
//! Knows nothing of mounts, nor of the directory that it was captured from.

use crate::digest::Digest;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::ingest::Written;
use crate::layer::{Entry, EntryKind, Layer};
use crate::lease::Claim;
use crate::path::EnvPath;
use crate::signature;
use crate::store::Store;
use crate::tree::WrittenTree;
use crate::tree::merge::{Leaf, Merge};
use crate::workspace::Workspace;

/// The names under which a captured layer lists what was removed, and what is bound to the prefix: paths, each ended by NUL.
pub(super) const REMOVED: &str = "removed";
pub(super) const BOUND: &str = "bound";

/// The environment that `layer` makes of `environment`, recorded, and not collected as long as the claim lives. Its tree stands
/// on the old one's.
///
/// # Errors
/// When something of the environment is missing or damaged, or the store cannot be written.
pub fn commit(
    store: &Store,
    workspace: &Workspace,
    environment: &Environment,
    layer: &Layer,
    mut written: Written,
) -> Result<(Environment, Option<Claim>)> {
    let signature = signature::of_change(&environment.subdir, &environment.signature, &layer.archive);
    let _reservation = store.reserve(&format!("environment-{signature}"))?;
    match Claim::take(store, &signature) {
        Err(Error::Missing { .. }) => {}
        found => return found,
    }
    let tree = apply(store, workspace, &environment.tree, layer)?;
    written += Written {
        objects: 0,
        bytes: tree.new_bytes,
        inodes: u64::from(tree.new_bytes > 0) + 1,
    };
    let mut changed = Environment::new(signature, environment.subdir.clone(), tree.digest);
    changed.base = Some(environment.signature);
    changed.variables.clone_from(&environment.variables);
    changed.added = written;
    Claim::publish(store, workspace, &changed)
}

/// The tree that `layer` makes of the tree `digest`, on which it stands. Durable.
///
/// # Errors
/// When the tree or an object is missing or damaged, or the store cannot be written.
pub fn apply(store: &Store, workspace: &Workspace, digest: &Digest, layer: &Layer) -> Result<WrittenTree> {
    let base = store.tree(digest)?;
    let mut merge = Merge::from_tree(&base)?;
    add_to(&mut merge, layer);
    merge.write(store, workspace, Some((*digest, &base)))
}

/// Takes out of `merge` what `layer` removes, and puts in what it brings, as a package named after it.
pub fn add_to(merge: &mut Merge, layer: &Layer) {
    for path in removed(layer) {
        merge.remove(&path);
    }
    let package = merge.package(&format!("changes-{}", &layer.archive.to_string()[..16]));
    for entry in &layer.entries {
        match leaf(entry) {
            Some(leaf) => merge.add(Some(package), &entry.path, leaf),
            None => merge.add_directory(Some(package), &entry.path),
        }
    }
}

/// The paths that a captured layer removes.
#[must_use]
pub fn removed(layer: &Layer) -> Vec<EnvPath> {
    paths(layer, REMOVED)
}

/// The files of a captured layer that name the prefix at which they were written, and cannot be changed for another.
#[must_use]
pub fn bound(layer: &Layer) -> Vec<EnvPath> {
    paths(layer, BOUND)
}

fn paths(layer: &Layer, name: &str) -> Vec<EnvPath> {
    let paths = layer.info.get(name).map_or(b"".as_slice(), Vec::as_slice);
    paths
        .split(|&byte| byte == 0)
        .filter_map(|path| EnvPath::parse(path).ok())
        .collect()
}

fn leaf(entry: &Entry) -> Option<Leaf> {
    match &entry.kind {
        EntryKind::Directory => None,
        EntryKind::Symlink(target) => Some(Leaf::Symlink {
            target: target.clone(),
            mtime_s: entry.mtime_s,
        }),
        EntryKind::File(file) => Some(Leaf::File {
            digest: file.digest,
            size_bytes: file.size_bytes,
            mtime_s: entry.mtime_s,
            executable: file.executable,
            placeholder: file.placeholder.clone(),
        }),
    }
}

/// Paths as a captured layer lists them.
pub(super) fn join(paths: &[EnvPath]) -> Vec<u8> {
    paths
        .iter()
        .flat_map(|path| [path.as_bytes(), b"\0"].concat())
        .collect()
}
