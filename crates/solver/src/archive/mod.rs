//! Conda archives become layers: read once from front to back, hashed, split into objects, checked.
//!
//! An archive's bytes were verified before they come here, and are still not trusted: what could leave the environment
//! is refused, every file is checked against `info/paths.json`, and nothing of an archive that fails is kept. Knows
//! formats of packages; nothing of channels, of environments, or of where a file will be linked.

mod container;
mod contents;
mod members;
mod paths;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use envfs_store::ingest::{Ingest, Written};
use envfs_store::layer::Layer;
use envfs_store::workspace::Workspace;
use envfs_store::{Store, digest};
use rattler_conda_types::package::IndexJson;

use crate::limits::{ArchiveLimits, Exceeded, Meter};
use contents::Contents;
pub(crate) use paths::find_placeholder;

/// Metadata that later steps need, kept in the layer: under `info/` in the archive.
const KEPT_INFO: [&str; 2] = ["index.json", "link.json"];

/// Why an archive cannot become a layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is not an archive, or it ends too early.
    #[error("`{archive}` cannot be read as a conda package; it may be damaged: fetch it again or tell its channel")]
    Unreadable {
        /// The archive's file name.
        archive: String,
        /// Where it fails.
        source: io::Error,
    },
    /// It breaks the rules of its format.
    #[error("`{archive}` is not a valid conda package: {what}")]
    Malformed {
        /// The archive's file name.
        archive: String,
        /// What is wrong.
        what: String,
    },
    /// A file in it could reach out of the environment.
    #[error("`{archive}` is refused: `{path}` {reason}")]
    Forbidden {
        /// The archive's file name.
        archive: String,
        /// The file.
        path: String,
        /// Why it may not be.
        reason: String,
    },
    /// A file in it is not the one that its metadata announces.
    #[error(
        "`{archive}` is refused: `{path}` has the sha256 {actual}, but its info/paths.json says {expected}; the package \
         was built wrong or tampered with: use another build of it, or tell its channel"
    )]
    WrongFile {
        /// The archive's file name.
        archive: String,
        /// The file.
        path: String,
        /// What its metadata says.
        expected: digest::Sha256,
        /// What it is.
        actual: digest::Sha256,
    },
    /// It is more than an archive may be.
    #[error("`{archive}` is refused: {limit}")]
    Limit {
        /// The archive's file name.
        archive: String,
        /// What it passes.
        limit: Exceeded,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

impl ArchiveError {
    fn of_limit(archive: &str, limit: Exceeded) -> Self {
        Self::Limit {
            archive: archive.to_owned(),
            limit,
        }
    }

    /// What ended a reading: a limit, or damage.
    fn of_io(archive: &str, source: io::Error) -> Self {
        match Exceeded::in_error(&source) {
            Some(limit) => Self::of_limit(archive, limit),
            None => Self::Unreadable {
                archive: archive.to_owned(),
                source,
            },
        }
    }
}

/// Reads `file`, the archive called `name` whose digest is `sha256`, and puts its files and its layer into the store.
///
/// # Errors
/// When the archive is refused or the store cannot be written; then no layer refers to anything.
pub(crate) fn ingest(
    store: &Store,
    workspace: &Workspace,
    file: File,
    name: &str,
    sha256: digest::Sha256,
    limits: &ArchiveLimits,
) -> Result<(Layer, Written), ArchiveError> {
    let archive_bytes = file
        .metadata()
        .map_err(|source| ArchiveError::of_io(name, source))?
        .len();
    let meter = Meter::new(*limits, archive_bytes).map_err(|limit| ArchiveError::of_limit(name, limit))?;
    let mut ingest = Ingest::new(store, workspace)?;
    let mut contents = Contents::new(name, &meter);
    container::for_each_tar(file, name, &meter, &mut |tar| contents.read(tar, &mut ingest))?;
    contents.check_parents()?;
    match contents.info("index.json").map(serde_json::from_slice::<IndexJson>) {
        None => return Err(contents.malformed("it has no info/index.json")),
        Some(Err(error)) => return Err(contents.malformed(format!("info/index.json: {error}"))),
        Some(Ok(_)) => {}
    }
    let entries = paths::entries(&contents, &mut ingest)?;
    let layer = Layer {
        archive: sha256,
        info: kept_info(&contents),
        patched_mtime_s: contents.about_mtime_s().saturating_add(1),
        entries,
    };
    let mut written = ingest.publish()?;
    let layer_bytes = layer.publish(store, workspace)?;
    written += Written {
        objects: 0,
        bytes: layer_bytes,
        inodes: 1,
    };
    Ok((layer, written))
}

fn kept_info(contents: &Contents<'_>) -> BTreeMap<String, Vec<u8>> {
    KEPT_INFO
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), contents.info(name)?.to_owned())))
        .collect()
}
