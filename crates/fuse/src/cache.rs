//! The files that were read last, so that reading one in pieces opens it once. Bounded; knows nothing of trees.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use envfs_store::store::Location;
use envfs_store::tree::{Node, NodeId};
use envfs_store::view::OpenFile;

/// No more files are kept open. A descriptor each, where the file is a whole object.
const MAX_FILES: usize = 64;

/// No more bytes of small files are kept in memory.
const MAX_BYTES: u64 = 256 * 1024;

/// The files that were read last, the latest in front.
#[derive(Debug, Default)]
pub(crate) struct RecentFiles {
    files: Mutex<VecDeque<Recent>>,
}

#[derive(Debug)]
struct Recent {
    id: NodeId,
    file: Arc<OpenFile>,
    /// What it takes in memory.
    held_bytes: u64,
}

impl RecentFiles {
    /// The file of `node`; opened by `open` if it is not at hand.
    pub(crate) fn get_or_open<E>(
        &self,
        node: Node<'_>,
        open: impl FnOnce() -> Result<OpenFile, E>,
    ) -> Result<Arc<OpenFile>, E> {
        if let Some(file) = self.find(node.id()) {
            return Ok(file);
        }
        // Opened without the lock: two readers may both open it, and that is harmless.
        let file = Arc::new(open()?);
        let held_bytes = match node.location() {
            Ok(Location::Pack(..)) => node.stored_bytes(),
            _ => 0,
        };
        self.insert(Recent {
            id: node.id(),
            file: Arc::clone(&file),
            held_bytes,
        });
        Ok(file)
    }

    /// Forgets all of them.
    pub(crate) fn clear(&self) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn find(&self, id: NodeId) -> Option<Arc<OpenFile>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let at = files.iter().position(|recent| recent.id == id)?;
        if at != 0 {
            let recent = files.remove(at)?;
            files.push_front(recent);
        }
        files.front().map(|recent| Arc::clone(&recent.file))
    }

    fn insert(&self, recent: Recent) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.push_front(recent);
        let held = |files: &VecDeque<Recent>| files.iter().map(|recent| recent.held_bytes).sum::<u64>();
        while files.len() > 1 && (files.len() > MAX_FILES || held(&files) > MAX_BYTES) {
            files.pop_back();
        }
    }
}
