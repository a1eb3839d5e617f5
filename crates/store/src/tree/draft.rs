//! A tree on its way: what has been merged and not yet written.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::placeholder::Placeholder;
use crate::tree::NodeId;

/// The modification time of every directory: 1980-01-01 UTC, the first that every archive format can hold.
pub const DIRECTORY_MTIME_S: i64 = 315_532_800;

/// A file or symlink to be put into a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// A regular file.
    File {
        /// The name of its stored bytes.
        digest: Digest,
        /// Their number.
        size_bytes: u64,
        /// Modification time in seconds since 1970-01-01 UTC.
        mtime_s: i64,
        /// Whether it may be executed.
        executable: bool,
        /// The placeholder to be replaced when it is read.
        placeholder: Option<Placeholder>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, byte for byte.
        target: Vec<u8>,
        /// Modification time in seconds since 1970-01-01 UTC.
        mtime_s: i64,
    },
}

#[derive(Default)]
pub(super) struct Directory {
    pub(super) children: BTreeMap<Box<[u8]>, Child>,
}

pub(super) enum Child {
    Directory(Directory),
    Leaf(OwnedLeaf),
    /// A node of the base, with everything below it.
    Inherited(NodeId),
}

pub(super) struct OwnedLeaf {
    pub(super) leaf: Leaf,
    /// An index into the packages, or none for generated files.
    pub(super) package: Option<u32>,
}
