//! What a directory and an environment disagree on becomes a layer and a new environment.
//!
//! A writable mount is an overlay: the environment below, a directory above that holds what was changed. The directory and
//! the tree are enough to know what is seen in the mount, which need not be there any more. Only directories that exist above
//! can differ, so a capture costs what was touched and not what exists. A directory that another installer made is compared as if
//! all of it had been written.
//!
//! Texts that name the mount path are recorded with it as their placeholder, so that the new environment can be seen
//! anywhere. Binaries that name it stay as they are, and are listed.

mod captured;
mod prefix;
mod upper;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Sha256;
use crate::error::{Error, IoContext, Result};
use crate::ingest::{Ingest, Stored, Written};
use crate::layer::{Entry, EntryKind, FileEntry, Layer};
use crate::path::EnvPath;
use crate::store::Store;
use crate::tree::{Node, NodeId, NodeKind, ROOT};
use crate::view::View;
use crate::workspace::Workspace;
use captured::{BOUND, REMOVED, join};
use prefix::Named;
use upper::Redirect;

pub use captured::{add_to, apply, bound, commit, removed};

/// Files of more bytes than this are not searched for the mount path: no text that installers write is as large.
const MAX_SEARCHED_BYTES: u64 = 16 * 1024 * 1024;

/// A writable mount, by its parts.
#[derive(Debug, Clone, Copy)]
pub struct Writable<'a> {
    /// The environment below, as seen at the mount point.
    pub view: &'a View,
    /// The directory that holds what was changed.
    pub upper: &'a Path,
}

/// How a path differs from the environment below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It was another file, had other bytes, or another execute bit.
    Modified,
    /// It is not there any more, nor what was below it.
    Removed,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path in the environment.
    pub path: EnvPath,
    /// How it differs.
    pub kind: ChangeKind,
}

/// A directory that was installed by others, beside the environment that holds the same packages.
#[derive(Clone, Copy)]
pub struct Installed<'a> {
    /// The environment, as seen at the directory.
    pub view: &'a View,
    /// The directory.
    pub directory: &'a Path,
    /// Whether what differs at a path is no change; of a directory, not what is below it.
    pub is_ignored: &'a dyn Fn(&EnvPath, ChangeKind) -> bool,
}

/// What was captured of an installed directory.
#[derive(Debug)]
pub struct Captured {
    /// The layer.
    pub layer: Layer,
    /// What it changes, sorted by path.
    pub changes: Vec<Change>,
    /// What it added to the store.
    pub written: Written,
}

/// What a captured layer is called.
#[derive(Debug, Clone)]
pub enum LayerName {
    /// By what it says itself: the SHA-256 of its bytes.
    OfContent,
    /// By something that determines it, and with what else it is to say of itself.
    Given(Sha256, BTreeMap<String, Vec<u8>>),
}

/// What is seen at a path now.
enum Seen {
    /// Something that was written.
    Above {
        metadata: Metadata,
        /// The node whose content it has, if only its attributes were written.
        content: Option<NodeId>,
    },
    /// A node of the environment, at its own place or at another.
    Below(NodeId),
}

/// Is told a path that differs, and what is there now.
type Report<'a> = dyn FnMut(EnvPath, ChangeKind, Option<&Seen>) -> Result<()> + 'a;

impl Writable<'_> {
    /// What was changed, sorted by path.
    ///
    /// # Errors
    /// When a directory cannot be read or the tree is damaged.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let mut found = Vec::new();
        self.compare(&[], true, Some(ROOT), &mut |path, kind, _| {
            found.push(Change { path, kind });
            Ok(())
        })?;
        found.sort();
        Ok(found)
    }

    /// Puts what was changed into the store, as a layer. None when nothing was, unless the layer is wanted by name.
    ///
    /// # Errors
    /// When a file cannot be read, is a device, a pipe or a socket, or the store cannot be written.
    pub fn capture(&self, store: &Store, workspace: &Workspace, name: LayerName) -> Result<Option<(Layer, Written)>> {
        let captured = self.take_all(store, workspace, Some(ROOT), &|_, _| false, name)?;
        Ok(captured.map(|captured| (captured.layer, captured.written)))
    }

    /// `lower` is what is seen through the directory.
    fn take_all(
        &self,
        store: &Store,
        workspace: &Workspace,
        lower: Option<NodeId>,
        is_ignored: &dyn Fn(&EnvPath, ChangeKind) -> bool,
        name: LayerName,
    ) -> Result<Option<Captured>> {
        let mut ingest = Ingest::new(store, workspace)?;
        let mut entries = Vec::new();
        let (mut changes, mut removed, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        self.compare(&[], true, lower, &mut |path, kind, seen| {
            if is_ignored(&path, kind) {
                return Ok(());
            }
            changes.push(Change {
                path: path.clone(),
                kind,
            });
            match seen {
                Some(seen) => entries.push(self.take_in(&mut ingest, path, seen, &mut bound)?),
                None if kind == ChangeKind::Removed => removed.push(path),
                None => {}
            }
            Ok(())
        })?;
        let is_empty = entries.is_empty() && removed.is_empty();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        changes.sort();
        removed.sort();
        bound.sort();
        let mut layer = Layer {
            archive: Sha256::from_bytes([0; 32]),
            info: [(REMOVED.to_owned(), join(&removed))].into(),
            patched_mtime_s: 0,
            entries,
        };
        if !bound.is_empty() {
            layer.info.insert(BOUND.to_owned(), join(&bound));
        }
        match name {
            LayerName::OfContent if is_empty => return Ok(None),
            LayerName::OfContent => {
                layer = layer.named_by_itself();
            }
            LayerName::Given(name, info) => {
                layer.archive = name;
                layer.info.extend(info);
            }
        }
        let mut written = ingest.publish()?;
        written.bytes += layer.publish(store, workspace)?;
        written.inodes += 1;
        Ok(Some(Captured {
            layer,
            changes,
            written,
        }))
    }

    /// Calls `report` with every path in `directory` that differs, with what is there now if it is to be taken in.
    /// `is_above` says whether the directory exists above, `lower` is what is seen through it.
    fn compare(&self, directory: &[u8], is_above: bool, lower: Option<NodeId>, report: &mut Report<'_>) -> Result<()> {
        let tree = self.view.tree();
        let old_directory = tree.find(directory)?.filter(is_directory);
        let lower = lower.map(|lower| tree.node(lower)).transpose()?;
        let seen = self.list(directory, is_above, lower)?;
        for (name, seen) in &seen {
            let path = EnvPath::parse(join_names(directory, name))?;
            let old = match old_directory {
                Some(old) => tree.lookup(old, name)?,
                None => None,
            };
            let kind = match old {
                Some(_) => ChangeKind::Modified,
                None => ChangeKind::Added,
            };
            let (is_now_directory, lower) = match seen {
                Seen::Below(node) if old.is_some_and(|old| old.id() == *node) => continue,
                Seen::Below(node) => (is_directory(&tree.node(*node)?), Some(*node)),
                Seen::Above { metadata, .. } if metadata.is_dir() => (true, self.below(lower, path.as_bytes(), name)?),
                Seen::Above { .. } => (false, None),
            };
            if is_now_directory {
                if !old.is_some_and(|old| is_directory(&old)) {
                    report(path.clone(), kind, Some(seen))?;
                }
                let is_above = matches!(seen, Seen::Above { .. });
                self.compare(path.as_bytes(), is_above, lower, report)?;
            } else if match old {
                None => true,
                Some(old) => self.differs(old, &path, seen)?,
            } {
                report(path, kind, Some(seen))?;
            }
        }
        if let Some(old) = old_directory {
            for child in tree.children(old, 0)? {
                let name = child?.name()?;
                if !seen.contains_key(name) && !is_installer_note(directory, name) {
                    let path = EnvPath::parse(join_names(directory, name))?;
                    report(path, ChangeKind::Removed, None)?;
                }
            }
        }
        Ok(())
    }

    /// What is seen in a directory: what lies above, and of what is below the rest.
    fn list(&self, directory: &[u8], is_above: bool, lower: Option<Node<'_>>) -> Result<BTreeMap<Vec<u8>, Seen>> {
        let mut seen = BTreeMap::new();
        let mut hidden = BTreeSet::new();
        if is_above {
            let upper = join_path(self.upper, directory);
            for entry in fs::read_dir(&upper).at("list", &upper)? {
                let entry = entry.at("list", &upper)?;
                let metadata = entry.metadata().at("inspect", &entry.path())?;
                let name = entry.file_name().into_vec();
                if upper::is_whiteout(&metadata) {
                    hidden.insert(name);
                    continue;
                }
                let content = match metadata.is_file() && upper::is_without_content(&entry.path()) {
                    false => None,
                    true => {
                        let path = join_names(directory, &name);
                        let node = self.below(lower, &path, &name)?;
                        Some(node.ok_or_else(|| Error::corrupt(&entry.path(), "its content is nowhere"))?)
                    }
                };
                seen.insert(name, Seen::Above { metadata, content });
            }
        }
        if let Some(lower) = lower {
            for child in self.view.tree().children(lower, 0)? {
                let child = child?;
                let name = child.name()?;
                if !hidden.contains(name) && !seen.contains_key(name) {
                    seen.insert(name.to_owned(), Seen::Below(child.id()));
                }
            }
        }
        Ok(seen)
    }

    /// The node that is the counterpart of what lies above at `path`: `lower` is that of its directory.
    fn below(&self, lower: Option<Node<'_>>, path: &[u8], name: &[u8]) -> Result<Option<NodeId>> {
        let tree = self.view.tree();
        let above = join_path(self.upper, path);
        let found = match (upper::redirect(&above), lower) {
            _ if upper::is_opaque(&above) => None,
            (Some(Redirect::Path(path)), _) => tree.find(&path)?,
            (Some(Redirect::Name(name)), Some(lower)) => tree.lookup(lower, &name)?,
            (None, Some(lower)) => tree.lookup(lower, name)?,
            (_, None) => None,
        };
        let is_alike = |node: &Node<'_>| !above.is_dir() || is_directory(node);
        Ok(found.filter(is_alike).map(|node| node.id()))
    }

    /// Whether what is seen at `path` is another thing than the node: touching a file, or writing the same bytes again,
    /// is no change.
    fn differs(&self, old: Node<'_>, path: &EnvPath, seen: &Seen) -> Result<bool> {
        let (metadata, content) = match seen {
            Seen::Below(node) => {
                let node = self.view.tree().node(*node)?;
                return Ok(node.is_executable() != old.is_executable() || !same_content(node, old)?);
            }
            Seen::Above { metadata, content } => (metadata, content),
        };
        let upper = join_path(self.upper, path.as_bytes());
        let kind = old.kind()?;
        if kind == NodeKind::Symlink && metadata.is_symlink() {
            let target = fs::read_link(&upper).at("read the link", &upper)?;
            return Ok(target.as_os_str().as_bytes() != old.symlink_target()?);
        }
        if kind != NodeKind::File || !metadata.is_file() || is_executable(metadata) != old.is_executable() {
            return Ok(true);
        }
        if let Some(content) = content {
            return Ok(!same_content(self.view.tree().node(*content)?, old)?);
        }
        let size_bytes = self.view.attributes(old)?.size_bytes;
        Ok(metadata.len() != size_bytes || !same_bytes(&upper, &self.view.open(old)?)?)
    }

    /// What is seen at a path as an entry of a layer; its path is added to `bound` if it is good at this prefix only.
    fn take_in(&self, ingest: &mut Ingest<'_>, path: EnvPath, seen: &Seen, bound: &mut Vec<EnvPath>) -> Result<Entry> {
        let tree = self.view.tree();
        let (metadata, content) = match seen {
            Seen::Below(node) => return entry_of(path, tree.node(*node)?),
            Seen::Above { metadata, content } => (metadata, content),
        };
        let upper = join_path(self.upper, path.as_bytes());
        let kind = if metadata.is_dir() {
            EntryKind::Directory
        } else if metadata.is_symlink() {
            let target = fs::read_link(&upper).at("read the link", &upper)?;
            EntryKind::Symlink(relocatable(&path, target.as_os_str().as_bytes(), self.view.prefix()))
        } else if let Some(content) = content {
            EntryKind::File(FileEntry {
                executable: is_executable(metadata),
                ..file_of(tree.node(*content)?)?
            })
        } else if metadata.is_file() {
            let mut file = File::open(&upper).at("open", &upper)?;
            let stored = ingest.add(&upper, &mut file)?;
            let placeholder = match self.find_prefix(ingest, &stored, &path)? {
                Named::Nowhere => None,
                Named::InText(placeholder) => Some(placeholder),
                Named::InBinary => {
                    bound.push(path.clone());
                    None
                }
            };
            EntryKind::File(FileEntry {
                digest: stored.digest,
                sha256: Some(stored.sha256),
                size_bytes: stored.size_bytes,
                executable: is_executable(metadata),
                placeholder,
            })
        } else {
            let what = "it is a device, a pipe or a socket, which an environment cannot hold: remove it";
            return Err(Error::corrupt(&upper, what));
        };
        Ok(Entry {
            path,
            mtime_s: metadata.mtime(),
            kind,
        })
    }

    /// Where a file names the mount path.
    fn find_prefix(&self, ingest: &mut Ingest<'_>, stored: &Stored, path: &EnvPath) -> Result<Named> {
        if stored.size_bytes > MAX_SEARCHED_BYTES {
            return Ok(Named::Nowhere);
        }
        Ok(prefix::find(&ingest.content(stored)?, self.view.prefix(), path))
    }
}

impl Installed<'_> {
    /// Puts what differs into the store, as a layer. None when nothing does.
    ///
    /// # Errors
    /// When a file cannot be read, is a device, a pipe or a socket, or the store cannot be written.
    pub fn capture(&self, store: &Store, workspace: &Workspace) -> Result<Option<Captured>> {
        let all = Writable {
            view: self.view,
            upper: self.directory,
        };
        all.take_all(store, workspace, None, self.is_ignored, LayerName::OfContent)
    }
}

/// The target of the link at `path`, relative where it names a place below `prefix`: that place is another at every prefix.
#[must_use]
pub fn relocatable(path: &EnvPath, target: &[u8], prefix: &str) -> Vec<u8> {
    let inside = target
        .strip_prefix(prefix.as_bytes())
        .filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
    let Some(inside) = inside else {
        return target.to_owned();
    };
    let up = b"../".repeat(path.names().count() - 1);
    let relative = [&up, inside.strip_prefix(b"/").unwrap_or_default()].concat();
    match relative.strip_suffix(b"/").unwrap_or(&relative) {
        b"" => b".".to_vec(),
        relative => relative.to_owned(),
    }
}

/// A node as an entry at another path.
fn entry_of(path: EnvPath, node: Node<'_>) -> Result<Entry> {
    Ok(Entry {
        path,
        mtime_s: node.mtime_s(),
        kind: match node.kind()? {
            NodeKind::Directory => EntryKind::Directory,
            NodeKind::Symlink => EntryKind::Symlink(node.symlink_target()?.to_owned()),
            NodeKind::File => EntryKind::File(file_of(node)?),
        },
    })
}

fn file_of(node: Node<'_>) -> Result<FileEntry> {
    Ok(FileEntry {
        digest: node.digest(),
        sha256: None,
        size_bytes: node.stored_bytes(),
        executable: node.is_executable(),
        placeholder: node.placeholder()?,
    })
}

/// Whether two nodes are files with the same bytes at every prefix, or links to the same target.
fn same_content(a: Node<'_>, b: Node<'_>) -> Result<bool> {
    Ok(match (a.kind()?, b.kind()?) {
        (NodeKind::File, NodeKind::File) => a.digest() == b.digest() && a.placeholder()? == b.placeholder()?,
        (NodeKind::Symlink, NodeKind::Symlink) => a.symlink_target()? == b.symlink_target()?,
        _ => false,
    })
}

fn is_directory(node: &Node<'_>) -> bool {
    matches!(node.kind(), Ok(NodeKind::Directory))
}

fn is_executable(metadata: &Metadata) -> bool {
    metadata.mode() & 0o111 != 0
}

/// Whether a file tells other installers to leave the environment alone (PEP 668, CEP 22). Writable mounts hide it, which is
/// no change.
fn is_installer_note(directory: &[u8], name: &[u8]) -> bool {
    name == b"EXTERNALLY-MANAGED" || (directory == b"conda-meta" && name == b"frozen")
}

fn same_bytes(path: &Path, old: &crate::view::OpenFile) -> Result<bool> {
    let mut file = File::open(path).at("open", path)?;
    let mut offset = 0;
    let (mut new, mut known) = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
    loop {
        let len = match file.read(&mut new) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).at("read", path),
        };
        if len == 0 {
            return Ok(offset == old.size_bytes());
        }
        let known_bytes = old.read_at(offset, &mut known[..len])?;
        if new[..len] != known[..known_bytes] {
            return Ok(false);
        }
        offset += len as u64;
    }
}

fn join_names(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_owned(),
        directory => [directory, b"/", name].concat(),
    }
}

fn join_path(root: &Path, path: &[u8]) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests;
