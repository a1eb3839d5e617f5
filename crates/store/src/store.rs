//! The store's directory: its layout, and finding what is in it.
//!
//! ```text
//! <store>/
//!   FORMAT            version and feature sets
//!   lock              held for moments, see [`crate::lock`]
//!   objects/ab/<hex>  whole files of 128 KiB and more, mode 0444, named by the BLAKE3 of their bytes
//!   packs/<id>.pack   the small files of one ingest
//!   layers/<sha256>   the files of one package archive
//!   trees/<digest>    the merged index of one environment
//!   environments/<signature>.json   what a signature stands for
//!   leases/           what running mounts, runs and builds hold
//!   mnt/              an empty directory for private mounts
//!   cache/            copies for the kernel, trusted only in the boot that made them
//!   traces/           what the first runs of a tree opened
//!   linked/           which directories hold linked environments
//!   writable/         what was written into writable mounts
//!   refs/ roots/      names, pins and owners: what is kept
//!   ballast/          room for a collection when the disk is full
//!   trash/            what a collection removed and may still come back
//!   tmp/              drafts; swept when their process is gone
//! ```
//!
//! Everything but `tmp`, `leases`, `refs`, `roots`, `trash`, `cache`, `traces`, `linked`, `writable` and `lock` is immutable and appears under its name only when it is complete
//! and durable, in the order pack, object, layer, tree, environment.

mod opening;
mod packs;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use self::packs::PackCache;
use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::lock::FileLock;
use crate::pack;
use crate::stamps::Stamps;
use crate::trash;

pub use self::opening::FORMAT_VERSION;
pub(crate) use crate::durable::list;

/// An opened store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// A store that is only read: what it holds need not be here.
    lower: Option<Store>,
    packs: Mutex<PackCache>,
    /// Those of the upper store hold for the one below too: nothing is written there.
    stamps: Arc<Stamps>,
}

/// Nothing is removed from a store, nor from the one below it, while this lives.
#[derive(Debug)]
pub struct SharedLock {
    _own: FileLock,
    _lower: Option<Box<Self>>,
}

/// Where the stored bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// In a whole file of their own.
    Object,
    /// In the pack with this id, from this offset. A hint: a pack may have been rewritten since, and whoever reads
    /// checks the digest and asks the store where the object is now.
    Pack(Digest, u64),
}

/// The stored bytes of a file.
#[derive(Debug)]
pub enum ObjectBytes {
    /// A small file, read and checked.
    Small(Vec<u8>),
    /// A large file, opened.
    Whole(File),
}

impl Store {
    pub(crate) fn stamps(&self) -> &Stamps {
        &self.0.stamps
    }

    /// The directory of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The store below this one, which is only read.
    #[must_use]
    pub fn lower(&self) -> Option<&Self> {
        self.0.lower.as_ref()
    }

    /// The directories that hold whole objects, this store's first.
    #[must_use]
    pub fn object_directories(&self) -> Vec<PathBuf> {
        let below = self.lower().map(Self::object_directories).unwrap_or_default();
        [vec![self.path("objects")], below].concat()
    }

    /// An empty directory in which private mounts are made.
    #[must_use]
    pub fn mount_root(&self) -> PathBuf {
        self.path("mnt")
    }

    /// Where downloads are kept until they are verified.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.path("tmp")
    }

    /// Keeps collections from removing anything while the lock lives. It is to be held for moments only: between a look
    /// at something and the reference that keeps it.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn share(&self) -> Result<SharedLock> {
        let lower = match self.lower().map(Self::share).transpose() {
            // Where no lock can be had, as on a medium that cannot be written, nobody removes anything either.
            Err(Error::Io { .. }) => None,
            lower => lower?,
        };
        Ok(SharedLock {
            _own: FileLock::shared(&self.path("lock"))?,
            _lower: lower.map(Box::new),
        })
    }

    /// Waits until nobody holds [`Store::share`], for who removes things.
    pub(crate) fn exclude(&self) -> Result<FileLock> {
        FileLock::exclusive(&self.path("lock"))
    }

    /// Holds the making of the thing called `name`: who comes second waits, and then finds it made.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn reserve(&self, name: &str) -> Result<FileLock> {
        FileLock::transient(&self.path("tmp").join(format!("{name}.lock")))
    }

    /// Opens the object called `digest`. A small one is read whole and checked, a large one as [`Store::set_checks`] says; where `location` is out of date
    /// the object is searched for.
    ///
    /// # Errors
    /// When it is missing or its bytes are not those of its name.
    pub fn open_object(&self, digest: &Digest, size_bytes: u64, location: Location) -> Result<ObjectBytes> {
        if let Location::Pack(pack, offset) = location
            && let Some(bytes) = self.read_packed(&pack, offset, digest, size_bytes)
        {
            return Ok(ObjectBytes::Small(bytes));
        }
        let path = self.object_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let len = file.metadata().at("inspect", &path)?.len();
                if len != size_bytes {
                    return Err(Error::corrupt(
                        &path,
                        format!("it has {len} bytes instead of {size_bytes}"),
                    ));
                }
                self.stamps().check(&path, &file, digest)?;
                Ok(ObjectBytes::Whole(file))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.search(digest, size_bytes, location),
            Err(source) => Err(Error::Io {
                action: "open",
                path,
                source,
            }),
        }
    }

    /// Where the object called `digest` is, as far as this process knows: of what others have packed since it first
    /// looked it may not know.
    ///
    /// # Errors
    /// When the packs cannot be listed.
    pub fn locate(&self, digest: &Digest) -> Result<Option<Location>> {
        let mut packs = self.packs();
        if let Some((pack, entry)) = packs.index.get(digest) {
            return Ok(Some(Location::Pack(*pack, entry.offset_bytes)));
        }
        if self.object_path(digest).exists() {
            return Ok(Some(Location::Object));
        }
        if packs.indexed.is_empty() {
            self.index_packs(&mut packs)?;
        }
        match (packs.index.get(digest), self.lower()) {
            (Some((pack, entry)), _) => Ok(Some(Location::Pack(*pack, entry.offset_bytes))),
            (None, Some(lower)) => lower.locate(digest),
            (None, None) => Ok(None),
        }
    }

    /// Where the object called `digest` is, also if another process has brought it since this one looked.
    ///
    /// # Errors
    /// When it is not in the store.
    pub fn require(&self, digest: &Digest) -> Result<Location> {
        if let Some(location) = self.locate(digest)? {
            return Ok(location);
        }
        self.refresh()?;
        if let Some(location) = self.locate(digest)? {
            return Ok(location);
        }
        self.recover(digest)?;
        self.locate(digest)?
            .ok_or_else(|| self.missing("object", digest.to_string()))
    }

    /// Puts the object back into its place, or the pack that holds it, if a collection has moved it.
    fn recover(&self, digest: &Digest) -> Result<()> {
        if trash::restore(self.root(), "objects", &self.object_path(digest)) {
            return Ok(());
        }
        for aside in trash::all(self.root(), "packs") {
            // It may be unlinked, or brought back by somebody else, at any moment.
            let entries = pack::read_index(&aside).unwrap_or_default();
            if entries.iter().any(|entry| entry.digest == *digest)
                && let Some(name) = aside.file_name()
            {
                trash::restore(self.root(), "packs", &self.path("packs").join(name));
            }
        }
        // Somebody else may have been faster.
        self.reload()
    }

    /// Where a whole object is, or would be.
    #[must_use]
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        self.find(&object_name(digest))
    }

    /// Where a whole object is put.
    pub(crate) fn own_object_path(&self, digest: &Digest) -> PathBuf {
        self.path(&object_name(digest))
    }

    /// Where `name` is put in this store.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.root.join(name)
    }

    /// Where `name` is found: in this store or in the one below; where it would be put, if it is nowhere.
    pub(crate) fn find(&self, name: &str) -> PathBuf {
        let own = self.path(name);
        match self.lower() {
            Some(lower) if !own.exists() => Some(lower.find(name)).filter(|below| below.exists()).unwrap_or(own),
            _ => own,
        }
    }

    /// The entries of the directory `name` here and in the store below, sorted.
    pub(crate) fn list_all(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut paths = list(&self.path(name))?;
        if let Some(lower) = self.lower() {
            paths.extend(lower.list_all(name)?);
        }
        Ok(paths)
    }

    pub(crate) fn pack_path(&self, id: &Digest) -> PathBuf {
        self.find(&pack_name(id))
    }

    pub(crate) fn own_pack_path(&self, id: &Digest) -> PathBuf {
        self.path(&pack_name(id))
    }

    pub(crate) fn missing(&self, kind: &'static str, name: String) -> Error {
        Error::Missing {
            kind,
            name,
            store: self.0.root.clone(),
        }
    }

    /// The object wherever it is: in a pack that was written since, removed and not yet unlinked, or in the store below.
    fn search(&self, digest: &Digest, size_bytes: u64, location: Location) -> Result<ObjectBytes> {
        if let Some(found) = self.find_packed(digest, size_bytes) {
            return Ok(ObjectBytes::Small(found));
        }
        self.reload()?;
        if let Some(found) = self.find_packed(digest, size_bytes) {
            return Ok(ObjectBytes::Small(found));
        }
        self.recover(digest)?;
        let path = self.object_path(digest);
        if let Ok(file) = File::open(&path) {
            self.stamps().check(&path, &file, digest)?;
            return Ok(ObjectBytes::Whole(file));
        }
        let known = self.packs().index.get(digest).copied();
        match (self.find_packed(digest, size_bytes), known, self.lower()) {
            (Some(found), _, _) => Ok(ObjectBytes::Small(found)),
            (None, None, Some(lower)) => lower.open_object(digest, size_bytes, location),
            (None, Some((pack, _)), _) => Err(Error::corrupt(
                &self.pack_path(&pack),
                format!("object {digest} is not what its name says"),
            )),
            (None, None, None) => Err(self.missing("object", digest.to_string())),
        }
    }

    /// Makes sure that the object is in its place, from where a collection may have moved it.
    ///
    /// # Errors
    /// When it is not in the store.
    pub(crate) fn secure_object(&self, digest: &Digest, location: Location, secured: &mut Secured) -> Result<()> {
        if let Location::Pack(pack, _) = location
            && secured.has_pack(self, pack)
        {
            return Ok(());
        }
        let path = self.object_path(digest);
        if path.exists() {
            return Ok(());
        }
        let known = self.packs().index.get(digest).copied();
        if known.is_some_and(|(pack, _)| secured.has_pack(self, pack)) {
            return Ok(());
        }
        self.recover(digest)?;
        if path.exists() || self.packs().index.contains_key(digest) {
            return Ok(());
        }
        if let Some(lower) = self.lower() {
            return lower.require(digest).map(drop);
        }
        Err(self.missing("object", digest.to_string()))
    }
}

/// Which packs are known to be in their place, so that each is looked for once.
#[derive(Debug, Default)]
pub(crate) struct Secured(HashMap<Digest, bool>);

impl Secured {
    /// Whether the pack is in its place, put back if a collection has moved it.
    fn has_pack(&mut self, store: &Store, pack: Digest) -> bool {
        *self.0.entry(pack).or_insert_with(|| {
            let path = store.pack_path(&pack);
            path.exists() || trash::restore(store.root(), "packs", &path)
        })
    }
}

fn object_name(digest: &Digest) -> String {
    let hex = digest.to_string();
    format!("objects/{}/{hex}", &hex[..2])
}

fn pack_name(id: &Digest) -> String {
    format!("packs/{id}.pack")
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.0.root).finish()
    }
}
