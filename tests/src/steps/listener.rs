//! The kernel's side of watching a process: it stops at the calls of a filter and waits for an answer (`seccomp_unotify(2)`).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libc::{seccomp_notif, seccomp_notif_resp, sock_fprog};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::calls::{self, Operand};

/// Where the kernel says what watched processes are about to do.
pub(super) struct Listener(OwnedFd);

/// A process that waits at a call.
pub(super) struct Stopped {
    id: u64,
    /// The thread.
    pub(super) thread: u32,
    pub(super) call: &'static calls::Call,
    arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It happens.
    GoOn,
    /// It does not happen, and the program is told that it did.
    Pretend,
    /// It fails.
    Fail(Errno),
}

/// Makes the process of `command`, and all that come of it, stop at the calls of [`calls::filter`]. The listener arrives
/// at what is returned as soon as the process has started.
pub(super) fn watch(command: &mut Command) -> io::Result<UnixDatagram> {
    let (here, there) = UnixDatagram::pair()?;
    let mut program = calls::filter();
    #[expect(unsafe_code, reason = "between fork and exec only some calls are allowed")]
    // SAFETY: it makes system calls and allocates nothing but what a message takes, which glibc allows after a fork.
    unsafe {
        command.pre_exec(move || {
            let listener = install(&mut program)?;
            let descriptors = [listener.as_raw_fd()];
            let sent = sendmsg::<()>(
                there.as_raw_fd(),
                &[IoSlice::new(&[0])],
                &[ControlMessage::ScmRights(&descriptors)],
                MsgFlags::empty(),
                None,
            );
            Ok(sent.map(drop)?)
        });
    }
    Ok(here)
}

fn install(program: &mut [libc::sock_filter]) -> io::Result<OwnedFd> {
    if !nix::unistd::geteuid().is_root() {
        nix::sys::prctl::set_no_new_privs()?;
    }
    let program = sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // A call that has been told of waits until it is answered: no signal but a deadly one makes it start again.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    #[expect(unsafe_code, reason = "there is no other way to this system call")]
    // SAFETY: the program lives until the call returns, and its length is that of the slice.
    let descriptor = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "the kernel gives a number")]
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

impl Listener {
    /// The one that a started process sent.
    pub(super) fn receive(from: &UnixDatagram) -> io::Result<Self> {
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let message = recvmsg::<()>(
            from.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = part
                && let Some(&descriptor) = descriptors.first()
            {
                #[expect(unsafe_code, reason = "the kernel gives a number")]
                // SAFETY: the kernel has just made it for us.
                return Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }));
            }
        }
        Err(io::Error::other("the process sent no listener"))
    }

    /// The next call of a watched process; nothing when the last of them has ended.
    pub(super) fn next(&self) -> io::Result<Option<Stopped>> {
        loop {
            let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut waiting, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => drop(result?),
            }
            let events = waiting[0].revents().unwrap_or(PollFlags::empty());
            if !events.contains(PollFlags::POLLIN) {
                return Ok(None);
            }
            match self.receive_call() {
                Ok(Some(stopped)) => return Ok(Some(stopped)),
                // Killed before it was asked after.
                Ok(None) | Err(Errno::EINTR | Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive_call(&self) -> Result<Option<Stopped>, Errno> {
        #[expect(unsafe_code, reason = "a structure of the kernel's, filled by it")]
        // SAFETY: all zeros is a value of it, and what the kernel wants to be given.
        let mut told: seccomp_notif = unsafe { std::mem::zeroed() };
        #[expect(unsafe_code, reason = "there is no other way to this request")]
        // SAFETY: the structure is the one that the request fills.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut told) })?;
        let call = calls::find(told.data.nr.into()).ok_or(Errno::ENOSYS)?;
        Ok(Some(Stopped {
            id: told.id,
            thread: told.pid,
            call,
            arguments: told.data.args,
        }))
    }

    /// Lets a call go on as `answer` says. One whose process was killed meanwhile is fine.
    pub(super) fn answer(&self, stopped: &Stopped, answer: Answer) -> io::Result<()> {
        let mut response = seccomp_notif_resp {
            id: stopped.id,
            val: 0,
            error: match answer {
                Answer::Fail(errno) => -(errno as i32),
                Answer::GoOn | Answer::Pretend => 0,
            },
            flags: match answer {
                Answer::GoOn => u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).map_err(io::Error::other)?,
                Answer::Pretend | Answer::Fail(_) => 0,
            },
        };
        #[expect(unsafe_code, reason = "there is no other way to this request")]
        // SAFETY: the structure is the one that the request reads.
        let sent = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response) };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Stopped {
    /// The file that the call is about, as its process would find it. Nothing if it names none, or has been killed.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let argument = |number: usize| self.arguments[number];
        let (directory, path) = match self.call.operand {
            Operand::Nothing => return None,
            Operand::Descriptor(number) => return self.descriptor(argument(number)),
            Operand::Path(number) => (libc::AT_FDCWD, argument(number)),
            Operand::At(number) => (low_half(argument(number)).cast_signed(), argument(number + 1)),
        };
        if path == 0 {
            return self.descriptor(argument(0));
        }
        let path = self.text(path)?;
        if path.is_absolute() {
            return Some(path);
        }
        let from = match directory {
            libc::AT_FDCWD => std::fs::read_link(format!("/proc/{}/cwd", self.thread)).ok()?,
            directory => self.descriptor(u64::from(directory.cast_unsigned()))?,
        };
        Some(if path.as_os_str().is_empty() {
            from
        } else {
            from.join(path)
        })
    }

    fn descriptor(&self, number: u64) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/fd/{}", self.thread, low_half(number))).ok()
    }

    /// A path in the memory of the process.
    fn text(&self, address: u64) -> Option<PathBuf> {
        use std::os::unix::fs::FileExt as _;
        const PAGE_BYTES: usize = 4096;
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < libc::PATH_MAX as usize {
            // Up to the end of its page, behind which there may be nothing.
            let mut part = vec![0; PAGE_BYTES - usize::try_from(at).ok()? % PAGE_BYTES];
            memory.read_exact_at(&mut part, at).ok()?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                text.extend(&part[..end]);
                return Some(Path::new(std::ffi::OsStr::from_bytes(&text)).to_owned());
            }
            at += part.len() as u64;
            text.extend(part);
        }
        None
    }
}

/// Of a descriptor the kernel looks only at this (an `int`).
fn low_half(argument: u64) -> u32 {
    u32::try_from(argument & u64::from(u32::MAX)).expect("half of it")
}
