//! The process that answers the kernel: in the background or in the foreground, until its mount is gone.
//!
//! It wakes only for requests, signals and the end of what it waits for. Its lease is taken before anybody is
//! told that the mount is usable, and dropped with the process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use envfs_store::lease::{Lease, LeaseKind, LeaseRecord};
use envfs_store::view::View;
use envfs_store::{Digest, Store};
use fuser::{Config, Session, SessionACL};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::adapter::{Adapter, Owner};
use crate::causes::with_causes;
use crate::fs::FileSystem;
use crate::mount::{self, MountError, MountOptions};
use crate::mountinfo;
use crate::process::{self, ProcessError};
use crate::unmount::{self, UnmountError};

/// Two, so that one read from a slow disk does not hold up all others. Each costs a stack and a buffer of which
/// only the touched pages exist.
const THREADS: usize = 2;

/// What asks a server to end.
const ENDING_SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// How long to wait before trying again to unmount what is in use: first, and at most.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// An environment that is to be served.
#[derive(Debug)]
pub struct Service {
    /// Its store.
    pub store: Store,
    /// Its files, as seen at `mount_point`.
    pub view: View,
    /// Its signature.
    pub signature: Digest,
    /// Where it is seen.
    pub mount_point: PathBuf,
    /// Why it is served.
    pub kind: LeaseKind,
}

/// What ends a server, beside the end of its mount.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Nothing: the mount ends with the last process that sees it.
    Unseen,
    /// A signal: it unmounts.
    Signal,
    /// A signal or the end of a process: it unmounts, when nobody uses the mount any more.
    Process {
        /// The process.
        pidfd: OwnedFd,
        /// Whether the directory was made for this mount, and goes with it.
        remove_directory: bool,
    },
}

/// An environment cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// No process can be made for it.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The store refuses a lease.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
    /// The connection to the kernel failed.
    #[error("the kernel does not speak with the server of `{mount_point}`")]
    Connection {
        /// Where it is mounted.
        mount_point: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server in the background said this and ended.
    #[error("the server of `{mount_point}` did not start: {message}")]
    Start {
        /// Where it would have been mounted.
        mount_point: PathBuf,
        /// What it said.
        message: String,
    },
}

/// Mounts `service` so that all processes see it, and returns when it is usable; a process in the background goes
/// on serving it. What that process has to say goes to `log`, if there is one.
///
/// # Errors
/// When it cannot be mounted or served; then nothing stays mounted.
pub fn mount_in_background(service: Service, options: &MountOptions, log: Option<File>) -> Result<(), ServerError> {
    // Between mounting and serving nobody may end this process: a mount without a server would stay.
    let mask = process::block_signals(&ENDING_SIGNALS)?;
    let mount_point = service.mount_point.clone();
    let result = mount::mount(&mount_point, options)
        .map_err(ServerError::from)
        .and_then(|device| {
            service
                .spawn(device, Ending::Signal, log, &[])
                .map(drop)
                .inspect_err(|_| forget(&mount_point))
        });
    let _ = mask.thread_set_mask();
    result
}

/// Mounts `service` so that all processes see it and serves it in this process, until it is unmounted or a signal
/// asks to end. Calls `ready` when it is usable.
///
/// # Errors
/// When it cannot be mounted or served; then nothing stays mounted.
pub fn mount_in_foreground(service: Service, options: &MountOptions, ready: impl FnOnce()) -> Result<(), ServerError> {
    let mask = process::block_signals(&ENDING_SIGNALS)?;
    let mount_point = service.mount_point.clone();
    let result = mount::mount(&mount_point, options)
        .map_err(ServerError::from)
        .and_then(|device| {
            service
                .serve(device, &Ending::Signal, ready)
                .inspect_err(|_| forget(&mount_point))
        });
    let _ = mask.thread_set_mask();
    result
}

impl Service {
    /// Serves `device` from a new process, and returns its number when the mount is usable. The new
    /// process closes its copies of `let_go`.
    pub(crate) fn spawn(
        self,
        device: OwnedFd,
        ending: Ending,
        log: Option<File>,
        let_go: &[BorrowedFd<'_>],
    ) -> Result<Pid, ServerError> {
        let mount_point = self.mount_point.clone();
        let (mut listen, mut tell) = io::pipe().map_err(ProcessError::io("make a pipe"))?;
        let pid = process::spawn(let_go, move || {
            let result = go_to_background(log.as_ref())
                .map_err(ServerError::from)
                .and_then(|()| {
                    // The parent may be gone; the mount is served all the same.
                    self.serve(device, &ending, || drop(tell.write_all(b"+")))
                });
            match result {
                Ok(()) => 0,
                Err(error) => {
                    let text = with_causes(&error);
                    tracing::error!("{text}");
                    let _ = tell.write_all(text.as_bytes());
                    1
                }
            }
        })?;
        let mut said = [0];
        match listen.read_exact(&mut said) {
            Ok(()) if said == *b"+" => Ok(pid),
            first => {
                let mut message = if first.is_ok() {
                    String::from_utf8_lossy(&said).into_owned()
                } else {
                    String::new()
                };
                let _ = listen.read_to_string(&mut message);
                let _ = nix::sys::wait::waitpid(pid, None);
                if message.is_empty() {
                    message.push_str("it ended without a word");
                }
                Err(ServerError::Start { mount_point, message })
            }
        }
    }

    /// Serves `device` until its mount is gone. Calls `ready` when it is usable.
    pub(crate) fn serve(self, device: OwnedFd, ending: &Ending, ready: impl FnOnce()) -> Result<(), ServerError> {
        process::raise_descriptor_limit();
        process::block_signals(&ENDING_SIGNALS)?;
        let _lease = Lease::take(&self.store, &self.lease())?;
        let source = mount::source(&self.signature);
        let Self { view, mount_point, .. } = self;
        let session = connect(view, device).map_err(|source| ServerError::Connection {
            mount_point: mount_point.clone(),
            source,
        })?;
        let (ended, running) = io::pipe().map_err(ProcessError::io("make a pipe"))?;
        let answering = std::thread::Builder::new()
            .name("envfs-session".into())
            .spawn(move || {
                let result = session.run();
                drop(running);
                result
            })
            .map_err(ProcessError::io("start a thread"))?;
        ready();
        await_end(
            &ended,
            ending,
            &Attached {
                mount_point: &mount_point,
                source: &source,
            },
        )?;
        match answering.join() {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(ServerError::Connection { mount_point, source }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        if let Ending::Process {
            remove_directory: true, ..
        } = ending
        {
            // Somebody may have put something there.
            let _ = std::fs::remove_dir(&mount_point);
        }
        Ok(())
    }

    fn lease(&self) -> LeaseRecord {
        LeaseRecord {
            kind: self.kind,
            signature: self.signature,
            mount_point: self.mount_point.clone(),
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            started_unix_s: std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs()),
        }
    }
}

/// A mount, as it stands in the mount table.
struct Attached<'a> {
    mount_point: &'a Path,
    source: &'a str,
}

impl Attached<'_> {
    /// Unmounts it, unless something else is there by now.
    fn detach(&self, lazy: bool) -> Result<(), UnmountError> {
        let mounts = mountinfo::read().unwrap_or_default();
        match mountinfo::at(&mounts, self.mount_point) {
            Some(entry) if entry.is_envfs() && entry.source == self.source => unmount::detach(self.mount_point, lazy),
            _ => Ok(()),
        }
    }
}

/// Takes a mount back that nobody serves.
pub(crate) fn forget(mount_point: &Path) {
    // The error that led here says more than a second one.
    let _ = unmount::detach(mount_point, true);
}

/// Answers the kernel's first message.
fn connect(view: View, device: OwnedFd) -> io::Result<Session<Adapter>> {
    let owner = Owner {
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
    };
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    // The kernel itself checks who may see the mount.
    Session::from_fd(
        Adapter::new(FileSystem::new(view), owner),
        device,
        SessionACL::All,
        config,
    )
}

/// Leaves the terminal, the working directory and everything that was inherited.
fn go_to_background(log: Option<&File>) -> Result<(), ProcessError> {
    nix::unistd::setsid().map_err(ProcessError::system("leave the terminal"))?;
    std::env::set_current_dir("/").map_err(ProcessError::io("leave the directory"))?;
    let nothing = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(ProcessError::io("open /dev/null"))?;
    nix::unistd::dup2_stdin(&nothing).map_err(ProcessError::system("replace the input"))?;
    nix::unistd::dup2_stdout(&nothing).map_err(ProcessError::system("replace the output"))?;
    nix::unistd::dup2_stderr(log.unwrap_or(&nothing)).map_err(ProcessError::system("replace the log"))?;
    process::close_inherited_descriptors().map_err(ProcessError::io("close inherited files"))
}

/// Waits until the mount is gone, and unmounts it when it is time to.
fn await_end(ended: &io::PipeReader, ending: &Ending, attached: &Attached<'_>) -> Result<(), ProcessError> {
    let signals = SignalFd::with_flags(
        &ENDING_SIGNALS.into_iter().collect(),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )
    .map_err(ProcessError::system("wait for signals"))?;
    let mut watched = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    if !matches!(ending, Ending::Unseen) {
        watched.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
    }
    if let Ending::Process { pidfd, .. } = ending {
        watched.push(PollFd::new(pidfd.as_fd(), PollFlags::POLLIN));
    }
    let mut retry: Option<Duration> = None;
    loop {
        let timeout = retry.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
        });
        match nix::poll::poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ProcessError::system("wait for the end of a mount")(errno)),
        }
        let is_ready = |index: usize| watched.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
        if is_ready(0) {
            return Ok(());
        }
        let is_signalled = is_ready(1);
        let is_timely = is_ready(2) || retry.is_some();
        if is_signalled {
            let _ = signals.read_signal();
        } else if !is_timely {
            continue;
        }
        match attached.detach(is_signalled) {
            // The process is known to have ended: from now on only the mount is waited for.
            Ok(()) => {
                watched.truncate(2);
                retry = None;
            }
            Err(UnmountError::Busy { .. }) => {
                watched.truncate(2);
                retry = Some(retry.map_or(RETRY_WAITS[0], |wait| (wait * 2).min(RETRY_WAITS[1])));
            }
            Err(error) => {
                tracing::warn!("{}", with_causes(&error));
                watched.truncate(2);
                retry = Some(RETRY_WAITS[1]);
            }
        }
    }
}
