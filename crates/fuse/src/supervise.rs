//! Waiting for a command as if it were this process: signals go to it, its stops and its end come from it.
//!
//! The command is in this process's group, so what a terminal sends (`^C`, `^\`, `^Z`, a resized window) reaches
//! it directly and is not sent again: the kernel marks such signals as its own (`SI_KERNEL`, sigaction(2)).
//! What a process sends to this one is passed on.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process::ProcessError;

/// What is waited for; blocked before the command is forked, so that nothing is lost.
pub(crate) const SIGNALS: [Signal; 10] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGCHLD,
];

/// Waits until `child` has ended, with [`SIGNALS`] blocked, and gives its exit code; 128 and the number of the
/// signal that ended it. Calls `other` with every other child that ends meanwhile.
pub(crate) fn wait(child: Pid, mut other: impl FnMut(Pid)) -> Result<u8, ProcessError> {
    let signals = SignalFd::with_flags(&SIGNALS.into_iter().collect(), SfdFlags::SFD_CLOEXEC)
        .map_err(ProcessError::system("wait for signals"))?;
    loop {
        // First what happened before the descriptor was made.
        if let Some(code) = reap(child, &mut other)? {
            return Ok(code);
        }
        let info = match signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(ProcessError::system("wait for signals")(errno)),
        };
        let Some(signal) = i32::try_from(info.ssi_signo)
            .ok()
            .and_then(|number| Signal::try_from(number).ok())
        else {
            continue;
        };
        if signal != Signal::SIGCHLD && is_passed_on(signal, info.ssi_code) {
            // It may have ended since.
            let _ = kill(child, signal);
        }
    }
}

fn is_passed_on(signal: Signal, code: i32) -> bool {
    // Only the leader of a session is told that its terminal has gone; and to continue twice does no harm.
    matches!(signal, Signal::SIGHUP | Signal::SIGCONT) || code != libc::SI_KERNEL
}

/// Looks at every child that has changed.
fn reap(child: Pid, other: &mut impl FnMut(Pid)) -> Result<Option<u8>, ProcessError> {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
    loop {
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(Some(clamp(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return Ok(Some(clamp(128 + signal as i32))),
            // Who waits for this process must see that it stops. It goes on where it is when it is continued.
            Ok(WaitStatus::Stopped(pid, _)) if pid == child => {
                let _ = kill(Pid::this(), Signal::SIGSTOP);
            }
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => other(pid),
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ProcessError::system("wait for the command")(errno)),
        }
    }
}

fn clamp(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_sends_is_not_sent_again() {
        assert!(!is_passed_on(Signal::SIGINT, libc::SI_KERNEL));
        assert!(!is_passed_on(Signal::SIGWINCH, libc::SI_KERNEL));
        assert!(is_passed_on(Signal::SIGINT, libc::SI_USER));
        assert!(is_passed_on(Signal::SIGTERM, libc::SI_QUEUE));
        assert!(is_passed_on(Signal::SIGHUP, libc::SI_KERNEL));
    }
}
