//! Which environments are mounted or run: the leases of a store beside what the kernel lists
//! and what was linked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use envfs_store::cache::Boot;
use envfs_store::environment;
use envfs_store::lease::{self, LeaseKind, LeaseRecord};
use envfs_store::linked::{self, LinkedRecord};
use envfs_store::{Digest, Store};
use nix::errno::Errno;

use crate::backend::Backend;
use crate::boot;
use crate::link;
use crate::mountinfo::{self, MountEntry};

/// Whether anybody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is served.
    Serving,
    /// Its server was killed, and its keeper is about to start another: programs wait.
    Restarting,
    /// A server answers, but its keeper was killed: nobody would start another.
    Unguarded,
    /// Its server is gone: it is to be unmounted or replaced.
    Dead,
}

/// One mounted environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Why it is mounted; unknown without a lease.
    pub kind: Option<LeaseKind>,
    /// Where it is seen: by all, or for a private run, by its processes.
    pub mount_point: PathBuf,
    /// How it is served, where that is known: of private runs it is not.
    pub backend: Option<Backend>,
    /// The signature, where a lease or the store tells it.
    pub signature: Option<Digest>,
    /// Its first digits.
    pub signature_digits: String,
    /// The process that serves it, where a lease tells it.
    pub pid: Option<u32>,
    /// The process that starts another server if that one dies, where a lease tells it.
    pub keeper_pid: Option<u32>,
    /// The user it belongs to.
    pub uid: Option<u32>,
    /// Since when, in seconds since 1970-01-01 UTC, where a lease tells it.
    pub started_unix_s: Option<u64>,
    /// Whether anybody answers.
    pub state: State,
}

/// The mounts and runs of `store`, and the mounts of this machine that no lease of it knows: those that the kernel serves,
/// those of another store, and those whose server was killed. What a run uses is listed beside the run. Sorted by mount point. Of the
/// mounts only those count that this process sees.
///
/// # Errors
/// When the leases or the mounts cannot be read.
pub fn list(store: &Store) -> Result<Vec<Status>, envfs_store::Error> {
    let mounts = mountinfo::read().map_err(unreadable)?;
    let mut statuses: Vec<_> = lease::list(store)?
        .into_iter()
        .filter(|lease| lease.kind != LeaseKind::Claim)
        .map(|lease| of_lease(lease, &mounts))
        .collect();
    let at_places = |is_meant: fn(&Status) -> bool| -> HashSet<PathBuf> {
        let meant = statuses.iter().filter(|status| is_meant(status));
        meant.map(|status| status.mount_point.clone()).collect()
    };
    // A run may use what the kernel serves or what was linked, and says nothing of that.
    let (known, served) = (
        at_places(|_| true),
        at_places(|status| status.kind != Some(LeaseKind::Run)),
    );
    let is_told = |mount: &MountEntry| if mount.is_kernel() { &served } else { &known }.contains(&mount.mount_point);
    statuses.extend(
        mounts
            .iter()
            .filter(|mount| !is_told(mount))
            .filter_map(|mount| without_lease(store, mount)),
    );
    let boot = boot::current().ok();
    statuses.extend(
        linked::list(store)?
            .into_iter()
            .filter(|record| !served.contains(&record.mount_point))
            .map(|record| of_links(record, boot.as_ref())),
    );
    // The mount before who uses it.
    statuses.sort_by_key(|status| (status.mount_point.clone(), status.kind == Some(LeaseKind::Run)));
    Ok(statuses)
}

/// The environment that is mounted or linked at `path`, if one is. Runs that use it there say nothing of who serves it.
///
/// # Errors
/// When the leases or the mounts cannot be read.
pub fn at(store: &Store, path: &Path) -> Result<Option<Status>, envfs_store::Error> {
    let mounts = mountinfo::read().map_err(unreadable)?;
    let leases = lease::list(store)?;
    let links = linked::list(store)?;
    let boot = boot::current().ok();
    let find = |name: PathBuf| {
        let served = leases
            .iter()
            .find(|lease| matches!(lease.kind, LeaseKind::Mount | LeaseKind::Serve) && lease.mount_point == name);
        if let Some(lease) = served {
            let status = of_lease(lease.clone(), &mounts);
            return (lease.kind == LeaseKind::Mount && status.backend.is_some()).then_some(status);
        }
        let links = links.iter().find(|record| record.mount_point == name);
        mountinfo::at(&mounts, &name)
            .and_then(|mount| without_lease(store, mount))
            .or_else(|| links.map(|record| of_links(record.clone(), boot.as_ref())))
    };
    let mut names = mountinfo::names_of(path).map_err(unreadable)?;
    Ok(names.find_map(find))
}

/// An environment that must not be removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InUse {
    /// The first digits of its signature: [`mountinfo::SOURCE_DIGITS`] of them.
    pub signature_digits: String,
    /// Where it is seen, by whoever sees it there.
    pub mount_point: PathBuf,
}

/// All environments of `store` that are in use: by whom holds a lease, and by mounts that the kernel serves, which hold
/// none. Those are looked for in the mount namespaces of all processes that this one may look at: root sees all of this
/// machine, except where `/proc` hides them; an ordinary user need not see any, because its own runs hold leases. What is
/// mounted on other machines that share the store is seen by its leases. What a server of another store serves counts too,
/// where this one has the environment, because that store may stand on it. Sorted.
///
/// # Errors
/// When the leases or the mounts cannot be read.
pub fn in_use(store: &Store) -> Result<Vec<InUse>, envfs_store::Error> {
    let mut found: Vec<_> = lease::list(store)?
        .into_iter()
        .chain(lease::list_foreign(store)?)
        .map(|lease| InUse {
            signature_digits: digits(&lease.signature),
            mount_point: lease.mount_point,
        })
        .collect();
    let objects = objects_of(store);
    for mounts in mountinfo::read_all_namespaces().map_err(unreadable)? {
        // What is served by another store that stands on this one holds its leases there: only the signature tells.
        let is_served = |mount: &MountEntry| {
            let digits = mount.signature_digits().filter(|_| !mount.is_kernel());
            digits.is_some_and(|digits| environment::find(store, digits).is_ok())
        };
        let ours = mounts
            .into_iter()
            .filter(|mount| mount.may_take_content_from(&objects) || is_served(mount));
        found.extend(ours.filter_map(|mount| {
            Some(InUse {
                signature_digits: mount.signature_digits()?.to_owned(),
                mount_point: mount.mount_point,
            })
        }));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn of_lease(lease: LeaseRecord, mounts: &[MountEntry]) -> Status {
    let mounted = mountinfo::at(mounts, &lease.mount_point);
    let backend = match (lease.kind, mounted) {
        (_, Some(mount)) if mount.is_kernel() => Some(Backend::Kernel),
        (_, Some(mount)) if mount.is_envfs() => Some(Backend::Fuse),
        (LeaseKind::Mount, None) if link::is_linked(&lease.mount_point) => Some(Backend::Link),
        _ => None,
    };
    let state = state_of(&lease);
    Status {
        kind: Some(lease.kind),
        backend,
        mount_point: lease.mount_point,
        signature: Some(lease.signature),
        signature_digits: digits(&lease.signature),
        pid: Some(lease.pid),
        uid: Some(lease.uid),
        started_unix_s: Some(lease.started_unix_s),
        keeper_pid: lease.keeper_pid,
        state,
    }
}

/// The lease is held, so one of its processes lives. What another namespace of processes hides counts as serving.
fn state_of(lease: &LeaseRecord) -> State {
    let Some(keeper) = lease.keeper_pid else {
        return State::Serving;
    };
    match (parent(lease.pid), parent(keeper)) {
        (None, Some(_)) => State::Restarting,
        (Some(parent), _) if parent != keeper => State::Unguarded,
        _ => State::Serving,
    }
}

/// The parent of the process `pid`: the fourth field of its `stat` (proc_pid_stat(5)), behind a name that may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    match fields.next()? {
        // It is not there any more, only not yet waited for.
        "Z" | "X" => None,
        _ => fields.next()?.parse().ok(),
    }
}

fn without_lease(store: &Store, mount: &MountEntry) -> Option<Status> {
    let digits = mount.signature_digits()?.to_owned();
    let is_kernel = mount.is_kernel();
    // statfs(2) is never answered from a cache. Any other answer than this one came from somewhere.
    let is_dead = !is_kernel
        && matches!(
            nix::sys::statfs::statfs(&mount.mount_point),
            Err(Errno::ENOTCONN | Errno::ECONNABORTED)
        );
    let signature = mount
        .may_take_content_from(&objects_of(store))
        .then(|| environment::find(store, &digits).ok())
        .flatten()
        .map(|environment| environment.signature);
    Some(Status {
        kind: is_kernel.then_some(LeaseKind::Mount),
        backend: Some(if is_kernel { Backend::Kernel } else { Backend::Fuse }),
        mount_point: mount.mount_point.clone(),
        signature,
        signature_digits: digits,
        pid: None,
        keeper_pid: None,
        uid: mount.uid(),
        started_unix_s: None,
        state: if is_dead { State::Dead } else { State::Serving },
    })
}

/// What an earlier boot linked may not be what it wrote.
fn of_links(record: LinkedRecord, boot: Option<&Boot>) -> Status {
    let is_dead = boot.is_some_and(|boot| boot.id != record.boot);
    Status {
        kind: Some(LeaseKind::Mount),
        backend: Some(Backend::Link),
        mount_point: record.mount_point,
        signature: Some(record.signature),
        signature_digits: digits(&record.signature),
        pid: None,
        keeper_pid: None,
        uid: Some(record.uid),
        started_unix_s: Some(record.started_unix_s),
        state: if is_dead { State::Dead } else { State::Serving },
    }
}

fn digits(signature: &Digest) -> String {
    signature.to_string()[..mountinfo::SOURCE_DIGITS].to_owned()
}

/// Where the kernel finds whole objects, as the mount table shows it.
fn objects_of(store: &Store) -> PathBuf {
    store.root().join("objects")
}

fn unreadable(source: std::io::Error) -> envfs_store::Error {
    envfs_store::Error::Io {
        action: "read",
        path: "/proc/self/mountinfo".into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_parent_as_long_as_it_is_there() {
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(parent(pid), None);
    }
}
