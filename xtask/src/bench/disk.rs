//! What directories take on disk, not looking into what is mounted below them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Bytes and inodes.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub(super) struct Use {
    /// Allocated bytes.
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// What some directories take together, themselves included; one that is not there takes nothing, and what is there under
/// two names counts once.
///
/// # Errors
/// When a directory cannot be read.
pub(super) fn used(directories: &[PathBuf]) -> Result<Use> {
    let mut total = Use::default();
    let mut counted = HashSet::new();
    for root in directories {
        let Ok(root_metadata) = fs::symlink_metadata(root) else {
            continue;
        };
        let mut waiting = vec![root.clone()];
        while let Some(path) = waiting.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.dev() != root_metadata.dev() {
                // A mount point: the directory below is one inode.
                total.inodes += 1;
                continue;
            }
            if !counted.insert(metadata.ino()) {
                continue;
            }
            // st_blocks counts units of 512 bytes on every file system (inode(7)).
            total.bytes += metadata.blocks() * 512;
            total.inodes += 1;
            if metadata.is_dir() {
                for entry in fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
                    waiting.push(entry?.path());
                }
            }
        }
    }
    Ok(total)
}

impl Use {
    /// So many of it.
    pub(super) fn times(self, count: u64) -> Self {
        Self {
            bytes: self.bytes * count,
            inodes: self.inodes * count,
        }
    }

    /// What came since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            inodes: self.inodes.saturating_sub(before.inodes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let roots = [directory.path().join("x"), directory.path().join("y")];
        for root in &roots {
            fs::create_dir(root).unwrap();
        }
        fs::write(roots[0].join("a"), [1; 5000]).unwrap();
        let before = used(&roots).unwrap();
        fs::hard_link(roots[0].join("a"), roots[1].join("b")).unwrap();
        assert_eq!(used(&roots).unwrap().since(before).inodes, 0);
        assert!(before.bytes >= 5000 && before.inodes == 3);
    }
}
