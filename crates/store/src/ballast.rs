//! Room that a store keeps so that it can be cleaned when its disk is full: to remove things takes some files first.
//!
//! ```text
//! <store>/ballast/00 ...   each takes a block and an inode, which a collection may need
//! ```
//!
//! It may be missing: then a collection has what the disk has.

use std::path::Path;

use crate::durable;

/// A collection makes a lock, a workspace, a directory of the trash with one for each kind, and what it writes anew of packs.
const FILES: u32 = 16;

/// A block of most file systems.
const FILE_BYTES: usize = 4096;

/// Sets the room aside, as far as there is any.
pub(crate) fn keep(root: &Path) {
    let directory = root.join("ballast");
    if durable::create_directory(&directory).is_err() {
        return;
    }
    for number in 0..FILES {
        let path = directory.join(format!("{number:02}"));
        // Bytes that no file system leaves out.
        if !path.exists() && durable::write_evictable(&root.join("tmp"), &path, &[0xba; FILE_BYTES]).is_err() {
            return;
        }
    }
}

/// Gives the room to whoever needs it now, and says whether there was any.
pub(crate) fn release(root: &Path) -> bool {
    let directory = root.join("ballast");
    directory.exists() && durable::remove_tree(&directory).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_once_and_comes_again() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tmp")).unwrap();
        let count = || crate::store::list(&directory.path().join("ballast")).unwrap().len();
        keep(directory.path());
        assert_eq!(count(), FILES as usize);
        assert!(release(directory.path()) && !release(directory.path()));
        assert_eq!(count(), 0);
        keep(directory.path());
        assert_eq!(count(), FILES as usize);
    }
}
