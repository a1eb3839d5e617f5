//! The kernel's requests as `fuser` delivers them. It only translates: ask [`FileSystem`], reply, map the error.
//!
//! What the kernel may keep is everything, for ever: attributes, names, names that do not exist, directories,
//! symlinks and pages. Once warm it asks nothing. What it need not ask is answered `ENOSYS`, which it remembers:
//! opening and closing (unless passthrough is in use), extended attributes, flushing.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envfs_store::tree::NodeKind;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use crate::backing::BackingFiles;
use crate::errno::errno;
use crate::fs::{BLOCK_BYTES, Entry, FileSystem, FsError};

/// How long the kernel may keep what it was told: 136 years. (The kernel turns seconds into jiffies; this is far
/// below where that saturates.)
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The generation of every inode: numbers are never used again.
const GENERATION: Generation = Generation(0);

/// How many requests the kernel may send ahead, such as readahead. The kernel's own default is 12.
const MAX_BACKGROUND: u16 = 64;

/// A [`FileSystem`] as `fuser` wants it.
#[derive(Debug)]
pub(crate) struct Adapter {
    fs: FileSystem,
    backing: BackingFiles,
    owner: Owner,
}

/// To whom all files belong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Adapter {
    pub(crate) fn new(fs: FileSystem, owner: Owner) -> Self {
        Self {
            fs,
            backing: BackingFiles::default(),
            owner,
        }
    }

    fn attr(&self, entry: &Entry) -> FileAttr {
        let attributes = &entry.attributes;
        let time = time(attributes.mtime_s);
        FileAttr {
            ino: INodeNo(entry.inode),
            size: attributes.size_bytes,
            blocks: attributes.size_bytes.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: file_type(attributes.kind),
            perm: attributes.mode,
            nlink: attributes.links,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    /// What the kernel is told of a name that does not exist: inode 0, which it may remember.
    fn nothing(&self) -> FileAttr {
        let attributes = envfs_store::view::Attributes {
            kind: NodeKind::File,
            size_bytes: 0,
            mode: 0,
            mtime_s: 0,
            links: 0,
        };
        self.attr(&Entry { inode: 0, attributes })
    }

    /// Opens a file that the kernel may read itself, where it may.
    fn open_passthrough(
        &self,
        inode: u64,
        reply: &ReplyOpen,
    ) -> Result<Option<std::sync::Arc<fuser::BackingId>>, FsError> {
        self.backing.acquire(inode, reply, || {
            if !self.fs.is_whole_object(inode)? {
                return Ok(None);
            }
            // A descriptor that cannot be duplicated is one passthrough less, not an error.
            Ok(self
                .fs
                .open(inode)?
                .whole_object()
                .and_then(|object| object.try_clone().ok()))
        })
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            // An old kernel without one of them is slower, not wrong.
            let _ = config.add_capabilities(flag);
        }
        // Where overlayfs takes the content elsewhere, what is left to read here is little.
        if self.fs.has_copies() {
            let _ = config.set_max_background(MAX_BACKGROUND);
            return Ok(());
        }
        // At depth 0 every passthrough open fails; at 2 no overlayfs could stand on the mount.
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok() {
            self.backing.enable();
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.fs.lookup(parent.0, name.as_bytes()) {
            Ok(Some(entry)) => reply.entry(&FOR_EVER, &self.attr(&entry), GENERATION),
            Ok(None) => reply.entry(&FOR_EVER, &self.nothing(), GENERATION),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attributes(ino.0) {
            Ok(attributes) => {
                let entry = Entry {
                    inode: ino.0,
                    attributes,
                };
                reply.attr(&FOR_EVER, &self.attr(&entry));
            }
            Err(error) => reply.error(number(&error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if !self.backing.is_needed() {
            // The kernel then opens and closes by itself, and keeps the pages.
            return reply.error(Errno::ENOSYS);
        }
        match self.open_passthrough(ino.0, &reply) {
            Ok(Some(id)) => reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), &id),
            Ok(None) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let result = self.fs.open(ino.0).and_then(|file| {
            let bytes = file.bytes_at(offset, size as usize)?;
            Ok(bytes.into_owned())
        });
        match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.backing.release(ino.0);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel then opens directories by itself, and caches their listings.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.fs.list(ino.0, offset, |line, _node| {
            let name = OsStr::from_bytes(line.name);
            let is_full = reply.add(INodeNo(line.inode), line.next_offset, file_type(line.kind), name);
            Ok(!is_full)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let result = self.fs.list(ino.0, offset, |line, node| {
            let attr = self.attr(&self.fs.entry(node)?);
            let name = OsStr::from_bytes(line.name);
            let is_full = reply.add(attr.ino, line.next_offset, name, &FOR_EVER, &attr, GENERATION);
            Ok(!is_full)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, self.fs.node_count(), 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.fs.has_copies() {
            return reply.error(Errno::ENOSYS);
        }
        // Overlayfs asks for both, and for others that nothing here has ("Data-only lower layers" in
        // Documentation/filesystems/overlayfs.rst of the Linux kernel).
        let value = match name.as_bytes() {
            b"user.overlay.metacopy" => self.fs.redirect(ino.0).map(|path| path.map(|_| String::new())),
            b"user.overlay.redirect" => self.fs.redirect(ino.0),
            _ => Ok(None),
        };
        match value {
            Ok(Some(value)) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Ok(Some(value)) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(Some(value)) => reply.data(value.as_bytes()),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Python asks every file that it opens whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }
}

fn number(error: &FsError) -> Errno {
    Errno::from_i32(errno(error) as i32)
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Directory => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Symlink => FileType::Symlink,
    }
}

/// A time that this platform cannot hold becomes the epoch.
fn time(unix_s: i64) -> SystemTime {
    let distance = Duration::from_secs(unix_s.unsigned_abs());
    let time = if unix_s < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}
