//! What an environment looks like, wherever it is seen: in a directory, or through a `View` without a kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use envfs_store::tree::{Node, NodeKind};
use envfs_store::view::View;

/// Everything below a prefix, by its path from there.
pub type Listing = BTreeMap<String, Seen>;

/// One file, as a program would see it.
#[derive(Clone, PartialEq, Eq)]
pub enum Seen {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// BLAKE3 of what is read from it.
        content: blake3::Hash,
        /// Its size as its attributes say.
        size_bytes: u64,
        /// Permission bits.
        mode: u32,
        /// Seconds since 1970-01-01 UTC.
        mtime_s: i64,
    },
    /// A symlink and its target.
    Symlink(Vec<u8>),
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => write!(f, "directory"),
            Self::Symlink(target) => write!(f, "symlink to {}", String::from_utf8_lossy(target)),
            Self::File {
                content,
                size_bytes,
                mode,
                ..
            } => {
                write!(f, "file {mode:04o} of {size_bytes} bytes, {}", &content.to_hex()[..12])
            }
        }
    }
}

/// Lists a directory, with everything in it.
///
/// # Panics
/// When something cannot be read.
#[must_use]
pub fn list_directory(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.unwrap().path();
            let name = String::from_utf8_lossy(path.strip_prefix(root).unwrap().as_os_str().as_bytes()).into_owned();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let seen = if metadata.is_dir() {
                pending.push(path);
                Seen::Directory
            } else if metadata.is_symlink() {
                Seen::Symlink(std::fs::read_link(&path).unwrap().into_os_string().into_vec())
            } else {
                let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert_eq!(
                    bytes.len() as u64,
                    metadata.len(),
                    "{}: size and content disagree",
                    path.display()
                );
                Seen::File {
                    content: blake3::hash(&bytes),
                    size_bytes: metadata.len(),
                    mode: metadata.permissions().mode() & 0o7777,
                    mtime_s: metadata.mtime(),
                }
            };
            listing.insert(name, seen);
        }
    }
    listing
}

/// Lists an environment as it is seen at a prefix, without a kernel.
///
/// # Panics
/// When something cannot be read.
#[must_use]
pub fn list_view(view: &View) -> Listing {
    let mut listing = Listing::new();
    let mut pending = vec![(String::new(), view.tree().root().unwrap())];
    while let Some((parent, directory)) = pending.pop() {
        for child in view.tree().children(directory, 0).unwrap() {
            let child = child.unwrap();
            let name = String::from_utf8_lossy(child.name().unwrap()).into_owned();
            let path = if parent.is_empty() {
                name
            } else {
                format!("{parent}/{name}")
            };
            if child.kind().unwrap() == NodeKind::Directory {
                pending.push((path.clone(), child));
            }
            let seen = see(view, child, &path);
            listing.insert(path, seen);
        }
    }
    listing
}

fn see(view: &View, node: Node<'_>, path: &str) -> Seen {
    let attributes = view.attributes(node).unwrap_or_else(|error| panic!("{path}: {error}"));
    match attributes.kind {
        NodeKind::Directory => Seen::Directory,
        NodeKind::Symlink => Seen::Symlink(node.symlink_target().unwrap().to_vec()),
        NodeKind::File => {
            let bytes = view.read(node).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(
                bytes.len() as u64,
                attributes.size_bytes,
                "{path}: size and content disagree"
            );
            Seen::File {
                content: blake3::hash(&bytes),
                size_bytes: attributes.size_bytes,
                mode: attributes.mode.into(),
                mtime_s: attributes.mtime_s,
            }
        }
    }
}
