//! What directories take on disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What `du` says of a directory: blocks and inodes, without looking for hard links. Of a store, without what may be thrown
/// away at any time: its cache and its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The bytes of all blocks.
    pub bytes: u64,
    /// Files, directories and links, the directory itself too.
    pub inodes: u64,
}

/// Measures a directory.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn measure(directory: &Path) -> Measured {
    let own = std::fs::symlink_metadata(directory).unwrap();
    let mut measured = Measured {
        bytes: own.blocks() * 512,
        inodes: 1,
    };
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if name == "cache" || name.starts_with("index.sqlite") {
            continue;
        }
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            let below = measure(&path);
            measured.bytes += below.bytes;
            measured.inodes += below.inodes;
        } else {
            measured.bytes += metadata.blocks() * 512;
            measured.inodes += 1;
        }
    }
    measured
}
