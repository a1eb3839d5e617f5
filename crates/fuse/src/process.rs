//! The few things about processes that need unsafe code: forking, leaving without a word, descriptors by number, what a
//! process may.
//!
//! Knows nothing of file systems.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal};
use nix::unistd::{ForkResult, Pid};

/// What a child that panicked exits with, as Rust's own processes do.
const PANIC_EXIT_CODE: u8 = 101;

/// A process cannot be made or prepared.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A copy of a process with threads would hold locks that nobody releases.
    #[error("internal error: cannot fork while {0} threads run; start again from a fresh process")]
    Threads(u64),
    /// The operating system refused something.
    #[error("cannot {action}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl ProcessError {
    pub(crate) fn system(action: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::System {
            action,
            source: errno.into(),
        }
    }

    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

/// Runs `child` in a copy of this process, which first closes its copies of `let_go` and exits with what `child`
/// returns. Only before threads are started.
///
/// # Errors
/// When there are threads, or no process can be made.
pub(crate) fn spawn(let_go: &[BorrowedFd<'_>], child: impl FnOnce() -> u8) -> Result<Pid, ProcessError> {
    let threads = threads().map_err(ProcessError::io("count the threads in /proc/self/task"))?;
    if threads > 1 {
        return Err(ProcessError::Threads(threads));
    }
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: this is the only thread, so the copy finds every lock free and all memory consistent.
    let fork = unsafe { nix::unistd::fork() };
    match fork.map_err(ProcessError::system("fork"))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            for descriptor in let_go {
                #[expect(unsafe_code, reason = "closing what a value owns that is never dropped")]
                // SAFETY: the owner is in a frame of the caller, to which the copy never returns: it exits below.
                unsafe {
                    libc::close(descriptor.as_raw_fd());
                }
            }
            let code = std::panic::catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANIC_EXIT_CODE);
            exit_without_cleanup(code)
        }
    }
}

/// How many threads this process has: its directory of them has a link from each (`proc_task_getattr` of `fs/proc/base.c`).
fn threads() -> io::Result<u64> {
    let links = fs::metadata("/proc/self/task")?.nlink();
    Ok(links.saturating_sub(DIRECTORY_LINKS))
}

/// The links that an empty directory has: its name, and its own dot.
const DIRECTORY_LINKS: u64 = 2;

/// What the parent has buffered or registered to happen at exit is the parent's to do.
fn exit_without_cleanup(code: u8) -> ! {
    #[expect(unsafe_code, reason = "_exit has no safe form")]
    // SAFETY: _exit only ends the process.
    unsafe {
        libc::_exit(code.into())
    }
}

/// Lets go of what this process was started with and does not know of: descriptors that would keep somebody
/// else's pipe or lock open for as long as a server lives. Ours are all close-on-exec; inherited ones are not, or
/// they would not have survived the exec that started us.
///
/// # Errors
/// When the descriptors cannot be listed.
pub fn close_inherited_descriptors() -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&number| number > 2)
        .collect();
    for number in numbers {
        #[expect(unsafe_code, reason = "a descriptor that is known by its number only")]
        // SAFETY: F_GETFD on a closed descriptor is EBADF. One without FD_CLOEXEC belongs to no value of this
        // process, because everything that opens here sets it; so closing it takes it from nobody.
        unsafe {
            let flags = libc::fcntl(number, libc::F_GETFD);
            if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
                libc::close(number);
            }
        }
    }
    Ok(())
}

/// Lets go of everything but `kept`, also of what other values of this process own: of the leases of the process that this one is a
/// copy of, above all. From then on only paths and `kept` may be used, and what is mapped.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&number| number > 2 && kept.iter().all(|kept| kept.as_raw_fd() != number))
        .collect();
    for number in numbers {
        #[expect(
            unsafe_code,
            reason = "descriptors that values own which are never used again, nor dropped"
        )]
        // SAFETY: to be called in a copy of a process that ends without cleanup, where nothing reads through them any more.
        unsafe {
            libc::close(number);
        }
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard one: packs and large objects take a descriptor each.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[expect(unsafe_code, reason = "getrlimit and setrlimit of libc")]
    // SAFETY: both get a valid pointer to a value of this frame. A failure leaves the limit as it was.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// For a process that stays and allocates little: one heap for all threads, and what is free at its end goes back. Gives
/// back at once what this process was given by the one that forked it.
pub(crate) fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt and malloc_trim have no safe form")]
    // SAFETY: they set numbers of the allocator before there are threads, and give back what nobody owns.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, HEAP_TRIM_BYTES);
        libc::malloc_trim(0);
    }
}

/// How much may be free at the end of the heap: more than a file that comes and goes, or each would move the end twice.
#[cfg(target_env = "gnu")]
const HEAP_TRIM_BYTES: i32 = 256 * 1024;

/// A descriptor that becomes readable when the process ends (pidfd_open(2), Linux 5.3).
pub(crate) fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "pidfd_open has no safe form here")]
    // SAFETY: the system call takes two numbers, and gives a new descriptor that nobody else owns.
    unsafe {
        let number = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        match RawFd::try_from(number) {
            Ok(number) if number >= 0 => Ok(OwnedFd::from_raw_fd(number)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Changes the flags of the mount at `path` (`MOUNT_ATTR_*` of mount_setattr(2), Linux 5.12), and of all below it if
/// `recursive`.
pub(crate) fn set_mount_flags(path: &CStr, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    #[expect(unsafe_code, reason = "mount_setattr has no safe form here")]
    // SAFETY: the kernel reads a path that ends with NUL and a structure of this frame, whose size it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes from the programs that this process becomes every capability but those with the numbers in `kept`
/// (capabilities(7), "bounding set").
pub(crate) fn keep_capabilities(kept: &[i32]) -> io::Result<()> {
    for number in (0..).filter(|number| !kept.contains(number)) {
        #[expect(unsafe_code, reason = "prctl has no safe form here")]
        // SAFETY: the call takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // The kernel knows no more of them.
                Some(libc::EINVAL) => Ok(()),
                _ => Err(error),
            };
        }
    }
    Ok(())
}

/// Takes ownership of a descriptor that was received in a message.
pub(crate) fn received_descriptor(number: RawFd) -> OwnedFd {
    #[expect(unsafe_code, reason = "a received descriptor is a number")]
    // SAFETY: the kernel has just made it for this process, and nobody else has seen the number.
    unsafe {
        OwnedFd::from_raw_fd(number)
    }
}

/// Waits until the process of `pidfd` has ended, at most for `limit`. Says whether it has.
pub(crate) fn wait_for_end(pidfd: &OwnedFd, limit: Duration) -> bool {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut descriptors = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut descriptors, timeout).is_ok_and(|ready| ready > 0)
}

/// Blocks `signals`, so that they wait to be asked for. Returns what was blocked before.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn block_signals(signals: &[Signal]) -> Result<SigSet, ProcessError> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(ProcessError::system("block signals"))
}

/// Sets the signals as a program expects them that is about to start: `mask` blocked, and `SIGPIPE`, which Rust
/// programs ignore, deadly again.
pub(crate) fn restore_signals(mask: &SigSet) {
    #[expect(unsafe_code, reason = "setting a signal's action has no safe form")]
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let _ = mask.thread_set_mask();
}

/// How many bytes of memory a process takes that are in use now (proc_pid_statm(5)); none if it is gone.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page_bytes = page_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
    pages.map_or(0, |pages| pages.saturating_mul(page_bytes))
}
