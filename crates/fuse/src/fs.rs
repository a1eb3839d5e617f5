//! The file system without a kernel: what each request means for a view.
//!
//! It keeps no handles and counts no lookups. Everything is immutable, so an inode number alone says what is
//! read, and a server that is started anew can answer for the one before it. Knows nothing of FUSE's messages.

use std::sync::Arc;

use envfs_store::cache::Cache;
use envfs_store::path::MAX_NAME_BYTES;
use envfs_store::tree::{Node, NodeId, NodeKind};
use envfs_store::view::{Attributes, OpenFile, View};

use crate::cache::RecentFiles;

/// The inode number of the root directory (`FUSE_ROOT_ID` of the Linux kernel).
pub const ROOT_INODE: u64 = 1;

/// What `statfs` gives as the size of a block.
pub const BLOCK_BYTES: u32 = 4096;

/// An environment as a file system.
#[derive(Debug)]
pub struct FileSystem {
    view: View,
    recent: RecentFiles,
    /// Where overlayfs finds whole files, if it stands on this file system.
    copies: Option<Cache>,
}

/// A request that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// There is no such inode.
    #[error("there is no inode {0}")]
    NoSuchInode(u64),
    /// Only a directory can be searched or listed.
    #[error("inode {0} is not a directory")]
    NotADirectory(u64),
    /// No name is so long, so that nothing can be called so.
    #[error("a name of {0} bytes is too long")]
    NameTooLong(usize),
    /// A directory cannot be read as a file.
    #[error("inode {0} is a directory")]
    IsADirectory(u64),
    /// Only a symlink has a target, and only a file has bytes.
    #[error("inode {0} is of another kind")]
    WrongKind(u64),
    /// The store could not give what its index promises.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
    /// A server that takes this one's place could not be told what it must know.
    #[error("nothing can be written down for the next server")]
    Journal(#[source] std::io::Error),
}

/// A node and what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub inode: u64,
    /// What it looks like.
    pub attributes: Attributes,
}

/// One line of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<'a> {
    /// `.`, `..`, or the name of a child.
    pub name: &'a [u8],
    /// Its number.
    pub inode: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Where the line after this one starts.
    pub next_offset: u64,
}

impl FileSystem {
    /// The file system over `view`.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self {
            view,
            recent: RecentFiles::default(),
            copies: None,
        }
    }

    /// The same for an overlayfs that takes the content of files from `copies` as far as it is there.
    #[must_use]
    pub fn with_copies(self, copies: Option<Cache>) -> Self {
        Self { copies, ..self }
    }

    /// Whether overlayfs stands on this file system.
    #[must_use]
    pub fn has_copies(&self) -> bool {
        self.copies.is_some()
    }

    /// The path at which overlayfs finds the content of `inode`: one that starts with `/`. None for what is no file, and
    /// where there is no copy: then it reads it here.
    ///
    /// # Errors
    /// When there is no such inode or the tree is damaged.
    pub fn redirect(&self, inode: u64) -> Result<Option<String>, FsError> {
        let node = self.node(inode)?;
        match &self.copies {
            Some(copies) if node.kind()? == NodeKind::File => {
                let path = copies.present_content(&self.view, node)?;
                Ok(path.map(|path| format!("/{path}")))
            }
            _ => Ok(None),
        }
    }

    /// The child of the directory `parent` called `name`, if there is one.
    ///
    /// # Errors
    /// When `parent` is no directory, the name is longer than names can be, or the tree is damaged.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Entry>, FsError> {
        let directory = self.directory(parent)?;
        if name.len() > MAX_NAME_BYTES {
            return Err(FsError::NameTooLong(name.len()));
        }
        match self.view.tree().lookup(directory, name)? {
            Some(node) => self.entry(node).map(Some),
            None => Ok(None),
        }
    }

    /// What `inode` looks like.
    ///
    /// # Errors
    /// When there is none or the tree is damaged.
    pub fn attributes(&self, inode: u64) -> Result<Attributes, FsError> {
        Ok(self.view.attributes(self.node(inode)?)?)
    }

    /// Where the symlink `inode` points, byte for byte.
    ///
    /// # Errors
    /// When it is no symlink or the tree is damaged.
    pub fn readlink(&self, inode: u64) -> Result<&[u8], FsError> {
        let node = self.node(inode)?;
        match node.kind()? {
            NodeKind::Symlink => Ok(node.symlink_target()?),
            _ => Err(FsError::WrongKind(inode)),
        }
    }

    /// The bytes of `inode`, to be read at any offset.
    ///
    /// # Errors
    /// When it is no file, or its bytes are missing or damaged.
    pub fn open(&self, inode: u64) -> Result<Arc<OpenFile>, FsError> {
        let node = self.node(inode)?;
        match node.kind()? {
            NodeKind::File => Ok(self.recent.get_or_open(node, || self.view.open(node))?),
            NodeKind::Directory => Err(FsError::IsADirectory(inode)),
            NodeKind::Symlink => Err(FsError::WrongKind(inode)),
        }
    }

    /// Whether the bytes of `inode` stand in a whole object as they are seen, so that the kernel may read them
    /// itself. Opens nothing.
    ///
    /// # Errors
    /// When there is no such inode or the tree is damaged.
    pub fn is_whole_object(&self, inode: u64) -> Result<bool, FsError> {
        let node = self.node(inode)?;
        let is_whole = node.kind()? == NodeKind::File
            && !node.has_placeholder()
            && node.location()? == envfs_store::store::Location::Object;
        Ok(is_whole)
    }

    /// Calls `line` with the lines of the directory `inode` from `offset` on, until it returns false. Offset 0 is
    /// the first line; every other comes from [`Listed::next_offset`] and stays valid forever.
    ///
    /// # Errors
    /// When `inode` is no directory or the tree is damaged.
    pub fn list<'a>(
        &'a self,
        inode: u64,
        offset: u64,
        mut line: impl FnMut(Listed<'a>, Node<'a>) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        let directory = self.directory(inode)?;
        for (at, name) in [b".".as_slice(), b".."].into_iter().enumerate().skip(clamp(offset)) {
            let node = if at == 0 {
                directory
            } else {
                self.view.tree().parent(directory)?
            };
            let listed = listed(name, node, at as u64 + 1)?;
            if !line(listed, node)? {
                return Ok(());
            }
        }
        let skip = clamp(offset.saturating_sub(2));
        let mut next_offset = offset.max(2);
        for node in self.view.tree().children(directory, skip)? {
            let node = node?;
            next_offset += 1;
            let listed = listed(node.name()?, node, next_offset)?;
            if !line(listed, node)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A node with what it looks like.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn entry(&self, node: Node<'_>) -> Result<Entry, FsError> {
        Ok(Entry {
            inode: inode_of(node.id()),
            attributes: self.view.attributes(node)?,
        })
    }

    /// How many files and directories there may be at most.
    #[must_use]
    pub fn node_count(&self) -> u64 {
        self.view.tree().node_count().into()
    }

    /// Gives back the memory that only a run of requests needs.
    pub(crate) fn tidy(&self) {
        self.recent.clear();
        self.view.tree().unload();
    }

    fn node(&self, inode: u64) -> Result<Node<'_>, FsError> {
        let missing = FsError::NoSuchInode(inode);
        let Some(number) = inode
            .checked_sub(ROOT_INODE)
            .and_then(|number| u32::try_from(number).ok())
        else {
            return Err(missing);
        };
        if number >= self.view.tree().node_count() {
            return Err(missing);
        }
        Ok(self.view.tree().node(NodeId(number))?)
    }

    fn directory(&self, inode: u64) -> Result<Node<'_>, FsError> {
        let node = self.node(inode)?;
        match node.kind()? {
            NodeKind::Directory => Ok(node),
            _ => Err(FsError::NotADirectory(inode)),
        }
    }
}

fn listed<'a>(name: &'a [u8], node: Node<'a>, next_offset: u64) -> Result<Listed<'a>, FsError> {
    Ok(Listed {
        name,
        inode: inode_of(node.id()),
        kind: node.kind()?,
        next_offset,
    })
}

fn inode_of(id: NodeId) -> u64 {
    u64::from(id.0) + ROOT_INODE
}

fn clamp(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
