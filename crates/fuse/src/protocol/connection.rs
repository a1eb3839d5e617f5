//! The connection to the kernel: `/dev/fuse` once something is mounted with it.
//!
//! All processes and threads that hold the descriptor speak over one connection; it ends when the mount is gone, or when
//! nobody holds it any more.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use zerocopy::{Immutable, IntoBytes};

use super::wire::{FUSE_DEV_IOC_MAGIC, FUSE_MIN_READ_BUFFER, FUSE_NOTIFY_RESEND, fuse_backing_map, fuse_out_header};

/// How long a request can be: those that are answered here are short.
pub(crate) const REQUEST_BYTES: usize = FUSE_MIN_READ_BUFFER;

/// A file that the kernel reads itself, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackingId(pub(crate) i32);

/// An open `/dev/fuse`.
#[derive(Debug)]
pub(crate) struct Connection {
    device: File,
}

impl Connection {
    pub(crate) fn new(device: OwnedFd) -> Self {
        Self { device: device.into() }
    }

    /// Waits for a request, and gives its bytes. None when the mount is gone.
    ///
    /// # Errors
    /// When the kernel says something unheard of.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8; REQUEST_BYTES]) -> io::Result<Option<&'a [u8]>> {
        loop {
            match (&self.device).read(buffer) {
                Ok(len) => return Ok(Some(&buffer[..len])),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    // What was to be read was taken back meanwhile (ENOENT).
                    Some(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
                    Some(Errno::ENODEV | Errno::ECONNABORTED) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Whether a request waits to be received.
    pub(crate) fn is_asked(&self) -> bool {
        is_ready(self.device.as_fd(), PollFlags::POLLIN | PollFlags::POLLERR)
    }

    /// Answers with a structure.
    pub(crate) fn answer<T: IntoBytes + Immutable>(&self, unique: u64, structure: &T) {
        self.send(unique, 0, structure.as_bytes());
    }

    /// Answers with bytes.
    pub(crate) fn answer_bytes(&self, unique: u64, bytes: &[u8]) {
        self.send(unique, 0, bytes);
    }

    /// Answers that it cannot be done.
    pub(crate) fn refuse(&self, unique: u64, errno: Errno) {
        self.send(unique, -(errno as i32), &[]);
    }

    /// Asks for all requests again that were received and not answered (Linux 6.9).
    ///
    /// # Errors
    /// When the kernel cannot do that.
    pub(crate) fn ask_again(&self) -> io::Result<()> {
        self.write(0, FUSE_NOTIFY_RESEND, &[])
    }

    /// Lets the kernel read `file` itself, which only root may, and only where that was agreed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn register(&self, file: &File) -> io::Result<BackingId> {
        let map = fuse_backing_map {
            fd: file.as_raw_fd(),
            ..fuse_backing_map::default()
        };
        #[expect(unsafe_code, reason = "an ioctl has no safe form")]
        // SAFETY: the kernel reads one structure of this size from a value of this frame.
        let id = unsafe { ioctl::backing_open(self.device.as_raw_fd(), &raw const map) }?;
        Ok(BackingId(id))
    }

    /// Takes a registration back. Whoever has the file open reads on.
    pub(crate) fn unregister(&self, id: BackingId) {
        let number = id.0.cast_unsigned();
        #[expect(unsafe_code, reason = "an ioctl has no safe form")]
        // SAFETY: the kernel reads one number from a value of this frame.
        let _ = unsafe { ioctl::backing_close(self.device.as_raw_fd(), &raw const number) };
    }

    fn send(&self, unique: u64, error: i32, body: &[u8]) {
        match self.write(unique, error, body) {
            Ok(()) => {}
            // The program that asked is gone (ENOENT), or the mount.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EPERM)) => {}
            Err(error) => tracing::warn!("the kernel does not take an answer: {error}"),
        }
    }

    fn write(&self, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(size_of::<fuse_out_header>() + body.len()).map_err(|_| Errno::E2BIG)?;
        let header = fuse_out_header { len, error, unique };
        loop {
            // The kernel takes a message whole or not at all.
            match (&self.device).write_vectored(&[IoSlice::new(header.as_bytes()), IoSlice::new(body)]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the file system behind a connection is gone (`fuse_dev_poll` of the Linux kernel).
pub(crate) fn is_disconnected(device: BorrowedFd<'_>) -> bool {
    is_ready(device, PollFlags::POLLERR)
}

fn is_ready(device: BorrowedFd<'_>, wanted: PollFlags) -> bool {
    let mut descriptors = [PollFd::new(device, wanted & PollFlags::POLLIN)];
    nix::poll::poll(&mut descriptors, PollTimeout::ZERO).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.intersects(wanted))
}

/// The commands of `/dev/fuse` (`FUSE_DEV_IOC_BACKING_OPEN` and `FUSE_DEV_IOC_BACKING_CLOSE`, Linux 6.9).
mod ioctl {
    use super::{FUSE_DEV_IOC_MAGIC, fuse_backing_map};

    nix::ioctl_write_ptr!(backing_open, FUSE_DEV_IOC_MAGIC, 1, fuse_backing_map);
    nix::ioctl_write_ptr!(backing_close, FUSE_DEV_IOC_MAGIC, 2, u32);
}
