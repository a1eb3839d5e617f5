//! Listings, as the kernel reads them: lines one after the other, each padded, as many as it has room for.

use zerocopy::IntoBytes;

use super::wire::{FUSE_DIRENT_ALIGN, fuse_dirent, fuse_direntplus, fuse_entry_out};

/// The kernel asks for less at once; this bounds what a message could make us keep.
const MAX_LISTING_BYTES: usize = 1 << 20;

/// Lines of a directory on their way to the kernel.
pub(crate) struct Listing<'a> {
    bytes: &'a mut Vec<u8>,
    limit: usize,
}

/// A line without what the name stands for.
pub(crate) struct Line<'a> {
    pub(crate) inode: u64,
    /// Where the line after this one starts.
    pub(crate) next_offset: u64,
    /// The type of the file, as `S_IFMT` of its mode has it, shifted as `d_type` of getdents(2) is.
    pub(crate) kind: u32,
    pub(crate) name: &'a [u8],
}

impl<'a> Listing<'a> {
    /// One that takes at most `size` bytes, in `bytes`, which is emptied.
    pub(crate) fn new(bytes: &'a mut Vec<u8>, size: u32) -> Self {
        bytes.clear();
        let limit = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_LISTING_BYTES);
        Self { bytes, limit }
    }

    /// Adds a line. False if there is no room for it.
    pub(crate) fn add(&mut self, line: &Line<'_>) -> bool {
        self.push(dirent(line).as_bytes(), line.name)
    }

    /// Adds a line with what the name stands for. False if there is no room for it.
    pub(crate) fn add_plus(&mut self, line: &Line<'_>, entry: fuse_entry_out) -> bool {
        let fixed = fuse_direntplus {
            entry_out: entry,
            dirent: dirent(line),
        };
        self.push(fixed.as_bytes(), line.name)
    }

    fn push(&mut self, fixed: &[u8], name: &[u8]) -> bool {
        let end = self.bytes.len() + (fixed.len() + name.len()).next_multiple_of(FUSE_DIRENT_ALIGN);
        if end > self.limit {
            return false;
        }
        self.bytes.extend_from_slice(fixed);
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }
}

fn dirent(line: &Line<'_>) -> fuse_dirent {
    fuse_dirent {
        ino: line.inode,
        off: line.next_offset,
        namelen: u32::try_from(line.name.len()).unwrap_or(u32::MAX),
        type_: line.kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_padded_and_stop_where_there_is_no_room() {
        let line = Line {
            inode: 2,
            next_offset: 3,
            kind: 8,
            name: b"python",
        };
        let mut bytes = vec![1; 9];
        let mut listing = Listing::new(&mut bytes, 70);
        assert!(listing.add(&line));
        assert!(listing.add(&line));
        assert!(!listing.add(&line));
        assert_eq!(bytes.len(), 64);
        assert_eq!(&bytes[24..32], b"python\0\0");
        assert_eq!(bytes[..8], 2u64.to_ne_bytes());
        assert_eq!(bytes[8..16], 3u64.to_ne_bytes());
        assert_eq!(bytes[16..24], [6, 0, 0, 0, 8, 0, 0, 0]);
    }
}
