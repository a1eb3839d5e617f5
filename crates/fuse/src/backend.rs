//! The ways to serve an environment: what each takes, which is chosen, and mounting for everybody.
//!
//! A backend takes a [`Service`], a view and a mount point, and makes the mount point usable. Callers see which one it
//! was and nothing else of it: the same files are there, and `envfs umount` takes all of them away.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use crate::causes::with_causes;
use crate::keep::{self, Attached, ENDING_SIGNALS, Ending, ServerError};
use crate::keeper;
use crate::kernel::{self, KernelError, detached};
use crate::link::{self, LinkError};
use crate::mount::{self, MountError, MountOptions};
use crate::process::{self, ProcessError};
use crate::server::{self, Serving};
use crate::service::Service;

/// A way to serve an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// The kernel reads everything itself. For everybody only root can have it so; for one command any user, with a
    /// server for the names.
    Kernel,
    /// A server answers for everything but the largest files.
    Fuse,
    /// Nothing is mounted: the files are linked or copied.
    Link,
}

/// One backend, or the best that works.
pub type Choice = Option<Backend>;

/// From the best to what works everywhere.
pub const BACKENDS: [Backend; 3] = [Backend::Kernel, Backend::Fuse, Backend::Link];

/// An environment cannot be mounted by any backend that was allowed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The kernel cannot serve it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// FUSE cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It cannot be served or kept.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// It cannot be linked.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A process cannot be prepared.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl BackendError {
    /// What can be done about a backend that cannot work here, if that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Kernel(KernelError::NotRoot) => {
                Some("mount as root, or leave `--backend` out: the best that works is taken")
            }
            Self::Kernel(KernelError::Refused(_)) => Some(
                "it takes Linux 6.13 with EROFS and overlayfs, CAP_SYS_ADMIN (in a container add `--cap-add SYS_ADMIN`), \
                 and a store on a local file system such as ext4, xfs or btrfs; `--backend fuse` takes less",
            ),
            _ => None,
        }
    }
}

impl Backend {
    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Fuse => "fuse",
            Self::Link => "link",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such backend.
#[derive(Debug, thiserror::Error)]
#[error("there is no backend `{0}`: it is one of `kernel`, `fuse` and `link`")]
pub struct UnknownBackend(String);

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        BACKENDS
            .into_iter()
            .find(|backend| backend.name() == text)
            .ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

/// Makes `service` usable for everybody at its mount point, and returns by which backend. Where that needs a server, one
/// goes on in the background; what it has to say goes to `log`.
///
/// # Errors
/// When it cannot be mounted or served; then nothing stays mounted.
pub fn mount_in_background(
    service: &Service,
    options: &MountOptions,
    choice: Choice,
    log: Option<&File>,
) -> Result<Backend, BackendError> {
    with_signals_blocked(|| {
        let mounted = attach(service, options, choice)?;
        let backend = mounted.backend();
        if let Mounted::Fuse(device) = mounted {
            let serving = Serving::alone(service, device, &Ending::Signal);
            keeper::spawn(&serving, log, &[]).inspect_err(|_| server::forget(&service.mount_point))?;
        }
        Ok(backend)
    })
}

/// The same, but this process stays until a signal asks it to end or the mount is gone, and takes the mount away. Calls
/// `ready` when it is usable.
///
/// # Errors
/// When it cannot be mounted or served; then nothing stays mounted.
pub fn mount_in_foreground(
    service: &Service,
    options: &MountOptions,
    choice: Choice,
    ready: impl FnOnce(Backend),
) -> Result<(), BackendError> {
    with_signals_blocked(|| {
        let result = match attach(service, options, choice)? {
            Mounted::Fuse(device) => {
                let serving = Serving::alone(service, device, &Ending::Signal);
                keeper::serve(&serving, || ready(Backend::Fuse))
            }
            Mounted::Kernel => {
                let attached = Attached::mount(service);
                keep::keep(service, &attached, &Ending::Signal, || ready(Backend::Kernel))
            }
            Mounted::Link => {
                let attached = Attached::Links(&service.mount_point);
                keep::keep(service, &attached, &Ending::Signal, || ready(Backend::Link))
            }
        };
        result.inspect_err(|_| take_back(service))?;
        Ok(())
    })
}

/// Lays out what makes the first mount of `service` in this boot immediate. Only root's mounts need anything.
///
/// # Errors
/// When the tree is damaged or the store cannot be written.
pub fn prepare(service: &Service) -> Result<(), KernelError> {
    if nix::unistd::geteuid().is_root() {
        kernel::prepare(service)?;
    }
    Ok(())
}

/// What stands at the mount point.
pub(crate) enum Mounted {
    Kernel,
    /// A connection that is to be served.
    Fuse(OwnedFd),
    Link,
}

impl Mounted {
    fn backend(&self) -> Backend {
        match self {
            Self::Kernel => Backend::Kernel,
            Self::Fuse(_) => Backend::Fuse,
            Self::Link => Backend::Link,
        }
    }
}

/// Puts `service` at its mount point, for everybody, by the backend of choice or the best that works.
pub(crate) fn attach(service: &Service, options: &MountOptions, choice: Choice) -> Result<Mounted, BackendError> {
    let is_allowed = |backend| choice.is_none_or(|only| only == backend);
    if is_allowed(Backend::Kernel) {
        match attach_kernel(service) {
            Ok(()) => return Ok(Mounted::Kernel),
            Err(error) if choice.is_some() => return Err(error.into()),
            Err(KernelError::NotRoot) => {}
            Err(error) => pass_over(Backend::Kernel, &error),
        }
    }
    if is_allowed(Backend::Fuse) {
        match mount::mount(&service.mount_point, options) {
            Ok(device) => return Ok(Mounted::Fuse(device)),
            Err(error) if choice.is_none() && error.is_about_this_machine() => pass_over(Backend::Fuse, &error),
            Err(error) => return Err(error.into()),
        }
    }
    link::link(service)?;
    Ok(Mounted::Link)
}

/// Takes back what was attached, after an error that says more than another one would.
pub(crate) fn take_back(service: &Service) {
    if link::is_linked(&service.mount_point) {
        let _ = link::remove(&service.mount_point, true);
    } else {
        server::forget(&service.mount_point);
    }
}

/// Tells who wants to know that a backend does not work.
pub(crate) fn pass_over(backend: Backend, error: &dyn std::error::Error) {
    tracing::info!("not by `{backend}`: {}", with_causes(error));
}

fn attach_kernel(service: &Service) -> Result<(), KernelError> {
    let overlay = kernel::mount(service)?;
    let _attaching = kernel::accompany_mount(service, &overlay);
    Ok(detached::attach(&overlay.mount, &service.mount_point)?)
}

/// Between mounting and serving nobody may end this process: a mount without a server would stay.
fn with_signals_blocked<T>(work: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
    let mask = process::block_signals(&ENDING_SIGNALS)?;
    let result = work();
    let _ = mask.thread_set_mask();
    result
}
