//! What a directory and an environment disagree on becomes a layer and a new environment.
//!
//! A writable mount is an overlay: the environment below, a directory above that holds what was changed. What the merged
//! view and the tree disagree on is the change, and only directories that exist above can disagree, so a capture costs
//! what was touched and not what exists. How overlayfs notes deletions and renames need not be known: both views are
//! listed and compared. A directory that another installer made is compared in the same way, all of it.
//!
//! Texts that name the mount path are recorded with it as their placeholder, so that the new environment can be seen
//! anywhere. Binaries that name it stay as they are.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::digest::Sha256;
use crate::environment::Environment;
use crate::error::{Error, IoContext, Result};
use crate::ingest::{Ingest, Stored, Written};
use crate::layer::{Entry, EntryKind, FileEntry, Layer};
use crate::path::EnvPath;
use crate::placeholder::{Encoding, Occurrences, Placeholder, TextOccurrence, is_whole_path};
use crate::signature;
use crate::store::Store;
use crate::tree::merge::{Leaf, Merge};
use crate::tree::{NodeId, NodeKind};
use crate::view::{Attributes, View};
use crate::workspace::Workspace;
use serde::Serialize;

/// The name under which a captured layer lists what was removed: paths, each ended by NUL.
const REMOVED: &str = "removed";

/// Files of more bytes than this are not searched for the mount path: no text that installers write is as large.
const MAX_TEXT_BYTES: u64 = 16 * 1024 * 1024;

/// A writable mount, as its parts are seen.
#[derive(Debug, Clone, Copy)]
pub struct Writable<'a> {
    /// The environment below, as seen at the mount point.
    pub view: &'a View,
    /// The mount point.
    pub merged: &'a Path,
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
    /// Whether what differs at a path, with everything below it where it is no directory, is no change.
    pub is_ignored: &'a dyn Fn(&EnvPath, ChangeKind) -> bool,
}

/// Is told a path that differs, and what is there now.
type Report<'a> = dyn FnMut(EnvPath, ChangeKind, Option<&Metadata>) -> Result<()> + 'a;

/// What was captured: the layer, and the changes that it holds, sorted by path.
#[derive(Debug)]
pub struct Captured {
    /// The layer.
    pub layer: Layer,
    /// What it changes.
    pub changes: Vec<Change>,
    /// What it added to the store.
    pub written: Written,
}

impl Writable<'_> {
    /// What was changed, sorted by path.
    ///
    /// # Errors
    /// When a directory cannot be read or the tree is damaged.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let mut found = Vec::new();
        self.sides().compare(&[], false, &mut |path, kind, _| {
            found.push(Change { path, kind });
            Ok(())
        })?;
        found.sort();
        Ok(found)
    }

    /// Puts what was changed into the store, as a layer. None when nothing was.
    ///
    /// # Errors
    /// When a file cannot be read, is a device, a pipe or a socket, or the store cannot be written.
    pub fn capture(&self, store: &Store, workspace: &Workspace) -> Result<Option<Captured>> {
        self.sides().capture(store, workspace)
    }

    fn sides(&self) -> Sides<'_> {
        Sides {
            view: self.view,
            merged: self.merged,
            upper: Some(self.upper),
            is_ignored: &|_, _| false,
        }
    }
}

impl Installed<'_> {
    /// Puts what differs into the store, as a layer. None when nothing does.
    ///
    /// # Errors
    /// When a file cannot be read, is a device, a pipe or a socket, or the store cannot be written.
    pub fn capture(&self, store: &Store, workspace: &Workspace) -> Result<Option<Captured>> {
        let sides = Sides {
            view: self.view,
            merged: self.directory,
            upper: None,
            is_ignored: self.is_ignored,
        };
        sides.capture(store, workspace)
    }
}

/// An environment and what is to be compared with it.
#[derive(Clone, Copy)]
struct Sides<'a> {
    view: &'a View,
    merged: &'a Path,
    /// Where everything that can differ is, if it is known.
    upper: Option<&'a Path>,
    is_ignored: &'a dyn Fn(&EnvPath, ChangeKind) -> bool,
}

impl Sides<'_> {
    fn capture(&self, store: &Store, workspace: &Workspace) -> Result<Option<Captured>> {
        let mut ingest = Ingest::new(store, workspace)?;
        let mut changes = Vec::new();
        let mut entries = Vec::new();
        let mut removed = Vec::new();
        self.compare(&[], self.upper.is_none(), &mut |path, kind, metadata| {
            if (self.is_ignored)(&path, kind) {
                return Ok(());
            }
            changes.push(Change {
                path: path.clone(),
                kind,
            });
            match metadata {
                Some(metadata) => entries.push(self.take_in(&mut ingest, path, metadata)?),
                None if kind == ChangeKind::Removed => removed.push(path),
                None => {}
            }
            Ok(())
        })?;
        if entries.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        changes.sort();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        removed.sort();
        let layer = Layer {
            archive: Sha256::from_bytes([0; 32]),
            info: [(REMOVED.to_owned(), join(&removed))].into(),
            patched_mtime_s: 0,
            entries,
        };
        // There is no archive.
        let layer = layer.named_by_itself();
        let mut written = ingest.publish()?;
        written.bytes += layer.publish(store, workspace)?;
        written.inodes += 1;
        Ok(Some(Captured {
            layer,
            changes,
            written,
        }))
    }

    /// Calls `report` with every path that differs, with its metadata where there is something to be taken in. `all` says
    /// that nothing in the directory is what the tree has at its place, because the directory was renamed or replaced.
    fn compare(&self, directory: &[u8], all: bool, report: &mut Report<'_>) -> Result<()> {
        let merged = join_path(self.merged, directory);
        let tree = self.view.tree();
        let below = tree
            .find(directory)?
            .filter(|node| matches!(node.kind(), Ok(NodeKind::Directory)));
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(&merged).at("list", &merged)? {
            let entry = entry.at("list", &merged)?;
            let name = entry.file_name().into_vec();
            let path = EnvPath::parse([directory, &name].join(&b"/"[..usize::from(!directory.is_empty())]))?;
            let is_above = self
                .upper
                .is_none_or(|upper| fs::symlink_metadata(join_path(upper, path.as_bytes())).is_ok());
            let old = match below {
                Some(below) => tree.lookup(below, &name)?,
                None => None,
            };
            seen.insert(name);
            if old.is_some() && !is_above && !all {
                continue;
            }
            let metadata = entry.metadata().at("inspect", &entry.path())?;
            let kind = if old.is_some() {
                ChangeKind::Modified
            } else {
                ChangeKind::Added
            };
            if metadata.is_dir() {
                let was_directory = matches!(old.map(|old| old.kind()), Some(Ok(NodeKind::Directory)));
                if !was_directory {
                    report(path.clone(), kind, Some(&metadata))?;
                }
                let is_new = |upper| is_replaced(&join_path(upper, path.as_bytes()));
                let all = all || !was_directory || self.upper.is_some_and(is_new);
                self.compare(path.as_bytes(), all, report)?;
            } else if match old {
                None => true,
                Some(old) => self.differs(old.id(), &path, &metadata)?,
            } {
                report(path, kind, Some(&metadata))?;
            }
        }
        if let Some(below) = below {
            for child in tree.children(below, 0)? {
                let name = child?.name()?;
                if !seen.contains(name) && !is_installer_note(directory, name) {
                    let path = EnvPath::parse([directory, name].join(&b"/"[..usize::from(!directory.is_empty())]))?;
                    report(path, ChangeKind::Removed, None)?;
                }
            }
        }
        Ok(())
    }

    /// Whether what is seen at `path` is another thing than the node: touching a file, or writing the same bytes again,
    /// is no change.
    fn differs(&self, node: NodeId, path: &EnvPath, metadata: &Metadata) -> Result<bool> {
        let tree = self.view.tree();
        let node = tree.node(node)?;
        let merged = join_path(self.merged, path.as_bytes());
        let Attributes {
            kind, size_bytes, mode, ..
        } = self.view.attributes(node)?;
        match kind {
            NodeKind::Directory => Ok(true),
            NodeKind::Symlink => {
                let is_same = metadata.is_symlink()
                    && fs::read_link(&merged)
                        .at("read the link", &merged)?
                        .as_os_str()
                        .as_bytes()
                        == node.symlink_target()?;
                Ok(!is_same)
            }
            NodeKind::File => {
                let is_alike = metadata.is_file()
                    && metadata.len() == size_bytes
                    && (metadata.mode() & 0o111 != 0) == (mode & 0o111 != 0);
                Ok(!is_alike || !same_bytes(&merged, &self.view.open(node)?)?)
            }
        }
    }

    fn take_in(&self, ingest: &mut Ingest<'_>, path: EnvPath, metadata: &Metadata) -> Result<Entry> {
        let merged = join_path(self.merged, path.as_bytes());
        let kind = if metadata.is_dir() {
            EntryKind::Directory
        } else if metadata.is_symlink() {
            let target = fs::read_link(&merged).at("read the link", &merged)?;
            EntryKind::Symlink(relocatable(&path, target.as_os_str().as_bytes(), self.view.prefix()))
        } else if metadata.is_file() {
            let mut file = File::open(&merged).at("open", &merged)?;
            let stored = ingest.add(&merged, &mut file)?;
            EntryKind::File(FileEntry {
                digest: stored.digest,
                sha256: Some(stored.sha256),
                size_bytes: stored.size_bytes,
                executable: metadata.mode() & 0o111 != 0,
                placeholder: self.find_prefix(ingest, &stored)?,
            })
        } else {
            let what = "it is a device, a pipe or a socket, which an environment cannot hold: remove it";
            return Err(Error::corrupt(&merged, what));
        };
        Ok(Entry {
            path,
            mtime_s: metadata.mtime(),
            kind,
        })
    }

    /// Where a text names the mount path.
    fn find_prefix(&self, ingest: &mut Ingest<'_>, stored: &Stored) -> Result<Option<Placeholder>> {
        if stored.size_bytes > MAX_TEXT_BYTES {
            return Ok(None);
        }
        let content = ingest.content(stored)?;
        let prefix = self.view.prefix();
        let is_text = !content.contains(&0) && std::str::from_utf8(&content).is_ok();
        if !is_text {
            return Ok(None);
        }
        let shebang_bytes = if content.starts_with(b"#!") {
            content
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(content.len(), |newline| newline + 1)
        } else {
            0
        };
        let (shebang, rest) = content.split_at(shebang_bytes);
        let occurrences: Vec<_> = memchr::memmem::find_iter(rest, prefix.as_bytes())
            .filter(|&at| is_whole_path(rest, at + prefix.len()))
            .map(|at| TextOccurrence {
                offset_bytes: (shebang_bytes + at) as u64,
                encoding: Encoding::Utf8,
            })
            .collect();
        let placeholder = Placeholder {
            prefix: prefix.to_owned(),
            occurrences: Occurrences::Text {
                shebang: shebang.to_owned(),
                occurrences,
            },
        };
        Ok(Some(placeholder).filter(Placeholder::changes_content))
    }
}

/// The environment that what was captured makes of `environment`, recorded. Its tree stands on the old one's.
///
/// # Errors
/// When something of the environment is missing or damaged, or the store cannot be written.
pub fn commit(
    store: &Store,
    workspace: &Workspace,
    environment: &Environment,
    captured: &Captured,
) -> Result<Environment> {
    let (layer, mut written) = (&captured.layer, captured.written);
    let signature = signature::of_change(&environment.subdir, &environment.signature, &layer.archive);
    let _reservation = store.reserve(&format!("environment-{signature}"))?;
    if let Some(found) = crate::environment::get(store, &signature)? {
        return Ok(found);
    }
    let base = store.tree(&environment.tree)?;
    let mut merge = Merge::from_tree(&base)?;
    for path in removed(layer) {
        merge.remove(&path);
    }
    let name = format!("changes-{}", &layer.archive.to_string()[..16]);
    let package = merge.package(&name);
    for entry in &layer.entries {
        match leaf(entry) {
            Some(leaf) => merge.add(Some(package), &entry.path, leaf),
            None => merge.add_directory(Some(package), &entry.path),
        }
    }
    let tree = merge.write(store, workspace, Some((environment.tree, &base)))?;
    written += Written {
        objects: 0,
        bytes: tree.new_bytes,
        inodes: u64::from(tree.new_bytes > 0) + 1,
    };
    let mut changed = Environment::new(signature, environment.subdir.clone(), tree.digest);
    changed.base = Some(environment.signature);
    changed.variables.clone_from(&environment.variables);
    changed.added = written;
    changed.publish(store, workspace)?;
    Ok(changed)
}

/// The paths that a captured layer removes.
#[must_use]
pub fn removed(layer: &Layer) -> Vec<EnvPath> {
    let paths = layer.info.get(REMOVED).map_or(b"".as_slice(), Vec::as_slice);
    paths
        .split(|&byte| byte == 0)
        .filter_map(|path| EnvPath::parse(path).ok())
        .collect()
}

fn leaf(entry: &Entry) -> Option<Leaf> {
    match &entry.kind {
        EntryKind::Directory => None,
        EntryKind::Symlink(target) => Some(Leaf::Symlink {
            target: target.clone(),
            mtime_s: entry.mtime_s,
        }),
        EntryKind::File(file) => Some(Leaf::File {
            digest: file.digest,
            size_bytes: file.size_bytes,
            mtime_s: entry.mtime_s,
            executable: file.executable,
            placeholder: file.placeholder.clone(),
        }),
    }
}

/// Whether overlayfs does not merge this upper directory with the lower one of the same name (overlayfs.rst: `opaque`,
/// and `redirect` of a renamed directory; in `user.` for mounts of ordinary users).
fn is_replaced(upper: &Path) -> bool {
    ["trusted", "user"].into_iter().any(|namespace| {
        ["opaque", "redirect"].into_iter().any(|name| {
            let mut value = [0; 4096];
            let found = rustix::fs::lgetxattr(upper, format!("{namespace}.overlay.{name}"), &mut value);
            // An opaque mark of `x` only says that there are other marks in the directory.
            matches!(found, Ok(len) if name == "redirect" || value[..len] == *b"y")
        })
    })
}

/// Whether a file tells other installers to leave the environment alone (PEP 668, CEP 22). Writable mounts hide it, which is
/// no change.
fn is_installer_note(directory: &[u8], name: &[u8]) -> bool {
    name == b"EXTERNALLY-MANAGED" || (directory == b"conda-meta" && name == b"frozen")
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

fn join(paths: &[EnvPath]) -> Vec<u8> {
    paths
        .iter()
        .flat_map(|path| [path.as_bytes(), b"\0"].concat())
        .collect()
}

fn join_path(root: &Path, path: &[u8]) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests;
