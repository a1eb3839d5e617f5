//! The pieces of an EROFS image, put at their places. Knows nothing of trees.
//!
//! As the kernel reads them: `Documentation/filesystems/erofs.rst`, `fs/erofs/erofs_fs.h`.

/// Everything in the image is addressed in blocks of this size; it must not exceed the machine's pages.
pub(super) const BLOCK_BYTES: usize = 4096;
const BLOCK_BITS: u8 = 12;

/// Where the superblock stands, and what it starts with.
const SUPERBLOCK_AT: usize = 1024;
const SUPERBLOCK_BYTES: usize = 128;
const MAGIC: u32 = 0xE0F5_E1E2;

/// Where inodes may begin.
pub(super) const INODES_AT: usize = SUPERBLOCK_AT + SUPERBLOCK_BYTES;

/// Inodes are addressed in slots of this size, from the start of the image.
const SLOT_BYTES: usize = 32;
/// The long form of an inode, which holds a time of its own.
pub(super) const INODE_BYTES: usize = 64;
const DIRENT_BYTES: usize = 12;

/// `.` and `..`, which stand among the other names in their order.
pub(super) const DOTS: [&[u8]; 2] = [b".", b".."];

/// Names of the extended attributes, without the prefix that an index stands for.
const METACOPY: &[u8] = b"overlay.metacopy";
const REDIRECT: &[u8] = b"overlay.redirect";

/// What precedes the extended attributes of an inode; each has a head of 4 bytes, a name and a value, filled up to a
/// multiple of 4.
const XATTR_HEADER_BYTES: usize = 12;
const XATTR_HEAD_BYTES: usize = 4;

/// `e_name_index` of names that start with `trusted.`.
const XATTR_TRUSTED: u8 = 4;

/// File types in `i_mode` (`stat.h`).
const S_IFREG: u16 = 0o100_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFLNK: u16 = 0o120_000;

/// `i_format`: the long form (bit 0) and how the content lies (bits 1 to 3).
const FORMAT_PLAIN: u16 = 1;
const FORMAT_INLINE: u16 = 1 | (2 << 1);
const FORMAT_CHUNKS: u16 = 1 | (4 << 1);

/// In the address of a file in chunks: an index says where each is. The bits below say how many blocks a chunk has, as a
/// power of two.
const CHUNK_INDEXES: u32 = 0x20;
const CHUNK_INDEX_BYTES: usize = 8;

/// Features in the superblock, without which such an image is not understood.
const INCOMPATIBLE_CHUNKS: u32 = 0x4;
const INCOMPATIBLE_DEVICES: u32 = 0x8;

/// One of the other files in which chunks lie.
const DEVICE_BYTES: usize = 128;

/// The address of content that is nowhere in the image.
const NOWHERE: u32 = u32::MAX;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
}

/// Where the content of an inode is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// In other file systems.
    Nowhere,
    /// Behind the inode.
    Inline,
    /// In blocks from this byte on.
    Blocks(usize),
    /// In chunks of 2 to the power of this many blocks, with an index behind the inode.
    Chunks(u8),
}

/// An inode without what follows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) content: Content,
    pub(super) mode: u16,
    pub(super) size_bytes: u64,
    /// What `stat` gives.
    pub(super) number: u32,
    pub(super) mtime_s: i64,
    pub(super) links: u32,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// 0 is the image itself, others are its devices.
    pub(super) device: u16,
    pub(super) block: u32,
}

/// One name in a directory.
pub(super) struct Dirent<'a> {
    pub(super) inode_at: usize,
    pub(super) kind: Kind,
    pub(super) name: &'a [u8],
}

/// Takes the next place for an inode with `bytes` bytes from `at` on, of which the last `inline_bytes` must lie in one
/// block with what is before them.
pub(super) fn place(at: usize, inline_bytes: usize) -> usize {
    let at = at.next_multiple_of(SLOT_BYTES);
    let (first, last) = (at + INODE_BYTES, at + INODE_BYTES + inline_bytes.saturating_sub(1));
    if inline_bytes > 0 && first / BLOCK_BYTES != last / BLOCK_BYTES {
        at.next_multiple_of(BLOCK_BYTES)
    } else {
        at
    }
}

/// How many bytes the extended attributes of a file take whose redirect has `redirect_bytes` bytes.
pub(super) fn xattr_bytes(redirect_bytes: usize) -> usize {
    let each = |name: &[u8], value: usize| XATTR_HEAD_BYTES + (name.len() + value).next_multiple_of(4);
    XATTR_HEADER_BYTES + each(METACOPY, 0) + each(REDIRECT, redirect_bytes)
}

/// How many bytes `count` chunk indexes take.
pub(super) fn chunk_index_bytes(count: usize) -> usize {
    count * CHUNK_INDEX_BYTES
}

/// What [`Inode::number`] was of the inode that the kernel, in 64 bits, calls `kernel_number`: it counts slots.
pub(super) fn stat_number(image: &[u8], kernel_number: u64) -> Option<u32> {
    let at = usize::try_from(kernel_number).ok()?.checked_mul(SLOT_BYTES)?;
    let field = image.get(at.checked_add(20)?..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

/// Counts the bytes of a directory's entries: whole blocks, each with its entries and then their names.
#[derive(Default)]
pub(super) struct EntrySizes {
    full_blocks: usize,
    in_last: usize,
}

impl EntrySizes {
    pub(super) fn add(&mut self, name_bytes: usize) {
        let bytes = DIRENT_BYTES + name_bytes;
        if self.in_last + bytes > BLOCK_BYTES {
            self.full_blocks += 1;
            self.in_last = 0;
        }
        self.in_last += bytes;
    }

    pub(super) fn total_bytes(&self) -> usize {
        self.full_blocks * BLOCK_BYTES + self.in_last
    }
}

/// An image that is being written.
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
}

impl Image {
    pub(super) fn inode(&mut self, at: usize, inode: &Inode) {
        let block = |at: usize| u32::try_from(at / BLOCK_BYTES).unwrap_or(NOWHERE);
        let (format, address) = match inode.content {
            Content::Nowhere => (FORMAT_PLAIN, NOWHERE),
            Content::Inline => (FORMAT_INLINE, NOWHERE),
            Content::Blocks(at) => (FORMAT_PLAIN, block(at)),
            Content::Chunks(bits) => (FORMAT_CHUNKS, CHUNK_INDEXES | u32::from(bits)),
        };
        let file_type = match inode.kind {
            Kind::File => S_IFREG,
            Kind::Directory => S_IFDIR,
            Kind::Symlink => S_IFLNK,
        };
        self.put(at, &format.to_le_bytes());
        self.put(at + 4, &(file_type | inode.mode).to_le_bytes());
        self.put(at + 8, &inode.size_bytes.to_le_bytes());
        self.put(at + 16, &address.to_le_bytes());
        self.put(at + 20, &inode.number.to_le_bytes());
        // User and group stay 0: only root mounts images.
        self.put(at + 32, &inode.mtime_s.to_le_bytes());
        self.put(at + 44, &inode.links.to_le_bytes());
    }

    /// The two attributes that tell overlayfs where the content of the file at `at` is.
    pub(super) fn xattrs(&mut self, at: usize, redirect: &[u8]) {
        // `i_xattr_icount`: the words behind the header, and one.
        let words = (xattr_bytes(redirect.len()) - XATTR_HEADER_BYTES) / 4 + 1;
        self.put(at + 2, &u16::try_from(words).unwrap_or_default().to_le_bytes());
        let mut at = at + INODE_BYTES + XATTR_HEADER_BYTES;
        for (name, value) in [(METACOPY, b"".as_slice()), (REDIRECT, redirect)] {
            let len = u16::try_from(value.len()).unwrap_or_default().to_le_bytes();
            let name_bytes = u8::try_from(name.len()).unwrap_or_default();
            self.put(at, &[name_bytes, XATTR_TRUSTED, len[0], len[1]]);
            self.put(at + XATTR_HEAD_BYTES, name);
            self.put(at + XATTR_HEAD_BYTES + name.len(), value);
            at += XATTR_HEAD_BYTES + (name.len() + value.len()).next_multiple_of(4);
        }
    }

    /// Where the chunks of the file at `at` are.
    pub(super) fn chunks(&mut self, at: usize, chunks: &[Chunk]) {
        for (index, chunk) in chunks.iter().enumerate() {
            let at = at + INODE_BYTES + index * CHUNK_INDEX_BYTES;
            self.put(at + 2, &chunk.device.to_le_bytes());
            self.put(at + 4, &chunk.block.to_le_bytes());
        }
    }

    /// The entries of a directory, sorted by name.
    pub(super) fn directory(&mut self, at: usize, entries: &[Dirent<'_>]) {
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
                self.put(at, &number(entry.inode_at).to_le_bytes());
                let name_offset = u16::try_from(name_at).unwrap_or_default();
                self.put(at + 8, &name_offset.to_le_bytes());
                self.put(at + 10, &[entry.kind.dirent_type()]);
                self.put(block_at + name_at, entry.name);
                name_at += entry.name.len();
            }
            block_at += BLOCK_BYTES;
            rest = later;
        }
    }

    /// The superblock of an image with so many inodes, the root's at `root_at`. The table of its devices, if it has any,
    /// is at `devices_at`, which is a multiple of their size.
    pub(super) fn superblock(&mut self, root_at: usize, inodes: usize, device_count: u16, devices_at: usize) {
        let at = SUPERBLOCK_AT;
        let blocks = u32::try_from(self.bytes.len() / BLOCK_BYTES).unwrap_or(NOWHERE);
        self.put(at, &MAGIC.to_le_bytes());
        self.put(at + 12, &[BLOCK_BITS]);
        // The root is the first inode, so its number is small.
        let root = u16::try_from(number(root_at)).unwrap_or_default();
        self.put(at + 14, &root.to_le_bytes());
        self.put(at + 16, &(inodes as u64).to_le_bytes());
        self.put(at + 36, &blocks.to_le_bytes());
        if device_count > 0 {
            let slot = u16::try_from(devices_at / DEVICE_BYTES).unwrap_or_default();
            self.put(at + 80, &(INCOMPATIBLE_CHUNKS | INCOMPATIBLE_DEVICES).to_le_bytes());
            self.put(at + 86, &device_count.to_le_bytes());
            self.put(at + 88, &slot.to_le_bytes());
        }
    }

    /// How many blocks a device has, in its place in the table.
    pub(super) fn device(&mut self, devices_at: usize, index: usize, blocks: u32) {
        self.put(devices_at + index * DEVICE_BYTES + 64, &blocks.to_le_bytes());
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The place of a table of so many devices from `at` on, and where it ends.
pub(super) fn device_table(at: usize, count: usize) -> (usize, usize) {
    let at = at.next_multiple_of(DEVICE_BYTES);
    (at, at + count * DEVICE_BYTES)
}

impl Kind {
    /// In directory entries.
    fn dirent_type(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Symlink => 7,
        }
    }
}

fn number(inode_at: usize) -> u64 {
    (inode_at / SLOT_BYTES) as u64
}
