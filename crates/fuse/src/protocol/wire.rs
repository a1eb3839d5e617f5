//! The kernel's structures and numbers, by its names (include/uapi/linux/fuse.h of Linux 6.18, FUSE 7.45).
//!
//! Only those that are read or written here. Numbers are in the order of bytes of the machine.

#![allow(non_camel_case_types, reason = "the kernel's names")]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The major version that is spoken. With another one the kernel would have to begin anew.
pub(crate) const FUSE_KERNEL_VERSION: u32 = 7;

/// The minor version up to which this was written.
pub(crate) const FUSE_KERNEL_MINOR_VERSION: u32 = 45;

/// The kernel refuses to send anything into a smaller buffer.
pub(crate) const FUSE_MIN_READ_BUFFER: usize = 8192;

pub(crate) const FUSE_LOOKUP: u32 = 1;
pub(crate) const FUSE_FORGET: u32 = 2;
pub(crate) const FUSE_GETATTR: u32 = 3;
pub(crate) const FUSE_READLINK: u32 = 5;
pub(crate) const FUSE_OPEN: u32 = 14;
pub(crate) const FUSE_READ: u32 = 15;
pub(crate) const FUSE_STATFS: u32 = 17;
pub(crate) const FUSE_RELEASE: u32 = 18;
pub(crate) const FUSE_GETXATTR: u32 = 22;
pub(crate) const FUSE_LISTXATTR: u32 = 23;
pub(crate) const FUSE_INIT: u32 = 26;
pub(crate) const FUSE_OPENDIR: u32 = 27;
pub(crate) const FUSE_READDIR: u32 = 28;
pub(crate) const FUSE_INTERRUPT: u32 = 36;
pub(crate) const FUSE_DESTROY: u32 = 38;
pub(crate) const FUSE_IOCTL: u32 = 39;
pub(crate) const FUSE_NOTIFY_REPLY: u32 = 41;
pub(crate) const FUSE_BATCH_FORGET: u32 = 42;
pub(crate) const FUSE_READDIRPLUS: u32 = 44;

/// Requests that were read and not answered come again.
pub(crate) const FUSE_NOTIFY_RESEND: i32 = 7;

pub(crate) const FUSE_ASYNC_READ: u64 = 1 << 0;
pub(crate) const FUSE_DO_READDIRPLUS: u64 = 1 << 13;
pub(crate) const FUSE_PARALLEL_DIROPS: u64 = 1 << 18;
pub(crate) const FUSE_MAX_PAGES: u64 = 1 << 22;
pub(crate) const FUSE_CACHE_SYMLINKS: u64 = 1 << 23;
pub(crate) const FUSE_EXPLICIT_INVAL_DATA: u64 = 1 << 25;
/// There is a second word of flags.
pub(crate) const FUSE_INIT_EXT: u64 = 1 << 30;
pub(crate) const FUSE_PASSTHROUGH: u64 = 1 << 37;
pub(crate) const FUSE_HAS_RESEND: u64 = 1 << 39;

/// What was cached of the file stays.
pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// Closing is not worth a request.
pub(crate) const FOPEN_NOFLUSH: u32 = 1 << 5;
/// The kernel reads a backing file.
pub(crate) const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// Before every request.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct fuse_in_header {
    pub(crate) len: u32,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) nodeid: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    pub(crate) total_extlen: u16,
    pub(crate) padding: u16,
}

/// Before every answer and every notification.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_out_header {
    pub(crate) len: u32,
    /// 0, a negative error number, or without a `unique` the kind of a notification.
    pub(crate) error: i32,
    pub(crate) unique: u64,
}

/// The first part of it: what every kernel sends.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct fuse_init_in {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
}

/// What follows it from FUSE 7.36 on, if its flags say so.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct fuse_init_in_ext {
    pub(crate) flags2: u32,
    pub(crate) unused: [u32; 11],
}

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct fuse_init_out {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) max_background: u16,
    pub(crate) congestion_threshold: u16,
    pub(crate) max_write: u32,
    pub(crate) time_gran: u32,
    pub(crate) max_pages: u16,
    pub(crate) map_alignment: u16,
    pub(crate) flags2: u32,
    pub(crate) max_stack_depth: u32,
    pub(crate) request_timeout: u16,
    pub(crate) unused: [u16; 11],
}

#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_attr {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) atime: i64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    pub(crate) atimensec: u32,
    pub(crate) mtimensec: u32,
    pub(crate) ctimensec: u32,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) blksize: u32,
    pub(crate) flags: u32,
}

#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_entry_out {
    pub(crate) nodeid: u64,
    pub(crate) generation: u64,
    pub(crate) entry_valid: u64,
    pub(crate) attr_valid: u64,
    pub(crate) entry_valid_nsec: u32,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) attr: fuse_attr,
}

#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_attr_out {
    pub(crate) attr_valid: u64,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) dummy: u32,
    pub(crate) attr: fuse_attr,
}

#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_open_out {
    pub(crate) fh: u64,
    pub(crate) open_flags: u32,
    pub(crate) backing_id: i32,
}

/// Of FUSE_READ, FUSE_READDIR and FUSE_READDIRPLUS.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct fuse_read_in {
    pub(crate) fh: u64,
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) read_flags: u32,
    pub(crate) lock_owner: u64,
    pub(crate) flags: u32,
    pub(crate) padding: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct fuse_getxattr_in {
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_getxattr_out {
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_kstatfs {
    pub(crate) blocks: u64,
    pub(crate) bfree: u64,
    pub(crate) bavail: u64,
    pub(crate) files: u64,
    pub(crate) ffree: u64,
    pub(crate) bsize: u32,
    pub(crate) namelen: u32,
    pub(crate) frsize: u32,
    pub(crate) padding: u32,
    pub(crate) spare: [u32; 6],
}

/// Before the name in a line of a listing; lines start at multiples of [`FUSE_DIRENT_ALIGN`].
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_dirent {
    pub(crate) ino: u64,
    pub(crate) off: u64,
    pub(crate) namelen: u32,
    pub(crate) type_: u32,
}

/// Where lines of listings start: `FUSE_DIRENT_ALIGN(x)` rounds up to a multiple of it.
pub(crate) const FUSE_DIRENT_ALIGN: usize = 8;

#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct fuse_direntplus {
    pub(crate) entry_out: fuse_entry_out,
    pub(crate) dirent: fuse_dirent,
}

/// What registers a file that the kernel reads itself.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct fuse_backing_map {
    pub(crate) fd: i32,
    pub(crate) flags: u32,
    pub(crate) padding: u64,
}

/// The kind of the `ioctl` commands of `/dev/fuse`.
pub(crate) const FUSE_DEV_IOC_MAGIC: u8 = 229;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernel() {
        assert_eq!(size_of::<fuse_in_header>(), 40);
        assert_eq!(size_of::<fuse_out_header>(), 16);
        assert_eq!(size_of::<fuse_init_in>() + size_of::<fuse_init_in_ext>(), 64);
        assert_eq!(size_of::<fuse_init_out>(), 64);
        assert_eq!(size_of::<fuse_attr>(), 88);
        assert_eq!(size_of::<fuse_entry_out>(), 128);
        assert_eq!(size_of::<fuse_attr_out>(), 104);
        assert_eq!(size_of::<fuse_open_out>(), 16);
        assert_eq!(size_of::<fuse_read_in>(), 40);
        assert_eq!(size_of::<fuse_kstatfs>(), 80);
        assert_eq!(size_of::<fuse_dirent>(), 24);
        assert_eq!(size_of::<fuse_direntplus>(), 152);
        assert_eq!(size_of::<fuse_backing_map>(), 16);
    }
}
