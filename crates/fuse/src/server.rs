//! The process that answers the kernel until its mount is gone.
//!
//! It wakes only for requests, signals and the end of what it waits for. Its lease is taken before anybody is
//! told that the mount is usable, and dropped with the last process that holds it. It is the child of a keeper, which starts
//! another if it is killed; without the keeper it goes on.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use envfs_store::cache::Cache;
use envfs_store::lease::{Lease, LeaseRecord};

use crate::adapter::{self, Adapter, Owner};
use crate::fs::FileSystem;
use crate::keep::{self, Attached, Ending};
use crate::memory::Memory;
use crate::process::{self, ProcessError};
use crate::protocol::connection::{Connection, REQUEST_BYTES};
use crate::protocol::init::{self, Agreed};
use crate::protocol::request::Request;
use crate::readers;
use crate::service::Service;
use crate::unmount;

pub use crate::keep::ServerError;

/// What is served over which connection, and until when.
pub(crate) struct Serving<'a> {
    pub(crate) service: &'a Service,
    pub(crate) device: OwnedFd,
    /// Where overlayfs on the mount finds content, if there is one.
    pub(crate) copies: Option<Cache>,
    pub(crate) ending: &'a Ending,
}

impl<'a> Serving<'a> {
    /// With nothing standing on it.
    pub(crate) fn alone(service: &'a Service, device: OwnedFd, ending: &'a Ending) -> Self {
        Self {
            service,
            device,
            copies: None,
            ending,
        }
    }
}

/// In a process of its own: answers until the mount is gone. Takes up what an earlier server has left, if `memory` knows of
/// one. The `lease` is its keeper's, with what that said in it. Calls `ready` when the kernel takes requests for it.
pub(crate) fn answer(
    serving: &Serving<'_>,
    lease: (&Lease, &LeaseRecord),
    memory: Memory,
    ready: impl FnOnce(),
) -> Result<(), ServerError> {
    let service = serving.service;
    let failed = |source| ServerError::Connection {
        mount_point: service.mount_point.clone(),
        source,
    };
    process::raise_descriptor_limit();
    let (lease, record) = lease;
    lease.update(&LeaseRecord {
        pid: std::process::id(),
        keeper_pid: Some(record.pid),
        ..record.clone()
    })?;
    let device = serving.device.try_clone().map_err(failed)?;
    let connection = Connection::new(device);
    let agreed = match memory.agreed() {
        // Whatever the one before us had not answered comes again.
        Some(agreed) => connection.ask_again().map(|()| agreed),
        None => agree(&connection, &memory, init::wanted(wants_passthrough(serving))),
    };
    let agreed = agreed.map_err(failed)?;
    let fs = FileSystem::new(service.view.clone()).with_copies(serving.copies.clone());
    let owner = Owner {
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
    };
    let adapter = Adapter::new(fs, owner, agreed, memory).map_err(failed)?;
    // Who waits for the mount need not wait for what only makes this process small: requests do, for a moment.
    ready();
    process::keep_heap_small();
    let (ended, running) = io::pipe().map_err(ProcessError::io("make a pipe"))?;
    let reader = readers::start(connection, adapter, running).map_err(ProcessError::io("start a thread"))?;
    keep::await_end(Some(&ended), serving.ending, &Attached::mount(service))?;
    match reader.join() {
        Ok(result) => result.map_err(failed)?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    keep::remove_directory(serving.ending, &service.mount_point);
    Ok(())
}

/// Only root's files can be registered; and where overlayfs takes the content elsewhere, what is left to read is little.
fn wants_passthrough(serving: &Serving<'_>) -> bool {
    nix::unistd::geteuid().is_root() && serving.copies.is_none()
}

/// Receives the kernel's first messages until it is settled how to speak; `wanted` is what we would like to use (`FUSE_INIT`).
pub(crate) fn agree(connection: &Connection, memory: &Memory, wanted: u64) -> io::Result<Agreed> {
    let mut buffer = Box::new([0; REQUEST_BYTES]);
    loop {
        let message = connection.receive(&mut buffer)?.ok_or(io::ErrorKind::NotConnected)?;
        let Some(request) = Request::parse(message) else {
            continue;
        };
        if let Some(agreed) = adapter::agree(connection, &request, memory, wanted)? {
            return Ok(agreed);
        }
    }
}

/// Takes a mount back that nobody serves.
pub(crate) fn forget(mount_point: &Path) {
    // The error that led here says more than a second one.
    let _ = unmount::detach(mount_point, true);
}
