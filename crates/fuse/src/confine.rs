//! A command of the machine, without an environment, that is kept to limits: what [`crate::run::run_in`] is for one in an
//! environment.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use crate::causes::with_causes;
use crate::exec::Command;
use crate::limits::{self, Limits};
use crate::namespace;
use crate::process::{self, ProcessError};
use crate::run::{RunError, Started, exec_or_say};
use crate::supervise;

/// Runs `command` within `limits` and returns its exit code; 128 and the signal's number, if a signal ended it. Nothing that it
/// started outlives it, or this process. Signals that this process gets meanwhile are passed on.
///
/// # Errors
/// When this machine or container does not allow it, or the command cannot be started.
pub fn run(limits: &Limits, command: &Command) -> Result<u8, RunError> {
    let mask = process::block_signals(&supervise::SIGNALS)?;
    let result = start(limits, command, &mask).and_then(|started| started.finish(command));
    limits.unlock();
    let _ = mask.thread_set_mask();
    result
}

fn start(limits: &Limits, command: &Command, mask: &SigSet) -> Result<Started, RunError> {
    let (channel, theirs) = UnixStream::pair().map_err(ProcessError::io("make a socket"))?;
    let runner = nix::unistd::getpid();
    let child = process::spawn(&[channel.as_fd()], move || {
        become_command(theirs, limits, command, mask, runner)
    })?;
    Ok(Started::alone(child, channel))
}

/// In the child: becomes the command, and watches over it.
fn become_command(mut channel: UnixStream, limits: &Limits, command: &Command, mask: &SigSet, runner: Pid) -> u8 {
    if let Err(error) = namespace::enter().and_then(|()| limits.apply(None)) {
        let _ = channel.write_all(format!("-{}", with_causes(&error)).as_bytes());
        return 1;
    }
    limits::supervise(runner, channel, |channel| {
        let _ = process::close_inherited_descriptors();
        exec_or_say(command, mask, channel)
    })
    .unwrap_or(1)
}
