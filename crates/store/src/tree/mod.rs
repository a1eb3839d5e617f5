//! The merged directory index of one environment, mapped into memory as it is.
//!
//! A tree is either flat or stands on one flat tree, its base: then it holds only the directories that differ and
//! refers to the base's nodes for the rest, by number, so that a lookup never walks a chain. Numbers are stable:
//! the same tree has the same numbers in every process, and a file system may use them as inode numbers.

mod draft;
mod format;
pub mod merge;
mod stored;
mod table;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::placeholder::Placeholder;
use crate::store::Location;
use crate::wire::Reader;
use format::{NONE, RawNode};
use table::Table;

pub use writer::WrittenTree;

/// The number of a node. The root has number 0; a base's nodes come after the tree's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// The root directory of every tree.
pub const ROOT: NodeId = NodeId(0);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// The mapped index of one environment.
#[derive(Debug)]
pub struct Tree {
    own: Table,
    base: Option<Table>,
    /// Directories of the base that were replaced: (number in the base, own number), sorted.
    replaced: OnceLock<Vec<(u32, u32)>>,
}

/// One node of a tree.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    table: &'a Table,
    raw: &'a RawNode,
    /// What to add to the numbers in this node's table: 0 for the tree's own.
    shift: u32,
    id: NodeId,
}

impl Tree {
    /// Maps the tree file at `path`; `open_base` maps the file of a base by its name.
    ///
    /// # Errors
    /// When a file is missing, is not a tree, is of another version, or its tables leave it.
    pub(crate) fn open(path: &Path, base_path: impl FnOnce(&Digest) -> PathBuf) -> Result<Self> {
        let own = Table::open(path)?;
        let base = if own.header.base_node_count.get() == 0 {
            None
        } else {
            let base = Table::open(&base_path(&own.header.base))?;
            if base.header.base_node_count.get() != 0 {
                return Err(Error::corrupt(path, "its base stands on a base of its own"));
            }
            if base.header.node_count != own.header.base_node_count {
                return Err(Error::corrupt(path, "its base has another number of nodes"));
            }
            Some(base)
        };
        Ok(Self {
            own,
            base,
            replaced: OnceLock::new(),
        })
    }

    /// How many nodes can be reached, at most: every [`NodeId`] is below it.
    #[must_use]
    pub fn node_count(&self) -> u32 {
        self.own_count().saturating_add(self.own.header.base_node_count.get())
    }

    /// The name of the tree it stands on.
    #[must_use]
    pub fn base(&self) -> Option<Digest> {
        self.base.as_ref().map(|_| self.own.header.base)
    }

    /// Lets go of the pages of the index that this process has touched. They stay in the machine's memory and are there
    /// again when they are touched.
    pub fn unload(&self) {
        for table in std::iter::once(&self.own).chain(&self.base) {
            table.unload();
        }
    }

    /// The longest prefix in bytes that fits every binary, and the file that sets the limit.
    #[must_use]
    pub fn max_prefix(&self) -> Option<(usize, NodeId)> {
        let max = self.own.header.max_prefix_bytes.get();
        (max != NONE).then(|| (max as usize, NodeId(self.own.header.max_prefix_node.get())))
    }

    /// The node with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, id: NodeId) -> Result<Node<'_>> {
        let own_count = self.own_count();
        let (table, shift) = match &self.base {
            Some(base) if id.0 >= own_count => (base, own_count),
            _ => (&self.own, 0),
        };
        let raw = table.node(id.0 - shift)?;
        Ok(Node { table, raw, shift, id })
    }

    /// The root directory.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn root(&self) -> Result<Node<'_>> {
        self.node(ROOT)
    }

    /// How many files and links there are, and the bytes of all files as they are stored; those of the base among them.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn contents(&self) -> Result<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        let mut pending = vec![self.root()?.id()];
        while let Some(directory) = pending.pop() {
            for child in self.children(self.node(directory)?, 0)? {
                let child = child?;
                match child.kind()? {
                    NodeKind::Directory => pending.push(child.id()),
                    NodeKind::File => {
                        files += 1;
                        bytes += child.stored_bytes();
                    }
                    NodeKind::Symlink => files += 1,
                }
            }
        }
        Ok((files, bytes))
    }

    /// The child of `directory` called `name`.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn lookup(&self, directory: Node<'_>, name: &[u8]) -> Result<Option<Node<'_>>> {
        let children = directory.raw_children()?;
        let (mut low, mut high) = (0, children.len());
        while low < high {
            let middle = low.midpoint(high);
            let child = self.node(NodeId(children[middle].get().saturating_add(directory.shift)))?;
            match child.name()?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(child)),
            }
        }
        Ok(None)
    }

    /// The node at `path`, whose names are separated by `/`. Symlinks are not followed.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn find(&self, path: &[u8]) -> Result<Option<Node<'_>>> {
        let mut node = self.root()?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            if node.kind()? != NodeKind::Directory {
                return Ok(None);
            }
            match self.lookup(node, name)? {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// The children of `directory` from the `skip`th on, sorted by name.
    ///
    /// # Errors
    /// When `directory` is none, or an item when the tree is damaged.
    pub fn children<'a>(
        &'a self,
        directory: Node<'a>,
        skip: usize,
    ) -> Result<impl Iterator<Item = Result<Node<'a>>> + use<'a>> {
        let children = directory.raw_children()?;
        let shift = directory.shift;
        Ok(children
            .get(skip..)
            .unwrap_or_default()
            .iter()
            .map(move |child| self.node(NodeId(child.get().saturating_add(shift)))))
    }

    /// The directory that holds `node`; the root holds itself.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn parent(&self, node: Node<'_>) -> Result<Node<'_>> {
        let parent = node.raw.parent.get().saturating_add(node.shift);
        if node.shift == 0 {
            return self.node(NodeId(parent));
        }
        let replaced = self.replaced.get_or_init(|| self.find_replaced());
        match replaced.binary_search_by_key(&(parent - node.shift), |&(base, _)| base) {
            Ok(found) => self.node(NodeId(replaced[found].1)),
            Err(_) => self.node(NodeId(parent)),
        }
    }

    /// The path of `node` from the root, names separated by `/`; empty for the root.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn path(&self, node: Node<'_>) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = self.node(node.id)?;
        while at.id != ROOT {
            names.push(at.name()?);
            at = self.parent(at)?;
            if names.len() > crate::path::MAX_PATH_BYTES {
                return Err(Error::corrupt(&self.own.path, "its directories form a loop"));
            }
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// All files that a node stands for: the tree's own, and unless `own_only` those of its base, seen or not.
    pub(crate) fn files(&self, own_only: bool) -> impl Iterator<Item = Result<Node<'_>>> {
        let end = if own_only { self.own_count() } else { self.node_count() };
        (0..end).filter_map(|id| match self.node(NodeId(id)) {
            Ok(node) => (node.raw.kind == format::FILE).then_some(Ok(node)),
            Err(error) => Some(Err(error)),
        })
    }

    /// The names of the packages this tree's own files come from (not its base's).
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn packages(&self) -> Result<Vec<&str>> {
        (0..self.own.header.package_count.get())
            .map(|index| self.own.package(index))
            .collect()
    }

    /// How many bytes the tree file itself has, without its base.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.own.map.len() as u64
    }

    /// Checks every node, every child and every record: that nothing leaves the tables, names are sorted, and
    /// every directory is reached once.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(&self) -> Result<()> {
        let mut pending = vec![self.root()?];
        let mut seen = vec![false; self.node_count() as usize];
        while let Some(directory) = pending.pop() {
            let mut previous: Option<&[u8]> = None;
            for child in self.children(directory, 0)? {
                let child = child?;
                if std::mem::replace(&mut seen[child.id.0 as usize], true) {
                    return Err(self.own.corrupt("a node is reached twice"));
                }
                let name = child.name()?;
                crate::path::check_name(name).map_err(|reason| self.own.corrupt(format!("a name {reason}")))?;
                if previous.is_some_and(|previous| previous >= name) {
                    return Err(self.own.corrupt("a directory is not sorted"));
                }
                previous = Some(name);
                child.package()?;
                match child.kind()? {
                    NodeKind::Directory => pending.push(child),
                    NodeKind::File => {
                        child.location()?;
                        child.placeholder()?;
                    }
                    NodeKind::Symlink => {
                        child.symlink_target()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn own_count(&self) -> u32 {
        self.own.header.node_count.get()
    }

    /// Pairs the own directories with those of the base at the same paths, from the root down.
    fn find_replaced(&self) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        let own_count = self.own_count();
        let mut pending = vec![(0, ROOT)];
        while let Some((base_id, own_id)) = pending.pop() {
            pairs.push((base_id, own_id.0));
            let (Ok(own), Ok(base)) = (self.node(own_id), self.node(NodeId(base_id + own_count))) else {
                continue;
            };
            let Ok(children) = self.children(own, 0) else { continue };
            for child in children.flatten().filter(|child| child.id.0 < own_count) {
                let Ok(name) = child.name() else { continue };
                if let (Ok(NodeKind::Directory), Ok(Some(other))) = (child.kind(), self.lookup(base, name)) {
                    pending.push((other.id.0 - own_count, child.id));
                }
            }
        }
        pairs.sort_unstable();
        pairs
    }
}

impl<'a> Node<'a> {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Whether it stands in the base's file, that is, was inherited as it is.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.shift != 0
    }

    /// What it is.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn kind(&self) -> Result<NodeKind> {
        match self.raw.kind {
            format::DIRECTORY => Ok(NodeKind::Directory),
            format::FILE => Ok(NodeKind::File),
            format::SYMLINK => Ok(NodeKind::Symlink),
            other => Err(self
                .table
                .corrupt(format!("node {} has the unknown kind {other}", self.id.0))),
        }
    }

    /// Its name in its directory; empty for the root.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn name(&self) -> Result<&'a [u8]> {
        self.table
            .heap(self.raw.name_offset.get().into(), self.raw.name_bytes.get().into())
    }

    /// File: the size of its stored bytes; a placeholder in a text changes what is seen at a prefix. Symlink: the
    /// length of its target.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.raw.size_bytes.get()
    }

    /// Its modification time in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn mtime_s(&self) -> i64 {
        self.raw.mtime_s.get()
    }

    /// Whether any execute bit was set.
    #[must_use]
    pub fn is_executable(&self) -> bool {
        self.raw.flags & format::EXECUTABLE != 0
    }

    /// File: the digest of its stored bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.raw.digest
    }

    /// File: where its stored bytes are.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn location(&self) -> Result<Location> {
        match self.raw.extent.get() {
            NONE => Ok(Location::Object),
            index => Ok(Location::Pack(self.table.pack(index)?, self.raw.location.get())),
        }
    }

    /// Symlink: where it points, byte for byte as in the archive.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn symlink_target(&self) -> Result<&'a [u8]> {
        self.table.heap(self.raw.location.get(), self.raw.size_bytes.get())
    }

    /// File: the prefix placeholder and where it stands, for the few files that hold one.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn placeholder(&self) -> Result<Option<Placeholder>> {
        if self.raw.kind != format::FILE || self.raw.detail.get() == NONE {
            return Ok(None);
        }
        let record = self.table.heap_from(self.raw.detail.get().into())?;
        match Placeholder::read(&mut Reader::new(record)) {
            Some(placeholder) => Ok(Some(placeholder)),
            None => Err(self
                .table
                .corrupt(format!("the placeholder record of node {}", self.id.0))),
        }
    }

    /// Whether the file holds a prefix placeholder.
    #[must_use]
    pub fn has_placeholder(&self) -> bool {
        self.raw.kind == format::FILE && self.raw.detail.get() != NONE
    }

    /// The package it comes from, as `name-version-build`; none for directories and generated files.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn package(&self) -> Result<Option<&'a str>> {
        match self.raw.package.get() {
            NONE => Ok(None),
            index => self.table.package(index).map(Some),
        }
    }

    /// Directory: how many children it has.
    #[must_use]
    pub fn child_count(&self) -> u32 {
        self.raw.extent.get()
    }

    /// Directory: how many of its children are directories.
    #[must_use]
    pub fn subdirectory_count(&self) -> u32 {
        self.raw.detail.get()
    }

    fn raw_children(&self) -> Result<&'a [U32]> {
        if self.kind()? != NodeKind::Directory {
            return Err(self.table.corrupt(format!("node {} is not a directory", self.id.0)));
        }
        let first = self.raw.location.get();
        let count = u64::from(self.raw.extent.get());
        if first.saturating_add(count) > self.table.header.child_count.get().into() {
            return Err(self
                .table
                .corrupt(format!("the children of node {} leave the table", self.id.0)));
        }
        let offset = self.table.header.children_offset.get() + first * 4;
        let bytes = self.table.bytes(offset, count * 4)?;
        <[U32]>::ref_from_bytes(bytes).map_err(|_| self.table.corrupt("its children table"))
    }
}

#[cfg(test)]
mod tests;
