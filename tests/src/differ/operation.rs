//! What can be done to a directory, and what the kernel answers.

use std::fmt;

use nix::errno::Errno;

/// A path below the directory; it may be a bad one.
pub(crate) type Name = String;

/// Which of the few descriptors that are kept from one operation to the next.
pub(crate) type Slot = usize;

/// How many of them there are.
pub(crate) const SLOTS: usize = 3;

/// One operation.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// stat(2), or lstat(2) unless it follows.
    Stat { path: Name, follows: bool },
    /// open, pread(2), close.
    Read { path: Name, offset: u64, len: usize },
    /// open, mmap(2) all of it, close, and look at a part.
    Map { path: Name, offset: usize, len: usize },
    /// getdents(2) from the start, and again from behind entry `from`.
    List { path: Name, from: usize },
    /// readlink(2).
    Readlink { path: Name },
    /// access(2) with these bits.
    Access { path: Name, bits: u32 },
    /// lgetxattr(2).
    GetAttribute { path: Name, name: &'static str },
    /// llistxattr(2).
    ListAttributes { path: Name },
    /// lsetxattr(2); `flags` are those of the call.
    SetAttribute {
        path: Name,
        name: &'static str,
        value: Vec<u8>,
        flags: u32,
    },
    /// lremovexattr(2).
    RemoveAttribute { path: Name, name: &'static str },
    /// open(2) with `O_NONBLOCK`, so that pipes stop nobody.
    Open {
        slot: Slot,
        path: Name,
        flags: u32,
        mode: u32,
    },
    /// close(2).
    Close { slot: Slot },
    /// pread(2).
    ReadSlot { slot: Slot, offset: u64, len: usize },
    /// pwrite(2), or write(2) without an offset.
    WriteSlot {
        slot: Slot,
        offset: Option<u64>,
        len: usize,
        byte: u8,
    },
    /// mmap(2) shared, write, msync(2).
    MapWriteSlot {
        slot: Slot,
        offset: usize,
        len: usize,
        byte: u8,
    },
    /// lseek(2) to a hole or to data.
    SeekSlot { slot: Slot, hole: bool, offset: u64 },
    /// ftruncate(2).
    TruncateSlot { slot: Slot, len: u64 },
    /// fallocate(2).
    AllocateSlot {
        slot: Slot,
        flags: u32,
        offset: u64,
        len: u64,
    },
    /// copy_file_range(2) until all is copied or the end is reached.
    CopySlot {
        from: Slot,
        from_offset: u64,
        to: Slot,
        to_offset: u64,
        len: usize,
    },
    /// flock(2), or a lock of the open file (fcntl(2), `F_OFD_SETLK`); never waits.
    LockSlot { slot: Slot, whole: bool, kind: LockKind },
    /// fstat(2).
    StatSlot { slot: Slot },
    /// fsync(2).
    SyncSlot { slot: Slot },
    /// linkat(2) of what is open, which may have no name (`O_TMPFILE`).
    LinkSlot { slot: Slot, path: Name },
    /// ioctl(2) TCGETS, which Python asks of each file that it opens.
    IsTerminal { slot: Slot },
    /// truncate(2).
    Truncate { path: Name, len: u64 },
    /// renameat2(2) with these flags.
    Rename { from: Name, to: Name, flags: u32 },
    /// unlink(2), or rmdir(2).
    Remove { path: Name, directory: bool },
    /// mkdir(2).
    MakeDirectory { path: Name, mode: u32 },
    /// mknod(2) of a pipe.
    MakePipe { path: Name, mode: u32 },
    /// link(2), which follows no symlinks.
    Link { from: Name, to: Name },
    /// symlink(2).
    Symlink { target: Name, path: Name },
    /// chmod(2).
    ChangeMode { path: Name, mode: u32 },
    /// lchown(2).
    ChangeOwner {
        path: Name,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// utimensat(2) of the modification time alone, not following.
    ChangeTime { path: Name, mtime_s: i64 },
}

impl Operation {
    /// Whether it is about extended attributes.
    pub(crate) fn is_of_attributes(&self) -> bool {
        use Operation as O;
        matches!(
            self,
            O::GetAttribute { .. } | O::ListAttributes { .. } | O::SetAttribute { .. } | O::RemoveAttribute { .. }
        )
    }
}

/// What a lock is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// With others.
    Shared,
    /// Alone.
    Exclusive,
    /// No more.
    Free,
}

/// What an operation gave.
pub(crate) type Outcome = Result<Answer, Errno>;

/// What a successful operation gave.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing more.
    Done,
    /// There was no descriptor.
    NoSlot,
    /// A number, such as of bytes.
    Number(u64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Names with what they are.
    Names(Vec<(String, String)>),
    /// What stat(2) says.
    Status(Status),
}

/// What stat(2) says and two file systems can agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// The number of the file, which each has its own.
    pub(crate) inode: u64,
    /// The kind and the permission bits, as in `st_mode`.
    pub(crate) mode: u32,
    /// The number of names.
    pub(crate) links: u64,
    /// The size; of a directory nothing.
    pub(crate) size_bytes: u64,
    /// Whose it is.
    pub(crate) owner: (u32, u32),
    /// The modification time in seconds, unless it is a new one.
    pub(crate) mtime_s: Option<i64>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::NoSlot => f.write_str("nothing is open"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) if bytes.len() <= 40 => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Self::Bytes(bytes) => {
                let hash = blake3::hash(bytes).to_hex();
                write!(f, "{} bytes, {}", bytes.len(), &hash[..12])
            }
            Self::Names(names) => f.debug_list().entries(names).finish(),
            Self::Status(status) => status.fmt(f),
        }
    }
}
