//! What environments hold: which trees, layers and objects, and how many bytes these have.

use std::collections::{HashMap, HashSet};

use crate::digest::{Digest, Sha256};
use crate::environment::Environment;
use crate::error::{IoContext, Result};
use crate::layer::Layer;
use crate::pack;
use crate::store::Store;
use crate::tree::Tree;

/// What file systems give to a file at least, and a multiple of.
const BLOCK_BYTES: u64 = 4096;

/// The files that were read so far. Objects have numbers, because many things hold the same ones.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    numbers: HashMap<Digest, u32>,
    /// What each object takes on disk.
    sizes: Vec<u64>,
    trees: HashMap<Digest, Held>,
    layers: HashMap<Sha256, Held>,
}

/// What one tree or layer holds.
#[derive(Debug)]
pub(crate) struct Held {
    /// The numbers of its objects; of a thin tree its own ones.
    pub(crate) objects: Vec<u32>,
    /// The tree that it stands on.
    pub(crate) base: Option<Digest>,
    /// What its own file takes on disk, and what its pack takes beside the objects.
    pub(crate) file_bytes: u64,
}

/// What one environment refers to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holding {
    pub(crate) trees: Vec<Digest>,
    pub(crate) layers: Vec<Sha256>,
}

impl Inventory {
    /// Reads what `environment` refers to, without that of its base.
    ///
    /// # Errors
    /// When its tree is missing or damaged, or a layer is damaged.
    pub(crate) fn read(&mut self, store: &Store, environment: &Environment) -> Result<Holding> {
        let mut holding = Holding::default();
        let mut next = Some(environment.tree);
        while let Some(digest) = next {
            next = self.read_tree(store, &digest)?;
            holding.trees.push(digest);
        }
        let packages = environment.packages.iter().map(|package| package.sha256);
        for layer in packages.chain(environment.link_scripts) {
            if self.read_layer(store, &layer)? {
                holding.layers.push(layer);
            }
        }
        Ok(holding)
    }

    /// Reads a layer, if it is in its place.
    ///
    /// # Errors
    /// When it is damaged.
    pub(crate) fn read_layer(&mut self, store: &Store, archive: &Sha256) -> Result<bool> {
        if self.layers.contains_key(archive) {
            return Ok(true);
        }
        let path = store.layer_path(archive);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            bytes => bytes.at("read", &path)?,
        };
        let layer = Layer::read(&path, &bytes)?;
        // Its small objects came in a pack, whose last block is not full.
        let has_pack = layer.objects().any(|(_, size_bytes)| is_packed(size_bytes));
        let held = Held {
            objects: self.numbers_of(layer.objects()),
            base: None,
            file_bytes: blocks(bytes.len() as u64) + if has_pack { BLOCK_BYTES } else { 0 },
        };
        self.layers.insert(*archive, held);
        Ok(true)
    }

    pub(crate) fn tree(&self, digest: &Digest) -> &Held {
        &self.trees[digest]
    }

    pub(crate) fn layer(&self, archive: &Sha256) -> &Held {
        &self.layers[archive]
    }

    /// The numbers of all objects that are held, each once.
    pub(crate) fn objects_of(&self, holding: &Holding) -> HashSet<u32> {
        let trees = holding.trees.iter().map(|tree| self.tree(tree));
        let held = trees.chain(holding.layers.iter().map(|layer| self.layer(layer)));
        held.flat_map(|held| held.objects.iter().copied()).collect()
    }

    pub(crate) fn number(&self, digest: &Digest) -> Option<u32> {
        self.numbers.get(digest).copied()
    }

    /// What the object takes on disk, in bytes.
    pub(crate) fn size_bytes(&self, number: u32) -> u64 {
        self.sizes[number as usize]
    }

    /// How many objects are known.
    pub(crate) fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Reads a tree, and gives its base.
    fn read_tree(&mut self, store: &Store, digest: &Digest) -> Result<Option<Digest>> {
        if let Some(held) = self.trees.get(digest) {
            return Ok(held.base);
        }
        let tree: Tree = store.tree(digest)?;
        let files = tree
            .files(true)
            .map(|node| node.map(|node| (node.digest(), node.stored_bytes())))
            .collect::<Result<Vec<_>>>()?;
        let held = Held {
            objects: self.numbers_of(files.into_iter()),
            base: tree.base(),
            file_bytes: blocks(tree.file_bytes()),
        };
        let base = held.base;
        self.trees.insert(*digest, held);
        Ok(base)
    }

    fn numbers_of(&mut self, objects: impl Iterator<Item = (Digest, u64)>) -> Vec<u32> {
        let mut numbers: Vec<u32> = objects
            .map(|(digest, size_bytes)| {
                let next = u32::try_from(self.sizes.len()).expect("fewer than four thousand million objects");
                *self.numbers.entry(digest).or_insert_with(|| {
                    self.sizes.push(disk_bytes(size_bytes));
                    next
                })
            })
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// What an object takes on disk: in a pack its part of it, whole full blocks.
fn disk_bytes(size_bytes: u64) -> u64 {
    if is_packed(size_bytes) {
        pack::packed_bytes(size_bytes)
    } else {
        blocks(size_bytes)
    }
}

fn is_packed(size_bytes: u64) -> bool {
    size_bytes < pack::MIN_WHOLE_BYTES as u64
}

/// What a file of so many bytes takes on disk.
pub(crate) fn blocks(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(BLOCK_BYTES)
}
