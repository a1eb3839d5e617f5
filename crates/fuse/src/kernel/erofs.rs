//! Writes the names and attributes of a tree as an EROFS image without any file content.
//!
//! The kernel mounts such an image by itself, and overlayfs finds the content of each file where the image's
//! `trusted.overlay.redirect` points, in a lower layer that is there for its data only. So a mount needs no server, and
//! all environments share the pages of the objects. The layout is the kernel's (`Documentation/filesystems/erofs.rst`,
//! `fs/erofs/erofs_fs.h`; `Documentation/filesystems/overlayfs.rst`, "Metadata only copy up" and "Data-only lower
//! layers"); the idea to put the two together is composefs'.

pub(super) mod content;
mod format;

use envfs_store::tree::{Node, NodeId, NodeKind, ROOT, Tree};
use envfs_store::view::Attributes;

use self::format::{BLOCK_BYTES, Content, DOTS, Dirent, EntrySizes, INODE_BYTES, INODES_AT, Image, Kind};

/// What the writer asks about each node.
pub(super) trait Describe {
    /// What the node looks like.
    ///
    /// # Errors
    /// When the tree is damaged.
    fn attributes(&self, node: Node<'_>) -> envfs_store::Result<Attributes>;

    /// Appends the path at which overlayfs finds the content of a file in one of the data-only layers; it starts with `/`.
    ///
    /// # Errors
    /// When the tree is damaged.
    fn redirect(&self, node: Node<'_>, out: &mut Vec<u8>) -> envfs_store::Result<()>;

    /// Whether the content of a file is lost: it is there, and reading it fails.
    fn is_lost(&self, node: Node<'_>) -> bool;
}

/// The device of an image with files whose content is lost. The kernel reads files through `read_iter`, which this one
/// has not (`fs/proc/base.c`), and what it cannot read is an input/output error, as with all other backends.
pub(super) const UNREADABLE: &str = "/proc/self/auxv";

/// A chunk of a lost file has so many blocks, as a power of two: 4 GiB.
const LOST_CHUNK_BITS: u8 = 20;
const LOST_CHUNK_BYTES: u64 = (BLOCK_BYTES as u64) << LOST_CHUNK_BITS;

/// An image, and whether it needs the device [`UNREADABLE`].
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    pub(super) has_lost: bool,
}

/// Writes the image of `tree`. The same tree and descriptions give the same bytes.
///
/// # Errors
/// When the tree is damaged.
pub(super) fn write(tree: &Tree, describe: &impl Describe) -> envfs_store::Result<Written> {
    let plan = Plan::of(tree, describe)?;
    let mut image = Image {
        bytes: vec![0; plan.total_bytes],
    };
    for inode in &plan.inodes {
        put_inode(&mut image, tree, describe, &plan, inode)?;
    }
    if plan.has_lost {
        image.device(plan.devices_at, 0, u32::MAX);
    }
    image.superblock(
        plan.inodes[0].at,
        plan.inodes.len(),
        u16::from(plan.has_lost),
        plan.devices_at,
    );
    Ok(Written {
        bytes: image.bytes,
        has_lost: plan.has_lost,
    })
}

/// Which node an image has at the inode that `stat` calls `number`.
pub(super) fn node_of(image: &[u8], number: u64) -> Option<NodeId> {
    format::stat_number(image, number)?.checked_sub(1).map(NodeId)
}

/// Where everything goes.
struct Plan {
    /// Level by level from the root.
    inodes: Vec<Inode>,
    /// The redirects of all files, one after the other.
    redirects: Vec<u8>,
    has_lost: bool,
    devices_at: usize,
    total_bytes: usize,
}

/// One inode: where it is, and where the entries of a directory are.
struct Inode {
    node: NodeId,
    kind: NodeKind,
    at: usize,
    /// The index of the directory that holds it.
    parent: usize,
    /// Directory: the index of its first child; children are neighbours.
    first_child: usize,
    children: usize,
    /// What follows the inode: a symlink's target, a small directory's entries, where a lost file is not.
    inline_bytes: usize,
    /// File: where its redirect starts among all. Directory: where its entries start when they do not follow the inode.
    data_at: usize,
    /// The bytes of the redirect or of the entries. A lost file has no redirect.
    data_bytes: usize,
}

impl Plan {
    fn of(tree: &Tree, describe: &impl Describe) -> envfs_store::Result<Self> {
        let mut inodes = vec![Inode::new(ROOT, NodeKind::Directory, 0)];
        let mut redirects = Vec::new();
        let mut has_lost = false;
        let mut at = INODES_AT;
        let mut index = 0;
        while index < inodes.len() {
            let node = tree.node(inodes[index].node)?;
            match inodes[index].kind {
                NodeKind::File if describe.is_lost(node) => {
                    has_lost = true;
                    let size_bytes = describe.attributes(node)?.size_bytes;
                    inodes[index].inline_bytes = format::chunk_index_bytes(lost_chunks(size_bytes));
                }
                NodeKind::File => {
                    let inode = &mut inodes[index];
                    inode.data_at = redirects.len();
                    describe.redirect(node, &mut redirects)?;
                    inode.data_bytes = redirects.len() - inode.data_at;
                }
                NodeKind::Symlink => inodes[index].inline_bytes = node.symlink_target()?.len(),
                NodeKind::Directory => Self::add_children(&mut inodes, index, tree, node)?,
            }
            at = inodes[index].place(at);
            index += 1;
        }
        let (devices_at, end) = format::device_table(at, usize::from(has_lost));
        at = end;
        for inode in inodes.iter_mut().filter(|inode| inode.has_own_blocks()) {
            at = at.next_multiple_of(BLOCK_BYTES);
            inode.data_at = at;
            at += inode.data_bytes;
        }
        Ok(Self {
            inodes,
            redirects,
            has_lost,
            devices_at,
            total_bytes: at.next_multiple_of(BLOCK_BYTES),
        })
    }

    /// Plans the entries of the directory at `index`, and appends its children.
    fn add_children(inodes: &mut Vec<Inode>, index: usize, tree: &Tree, node: Node<'_>) -> envfs_store::Result<()> {
        let first_child = inodes.len();
        let mut sizes = EntrySizes::default();
        let mut dots = DOTS.into_iter().peekable();
        for child in tree.children(node, 0)? {
            let child = child?;
            let name = child.name()?;
            while let Some(dot) = dots.next_if(|dot| *dot < name) {
                sizes.add(dot.len());
            }
            sizes.add(name.len());
            inodes.push(Inode::new(child.id(), child.kind()?, index));
        }
        dots.for_each(|dot| sizes.add(dot.len()));
        let children = inodes.len() - first_child;
        let inode = &mut inodes[index];
        inode.first_child = first_child;
        inode.children = children;
        inode.data_bytes = sizes.total_bytes();
        if inode.data_bytes <= BLOCK_BYTES - INODE_BYTES {
            inode.inline_bytes = inode.data_bytes;
        }
        Ok(())
    }
}

impl Inode {
    fn new(node: NodeId, kind: NodeKind, parent: usize) -> Self {
        Self {
            node,
            kind,
            at: 0,
            parent,
            first_child: 0,
            children: 0,
            inline_bytes: 0,
            data_at: 0,
            data_bytes: 0,
        }
    }

    /// Takes the next place from `at` on, and returns where the one after may begin.
    fn place(&mut self, at: usize) -> usize {
        self.at = format::place(at, self.inline_bytes);
        let xattr_bytes = if self.has_redirect() {
            format::xattr_bytes(self.data_bytes)
        } else {
            0
        };
        self.at + INODE_BYTES + xattr_bytes + self.inline_bytes
    }

    fn has_redirect(&self) -> bool {
        self.kind == NodeKind::File && self.data_bytes > 0
    }

    fn has_own_blocks(&self) -> bool {
        self.kind == NodeKind::Directory && self.inline_bytes == 0
    }
}

fn put_inode(
    image: &mut Image,
    tree: &Tree,
    describe: &impl Describe,
    plan: &Plan,
    inode: &Inode,
) -> envfs_store::Result<()> {
    let node = tree.node(inode.node)?;
    let attributes = describe.attributes(node)?;
    let (content, size_bytes) = match inode.kind {
        NodeKind::File if inode.has_redirect() => (Content::Nowhere, attributes.size_bytes),
        NodeKind::File => (Content::Chunks(LOST_CHUNK_BITS), attributes.size_bytes),
        NodeKind::Symlink => (Content::Inline, inode.inline_bytes as u64),
        NodeKind::Directory if inode.has_own_blocks() => (Content::Blocks(inode.data_at), inode.data_bytes as u64),
        NodeKind::Directory => (Content::Inline, inode.data_bytes as u64),
    };
    let described = format::Inode {
        kind: inode.kind.into(),
        content,
        mode: attributes.mode,
        size_bytes,
        number: inode.node.0.wrapping_add(1),
        mtime_s: attributes.mtime_s,
        links: attributes.links,
    };
    image.inode(inode.at, &described);
    match inode.kind {
        NodeKind::File if inode.has_redirect() => {
            let redirect = &plan.redirects[inode.data_at..inode.data_at + inode.data_bytes];
            image.xattrs(inode.at, redirect);
        }
        NodeKind::File => {
            let unreadable = format::Chunk { device: 1, block: 0 };
            image.chunks(inode.at, &vec![unreadable; lost_chunks(size_bytes)]);
        }
        NodeKind::Symlink => image.put(inode.at + INODE_BYTES, node.symlink_target()?),
        NodeKind::Directory => {
            let at = if inode.has_own_blocks() {
                inode.data_at
            } else {
                inode.at + INODE_BYTES
            };
            image.directory(at, &entries(tree, plan, inode)?);
        }
    }
    Ok(())
}

/// The entries of a directory, sorted by name, with `.` and `..` in their places.
fn entries<'t>(tree: &'t Tree, plan: &Plan, inode: &Inode) -> envfs_store::Result<Vec<Dirent<'t>>> {
    let dot = |inode_at, name| Dirent {
        inode_at,
        kind: Kind::Directory,
        name,
    };
    let mut dots = [dot(inode.at, DOTS[0]), dot(plan.inodes[inode.parent].at, DOTS[1])]
        .into_iter()
        .peekable();
    let mut entries = Vec::with_capacity(inode.children + 2);
    for child in &plan.inodes[inode.first_child..inode.first_child + inode.children] {
        let name = tree.node(child.node)?.name()?;
        while let Some(dot) = dots.next_if(|dot| dot.name < name) {
            entries.push(dot);
        }
        entries.push(Dirent {
            inode_at: child.at,
            kind: child.kind.into(),
            name,
        });
    }
    entries.extend(dots);
    Ok(entries)
}

fn lost_chunks(size_bytes: u64) -> usize {
    usize::try_from(size_bytes.div_ceil(LOST_CHUNK_BYTES)).unwrap_or(usize::MAX)
}

impl From<NodeKind> for Kind {
    fn from(kind: NodeKind) -> Self {
        match kind {
            NodeKind::File => Self::File,
            NodeKind::Directory => Self::Directory,
            NodeKind::Symlink => Self::Symlink,
        }
    }
}

#[cfg(test)]
mod tests;
