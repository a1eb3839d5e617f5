//! One mount in which every environment appears when it is asked for: [`crate::entrances`] as the kernel asks for them.
//!
//! ```text
//! program            open /envs/science:current/bin/python
//! kernel             lookup, lookup, lookup, readlink  ->  this process
//! this process       has it mounted by a process of its own, at the place of private runs
//! kernel             goes on at <place>/bin/python, and never asks here again for what is opened from there
//! ```
//!
//! The kernel may keep nothing of what it is told: names move on, environments come and go. Who waits for a mount is answered by a
//! thread of its own, so that the others need not wait, and no thread here ever looks into this mount.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use envfs_store::lease::{LeaseKind, LeaseRecord, NO_ENVIRONMENT};
use envfs_store::path::MAX_NAME_BYTES;
use envfs_store::warm::{Until, WarmRecord};
use envfs_store::{Digest, Store};
use nix::errno::Errno;

use crate::causes::with_causes;
use crate::entrances::{Entrances, Item};
use crate::errno::errno;
use crate::fs::{BLOCK_BYTES, FsError};
use crate::journal::Journal;
use crate::keep::{self, Attached, ENDING_SIGNALS, Ending, ServerError};
use crate::keeper::{self, Kept};
use crate::memory::Memory;
use crate::mount::{self, MountOptions};
use crate::mountinfo;
use crate::namespace::private_prefix;
use crate::process::{self, ProcessError};
use crate::protocol::connection::{Connection, REQUEST_BYTES};
use crate::protocol::init;
use crate::protocol::reply::{Line, Listing};
use crate::protocol::request::{Operation, Request, Span};
use crate::protocol::wire;
use crate::server;
use crate::service::unix_now_s;
use crate::unmount;
use crate::warm;

/// Mounts an environment at the place of its private runs, or says why that cannot be done.
pub type Bring = Arc<dyn Fn(&Digest) -> Result<(), String> + Send + Sync>;

/// Threads here only wait.
const STACK_BYTES: usize = 256 * 1024;

/// Shows the environments of `store` at `mount_point`, which [`mount::check_mount_point`] has passed, from processes in the
/// background that mount them by `bring`: a server, and its keeper. What they have to say goes to `log`.
///
/// # Errors
/// When it cannot be mounted or served; then nothing stays mounted.
pub fn in_background(store: &Store, mount_point: &Path, log: Option<&File>, bring: &Bring) -> Result<(), ServerError> {
    attached(mount_point, |device| {
        keep::spawn_in_background(mount_point, log, &[], |ready| {
            guard(store, mount_point, &device, bring, ready)
        })
        .map(drop)
    })
}

/// The same, but this process is the keeper, and stays until a signal asks it to end or the mount is gone. Calls `ready` when it is
/// usable.
///
/// # Errors
/// As [`in_background`].
pub fn in_foreground(
    store: &Store,
    mount_point: &Path,
    bring: &Bring,
    ready: impl FnOnce(),
) -> Result<(), ServerError> {
    attached(mount_point, |device| guard(store, mount_point, &device, bring, ready))
}

/// Between mounting and serving nobody may end this process: a mount without a server would stay.
fn attached(mount_point: &Path, work: impl FnOnce(OwnedFd) -> Result<(), ServerError>) -> Result<(), ServerError> {
    let mask = process::block_signals(&ENDING_SIGNALS)?;
    let options = MountOptions {
        signature: NO_ENVIRONMENT,
        allow_other: false,
    };
    let result = mount::mount(mount_point, &options)
        .map_err(ServerError::from)
        .and_then(|device| {
            work(device).inspect_err(|_| {
                // The error that led here says more than a second one.
                let _ = unmount::detach(mount_point, true);
            })
        });
    let _ = mask.thread_set_mask();
    result
}

/// Has the directory served by a process of its own, and by another one if that is killed.
fn guard(
    store: &Store,
    mount_point: &Path,
    device: &OwnedFd,
    bring: &Bring,
    ready: impl FnOnce(),
) -> Result<(), ServerError> {
    let journals = Journals::new().map_err(ProcessError::io("remember what a server knows"))?;
    let record = LeaseRecord {
        kind: LeaseKind::Serve,
        signature: NO_ENVIRONMENT,
        mount_point: mount_point.to_owned(),
        pid: std::process::id(),
        keeper_pid: None,
        uid: nix::unistd::getuid().as_raw(),
        started_unix_s: unix_now_s(),
    };
    let kept = Kept {
        store,
        record: &record,
        device: device.as_fd(),
    };
    keeper::guard(&kept, ready, |lease, memory, is_ready| {
        lease.update(&LeaseRecord {
            pid: std::process::id(),
            keeper_pid: Some(record.pid),
            ..record.clone()
        })?;
        answer(&kept, bring, &memory, &journals, is_ready)
    })
}

/// What a server leaves to the one after it.
struct Journals {
    /// The numbers of what is shown.
    entrances: Journal,
    /// What was mounted for who came here.
    brought: Journal,
}

impl Journals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            entrances: Journal::new()?,
            brought: Journal::new()?,
        })
    }
}

fn answer(
    kept: &Kept<'_>,
    bring: &Bring,
    memory: &Memory,
    journals: &Journals,
    ready: impl FnOnce(),
) -> Result<(), ServerError> {
    let (store, mount_point) = (kept.store, &kept.record.mount_point);
    let failed = |source| ServerError::Connection {
        mount_point: mount_point.clone(),
        source,
    };
    let begin = || -> io::Result<Server> {
        let connection = Connection::new(kept.device.try_clone_to_owned()?);
        match memory.agreed() {
            // Whatever the one before us had not answered comes again.
            Some(_) => connection.ask_again()?,
            None => drop(server::agree(&connection, memory, init::WANTED_WHERE_THINGS_CHANGE)?),
        }
        let brought = journals.brought.again()?;
        Ok(Server {
            connection: Arc::new(connection),
            entrances: Entrances::of(store, journals.entrances.again()?)?,
            listings: HashMap::new(),
            places: Arc::new(Places {
                store: store.clone(),
                bring: Arc::clone(bring),
                turns: Mutex::default(),
                is_over: RwLock::new(false),
                brought,
            }),
        })
    };
    let mut server = begin().map_err(failed)?;
    let places = Arc::clone(&server.places);
    let (ended, running) = io::pipe().map_err(ProcessError::io("make a pipe"))?;
    let reader = thread::Builder::new()
        .name("envfs-reader".into())
        .spawn(move || {
            // Closed when the mount is gone.
            let _running = running;
            server.read()
        })
        .map_err(ProcessError::io("start a thread"))?;
    ready();
    let attached = Attached::Mount {
        mount_point,
        source: mountinfo::source(&NO_ENVIRONMENT),
    };
    keep::await_end(Some(&ended), &Ending::Signal, &attached)?;
    let result = match reader.join() {
        Ok(result) => result.map_err(failed),
        Err(panic) => std::panic::resume_unwind(panic),
    };
    places.take_away();
    result
}

/// Environments at the places of their private runs.
struct Places {
    store: Store,
    bring: Bring,
    /// Held by who has an environment mounted, so that each is mounted once.
    turns: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    /// What was mounted for who came here, also by servers before this one.
    brought: Journal,
    is_over: RwLock<bool>,
}

impl Places {
    /// Where `signature` is mounted, from now on if it was not.
    fn get(&self, signature: &Digest) -> Result<PathBuf, String> {
        let is_over = self.is_over.read().unwrap_or_else(PoisonError::into_inner);
        if *is_over {
            return Err("the server ends".into());
        }
        if let Some(place) = self.there(signature) {
            return Ok(place);
        }
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(*signature).or_default())
        };
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = self.there(signature) {
            return Ok(place);
        }
        // Known before it is there: a server that is killed meanwhile leaves nothing that nobody takes away.
        self.brought.add(signature).map_err(|error| error.to_string())?;
        (self.bring)(signature)?;
        self.there(signature)
            .ok_or_else(|| "it went away at once: is it stopped by `envfs warm --stop`?".into())
    }

    /// Where `signature` is mounted, if it is. Counts as a use, so that it stays until whoever asks has entered it.
    fn there(&self, signature: &Digest) -> Option<PathBuf> {
        let place = private_prefix(&self.store, signature);
        let record = WarmRecord {
            signature: *signature,
            mount_point: place.clone(),
            uid: nix::unistd::getuid().as_raw(),
            until: Until::Stopped,
        };
        record.touch(&self.store);
        warm::find(&self.store, signature)
            .filter(|found| found.mount_point == place)
            .map(|_| place)
    }

    /// Unmounts what was mounted for who came here. What is in use stays until nobody has used it for long enough.
    fn take_away(&self) {
        *self.is_over.write().unwrap_or_else(PoisonError::into_inner) = true;
        let brought: HashSet<Digest> = self.brought.lines().unwrap_or_default().into_iter().collect();
        let records = envfs_store::warm::list(&self.store, nix::unistd::getuid().as_raw()).unwrap_or_default();
        // Somebody may have wished since that it stays.
        let ours =
            |record: &&WarmRecord| brought.contains(&record.signature) && matches!(record.until, Until::Idle { .. });
        for record in records.iter().filter(ours) {
            if let Err(error) = warm::stop(&self.store, record) {
                tracing::info!("{}", with_causes(&error));
            }
        }
    }
}

/// Answers the kernel.
struct Server {
    connection: Arc<Connection>,
    entrances: Entrances,
    /// What directories held when somebody began to list them, for the pieces that follow.
    listings: HashMap<u64, Vec<(Vec<u8>, Item)>>,
    places: Arc<Places>,
}

impl Server {
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = Box::new([0; REQUEST_BYTES]);
        let connection = Arc::clone(&self.connection);
        while let Some(message) = connection.receive(&mut buffer)? {
            let Some(request) = Request::parse(message) else {
                continue;
            };
            if let Err(error) = self.answer(&request) {
                connection.refuse(request.unique, errno(&error));
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<(), FsError> {
        let (unique, inode) = (request.unique, request.inode);
        match request.operation {
            Operation::Lookup(name) => match self.entrances.lookup(inode, name)? {
                Some(item) => self.connection.answer(unique, &entry_out(item)),
                // An answer would be kept: there may be one soon.
                None => self.connection.refuse(unique, Errno::ENOENT),
            },
            Operation::GetAttr => {
                let out = wire::fuse_attr_out {
                    attr_valid: 0,
                    attr_valid_nsec: 0,
                    dummy: 0,
                    attr: attr(self.entrances.item(inode)?),
                };
                self.connection.answer(unique, &out);
            }
            Operation::ReadLink => self.readlink(unique, inode)?,
            // Without an answer the kernel would keep listings.
            Operation::OpenDir => self.connection.answer(unique, &wire::fuse_open_out::default()),
            Operation::ReadDir(span) => self.readdir(unique, inode, span)?,
            Operation::StatFs => {
                let out = wire::fuse_kstatfs {
                    bsize: BLOCK_BYTES,
                    frsize: BLOCK_BYTES,
                    namelen: u32::try_from(MAX_NAME_BYTES).unwrap_or(u32::MAX),
                    ..wire::fuse_kstatfs::default()
                };
                self.connection.answer(unique, &out);
            }
            Operation::Destroy => self.connection.answer_bytes(unique, &[]),
            Operation::Silent => {}
            Operation::Ioctl => self.connection.refuse(unique, Errno::ENOTTY),
            Operation::Init { .. } | Operation::Malformed => self.connection.refuse(unique, Errno::EINVAL),
            Operation::Open
            | Operation::Release
            | Operation::Read(_)
            | Operation::ReadDirPlus(_)
            | Operation::GetXattr { .. }
            | Operation::ListXattr { .. }
            | Operation::Unknown => self.connection.refuse(unique, Errno::ENOSYS),
        }
        Ok(())
    }

    /// Answers from a thread of its own, when the environment is mounted.
    fn readlink(&self, unique: u64, inode: u64) -> Result<(), FsError> {
        let target = self.entrances.target(inode)?;
        let (connection, places) = (Arc::clone(&self.connection), Arc::clone(&self.places));
        let wait = move || match places.get(&target.signature) {
            Ok(place) => {
                let parts = [place.as_os_str().as_bytes(), b"/", &target.path];
                connection.answer_bytes(unique, &parts.concat());
            }
            Err(message) => {
                tracing::warn!("{} cannot be mounted: {message}", target.signature);
                connection.refuse(unique, Errno::EIO);
            }
        };
        let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(wait);
        if let Err(error) = started {
            tracing::warn!("no thread can be started: {error}");
            self.connection.refuse(unique, Errno::EAGAIN);
        }
        Ok(())
    }

    fn readdir(&mut self, unique: u64, inode: u64, span: Span) -> Result<(), FsError> {
        if span.offset == 0 || !self.listings.contains_key(&inode) {
            let mut lines = vec![(b".".to_vec(), self.entrances.item(inode)?)];
            // Nobody looks at this number: the kernel knows the way up.
            lines.push((b"..".to_vec(), lines[0].1));
            lines.extend(self.entrances.list(inode)?);
            self.listings.insert(inode, lines);
        }
        let lines = self.listings.get(&inode).map(Vec::as_slice).unwrap_or_default();
        let skip = usize::try_from(span.offset).unwrap_or(usize::MAX);
        let mut scratch = Vec::new();
        let mut listing = Listing::new(&mut scratch, span.size);
        for (number, (name, item)) in lines.iter().enumerate().skip(skip) {
            let line = Line {
                inode: item.inode,
                next_offset: number as u64 + 1,
                kind: file_type(*item) >> FILE_TYPE_SHIFT,
                name,
            };
            if !listing.add(&line) {
                break;
            }
        }
        if skip >= lines.len() {
            self.listings.remove(&inode);
        }
        self.connection.answer_bytes(unique, &scratch);
        Ok(())
    }
}

/// Between the type of a file in its mode and the one in a listing (`IFTODT` of glibc).
const FILE_TYPE_SHIFT: u32 = 12;

fn file_type(item: Item) -> u32 {
    if item.is_directory {
        libc::S_IFDIR
    } else {
        libc::S_IFLNK
    }
}

/// Numbers are never used again, and nothing may be kept.
fn entry_out(item: Item) -> wire::fuse_entry_out {
    wire::fuse_entry_out {
        nodeid: item.inode,
        generation: 0,
        entry_valid: 0,
        attr_valid: 0,
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr: attr(item),
    }
}

fn attr(item: Item) -> wire::fuse_attr {
    let (mode, nlink) = if item.is_directory { (0o555, 2) } else { (0o777, 1) };
    wire::fuse_attr {
        ino: item.inode,
        mode: file_type(item) | mode,
        nlink,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        blksize: BLOCK_BYTES,
        ..wire::fuse_attr::default()
    }
}
