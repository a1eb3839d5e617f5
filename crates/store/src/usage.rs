//! How much a store holds, and how much room it takes.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::{IoContext, Result};
use crate::store::{Store, list};

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// How many packages.
    pub layers: u64,
    /// How many environments.
    pub environments: u64,
    /// How many whole objects.
    pub objects: u64,
    /// How many packs.
    pub packs: u64,
    /// How many objects in packs.
    pub packed_objects: u64,
    /// What all files take on disk, in bytes.
    pub disk_bytes: u64,
    /// How many files and directories there are.
    pub inodes: u64,
}

impl Store {
    /// How much the store holds. Walks the whole store.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage {
            layers: count(&self.path("layers"))?,
            environments: count(&self.path("environments"))?,
            packs: count(&self.path("packs"))?,
            ..Usage::default()
        };
        usage.packed_objects = self.packed_count()?;
        for shard in list(&self.path("objects"))? {
            usage.objects += count(&shard)?;
        }
        let (disk_bytes, inodes) = disk_usage(self.root())?;
        Ok(Usage {
            disk_bytes,
            inodes,
            ..usage
        })
    }
}

fn count(directory: &Path) -> Result<u64> {
    list(directory).map(|paths| paths.len() as u64)
}

/// Bytes on disk and inodes below `directory`, itself included.
pub(crate) fn disk_usage(directory: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let own = fs::symlink_metadata(directory).at("inspect", directory)?;
    let (mut bytes, mut inodes) = (own.blocks() * 512, 1);
    if !own.is_dir() {
        return Ok((bytes, inodes));
    }
    for path in list(directory)? {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue; // gone since it was listed
        };
        if metadata.is_dir() {
            let (below_bytes, below_inodes) = disk_usage(&path)?;
            bytes += below_bytes;
            inodes += below_inodes;
        } else {
            bytes += metadata.blocks() * 512;
            inodes += 1;
        }
    }
    Ok((bytes, inodes))
}
