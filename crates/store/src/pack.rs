//! Many small objects in one immutable file; its bytes are drawn in `docs/format.md`, "pack".
//!
//! 97 % of the files in a Python environment are below 64 KiB. One file and one sync for all of an ingest's small
//! objects makes durable cost what careless costs elsewhere, and takes one inode.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::digest::Digest;
use crate::durable::Draft;
use crate::error::{Error, IoContext, Result};
use crate::wire::{Reader, Writer};

/// The first bytes of every pack, with the version. A reader refuses any other, so a change of what follows needs
/// a new number.
const MAGIC: [u8; 8] = *b"envfspk1";

/// The last bytes of every pack. Without them the pack was cut off.
const END_MAGIC: [u8; 8] = *b"1kpsfvne";

/// Objects start at multiples of this many bytes: a cache line. Changing it breaks no reader.
const ALIGNMENT_BYTES: u64 = 64;

/// Files of this many bytes and more are kept whole, so that the kernel can map them and read them itself;
/// smaller ones go into packs. Another value changes where new objects go, never how old ones are found.
pub const MIN_WHOLE_BYTES: usize = 128 * 1024;

/// No object in a pack is larger.
pub(crate) const MAX_PACKED_BYTES: usize = MIN_WHOLE_BYTES - 1;

/// An entry of the index: digest, offset, size.
const ENTRY_BYTES: usize = 32 + 8 + 4;

/// What follows the index: its digest, its offset, its number of entries, the closing magic.
const FOOTER_BYTES: usize = 32 + 8 + 4 + 8;

/// One object in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    /// Its name.
    pub digest: Digest,
    /// Where it starts, in bytes from the start of the pack.
    pub offset_bytes: u64,
    /// Its size.
    pub size_bytes: u32,
}

/// What an object of so many bytes takes in a pack: its bytes, what they are padded with, and its place in the index.
pub(crate) fn packed_bytes(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(ALIGNMENT_BYTES) + ENTRY_BYTES as u64
}

/// A pack that is being written.
pub(crate) struct PackWriter {
    draft: Draft,
    buffer: Vec<u8>,
    position: u64,
    entries: Vec<PackEntry>,
}

/// A pack that is complete and synced, and has no name yet.
pub(crate) struct SealedPack {
    pub(crate) draft: Draft,
    pub(crate) id: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) entries: Vec<PackEntry>,
}

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;

impl PackWriter {
    pub(crate) fn create(workspace: &Path) -> Result<Self> {
        let draft = Draft::create(workspace)?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + BUFFER_BYTES / 4);
        buffer.extend(MAGIC);
        Ok(Self {
            draft,
            buffer,
            position: MAGIC.len() as u64,
            entries: Vec::new(),
        })
    }

    /// Appends an object and returns where it starts.
    pub(crate) fn append(&mut self, digest: Digest, bytes: &[u8]) -> Result<u64> {
        let offset = self.position.next_multiple_of(ALIGNMENT_BYTES);
        let padding = usize::try_from(offset - self.position).expect("less than an alignment");
        self.buffer.resize(self.buffer.len() + padding, 0);
        self.buffer.extend(bytes);
        self.position = offset + bytes.len() as u64;
        self.entries.push(PackEntry {
            digest,
            offset_bytes: offset,
            size_bytes: u32::try_from(bytes.len()).expect("small objects go into packs"),
        });
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(offset)
    }

    /// Reads back an object that was appended.
    pub(crate) fn read_back(&mut self, offset: u64, size_bytes: u64) -> Result<Vec<u8>> {
        self.flush()?;
        let mut bytes = vec![0; usize::try_from(size_bytes).expect("small objects go into packs")];
        self.draft
            .file()
            .read_exact_at(&mut bytes, offset)
            .at("read", self.draft.path())?;
        Ok(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes the index and syncs the file. The id of the pack is the digest of its index, which names every
    /// object in it by digest.
    pub(crate) fn seal(mut self) -> Result<SealedPack> {
        self.entries.sort_unstable_by_key(|entry| entry.digest);
        let index = index_of(&self.entries);
        let id = Digest::of(&index);
        let mut footer = Writer::default();
        footer.raw(id.as_bytes());
        footer.u64(self.position);
        footer.count(self.entries.len());
        footer.raw(&END_MAGIC);
        self.buffer.extend(&index);
        self.buffer.extend(footer.finish());
        self.flush()?;
        self.draft.sync()?;
        Ok(SealedPack {
            size_bytes: self.position + (index.len() + FOOTER_BYTES) as u64,
            draft: self.draft,
            id,
            entries: self.entries,
        })
    }

    fn flush(&mut self) -> Result<()> {
        self.draft.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// The bytes of an index, whose entries are sorted by their digests.
fn index_of(entries: &[PackEntry]) -> Vec<u8> {
    let mut index = Writer::default();
    for entry in entries {
        index.raw(entry.digest.as_bytes());
        index.u64(entry.offset_bytes);
        index.u32(entry.size_bytes);
    }
    index.finish()
}

/// The id of the pack that holds just these objects, in whatever order they are told.
pub(crate) fn id_of(entries: &mut [PackEntry]) -> Digest {
    entries.sort_unstable_by_key(|entry| entry.digest);
    Digest::of(&index_of(entries))
}

/// What is wrong in a pack whose index is right.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// The objects that are not what their names say.
    pub(crate) objects: Vec<PackEntry>,
    /// What else is not as it was written.
    pub(crate) what: Option<String>,
}

/// Checks every byte of the pack at `path`, which is called `id`.
///
/// # Errors
/// When the file cannot be read, or its index is not that of the pack called so: then nothing in it can be told apart.
pub(crate) fn check(path: &Path, id: &Digest) -> Result<Damage> {
    let mut entries = read_index(path)?;
    if id_of(&mut entries) != *id {
        return Err(Error::corrupt(path, "its index is that of another pack"));
    }
    entries.sort_unstable_by_key(|entry| (entry.offset_bytes, entry.size_bytes));
    let file = File::open(path).at("open", path)?;
    let mut damage = Damage::default();
    let mut wrong = |what: &str| damage.what = Some(what.to_owned());
    let mut bytes = vec![0; MAGIC.len()];
    file.read_exact_at(&mut bytes, 0).at("read", path)?;
    if bytes != MAGIC {
        wrong("it does not start as a pack does");
    }
    let mut position = MAGIC.len() as u64;
    for entry in entries {
        match entry.offset_bytes.checked_sub(position) {
            Some(padding @ 0..ALIGNMENT_BYTES) => {
                bytes.resize(usize::try_from(padding).unwrap_or(0), 0);
                file.read_exact_at(&mut bytes, position).at("read", path)?;
                if bytes.iter().any(|byte| *byte != 0) {
                    wrong("something stands between its objects");
                }
            }
            _ => wrong("its objects are not one behind the other"),
        }
        if read_object(&file, &entry).is_none() {
            damage.objects.push(entry);
        }
        position = entry.offset_bytes.saturating_add(u64::from(entry.size_bytes));
    }
    Ok(damage)
}

/// The bytes of an object of the pack in `file`, if they are what its name says.
pub(crate) fn read_object(file: &File, entry: &PackEntry) -> Option<Vec<u8>> {
    let size_bytes = entry.size_bytes as usize;
    if size_bytes > MAX_PACKED_BYTES {
        return None;
    }
    let mut bytes = vec![0; size_bytes];
    file.read_exact_at(&mut bytes, entry.offset_bytes).ok()?;
    (Digest::of(&bytes) == entry.digest).then_some(bytes)
}

/// Reads the index of the pack at `path`.
///
/// # Errors
/// When the file cannot be read, is cut off, or its index is not the one its footer names.
pub(crate) fn read_index(path: &Path) -> Result<Vec<PackEntry>> {
    let file = File::open(path).at("open", path)?;
    let len = file.metadata().at("inspect", path)?.len();
    let mut footer = [0; FOOTER_BYTES];
    let footer_at = len
        .checked_sub(FOOTER_BYTES as u64)
        .ok_or_else(|| Error::corrupt(path, "it is cut off"))?;
    file.read_exact_at(&mut footer, footer_at).at("read", path)?;
    let mut fields = Reader::new(&footer);
    let parsed = (|| Some((fields.array()?, fields.u64()?, fields.u32()?, fields.array::<8>()?)))();
    let Some((id, index_at, count, END_MAGIC)) = parsed else {
        return Err(Error::corrupt(path, "it does not end as a pack does"));
    };
    let index_bytes = u64::from(count) * ENTRY_BYTES as u64;
    if index_at.checked_add(index_bytes) != Some(footer_at) {
        return Err(Error::corrupt(path, "its index is not where its footer says"));
    }
    let mut index = vec![0; usize::try_from(index_bytes).map_err(|_| Error::corrupt(path, "its index is too large"))?];
    file.read_exact_at(&mut index, index_at).at("read", path)?;
    if Digest::of(&index) != Digest::from_bytes(id) {
        return Err(Error::corrupt(path, "its index is not the one its footer names"));
    }
    let mut entries = Reader::new(&index);
    let parsed: Option<Vec<_>> = (0..count)
        .map(|_| {
            Some(PackEntry {
                digest: Digest::from_bytes(entries.array()?),
                offset_bytes: entries.u64()?,
                size_bytes: entries.u32()?,
            })
        })
        .collect();
    parsed.ok_or_else(|| Error::corrupt(path, "its index is cut off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_found_and_damage_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = PackWriter::create(directory.path()).unwrap();
        let contents: Vec<Vec<u8>> = (0..50u8).map(|n| vec![n; usize::from(n) * 7]).collect();
        for content in &contents {
            writer.append(Digest::of(content), content).unwrap();
        }
        let sealed = writer.seal().unwrap();
        let path = directory.path().join("a.pack");
        sealed.draft.publish(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, sealed.size_bytes);
        let index = read_index(&path).unwrap();
        assert_eq!(index, sealed.entries);
        for entry in index {
            let start = usize::try_from(entry.offset_bytes).unwrap();
            assert_eq!(entry.offset_bytes % ALIGNMENT_BYTES, 0);
            assert_eq!(
                Digest::of(&bytes[start..start + entry.size_bytes as usize]),
                entry.digest
            );
        }
        for cut in [0, 10, bytes.len() - 1] {
            std::fs::write(directory.path().join("b.pack"), &bytes[..cut]).unwrap();
            assert!(read_index(&directory.path().join("b.pack")).is_err(), "cut at {cut}");
        }
        let mut flipped = bytes;
        let last_entry = flipped.len() - FOOTER_BYTES - 3;
        flipped[last_entry] ^= 1;
        std::fs::write(directory.path().join("c.pack"), &flipped).unwrap();
        assert!(read_index(&directory.path().join("c.pack")).is_err());
    }
}
