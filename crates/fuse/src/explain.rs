//! Which backend would be taken here, and why not the others. Asks the kernel, with mounts that no path leads to, and
//! leaves nothing.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use envfs_store::Store;

use crate::backend::{BACKENDS, Backend};
use crate::causes::with_causes;
use crate::kernel::{self, KernelError, detached};
use crate::mount::{self, MountError, fusermount};
use crate::namespace;
use crate::process;

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `envfs mount`: everybody sees it.
    Mount,
    /// `envfs run`: the command sees it.
    Run,
}

/// What a backend would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which one.
    pub backend: Backend,
    /// Why it cannot work here; nothing if it can.
    pub obstacle: Option<String>,
    /// Whether it is the one that is taken.
    pub is_taken: bool,
}

/// What each backend would do for environments of `store` that this user mounts or runs, the best first. Only before
/// threads are started.
#[must_use]
pub fn explain(store: &Store, purpose: Purpose) -> Vec<Verdict> {
    let obstacles = BACKENDS.map(|backend| obstacle(store, purpose, backend));
    // Of one command's names, a server is asked more often where overlayfs reads the content: only on demand.
    let is_on_demand = purpose == Purpose::Run && kernel::check(store).is_err();
    let taken = BACKENDS
        .iter()
        .zip(&obstacles)
        .find(|&(backend, obstacle)| obstacle.is_none() && !(is_on_demand && *backend == Backend::Kernel))
        .map(|(backend, _)| *backend);
    BACKENDS
        .into_iter()
        .zip(obstacles)
        .map(|(backend, obstacle)| Verdict {
            backend,
            obstacle,
            is_taken: taken == Some(backend),
        })
        .collect()
}

fn obstacle(store: &Store, purpose: Purpose, backend: Backend) -> Option<String> {
    let fuse = || check_fuse().err().map(|error| with_causes(&error));
    match (purpose, backend) {
        (Purpose::Mount, Backend::Kernel) => kernel::check(store).err().map(|error| with_causes(&error)),
        (Purpose::Mount, Backend::Fuse) => fuse(),
        (Purpose::Run, Backend::Kernel) => check_private_kernel(store),
        // Where namespaces are not allowed, a public mount takes their place.
        (Purpose::Run, Backend::Fuse) => check_private_fuse().and_then(|private| fuse().map(|_| private)),
        (_, Backend::Link) => None,
    }
}

/// Why this user cannot mount FUSE for everybody.
fn check_fuse() -> Result<(), MountError> {
    drop(mount::open_device()?);
    if nix::unistd::geteuid().is_root() {
        return detached::known("fuse").map_err(|_| MountError::Forbidden("a directory".into()));
    }
    fusermount::check()
}

fn check_private_kernel(store: &Store) -> Option<String> {
    match kernel::check(store) {
        Ok(()) => return in_namespace(|| Ok(())),
        Err(KernelError::NotRoot) => {}
        Err(error) => return Some(with_causes(&error)),
    }
    in_namespace(|| kernel::check_as_user(store).map_err(|error| with_causes(&error))).or_else(check_private_fuse)
}

fn check_private_fuse() -> Option<String> {
    in_namespace(|| {
        mount::open_device()
            .map_err(|error| with_causes(&error))
            .and_then(|_device| detached::known("fuse").map_err(|error| with_causes(&error)))
    })
}

/// What `check` says in a view of its own, or why there cannot be one.
fn in_namespace(check: impl FnOnce() -> Result<(), String>) -> Option<String> {
    let (mut listen, mut tell) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return Some(error.to_string()),
    };
    let child = process::spawn(&[listen.as_fd()], || {
        let result = namespace::enter()
            .map_err(|error| with_causes(&error))
            .and_then(|()| check());
        let _ = tell.write_all(result.err().unwrap_or_default().as_bytes());
        0
    });
    drop(tell);
    let child = match child {
        Ok(child) => child,
        Err(error) => return Some(with_causes(&error)),
    };
    let mut said = String::new();
    let _ = listen.read_to_string(&mut said);
    let _ = nix::sys::wait::waitpid(child, None);
    (!said.is_empty()).then_some(said)
}
