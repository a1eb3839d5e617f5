//! What is to be served, whatever the way. Knows nothing of how.

use std::path::PathBuf;

use envfs_store::lease::{LeaseKind, LeaseRecord};
use envfs_store::view::View;
use envfs_store::{Digest, Store};

/// An environment that is to be served.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its store.
    pub store: Store,
    /// Its files, as seen at `mount_point`.
    pub view: View,
    /// The name of its tree.
    pub tree: Digest,
    /// Its signature.
    pub signature: Digest,
    /// Where it is seen.
    pub mount_point: PathBuf,
    /// Why it is served.
    pub kind: LeaseKind,
}

impl Service {
    /// What this process says when it holds the lease.
    pub(crate) fn lease(&self) -> LeaseRecord {
        LeaseRecord {
            kind: self.kind,
            signature: self.signature,
            mount_point: self.mount_point.clone(),
            pid: std::process::id(),
            keeper_pid: None,
            uid: nix::unistd::getuid().as_raw(),
            started_unix_s: unix_now_s(),
        }
    }
}

/// Seconds since 1970-01-01 UTC.
pub(crate) fn unix_now_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs())
}
