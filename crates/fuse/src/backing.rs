//! Passthrough: objects that the kernel reads itself, without asking us and with one page cache for all mounts.
//!
//! Registering a file needs `CAP_SYS_ADMIN` in the initial user namespace (`fuse_backing_open` of the Linux
//! kernel); the first refusal turns passthrough off for this mount.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::memory::{Memory, Place};
use crate::protocol::connection::{BackingId, Connection};

/// When more objects than this are registered, those that nobody has open are given back. Each takes about
/// 1.4 KB of kernel memory.
const MAX_IDLE: usize = 1024;

/// The objects that the kernel reads itself, by inode.
#[derive(Debug)]
pub(crate) struct BackingFiles {
    enabled: AtomicBool,
    registered: Mutex<Registrations>,
}

#[derive(Debug, Default)]
struct Registrations {
    by_inode: HashMap<u64, Registered>,
    /// Places in the memory that can be taken again.
    free: Vec<Place>,
}

#[derive(Debug)]
struct Registered {
    id: BackingId,
    place: Place,
    /// Opened by this server and not yet closed.
    open_count: u64,
    /// Whether a server before this one has registered it: then nobody knows who has it open, and it stays.
    is_inherited: bool,
}

impl BackingFiles {
    /// What `memory` holds of earlier servers; more is added if passthrough is `enabled`.
    pub(crate) fn new(memory: &Memory, enabled: bool) -> io::Result<Self> {
        let by_inode = memory
            .registered()?
            .into_iter()
            .map(|known| {
                let registered = Registered {
                    id: known.id,
                    place: known.place,
                    open_count: 0,
                    is_inherited: true,
                };
                (known.inode, registered)
            })
            .collect();
        Ok(Self {
            enabled: AtomicBool::new(enabled),
            registered: Mutex::new(Registrations {
                by_inode,
                free: Vec::new(),
            }),
        })
    }

    /// Whether an open may still end in passthrough. While it may, or has, every open must be asked for: the
    /// kernel refuses to have one inode open both ways.
    pub(crate) fn is_needed(&self) -> bool {
        self.enabled.load(Ordering::Relaxed) || !self.lock().by_inode.is_empty()
    }

    /// The registration of `inode`, counted as one more open. The same one as long as it is open: the kernel
    /// refuses another. None where passthrough is off, or was just refused.
    pub(crate) fn acquire<E>(
        &self,
        inode: u64,
        connection: &Connection,
        memory: &Memory,
        object: impl FnOnce() -> Result<Option<File>, E>,
    ) -> Result<Option<BackingId>, E> {
        let mut registered = self.lock();
        if let Some(known) = registered.by_inode.get_mut(&inode) {
            known.open_count += 1;
            return Ok(Some(known.id));
        }
        if !self.enabled.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(object) = object()? else { return Ok(None) };
        match connection.register(&object) {
            Ok(id) => {
                if registered.by_inode.len() >= MAX_IDLE {
                    registered.give_back_idle(connection, memory);
                }
                // Where it cannot be noted, a server after this one could not answer for it.
                let place = registered.free.pop();
                let Ok(place) = memory.remember(inode, id, place) else {
                    registered.free.extend(place);
                    connection.unregister(id);
                    return Ok(None);
                };
                let known = Registered {
                    id,
                    place,
                    open_count: 1,
                    is_inherited: false,
                };
                registered.by_inode.insert(inode, known);
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
        if let Some(known) = self.lock().by_inode.get_mut(&inode) {
            known.open_count = known.open_count.saturating_sub(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registrations> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registrations {
    fn give_back_idle(&mut self, connection: &Connection, memory: &Memory) {
        let idle = self
            .by_inode
            .extract_if(|_, known| known.open_count == 0 && !known.is_inherited);
        for (_, known) in idle {
            if memory.forget(known.place).is_ok() {
                self.free.push(known.place);
            }
            connection.unregister(known.id);
        }
    }
}
