//! What a collection must know of this machine: what is mounted, and what the cache is for.

use std::path::PathBuf;

use envfs_fuse::{private_prefix, status};
use envfs_store::cache::Boot;
use envfs_store::gc::Machine;
use envfs_store::gc::reasons::Use;
use envfs_store::{Digest, Store};

/// This machine, as seen by this user.
pub(crate) struct ThisMachine<'a> {
    pub(crate) store: &'a Store,
}

impl Machine for ThisMachine<'_> {
    fn uses(&self) -> envfs_store::Result<Vec<Use>> {
        let uses = status::in_use(self.store)?.into_iter().map(|used| Use {
            signature_digits: used.signature_digits,
            mount_point: used.mount_point,
        });
        Ok(uses.collect())
    }

    fn boot(&self) -> Option<Boot> {
        envfs_fuse::current_boot().ok()
    }

    fn usual_place(&self, signature: &Digest) -> PathBuf {
        private_prefix(self.store, signature)
    }
}
