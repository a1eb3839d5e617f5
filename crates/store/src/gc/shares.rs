//! What each environment takes, alone and shared with others.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::choose::Sizes;
use super::inventory::{Inventory, blocks};
use super::load_all;
use crate::digest::Digest;
use crate::error::Result;
use crate::store::Store;
use crate::tree::{NodeKind, Tree};

/// What one environment takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The environment.
    pub signature: Digest,
    /// The one that it inherits from.
    pub base: Option<Digest>,
    /// What only it holds, in bytes on disk: what removing it would free.
    pub unique_bytes: u64,
    /// What it holds together with others, in bytes on disk.
    pub shared_bytes: u64,
    /// What a directory with the same files would take on a file system with blocks of 4096 bytes.
    pub directory_bytes: u64,
    /// How many files and directories that would have.
    pub directory_inodes: u64,
}

/// What all environments take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// Each of them, the one with the most of its own first.
    pub environments: Vec<Share>,
    /// What all of them hold together, in bytes on disk.
    pub total_bytes: u64,
    /// What they would take as directories.
    pub directory_bytes: u64,
}

/// What the environments of `store` take. Reads every tree and every layer.
///
/// # Errors
/// When one of them is missing or damaged.
pub fn shares(store: &Store) -> Result<Shares> {
    let mut inventory = Inventory::default();
    let mut holdings = BTreeMap::new();
    let environments = load_all(store)?;
    for (signature, environment) in &environments {
        // What it inherits it holds as well.
        let mut holding = inventory.read(store, environment)?;
        let mut base = environment.base;
        while let Some(below) = base.and_then(|base| environments.get(&base)) {
            let below_holding = inventory.read(store, below)?;
            holding.layers.extend(below_holding.layers);
            holding.trees.extend(below_holding.trees);
            base = below.base;
        }
        holding.trees.sort_unstable();
        holding.trees.dedup();
        holding.layers.sort_unstable();
        holding.layers.dedup();
        holdings.insert(*signature, holding);
    }
    let sizes = Sizes::new(&inventory, &holdings);
    let mut shares = Vec::new();
    for (signature, environment) in &environments {
        let (directory_bytes, directory_inodes) = as_directory(&store.tree(&environment.tree)?)?;
        let unique_bytes = sizes.unique_bytes(signature);
        let all: u64 = inventory
            .objects_of(&holdings[signature])
            .into_iter()
            .map(|number| inventory.size_bytes(number))
            .sum();
        let files = holdings[signature]
            .trees
            .iter()
            .map(|tree| inventory.tree(tree).file_bytes);
        let lists = holdings[signature]
            .layers
            .iter()
            .map(|layer| inventory.layer(layer).file_bytes);
        shares.push(Share {
            signature: *signature,
            base: environment.base,
            unique_bytes,
            shared_bytes: (all + files.sum::<u64>() + lists.sum::<u64>()).saturating_sub(unique_bytes),
            directory_bytes,
            directory_inodes,
        });
    }
    shares.sort_by_key(|share| (std::cmp::Reverse(share.unique_bytes), share.signature));
    Ok(Shares {
        total_bytes: sizes.total_bytes(),
        directory_bytes: shares.iter().map(|share| share.directory_bytes).sum(),
        environments: shares,
    })
}

/// Bytes on disk and inodes of the directory that `tree` stands for.
fn as_directory(tree: &Tree) -> Result<(u64, u64)> {
    let (mut bytes, mut inodes) = (0, 0);
    let mut seen = HashSet::new();
    let mut pending = vec![tree.root()?.id()];
    while let Some(id) = pending.pop() {
        if !seen.insert(id) {
            continue;
        }
        bytes += blocks(1);
        inodes += 1;
        for child in tree.children(tree.node(id)?, 0)? {
            let child = child?;
            match child.kind()? {
                NodeKind::Directory => pending.push(child.id()),
                NodeKind::File => {
                    bytes += blocks(child.stored_bytes());
                    inodes += 1;
                }
                // A short target lies in the inode.
                NodeKind::Symlink => inodes += 1,
            }
        }
    }
    Ok((bytes, inodes))
}
