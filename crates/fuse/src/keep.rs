//! The process that goes on while an environment is mounted: how it starts in the background, what ends it, and taking
//! the mount away when it is time to. Whether it answers the kernel meanwhile is [`crate::server`]'s to know.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use envfs_store::lease::Lease;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::causes::with_causes;
use crate::holders::holders;
use crate::link;
use crate::mount::MountError;
use crate::mountinfo;
use crate::process::{self, ProcessError};
use crate::service::Service;
use crate::unmount::{self, UnmountError};

/// What asks a server to end.
pub(crate) const ENDING_SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// How long to wait before trying again to unmount what is in use: first, and at most.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// What ends the process, beside the end of its mount.
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
    /// It was killed and could not be started again.
    #[error(
        "the server of `{mount_point}` ended {lives} times in a row and is not started again: `envfs umount` the mount"
    )]
    GivenUp {
        /// Where it is mounted.
        mount_point: PathBuf,
        /// How many servers there were.
        lives: u32,
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

/// What is to be taken away in the end.
#[derive(Debug)]
pub(crate) enum Attached<'a> {
    /// A mount, as it stands in the mount table.
    Mount {
        /// Where.
        mount_point: &'a Path,
        /// Its source.
        source: String,
    },
    /// A directory with links.
    Links(&'a Path),
}

impl<'a> Attached<'a> {
    pub(crate) fn mount(service: &'a Service) -> Self {
        Self::Mount {
            mount_point: &service.mount_point,
            source: mountinfo::source(&service.signature),
        }
    }

    /// Whether it is not there any more, or something else is.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Mount { mount_point, source } => {
                let mounts = mountinfo::read().unwrap_or_default();
                !mountinfo::at(&mounts, mount_point).is_some_and(|entry| entry.is_envfs() && entry.source == *source)
            }
            Self::Links(path) => !link::is_linked(path),
        }
    }

    /// Takes it away, unless it is gone. What is used is taken away only if `lazy`.
    fn detach(&self, lazy: bool) -> Result<(), UnmountError> {
        match self {
            _ if self.is_gone() => Ok(()),
            Self::Mount { mount_point, .. } => unmount::detach(mount_point, lazy),
            Self::Links(path) if !lazy && !holders(path, 1).is_empty() => Err(UnmountError::Busy {
                path: path.to_path_buf(),
                holders: Vec::new(),
            }),
            // Nobody else will come to remove it, whatever was put there.
            Self::Links(path) => Ok(link::remove(path, true)?),
        }
    }
}

/// Runs `work` in a new process in the background, and returns its number when `work` has called what it is given. The
/// new process closes its copies of `let_go`; what it has to say goes to `log`.
pub(crate) fn spawn_in_background(
    mount_point: &Path,
    log: Option<&File>,
    let_go: &[BorrowedFd<'_>],
    work: impl FnOnce(&mut dyn FnMut()) -> Result<(), ServerError>,
) -> Result<Pid, ServerError> {
    spawn(mount_point, let_go, |ready| {
        go_to_background(log)?;
        work(ready)
    })
}

/// The same without leaving anything.
pub(crate) fn spawn(
    mount_point: &Path,
    let_go: &[BorrowedFd<'_>],
    work: impl FnOnce(&mut dyn FnMut()) -> Result<(), ServerError>,
) -> Result<Pid, ServerError> {
    let (mut listen, mut tell) = io::pipe().map_err(ProcessError::io("make a pipe"))?;
    let let_go: Vec<_> = let_go.iter().copied().chain([listen.as_fd()]).collect();
    let pid = process::spawn(&let_go, || {
        // The parent may be gone; the mount is kept all the same.
        let result = work(&mut || drop(tell.write_all(b"+")));
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
    drop(tell);
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
            Err(ServerError::Start {
                mount_point: mount_point.to_owned(),
                message,
            })
        }
    }
}

/// Holds the lease of something that needs no server, and takes it away when it is time to. Calls `ready` when the lease
/// is held.
pub(crate) fn keep(
    service: &Service,
    attached: &Attached<'_>,
    ending: &Ending,
    ready: impl FnOnce(),
) -> Result<(), ServerError> {
    process::block_signals(&ENDING_SIGNALS)?;
    let _lease = Lease::take(&service.store, &service.lease())?;
    ready();
    await_end(None, ending, attached)?;
    remove_directory(ending, &service.mount_point);
    Ok(())
}

/// Removes the directory if it was made for the mount.
pub(crate) fn remove_directory(ending: &Ending, mount_point: &Path) {
    if let Ending::Process {
        remove_directory: true, ..
    } = ending
    {
        // Somebody may have put something there.
        let _ = std::fs::remove_dir(mount_point);
    }
}

/// Waits until the mount is gone, and takes it away when it is time to. A server hears from `ended` that it is gone; what
/// has no server looks at the mount table whenever that changes.
pub(crate) fn await_end(
    ended: Option<&io::PipeReader>,
    ending: &Ending,
    attached: &Attached<'_>,
) -> Result<(), ProcessError> {
    let signals = SignalFd::with_flags(
        &ENDING_SIGNALS.into_iter().collect(),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )
    .map_err(ProcessError::system("wait for signals"))?;
    let mounts = File::open("/proc/self/mountinfo").map_err(ProcessError::io("watch the mounts"))?;
    let mut watched = vec![match ended {
        Some(ended) => PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        // proc_pid_mounts(5)
        None => PollFd::new(mounts.as_fd(), PollFlags::POLLPRI),
    }];
    if !matches!(ending, Ending::Unseen) {
        watched.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
    }
    if let Ending::Process { pidfd, .. } = ending {
        watched.push(PollFd::new(pidfd.as_fd(), PollFlags::POLLIN));
    }
    let mut retry: Option<Duration> = None;
    loop {
        if ended.is_none() && attached.is_gone() {
            return Ok(());
        }
        let timeout = retry.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
        });
        match nix::poll::poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ProcessError::system("wait for the end of a mount")(errno)),
        }
        let is_ready = |index: usize| watched.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
        if ended.is_some() && is_ready(0) {
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

/// Leaves the terminal, the working directory and everything that was inherited.
pub(crate) fn go_to_background(log: Option<&File>) -> Result<(), ProcessError> {
    nix::unistd::setsid().map_err(ProcessError::system("leave the terminal"))?;
    std::env::set_current_dir("/").map_err(ProcessError::io("leave the directory"))?;
    let nothing = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(ProcessError::io("open /dev/null"))?;
    // First: who hears by its pipe that this process has let go may take all else for free.
    process::close_inherited_descriptors().map_err(ProcessError::io("close inherited files"))?;
    nix::unistd::dup2_stdin(&nothing).map_err(ProcessError::system("replace the input"))?;
    nix::unistd::dup2_stdout(&nothing).map_err(ProcessError::system("replace the output"))?;
    nix::unistd::dup2_stderr(log.unwrap_or(&nothing)).map_err(ProcessError::system("replace the log"))
}
