//! Operations on a real directory.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{
    self, Access, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags,
};
use rustix::io;

use super::operation::{Answer, LockKind, Operation, Outcome, SLOTS, Slot, Status};

/// A modification time after this one is that of the test: the two differ.
const NEW_SINCE_S: i64 = 1_750_000_000;

/// Longer extended attributes are not set.
const MAX_ATTRIBUTE_BYTES: usize = 65_536;

/// A directory, and what is open in it.
pub(crate) struct Directory {
    root: PathBuf,
    slots: [Option<OwnedFd>; SLOTS],
}

impl Directory {
    pub(crate) fn at(root: PathBuf) -> Self {
        Self {
            root,
            slots: [const { None }; SLOTS],
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The number of the file that is open there.
    pub(crate) fn inode(&self, slot: Slot) -> Option<u64> {
        fs::fstat(self.slots[slot].as_ref()?).ok().map(|stat| stat.st_ino)
    }

    /// Whether a directory is open there.
    pub(crate) fn is_directory(&self, slot: Slot) -> bool {
        let stat = self.slots[slot].as_ref().map(fs::fstat);
        stat.is_some_and(|stat| stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory))
    }

    /// Does it.
    pub(crate) fn apply(&mut self, operation: &Operation) -> Outcome {
        use Operation as O;
        match operation {
            O::Open {
                slot,
                path,
                flags,
                mode,
            } => self.open(*slot, path, *flags, *mode),
            O::Close { slot } => {
                self.slots[*slot] = None;
                Ok(Answer::Done)
            }
            O::ReadSlot { slot, .. }
            | O::WriteSlot { slot, .. }
            | O::MapWriteSlot { slot, .. }
            | O::SeekSlot { slot, .. }
            | O::TruncateSlot { slot, .. }
            | O::AllocateSlot { slot, .. }
            | O::CopySlot { from: slot, .. }
            | O::LockSlot { slot, .. }
            | O::StatSlot { slot }
            | O::SyncSlot { slot }
            | O::LinkSlot { slot, .. }
            | O::IsTerminal { slot } => match &self.slots[*slot] {
                None => Ok(Answer::NoSlot),
                Some(file) => self.apply_to_open(file, operation),
            },
            O::Stat { .. }
            | O::Read { .. }
            | O::Map { .. }
            | O::List { .. }
            | O::Readlink { .. }
            | O::Access { .. } => self.look(operation),
            O::GetAttribute { .. } | O::ListAttributes { .. } | O::SetAttribute { .. } | O::RemoveAttribute { .. } => {
                self.attribute(operation)
            }
            _ => self.change(operation),
        }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn open(&mut self, slot: Slot, path: &str, flags: u32, mode: u32) -> Outcome {
        // First the old one: what is open to write keeps nobody from executing, but both do the same in the same order.
        self.slots[slot] = None;
        let flags = OFlags::from_bits_retain(flags) | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::open(self.place(path), flags, Mode::from_raw_mode(mode)).map_err(errno)?;
        self.slots[slot] = Some(file);
        Ok(Answer::Done)
    }

    fn look(&self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Stat { path, follows } => {
                let flags = if *follows {
                    AtFlags::empty()
                } else {
                    AtFlags::SYMLINK_NOFOLLOW
                };
                fs::statat(CWD, self.place(path), flags)
                    .map(|stat| status(&stat))
                    .map_err(errno)
            }
            Operation::Read { path, offset, len } => {
                let file = self.open_to_read(path)?;
                read_at(&file, *offset, *len)
            }
            Operation::Map { path, offset, len } => map(&self.open_to_read(path)?, *offset, *len),
            Operation::List { path, from } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = fs::open(self.place(path), flags, Mode::empty()).map_err(errno)?;
                list_twice(&directory, *from)
            }
            Operation::Readlink { path } => {
                let target = fs::readlinkat(CWD, self.place(path), Vec::new()).map_err(errno)?;
                Ok(Answer::Bytes(target.into_bytes()))
            }
            Operation::Access { path, bits } => {
                let bits = Access::from_bits_retain(*bits);
                done(fs::accessat(CWD, self.place(path), bits, AtFlags::empty()))
            }
            _ => unreachable!("{operation:?} does not look"),
        }
    }

    fn open_to_read(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        fs::open(self.place(path), flags, Mode::empty()).map_err(errno)
    }

    fn attribute(&self, operation: &Operation) -> Outcome {
        match operation {
            Operation::GetAttribute { path, name } => {
                let mut value = vec![0; MAX_ATTRIBUTE_BYTES];
                let len = fs::lgetxattr(self.place(path), *name, value.as_mut_slice()).map_err(errno)?;
                value.truncate(len);
                Ok(Answer::Bytes(value))
            }
            Operation::ListAttributes { path } => attributes(&self.place(path)).map(|names| {
                let names = names.into_iter().map(|name| (name, String::new()));
                Answer::Names(names.collect())
            }),
            Operation::SetAttribute {
                path,
                name,
                value,
                flags,
            } => {
                let flags = XattrFlags::from_bits_retain(*flags);
                done(fs::lsetxattr(self.place(path), *name, value, flags))
            }
            Operation::RemoveAttribute { path, name } => done(fs::lremovexattr(self.place(path), *name)),
            _ => unreachable!("{operation:?} has no attribute"),
        }
    }

    fn apply_to_open(&self, file: &OwnedFd, operation: &Operation) -> Outcome {
        match operation {
            Operation::ReadSlot { offset, len, .. } => read_at(file, *offset, *len),
            Operation::WriteSlot { offset, len, byte, .. } => {
                let bytes = vec![*byte; *len];
                let written = match offset {
                    Some(offset) => io::pwrite(file, &bytes, *offset),
                    None => io::write(file, &bytes),
                };
                number(written)
            }
            Operation::MapWriteSlot { offset, len, byte, .. } => map_write(file, *offset, *len, *byte),
            Operation::SeekSlot { hole, offset, .. } => {
                let to = if *hole {
                    SeekFrom::Hole(*offset)
                } else {
                    SeekFrom::Data(*offset)
                };
                fs::seek(file, to).map(Answer::Number).map_err(errno)
            }
            Operation::TruncateSlot { len, .. } => done(fs::ftruncate(file, *len)),
            Operation::AllocateSlot { flags, offset, len, .. } => {
                let flags = FallocateFlags::from_bits_retain(*flags);
                done(fs::fallocate(file, flags, *offset, *len))
            }
            Operation::CopySlot {
                from_offset,
                to,
                to_offset,
                len,
                ..
            } => match &self.slots[*to] {
                None => Ok(Answer::NoSlot),
                Some(to) => copy(file, *from_offset, to, *to_offset, *len),
            },
            Operation::LockSlot { whole, kind, .. } => lock(file, *whole, *kind),
            Operation::StatSlot { .. } => fs::fstat(file).map(|stat| status(&stat)).map_err(errno),
            Operation::SyncSlot { .. } => done(fs::fsync(file)),
            Operation::LinkSlot { path, .. } => {
                // As open(2) shows it for `O_TMPFILE`; by the descriptor alone it takes a capability.
                let open = format!("/proc/self/fd/{}", file.as_raw_fd());
                done(fs::linkat(CWD, open, CWD, self.place(path), AtFlags::SYMLINK_FOLLOW))
            }
            Operation::IsTerminal { .. } => is_terminal(file),
            _ => unreachable!("{operation:?} needs nothing open"),
        }
    }

    fn change(&self, operation: &Operation) -> Outcome {
        let place = |path: &str| self.place(path);
        match operation {
            Operation::Truncate { path, len } => {
                let len = i64::try_from(*len).map_err(|_| Errno::EFBIG)?;
                nix::unistd::truncate(&place(path), len).map(|()| Answer::Done)
            }
            Operation::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_retain(*flags);
                done(fs::renameat_with(CWD, place(from), CWD, place(to), flags))
            }
            Operation::Remove { path, directory } => {
                let flags = if *directory {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                done(fs::unlinkat(CWD, place(path), flags))
            }
            Operation::MakeDirectory { path, mode } => done(fs::mkdirat(CWD, place(path), Mode::from_raw_mode(*mode))),
            Operation::MakePipe { path, mode } => {
                let mode = Mode::from_raw_mode(*mode);
                done(fs::mknodat(CWD, place(path), FileType::Fifo, mode, 0))
            }
            Operation::Link { from, to } => done(fs::linkat(CWD, place(from), CWD, place(to), AtFlags::empty())),
            Operation::Symlink { target, path } => done(fs::symlinkat(target.as_str(), CWD, place(path))),
            Operation::ChangeMode { path, mode } => done(fs::chmodat(
                CWD,
                place(path),
                Mode::from_raw_mode(*mode),
                AtFlags::empty(),
            )),
            Operation::ChangeOwner { path, uid, gid } => {
                let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
                done(fs::chownat(CWD, place(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW))
            }
            Operation::ChangeTime { path, mtime_s } => {
                let time = |tv_sec, tv_nsec| fs::Timespec { tv_sec, tv_nsec };
                let times = fs::Timestamps {
                    last_access: time(0, fs::UTIME_OMIT),
                    last_modification: time(*mtime_s, 0),
                };
                done(fs::utimensat(CWD, place(path), &times, AtFlags::SYMLINK_NOFOLLOW))
            }
            _ => unreachable!("{operation:?} changes nothing by a path"),
        }
    }
}

/// The names of the extended attributes of `path`, but for those that security modules give.
pub(crate) fn attributes(path: &Path) -> Result<Vec<String>, Errno> {
    let mut bytes = vec![0; MAX_ATTRIBUTE_BYTES];
    let len = fs::llistxattr(path, bytes.as_mut_slice()).map_err(errno)?;
    let names = bytes[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("security.")).collect();
    names.sort();
    Ok(names)
}

/// What two file systems can agree on.
pub(crate) fn status_of(stat: &fs::Stat) -> Status {
    let kind = FileType::from_raw_mode(stat.st_mode);
    Status {
        inode: stat.st_ino,
        mode: stat.st_mode,
        #[allow(clippy::useless_conversion, reason = "it is shorter on other machines than x86-64")]
        links: stat.st_nlink.into(),
        size_bytes: if kind == FileType::Directory {
            0
        } else {
            stat.st_size.unsigned_abs()
        },
        owner: (stat.st_uid, stat.st_gid),
        mtime_s: (kind != FileType::Directory && kind != FileType::Symlink && stat.st_mtime < NEW_SINCE_S)
            .then_some(stat.st_mtime),
    }
}

fn status(stat: &fs::Stat) -> Answer {
    Answer::Status(status_of(stat))
}

fn read_at(file: &OwnedFd, offset: u64, len: usize) -> Outcome {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match io::pread(file, &mut bytes[filled..], offset + filled as u64).map_err(errno)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(Answer::Bytes(bytes))
}

/// All of a file is mapped, and a part looked at that lies in it.
fn map(file: &OwnedFd, offset: usize, len: usize) -> Outcome {
    #[expect(unsafe_code, reason = "mapping a file has no safe form")]
    // SAFETY: this process alone changes the file, and not while it is mapped.
    let map = unsafe { memmap2::Mmap::map(&File::from(file.try_clone().map_err(|_| Errno::EMFILE)?)) };
    let map = map.map_err(|error| of_io(&error))?;
    let start = offset.min(map.len());
    Ok(Answer::Bytes(map[start..(start + len).min(map.len())].to_vec()))
}

fn map_write(file: &OwnedFd, offset: usize, len: usize, byte: u8) -> Outcome {
    #[expect(unsafe_code, reason = "mapping a file has no safe form")]
    // SAFETY: as with `map`.
    let map = unsafe { memmap2::MmapMut::map_mut(&File::from(file.try_clone().map_err(|_| Errno::EMFILE)?)) };
    let mut map = map.map_err(|error| of_io(&error))?;
    let start = offset.min(map.len());
    let end = (start + len).min(map.len());
    map[start..end].fill(byte);
    map.flush().map_err(|error| of_io(&error))?;
    Ok(Answer::Number((end - start) as u64))
}

/// All names with their kinds; and the same of a second listing that begins behind entry `from` of the first one must be what
/// came there after it.
fn list_twice(directory: &OwnedFd, from: usize) -> Outcome {
    let (names, cookies) = list(directory)?;
    if !cookies.is_empty() {
        let from = from % cookies.len();
        fs::seek(directory, SeekFrom::Start(cookies[from])).map_err(errno)?;
        let (rest, _) = list(directory)?;
        assert_eq!(rest, names[from + 1..], "a listing that begins behind entry {from}");
    }
    let mut names: Vec<_> = names
        .into_iter()
        .filter(|(name, _)| name != "." && name != "..")
        .collect();
    names.sort();
    Ok(Answer::Names(names))
}

/// Names with their kinds, and where the listing goes on behind each.
type Listed = (Vec<(String, String)>, Vec<u64>);

fn list(directory: &OwnedFd) -> Result<Listed, Errno> {
    // Small, so that it takes more than one call.
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut entries = fs::RawDir::new(directory.as_fd(), &mut buffer);
    let (mut names, mut cookies) = (Vec::new(), Vec::new());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(errno)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push((name, format!("{:?}", entry.file_type())));
        cookies.push(entry.next_entry_cookie());
    }
    Ok((names, cookies))
}

fn copy(from: &OwnedFd, from_offset: u64, to: &OwnedFd, to_offset: u64, len: usize) -> Outcome {
    let (mut from_offset, mut to_offset, mut copied) = (from_offset, to_offset, 0);
    while copied < len {
        let step = fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), len - copied);
        match step.map_err(errno)? {
            0 => break,
            step => copied += step,
        }
    }
    Ok(Answer::Number(copied as u64))
}

fn lock(file: &OwnedFd, whole: bool, kind: LockKind) -> Outcome {
    if whole {
        let operation = match kind {
            LockKind::Shared => fs::FlockOperation::NonBlockingLockShared,
            LockKind::Exclusive => fs::FlockOperation::NonBlockingLockExclusive,
            LockKind::Free => fs::FlockOperation::NonBlockingUnlock,
        };
        return done(fs::flock(file, operation));
    }
    let kind = match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Free => libc::F_UNLCK,
    };
    let range = libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: 0,
        l_start: 10,
        l_len: 100,
        l_pid: 0,
    };
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&range)).map(|_| Answer::Done)
}

/// As isatty(3) asks.
fn is_terminal(file: &OwnedFd) -> Outcome {
    let mut settings = MaybeUninit::<libc::termios>::uninit();
    #[expect(unsafe_code, reason = "the number tells more than its safe form")]
    // SAFETY: the kernel writes at most one such structure, and nobody reads it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TCGETS, settings.as_mut_ptr()) };
    Errno::result(result).map(|_| Answer::Done)
}

fn number(result: io::Result<usize>) -> Outcome {
    result.map(|number| Answer::Number(number as u64)).map_err(errno)
}

fn done(result: io::Result<()>) -> Outcome {
    result.map(|()| Answer::Done).map_err(errno)
}

fn errno(errno: io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

fn of_io(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
