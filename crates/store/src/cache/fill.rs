//! Filling the cache: all content of a tree as files that the kernel reads by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Mutex, PoisonError};

use super::unpack::{self, Filled, Wanted};
use super::{Cache, content_path};
use crate::digest::Digest;
use crate::durable::{self, Draft};
use crate::error::Result;
use crate::stamps::Checks;
use crate::store::Location;
use crate::tree::{NodeId, NodeKind, Tree};
use crate::view::View;
use crate::wire::{self, Reader, Writer};
use crate::workspace::Workspace;

/// Part of the name of the list of a tree's files that look different at each prefix: another form of it, or of what is
/// laid out before it is written, must have another name.
const LAID_OUT_SALT: &[u8] = b"laid out 2";

/// No more threads unpack at once: they wait for the same disk.
const MAX_THREADS: usize = 4;

/// A tree whose content lies where the kernel looks for it.
#[derive(Debug, Default)]
pub struct LaidOut {
    /// The files that look different at each prefix.
    pub patched: Vec<NodeId>,
    /// What was copied, and what could not be.
    pub filled: Filled,
}

impl Cache {
    /// What [`Cache::lay_out`] said in this boot of the tree called `name`, if nothing was lost: its files that look
    /// different at each prefix.
    #[must_use]
    pub fn laid_out(&self, name: &Digest) -> Option<Vec<NodeId>> {
        if self.store.checks() == Checks::Always {
            return None;
        }
        let bytes = fs::read(self.image_path(name, LAID_OUT_SALT)).ok()?;
        let mut fields = Reader::new(wire::without_digest(&bytes)?);
        let count = fields.u32()?;
        (0..count).map(|_| fields.u32().map(NodeId)).collect()
    }

    /// Unpacks the packs of `tree`, called `name`, unless they are, and finds out what else the kernel will need.
    ///
    /// # Errors
    /// When the tree is damaged, or the store cannot be written.
    pub fn lay_out(&self, workspace: &Workspace, name: &Digest, tree: &Tree) -> Result<LaidOut> {
        let mut laid = LaidOut::default();
        let mut packs: BTreeMap<Digest, Wanted> = BTreeMap::new();
        let mut objects = BTreeSet::new();
        for id in 0..tree.node_count() {
            let node = tree.node(NodeId(id))?;
            if node.kind()? != NodeKind::File {
                continue;
            }
            if node.has_placeholder() {
                laid.patched.push(node.id());
            }
            match node.location()? {
                Location::Object => drop(objects.insert(node.digest())),
                Location::Pack(pack, offset) => {
                    let at = (offset, node.stored_bytes());
                    packs.entry(pack).or_default().insert(at, node.digest());
                }
            }
        }
        laid.filled = self.unpack_all(workspace, packs)?;
        for &digest in &objects {
            if !self.store.object_path(&digest).exists() {
                laid.filled
                    .lose(digest, self.store.missing("object", digest.to_string()))?;
            } else if self.store.checks() == Checks::Always
                && let Err(error) = self.store.check_whole(&digest)
            {
                laid.filled.lose(digest, error)?;
            }
        }
        if objects.iter().all(|digest| self.store.is_settled(digest)) {
            self.store.stamps().note_all_of(name);
        }
        if laid.filled.lost.is_empty() {
            let mut list = Writer::default();
            list.count(laid.patched.len());
            laid.patched.iter().for_each(|id| list.u32(id.0));
            let path = self.image_path(name, LAID_OUT_SALT);
            durable::write_evictable(workspace.path(), &path, &wire::with_digest(list.finish()))?;
        }
        Ok(laid)
    }

    /// Whether the files `patched` are there as they look at the prefix of `view`.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn has_patched(&self, view: &View, patched: &[NodeId]) -> Result<bool> {
        let directory = self.patched_directory(view);
        for &id in patched {
            if !directory.join(content_path(view.tree().node(id)?)?).exists() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the files `patched` as they look at the prefix of `view`, unless they are there. What is missing or damaged
    /// is left out and told.
    ///
    /// # Errors
    /// When the tree is damaged, or the store cannot be written.
    pub fn fill_patched(&self, workspace: &Workspace, view: &View, patched: &[NodeId]) -> Result<Filled> {
        let mut filled = Filled::default();
        let directory = self.patched_directory(view);
        durable::create_directory(&directory.join(super::PATCHED_PART))?;
        let prefix = directory.join(super::PREFIX_FILE);
        if !prefix.exists() {
            durable::write_evictable(workspace.path(), &prefix, view.prefix().as_bytes())?;
        }
        for &id in patched {
            let node = view.tree().node(id)?;
            let path = directory.join(content_path(node)?);
            if path.exists() {
                continue;
            }
            match view.read(node) {
                Ok(bytes) => {
                    let mut draft = Draft::create(workspace.path())?;
                    draft.write_all(&bytes)?;
                    draft.publish(&path)?;
                    filled.count(bytes.len());
                }
                Err(error) => filled.lose(node.digest(), error)?,
            }
        }
        Ok(filled)
    }

    /// Unpacks by several threads, the packs with most files first.
    fn unpack_all(&self, workspace: &Workspace, packs: BTreeMap<Digest, Wanted>) -> Result<Filled> {
        let small = self.root.join("small");
        let mut queue: Vec<_> = packs.into_iter().collect();
        queue.sort_by_key(|(_, wanted)| wanted.len());
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_THREADS)
            .min(queue.len());
        let queue = Mutex::new(queue);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || -> Result<Filled> {
            let mut filled = Filled::default();
            while let Some((pack, wanted)) = next() {
                unpack::unpack(&self.store, workspace.path(), &small, (&pack, &wanted), &mut filled)?;
            }
            Ok(filled)
        };
        let mut all = Filled::default();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            all.add(work()?);
            for worker in workers {
                match worker.join() {
                    Ok(filled) => all.add(filled?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })
    }
}
