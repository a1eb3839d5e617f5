//! Bytecode in the tree: beside the modules that are seen, and nowhere else.
//!
//! Added when all packages are, because a module may have been replaced by one of the same size and time.

use envfs_store::digest::Digest;
use envfs_store::layer::{EntryKind, Layer};
use envfs_store::path::{EnvPath, InvalidPath};
use envfs_store::tree::merge::{Leaf, Merge, PackageIndex};

use super::leaf;
use crate::bytecode::{Bytecode, source_of};

/// Bytecode that waits for the packages.
pub(super) struct Waiting<'a> {
    bytecode: &'a Bytecode,
    files: Vec<Compiled>,
}

struct Compiled {
    package: PackageIndex,
    path: EnvPath,
    /// Where its module would be, and what that was compiled from.
    source: EnvPath,
    digest: Digest,
    leaf: Leaf,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(bytecode: &'a Bytecode) -> Self {
        Self {
            bytecode,
            files: Vec::new(),
        }
    }

    /// Notes what belongs to a layer; `target` says where a path of it goes.
    pub(super) fn note(
        &mut self,
        package: PackageIndex,
        layer: &Layer,
        target: impl Fn(&EnvPath) -> Result<EnvPath, InvalidPath>,
    ) -> Result<(), InvalidPath> {
        let Some(compiled) = self.bytecode.get(&layer.archive) else {
            return Ok(());
        };
        for entry in &compiled.entries {
            let Some(source) = source_of(&entry.path) else { continue };
            let found = layer.entries.binary_search_by(|other| other.path.cmp(&source)).ok();
            let Some(EntryKind::File(module)) = found.map(|index| &layer.entries[index].kind) else {
                continue;
            };
            let Some(leaf) = leaf(entry, compiled.patched_mtime_s) else {
                continue;
            };
            self.files.push(Compiled {
                package,
                path: target(&entry.path)?,
                source: target(&source)?,
                digest: module.digest,
                leaf,
            });
        }
        Ok(())
    }

    /// Adds the bytecode of the modules that are seen.
    pub(super) fn add_to(&mut self, merge: &mut Merge) {
        for file in std::mem::take(&mut self.files) {
            let is_seen = matches!(merge.get(&file.source), Some(Leaf::File { digest, .. }) if *digest == file.digest);
            if is_seen {
                // What a package ships has the time of another installation, and is no clash.
                merge.remove(&file.path);
                merge.add(Some(file.package), &file.path, file.leaf);
            }
        }
    }
}
