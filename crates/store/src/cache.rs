//! Whole files for the kernel to read by itself: copies of what packs hold, and of what a prefix changes.
//!
//! ```text
//! <store>/cache/<boot>/
//!   machine            which machine this boot is one of
//!   small/ab/<hex>     the small object of this digest
//!   patched/ab/<hex>   a file as it looks at a prefix, named by all that determines it
//!   dated/ab/<hex>     a file with its time and mode, for hard links; named by all that determines it
//!   images/<hex>       the names and attributes of a tree at a prefix, made when all its content is there
//! ```
//!
//! Never the truth, and evictable at any time when nothing is mounted. Nothing here is synced: it is trusted only within
//! the boot that wrote it, because after a crash a file may have its name and not its bytes. Of what the running boot wrote
//! only a collection removes something, which knows what is mounted; what earlier boots of the same machine wrote, nobody
//! uses.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::durable::{self, Draft};
use crate::error::{Error, Result};
use crate::placeholder::Placeholder;
use crate::store::{Location, ObjectBytes, Store};
use crate::tree::{Node, NodeId, NodeKind, Tree};
use crate::view::View;
use crate::wire::Writer;
use crate::workspace::Workspace;

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

/// What was copied into the cache.
#[derive(Debug, Default)]
pub struct Filled {
    /// How many files were written.
    pub written: u64,
    /// How many bytes they have.
    pub written_bytes: u64,
    /// What is wrong with the objects that could not be copied because they are missing or damaged.
    pub lost: Vec<Error>,
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

    /// Adds to `keep` what a mount of `view` needs; its images have one of the properties `salts`.
    pub(crate) fn keep(&self, keep: &mut Keep, tree: &Digest, view: &View, salts: &[&[u8]]) -> Result<()> {
        let images = salts.iter().map(|salt| self.image_path(tree, view, salt));
        keep.files.extend(images);
        let directory = self.root.join("patched");
        for node in view.tree().files(false) {
            let node = node?;
            if node.has_placeholder() {
                keep.files.insert(sharded(&directory, &content_name(view, node)?));
            }
        }
        Ok(())
    }

    /// Removes up to `limit` files that `keep` does not name and that are copies of no object of which `is_live` is true.
    /// Images go first: whoever finds one trusts that its content is there.
    pub(crate) fn evict(
        &self,
        keep: &Keep,
        is_live: &dyn Fn(&Digest) -> bool,
        limit: u64,
        dry_run: bool,
    ) -> Result<Evicted> {
        let mut evicted = Evicted::default();
        let shards = |part: &str| crate::store::list(&self.root.join(part));
        let mut paths = shards("images")?;
        for part in ["patched", "small", "dated"] {
            for shard in shards(part)? {
                paths.extend(crate::store::list(&shard)?);
            }
        }
        for path in paths {
            if evicted.files >= limit && !dry_run {
                break;
            }
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            let part = path.strip_prefix(&self.root).ok().and_then(|path| path.iter().next());
            let is_kept = match part.and_then(|part| part.to_str()) {
                Some("small") => named(&path).is_none_or(|digest| is_live(&digest)),
                Some("dated") => keep.is_linking || metadata.nlink() > 1,
                _ => keep.files.contains(&path),
            };
            if !is_kept {
                evicted.files += 1;
                evicted.bytes += metadata.blocks() * 512;
                if !dry_run {
                    durable::remove(&path)?;
                }
            }
        }
        Ok(evicted)
    }

    /// The directories in which the content of every file is found by [`Cache::content_path`].
    #[must_use]
    pub fn content_directories(&self) -> [PathBuf; 3] {
        [
            self.store.path("objects"),
            self.root.join("small"),
            self.root.join("patched"),
        ]
    }

    /// Where the content of `node` is found in one of [`Cache::content_directories`], once it is filled: two digits, a
    /// slash, 64 digits.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn content_path(&self, view: &View, node: Node<'_>) -> Result<String> {
        let name = content_name(view, node)?.to_string();
        Ok(format!("{}/{name}", &name[..2]))
    }

    /// [`Cache::content_path`], if the content is there.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn present_content(&self, view: &View, node: Node<'_>) -> Result<Option<String>> {
        let path = self.content_path(view, node)?;
        let [objects, small, patched] = self.content_directories();
        let is_there = if node.has_placeholder() {
            patched.join(&path).exists()
        } else {
            objects.join(&path).exists() || small.join(&path).exists()
        };
        Ok(is_there.then_some(path))
    }

    /// Where the image of `view` with further properties `salt` is, or would be.
    #[must_use]
    pub fn image_path(&self, tree: &Digest, view: &View, salt: &[u8]) -> PathBuf {
        let mut name = Writer::default();
        name.raw(tree.as_bytes());
        name.bytes(view.prefix().as_bytes());
        name.bytes(salt);
        self.root.join("images").join(Digest::of(&name.finish()).to_string())
    }

    /// Puts an image in its place.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_image(&self, workspace: &Workspace, path: &Path, bytes: &[u8]) -> Result<()> {
        durable::write_evictable(workspace.path(), path, bytes)
    }

    /// Copies every small file of `view` out of its pack, and writes every file that looks different at its prefix,
    /// unless they are there. What is missing or damaged is left out and told.
    ///
    /// # Errors
    /// When the tree is damaged, or the store cannot be written.
    pub fn fill(&self, workspace: &Workspace, view: &View) -> Result<Filled> {
        let mut filled = Filled::default();
        self.fill_small(workspace, view.tree(), &mut filled)?;
        self.fill_patched(workspace, view, &mut filled)?;
        Ok(filled)
    }

    /// A file with the content of `node` at the prefix of `view`, its modification time, and the mode 0444 or 0555. It
    /// is made if it is not there; links to it may be made, but it must not be written to.
    ///
    /// # Errors
    /// When the object is missing or damaged, or the store cannot be written.
    pub fn dated(&self, workspace: &Workspace, view: &View, node: Node<'_>) -> Result<PathBuf> {
        let mut name = Writer::default();
        name.raw(content_name(view, node)?.as_bytes());
        name.raw(&node.mtime_s().to_le_bytes());
        name.raw(&[u8::from(node.is_executable())]);
        let path = sharded(&self.root.join("dated"), &Digest::of(&name.finish()));
        if !path.exists() {
            let draft = Draft::create(workspace.path())?;
            copy_dated(view, node, draft.file()).map_err(|error| error.at_path(draft.path()))?;
            publish(draft, &path)?;
        }
        Ok(path)
    }

    fn fill_small(&self, workspace: &Workspace, tree: &Tree, filled: &mut Filled) -> Result<()> {
        // In the order of the packs, so that they are read from front to back.
        let mut wanted = BTreeMap::new();
        for id in 0..tree.node_count() {
            let node = tree.node(NodeId(id))?;
            if node.kind()? == NodeKind::File
                && !node.has_placeholder()
                && let Location::Pack(pack, offset) = node.location()?
            {
                // An empty file and the file after it start at the same place.
                wanted.insert((pack, offset, node.digest()), node);
            }
        }
        let directory = self.root.join("small");
        for node in wanted.into_values() {
            let path = sharded(&directory, &node.digest());
            if path.exists() {
                continue;
            }
            let object = self
                .store
                .open_object(&node.digest(), node.stored_bytes(), node.location()?);
            match object {
                Ok(ObjectBytes::Small(bytes)) => filled.write(workspace, &path, &bytes)?,
                // A rewritten pack: the object is whole now, where the kernel finds it as well.
                Ok(ObjectBytes::Whole(_)) => {}
                Err(error) => filled.lose(error)?,
            }
        }
        Ok(())
    }

    fn fill_patched(&self, workspace: &Workspace, view: &View, filled: &mut Filled) -> Result<()> {
        let directory = self.root.join("patched");
        let tree = view.tree();
        for id in 0..tree.node_count() {
            let node = tree.node(NodeId(id))?;
            if !node.has_placeholder() {
                continue;
            }
            let path = sharded(&directory, &content_name(view, node)?);
            if !path.exists() {
                match view.read(node) {
                    Ok(bytes) => filled.write(workspace, &path, &bytes)?,
                    Err(error) => filled.lose(error)?,
                }
            }
        }
        Ok(())
    }
}

impl Filled {
    fn write(&mut self, workspace: &Workspace, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut draft = Draft::create(workspace.path())?;
        draft.write_all(bytes)?;
        publish(draft, path)?;
        self.written += 1;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Goes on after damage; a disk that fails is no damage.
    fn lose(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Missing { .. } | Error::Corrupt { .. } => {
                self.lost.push(error);
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// What mounts need of the cache.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    files: HashSet<PathBuf>,
    /// Whether somebody may be about to link what nothing links to yet.
    pub(crate) is_linking: bool,
}

/// What was removed from the cache.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

fn named(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
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
