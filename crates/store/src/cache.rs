//! Whole files for the kernel to read by itself: copies of what packs hold, and of what a prefix changes.
//!
//! ```text
//! <store>/cache/<boot>/
//!   machine            which machine this boot is one of
//!   small/<16 hex>/    all objects of the pack whose id starts so, each named by its offset (`unpack`)
//!   patched/<hex>/pf/  files as they look at the prefix of this digest, named by what else determines them; the prefix itself
//!                      stands in `prefix` beside
//!   dated/ab/<hex>     a file with its time and mode, for hard links; named by all that determines it
//!   images/<hex>       the names and attributes of a tree at all prefixes at which its files have the same sizes; and for
//!                      each tree whose content is all there, a list of the files that look different at each prefix. Both end with
//!                      the digest of all before it
//! ```
//!
//! Never the truth, and evictable at any time when nothing is mounted. Nothing here is synced: it is trusted only within
//! the boot that wrote it, because after a crash a file may have its name and not its bytes. Of what the running boot wrote
//! only a collection removes something, which knows what is mounted; what earlier boots of the same machine wrote, nobody
//! uses.

mod fill;
mod sound;
mod unpack;

use std::collections::HashSet;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::durable::{self, Draft};
use crate::error::{Error, Result};
use crate::placeholder::Placeholder;
use crate::store::{Location, Store};
use crate::tree::{Node, Tree};
use crate::view::View;
use crate::wire::{self, Writer};
use crate::workspace::Workspace;

pub use fill::LaidOut;
pub(crate) use sound::{Copy, trees};
pub use unpack::Filled;

/// The running boot of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// What names it and no other (proc(5), `random/boot_id`).
    pub id: String,
    /// What the machine is called in all its boots, to tell its caches from those of others that share the store.
    pub machine: String,
}

/// The part of a store's cache that this boot of the machine may trust.
#[derive(Debug, Clone)]
pub struct Cache {
    store: Store,
    root: PathBuf,
}

impl Cache {
    /// The cache of `store` for `boot`. What earlier boots of the same machine left behind is removed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn open(store: &Store, boot: &Boot) -> Result<Self> {
        let all = store.path("cache");
        let root = all.join(&boot.id);
        let machine = root.join("machine");
        if !machine.exists() {
            for old in crate::store::list(&all)? {
                if old != root && fs::read_to_string(old.join("machine")).is_ok_and(|name| name == boot.machine) {
                    // What cannot be removed takes room, and nothing else: it is never read.
                    let _ = durable::remove_tree(&old);
                }
            }
            for part in ["small", "patched", "dated", "images"] {
                durable::create_directory(&root.join(part))?;
            }
            durable::write_evictable(&root, &machine, boot.machine.as_bytes())?;
        }
        Ok(Self {
            store: store.clone(),
            root,
        })
    }

    /// The cache of `store` for `boot`, if there is one already.
    pub(crate) fn existing(store: &Store, boot: &Boot) -> Option<Self> {
        let root = store.path("cache").join(&boot.id);
        root.join("machine").exists().then(|| Self {
            store: store.clone(),
            root,
        })
    }

    /// Puts aside, into `workspace`, what `keep` does not name: all at once, so that whoever begins to mount finds a part as
    /// a whole or not at all. If something goes, so do the images, which are made again in milliseconds: they trust that
    /// their content is there. Mounts that stand on one keep it.
    pub(crate) fn evict(&self, keep: &Keep, workspace: &Workspace, dry_run: bool) -> Result<Evicted> {
        let mut doomed = Vec::new();
        for (part, kept) in [("small", &keep.packs), ("patched", &keep.prefixes)] {
            let found = crate::store::list(&self.root.join(part))?;
            doomed.extend(found.into_iter().filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                !kept.contains(&*name)
            }));
        }
        if !doomed.is_empty() {
            // First: nobody may find an image whose content is gone.
            doomed.splice(0..0, crate::store::list(&self.root.join("images"))?);
        }
        if !keep.is_linking {
            for shard in crate::store::list(&self.root.join("dated"))? {
                let unlinked = |path: &PathBuf| path.symlink_metadata().is_ok_and(|metadata| metadata.nlink() == 1);
                doomed.extend(crate::store::list(&shard)?.into_iter().filter(unlinked));
            }
        }
        let mut evicted = Evicted::default();
        for (number, path) in doomed.into_iter().enumerate() {
            let (bytes, files) = crate::usage::disk_usage(&path)?;
            evicted.files += files;
            evicted.bytes += bytes;
            if !dry_run {
                durable::move_file(&path, &workspace.path().join(format!("evicted-{number}")))?;
            }
        }
        Ok(evicted)
    }

    /// The directories in which the content of every file that looks the same at each prefix is found by
    /// [`content_path`].
    #[must_use]
    pub fn content_directories(&self) -> Vec<PathBuf> {
        [self.store.object_directories(), vec![self.root.join("small")]].concat()
    }

    /// The directory in which the content of the others is found, as they look at the prefix of `view`.
    #[must_use]
    pub fn patched_directory(&self, view: &View) -> PathBuf {
        self.root
            .join("patched")
            .join(Digest::of(view.prefix().as_bytes()).to_string())
    }

    /// The file that the kernel reads for `node`; of a file with a placeholder, the object that most of it is read from, if
    /// that is a whole one.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn content_file(&self, node: Node<'_>) -> Result<Option<PathBuf>> {
        let small = self.root.join("small");
        Ok(match node.location()? {
            Location::Object => Some(self.store.object_path(&node.digest())),
            Location::Pack(..) if node.has_placeholder() => None,
            Location::Pack(..) => Some(small.join(content_path(node)?)),
        })
    }

    /// [`content_path`] of `node`, if its content is there and may be read by the kernel unasked.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn present_content(&self, view: &View, node: Node<'_>) -> Result<Option<String>> {
        let path = content_path(node)?;
        let is_there = if node.has_placeholder() {
            self.patched_directory(view).join(&path).exists()
        } else if node.location()? == Location::Object {
            // What was not read through in this boot is: by who opens it, and not by the kernel.
            self.store.trusts_whole(&node.digest())
        } else {
            self.content_directories()
                .into_iter()
                .any(|place| place.join(&path).exists())
        };
        Ok(is_there.then_some(path))
    }

    /// Where the image of a tree with the given properties is, or would be.
    #[must_use]
    pub fn image_path(&self, tree: &Digest, properties: &[u8]) -> PathBuf {
        let mut name = Writer::default();
        name.raw(tree.as_bytes());
        name.bytes(properties);
        self.root.join("images").join(Digest::of(&name.finish()).to_string())
    }

    /// Puts an image in its place.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_image(&self, workspace: &Workspace, path: &Path, bytes: &[u8]) -> Result<()> {
        // In a block of its own, behind what the kernel reads.
        let mut bytes = bytes.to_vec();
        bytes.resize(
            bytes.len().next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES - wire::DIGEST_BYTES,
            0,
        );
        durable::write_evictable(workspace.path(), path, &wire::with_digest(bytes))
    }

    /// A file with the content of `node` at the prefix of `view`, its modification time, and the mode 0444 or 0555. It
    /// is made if it is not there; links to it may be made, but it must not be written to.
    ///
    /// # Errors
    /// When the object is missing or damaged, or the store cannot be written.
    pub fn dated(&self, workspace: &Workspace, view: &View, node: Node<'_>) -> Result<PathBuf> {
        let path = self.dated_path(view, node)?;
        if !path.exists() {
            let draft = Draft::create(workspace.path())?;
            copy_dated(view, node, draft.file()).map_err(|error| error.at_path(draft.path()))?;
            publish(draft, &path)?;
        }
        Ok(path)
    }

    fn dated_path(&self, view: &View, node: Node<'_>) -> Result<PathBuf> {
        let mut name = Writer::default();
        name.raw(content_name(view, node)?.as_bytes());
        name.raw(&node.mtime_s().to_le_bytes());
        name.raw(&[u8::from(node.is_executable())]);
        Ok(sharded(&self.root.join("dated"), &Digest::of(&name.finish())))
    }
}

/// What mounts need of the cache.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    /// The directories of unpacked packs.
    packs: HashSet<String>,
    /// The directories of prefixes.
    prefixes: HashSet<String>,
    /// Whether somebody may be about to link what nothing links to yet.
    pub(crate) is_linking: bool,
}

impl Keep {
    /// What `tree` has of packs.
    pub(crate) fn add_tree(&mut self, tree: &Tree) -> Result<()> {
        for node in tree.files(false) {
            if let Location::Pack(pack, _) = node?.location()? {
                self.packs.insert(unpack::directory(&pack));
            }
        }
        Ok(())
    }

    /// What looks different at the path `prefix`.
    pub(crate) fn add_prefix(&mut self, prefix: &Path) {
        if let Some(prefix) = prefix.to_str() {
            self.prefixes.insert(Digest::of(prefix.as_bytes()).to_string());
        }
    }
}

/// What was removed from the cache.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Copies the content of `node` into `file`, and gives it its time and the mode 0444, or 0555 if it is executable. On the
/// same file system the kernel shares the blocks where it can (copy_file_range(2)).
///
/// # Errors
/// When the object is missing or damaged, or the file cannot be written.
pub fn copy_dated(view: &View, node: Node<'_>, mut file: &File) -> Result<(), CopyError> {
    let open = view.open(node)?;
    match open.whole_object() {
        Some(mut object) => {
            std::io::copy(&mut object, &mut file)?;
        }
        None => std::io::Write::write_all(&mut file, &view.read(node)?)?,
    }
    file.set_permissions(Permissions::from_mode(if node.is_executable() { 0o555 } else { 0o444 }))?;
    // What the file system cannot hold it sets to the nearest it can.
    let time = system_time(node.mtime_s());
    Ok(file.set_times(FileTimes::new().set_modified(time).set_accessed(time))?)
}

/// A file cannot be copied out of the store.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store cannot give it.
    #[error(transparent)]
    Store(#[from] Error),
    /// The copy cannot be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl CopyError {
    /// With the path of the copy.
    #[must_use]
    pub fn at_path(self, path: &Path) -> Error {
        match self {
            Self::Store(error) => error,
            Self::Io(source) => Error::Io {
                action: "write",
                path: path.to_owned(),
                source,
            },
        }
    }
}

/// Where the content of `node` is found, in one of [`Cache::content_directories`] or, if it has a placeholder, in
/// [`Cache::patched_directory`]: a directory, a slash, a name.
///
/// # Errors
/// When the tree is damaged.
pub fn content_path(node: Node<'_>) -> Result<String> {
    if let Some(placeholder) = node.placeholder()? {
        let mut name = Writer::default();
        name.raw(node.digest().as_bytes());
        placeholder.write(&mut name);
        return Ok(format!("{PATCHED_PART}/{}", Digest::of(&name.finish())));
    }
    Ok(match node.location()? {
        Location::Object => {
            let name = node.digest().to_string();
            format!("{}/{name}", &name[..2])
        }
        Location::Pack(pack, offset) => {
            format!(
                "{}/{}",
                unpack::directory(&pack),
                unpack::name(offset, node.stored_bytes())
            )
        }
    })
}

/// What images are a multiple of.
const BLOCK_BYTES: usize = 4096;

/// What the directory of a prefix holds besides: the prefix itself.
const PREFIX_FILE: &str = "prefix";

/// The part of the cache for a prefix that overlayfs is pointed to; no pack and no object has such a directory.
const PATCHED_PART: &str = "pf";

/// What names the content of a file as it is seen.
fn content_name(view: &View, node: Node<'_>) -> Result<Digest> {
    Ok(match node.placeholder()? {
        None => node.digest(),
        Some(placeholder) => patched_name(&node.digest(), &placeholder, view.prefix()),
    })
}

fn patched_name(digest: &Digest, placeholder: &Placeholder, prefix: &str) -> Digest {
    let mut name = Writer::default();
    name.raw(digest.as_bytes());
    placeholder.write(&mut name);
    name.bytes(prefix.as_bytes());
    Digest::of(&name.finish())
}

fn sharded(directory: &Path, name: &Digest) -> PathBuf {
    let hex = name.to_string();
    directory.join(&hex[..2]).join(hex)
}

fn publish(draft: Draft, path: &Path) -> Result<()> {
    if let Some(directory) = path.parent()
        && !directory.exists()
    {
        durable::create_directory(directory)?;
    }
    draft.publish(path)
}

/// A time that this platform cannot hold becomes the epoch.
fn system_time(unix_s: i64) -> SystemTime {
    let distance = Duration::from_secs(unix_s.unsigned_abs());
    let time = if unix_s < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
