//! Packs unpacked into directories of whole files.
//!
//! A pack holds the small files of one archive in their order, and so does its directory: files that are used together
//! get inodes and blocks that are neighbours, so that a cold start reads them in few pieces. The directory appears
//! all at once, so that whether it is there says whether all of it is; one that says that it is incomplete is looked through for
//! each tree, because each needs other files of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::digest::Digest;
use crate::durable::{self, Draft, DraftDirectory};
use crate::error::{Error, IoContext, Result};
use crate::pack::{self, PackEntry};
use crate::store::{Location, ObjectBytes, Store};

/// How many digits of a pack's id name its directory.
const DIRECTORY_DIGITS: usize = 16;

/// What a directory holds besides, if it was made without some files of its pack.
const INCOMPLETE: &str = "incomplete";

/// How much of a pack is read at once.
const READ_BYTES: u64 = 1 << 20;

/// A small file that a tree needs: where it is in its pack, and what it is.
pub(super) type Wanted = BTreeMap<(u64, u64), Digest>;

/// What was copied into the cache.
#[derive(Debug, Default)]
pub struct Filled {
    /// How many files were written.
    pub written: u64,
    /// How many bytes they have.
    pub written_bytes: u64,
    /// What is wrong with the objects that could not be copied because they are missing or damaged.
    pub lost: BTreeMap<Digest, Error>,
}

/// What the directory of a pack is called.
pub(super) fn directory(pack: &Digest) -> String {
    pack.to_string()[..DIRECTORY_DIGITS].to_owned()
}

/// What a file in it is called. An empty one starts where the next one does.
pub(super) fn name(offset_bytes: u64, size_bytes: u64) -> String {
    let kind = if size_bytes == 0 { 'e' } else { 'f' };
    format!("{kind}{offset_bytes:010x}")
}

/// Whether some of the files of the directory `place` are known to be missing.
pub(super) fn is_incomplete(place: &Path) -> bool {
    place.join(INCOMPLETE).exists()
}

/// Notes that some of its files are missing: whoever needs them looks for them again.
pub(super) fn set_incomplete(workspace: &Path, place: &Path) -> Result<()> {
    durable::write_evictable(workspace, &place.join(INCOMPLETE), b"")
}

/// Unpacks `pack` into a directory below `small`, unless it is there. Of `wanted`, what is not in the pack any more is
/// looked for elsewhere, and what is missing or damaged is told.
pub(super) fn unpack(
    store: &Store,
    workspace: &Path,
    small: &Path,
    (pack, wanted): (&Digest, &Wanted),
    filled: &mut Filled,
) -> Result<()> {
    let place = small.join(directory(pack));
    if !place.exists() {
        let draft = DraftDirectory::create(workspace)?;
        // A pack that was rewritten or damaged since is no loss yet.
        let entries = pack::read_index(&store.pack_path(pack)).unwrap_or_default();
        let all: Wanted = entries.iter().map(|entry| (place_of(entry), entry.digest)).collect();
        let written = copy_all(store, pack, entries, &draft, filled)?;
        let lacks = |wanted: &Wanted| wanted.iter().any(|(at, digest)| written.get(at) != Some(digest));
        if lacks(&all) || lacks(wanted) {
            draft.write(INCOMPLETE, b"")?;
        }
        draft.publish(&place)?;
    }
    if is_incomplete(&place) {
        complete(store, workspace, &place, (pack, wanted), filled)?;
    }
    Ok(())
}

fn place_of(entry: &PackEntry) -> (u64, u64) {
    (entry.offset_bytes, u64::from(entry.size_bytes))
}

/// Copies what a pack holds and what is what its name says, from front to back.
fn copy_all(
    store: &Store,
    pack: &Digest,
    mut entries: Vec<PackEntry>,
    draft: &DraftDirectory,
    filled: &mut Filled,
) -> Result<Wanted> {
    entries.retain(|entry| entry.size_bytes as usize <= pack::MAX_PACKED_BYTES);
    entries.sort_unstable_by_key(|entry| (entry.offset_bytes, entry.size_bytes));
    let mut written = Wanted::new();
    let path = store.pack_path(pack);
    let mut buffer = Vec::new();
    let mut rest = entries.as_slice();
    if rest.is_empty() {
        return Ok(written);
    }
    let file = match File::open(&path) {
        // Moved by a collection since: its objects are looked for one by one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(written),
        file => file.at("open", &path)?,
    };
    while let Some(first) = rest.first() {
        let start = first.offset_bytes;
        let end = |entry: &PackEntry| entry.offset_bytes.saturating_add(entry.size_bytes.into());
        let count = rest
            .iter()
            .take_while(|entry| end(entry).saturating_sub(start) <= READ_BYTES)
            .count();
        let (now, later) = rest.split_at(count.max(1));
        rest = later;
        let bytes = now.iter().map(end).max().unwrap_or(start).saturating_sub(start);
        buffer.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        if file.read_exact_at(&mut buffer, start).is_err() {
            continue;
        }
        for entry in now {
            let from = usize::try_from(entry.offset_bytes - start).unwrap_or(usize::MAX);
            let content = buffer.get(from..from.saturating_add(entry.size_bytes as usize));
            let Some(content) = content.filter(|content| Digest::of(content) == entry.digest) else {
                continue;
            };
            let at = place_of(entry);
            if written.insert(at, entry.digest).is_none() {
                draft.write(&name(at.0, at.1), content)?;
                filled.count(content.len());
            }
        }
    }
    Ok(written)
}

/// Brings what a directory lacks of `wanted`, from wherever it is now.
fn complete(
    store: &Store,
    workspace: &Path,
    place: &Path,
    (pack, wanted): (&Digest, &Wanted),
    filled: &mut Filled,
) -> Result<()> {
    for (&(offset, size), digest) in wanted {
        let path = place.join(name(offset, size));
        if path.exists() {
            continue;
        }
        let bytes = store
            .open_object(digest, size, Location::Pack(*pack, offset))
            .and_then(|object| match object {
                ObjectBytes::Small(bytes) => Ok(bytes),
                ObjectBytes::Whole(file) => read_whole(&file, &store.object_path(digest), digest, size),
            });
        match bytes {
            Ok(bytes) => {
                let mut draft = Draft::create(workspace)?;
                draft.write_all(&bytes)?;
                draft.publish(&path)?;
                filled.count(bytes.len());
            }
            Err(error) => filled.lose(*digest, error)?,
        }
    }
    Ok(())
}

fn read_whole(file: &File, path: &Path, digest: &Digest, size_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![
        0;
        usize::try_from(size_bytes)
            .unwrap_or(usize::MAX)
            .min(pack::MAX_PACKED_BYTES)
    ];
    file.read_exact_at(&mut bytes, 0).at("read", path)?;
    if Digest::of(&bytes) == *digest {
        Ok(bytes)
    } else {
        Err(Error::corrupt(path, "it is not what its name says"))
    }
}

impl Filled {
    /// Counts a file that was written.
    pub(super) fn count(&mut self, bytes: usize) {
        self.written += 1;
        self.written_bytes += bytes as u64;
    }

    /// Goes on after damage; a disk that fails is no damage.
    pub(super) fn lose(&mut self, digest: Digest, error: Error) -> Result<()> {
        match error {
            Error::Missing { .. } | Error::Corrupt { .. } => {
                self.lost.insert(digest, error);
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Adds what another thread did.
    pub(super) fn add(&mut self, other: Self) {
        self.written += other.written;
        self.written_bytes += other.written_bytes;
        self.lost.extend(other.lost);
    }
}
