//! Writes the files that look different at each prefix as an EROFS image of their own.
//!
//! Of a large binary only the chunks that are patched are in the image; for all others the kernel is pointed into the
//! stored object, which it opens as a device of the image. So what a prefix costs is some kilobytes, made in less than a
//! millisecond, and not the size of an interpreter and its library.

use std::collections::BTreeMap;
use std::ops::Range;

use envfs_store::cache::content_path;
use envfs_store::digest::Digest;
use envfs_store::tree::NodeId;
use envfs_store::view::{OpenFile, View};

use super::format::{self, BLOCK_BYTES, Chunk, Content, DOTS, Dirent, EntrySizes, INODE_BYTES, INODES_AT, Image, Kind};

/// A chunk has so many blocks, as a power of two. A binary has one or two patched strings and some megabytes: smaller
/// chunks have a longer index, larger ones repeat more of the object.
const CHUNK_BITS: u8 = 2;
const CHUNK_BLOCKS: u64 = 1 << CHUNK_BITS;
const CHUNK_BYTES: u64 = CHUNK_BLOCKS * BLOCK_BYTES as u64;

/// Each device is a file that the kernel holds open. Of further binaries all bytes are in the image.
const MAX_DEVICES: usize = 256;

/// What nobody sees: overlayfs takes the attributes of files from the names.
const MODE_FILE: u16 = 0o444;
const MODE_DIRECTORY: u16 = 0o555;

/// An image, and the objects that are its devices, in their order.
pub(crate) struct Written {
    pub(crate) bytes: Vec<u8>,
    pub(crate) devices: Vec<Digest>,
    /// What is wrong with files that are left out.
    pub(crate) lost: Vec<envfs_store::Error>,
}

/// One file of the image.
struct Member {
    name: Vec<u8>,
    file: OpenFile,
    /// The device that holds what is not patched, if there is one.
    device: Option<u16>,
    at: usize,
    /// Where its own bytes start: all of them, or those of its patched chunks.
    data_at: usize,
}

/// Writes the files `patched` as `view` sees them, each where [`content_path`] says.
///
/// # Errors
/// When the tree is damaged or the store cannot be read. What is missing is left out and told.
pub(crate) fn write(view: &View, patched: &[NodeId]) -> envfs_store::Result<Written> {
    let mut collected = Collected::default();
    for &id in patched {
        collected.add(view, id)?;
    }
    let Collected { parts, devices, lost } = collected;
    let mut layout = Layout::of(parts);
    let device_count = u16::try_from(devices.len()).unwrap_or(u16::MAX);
    let (devices_at, end) = format::device_table(layout.end, devices.len());
    let total_bytes = layout.place_data(end);
    let mut image = Image {
        bytes: vec![0; total_bytes],
    };
    for (index, &blocks) in devices.iter().map(|(_, blocks)| blocks).enumerate() {
        image.device(devices_at, index, blocks);
    }
    let inodes = layout.put(&mut image)?;
    image.superblock(layout.root.at, inodes, device_count, devices_at);
    Ok(Written {
        bytes: image.bytes,
        devices: devices.into_iter().map(|(digest, _)| digest).collect(),
        lost,
    })
}

/// The files by directory and name, and the devices they need.
#[derive(Default)]
struct Collected {
    parts: BTreeMap<String, BTreeMap<Vec<u8>, Member>>,
    devices: Vec<(Digest, u32)>,
    lost: Vec<envfs_store::Error>,
}

impl Collected {
    fn add(&mut self, view: &View, id: NodeId) -> envfs_store::Result<()> {
        let node = view.tree().node(id)?;
        let path = content_path(node)?;
        let (part, name) = path.split_once('/').unwrap_or_default();
        let members = self.parts.entry(part.to_owned()).or_default();
        if members.contains_key(name.as_bytes()) {
            return Ok(());
        }
        let file = match view.open(node) {
            Ok(file) => file,
            Err(error @ (envfs_store::Error::Missing { .. } | envfs_store::Error::Corrupt { .. })) => {
                self.lost.push(error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let is_shared = file.stored_object().is_some() && file.size_bytes() == node.stored_bytes();
        let device = if is_shared && self.devices.len() < MAX_DEVICES {
            let blocks = u32::try_from(node.stored_bytes().div_ceil(BLOCK_BYTES as u64)).unwrap_or(u32::MAX);
            self.devices.push((node.digest(), blocks));
            // The image itself has the number 0.
            u16::try_from(self.devices.len()).ok()
        } else {
            None
        };
        let member = Member {
            name: name.as_bytes().to_owned(),
            file,
            device,
            at: 0,
            data_at: 0,
        };
        members.insert(name.as_bytes().to_owned(), member);
        Ok(())
    }
}

impl Member {
    fn chunks(&self) -> impl Iterator<Item = Range<u64>> {
        let size_bytes = self.file.size_bytes();
        (0..size_bytes.div_ceil(CHUNK_BYTES))
            .map(move |chunk| chunk * CHUNK_BYTES..((chunk + 1) * CHUNK_BYTES).min(size_bytes))
    }

    fn own_bytes(&self) -> u64 {
        match self.device {
            None => self.file.size_bytes(),
            Some(_) => self.chunks().filter(|chunk| !self.is_shared(chunk)).count() as u64 * CHUNK_BYTES,
        }
    }

    /// Whether a chunk can be read from the object: the kernel reads whole blocks, so not the end of one.
    fn is_shared(&self, chunk: &Range<u64>) -> bool {
        chunk.end.is_multiple_of(BLOCK_BYTES as u64) && self.file.is_stored(chunk)
    }

    fn index_bytes(&self) -> usize {
        self.device
            .map_or(0, |_| format::chunk_index_bytes(self.chunks().count()))
    }

    fn put(&self, image: &mut Image) -> envfs_store::Result<()> {
        let content = match self.device {
            None => Content::Blocks(self.data_at),
            Some(_) => Content::Chunks(CHUNK_BITS),
        };
        let size_bytes = self.file.size_bytes();
        image.inode(self.at, &inode(Kind::File, content, MODE_FILE, size_bytes));
        let Some(device) = self.device else {
            let end = self.data_at + usize::try_from(size_bytes).unwrap_or(usize::MAX);
            self.file.read_at(0, &mut image.bytes[self.data_at..end])?;
            return Ok(());
        };
        let mut own_at = self.data_at;
        let mut chunks = Vec::new();
        for range in self.chunks() {
            if self.is_shared(&range) {
                let block = u32::try_from(range.start / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
                chunks.push(Chunk { device, block });
                continue;
            }
            let block = u32::try_from(own_at / BLOCK_BYTES).unwrap_or(u32::MAX);
            chunks.push(Chunk { device: 0, block });
            let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            self.file
                .read_at(range.start, &mut image.bytes[own_at..own_at + bytes])?;
            own_at += usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
        }
        image.chunks(self.at, &chunks);
        Ok(())
    }
}

/// A directory, and where it is.
struct Place {
    at: usize,
    entries_at: usize,
    entries_bytes: usize,
}

struct Layout {
    root: Place,
    parts: Vec<(String, Place, Vec<Member>)>,
    /// Where what follows the inodes may begin.
    end: usize,
}

impl Layout {
    fn of(parts: BTreeMap<String, BTreeMap<Vec<u8>, Member>>) -> Self {
        let mut at = INODES_AT;
        let mut place_directory = |names: &mut dyn Iterator<Item = usize>| {
            let mut sizes = EntrySizes::default();
            DOTS.iter()
                .map(|dot| dot.len())
                .chain(names)
                .for_each(|len| sizes.add(len));
            let place = Place {
                at: format::place(at, 0),
                entries_at: 0,
                entries_bytes: sizes.total_bytes(),
            };
            at = place.at + INODE_BYTES;
            place
        };
        let root = place_directory(&mut parts.keys().map(String::len));
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|(name, members)| {
                let place = place_directory(&mut members.keys().map(Vec::len));
                (name, place, members.into_values().collect::<Vec<_>>())
            })
            .collect();
        for member in parts.iter_mut().flat_map(|(_, _, members)| members) {
            member.at = format::place(at, 0);
            at = member.at + INODE_BYTES + member.index_bytes();
        }
        Self { root, parts, end: at }
    }

    /// Gives everything in blocks its place from `at` on, and returns the size of the image.
    fn place_data(&mut self, at: usize) -> usize {
        let mut at = at;
        let mut take = |bytes: usize| {
            let start = at.next_multiple_of(BLOCK_BYTES);
            at = start + bytes;
            start
        };
        self.root.entries_at = take(self.root.entries_bytes);
        for (_, place, members) in &mut self.parts {
            place.entries_at = take(place.entries_bytes);
            for member in members {
                member.data_at = take(usize::try_from(member.own_bytes()).unwrap_or(usize::MAX));
            }
        }
        at.next_multiple_of(BLOCK_BYTES)
    }

    /// Puts everything in its place, and returns how many inodes there are.
    fn put(&self, image: &mut Image) -> envfs_store::Result<usize> {
        let mut inodes = 1;
        let names = self
            .parts
            .iter()
            .map(|(name, place, _)| (place.at, Kind::Directory, name.as_bytes()));
        put_directory(image, &self.root, self.root.at, names);
        for (_, place, members) in &self.parts {
            inodes += 1 + members.len();
            let names = members
                .iter()
                .map(|member| (member.at, Kind::File, member.name.as_slice()));
            put_directory(image, place, self.root.at, names);
            for member in members {
                member.put(image)?;
            }
        }
        Ok(inodes)
    }
}

/// Names of files and parts are hexadecimal or letters, which `.` and `..` precede.
fn put_directory<'a>(
    image: &mut Image,
    place: &Place,
    parent_at: usize,
    names: impl Iterator<Item = (usize, Kind, &'a [u8])>,
) {
    let content = Content::Blocks(place.entries_at);
    let described = inode(Kind::Directory, content, MODE_DIRECTORY, place.entries_bytes as u64);
    image.inode(place.at, &described);
    let dots = [
        (place.at, Kind::Directory, DOTS[0]),
        (parent_at, Kind::Directory, DOTS[1]),
    ];
    let entries: Vec<_> = dots
        .into_iter()
        .chain(names)
        .map(|(inode_at, kind, name)| Dirent { inode_at, kind, name })
        .collect();
    image.directory(place.entries_at, &entries);
}

fn inode(kind: Kind, content: Content, mode: u16, size_bytes: u64) -> format::Inode {
    format::Inode {
        kind,
        content,
        mode,
        size_bytes,
        number: 0,
        mtime_s: 0,
        links: if kind == Kind::Directory { 2 } else { 1 },
    }
}
