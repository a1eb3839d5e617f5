//! The process that answers the kernel: in the background or in the foreground, until its mount is gone.
//!
//! It wakes only for requests, signals and the end of what it waits for. Its lease is taken before anybody is
//! told that the mount is usable, and dropped with the process.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use envfs_store::cache::Cache;
use envfs_store::lease::Lease;
use envfs_store::view::View;
use fuser::{Config, Session, SessionACL};
use nix::unistd::Pid;

use crate::adapter::{Adapter, Owner};
use crate::fs::FileSystem;
use crate::keep::{self, Attached, ENDING_SIGNALS, Ending};
use crate::process::{self, ProcessError};
use crate::service::Service;
use crate::unmount;

pub use crate::keep::ServerError;

/// Two, so that one read from a slow disk does not hold up all others. Each costs a stack and a buffer of which
/// only the touched pages exist.
const THREADS: usize = 2;

/// Serves `device` from a new process, and returns its number when the mount is usable. The new process closes its
/// copies of `let_go`. Overlayfs on the mount finds content in `copies`, if there are any.
pub(crate) fn spawn(
    service: &Service,
    device: OwnedFd,
    copies: Option<Cache>,
    ending: &Ending,
    log: Option<&File>,
    let_go: &[BorrowedFd<'_>],
) -> Result<Pid, ServerError> {
    keep::spawn(&service.mount_point, log, let_go, |ready| {
        serve(service, device, copies, ending, ready)
    })
}

/// Serves `device` until its mount is gone. Calls `ready` when it is usable.
pub(crate) fn serve(
    service: &Service,
    device: OwnedFd,
    copies: Option<Cache>,
    ending: &Ending,
    ready: impl FnOnce(),
) -> Result<(), ServerError> {
    process::raise_descriptor_limit();
    process::block_signals(&ENDING_SIGNALS)?;
    let _lease = Lease::take(&service.store, &service.lease())?;
    let failed = |source| ServerError::Connection {
        mount_point: service.mount_point.clone(),
        source,
    };
    let session = connect(service.view.clone(), copies, device).map_err(failed)?;
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
    keep::await_end(Some(&ended), ending, &Attached::mount(service))?;
    match answering.join() {
        Ok(result) => result.map_err(failed)?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    keep::remove_directory(ending, &service.mount_point);
    Ok(())
}

/// Takes a mount back that nobody serves.
pub(crate) fn forget(mount_point: &Path) {
    // The error that led here says more than a second one.
    let _ = unmount::detach(mount_point, true);
}

/// Answers the kernel's first message.
fn connect(view: View, copies: Option<Cache>, device: OwnedFd) -> io::Result<Session<Adapter>> {
    let owner = Owner {
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
    };
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    // The kernel itself checks who may see the mount.
    Session::from_fd(
        Adapter::new(FileSystem::new(view).with_copies(copies), owner),
        device,
        SessionACL::All,
        config,
    )
}
