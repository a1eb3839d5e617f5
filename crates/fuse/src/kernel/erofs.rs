//! Writes the names and attributes of a tree as an EROFS image without any file content.
//!
//! The kernel mounts such an image by itself, and overlayfs finds the content of each file where the image's
//! `trusted.overlay.redirect` points, in a lower layer that is there for its data only. So a mount needs no server, and
//! all environments share the pages of the objects. The layout is the kernel's (`Documentation/filesystems/erofs.rst`,
//! `fs/erofs/erofs_fs.h`; `Documentation/filesystems/overlayfs.rst`, "Metadata only copy up" and "Data-only lower
//! layers"); the idea to put the two together is composefs'.

use envfs_store::tree::{Node, NodeId, NodeKind, ROOT, Tree};
use envfs_store::view::Attributes;

/// Everything in the image is addressed in blocks of this size; it must not exceed the machine's pages.
const BLOCK_BYTES: usize = 4096;
const BLOCK_BITS: u8 = 12;

/// Where the superblock stands, and what it starts with.
const SUPERBLOCK_AT: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;

/// Inodes are addressed in slots of this size, from the start of the image.
const SLOT_BYTES: usize = 32;
/// The long form of an inode, which holds a time of its own.
const INODE_BYTES: usize = 64;
const DIRENT_BYTES: usize = 12;

const SUPERBLOCK_BYTES: usize = 128;

/// `.` and `..`, which stand among the other names in their order.
const DOTS: [&[u8]; 2] = [b".", b".."];

/// Names of the extended attributes, without the prefix that an index stands for.
const METACOPY: &[u8] = b"overlay.metacopy";
const REDIRECT: &[u8] = b"overlay.redirect";

/// What precedes the extended attributes of an inode, and what they take in all: each has a head of 4 bytes, a name and
/// a value, filled up to a multiple of 4.
const XATTR_HEADER_BYTES: usize = 12;
const XATTR_BYTES: usize = XATTR_HEADER_BYTES + (4 + METACOPY.len()) + (4 + REDIRECT.len() + REDIRECT_BYTES);

/// `i_xattr_icount`: the words behind the header, and one.
#[expect(clippy::cast_possible_truncation, reason = "a constant below 100")]
const XATTR_COUNT: u16 = ((XATTR_BYTES - XATTR_HEADER_BYTES) / 4 + 1) as u16;

/// File types in `i_mode` (`stat.h`).
const S_IFREG: u16 = 0o100_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFLNK: u16 = 0o120_000;

/// `i_format`: the long form (bit 0) and how the content lies (bits 1 to 3).
const FORMAT_PLAIN: u16 = 1;
const FORMAT_INLINE: u16 = 1 | (2 << 1);

/// The address of content that is nowhere in the image.
const NOWHERE: u32 = u32::MAX;

/// `e_name_index` of names that start with `trusted.`.
const XATTR_TRUSTED: u8 = 4;

/// File types in directory entries.
const FT_FILE: u8 = 1;
const FT_DIRECTORY: u8 = 2;
const FT_SYMLINK: u8 = 7;

/// What the writer asks about each node.
pub(super) trait Describe {
    /// What the node looks like.
    ///
    /// # Errors
    /// When the tree is damaged.
    fn attributes(&self, node: Node<'_>) -> envfs_store::Result<Attributes>;

    /// Appends the path at which overlayfs finds the content of a file in one of the data-only layers; it starts with `/`
    /// and has [`REDIRECT_BYTES`] bytes.
    ///
    /// # Errors
    /// When the tree is damaged.
    fn redirect(&self, node: Node<'_>, out: &mut Vec<u8>) -> envfs_store::Result<()>;
}

/// The length of every redirect: a slash, two digits, a slash, 64 digits.
pub(super) const REDIRECT_BYTES: usize = 68;

/// Writes the image of `tree`. The same tree, descriptions and namespace give the same bytes.
///
/// # Errors
/// When the tree is damaged.
pub(super) fn write(tree: &Tree, describe: &impl Describe) -> envfs_store::Result<Vec<u8>> {
    let planned = Plan::of(tree)?;
    let mut image = Image {
        bytes: vec![0; planned.total_bytes],
        redirect: Vec::with_capacity(REDIRECT_BYTES),
    };
    for inode in &planned.inodes {
        image.inode(tree, describe, &planned, inode)?;
    }
    image.superblock(&planned);
    Ok(image.bytes)
}

/// Where everything goes.
struct Plan {
    /// Level by level from the root.
    inodes: Vec<Inode>,
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
    /// What follows the inode: a symlink's target, a small directory's entries.
    inline_bytes: usize,
    /// Directory: where its entries start when they do not follow the inode, and how many bytes they have.
    entries_at: usize,
    entries_bytes: usize,
}

impl Plan {
    fn of(tree: &Tree) -> envfs_store::Result<Self> {
        let mut inodes = vec![Inode::new(ROOT, NodeKind::Directory, 0)];
        let mut at = SUPERBLOCK_AT + SUPERBLOCK_BYTES;
        let mut index = 0;
        while index < inodes.len() {
            let node = tree.node(inodes[index].node)?;
            match inodes[index].kind {
                NodeKind::File => {}
                NodeKind::Symlink => inodes[index].inline_bytes = node.symlink_target()?.len(),
                NodeKind::Directory => {
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
                    let inode = &mut inodes[index];
                    inode.first_child = first_child;
                    inode.entries_bytes = sizes.total_bytes();
                    if inode.entries_bytes <= BLOCK_BYTES - INODE_BYTES {
                        inode.inline_bytes = inode.entries_bytes;
                    }
                    let children = inodes.len() - first_child;
                    inodes[index].children = children;
                }
            }
            at = inodes[index].place(at);
            index += 1;
        }
        for inode in inodes.iter_mut().filter(|inode| inode.has_own_blocks()) {
            at = at.next_multiple_of(BLOCK_BYTES);
            inode.entries_at = at;
            at += inode.entries_bytes;
        }
        Ok(Self {
            inodes,
            total_bytes: at.next_multiple_of(BLOCK_BYTES),
        })
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
            entries_at: 0,
            entries_bytes: 0,
        }
    }

    /// Takes the next place from `at` on, and returns where the one after may begin.
    fn place(&mut self, at: usize) -> usize {
        let xattr_bytes = if self.kind == NodeKind::File { XATTR_BYTES } else { 0 };
        let mut at = at.next_multiple_of(SLOT_BYTES);
        // What is inline must lie in one block.
        let (first, last) = (at + INODE_BYTES, at + INODE_BYTES + self.inline_bytes.saturating_sub(1));
        if self.inline_bytes > 0 && first / BLOCK_BYTES != last / BLOCK_BYTES {
            at = at.next_multiple_of(BLOCK_BYTES);
        }
        self.at = at;
        at + INODE_BYTES + xattr_bytes + self.inline_bytes
    }

    fn has_own_blocks(&self) -> bool {
        self.kind == NodeKind::Directory && self.inline_bytes == 0
    }

    fn number(&self) -> u64 {
        (self.at / SLOT_BYTES) as u64
    }
}

/// Counts the bytes of a directory's entries: whole blocks, each with its entries and then their names.
#[derive(Default)]
struct EntrySizes {
    full_blocks: usize,
    in_last: usize,
}

impl EntrySizes {
    fn add(&mut self, name_bytes: usize) {
        let bytes = DIRENT_BYTES + name_bytes;
        if self.in_last + bytes > BLOCK_BYTES {
            self.full_blocks += 1;
            self.in_last = 0;
        }
        self.in_last += bytes;
    }

    fn total_bytes(&self) -> usize {
        self.full_blocks * BLOCK_BYTES + self.in_last
    }
}

struct Image {
    bytes: Vec<u8>,
    redirect: Vec<u8>,
}

/// One name in a directory.
struct Dirent<'a> {
    number: u64,
    kind: u8,
    name: &'a [u8],
}

impl Image {
    fn inode(&mut self, tree: &Tree, describe: &impl Describe, plan: &Plan, inode: &Inode) -> envfs_store::Result<()> {
        let node = tree.node(inode.node)?;
        let attributes = describe.attributes(node)?;
        let (format, file_type, size, address) = match inode.kind {
            NodeKind::File => (FORMAT_PLAIN, S_IFREG, attributes.size_bytes, NOWHERE),
            NodeKind::Symlink => (FORMAT_INLINE, S_IFLNK, inode.inline_bytes as u64, NOWHERE),
            NodeKind::Directory if inode.has_own_blocks() => {
                let block = u32::try_from(inode.entries_at / BLOCK_BYTES).unwrap_or(NOWHERE);
                (FORMAT_PLAIN, S_IFDIR, inode.entries_bytes as u64, block)
            }
            NodeKind::Directory => (FORMAT_INLINE, S_IFDIR, inode.entries_bytes as u64, NOWHERE),
        };
        let at = inode.at;
        self.put(at, &format.to_le_bytes());
        self.put(at + 4, &(file_type | attributes.mode).to_le_bytes());
        self.put(at + 8, &size.to_le_bytes());
        self.put(at + 16, &address.to_le_bytes());
        self.put(at + 20, &(inode.node.0.wrapping_add(1)).to_le_bytes());
        // User and group stay 0: only root mounts images.
        self.put(at + 32, &attributes.mtime_s.to_le_bytes());
        self.put(at + 44, &attributes.links.to_le_bytes());
        match inode.kind {
            NodeKind::File => self.xattrs(at, describe, node)?,
            NodeKind::Symlink => self.put(at + INODE_BYTES, node.symlink_target()?),
            NodeKind::Directory => {
                let entries = Self::entries(tree, plan, inode)?;
                let at = if inode.has_own_blocks() {
                    inode.entries_at
                } else {
                    at + INODE_BYTES
                };
                self.directory(at, &entries);
            }
        }
        Ok(())
    }

    /// The two attributes that tell overlayfs where the content is.
    fn xattrs(&mut self, at: usize, describe: &impl Describe, node: Node<'_>) -> envfs_store::Result<()> {
        let mut redirect = std::mem::take(&mut self.redirect);
        redirect.clear();
        describe.redirect(node, &mut redirect)?;
        debug_assert_eq!(redirect.len(), REDIRECT_BYTES);
        self.put(at + 2, &XATTR_COUNT.to_le_bytes());
        let mut at = at + INODE_BYTES + XATTR_HEADER_BYTES;
        for (name, value) in [(METACOPY, b"".as_slice()), (REDIRECT, &redirect)] {
            let len = u16::try_from(value.len()).unwrap_or_default().to_le_bytes();
            let name_bytes = u8::try_from(name.len()).unwrap_or_default();
            self.put(at, &[name_bytes, XATTR_TRUSTED, len[0], len[1]]);
            self.put(at + 4, name);
            self.put(at + 4 + name.len(), value);
            at += 4 + (name.len() + value.len()).next_multiple_of(4);
        }
        self.redirect = redirect;
        Ok(())
    }

    /// The entries of a directory, sorted by name, with `.` and `..` in their places.
    fn entries<'t>(tree: &'t Tree, plan: &Plan, inode: &Inode) -> envfs_store::Result<Vec<Dirent<'t>>> {
        let own = Dirent {
            number: inode.number(),
            kind: FT_DIRECTORY,
            name: DOTS[0],
        };
        let parent = Dirent {
            number: plan.inodes[inode.parent].number(),
            kind: FT_DIRECTORY,
            name: DOTS[1],
        };
        let mut dots = [own, parent].into_iter().peekable();
        let mut entries = Vec::with_capacity(inode.children + 2);
        for child in &plan.inodes[inode.first_child..inode.first_child + inode.children] {
            let name = tree.node(child.node)?.name()?;
            while let Some(dot) = dots.next_if(|dot| dot.name < name) {
                entries.push(dot);
            }
            entries.push(Dirent {
                number: child.number(),
                kind: match child.kind {
                    NodeKind::File => FT_FILE,
                    NodeKind::Directory => FT_DIRECTORY,
                    NodeKind::Symlink => FT_SYMLINK,
                },
                name,
            });
        }
        entries.extend(dots);
        Ok(entries)
    }

    fn directory(&mut self, at: usize, entries: &[Dirent<'_>]) {
        let (mut block_at, mut rest) = (at, entries);
        while !rest.is_empty() {
            let mut used = 0;
            let fitting = rest
                .iter()
                .take_while(|entry| {
                    used += DIRENT_BYTES + entry.name.len();
                    used <= BLOCK_BYTES
                })
                .count();
            let (block, later) = rest.split_at(fitting);
            let mut name_at = block.len() * DIRENT_BYTES;
            for (index, entry) in block.iter().enumerate() {
                let at = block_at + index * DIRENT_BYTES;
                self.put(at, &entry.number.to_le_bytes());
                let name_offset = u16::try_from(name_at).unwrap_or_default();
                self.put(at + 8, &name_offset.to_le_bytes());
                self.put(at + 10, &[entry.kind]);
                self.put(block_at + name_at, entry.name);
                name_at += entry.name.len();
            }
            block_at += BLOCK_BYTES;
            rest = later;
        }
    }

    fn superblock(&mut self, plan: &Plan) {
        let at = SUPERBLOCK_AT;
        let blocks = u32::try_from(plan.total_bytes / BLOCK_BYTES).unwrap_or(NOWHERE);
        self.put(at, &MAGIC.to_le_bytes());
        self.put(at + 12, &[BLOCK_BITS]);
        // The root is the first inode, so its number is small.
        let root = u16::try_from(plan.inodes[0].number()).unwrap_or_default();
        self.put(at + 14, &root.to_le_bytes());
        self.put(at + 16, &(plan.inodes.len() as u64).to_le_bytes());
        self.put(at + 36, &blocks.to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
