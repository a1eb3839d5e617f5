//! Passthrough: objects that the kernel reads itself, without asking us and with one page cache for all mounts.
//!
//! Registering a file needs `CAP_SYS_ADMIN` in the initial user namespace (`fuse_backing_open` of the Linux
//! kernel); the first refusal turns passthrough off for this mount.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackingId, ReplyOpen};

/// When more objects than this are registered, those that nobody has open are given back. Each takes about
/// 1.4 KB of kernel memory.
const MAX_IDLE: usize = 1024;

/// The objects that the kernel reads itself, by inode.
#[derive(Debug, Default)]
pub(crate) struct BackingFiles {
    enabled: AtomicBool,
    registered: Mutex<HashMap<u64, Registered>>,
}

#[derive(Debug)]
struct Registered {
    id: Arc<BackingId>,
    open_count: u64,
}

impl BackingFiles {
    /// Called once, when the kernel has agreed to passthrough.
    pub(crate) fn enable(&self) {
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Whether an open may still end in passthrough. While it may, or has, every open must be asked for: the
    /// kernel refuses to have one inode open both ways.
    pub(crate) fn is_needed(&self) -> bool {
        self.enabled.load(Ordering::Relaxed) || !self.lock().is_empty()
    }

    /// The registration of `inode`, counted as one more open. The same one as long as it is open: the kernel
    /// refuses another. None where passthrough is off, or was just refused.
    pub(crate) fn acquire<E>(
        &self,
        inode: u64,
        reply: &ReplyOpen,
        object: impl FnOnce() -> Result<Option<File>, E>,
    ) -> Result<Option<Arc<BackingId>>, E> {
        let mut registered = self.lock();
        if let Some(known) = registered.get_mut(&inode) {
            known.open_count += 1;
            return Ok(Some(Arc::clone(&known.id)));
        }
        if !self.enabled.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(object) = object()? else { return Ok(None) };
        match reply.open_backing(&object) {
            Ok(id) => {
                if registered.len() >= MAX_IDLE {
                    registered.retain(|_, known| known.open_count > 0);
                }
                let id = Arc::new(id);
                registered.insert(
                    inode,
                    Registered {
                        id: Arc::clone(&id),
                        open_count: 1,
                    },
                );
                Ok(Some(id))
            }
            Err(error) => {
                tracing::debug!(%error, "passthrough is refused, large files are read through this process");
                self.enabled.store(false, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    /// One open less of `inode`.
    pub(crate) fn release(&self, inode: u64) {
        if let Some(known) = self.lock().get_mut(&inode) {
            known.open_count = known.open_count.saturating_sub(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Registered>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
