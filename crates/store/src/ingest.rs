//! How new bytes enter the store: streamed, hashed, split into objects, made durable together.
//!
//! An [`Ingest`] takes files one after the other. A small file goes into its pack, a large one into a draft of its
//! own; what the store holds already is not written again. Nothing has a name until [`Ingest::publish`], which
//! makes everything durable in the order that readers rely on.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use sha2::Digest as _;

use crate::digest::{Digest, Sha256};
use crate::durable::{self, Draft};
use crate::error::{IoContext, Result};
use crate::pack::{MIN_WHOLE_BYTES, PackWriter};
use crate::store::{Location, Store};
use crate::workspace::Workspace;

/// Whole objects are written in pieces of so many bytes, the size of a huge page. What one write(2) gives it the kernel keeps together in
/// memory, and a program that maps the file faults less often: "100 MB mapped, warm" took 1.01 of ext4's time when it was written
/// as it came, and takes 0.80 (`cargo xtask bench --only files`, by the kernel's backend).
const PIECE_BYTES: usize = 2 * 1024 * 1024;

/// The pages of a mapped object of more bytes are given back this often while it is searched. A search reads up to 2 GB/s: some 4 MB come
/// in between, and more on a busy machine, where the thread that gives them back has to wait for a processor too.
const MIN_TRIMMED_BYTES: usize = 32 * 1024 * 1024;
const TRIM_INTERVAL: Duration = Duration::from_millis(2);

/// New objects on their way into the store.
pub struct Ingest<'a> {
    store: &'a Store,
    workspace: &'a Workspace,
    pack: PackWriter,
    /// What this ingest holds, by digest.
    fresh: HashMap<Digest, Fresh>,
    whole: Vec<(Digest, Draft)>,
    /// The piece of a whole object that is written next.
    piece: Vec<u8>,
    /// Directories whose names must be durable before anything refers to them.
    relied_on: BTreeSet<PathBuf>,
    written: Written,
}

/// Where an object of an unfinished ingest is.
#[derive(Clone, Copy)]
enum Fresh {
    Packed { offset: u64, size_bytes: u64 },
    Whole(usize),
}

/// One file that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its name in the store.
    pub digest: Digest,
    /// What package metadata names it by.
    pub sha256: Sha256,
    /// Its size.
    pub size_bytes: u64,
}

/// What an ingest added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// How many objects were new.
    pub objects: u64,
    /// How many bytes were written.
    pub bytes: u64,
    /// How many files were created.
    pub inodes: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

impl<'a> Ingest<'a> {
    /// Starts taking files in.
    ///
    /// # Errors
    /// When the workspace cannot be written.
    pub fn new(store: &'a Store, workspace: &'a Workspace) -> Result<Self> {
        Ok(Self {
            store,
            workspace,
            pack: PackWriter::create(workspace.path())?,
            fresh: HashMap::new(),
            whole: Vec::new(),
            piece: Vec::new(),
            relied_on: BTreeSet::new(),
            written: Written::default(),
        })
    }

    /// Takes in everything that `content` gives; `source` says what that is, in errors. At most
    /// 2 MiB of it are in memory at a time.
    ///
    /// # Errors
    /// When `content` cannot be read or the store not written; [`Error::Io`] names which.
    pub fn add(&mut self, source: &Path, content: &mut dyn Read) -> Result<Stored> {
        let mut head = Vec::new();
        let mut hashes = Hashes::default();
        content
            .take(MIN_WHOLE_BYTES as u64)
            .read_to_end(&mut head)
            .at("read", source)?;
        hashes.update(&head);
        if head.len() < MIN_WHOLE_BYTES {
            let stored = hashes.finish();
            if !self.holds(&stored.digest)? {
                let offset = self.pack.append(stored.digest, &head)?;
                let size_bytes = stored.size_bytes;
                self.fresh.insert(stored.digest, Fresh::Packed { offset, size_bytes });
                self.written.objects += 1;
            }
            return Ok(stored);
        }
        self.add_whole(source, head, content, hashes)
    }

    /// Takes in `bytes`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_bytes(&mut self, mut bytes: &[u8]) -> Result<Stored> {
        self.add(Path::new("generated file"), &mut bytes)
    }

    /// The content of an object that this ingest or the store holds; large ones are mapped.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn content(&mut self, stored: &Stored) -> Result<Content> {
        match self.fresh.get(&stored.digest).copied() {
            Some(Fresh::Packed { offset, size_bytes }) => self.pack.read_back(offset, size_bytes).map(Content::Memory),
            Some(Fresh::Whole(index)) => Content::map(self.whole[index].1.path()),
            None => {
                let location = self.store.require(&stored.digest)?;
                match self.store.open_object(&stored.digest, stored.size_bytes, location)? {
                    crate::store::ObjectBytes::Small(bytes) => Ok(Content::Memory(bytes)),
                    crate::store::ObjectBytes::Whole(_) => Content::map(&self.store.object_path(&stored.digest)),
                }
            }
        }
    }

    /// Makes all objects durable and gives them their names.
    ///
    /// # Errors
    /// When the store cannot be written; then nothing refers to what was written so far.
    pub fn publish(mut self) -> Result<Written> {
        if !self.pack.is_empty() {
            let sealed = self.pack.seal()?;
            let path = self.store.own_pack_path(&sealed.id);
            sealed.draft.publish(&path)?;
            self.relied_on.insert(directory_of(&path));
            self.store.add_to_index(sealed.id, sealed.entries);
            self.written.bytes += sealed.size_bytes;
            self.written.inodes += 1;
        }
        let mut new_shard = false;
        let mut published = Vec::new();
        for (digest, draft) in self.whole {
            draft.sync()?;
            let path = self.store.own_object_path(&digest);
            let shard = directory_of(&path);
            if !shard.exists() {
                durable::create_directory(&shard)?;
                self.written.inodes += 1;
                new_shard = true;
            }
            draft.publish(&path)?;
            self.relied_on.insert(shard);
            published.push((digest, path));
        }
        // They were read through as they came.
        let stamped = published.iter().map(|(digest, path)| (*digest, path.as_path()));
        self.store.stamps().note_written(stamped);
        for directory in &self.relied_on {
            durable::sync_directory(directory)?;
        }
        if new_shard {
            durable::sync_directory(&self.store.path("objects"))?;
        }
        Ok(self.written)
    }

    fn add_whole(
        &mut self,
        source: &Path,
        head: Vec<u8>,
        content: &mut dyn Read,
        mut hashes: Hashes,
    ) -> Result<Stored> {
        let mut draft = Draft::create(self.workspace.path())?;
        self.piece.clear();
        self.piece.reserve_exact(PIECE_BYTES);
        self.piece.extend(head);
        loop {
            let known = self.piece.len();
            let room = (PIECE_BYTES - known) as u64;
            content.take(room).read_to_end(&mut self.piece).at("read", source)?;
            hashes.update(&self.piece[known..]);
            draft.write_all(&self.piece)?;
            if self.piece.len() < PIECE_BYTES {
                break;
            }
            self.piece.clear();
        }
        let stored = hashes.finish();
        if !self.holds(&stored.digest)? {
            self.fresh.insert(stored.digest, Fresh::Whole(self.whole.len()));
            self.whole.push((stored.digest, draft));
            self.written += Written {
                objects: 1,
                bytes: stored.size_bytes,
                inodes: 1,
            };
        }
        Ok(stored)
    }

    /// Whether the bytes need not be written. What another process has only just written gets its directory
    /// synced with ours, so that nothing durable refers to a name that is not.
    fn holds(&mut self, digest: &Digest) -> Result<bool> {
        if self.fresh.contains_key(digest) {
            return Ok(true);
        }
        match self.store.locate(digest)? {
            None => Ok(false),
            Some(location) => {
                let directory = match location {
                    Location::Pack(..) => self.store.path("packs"),
                    Location::Object => directory_of(&self.store.object_path(digest)),
                };
                // A store below has been durable for long.
                if directory.starts_with(self.store.root()) {
                    self.relied_on.insert(directory);
                }
                Ok(true)
            }
        }
    }
}

/// The bytes of an object.
pub enum Content {
    /// A small one.
    Memory(Vec<u8>),
    /// A large one.
    Mapped(memmap2::Mmap),
}

impl Content {
    fn map(path: &Path) -> Result<Self> {
        let file = fs::File::open(path).at("open", path)?;
        #[expect(unsafe_code, reason = "mapping a file is unsafe: someone could truncate it")]
        // SAFETY: a whole object is never changed or truncated, and a draft only by its own ingest, which does not
        // write to it any more.
        let map = unsafe { memmap2::Mmap::map(&file) }.at("map", path)?;
        #[cfg(target_os = "linux")]
        // Of a huge page 2 MiB would count with the first byte. Where that is refused they do.
        let _ = map.advise(memmap2::Advice::NoHugePage);
        Ok(Self::Mapped(map))
    }

    /// Calls `work` with all bytes, of which few stay in memory: the pages of a mapped file count as this process's
    /// from their first use on, and a search through a large file would have them all.
    pub fn scan<T>(&self, work: impl FnOnce(&[u8]) -> T) -> T {
        let map = match self {
            Self::Mapped(map) if map.len() > MIN_TRIMMED_BYTES => map,
            _ => return work(self),
        };
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            scope.spawn(move || {
                while is_done.recv_timeout(TRIM_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    #[expect(
                        unsafe_code,
                        reason = "giving pages back is unsafe: those of private memory would be lost"
                    )]
                    // SAFETY: the map is read-only and of a file that nobody changes, so that a page that is used again
                    // comes back with the same bytes.
                    let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
                    if advised.is_err() {
                        return; // then the search needs more memory, and is right all the same
                    }
                }
            });
            let result = work(map);
            drop(done);
            result
        })
    }
}

impl std::ops::Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// Both names of a file, computed as it streams by.
#[derive(Default)]
struct Hashes {
    blake3: blake3::Hasher,
    sha256: sha2::Sha256,
    size_bytes: u64,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    fn finish(self) -> Stored {
        Stored {
            digest: Digest::from_bytes(*self.blake3.finalize().as_bytes()),
            sha256: Sha256::from_bytes(self.sha256.finalize().into()),
            size_bytes: self.size_bytes,
        }
    }
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}
