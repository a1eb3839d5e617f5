//! Mounts that are there already: found, used in place, kept, primed, and taken away when nobody uses them.
//!
//! A warm mount lies where private runs see their environment, but for everybody who may see it. Whoever uses it becomes the
//! command itself, and takes two descriptors along: the mount's root, by which the kernel knows that it is in use, and a lease.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use envfs_store::lease::{self, Lease, LeaseKind};
use envfs_store::warm::{self, Until, WarmRecord};
use envfs_store::{Digest, Store};
use nix::fcntl::{FcntlArg, PosixFadviseAdvice, fcntl, posix_fadvise};

use crate::backend::{self, Backend, BackendError};
use crate::exec::{Command, exec};
use crate::mount::MountOptions;
use crate::mountinfo::{self, MountEntry};
use crate::namespace::private_prefix;
use crate::process;
use crate::run::{RunError, refused};
use crate::service::Service;
use crate::unmount::{self, UnmountError};

/// Descriptors that a command inherits have numbers from here on, out of the way of shells, which use those below 10 (POSIX) and
/// what scripts choose.
const FIRST_INHERITED: i32 = 200;

/// A mounted environment, held so that it stays.
#[derive(Debug)]
pub struct Found {
    /// Where it is.
    pub mount_point: PathBuf,
    root: File,
}

/// For how long nobody has used warm mounts, as the process that looks after them has seen it: by a clock that nobody sets. Of what it
/// has not looked at before it knows nothing.
#[derive(Debug, Default)]
pub struct Idle {
    seen: HashMap<Digest, (Option<SystemTime>, Instant)>,
}

/// A warm mount cannot be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// It cannot be mounted.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// It cannot be unmounted.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
    /// There is no place for it.
    #[error("cannot make the mount point `{}`", path.display())]
    Directory {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What was brought into memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Primed {
    /// How many files and directories were looked at.
    pub names: u64,
    /// How many bytes of files the kernel was asked to read.
    pub bytes: u64,
}

/// Finds the environment `signature` where it is mounted for this user: at the place of its private runs, or at any other.
/// Only what cannot be written to counts. It stays mounted as long as what is returned lives.
#[must_use]
pub fn find(store: &Store, signature: &Digest) -> Option<Found> {
    let mounts = mountinfo::read().ok()?;
    let usual = private_prefix(store, signature);
    let digits = &signature.to_string()[..mountinfo::SOURCE_DIGITS];
    let is_usable = |mount: &&MountEntry| mount.signature_digits() == Some(digits) && is_ours(store, &usual, mount);
    let mut candidates: Vec<&MountEntry> = mounts.iter().filter(is_usable).collect();
    candidates.sort_by_key(|mount| mount.mount_point != usual);
    candidates.into_iter().find_map(|mount| hold(&mounts, mount))
}

/// Mounts the environment of `service` at the place of its private runs, if it is not there, and keeps it `until`.
///
/// # Errors
/// When it cannot be mounted or the wish not be noted; then nothing stays mounted.
pub fn keep(service: &Service, until: Until) -> Result<(Found, Option<Backend>), WarmError> {
    let store = &service.store;
    let record = WarmRecord {
        signature: service.signature,
        mount_point: service.mount_point.clone(),
        uid: nix::unistd::getuid().as_raw(),
        until,
    };
    let _coming = warm::reserve(store, &record.signature, record.uid, true)?;
    let at_its_place = |found: &Found| found.mount_point == service.mount_point;
    if let Some(found) = find(store, &service.signature).filter(at_its_place) {
        record.register(store)?;
        return Ok((found, None));
    }
    let place = &service.mount_point;
    // What a killed server left there answers nobody.
    let _ = unmount::detach(place, true);
    fs::create_dir_all(place).map_err(|source| WarmError::Directory {
        path: place.clone(),
        source,
    })?;
    record.register(store)?;
    let options = MountOptions {
        signature: service.signature,
        allow_other: false,
    };
    let mounted = backend::mount_in_background(service, &options, None, None);
    let found = mounted.map(|backend| (find(store, &service.signature).filter(at_its_place), backend));
    match found {
        Ok((Some(found), backend)) => Ok((found, Some(backend))),
        other => {
            let _ = record.forget(store);
            let _ = unmount::unmount(store, place, true);
            let _ = fs::remove_dir(place);
            Err(match other {
                Err(error) => error.into(),
                Ok(_) => WarmError::Directory {
                    path: place.clone(),
                    source: io::Error::other("what is there cannot be mounted, only linked"),
                },
            })
        }
    }
}

impl Idle {
    fn of(&mut self, store: &Store, record: &WarmRecord) -> Duration {
        let used = record.used(store);
        let seen = self
            .seen
            .entry(record.signature)
            .or_insert_with(|| (used, Instant::now()));
        if seen.0 != used {
            *seen = (used, Instant::now());
        }
        seen.1.elapsed()
    }
}

impl Found {
    /// Becomes `command`. The mount is in use as long as it or what it starts holds what it was given.
    ///
    /// # Errors
    /// Returns only if there is no such program, or it cannot be executed.
    #[must_use]
    pub fn become_command(self, service: &Service, command: &Command) -> RunError {
        // Of a store that cannot be written no lease can be had; the mount's root alone keeps it.
        if let Ok(lease) = Lease::take(&service.store, &service.lease()) {
            inherit(&lease);
            std::mem::forget(lease);
        }
        inherit(&self.root);
        refused(exec(command), command)
    }
}

/// Takes away what nobody uses and nobody wants any more: what was idle for as long as it may be, and of the rest those that
/// were idle the longest, as long as the servers of idle mounts take more than `memory_bytes`. Gives how many are left.
///
/// # Errors
/// When the store cannot be read.
pub fn tidy(store: &Store, memory_bytes: u64, idle: &mut Idle) -> Result<usize, WarmError> {
    let leases = lease::list(store)?;
    let of = |kind, record: &WarmRecord| {
        let mut held = leases.iter();
        held.find(|lease| lease.kind == kind && lease.mount_point == record.mount_point)
            .map(|lease| lease.pid)
    };
    let records = warm::list(store, nix::unistd::getuid().as_raw())?;
    for record in records.iter().filter(|record| of(LeaseKind::Run, record).is_some()) {
        record.touch(store);
    }
    idle.seen
        .retain(|signature, _| records.iter().any(|record| record.signature == *signature));
    let mut records: Vec<(Duration, WarmRecord)> = records
        .into_iter()
        .map(|record| (idle.of(store, &record), record))
        .collect();
    records.sort_by_key(|(idle, _)| *idle);
    let (mut left, mut taken_bytes) = (0, 0);
    for (idle, record) in records {
        let Some(_going) = warm::reserve(store, &record.signature, record.uid, false)? else {
            left += 1;
            continue;
        };
        if !is_mounted(&record.mount_point) {
            record.forget(store)?;
            let _ = fs::remove_dir(&record.mount_point);
            continue;
        }
        let is_over = match record.until {
            Until::Idle { idle_s } => {
                taken_bytes += of(LeaseKind::Mount, &record).map_or(0, process::resident_bytes);
                idle.as_secs() >= idle_s || taken_bytes > memory_bytes
            }
            Until::Stopped | Until::Outrun => false,
        };
        let is_run = of(LeaseKind::Run, &record).is_some();
        if is_run || !is_over {
            left += 1;
        } else if let Err(error) = take_away(store, &record) {
            if matches!(error, WarmError::Unmount(UnmountError::Busy { .. })) {
                // Who came by a path holds no lease, and is seen only now.
                record.touch(store);
            }
            left += 1;
        }
    }
    Ok(left)
}

/// Takes a warm mount away, unless it is in use.
///
/// # Errors
/// When it is in use, or cannot be unmounted.
pub fn stop(store: &Store, record: &WarmRecord) -> Result<(), WarmError> {
    let _going = warm::reserve(store, &record.signature, record.uid, true)?;
    take_away(store, record)
}

fn take_away(store: &Store, record: &WarmRecord) -> Result<(), WarmError> {
    match unmount::unmount(store, &record.mount_point, false) {
        Ok(()) | Err(UnmountError::NotMounted(_)) => {}
        Err(error) => return Err(error.into()),
    }
    record.forget(store)?;
    let _ = fs::remove_dir(&record.mount_point);
    Ok(())
}

/// Whether something of ours is mounted at `path`.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let mounts = mountinfo::read().unwrap_or_default();
    mountinfo::at(&mounts, path).is_some_and(MountEntry::is_envfs)
}

/// Looks at all names below `mount_point` and has the kernel read files, programs and libraries first, until `budget_bytes` of
/// them are on their way.
///
/// # Errors
/// When it cannot be listed.
pub fn prime(mount_point: &Path, budget_bytes: u64) -> io::Result<Primed> {
    let mut primed = Primed::default();
    let mut pending = vec![mount_point.join("lib"), mount_point.join("bin")];
    let others = fs::read_dir(mount_point)?.collect::<io::Result<Vec<_>>>()?;
    let others = others.into_iter().map(|entry| entry.path());
    let mut all: Vec<PathBuf> = others.filter(|path| !pending.contains(path)).collect();
    all.append(&mut pending);
    while let Some(path) = all.pop() {
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        primed.names += 1;
        if metadata.is_dir() {
            all.extend(fs::read_dir(&path)?.filter_map(|entry| Some(entry.ok()?.path())));
        } else if metadata.is_file() && metadata.len() > 0 && primed.bytes + metadata.len() <= budget_bytes {
            let file = File::open(&path)?;
            // Advice: whoever does not follow it reads later.
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
            primed.bytes += metadata.len();
        }
    }
    Ok(primed)
}

/// Whether this user may rely on a mount: it is of this store, nobody can write to it, and nobody else serves it.
fn is_ours(store: &Store, usual: &Path, mount: &MountEntry) -> bool {
    let is_writable = mount
        .super_options
        .split(',')
        .any(|option| option.starts_with("upperdir="));
    if mount.is_kernel() {
        let objects = store.object_directories();
        return !is_writable && objects.iter().any(|objects| mount.may_take_content_from(objects));
    }
    let is_leased = || {
        let leases = lease::list(store).unwrap_or_default();
        leases.iter().any(|lease| lease.mount_point == mount.mount_point)
    };
    mount.uid() == Some(nix::unistd::getuid().as_raw()) && (mount.mount_point == usual || is_leased())
}

/// Opens the root of a mount, if it answers and nothing else covers it.
fn hold(mounts: &[MountEntry], mount: &MountEntry) -> Option<Found> {
    if mountinfo::at(mounts, &mount.mount_point) != Some(mount) {
        return None;
    }
    let root = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(&mount.mount_point)
        .ok()?;
    // Between the look at the table and the open it may have gone; now it cannot any more.
    let outside = mount.mount_point.parent()?.metadata().ok()?;
    let inside = root.metadata().ok()?;
    let is_there =
        inside.dev() != outside.dev() && mountinfo::at(&mountinfo::read().ok()?, &mount.mount_point) == Some(mount);
    // statfs(2) is never answered from a cache: a server that was killed does not answer.
    let answers = mount.is_kernel() || nix::sys::statfs::fstatfs(&root).is_ok();
    (is_there && answers).then(|| Found {
        mount_point: mount.mount_point.clone(),
        root,
    })
}

/// Lets the command that this process becomes have a copy of a descriptor.
fn inherit(descriptor: &impl AsFd) {
    // Without it the mount could be taken away while it is in use, which no command is refused for.
    if let Ok(copy) = fcntl(descriptor.as_fd(), FcntlArg::F_DUPFD(FIRST_INHERITED)) {
        tracing::trace!("descriptor {copy} keeps the mount");
    }
}
