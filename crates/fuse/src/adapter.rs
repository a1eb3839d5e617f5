//! The kernel's requests, answered. It only translates: ask [`FileSystem`], reply, map the error.
//!
//! What the kernel may keep is everything, for ever: attributes, names, names that do not exist, directories,
//! symlinks and pages. Once warm it asks nothing. What it need not ask is answered `ENOSYS`, which it remembers:
//! opening and closing (unless passthrough is in use), extended attributes, flushing.

use std::io;

use envfs_store::path::MAX_NAME_BYTES;
use envfs_store::tree::NodeKind;
use nix::errno::Errno;

use crate::backing::BackingFiles;
use crate::errno::errno;
use crate::fs::{BLOCK_BYTES, Entry, FileSystem, FsError};
use crate::memory::Memory;
use crate::protocol::connection::Connection;
use crate::protocol::init::{self, Agreed, Verdict};
use crate::protocol::reply::{Line, Listing};
use crate::protocol::request::{Operation, Request, Span};
use crate::protocol::wire;

/// How long the kernel may keep what it was told, in seconds: 136 years. (The kernel turns seconds into jiffies; this is
/// far below where that saturates.)
const FOR_EVER_S: u64 = u32::MAX as u64;

/// The generation of every inode: numbers are never used again.
const GENERATION: u64 = 0;

/// No read is longer; the kernel was told so ([`init`]).
const MAX_READ_BYTES: usize = 1 << 20;

/// A [`FileSystem`] as the kernel asks for it.
#[derive(Debug)]
pub(crate) struct Adapter {
    fs: FileSystem,
    backing: BackingFiles,
    memory: Memory,
    owner: Owner,
}

/// To whom all files belong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Answers the first message of a connection, which is `request`, and remembers what was agreed. None if it is another
/// message, or a last word before the right one.
///
/// # Errors
/// When the kernel cannot be understood, or nothing can be remembered.
pub(crate) fn agree(
    connection: &Connection,
    request: &Request<'_>,
    memory: &Memory,
    wanted: u64,
) -> io::Result<Option<Agreed>> {
    let Operation::Init { version, flags } = request.operation else {
        connection.refuse(request.unique, Errno::EIO);
        return Ok(None);
    };
    match init::answer(&version, flags, wanted) {
        Verdict::Again(out) => {
            connection.answer(request.unique, &out);
            Ok(None)
        }
        Verdict::Agreed(out, agreed) => {
            memory.set_agreed(agreed)?;
            connection.answer(request.unique, &out);
            Ok(Some(agreed))
        }
        Verdict::TooOld => {
            connection.refuse(request.unique, Errno::EPROTO);
            Err(io::Error::other(format!(
                "its FUSE {}.{} is too old: Linux 5.1 is the first that will do",
                version.major, version.minor
            )))
        }
    }
}

impl Adapter {
    /// Answers for `fs`, knowing what `memory` holds of earlier servers.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub(crate) fn new(fs: FileSystem, owner: Owner, agreed: Agreed, memory: Memory) -> io::Result<Self> {
        Ok(Self {
            backing: BackingFiles::new(&memory, agreed.passthrough)?,
            fs,
            memory,
            owner,
        })
    }

    /// Answers a request; `scratch` holds what is on its way.
    pub(crate) fn answer(&self, connection: &Connection, request: &Request<'_>, scratch: &mut Vec<u8>) {
        let (unique, inode) = (request.unique, request.inode);
        let result = match request.operation {
            Operation::Lookup(name) => self.lookup(connection, unique, inode, name),
            Operation::GetAttr => self.getattr(connection, unique, inode),
            Operation::ReadLink => self.readlink(connection, unique, inode, scratch),
            Operation::Open => self.open(connection, unique, inode),
            Operation::Read(span) => self.read(connection, unique, inode, span, scratch),
            Operation::ReadDir(span) => self.readdir(connection, unique, inode, span, scratch),
            Operation::ReadDirPlus(span) => self.readdirplus(connection, unique, inode, span, scratch),
            Operation::GetXattr { name, size } => self.getxattr(connection, unique, inode, name, size),
            Operation::ListXattr { size } => {
                self.listxattr(connection, unique, size);
                Ok(())
            }
            Operation::Release => {
                // First the answer: if we are killed in between, one open too many is remembered, never one too few.
                connection.answer_bytes(unique, &[]);
                self.backing.release(inode);
                Ok(())
            }
            Operation::StatFs => {
                connection.answer(unique, &self.statfs());
                Ok(())
            }
            Operation::Destroy => {
                connection.answer_bytes(unique, &[]);
                Ok(())
            }
            Operation::Silent => Ok(()),
            // Python asks every file that it opens whether it is a terminal.
            Operation::Ioctl => {
                connection.refuse(unique, Errno::ENOTTY);
                Ok(())
            }
            // So the kernel opens directories by itself, and keeps their listings.
            Operation::Unknown | Operation::OpenDir => {
                connection.refuse(unique, Errno::ENOSYS);
                Ok(())
            }
            Operation::Init { .. } | Operation::Malformed => {
                connection.refuse(unique, Errno::EINVAL);
                Ok(())
            }
        };
        if let Err(error) = result {
            connection.refuse(unique, errno(&error));
        }
    }

    /// Gives back the memory that only a run of requests needs.
    pub(crate) fn tidy(&self) {
        self.fs.tidy();
    }

    fn lookup(&self, connection: &Connection, unique: u64, parent: u64, name: &[u8]) -> Result<(), FsError> {
        let out = match self.fs.lookup(parent, name)? {
            Some(entry) => self.entry_out(&entry),
            // Inode 0: there is no such name, and that may be remembered.
            None => entry_out(wire::fuse_attr::default()),
        };
        connection.answer(unique, &out);
        Ok(())
    }

    fn getattr(&self, connection: &Connection, unique: u64, inode: u64) -> Result<(), FsError> {
        let attributes = self.fs.attributes(inode)?;
        let out = wire::fuse_attr_out {
            attr_valid: FOR_EVER_S,
            attr_valid_nsec: 0,
            dummy: 0,
            attr: self.attr(&Entry { inode, attributes }),
        };
        connection.answer(unique, &out);
        Ok(())
    }

    fn readlink(&self, connection: &Connection, unique: u64, inode: u64, scratch: &mut Vec<u8>) -> Result<(), FsError> {
        scratch.clear();
        scratch.extend_from_slice(self.fs.readlink(inode)?);
        connection.answer_bytes(unique, scratch);
        Ok(())
    }

    fn open(&self, connection: &Connection, unique: u64, inode: u64) -> Result<(), FsError> {
        if !self.backing.is_needed() {
            // The kernel then opens and closes by itself, and keeps the pages.
            connection.refuse(unique, Errno::ENOSYS);
            return Ok(());
        }
        let id = self.backing.acquire(inode, connection, &self.memory, || {
            if !self.fs.is_whole_object(inode)? {
                return Ok::<_, FsError>(None);
            }
            // A descriptor that cannot be duplicated is one passthrough less, not an error.
            Ok(self
                .fs
                .open(inode)?
                .whole_object()
                .and_then(|object| object.try_clone().ok()))
        })?;
        let out = match id {
            Some(id) => wire::fuse_open_out {
                fh: 0,
                open_flags: wire::FOPEN_PASSTHROUGH,
                backing_id: id.0,
            },
            None => wire::fuse_open_out {
                open_flags: wire::FOPEN_KEEP_CACHE | wire::FOPEN_NOFLUSH,
                ..wire::fuse_open_out::default()
            },
        };
        connection.answer(unique, &out);
        Ok(())
    }

    fn read(
        &self,
        connection: &Connection,
        unique: u64,
        inode: u64,
        span: Span,
        scratch: &mut Vec<u8>,
    ) -> Result<(), FsError> {
        let file = self.fs.open(inode)?;
        let len = usize::try_from(span.size).unwrap_or(usize::MAX).min(MAX_READ_BYTES);
        if let Some(bytes) = file.bytes_in_memory(span.offset, len) {
            connection.answer_bytes(unique, bytes);
            return Ok(());
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let read = file.read_at(span.offset, &mut scratch[..len])?;
        connection.answer_bytes(unique, &scratch[..read]);
        Ok(())
    }

    fn readdir(
        &self,
        connection: &Connection,
        unique: u64,
        inode: u64,
        span: Span,
        scratch: &mut Vec<u8>,
    ) -> Result<(), FsError> {
        let mut listing = Listing::new(scratch, span.size);
        self.fs.list(inode, span.offset, |line, _node| {
            Ok(listing.add(&Line {
                inode: line.inode,
                next_offset: line.next_offset,
                kind: file_type(line.kind) >> FILE_TYPE_SHIFT,
                name: line.name,
            }))
        })?;
        connection.answer_bytes(unique, scratch);
        Ok(())
    }

    fn readdirplus(
        &self,
        connection: &Connection,
        unique: u64,
        inode: u64,
        span: Span,
        scratch: &mut Vec<u8>,
    ) -> Result<(), FsError> {
        let mut listing = Listing::new(scratch, span.size);
        self.fs.list(inode, span.offset, |line, node| {
            let entry = self.fs.entry(node)?;
            let out = if matches!(line.name, b"." | b"..") {
                // The kernel takes no names from these lines: an entry without an inode.
                entry_out(wire::fuse_attr::default())
            } else {
                self.entry_out(&entry)
            };
            let line = Line {
                inode: line.inode,
                next_offset: line.next_offset,
                kind: file_type(line.kind) >> FILE_TYPE_SHIFT,
                name: line.name,
            };
            Ok(listing.add_plus(&line, out))
        })?;
        connection.answer_bytes(unique, scratch);
        Ok(())
    }

    fn getxattr(
        &self,
        connection: &Connection,
        unique: u64,
        inode: u64,
        name: &[u8],
        size: u32,
    ) -> Result<(), FsError> {
        if !self.fs.has_copies() {
            connection.refuse(unique, Errno::ENOSYS);
            return Ok(());
        }
        // Overlayfs asks for both, and for others that nothing here has ("Data-only lower layers" in
        // Documentation/filesystems/overlayfs.rst of the Linux kernel).
        let value = match name {
            b"user.overlay.metacopy" => self.fs.redirect(inode)?.map(|_| String::new()),
            b"user.overlay.redirect" => self.fs.redirect(inode)?,
            _ => None,
        };
        match value {
            Some(value) if size == 0 => connection.answer(unique, &xattr_size(value.len())),
            Some(value) if value.len() > size as usize => connection.refuse(unique, Errno::ERANGE),
            Some(value) => connection.answer_bytes(unique, value.as_bytes()),
            None => connection.refuse(unique, Errno::ENODATA),
        }
        Ok(())
    }

    /// Below overlayfs, where files that were written can have attributes, the others have none. A server alone has nothing to do
    /// with them, and is asked only once.
    fn listxattr(&self, connection: &Connection, unique: u64, size: u32) {
        match size {
            _ if !self.fs.has_copies() => connection.refuse(unique, Errno::ENOSYS),
            0 => connection.answer(unique, &xattr_size(0)),
            _ => connection.answer_bytes(unique, &[]),
        }
    }

    fn statfs(&self) -> wire::fuse_kstatfs {
        wire::fuse_kstatfs {
            files: self.fs.node_count(),
            bsize: BLOCK_BYTES,
            namelen: u32::try_from(MAX_NAME_BYTES).unwrap_or(u32::MAX),
            frsize: BLOCK_BYTES,
            ..wire::fuse_kstatfs::default()
        }
    }

    fn entry_out(&self, entry: &Entry) -> wire::fuse_entry_out {
        entry_out(self.attr(entry))
    }

    fn attr(&self, entry: &Entry) -> wire::fuse_attr {
        let attributes = &entry.attributes;
        wire::fuse_attr {
            ino: entry.inode,
            size: attributes.size_bytes,
            blocks: attributes.size_bytes.div_ceil(512),
            atime: attributes.mtime_s,
            mtime: attributes.mtime_s,
            ctime: attributes.mtime_s,
            mode: file_type(attributes.kind) | u32::from(attributes.mode),
            nlink: attributes.links,
            uid: self.owner.uid,
            gid: self.owner.gid,
            blksize: BLOCK_BYTES,
            ..wire::fuse_attr::default()
        }
    }
}

fn entry_out(attr: wire::fuse_attr) -> wire::fuse_entry_out {
    wire::fuse_entry_out {
        nodeid: attr.ino,
        generation: GENERATION,
        entry_valid: FOR_EVER_S,
        attr_valid: FOR_EVER_S,
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr,
    }
}

/// Between the type of a file in its mode and the one in a listing (`IFTODT` of glibc).
const FILE_TYPE_SHIFT: u32 = 12;

fn file_type(kind: NodeKind) -> u32 {
    match kind {
        NodeKind::Directory => libc::S_IFDIR,
        NodeKind::File => libc::S_IFREG,
        NodeKind::Symlink => libc::S_IFLNK,
    }
}

/// How long an extended attribute, or the list of their names, is.
fn xattr_size(bytes: usize) -> wire::fuse_getxattr_out {
    wire::fuse_getxattr_out {
        size: u32::try_from(bytes).unwrap_or(u32::MAX),
        padding: 0,
    }
}
