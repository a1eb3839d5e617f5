//! Which environments are mounted or run: the leases of a store beside what the kernel lists.

use std::path::PathBuf;

use envfs_store::lease::{self, LeaseKind};
use envfs_store::{Digest, Store};
use nix::errno::Errno;

use crate::mountinfo::{self, MountEntry};

/// Whether anybody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A server answers.
    Serving,
    /// Its server is gone: only `envfs umount` is left to do.
    Dead,
}

/// One mounted environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Why it is mounted; unknown without a lease.
    pub kind: Option<LeaseKind>,
    /// Where it is seen: by all, or for a private run, by its processes.
    pub mount_point: PathBuf,
    /// The signature, where a lease tells it.
    pub signature: Option<Digest>,
    /// Its first digits.
    pub signature_digits: String,
    /// The process that serves it, where a lease tells it.
    pub pid: Option<u32>,
    /// The user it belongs to.
    pub uid: Option<u32>,
    /// Since when, in seconds since 1970-01-01 UTC, where a lease tells it.
    pub started_unix_s: Option<u64>,
    /// Whether anybody answers.
    pub state: State,
}

/// The mounts and runs of `store`, and the mounts of this machine that no lease of it knows: those of another
/// store, and those whose server was killed. Sorted by mount point.
///
/// # Errors
/// When the leases or the mounts cannot be read.
pub fn list(store: &Store) -> Result<Vec<Status>, envfs_store::Error> {
    let mounts = mountinfo::read().map_err(|source| envfs_store::Error::Io {
        action: "read",
        path: "/proc/self/mountinfo".into(),
        source,
    })?;
    let mut statuses: Vec<_> = lease::list(store)?
        .into_iter()
        .map(|lease| {
            let digits = lease.signature.to_string()[..mountinfo::SOURCE_DIGITS].to_owned();
            Status {
                kind: Some(lease.kind),
                mount_point: lease.mount_point,
                signature: Some(lease.signature),
                signature_digits: digits,
                pid: Some(lease.pid),
                uid: Some(lease.uid),
                started_unix_s: Some(lease.started_unix_s),
                // The lease is held, so its process lives.
                state: State::Serving,
            }
        })
        .collect();
    let known: std::collections::HashSet<_> = statuses.iter().map(|status| status.mount_point.clone()).collect();
    statuses.extend(
        mounts
            .iter()
            .filter(|mount| !known.contains(&mount.mount_point))
            .filter_map(without_lease),
    );
    statuses.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    Ok(statuses)
}

fn without_lease(mount: &MountEntry) -> Option<Status> {
    let digits = mount.signature_digits()?;
    // statfs(2) is never answered from a cache. Any other answer than this one came from somewhere.
    let is_dead = matches!(
        nix::sys::statfs::statfs(&mount.mount_point),
        Err(Errno::ENOTCONN | Errno::ECONNABORTED)
    );
    Some(Status {
        kind: None,
        mount_point: mount.mount_point.clone(),
        signature: None,
        signature_digits: digits.to_owned(),
        pid: None,
        uid: mount.uid(),
        started_unix_s: None,
        state: if is_dead { State::Dead } else { State::Serving },
    })
}
