//! What this process knows of the packs of a store: which are open, and which object is where in them.
//!
//! It is only remembered: packs come and go by other processes, and whoever does not find something looks again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Store, list};
use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::pack::{self, PackEntry};

/// What is known of the packs so far.
#[derive(Default)]
pub(super) struct PackCache {
    /// Packs that are open for reading.
    open: HashMap<Digest, Arc<File>>,
    /// Where every packed object is, once somebody had to ask.
    pub(super) index: HashMap<Digest, (Digest, PackEntry)>,
    /// The packs that [`PackCache::index`] covers.
    pub(super) indexed: HashSet<PathBuf>,
    /// Packs that are not there any more, so that hints at them cost nothing.
    gone: HashSet<Digest>,
}

impl Store {
    /// Looks at the packs again, for those that other processes have added.
    ///
    /// # Errors
    /// When the packs cannot be listed.
    pub fn refresh(&self) -> Result<()> {
        self.index_packs(&mut self.packs())
    }

    /// Forgets all packs if one of those that are known was removed: who starts to write must not rely on it.
    pub(crate) fn forget_removed_packs(&self) -> Result<()> {
        if self.packs().indexed.is_empty() {
            Ok(())
        } else {
            self.reload()
        }
    }

    /// Forgets what is known of packs that were removed, and looks at those that were added.
    pub(crate) fn reload(&self) -> Result<()> {
        let mut packs = self.packs();
        let is_current = packs.indexed.iter().all(|path| path.exists());
        if !is_current {
            packs.index.clear();
            packs.indexed.clear();
            // Whoever has one open reads on; a hint at it leads nowhere new.
            packs.open.clear();
        }
        packs.gone.clear();
        self.index_packs(&mut packs)
    }

    /// Forgets all that is known of packs: after one was replaced.
    pub(crate) fn forget_packs(&self) {
        *self.packs() = PackCache::default();
    }

    /// Remembers a pack that was just published.
    pub(crate) fn add_to_index(&self, id: Digest, entries: Vec<PackEntry>) {
        let mut packs = self.packs();
        packs.indexed.insert(self.own_pack_path(&id));
        for entry in entries {
            packs.index.insert(entry.digest, (id, entry));
        }
    }

    /// How many objects are in packs.
    ///
    /// # Errors
    /// When the packs cannot be listed.
    pub(crate) fn packed_count(&self) -> Result<u64> {
        self.refresh()?;
        Ok(self.packs().index.len() as u64)
    }

    /// The object's bytes, if the pack still holds them there.
    pub(super) fn read_packed(&self, pack: &Digest, offset: u64, digest: &Digest, size_bytes: u64) -> Option<Vec<u8>> {
        let file = self.open_pack(pack).ok()?;
        let entry = PackEntry {
            digest: *digest,
            offset_bytes: offset,
            size_bytes: u32::try_from(size_bytes).ok()?,
        };
        pack::read_object(&file, &entry)
    }

    pub(super) fn find_packed(&self, digest: &Digest, size_bytes: u64) -> Option<Vec<u8>> {
        let (pack, entry) = self.packs().index.get(digest).copied()?;
        self.read_packed(&pack, entry.offset_bytes, digest, size_bytes)
    }

    fn open_pack(&self, id: &Digest) -> Result<Arc<File>> {
        let mut packs = self.packs();
        if let Some(file) = packs.open.get(id) {
            return Ok(Arc::clone(file));
        }
        if packs.gone.contains(id) {
            return Err(self.missing("pack", id.to_string()));
        }
        let path = self.pack_path(id);
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                if error.kind() == std::io::ErrorKind::NotFound {
                    packs.gone.insert(*id);
                }
                return Err(error).at("open", &path);
            }
        };
        packs.open.insert(*id, Arc::clone(&file));
        Ok(file)
    }

    pub(super) fn index_packs(&self, packs: &mut PackCache) -> Result<()> {
        for path in list(&self.path("packs"))? {
            if packs.indexed.contains(&path) {
                continue;
            }
            let id = path
                .file_stem()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse().ok());
            if let Some(id) = id {
                match pack::read_index(&path) {
                    Ok(entries) => {
                        for entry in entries {
                            packs.index.insert(entry.digest, (id, entry));
                        }
                    }
                    Err(error) if error.is_gone() => continue, // since it was listed
                    // What cannot be told apart is not there, and is written again by who brings it; `envfs verify` says
                    // what is wrong with the pack.
                    Err(Error::Corrupt { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            packs.indexed.insert(path);
        }
        Ok(())
    }

    pub(super) fn packs(&self) -> MutexGuard<'_, PackCache> {
        // The cache holds only what was read from immutable files, so it is right whoever panicked.
        self.0.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
