//! The files of one package archive, sorted: what an ingest leaves behind besides the objects.
//!
//! A layer is a pure function of its archive, named by the archive's SHA-256. It says nothing of environments: where
//! `site-packages` goes, who wins a clash, and what an entry point looks like is decided when layers are merged.
//! Its bytes are drawn in `docs/format.md`, "layer".

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use crate::digest::{Digest, Sha256};
use crate::durable;
use crate::error::{Error, Result};
use crate::path::EnvPath;
use crate::placeholder::Placeholder;
use crate::store::{Location, Secured, Store};
use crate::trash;
use crate::wire::{self, Reader, Writer};
use crate::workspace::Workspace;

/// The first bytes of every layer, with the version. A reader refuses any other.
const MAGIC: [u8; 8] = *b"envfsly1";

/// The smallest entry: path length, kind and time. Bounds what a damaged count can make a reader allocate.
const MIN_ENTRY_BYTES: usize = 4 + 1 + 8;

/// The files of one package archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The archive's digest, which is the layer's name.
    pub archive: Sha256,
    /// Metadata files of the archive that later steps need, by name (for conda `index.json`, `link.json`).
    pub info: BTreeMap<String, Vec<u8>>,
    /// The modification time of files whose placeholder was replaced, in seconds since 1970-01-01 UTC.
    pub patched_mtime_s: i64,
    /// The files, sorted by path.
    pub entries: Vec<Entry>,
}

/// One file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the archive.
    pub path: EnvPath,
    /// Modification time in seconds since 1970-01-01 UTC.
    pub mtime_s: i64,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory that has to exist even if it is empty.
    Directory,
    /// A regular file.
    File(FileEntry),
    /// A symbolic link and where it points, byte for byte.
    Symlink(Vec<u8>),
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// The name of its bytes.
    pub digest: Digest,
    /// The digest that the package's own metadata gives, where it gives one.
    pub sha256: Option<Sha256>,
    /// Its size.
    pub size_bytes: u64,
    /// Whether any execute bit was set.
    pub executable: bool,
    /// The prefix placeholder that the package's metadata announces, with all places where it stands (which may
    /// be none).
    pub placeholder: Option<Placeholder>,
}

impl Store {
    /// The layer of the archive with this SHA-256, if it was ingested.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn layer(&self, archive: &Sha256) -> Result<Option<Layer>> {
        let path = self.layer_path(archive);
        match fs::read(&path) {
            Ok(bytes) => {
                // A build that uses it may mount its files before any record refers to them: within the grace of a
                // collection it stays, with its objects.
                let _ = durable::touch(&self.path(&layer_name(archive)));
                Layer::read(&path, &bytes).map(Some)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.restore_layer(archive),
            Err(source) => Err(Error::Io {
                action: "read",
                path,
                source,
            }),
        }
    }

    /// The layer, if a collection has moved it aside and all its objects are still there: they come back first.
    fn restore_layer(&self, archive: &Sha256) -> Result<Option<Layer>> {
        let Some(aside) = trash::find(self.root(), "layers", &archive.to_string()) else {
            return Ok(None);
        };
        let _shared = self.share()?;
        let Ok(bytes) = fs::read(&aside) else {
            // Somebody else has put it back meanwhile, or it is gone.
            let path = self.layer_path(archive);
            return fs::read(&path).map_or(Ok(None), |bytes| Layer::read(&path, &bytes).map(Some));
        };
        let layer = Layer::read(&aside, &bytes)?;
        let is_whole = layer.secure(self).is_ok();
        Ok(Some(layer).filter(|_| is_whole && trash::restore(self.root(), "layers", &self.layer_path(archive))))
    }

    /// The layer called `name`, which something refers to.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn require_layer(&self, name: &Sha256) -> Result<Layer> {
        self.layer(name)?.ok_or_else(|| self.missing("layer", name.to_string()))
    }

    /// Whether the archive with this SHA-256 was ingested.
    #[must_use]
    pub fn has_layer(&self, archive: &Sha256) -> bool {
        self.layer_path(archive).exists() || matches!(self.restore_layer(archive), Ok(Some(_)))
    }

    pub(crate) fn layer_path(&self, archive: &Sha256) -> PathBuf {
        self.find(&layer_name(archive))
    }
}

fn layer_name(archive: &Sha256) -> String {
    format!("layers/{archive}")
}

impl Layer {
    /// Makes the layer durable under its name. Its objects must be.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn publish(&self, store: &Store, workspace: &Workspace) -> Result<u64> {
        let bytes = self.to_bytes();
        let _shared = store.share()?;
        self.secure(store)?;
        durable::write(workspace.path(), &store.path(&layer_name(&self.archive)), &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// The objects of its files, with their sizes.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.entries.iter().filter_map(|entry| match &entry.kind {
            EntryKind::File(file) => Some((file.digest, file.size_bytes)),
            EntryKind::Directory | EntryKind::Symlink(_) => None,
        })
    }

    /// The layer named by what it says itself, for files that come from no archive: by the SHA-256 of its own bytes, with
    /// zeros for its name.
    #[must_use]
    pub fn named_by_itself(mut self) -> Self {
        self.archive = Sha256::from_bytes([0; 32]);
        self.archive = Sha256::from_bytes(sha2::Sha256::digest(self.to_bytes()).into());
        self
    }

    /// Makes sure that all its objects are in their places.
    fn secure(&self, store: &Store) -> Result<()> {
        let mut secured = Secured::default();
        self.objects()
            .try_for_each(|(digest, _)| store.secure_object(&digest, Location::Object, &mut secured))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&MAGIC);
        out.raw(self.archive.as_bytes());
        out.i64(self.patched_mtime_s);
        out.count(self.info.len());
        for (name, content) in &self.info {
            out.bytes(name.as_bytes());
            out.bytes(content);
        }
        out.count(self.entries.len());
        for entry in &self.entries {
            entry.write(&mut out);
        }
        wire::with_digest(out.finish())
    }

    /// Reads the bytes of the layer file at `path`.
    ///
    /// # Errors
    /// When they are not a layer, or not the one they were.
    pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| Error::corrupt(path, what);
        let content =
            wire::without_digest(bytes).ok_or_else(|| corrupt("its bytes are not those that were written"))?;
        let mut fields = Reader::new(content);
        if fields.array() != Some(MAGIC) {
            return Err(corrupt("it does not start as a layer does"));
        }
        Self::read_fields(&mut fields)
            .filter(|_| fields.is_empty())
            .ok_or_else(|| corrupt("a field is cut off or out of range"))
    }

    fn read_fields(fields: &mut Reader<'_>) -> Option<Self> {
        let archive = Sha256::from_bytes(fields.array()?);
        let patched_mtime_s = fields.i64()?;
        let info = (0..fields.count(8)?)
            .map(|_| Some((fields.string()?, fields.bytes()?.to_owned())))
            .collect::<Option<_>>()?;
        let entries = (0..fields.count(MIN_ENTRY_BYTES)?)
            .map(|_| Entry::read(fields))
            .collect::<Option<_>>()?;
        Some(Self {
            archive,
            info,
            patched_mtime_s,
            entries,
        })
    }
}

/// Bits of the flags of a file entry.
const EXECUTABLE: u8 = 1;
const HAS_SHA256: u8 = 2;
const HAS_PLACEHOLDER: u8 = 4;

impl Entry {
    fn write(&self, out: &mut Writer) {
        out.bytes(self.path.as_bytes());
        out.i64(self.mtime_s);
        match &self.kind {
            EntryKind::Directory => out.u8(1),
            EntryKind::File(file) => {
                out.u8(2);
                out.u8(u8::from(file.executable) * EXECUTABLE
                    + u8::from(file.sha256.is_some()) * HAS_SHA256
                    + u8::from(file.placeholder.is_some()) * HAS_PLACEHOLDER);
                out.raw(file.digest.as_bytes());
                out.u64(file.size_bytes);
                if let Some(sha256) = &file.sha256 {
                    out.raw(sha256.as_bytes());
                }
                if let Some(placeholder) = &file.placeholder {
                    placeholder.write(out);
                }
            }
            EntryKind::Symlink(target) => {
                out.u8(3);
                out.bytes(target);
            }
        }
    }

    fn read(fields: &mut Reader<'_>) -> Option<Self> {
        let path = EnvPath::parse(fields.bytes()?).ok()?;
        let mtime_s = fields.i64()?;
        let kind = match fields.u8()? {
            1 => EntryKind::Directory,
            2 => {
                let flags = fields.u8()?;
                EntryKind::File(FileEntry {
                    digest: Digest::from_bytes(fields.array()?),
                    size_bytes: fields.u64()?,
                    executable: flags & EXECUTABLE != 0,
                    sha256: match flags & HAS_SHA256 {
                        0 => None,
                        _ => Some(Sha256::from_bytes(fields.array()?)),
                    },
                    placeholder: match flags & HAS_PLACEHOLDER {
                        0 => None,
                        _ => Some(Placeholder::read(fields)?),
                    },
                })
            }
            3 => EntryKind::Symlink(fields.bytes()?.to_owned()),
            _ => return None,
        };
        Some(Self { path, mtime_s, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placeholder::Occurrences;

    fn sample() -> Layer {
        let entry = |path: &str, kind| Entry {
            path: EnvPath::parse(path).unwrap(),
            mtime_s: 1_700_000_000,
            kind,
        };
        Layer {
            archive: Sha256::from_bytes([7; 32]),
            info: BTreeMap::from([("index.json".into(), b"{}".to_vec())]),
            patched_mtime_s: 5,
            entries: vec![
                entry(
                    "bin/x",
                    EntryKind::File(FileEntry {
                        digest: Digest::of(b"x"),
                        sha256: Some(Sha256::from_bytes([1; 32])),
                        size_bytes: 1,
                        executable: true,
                        placeholder: Some(Placeholder {
                            prefix: "/p".into(),
                            occurrences: Occurrences::Text {
                                shebang: b"#!/p/bin/sh\n".to_vec(),
                                occurrences: Vec::new(),
                            },
                        }),
                    }),
                ),
                entry("empty", EntryKind::Directory),
                entry("l", EntryKind::Symlink(b"bin/x".to_vec())),
            ],
        }
    }

    #[test]
    fn layers_survive_and_damage_is_seen() {
        let bytes = sample().to_bytes();
        let path = Path::new("layer");
        assert_eq!(Layer::read(path, &bytes).unwrap(), sample());
        for len in 0..bytes.len() {
            assert!(Layer::read(path, &bytes[..len]).is_err(), "cut at {len}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Layer::read(path, &flipped).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        // The digest would refuse these; what is behind it must stand on its own.
        let bytes = sample().to_bytes();
        let content = &bytes[8..bytes.len() - 32];
        for at in 0..content.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut changed = content.to_vec();
                changed[at] = value;
                let _ = Layer::read_fields(&mut Reader::new(&changed));
            }
        }
    }
}
