//! A layer of files that are taken from a prefix, because the archive that brought them cannot be had.
//!
//! A file enters only if it is what its package's record says, so that the same package of two prefixes gives the same layer;
//! what was changed afterwards is left to the comparison that follows. The layer is named by itself and never by the archive:
//! a record in a prefix proves nothing about what a channel published.

use std::collections::BTreeMap;
use std::fs;

use envfs_store::digest::Sha256;
use envfs_store::ingest::{Ingest, Stored, Written};
use envfs_store::layer::{Entry, EntryKind, FileEntry, Layer};
use envfs_store::path::EnvPath;
use envfs_store::placeholder::Placeholder;
use envfs_store::tree::merge::DIRECTORY_MTIME_S;
use envfs_store::workspace::Workspace;
use envfs_store::{Store, capture};
use rattler_conda_types::package::FileMode;
use sha2::Digest as _;

use super::ImportError;
use super::prefix::{Found, FoundKind, Prefix};
use super::relocate::{self, PLACEHOLDER};
use crate::archive::find_placeholder;

/// Files of more bytes than this are not searched for the prefix where no record says that they name it.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// What a package's record says of a file.
#[derive(Default)]
pub(super) struct Expected {
    /// What it was in the archive, or, if it was made at the installation, what that made.
    pub(super) sha256: Option<Sha256>,
    /// Whether it may have been made at the installation, and name the prefix without a placeholder.
    pub(super) is_made: bool,
    /// What it was when it was installed, where that is another thing.
    pub(super) sha256_in_prefix: Option<Sha256>,
    /// The placeholder that was replaced, and how.
    pub(super) placeholder: Option<(String, FileMode)>,
}

/// A layer on its way.
pub(super) struct OwnLayer<'a> {
    prefix: &'a Prefix,
    /// The directory of the environment, with a `/` before it, in which the prefix comes to lie; else empty.
    inside: &'static str,
    /// The paths in the prefix that texts may name as theirs, each with a `/` before it; the empty one stands for all.
    named: Vec<String>,
    store: &'a Store,
    workspace: &'a Workspace,
    ingest: Ingest<'a>,
    entries: BTreeMap<EnvPath, Entry>,
}

impl<'a> OwnLayer<'a> {
    pub(super) fn new(prefix: &'a Prefix, store: &'a Store, workspace: &'a Workspace) -> Result<Self, ImportError> {
        Self::nested(prefix, "", vec![String::new()], store, workspace)
    }

    /// A layer of files of a prefix that comes to lie in the directory `inside` of the environment, which has a `/` before it. Of
    /// the prefix only the paths `named` come along.
    pub(super) fn nested(
        prefix: &'a Prefix,
        inside: &'static str,
        named: Vec<String>,
        store: &'a Store,
        workspace: &'a Workspace,
    ) -> Result<Self, ImportError> {
        Ok(Self {
            prefix,
            inside,
            named,
            store,
            workspace,
            ingest: Ingest::new(store, workspace)?,
            entries: BTreeMap::new(),
        })
    }

    /// Takes in what is at `path`, as `target` of the layer. False when it is not what is expected.
    pub(super) fn take(
        &mut self,
        path: &EnvPath,
        found: &Found,
        target: EnvPath,
        expected: Expected,
    ) -> Result<bool, ImportError> {
        let kind = match &found.kind {
            FoundKind::Directory => EntryKind::Directory,
            FoundKind::Symlink(to) => EntryKind::Symlink(capture::relocatable(path, to, &self.prefix.text)),
            FoundKind::File { executable, size_bytes } => match self.file(path, *size_bytes, expected)? {
                Some((stored, placeholder)) => self.entry(stored, *executable, placeholder),
                None => return Ok(false),
            },
        };
        self.add(target, found.mtime_s, kind);
        Ok(true)
    }

    /// Adds a file that is made anew.
    pub(super) fn add_file(
        &mut self,
        target: EnvPath,
        mtime_s: i64,
        content: &[u8],
        executable: bool,
    ) -> Result<(), ImportError> {
        let placeholder = placeholder_of(content);
        let stored = self.ingest.add_bytes(content)?;
        let kind = self.entry(stored, executable, placeholder);
        self.add(target, mtime_s, kind);
        Ok(())
    }

    pub(super) fn add(&mut self, path: EnvPath, mtime_s: i64, kind: EntryKind) {
        let mtime_s = mtime_s.max(DIRECTORY_MTIME_S);
        self.entries.insert(path.clone(), Entry { path, mtime_s, kind });
    }

    /// Makes the layer durable, unless the store has it.
    pub(super) fn publish(self, info: BTreeMap<String, Vec<u8>>) -> Result<(Layer, Written), ImportError> {
        let is_patched = |entry: &Entry| matches!(&entry.kind, EntryKind::File(file) if file.placeholder.is_some());
        let files = self.entries.values().filter(|entry| !is_patched(entry));
        let newest_s = files.map(|entry| entry.mtime_s).max().unwrap_or(DIRECTORY_MTIME_S);
        let mut entries: Vec<Entry> = self.entries.into_values().collect();
        // When these were written is a property of the prefix, and not of the package.
        for entry in entries.iter_mut().filter(|entry| is_patched(entry)) {
            entry.mtime_s = newest_s;
        }
        let layer = Layer {
            archive: Sha256::from_bytes([0; 32]),
            info,
            patched_mtime_s: newest_s.saturating_add(1),
            entries,
        };
        let layer = layer.named_by_itself();
        let mut written = self.ingest.publish()?;
        if !self.store.has_layer(&layer.archive) {
            written.bytes += layer.publish(self.store, self.workspace)?;
            written.inodes += 1;
        }
        Ok((layer, written))
    }

    fn entry(&self, stored: Stored, executable: bool, placeholder: Option<Placeholder>) -> EntryKind {
        EntryKind::File(FileEntry {
            digest: stored.digest,
            sha256: Some(stored.sha256),
            size_bytes: stored.size_bytes,
            executable,
            placeholder,
        })
    }

    fn file(
        &mut self,
        path: &EnvPath,
        size_bytes: u64,
        expected: Expected,
    ) -> Result<Option<(Stored, Option<Placeholder>)>, ImportError> {
        let place = self.prefix.place(path);
        let failed = |source| ImportError::Io {
            path: place.clone(),
            source,
        };
        if let Some(announced) = expected.placeholder {
            let content = fs::read(&place).map_err(failed)?;
            return self.patched(&content, announced, expected.sha256, expected.sha256_in_prefix);
        }
        if (expected.sha256.is_none() || expected.is_made) && size_bytes <= MAX_TEXT_BYTES {
            let content = fs::read(&place).map_err(failed)?;
            if expected.sha256.is_some_and(|sha256| sha256 != digest(&content)) {
                return Ok(None);
            }
            let is_text = !content.contains(&0) && std::str::from_utf8(&content).is_ok();
            if is_text && let Some(content) = self.relocated(&content) {
                return Ok(Some((self.ingest.add_bytes(&content)?, placeholder_of(&content))));
            }
            return Ok(Some((self.ingest.add_bytes(&content)?, None)));
        }
        let mut file = fs::File::open(&place).map_err(failed)?;
        let stored = self.ingest.add(&place, &mut file)?;
        let is_expected = expected.sha256.is_none_or(|sha256| sha256 == stored.sha256);
        Ok(is_expected.then_some((stored, None)))
    }

    /// A text that names what comes along where it will lie; nothing where it names none of it.
    fn relocated(&self, content: &[u8]) -> Option<Vec<u8>> {
        let mut relocated = None;
        for path in &self.named {
            let installed = format!("{}{path}", self.prefix.text);
            let text = relocated.as_deref().unwrap_or(content);
            let changed = relocate::text(text, &installed, &format!("{PLACEHOLDER}{}{path}", self.inside));
            relocated = changed.or(relocated);
        }
        relocated
    }

    /// A file in which an installer had replaced a placeholder.
    fn patched(
        &mut self,
        content: &[u8],
        (placeholder, mode): (String, FileMode),
        sha256: Option<Sha256>,
        sha256_in_prefix: Option<Sha256>,
    ) -> Result<Option<(Stored, Option<Placeholder>)>, ImportError> {
        let installed = &self.prefix.text;
        // Together they have the length that there is room for.
        let shortened = placeholder.len().saturating_sub(self.inside.len());
        let placeholder = placeholder.get(..shortened).unwrap_or_default().to_owned();
        let with_inside = format!("{placeholder}{}", self.inside);
        let restored = match mode {
            FileMode::Text => relocate::text(content, installed, &with_inside),
            FileMode::Binary => relocate::binary(content, installed, &with_inside),
        };
        let restored = restored.as_deref().unwrap_or(content);
        if sha256.is_none_or(|sha256| sha256 == digest(restored)) {
            let placeholder = find_placeholder(placeholder, mode, restored);
            return Ok(Some((self.ingest.add_bytes(restored)?, Some(placeholder))));
        }
        if sha256_in_prefix != Some(digest(content)) {
            return Ok(None);
        }
        // It is what was installed, and what it was before cannot be told: then the prefix itself is what is replaced.
        let placeholder = find_placeholder(installed.clone(), mode, content);
        Ok(Some((self.ingest.add_bytes(content)?, Some(placeholder))))
    }
}

/// Where a text names [`PLACEHOLDER`].
fn placeholder_of(content: &[u8]) -> Option<Placeholder> {
    let found = find_placeholder(PLACEHOLDER.to_owned(), FileMode::Text, content);
    Some(found).filter(Placeholder::changes_content)
}

pub(super) fn digest(content: &[u8]) -> Sha256 {
    Sha256::from_bytes(sha2::Sha256::digest(content).into())
}
