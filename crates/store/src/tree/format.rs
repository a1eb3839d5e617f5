//! The bytes of a tree file: fixed-width little-endian tables and a heap, drawn in `docs/format.md`, "tree".
//!
//! A tree is mapped, not parsed: opening it checks the header and the bounds of its tables, which costs the same
//! for a thousand files and for a hundred thousand. What stands inside the tables is checked where it is used.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Digest;

/// The first bytes of every tree file. A reader that finds others is not looking at a tree.
pub(super) const MAGIC: [u8; 8] = *b"envfstre";

/// The version of everything below. A reader refuses any other, so a change of meaning needs a new number.
pub(super) const VERSION: u32 = 1;

/// Stands for "no" where an index is expected.
pub(super) const NONE: u32 = u32::MAX;

/// [`RawNode::kind`] of a directory, a file, a symlink.
pub(super) const DIRECTORY: u8 = 1;
pub(super) const FILE: u8 = 2;
pub(super) const SYMLINK: u8 = 3;

/// [`RawNode::flags`]: some execute bit was set in the archive.
pub(super) const EXECUTABLE: u8 = 1;

/// At offset 0.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 8],
    pub(super) version: U32,
    /// Nodes of this tree, without those of its base. Node 0 is the root.
    pub(super) node_count: U32,
    /// Entries of the children table.
    pub(super) child_count: U32,
    /// Entries of the pack table (32 bytes each, pack ids).
    pub(super) pack_count: U32,
    /// Entries of the package table (8 bytes each: offset and length of a name in the heap).
    pub(super) package_count: U32,
    /// Nodes of the base tree, which are numbered after those of this one; 0 without a base.
    pub(super) base_node_count: U32,
    /// The name of the base tree; zeros without a base.
    pub(super) base: Digest,
    /// Where the tables start, in bytes from the start of the file. Each is aligned to 8 bytes.
    pub(super) nodes_offset: U64,
    pub(super) children_offset: U64,
    pub(super) packs_offset: U64,
    pub(super) packages_offset: U64,
    pub(super) heap_offset: U64,
    pub(super) heap_bytes: U64,
    /// The longest prefix in bytes that fits every binary in this tree and its base; [`NONE`] where any does.
    pub(super) max_prefix_bytes: U32,
    /// The node that sets it.
    pub(super) max_prefix_node: U32,
}

/// One file, directory or symlink: 80 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawNode {
    /// File: the digest of its stored bytes. Else zeros.
    pub(super) digest: Digest,
    /// File: the size of its stored bytes. Symlink: the length of its target. Directory: 0.
    pub(super) size_bytes: U64,
    /// Seconds since 1970-01-01 UTC.
    pub(super) mtime_s: I64,
    /// File: where it starts in its pack. Symlink: where its target starts in the heap. Directory: where its
    /// children start in the children table.
    pub(super) location: U64,
    /// File: an index into the pack table, or [`NONE`] for a whole object. Directory: how many children it has.
    pub(super) extent: U32,
    /// File: where its placeholder record starts in the heap, or [`NONE`]. Directory: how many of its children
    /// are directories.
    pub(super) detail: U32,
    pub(super) name_offset: U32,
    /// A node number; the root is its own parent.
    pub(super) parent: U32,
    /// An index into the package table: whose file it is; [`NONE`] for directories.
    pub(super) package: U32,
    pub(super) name_bytes: U16,
    pub(super) kind: u8,
    pub(super) flags: u8,
}

/// An entry of the package table.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawPackage {
    pub(super) name_offset: U32,
    pub(super) name_bytes: U32,
}

// The sizes that `docs/format.md` draws: a field that grows moves everything behind it.
const _: () = assert!(size_of::<RawHeader>() == 120 && size_of::<RawNode>() == 80 && size_of::<RawPackage>() == 8);
