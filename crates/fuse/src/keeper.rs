//! The process that holds the connection while a server answers, and starts another server if that one is killed.
//!
//! ```text
//! keeper                                     server
//!   take the lease, hold the connection
//!   fork ----------------------------------->  agree with the kernel, answer
//!   wait                                       killed
//!   fork ----------------------------------->  ask for what was not answered, answer
//!   wait                                       the mount is gone: end
//!   end
//! ```
//!
//! As long as somebody holds the connection, requests wait: programs see nothing of it. The keeper does nothing else, so
//! that nothing can happen to it; a server takes the mount away by itself when it is time to, with or without a keeper.
//! Both are copies of the process that mounted, so a new version of the program changes nothing for what is mounted.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use envfs_store::Store;
use envfs_store::lease::{Lease, LeaseRecord};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use crate::keep::{self, ENDING_SIGNALS, ServerError};
use crate::memory::Memory;
use crate::process::{self, ProcessError};
use crate::protocol::connection::is_disconnected;
use crate::server::{self, Serving};

/// A server that answered for a shorter time than this has failed; one that lived longer was killed by somebody.
const SHORT_LIFE: Duration = Duration::from_millis(20);

/// So many short lives in a row, and no more are tried: with the waits between them, after some five seconds. More than
/// anybody kills in a row who only wants to see what happens.
const MAX_SHORT_LIVES: u32 = 50;

/// How long to wait after a short life: twice as long each time, at least and at most.
const WAITS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];

/// Serves from new processes in the background, and returns the keeper's number when the mount is usable. The new
/// processes close their copies of `let_go`; what they have to say goes to `log`.
pub(crate) fn spawn(serving: &Serving<'_>, log: Option<&File>, let_go: &[BorrowedFd<'_>]) -> Result<Pid, ServerError> {
    keep::spawn_in_background(&serving.service.mount_point, log, let_go, |ready| serve(serving, ready))
}

/// Serves from a new process, with this one as its keeper, until the mount is gone. Calls `ready` when it is usable.
pub(crate) fn serve(serving: &Serving<'_>, ready: impl FnOnce()) -> Result<(), ServerError> {
    let record = serving.service.lease();
    let kept = Kept {
        store: &serving.service.store,
        record: &record,
        device: serving.device.as_fd(),
    };
    guard(&kept, ready, |lease, memory, is_ready| {
        server::answer(serving, (lease, &record), memory, is_ready)
    })
}

/// What a keeper holds.
pub(crate) struct Kept<'a> {
    pub(crate) store: &'a Store,
    /// What its lease says at first; servers add themselves.
    pub(crate) record: &'a LeaseRecord,
    /// The connection.
    pub(crate) device: BorrowedFd<'a>,
}

/// Has new processes `answer`, one after the other, until the mount is gone. Each calls what it is given when it answers; the
/// first time that calls `ready`.
pub(crate) fn guard(
    kept: &Kept<'_>,
    ready: impl FnOnce(),
    answer: impl Fn(&Lease, Memory, &mut dyn FnMut()) -> Result<(), ServerError>,
) -> Result<(), ServerError> {
    let memory = Memory::new().map_err(ProcessError::io("remember what a server knows"))?;
    let mount_point = &kept.record.mount_point;
    let lease = Lease::take(kept.store, kept.record)?;
    // What comes between two servers waits, and ends the next one.
    process::block_signals(&ENDING_SIGNALS)?;
    let signals = SignalFd::with_flags(&ENDING_SIGNALS.into_iter().collect(), SfdFlags::SFD_CLOEXEC)
        .map_err(ProcessError::system("wait for signals"))?;
    let mut ready = Some(ready);
    let mut lives = Lives::default();
    let mut asked = None;
    loop {
        let server = keep::spawn(mount_point, &[], |is_ready| answer(&lease, memory.again()?, is_ready));
        let start = Instant::now();
        let code = match (server, ready.take()) {
            (Ok(server), first) => {
                if let Some(ready) = first {
                    ready();
                }
                wait(server, &signals, &mut asked)?
            }
            // One that has never answered is not tried again.
            (Err(error), Some(_)) => return Err(error),
            (Err(error), None) => {
                tracing::warn!("{error}");
                1
            }
        };
        if code == 0 || is_disconnected(kept.device) {
            return Ok(());
        }
        let can_go_on = memory.agreed().is_some_and(|agreed| agreed.resend);
        let Some(pause) = lives.ended(start.elapsed()).filter(|_| can_go_on) else {
            return Err(ServerError::GivenUp {
                mount_point: mount_point.clone(),
                lives: lives.short + 1,
            });
        };
        tracing::warn!(
            "the server of {} ended with {code}; starting another",
            mount_point.display()
        );
        std::thread::sleep(pause);
    }
}

/// Waits until `server` has ended, and gives its exit code, or 128 and the number of the signal that ended it. Signals that
/// ask this process to end are passed on; the last one is left in `asked`, for a server that comes after this one.
fn wait(server: Pid, signals: &SignalFd, asked: &mut Option<Signal>) -> Result<i32, ProcessError> {
    let pidfd = process::open_pidfd(server).map_err(ProcessError::io("watch a server"))?;
    if let Some(signal) = *asked {
        let _ = kill(server, signal);
    }
    loop {
        let mut watched = [&pidfd.as_fd(), &signals.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        match nix::poll::poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ProcessError::system("wait for a server")(errno)),
        }
        let [has_ended, is_signalled] = watched.map(|fd| fd.any().unwrap_or(false));
        if has_ended {
            return match nix::sys::wait::waitpid(server, None) {
                Ok(WaitStatus::Exited(_, code)) => Ok(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => Ok(128 + signal as i32),
                Ok(_) => continue,
                Err(errno) => Err(ProcessError::system("wait for a server")(errno)),
            };
        }
        if is_signalled
            && let Ok(Some(info)) = signals.read_signal()
            && let Some(signal) = i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())
        {
            *asked = Some(signal);
            // It may have ended since.
            let _ = kill(server, signal);
        }
    }
}

/// How long servers lived.
#[derive(Debug, Default)]
struct Lives {
    /// How many short lives there were in a row.
    short: u32,
}

impl Lives {
    /// A server has ended that answered for so long: how long to wait before another is started. None if none is to be.
    fn ended(&mut self, lived: Duration) -> Option<Duration> {
        self.short = if lived < SHORT_LIFE { self.short + 1 } else { 0 };
        match self.short {
            0 => Some(Duration::ZERO),
            short if short > MAX_SHORT_LIVES => None,
            short => Some((WAITS[0] * 2u32.saturating_pow(short - 1)).min(WAITS[1])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_live_is_tried_less_and_less_often_and_given_up() {
        let mut lives = Lives::default();
        assert_eq!(lives.ended(SHORT_LIFE), Some(Duration::ZERO));
        let pauses: Vec<Duration> = std::iter::from_fn(|| lives.ended(Duration::ZERO)).collect();
        assert_eq!(pauses.len(), MAX_SHORT_LIVES as usize);
        assert!(pauses.is_sorted() && pauses.starts_with(&[WAITS[0], WAITS[0] * 2]));
        let all: Duration = pauses.iter().sum();
        assert!((3..8).contains(&all.as_secs()), "{all:?}");
        // One that lived makes good for those before it.
        assert_eq!(lives.ended(SHORT_LIFE), Some(Duration::ZERO));
        assert_eq!(lives.ended(Duration::ZERO), Some(WAITS[0]));
    }
}
