//! Readers that only builds reach, for fuzzing. Nobody else has a use for it.

use std::fs::File;

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::workspace::Workspace;

use crate::build::BuildError;
use crate::limits::ArchiveLimits;
use crate::package::LockedPackage;
use crate::pypi::WheelFileName;
use crate::wheel::{entry_points, record};
use crate::{archive, wheel, wheel_metadata};

/// Far below what bytes of fuzzing could unpack to.
const LIMITS: ArchiveLimits = ArchiveLimits {
    archive_bytes: 16 << 20,
    unpacked_bytes: 16 << 20,
    ratio: 1000,
    files: 10_000,
    path_bytes: 4096,
    metadata_bytes: 4 << 20,
};

/// Takes a conda package in.
///
/// # Errors
/// It is refused.
pub fn conda(store: &Store, file: File) -> Result<(), BuildError> {
    let workspace = Workspace::create(store)?;
    archive::ingest(
        store,
        &workspace,
        file,
        "x-1-0.conda",
        Sha256::from_bytes([9; 32]),
        &LIMITS,
    )?;
    Ok(())
}

/// Takes a wheel in.
///
/// # Errors
/// It is refused.
pub fn wheel(store: &Store, file: File) -> Result<(), BuildError> {
    let workspace = Workspace::create(store)?;
    let name =
        WheelFileName::parse("evil-1.0-py3-none-any.whl").map_err(|error| BuildError::Worker(error.to_string()))?;
    wheel::ingest(store, &workspace, file, &name, Sha256::from_bytes([9; 32]), &LIMITS)?;
    Ok(())
}

/// Reads what installed packages say of themselves.
pub fn metadata(bytes: &[u8]) {
    let _ = LockedPackage::from_prefix_record_json(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = wheel_metadata::requirements(&text);
    let _ = entry_points::scripts(&text);
    let _ = record::installed_rows(&text, "lib/python3.12/site-packages");
}
