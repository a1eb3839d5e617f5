//! Packs with little in them that is alive, or whose dead part is too much for what the store may take, written anew without the
//! rest.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;

use super::mark::Live;
use crate::digest::Digest;
use crate::durable;
use crate::error::{IoContext, Result};
use crate::pack::{self, PackEntry, PackWriter};
use crate::store::Store;
use crate::workspace::Workspace;

/// A pack is written anew when less than one half of it is alive: then writing costs less than it frees.
const MIN_ALIVE_DIVISOR: u64 = 2;

/// What is alive in several packs is put together up to so much.
const MAX_PACK_BYTES: u64 = 64 << 20;

/// A pack that is to be written anew.
pub(super) struct Sparse {
    pub(super) path: PathBuf,
    alive: Vec<PackEntry>,
    bytes: u64,
}

impl Sparse {
    pub(super) fn dead_bytes(&self) -> u64 {
        self.bytes.saturating_sub(alive_bytes(&self.alive))
    }
}

/// What was written anew.
#[derive(Default)]
pub(super) struct Rewritten {
    pub(super) objects: HashSet<Digest>,
    pub(super) bytes: u64,
}

/// Those of the packs at `paths` that are to be written anew: those with little that is alive, and as many others as it takes to free
/// `excess_bytes`, the most dead first. What is in several packs is alive in the first, and of the others it is told as
/// `elsewhere`.
pub(super) fn sparse(
    paths: &[PathBuf],
    live: &Live,
    excess_bytes: u64,
    elsewhere: &mut HashSet<Digest>,
) -> Result<Vec<Sparse>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut others = Vec::new();
    for path in paths {
        let Ok(entries) = pack::read_index(path) else {
            continue; // `envfs store verify` says what is wrong with it
        };
        let count = entries.len();
        let mut alive = Vec::new();
        for entry in entries.into_iter().filter(|entry| live.has_object(&entry.digest)) {
            if seen.insert(entry.digest) {
                alive.push(entry);
            } else {
                elsewhere.insert(entry.digest);
            }
        }
        if alive.len() == count {
            continue;
        }
        let pack = Sparse {
            path: path.clone(),
            alive,
            bytes: path.metadata().at("inspect", path)?.len(),
        };
        let is_sparse = alive_bytes(&pack.alive) < pack.bytes / MIN_ALIVE_DIVISOR;
        if is_sparse { &mut found } else { &mut others }.push(pack);
    }
    others.sort_by_key(|pack| std::cmp::Reverse(pack.dead_bytes()));
    let mut freed_bytes: u64 = found.iter().map(Sparse::dead_bytes).sum();
    for pack in others {
        if freed_bytes >= excess_bytes {
            break;
        }
        freed_bytes += pack.dead_bytes();
        found.push(pack);
    }
    Ok(found)
}

/// Writes what is alive in `packs` into new ones, which are durable when this returns.
pub(super) fn rewrite(store: &Store, workspace: &Workspace, packs: &[Sparse]) -> Result<Rewritten> {
    let mut rewritten = Rewritten::default();
    let mut writer = PackWriter::create(workspace.path())?;
    let mut pending_bytes = 0;
    for sparse in packs {
        let file = File::open(&sparse.path).at("open", &sparse.path)?;
        let mut entries = sparse.alive.clone();
        entries.sort_by_key(|entry| entry.offset_bytes);
        for entry in entries {
            // One that is damaged stays where it is, and its pack with it, for whoever can repair it.
            if let Some(bytes) = pack::read_object(&file, &entry) {
                writer.append(entry.digest, &bytes)?;
                rewritten.objects.insert(entry.digest);
                pending_bytes += u64::from(entry.size_bytes);
            }
        }
        if pending_bytes >= MAX_PACK_BYTES {
            let full = std::mem::replace(&mut writer, PackWriter::create(workspace.path())?);
            rewritten.bytes += publish(store, full)?;
            pending_bytes = 0;
        }
    }
    if !writer.is_empty() {
        rewritten.bytes += publish(store, writer)?;
    }
    durable::sync_directory(&store.path("packs"))?;
    Ok(rewritten)
}

fn publish(store: &Store, writer: PackWriter) -> Result<u64> {
    let sealed = writer.seal()?;
    sealed.draft.publish(&store.own_pack_path(&sealed.id))?;
    store.add_to_index(sealed.id, sealed.entries);
    Ok(sealed.size_bytes)
}

fn alive_bytes(entries: &[PackEntry]) -> u64 {
    entries
        .iter()
        .map(|entry| pack::packed_bytes(entry.size_bytes.into()))
        .sum()
}
