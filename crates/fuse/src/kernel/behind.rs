//! Whole objects read through behind the first mount of a tree in a boot, because the kernel opens them without asking: a
//! process that does nothing else, when nobody else needs the disk. What it finds damaged it takes out of sight, so that opening
//! it is an error from then on.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::signal::SigSet;

use crate::causes::with_causes;
use crate::keep;
use crate::process;
use crate::service::Service;

/// The lowest claim to the processor (setpriority(2)).
const NICE: i32 = 19;

/// Only when nobody else uses the disk (ioprio_set(2)): the class `IOPRIO_CLASS_IDLE` of this process.
const IDLE_CLASS: libc::c_int = 3 << 13;
const THIS_PROCESS: libc::c_int = 1;

/// Starts the process, if there is something to read; it closes its copies of `let_go`. Only before threads are started.
pub(super) fn read_through(service: &Service, let_go: &[BorrowedFd<'_>]) {
    if service.store.is_read_through(&service.tree) {
        return;
    }
    let spawned = process::spawn(let_go, || u8::from(run(service).is_err()));
    if let Err(error) = spawned {
        tracing::info!(
            "large files are not read through behind the mount: {}",
            with_causes(&error)
        );
    }
}

fn run(service: &Service) -> io::Result<()> {
    let _ = SigSet::empty().thread_set_mask();
    let _ = keep::go_to_background(None);
    process::close_all_but(&[])?;
    be_modest();
    let wrong = service.store.read_through(&service.tree, service.view.tree());
    wrong.map(drop).map_err(io::Error::other)
}

fn be_modest() {
    #[expect(unsafe_code, reason = "neither call has a safe form here")]
    // SAFETY: both only change how this process is scheduled.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        libc::syscall(libc::SYS_ioprio_set, THIS_PROCESS, 0, IDLE_CLASS);
    }
}
