//! A command inside an environment: mount, start, wait, and leave nothing behind.
//!
//! Three processes take part. The command is a child of this one, in its process group and on its terminal. In a
//! private run the child first moves into a view of its own, mounts there, and sends the connection back. The
//! server is another child, outside that view, so that the view ends with the last process that uses the mount.
//!
//! ```text
//! this process              the command                        the server
//! fork ------------------>  make namespaces, mount
//!      <-- connection ----
//! fork ----------------------------------------------------->  take a lease, answer the kernel
//!      <----------------------------------------------------- ready
//!      --- go ---------->   exec
//! wait, pass signals on                                        serve
//!      <-- exit code -----  (the mount goes with it)           end
//! wait for the server
//! ```

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use crate::causes::with_causes;
use crate::fusermount::{receive_descriptor, send_descriptor};
use crate::mount::{self, MountError, MountOptions};
use crate::namespace::{self, NamespaceError};
use crate::process::{self, ProcessError};
use crate::server::{self, Ending, ServerError, Service};
use crate::supervise;

/// How long to wait for a server whose mount is, or is about to be, gone.
const SERVER_END_LIMIT: Duration = Duration::from_secs(2);

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// A path, or a name that is searched for in `PATH` of `environment`.
    pub program: OsString,
    /// What follows the program's name.
    pub arguments: Vec<OsString>,
    /// All environment variables.
    pub environment: Vec<(OsString, OsString)>,
}

/// Who sees the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Only the command and its children, at [`crate::private_prefix`].
    Private,
    /// Everybody, at a directory that stays.
    Public,
    /// Everybody, at a directory that was made for this run and is removed after it.
    PublicTemporary,
}

/// A command cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// This machine or container does not allow private mounts to this user: run it at a public place.
    #[error("{0}")]
    PrivateRefused(String),
    /// The private mount failed for another reason.
    #[error("{0}")]
    Private(String),
    /// There is no such program.
    #[error("`{}` is not in the environment or on PATH: `envfs show` lists the packages", program.display())]
    NotFound {
        /// What was asked for.
        program: OsString,
    },
    /// The program cannot be executed.
    #[error("`{}` cannot be executed", program.display())]
    NotExecutable {
        /// What was asked for.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// The environment cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The environment cannot be served.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A process cannot be made or waited for.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Runs `command` in the environment of `service` and returns its exit code; 128 and the signal's number, if a
/// signal ended it. Signals that this process gets meanwhile are passed on.
///
/// # Errors
/// When the environment cannot be mounted, or the command cannot be started; then nothing stays behind.
pub fn run(service: Service, options: &MountOptions, place: Place, command: &Command) -> Result<u8, RunError> {
    let mask = process::block_signals(&supervise::SIGNALS)?;
    let result = run_blocked(service, options, place, command, &mask);
    let _ = mask.thread_set_mask();
    result
}

fn run_blocked(
    service: Service,
    options: &MountOptions,
    place: Place,
    command: &Command,
    mask: &SigSet,
) -> Result<u8, RunError> {
    if place == Place::Private {
        return Started::start(service, options, place, command, mask, None)?.finish(command);
    }
    let mount_point = service.mount_point.clone();
    let device = mount::mount(&mount_point, options)?;
    Started::start(service, options, place, command, mask, Some(device))
        .inspect_err(|_| server::forget(&mount_point))?
        .finish(command)
}

/// The command, waiting for a word to go, and its server.
struct Started {
    child: Pid,
    server: Pid,
    channel: UnixStream,
    /// A copy of the connection of a private mount, by which its end is seen.
    connection: Option<OwnedFd>,
}

impl Started {
    fn start(
        service: Service,
        options: &MountOptions,
        place: Place,
        command: &Command,
        mask: &SigSet,
        public: Option<OwnedFd>,
    ) -> Result<Self, RunError> {
        let (mut channel, mut theirs) = UnixStream::pair().map_err(ProcessError::io("make a socket"))?;
        let private = (place == Place::Private).then_some((service.mount_point.as_path(), options));
        let child = process::spawn(&[channel.as_fd()], || {
            become_command(&mut theirs, private, command, mask)
        })?;
        drop(theirs);
        match serve(service, place, public, child, &mut channel) {
            Ok((server, connection)) => Ok(Self {
                child,
                server,
                channel,
                connection,
            }),
            Err(error) => {
                // Without a word to go, the child ends.
                drop(channel);
                let _ = nix::sys::wait::waitpid(child, None);
                Err(error)
            }
        }
    }

    fn finish(mut self, command: &Command) -> Result<u8, RunError> {
        // If the child is gone already, its exit code says so.
        let _ = self.channel.write_all(b"+");
        // Closed without a word by exec; else what exec had against it.
        let mut refusal = [0; 4];
        let refusal = self
            .channel
            .read_exact(&mut refusal)
            .ok()
            .map(|()| Errno::from_raw(i32::from_ne_bytes(refusal)));
        let mut server = Some(self.server);
        let code = supervise::wait(self.child, |ended| {
            if server == Some(ended) {
                server = None;
                // Nobody answers any more: our copy must not keep programs waiting for ever.
                self.connection = None;
            }
        })?;
        if let Some(server) = server {
            wait_for_server(server, self.connection);
        }
        match refusal {
            None => Ok(code),
            Some(Errno::ENOENT) => Err(RunError::NotFound {
                program: command.program.clone(),
            }),
            Some(errno) => Err(RunError::NotExecutable {
                program: command.program.clone(),
                source: errno.into(),
            }),
        }
    }
}

/// Starts the server of a run, and gives what shows the end of a private mount.
fn serve(
    service: Service,
    place: Place,
    public: Option<OwnedFd>,
    child: Pid,
    channel: &mut UnixStream,
) -> Result<(Pid, Option<OwnedFd>), RunError> {
    let (device, connection, ending) = match public {
        Some(device) => {
            let pidfd = process::open_pidfd(child).map_err(ProcessError::io("watch the command"))?;
            let remove_directory = place == Place::PublicTemporary;
            (
                device,
                None,
                Ending::Process {
                    pidfd,
                    remove_directory,
                },
            )
        }
        None => {
            let device = receive_connection(channel)?;
            let copy = device.try_clone().map_err(ProcessError::io("copy a descriptor"))?;
            (device, Some(copy), Ending::Unseen)
        }
    };
    let server = service.spawn(device, ending, None, &[channel.as_fd()])?;
    Ok((server, connection))
}

/// What the child sends when it has mounted privately, or has failed to.
fn receive_connection(channel: &mut UnixStream) -> Result<OwnedFd, RunError> {
    if let Some(device) = receive_descriptor(channel).map_err(ProcessError::io("receive a mount"))? {
        return Ok(device);
    }
    let mut message = String::new();
    let _ = channel.read_to_string(&mut message);
    Err(match message.strip_prefix(REFUSED) {
        Some(message) => RunError::PrivateRefused(message.to_owned()),
        None if message.is_empty() => RunError::Private("the process that mounts ended without a word".into()),
        None => RunError::Private(message),
    })
}

/// What a child says before the reason why it may not have a view of its own.
const REFUSED: char = '!';

/// In the child: mounts if it is to, waits for the word, and becomes the command. Returns if it cannot.
fn become_command(
    channel: &mut UnixStream,
    private: Option<(&Path, &MountOptions)>,
    command: &Command,
    mask: &SigSet,
) -> u8 {
    if let Some((mount_point, options)) = private {
        let sent = match namespace::enter_and_mount(mount_point, options) {
            Ok(device) => send_descriptor(channel, &device),
            Err(error) => {
                let mark = if matches!(error, NamespaceError::Refused { .. }) {
                    REFUSED.to_string()
                } else {
                    String::new()
                };
                // The first byte goes with the descriptor that is not sent.
                let _ = channel.write_all(format!("-{mark}{}", with_causes(&error)).as_bytes());
                return 1;
            }
        };
        if sent.is_err() {
            return 1;
        }
    }
    let mut word = [0];
    if channel.read_exact(&mut word).is_err() {
        return 1;
    }
    process::restore_signals(mask);
    let errno = exec(command);
    let _ = channel.write_all(&(errno as i32).to_ne_bytes());
    1
}

/// Becomes `command`, found as execvp(3) would: the first program on `PATH` that can be executed, and a file
/// without a format is a script for the shell. Returns why it cannot.
fn exec(command: &Command) -> Errno {
    let program = command.program.as_bytes();
    let mut reason = Errno::ENOENT;
    for path in candidates(program, &command.environment) {
        match exec_path(&path, command) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // There may be another one further on.
            Errno::EACCES => reason = Errno::EACCES,
            errno => return errno,
        }
    }
    reason
}

fn candidates(program: &[u8], environment: &[(OsString, OsString)]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_owned()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let path = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(OsStr::new("/bin:/usr/bin"), |(_, path)| path);
    path.as_bytes()
        .split(|&byte| byte == b':')
        .map(|directory| match directory {
            // An empty entry is the working directory (environ(7)).
            b"" => program.to_owned(),
            directory => [directory, b"/", program].concat(),
        })
        .collect()
}

fn exec_path(path: &[u8], command: &Command) -> Errno {
    let variables = command
        .environment
        .iter()
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let arguments = std::iter::once(command.program.as_bytes())
        .chain(command.arguments.iter().map(|argument| argument.as_bytes()))
        .map(ToOwned::to_owned);
    let (Ok(path), Ok(arguments), Ok(variables)) = (CString::new(path), c_strings(arguments), c_strings(variables))
    else {
        return Errno::EINVAL;
    };
    let Err(errno) = nix::unistd::execve(&path, &arguments, &variables);
    if errno != Errno::ENOEXEC {
        return errno;
    }
    let script: Vec<_> = [c"sh".to_owned(), path]
        .into_iter()
        .chain(arguments.into_iter().skip(1))
        .collect();
    let Err(errno) = nix::unistd::execve(c"/bin/sh", &script, &variables);
    errno
}

fn c_strings(texts: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>, std::ffi::NulError> {
    texts.map(CString::new).collect()
}

/// Waits for the server of a mount that is going away. A private mount that other processes still use stays, with
/// its server.
fn wait_for_server(server: Pid, connection: Option<OwnedFd>) {
    if connection.is_some_and(|connection| !is_disconnected(&connection)) {
        return;
    }
    if let Ok(pidfd) = process::open_pidfd(server)
        && process::wait_for_end(&pidfd, SERVER_END_LIMIT)
    {
        let _ = nix::sys::wait::waitpid(server, None);
    }
}

/// Whether the file system of a connection is gone (`fuse_dev_poll` of the Linux kernel).
fn is_disconnected(connection: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(connection.as_fd(), PollFlags::empty())];
    nix::poll::poll(&mut descriptors, PollTimeout::ZERO).is_ok()
        && descriptors[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLERR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_on_the_path_of_the_command() {
        let environment = [("PATH".into(), "/envs/x/bin::/bin".into())];
        let paths = candidates(b"python", &environment);
        assert_eq!(
            paths,
            [
                b"/envs/x/bin/python".to_vec(),
                b"python".to_vec(),
                b"/bin/python".to_vec()
            ]
        );
        assert_eq!(candidates(b"./python", &environment), [b"./python".to_vec()]);
        assert_eq!(candidates(b"", &environment), Vec::<Vec<u8>>::new());
        assert_eq!(candidates(b"sh", &[]).len(), 2);
    }
}
