//! A command inside an environment: mount, start, wait, and leave nothing behind.
//!
//! The command is a child of this process, in its process group and on its terminal. In a private run the child first
//! moves into a view of its own. What it does there depends on the backend:
//!
//! - for root the kernel serves alone: this process has made the mount, and the child attaches it in its view;
//! - otherwise there is a server, another child, outside that view, so that the view ends with the last process that uses
//!   the mount. The child mounts and sends the connection back; where overlayfs can stand on that mount and read the
//!   content itself, the child puts it there once the server answers.
//!
//! ```text
//! this process              the command                        the server
//! fork ------------------>  make namespaces, mount
//!      <-- connection ----
//! fork ----------------------------------------------------->  take a lease, answer the kernel
//!      <----------------------------------------------------- ready
//!      --- go ---------->   (overlayfs), exec
//! wait, pass signals on                                        serve
//!      <-- exit code -----  (the mount goes with it)           end
//! wait for the server
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use envfs_store::lease::Lease;
use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use crate::backend::{self, Backend, BackendError, Choice, Mounted};
use crate::causes::with_causes;
use crate::exec::{Command, exec};
use crate::keep::{self, Attached, Ending, ServerError};
use crate::keeper;
use crate::kernel::{Attributes, Companion, KernelError};
use crate::limits::{self, Limits};
use crate::mount::MountOptions;
use crate::mount::fusermount::{receive_descriptor, send_descriptor};
use crate::namespace::NamespaceError;
use crate::private::Way;
use crate::process::{self, ProcessError};
use crate::protocol::connection::is_disconnected;
use crate::sandbox::{Finished, Sandbox};
use crate::server::Serving;
use crate::service::Service;
use crate::supervise;
use crate::writable::{StateRecord, WritableError};

/// How long to wait for a server whose mount is, or is about to be, gone.
const SERVER_END_LIMIT: Duration = Duration::from_secs(2);

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
    /// The kernel cannot serve the environment by itself, and nothing else was allowed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The environment cannot be mounted.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// It cannot be written to.
    #[error(transparent)]
    Writable(#[from] WritableError),
    /// The store refuses a lease.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
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
pub fn run(
    service: &Service,
    options: &MountOptions,
    place: Place,
    choice: Choice,
    command: &Command,
) -> Result<u8, RunError> {
    let mask = process::block_signals(&supervise::SIGNALS)?;
    let run = Run {
        service,
        options,
        command,
        mask: &mask,
        sandbox: None,
    };
    let started = match place {
        Place::Private => run.start_privately(choice),
        Place::Public => run.start_publicly(choice, false),
        Place::PublicTemporary => run.start_publicly(choice, true),
    };
    let result = started.and_then(|started| started.finish(command));
    let _ = mask.thread_set_mask();
    result
}

/// Runs `command` in `sandbox`. What it writes into the environment is in the sandbox's state afterwards, however it ends.
/// With limits nothing that it started outlives it, or this process. Signals that this process gets are passed on.
///
/// # Errors
/// When the environment cannot be mounted so that it is written to, the state is in use or belongs to something else, or
/// the command cannot be started.
pub fn run_in(sandbox: &Sandbox<'_>, command: &Command) -> Result<Finished, RunError> {
    let _alone = sandbox.state.lock()?;
    let mask = process::block_signals(&supervise::SIGNALS)?;
    let run = Run {
        service: sandbox.service,
        options: &MountOptions {
            signature: sandbox.service.signature,
            allow_other: false,
        },
        command,
        mask: &mask,
        sandbox: Some(sandbox),
    };
    let result = run.start_privately(None).and_then(|started| {
        let start = Instant::now();
        let exit_code = started.finish(command)?;
        Ok(Finished {
            exit_code,
            duration: start.elapsed(),
        })
    });
    if let Some(limits) = sandbox.limits {
        limits.unlock();
    }
    let _ = mask.thread_set_mask();
    result
}

/// What is known before anything is started.
struct Run<'a> {
    service: &'a Service,
    options: &'a MountOptions,
    command: &'a Command,
    /// The signals that the command expects to be blocked.
    mask: &'a SigSet,
    /// Where the command may write, if it may.
    sandbox: Option<&'a Sandbox<'a>>,
}

/// What the child that becomes the command must know.
struct Inside<'a> {
    /// How it comes to its own view, if it has one.
    way: Option<&'a Way>,
    /// In which attributes overlayfs notes what is written.
    attributes: Attributes,
}

impl Run<'_> {
    fn start_privately(&self, choice: Choice) -> Result<Started, RunError> {
        if choice == Some(Backend::Link) {
            return Err(RunError::PrivateRefused("links are seen by everybody".into()));
        }
        let way = Way::choose(self.service, choice)?;
        let attributes = match self.sandbox {
            None => Attributes::default(),
            Some(sandbox) => self.prepare(sandbox, way.attributes())?,
        };
        let (child, mut channel) = self.fork(&Inside {
            way: Some(&way),
            attributes,
        })?;
        let copies = way.copies();
        let is_served = !matches!(way, Way::Kernel(..));
        // From here on the mount lives as long as the view it is attached in.
        let companion = way.into_companion();
        let started = receive_connection(&mut channel, is_served).and_then(|device| match device {
            None => Ok((
                None,
                None,
                Some(Lease::take(&self.service.store, &self.service.lease())?),
            )),
            Some(device) => {
                let copy = device.try_clone().map_err(ProcessError::io("copy a descriptor"))?;
                let serving = Serving {
                    copies,
                    ..Serving::alone(self.service, device, &Ending::Unseen)
                };
                let server = keeper::spawn(&serving, None, &[channel.as_fd(), copy.as_fd()])?;
                Ok((Some(server), Some(copy), None))
            }
        });
        match started {
            Ok((server, connection, lease)) => Ok(Started {
                child,
                server,
                channel,
                connection,
                companion,
                _lease: lease,
            }),
            Err(error) => Err(give_up(child, channel, error)),
        }
    }

    /// Makes what is to be kept of a command that may write.
    fn prepare(&self, sandbox: &Sandbox<'_>, attributes: Attributes) -> Result<Attributes, RunError> {
        let record = StateRecord {
            signature: self.service.signature,
            mount_point: self.service.mount_point.clone(),
            attributes,
        };
        Ok(sandbox.state.prepare(&record, self.service.view.tree())?)
    }

    fn start_publicly(&self, choice: Choice, remove_directory: bool) -> Result<Started, RunError> {
        let mounted = backend::attach(self.service, self.options, choice)?;
        let (child, channel) = self
            .fork(&Inside {
                way: None,
                attributes: Attributes::default(),
            })
            .inspect_err(|_| backend::take_back(self.service))?;
        match self.serve_publicly(mounted, child, &channel, remove_directory) {
            Ok(server) => Ok(Started {
                child,
                server: Some(server),
                channel,
                connection: None,
                companion: None,
                _lease: None,
            }),
            Err(error) => {
                backend::take_back(self.service);
                Err(give_up(child, channel, error))
            }
        }
    }

    /// Starts what serves a public mount, or only keeps it, until the command has ended and nobody uses it.
    fn serve_publicly(
        &self,
        mounted: Mounted,
        child: Pid,
        channel: &UnixStream,
        remove_directory: bool,
    ) -> Result<Pid, RunError> {
        let pidfd = process::open_pidfd(child).map_err(ProcessError::io("watch the command"))?;
        let ending = Ending::Process {
            pidfd,
            remove_directory,
        };
        let service = self.service;
        let let_go = [channel.as_fd()];
        let kept = match mounted {
            Mounted::Fuse(device) => {
                return Ok(keeper::spawn(&Serving::alone(service, device, &ending), None, &let_go)?);
            }
            Mounted::Kernel => Attached::mount(service),
            Mounted::Link => Attached::Links(&service.mount_point),
        };
        Ok(keep::spawn_in_background(
            &service.mount_point,
            None,
            &let_go,
            |ready| keep::keep(service, &kept, &ending, ready),
        )?)
    }

    /// Starts the process that becomes the command, and gives the way to speak with it.
    fn fork(&self, inside: &Inside<'_>) -> Result<(Pid, UnixStream), RunError> {
        let (channel, theirs) = UnixStream::pair().map_err(ProcessError::io("make a socket"))?;
        let runner = nix::unistd::getpid();
        let child = process::spawn(&[channel.as_fd()], move || self.become_command(theirs, inside, runner))?;
        Ok((child, channel))
    }

    /// In the child: mounts if it is to, waits for the word, and becomes the command. Returns if it cannot, or stays to
    /// watch over it.
    fn become_command(&self, mut channel: UnixStream, inside: &Inside<'_>, runner: Pid) -> u8 {
        let way = inside.way;
        let is_written_to = self.sandbox.is_some();
        let entered = match way
            .map(|way| way.enter(self.service, self.options, is_written_to))
            .transpose()
        {
            Ok(entered) => entered.unwrap_or_default(),
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
        let sent = match (&entered.device, way) {
            (Some(device), _) => send_descriptor(&channel, device),
            (None, Some(_)) => channel.write_all(b"+"),
            (None, None) => Ok(()),
        };
        let mut word = [0];
        if sent.is_err() || channel.read_exact(&mut word).is_err() {
            return 1;
        }
        let state = self.sandbox.map(|sandbox| (sandbox.state, inside.attributes));
        if let Err(error) = way.map_or(Ok(()), |way| way.complete(self.service, &entered, state)) {
            let _ = channel.write_all(format!("-{}", with_causes(&error)).as_bytes());
            return 1;
        }
        drop(entered);
        match self.sandbox.and_then(|sandbox| sandbox.limits) {
            None => self.exec(channel),
            Some(limits) => self.exec_within(limits, channel, runner),
        }
    }

    /// Becomes the command within limits: this process watches over it.
    fn exec_within(&self, limits: &Limits, mut channel: UnixStream, runner: Pid) -> u8 {
        if let Err(error) = limits.apply(Some(&self.service.mount_point)) {
            let _ = channel.write_all(format!("-{}", with_causes(&error)).as_bytes());
            return 1;
        }
        limits::supervise(runner, channel, |channel| {
            let _ = process::close_inherited_descriptors();
            self.exec(channel)
        })
        .unwrap_or(1)
    }

    /// Becomes the command. Returns if it cannot.
    fn exec(&self, mut channel: UnixStream) -> u8 {
        if let Some(output) = self.sandbox.and_then(|sandbox| sandbox.output)
            && let Err(error) = redirect(output)
        {
            let _ = channel.write_all(format!("-{}", with_causes(&error)).as_bytes());
            return 1;
        }
        exec_or_say(self.command, self.mask, channel)
    }
}

/// Becomes `command`. Returns if it cannot, and says so on `channel`.
pub(crate) fn exec_or_say(command: &Command, mask: &SigSet, mut channel: UnixStream) -> u8 {
    process::restore_signals(mask);
    let errno = exec(command) as i32;
    let _ = channel.write_all(&[b"!".as_slice(), &errno.to_ne_bytes()].concat());
    1
}

/// Sends the output and errors of this process to a file, and lets it read nothing.
fn redirect(output: &File) -> Result<(), ProcessError> {
    let nothing = File::open("/dev/null").map_err(ProcessError::io("open /dev/null"))?;
    nix::unistd::dup2_stdin(nothing).map_err(ProcessError::system("replace the input"))?;
    nix::unistd::dup2_stdout(output).map_err(ProcessError::system("replace the output"))?;
    nix::unistd::dup2_stderr(output).map_err(ProcessError::system("replace the errors"))
}

/// The command, waiting for a word to go, and its server, if it has one.
pub(crate) struct Started {
    child: Pid,
    server: Option<Pid>,
    channel: UnixStream,
    /// A copy of the connection of a private mount, by which its end is seen.
    connection: Option<OwnedFd>,
    companion: Option<Companion>,
    /// Where no server holds one.
    _lease: Option<Lease>,
}

impl Started {
    /// A command without a mount.
    pub(crate) fn alone(child: Pid, channel: UnixStream) -> Self {
        Self {
            child,
            server: None,
            channel,
            connection: None,
            companion: None,
            _lease: None,
        }
    }

    /// Lets it go, and waits for its end.
    pub(crate) fn finish(mut self, command: &Command) -> Result<u8, RunError> {
        // If the child is gone already, its exit code says so.
        let _ = self.channel.write_all(b"+");
        // Closed without a word by exec; else what it has to say.
        let mut last_words = Vec::new();
        let _ = self.channel.read_to_end(&mut last_words);
        let mut server = self.server;
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
        drop(self.companion);
        match refusal(&last_words, command) {
            None => Ok(code),
            Some(error) => Err(error),
        }
    }
}

/// What the child said against becoming the command.
fn refusal(last_words: &[u8], command: &Command) -> Option<RunError> {
    let (mark, rest) = last_words.split_first()?;
    let errno = <[u8; 4]>::try_from(rest).map(|bytes| Errno::from_raw(i32::from_ne_bytes(bytes)));
    Some(match (mark, errno) {
        (b'!', Ok(errno)) => refused(errno, command),
        _ => RunError::Private(String::from_utf8_lossy(rest).into_owned()),
    })
}

/// Why a process cannot become `command`.
pub(crate) fn refused(errno: Errno, command: &Command) -> RunError {
    let program = command.program.clone();
    match errno {
        Errno::ENOENT => RunError::NotFound { program },
        errno => RunError::NotExecutable {
            program,
            source: errno.into(),
        },
    }
}

/// Ends the child, which without a word to go does not become the command.
fn give_up(child: Pid, channel: UnixStream, error: RunError) -> RunError {
    drop(channel);
    let _ = nix::sys::wait::waitpid(child, None);
    error
}

/// What the child sends when it has mounted privately, or has failed to: a connection, if it `is_served`.
fn receive_connection(channel: &mut UnixStream, is_served: bool) -> Result<Option<OwnedFd>, RunError> {
    if is_served {
        if let Some(device) = receive_descriptor(channel).map_err(ProcessError::io("receive a mount"))? {
            return Ok(Some(device));
        }
    } else {
        let mut word = [0];
        if channel.read_exact(&mut word).is_ok() && word == *b"+" {
            return Ok(None);
        }
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

/// Waits for the server of a mount that is going away. A private mount that other processes still use stays, with
/// its server.
fn wait_for_server(server: Pid, connection: Option<OwnedFd>) {
    if connection.is_some_and(|connection| !is_disconnected(connection.as_fd())) {
        return;
    }
    if let Ok(pidfd) = process::open_pidfd(server)
        && process::wait_for_end(&pidfd, SERVER_END_LIMIT)
    {
        let _ = nix::sys::wait::waitpid(server, None);
    }
}
