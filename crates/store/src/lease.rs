//! Who uses what: a lease is a locked file, and the kernel drops the lock with its process.
//!
//! A crash never leaks a lease: a file that nobody holds locked is one whose process is gone, and whoever lists
//! leases sweeps it. Where several hosts share a store, a lock of one need not be seen by the others: a lease says on which boot
//! of which host it was taken, and that of another host counts until it is [`FOREIGN_LIFE`] old.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::digest::Digest;
use crate::durable;
use crate::environment::{self, Environment};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lock::FileLock;
use crate::store::Store;
use crate::workspace::Workspace;

/// Why something is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// It is mounted.
    Mount,
    /// A command runs in it.
    Run,
    /// It is about to be mounted or run.
    Claim,
    /// Environments are mounted when they are asked for there: of [`NO_ENVIRONMENT`].
    Serve,
}

/// What a lease names that is of no environment.
pub const NO_ENVIRONMENT: Digest = Digest::from_bytes([0; 32]);

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Why.
    pub kind: LeaseKind,
    /// Which environment.
    pub signature: Digest,
    /// Where it is seen.
    pub mount_point: PathBuf,
    /// The process that holds it: where there is a server, that one.
    pub pid: u32,
    /// The process that starts another server if that one dies, and holds the lease with it.
    #[serde(default)]
    pub keeper_pid: Option<u32>,
    /// The user that holds it.
    pub uid: u32,
    /// Since when, in seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
}

/// Records are padded to a multiple of this, so that another process number changes no length.
const PADDED_BYTES: usize = 64;

/// How long a lease of another host counts whose lock is not seen here: longer than functions run, and short enough that a
/// host that is gone does not keep things for ever.
pub const FOREIGN_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// A lease as it stands in its file.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    record: LeaseRecord,
    #[serde(flatten)]
    host: Host,
}

/// A lease that is held until it is dropped.
#[derive(Debug)]
pub struct Lease {
    lock: FileLock,
    path: PathBuf,
}

impl std::os::fd::AsFd for Lease {
    /// The locked file: whoever holds a copy of its descriptor holds the lease.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.lock.file().as_fd()
    }
}

impl Lease {
    /// Takes a lease for this process.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn take(store: &Store, record: &LeaseRecord) -> Result<Self> {
        let name = format!(
            "{}-{}.json",
            record.pid,
            &Digest::of(record.mount_point.as_os_str().as_encoded_bytes()).to_string()[..16]
        );
        Self::take_as(store, &name, record)
    }

    fn take_as(store: &Store, name: &str, record: &LeaseRecord) -> Result<Self> {
        let path = store.path("leases").join(name);
        let lock = FileLock::transient(&path)?;
        let lease = Self { lock, path };
        lease.update(record)?;
        Ok(lease)
    }

    /// Changes what it says. A process that was forked holds the leases of the one that forked it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn update(&self, record: &LeaseRecord) -> Result<()> {
        let written = Written {
            record: record.clone(),
            host: Host::current().clone(),
        };
        let mut text = serde_json::to_vec(&written).map_err(|error| Error::corrupt(&self.path, error.to_string()))?;
        let padded = text.len().next_multiple_of(PADDED_BYTES);
        text.resize(padded - 1, b' ');
        text.push(b'\n');
        durable::write_over(self.lock.file(), &self.path, &text)
    }
}

/// What is claimed and seen nowhere yet.
const NOWHERE: &str = "/";

/// An environment that is about to be mounted or run, held before anything else holds it: it is not collected.
#[derive(Debug)]
pub struct Claim {
    lease: Lease,
    record: LeaseRecord,
}

impl Claim {
    /// Takes the environment `signature`, wherever it will be seen, and gives it as it is from then on. Notes that it is used.
    ///
    /// # Errors
    /// When it is not in the store. Of a store that may only be read nothing can be taken, and nothing is.
    pub fn take(store: &Store, signature: &Digest) -> Result<(Environment, Option<Self>)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let _shared = match store.share() {
            Err(error) if error.is_read_only() => {
                return Ok((environment::load(store, signature)?, None));
            }
            shared => shared?,
        };
        let environment = environment::load(store, signature)?;
        environment::touch(store, signature);
        let record = LeaseRecord {
            kind: LeaseKind::Claim,
            signature: *signature,
            mount_point: PathBuf::from(NOWHERE),
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            started_unix_s: std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs()),
            keeper_pid: None,
        };
        let name = format!("{}-claim-{}.json", record.pid, NEXT.fetch_add(1, Ordering::Relaxed));
        match Lease::take_as(store, &name, &record) {
            Err(error) if error.is_read_only() => Ok((environment, None)),
            result => Ok((environment, Some(Self { lease: result?, record }))),
        }
    }

    /// Records `environment` and takes it, so that nobody collects it in between.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn publish(
        store: &Store,
        workspace: &Workspace,
        environment: &Environment,
    ) -> Result<(Environment, Option<Self>)> {
        let _shared = store.share()?;
        environment.publish(store, workspace)?;
        Self::take(store, &environment.signature)
    }

    /// What is claimed.
    #[must_use]
    pub fn signature(&self) -> &Digest {
        &self.record.signature
    }

    /// Whether it has a place, and that is another one than `mount_point`.
    #[must_use]
    pub fn is_elsewhere(&self, mount_point: &Path) -> bool {
        self.record.mount_point != Path::new(NOWHERE) && self.record.mount_point != mount_point
    }

    /// Notes where it is about to be seen: what is laid out for that place is kept too.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn place(&mut self, mount_point: &Path) -> Result<()> {
        if self.record.mount_point != mount_point {
            mount_point.clone_into(&mut self.record.mount_point);
            self.lease.update(&self.record)?;
        }
        Ok(())
    }
}

/// The leases that processes of this host hold now. Sweeps those whose processes are gone.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list(store: &Store) -> Result<Vec<LeaseRecord>> {
    Ok(held(store)?.0)
}

/// The leases that processes of other hosts hold, as far as can be told from here.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list_foreign(store: &Store) -> Result<Vec<LeaseRecord>> {
    Ok(held(store)?.1)
}

/// The leases of this host and those of others.
fn held(store: &Store) -> Result<(Vec<LeaseRecord>, Vec<LeaseRecord>)> {
    let (mut own, mut foreign) = (Vec::new(), Vec::new());
    let here = Host::current();
    // The clock of this host may be wrong as well.
    let now = LazyCell::new(|| clock::now_in(&store.path("tmp")));
    for path in crate::store::list(&store.path("leases"))? {
        let lock = FileLock::try_transient(&path)?;
        let written = std::fs::read(&path).ok();
        let written: Option<Written> = written.and_then(|text| serde_json::from_slice(&text).ok());
        let is_foreign = written
            .as_ref()
            .is_some_and(|written| here.is_apart_from(&written.host));
        match (lock, written) {
            // The lock of another host need not be seen here.
            (lock, Some(written)) if is_foreign => {
                match lock {
                    Some(lock) if foreign_age(&path, &written.record, *now) <= FOREIGN_LIFE => lock.leave(),
                    Some(_expired) => continue,
                    None => {}
                }
                foreign.push(written.record);
            }
            // Nobody held it: dropping our own lock removes the file.
            (Some(_abandoned), _) => {}
            (None, Some(written)) => own.push(written.record),
            (None, None) => {}
        }
    }
    Ok((own, foreign))
}

/// How old a lease of another host is. The clock of that host may be wrong: the store's, which has dated the file, counts as
/// well, and the younger of the two.
fn foreign_age(path: &Path, record: &LeaseRecord, now: SystemTime) -> Duration {
    let written = clock::age_at(path, now);
    let started = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(record.started_unix_s));
    // One from the future says nothing, and must not keep things until then.
    let started = started.and_then(|started| now.duration_since(started).ok());
    [written, started].into_iter().flatten().min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_it_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let record = LeaseRecord {
            kind: LeaseKind::Mount,
            signature: Digest::of(b"x"),
            mount_point: "/envs/x".into(),
            pid: std::process::id(),
            keeper_pid: None,
            uid: 0,
            started_unix_s: 1,
        };
        let lease = Lease::take(&store, &record).unwrap();
        assert_eq!(list(&store).unwrap(), std::slice::from_ref(&record));
        let changed = LeaseRecord {
            pid: u32::MAX,
            keeper_pid: Some(record.pid),
            ..record
        };
        lease.update(&changed).unwrap();
        assert_eq!(list(&store).unwrap(), [changed]);
        drop(lease);
        assert_eq!(list(&store).unwrap(), []);
        std::fs::write(store.root().join("leases/1-abandoned.json"), "{}").unwrap();
        assert_eq!(list(&store).unwrap(), []);
        assert_eq!(std::fs::read_dir(store.root().join("leases")).unwrap().count(), 0);
    }

    /// Puts a lease there as another host, or another boot, has written it.
    fn write(store: &Store, name: &str, host: Host, started_unix_s: u64, dated: SystemTime) -> LeaseRecord {
        let record = LeaseRecord {
            kind: LeaseKind::Run,
            signature: Digest::of(b"x"),
            mount_point: "/envs/x".into(),
            pid: 1,
            keeper_pid: None,
            uid: 0,
            started_unix_s,
        };
        let written = Written {
            record: record.clone(),
            host,
        };
        let path = store.root().join("leases").join(name);
        std::fs::write(&path, serde_json::to_vec(&written).unwrap()).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(dated).unwrap();
        record
    }

    fn host(host: &str, boot: &str) -> Host {
        Host {
            host: host.to_owned(),
            boot: boot.to_owned(),
        }
    }

    #[test]
    fn a_lease_of_another_host_counts_until_it_is_old_and_one_of_an_earlier_boot_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let here = Host::current();
        let write = |name: &str, host: Host, age_s: u64| {
            let dated = SystemTime::now() - Duration::from_secs(age_s);
            write(&store, name, host, now - age_s, dated)
        };
        let alive = write("1-a.json", host("elsewhere", "another"), 3600);
        write("1-b.json", host("elsewhere", "another"), FOREIGN_LIFE.as_secs() + 1);
        write("1-c.json", host(&here.host, "an earlier one"), 3600);
        write("1-d.json", host("a container", &here.boot), 3600);
        for _ in 0..2 {
            assert_eq!(list(&store).unwrap(), []);
            assert_eq!(list_foreign(&store).unwrap(), std::slice::from_ref(&alive));
        }
        assert_eq!(std::fs::read_dir(store.root().join("leases")).unwrap().count(), 1);
    }

    #[test]
    fn a_lease_of_a_host_whose_clock_is_wrong_is_neither_lost_nor_held_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let now = SystemTime::now();
        let year = Duration::from_secs(365 * 86_400);
        let path = store.root().join("leases/1-a.json");
        let write = |started: SystemTime, dated: SystemTime| {
            let started_unix_s = started.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            write(&store, "1-a.json", host("elsewhere", "another"), started_unix_s, dated);
            list_foreign(&store).unwrap().len()
        };
        // Its clock began in 1970, as that of a machine without a battery does; the store knows better.
        assert_eq!(write(std::time::UNIX_EPOCH, now), 1);
        // Both are a year ahead: it counts, and from now on it ages.
        assert_eq!(write(now + year, now + year), 1);
        assert!(path.metadata().unwrap().modified().unwrap() <= SystemTime::now());
        assert_eq!(write(now + year, now - FOREIGN_LIFE - Duration::from_secs(60)), 0);
        assert!(!path.exists());
    }
}
