//! A tree as it looks at one prefix: attributes, names and bytes, without a kernel.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::patch::{self, PatchError, Plan};
use crate::store::{ObjectBytes, Store};
use crate::tree::{Node, NodeKind, Tree};

/// An environment at the place where it is seen.
#[derive(Debug, Clone)]
pub struct View {
    store: Store,
    tree: Arc<Tree>,
    prefix: String,
}

/// An environment cannot be seen at a prefix.
#[derive(Debug, thiserror::Error)]
pub enum PrefixError {
    /// A binary has no room for it.
    #[error(
        "the path `{prefix}` has {} bytes, and `{file}` of {package} has room for {max_bytes}: use a path of at most \
         {max_bytes} bytes",
        prefix.len()
    )]
    TooLong {
        /// The prefix that was asked for.
        prefix: String,
        /// The file that limits it.
        file: String,
        /// The package of that file.
        package: String,
        /// The longest prefix that fits.
        max_bytes: usize,
    },
    /// Files cannot hold it.
    #[error("the path `{}` {reason}: use a path that is absolute and valid UTF-8, without line breaks", path.display())]
    Unusable {
        /// The prefix that was asked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What a node looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: NodeKind,
    /// File: its size at this prefix. Symlink: the length of its target. Directory: 0.
    pub size_bytes: u64,
    /// Permission bits: 0755 for directories and what is executable, 0644 for other files, 0777 for symlinks.
    pub mode: u16,
    /// Modification time in seconds since 1970-01-01 UTC.
    pub mtime_s: i64,
    /// Number of links: 1, for directories 2 and one for each directory in it.
    pub links: u32,
}

/// The bytes of one file at one prefix, to be read at any offset.
#[derive(Debug)]
pub struct OpenFile {
    stored: ObjectBytes,
    plan: Option<Plan>,
    size_bytes: u64,
    path: PathBuf,
}

impl View {
    /// `tree` as seen at `prefix`, an absolute path.
    ///
    /// # Errors
    /// When the prefix does not fit the files: too long for a binary, relative, not UTF-8, or with a line break.
    pub fn new(store: &Store, tree: Arc<Tree>, prefix: &Path) -> Result<Self, PrefixError> {
        let prefix = check_prefix(prefix)?;
        if let Some((max_bytes, id)) = tree.max_prefix()
            && prefix.len() > max_bytes
        {
            let node = tree.node(id)?;
            return Err(PrefixError::TooLong {
                file: String::from_utf8_lossy(&tree.path(node)?).into_owned(),
                package: node.package()?.unwrap_or("the environment").to_owned(),
                prefix,
                max_bytes,
            });
        }
        Ok(Self {
            store: store.clone(),
            tree,
            prefix,
        })
    }

    /// The same environment at another place.
    ///
    /// # Errors
    /// As [`View::new`].
    pub fn at(&self, prefix: &Path) -> Result<Self, PrefixError> {
        Self::new(&self.store, Arc::clone(&self.tree), prefix)
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What `node` looks like. No object is opened.
    ///
    /// # Errors
    /// When the tree is damaged.
    pub fn attributes(&self, node: Node<'_>) -> Result<Attributes> {
        let kind = node.kind()?;
        let (size_bytes, mode, links) = match kind {
            NodeKind::Directory => (0, 0o755, node.subdirectory_count().saturating_add(2)),
            NodeKind::Symlink => (node.stored_bytes(), 0o777, 1),
            NodeKind::File => {
                let mode = if node.is_executable() { 0o755 } else { 0o644 };
                (self.size_at_prefix(node)?, mode, 1)
            }
        };
        Ok(Attributes {
            kind,
            size_bytes,
            mode,
            mtime_s: node.mtime_s(),
            links,
        })
    }

    /// Opens a file. Small files are read and checked against their digest here; large ones are read on demand.
    ///
    /// # Errors
    /// When its bytes are missing, are not those its digest names, or its placeholders do not fit.
    pub fn open(&self, node: Node<'_>) -> Result<OpenFile> {
        let stored = self
            .store
            .open_object(&node.digest(), node.stored_bytes(), node.location()?)?;
        let plan = match node.placeholder()? {
            None => None,
            Some(placeholder) => Some(
                Plan::new(&placeholder, node.stored_bytes(), &self.prefix)
                    .map_err(|error| self.misfit(node, &error))?,
            ),
        };
        Ok(OpenFile {
            size_bytes: plan.as_ref().map_or(node.stored_bytes(), Plan::size_bytes),
            path: self.store.object_path(&node.digest()),
            stored,
            plan,
        })
    }

    /// The whole content of a file.
    ///
    /// # Errors
    /// As [`View::open`] and [`OpenFile::read_at`].
    pub fn read(&self, node: Node<'_>) -> Result<Vec<u8>> {
        let file = self.open(node)?;
        let mut content = vec![0; usize::try_from(file.size_bytes()).unwrap_or(usize::MAX)];
        let len = file.read_at(0, &mut content)?;
        content.truncate(len);
        Ok(content)
    }

    fn size_at_prefix(&self, node: Node<'_>) -> Result<u64> {
        match node.placeholder()? {
            None => Ok(node.stored_bytes()),
            Some(placeholder) => patch::size_bytes(&placeholder, node.stored_bytes(), &self.prefix)
                .map_err(|error| self.misfit(node, &error)),
        }
    }

    fn misfit(&self, node: Node<'_>, error: &PatchError) -> Error {
        let path = self.tree.path(node).unwrap_or_default();
        Error::corrupt(Path::new(&*String::from_utf8_lossy(&path)), error.to_string())
    }
}

impl OpenFile {
    /// The size of the file.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The whole object's own descriptor, where the file is one, unpatched: a kernel may read it directly.
    #[must_use]
    pub fn whole_object(&self) -> Option<&File> {
        match (&self.stored, &self.plan) {
            (ObjectBytes::Whole(file), None) => Some(file),
            _ => None,
        }
    }

    /// The stored object's own descriptor, where it is a whole file, patched or not.
    #[must_use]
    pub fn stored_object(&self) -> Option<&File> {
        match &self.stored {
            ObjectBytes::Whole(file) => Some(file),
            ObjectBytes::Small(_) => None,
        }
    }

    /// Whether the bytes in `range` are those that the stored object has at the same place.
    #[must_use]
    pub fn is_stored(&self, range: &Range<u64>) -> bool {
        self.plan.as_ref().is_none_or(|plan| plan.is_stored(range))
    }

    /// Fills `buffer` from `offset`; fewer bytes than it holds only at the end of the file.
    ///
    /// # Errors
    /// When the stored bytes cannot be read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match &self.plan {
            Some(plan) => plan.read(offset, buffer, |offset, into| self.read_stored(offset, into)),
            None => {
                let available = usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
                let len = buffer.len().min(available);
                self.read_stored(offset, &mut buffer[..len])?;
                Ok(len)
            }
        }
    }

    /// The bytes from `offset`, at most `len`, where they are in memory already: of small files without a placeholder.
    #[must_use]
    pub fn bytes_in_memory(&self, offset: u64, len: usize) -> Option<&[u8]> {
        match (&self.stored, &self.plan) {
            (ObjectBytes::Small(bytes), None) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(len).min(bytes.len());
                Some(&bytes[start..end])
            }
            _ => None,
        }
    }

    /// The bytes from `offset`, at most `len`, borrowed where they are in memory already.
    ///
    /// # Errors
    /// When the stored bytes cannot be read.
    pub fn bytes_at(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.bytes_in_memory(offset, len) {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut buffer = vec![0; len];
        let read = self.read_at(offset, &mut buffer)?;
        buffer.truncate(read);
        Ok(Cow::Owned(buffer))
    }

    fn read_stored(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        match &self.stored {
            ObjectBytes::Whole(file) => file.read_exact_at(into, offset).at("read", &self.path),
            ObjectBytes::Small(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let from = start.checked_add(into.len()).and_then(|end| bytes.get(start..end));
                into.copy_from_slice(from.ok_or_else(|| Error::corrupt(&self.path, "it is shorter than recorded"))?);
                Ok(())
            }
        }
    }
}

fn check_prefix(prefix: &Path) -> Result<String, PrefixError> {
    let refuse = |reason| {
        Err(PrefixError::Unusable {
            path: prefix.to_owned(),
            reason,
        })
    };
    let Some(text) = prefix.to_str() else {
        return refuse("is not UTF-8");
    };
    if !prefix.is_absolute() {
        return refuse("is not absolute");
    }
    if text.contains(['\n', '\r', '\0']) {
        return refuse("holds a line break");
    }
    Ok(text.trim_end_matches('/').to_owned())
}
