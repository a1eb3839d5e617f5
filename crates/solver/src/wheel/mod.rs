//! Wheels become layers: read through their central directory, hashed, split into objects, checked against `RECORD`.
//!
//! Follows the binary distribution format (PEP 427) to the letter, because a store that many environments share is the
//! place to be strict. A layer is a function of its wheel alone: files of the `purelib` and `platlib` schemes lie under
//! `site-packages/` and scripts under `python-scripts/`, as in noarch conda packages, headers under `headers/`, and what
//! goes to the root of an environment under `data/`. Knows formats of wheels; nothing of indexes, of environments, or of where
//! a file will be linked.

mod contents;
pub(crate) mod entry_points;
mod metadata;
mod places;
pub(crate) mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::ingest::{Ingest, Written};
use envfs_store::layer::{Entry, Layer};
use envfs_store::workspace::Workspace;

use crate::limits::{ArchiveLimits, Exceeded, Meter};
use crate::pypi::WheelFileName;
use contents::Contents;
pub(crate) use metadata::fields_only;
pub(crate) use places::{DATA, HEADERS, SCRIPTS, SITE_PACKAGES};

/// When every file of a wheel was last changed, in seconds since 1970-01-01 UTC: 1980-01-01, the first day of zip. Zips hold
/// local times without a zone, so that the same wheel would otherwise give different layers.
pub(crate) const MTIME_S: i64 = 315_532_800;

/// What the layer of a wheel tells the later steps, by the names under which it lies in [`Layer::info`].
pub(crate) mod info {
    /// The name of the `.dist-info` directory.
    pub(crate) const DIST_INFO: &str = "dist-info";
    /// The fields of `METADATA`, without the description.
    pub(crate) const METADATA: &str = "METADATA";
    /// The file `WHEEL`.
    pub(crate) const WHEEL: &str = "WHEEL";
    /// The file `entry_points.txt`, if there is one.
    pub(crate) const ENTRY_POINTS: &str = "entry_points.txt";
}

/// Why a wheel cannot become a layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WheelError {
    /// It cannot be read, or it ends too early.
    #[error("`{wheel}` cannot be read; it may be damaged: fetch it again or tell its index")]
    Unreadable {
        /// The wheel's file name.
        wheel: String,
        /// Where it fails.
        source: io::Error,
    },
    /// It breaks the rules of its format.
    #[error("`{wheel}` is not a valid wheel: {what}; use another version of it, or tell its maintainers")]
    Malformed {
        /// The wheel's file name.
        wheel: String,
        /// What is wrong.
        what: String,
    },
    /// A file in it could reach out of the environment.
    #[error("`{wheel}` is refused: `{path}` {reason}")]
    Forbidden {
        /// The wheel's file name.
        wheel: String,
        /// The file.
        path: String,
        /// Why it may not be.
        reason: String,
    },
    /// Its `RECORD` lies.
    #[error(
        "`{wheel}` is refused: `{path}` {what}; the wheel was built wrong or changed afterwards: use another version of it, \
         or tell its maintainers"
    )]
    Record {
        /// The wheel's file name.
        wheel: String,
        /// The file.
        path: String,
        /// How it and `RECORD` disagree.
        what: String,
    },
    /// Another distribution than its name says.
    #[error(
        "`{wheel}` should hold {wanted}, but {place} says {found}: the index or the lock file is wrong, lock again"
    )]
    OtherDistribution {
        /// The wheel's file name.
        wheel: String,
        /// The distribution that was asked for.
        wanted: String,
        /// Where another one is named.
        place: String,
        /// The distribution that is inside.
        found: String,
    },
    /// It is more than an archive may be.
    #[error("`{wheel}` is refused: {limit}")]
    Limit {
        /// The wheel's file name.
        wheel: String,
        /// What it passes.
        limit: Exceeded,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

impl WheelError {
    fn of_limit(wheel: &str, limit: Exceeded) -> Self {
        Self::Limit {
            wheel: wheel.to_owned(),
            limit,
        }
    }

    /// What ended a reading: a limit, or damage.
    fn of_io(wheel: &str, source: io::Error) -> Self {
        match Exceeded::in_error(&source) {
            Some(limit) => Self::of_limit(wheel, limit),
            None => Self::Unreadable {
                wheel: wheel.to_owned(),
                source,
            },
        }
    }

    /// Says where in the wheel it happened, as far as that is not said yet.
    fn at(self, place: &Path) -> Self {
        match self {
            Self::Unreadable { wheel, source } => Self::Unreadable {
                wheel,
                source: io::Error::new(source.kind(), format!("{}: {source}", place.display())),
            },
            other => other,
        }
    }
}

/// Reads `file`, the wheel called `name` whose digest is `sha256`, and puts its files and its layer into the store.
///
/// # Errors
/// When the wheel is refused or the store cannot be written; then no layer refers to anything.
pub(crate) fn ingest(
    store: &Store,
    workspace: &Workspace,
    file: File,
    name: &WheelFileName,
    sha256: Sha256,
    limits: &ArchiveLimits,
) -> Result<(Layer, Written), WheelError> {
    let wheel = name.to_string();
    let archive_bytes = file
        .metadata()
        .map_err(|source| WheelError::of_io(&wheel, source))?
        .len();
    let meter = Meter::new(*limits, archive_bytes).map_err(|limit| WheelError::of_limit(&wheel, limit))?;
    let mut contents = Contents::open(file, name, &meter)?;
    let info = metadata::read(&mut contents, name)?;
    let record = contents.record(metadata::dist_info(&info))?;
    let mut ingest = Ingest::new(store, workspace)?;
    let entries: BTreeMap<_, Entry> = contents.take_in(metadata::dist_info(&info), &record, &mut ingest)?;
    let layer = Layer {
        archive: sha256,
        info,
        patched_mtime_s: MTIME_S,
        entries: entries.into_values().collect(),
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

/// The fields of the `METADATA` in `file`, the wheel called `name`.
///
/// # Errors
/// When the wheel is refused.
pub(crate) fn read_metadata(file: File, name: &WheelFileName, limits: &ArchiveLimits) -> Result<Vec<u8>, WheelError> {
    let wheel = name.to_string();
    let size_bytes = file
        .metadata()
        .map_err(|source| WheelError::of_io(&wheel, source))?
        .len();
    let meter = Meter::new(*limits, size_bytes).map_err(|limit| WheelError::of_limit(&wheel, limit))?;
    let mut info = metadata::read(&mut Contents::open(file, name, &meter)?, name)?;
    Ok(info.remove(info::METADATA).unwrap_or_default())
}

/// Checks that a layer, whoever made it, is of the wheel called `name`.
///
/// # Errors
/// It is of another distribution, or of no wheel.
pub(crate) fn check(layer: &Layer, name: &WheelFileName) -> Result<(), WheelError> {
    metadata::check(&layer.info, name)
}
