//! What is in a directory in the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType};

use super::directory::{attributes, status_of};
use super::operation::Status;

/// Everything below a directory, itself too, by its path from there.
pub(crate) type Listing = BTreeMap<PathBuf, Left>;

/// One file in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// What stat(2) says.
    pub(crate) status: Status,
    /// A digest of its bytes, its target, or why it cannot be read.
    pub(crate) content: String,
    /// Its extended attributes.
    pub(crate) attributes: Vec<(String, Vec<u8>)>,
}

/// Lists `root`.
///
/// # Panics
/// When a directory cannot be listed to its end.
pub(crate) fn list(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let place = root.join(&path);
        let place = if path.as_os_str().is_empty() { root } else { &place };
        // What lies in a directory that was closed cannot be seen.
        let Ok(stat) = rustix::fs::statat(CWD, place, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => match std::fs::read_dir(place) {
                Ok(entries) => {
                    pending.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
                    String::new()
                }
                Err(error) => error.to_string(),
            },
            FileType::RegularFile => match std::fs::read(place) {
                Ok(bytes) => blake3::hash(&bytes).to_hex()[..16].to_owned(),
                Err(error) => error.to_string(),
            },
            FileType::Symlink => std::fs::read_link(place).unwrap().to_string_lossy().into_owned(),
            _ => String::new(),
        };
        let left = Left {
            status: status_of(&stat),
            content,
            attributes: attributes_of(place),
        };
        listing.insert(path, left);
    }
    listing
}

fn attributes_of(place: &Path) -> Vec<(String, Vec<u8>)> {
    let names = attributes(place).unwrap_or_default();
    let value = |name: String| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(place, &name, value.as_mut_slice()).unwrap();
        value.truncate(len);
        (name, value)
    };
    names.into_iter().map(value).collect()
}
