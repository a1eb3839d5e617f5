//! Driving the `envfs` binary, as a person would: through its command line and what it prints.
//!
//! This room is the only one here that knows how the product's commands are spelled.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::sh;

/// The package of the command line, and the name of its binary.
const PACKAGE: &str = "envfs-cli";
const BINARY: &str = "envfs";

/// A binary with a store.
#[derive(Clone)]
pub(crate) struct Envfs {
    binary: PathBuf,
    store: PathBuf,
}

/// What `envfs build --json` prints.
#[derive(Deserialize)]
pub(crate) struct Built {
    pub(crate) signature: String,
    pub(crate) packages: u64,
    pub(crate) new_packages: u64,
    pub(crate) new_bytes: u64,
    pub(crate) new_inodes: u64,
    pub(crate) seconds: f64,
}

/// A mount that ends with this value.
pub(crate) struct Mount {
    envfs: Envfs,
    path: PathBuf,
    /// From starting the command to its return, when the mount is usable.
    pub(crate) took: Duration,
    is_mounted: bool,
}

/// What a directory tree takes on disk.
#[derive(Clone, Copy, Default)]
pub(crate) struct DiskUse {
    /// Allocated bytes; a file with several names counts once.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Builds the binary for use.
///
/// # Errors
/// When cargo fails.
pub(crate) fn build_release() -> Result<PathBuf> {
    sh::run(sh::cargo().args(["build", "--locked", "--release", "--package", PACKAGE]))?;
    Ok(sh::target_dir().join("release").join(BINARY))
}

/// Builds the binary for tests.
///
/// # Errors
/// When cargo fails.
pub(crate) fn build_debug() -> Result<PathBuf> {
    sh::run(sh::cargo().args(["build", "--locked", "--package", PACKAGE]))?;
    Ok(sh::target_dir().join("debug").join(BINARY))
}

impl Envfs {
    pub(crate) fn new(binary: PathBuf, store: PathBuf) -> Self {
        Self { binary, store }
    }

    /// The same binary on another store.
    pub(crate) fn on(&self, store: PathBuf) -> Self {
        Self::new(self.binary.clone(), store)
    }

    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// A command on this store.
    pub(crate) fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = sh::command(&self.binary);
        command.arg("--store").arg(&self.store).args(arguments);
        command.env_remove("PYTHONDONTWRITEBYTECODE").env_remove("ENVFS_STORE");
        command
    }

    /// Builds an environment and returns what it cost, by the product's own account.
    ///
    /// # Errors
    /// When the build fails or prints something else than promised.
    pub(crate) fn build<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Result<Built> {
        let mut command = self.command(["build", "--json"]);
        command.args(arguments);
        let printed = sh::capture(&mut command)?;
        serde_json::from_str(&printed).with_context(|| format!("`{}` printed:\n{printed}", sh::shown(&command)))
    }

    /// Mounts an environment on an empty directory.
    ///
    /// # Errors
    /// When the mount fails.
    pub(crate) fn mount(&self, environment: &str, path: &Path) -> Result<Mount> {
        let start = Instant::now();
        sh::run_quiet(self.command(["mount", environment]).arg(path))?;
        Ok(Mount {
            envfs: self.clone(),
            path: path.to_path_buf(),
            took: start.elapsed(),
            is_mounted: true,
        })
    }
}

impl Mount {
    /// Unmounts, and returns how long it took.
    ///
    /// # Errors
    /// When the mount cannot be ended.
    pub(crate) fn unmount(mut self) -> Result<Duration> {
        self.is_mounted = false;
        sh::timed(self.envfs.command(["umount"]).arg(&self.path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(error) = sh::run_quiet(self.envfs.command(["umount"]).arg(&self.path))
        {
            sh::say(&format!("{} is still mounted: {error:#}", self.path.display()));
        }
    }
}

/// What some directories take together, themselves included; one that is not there takes nothing.
///
/// # Errors
/// When a directory cannot be read.
pub(crate) fn disk_use(directories: &[PathBuf]) -> Result<DiskUse> {
    let mut total = DiskUse::default();
    let mut counted = HashSet::new();
    let mut waiting = directories.to_vec();
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        let has_other_names = metadata.nlink() > 1 && !metadata.is_dir();
        if has_other_names && !counted.insert((metadata.dev(), metadata.ino())) {
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
    Ok(total)
}

impl DiskUse {
    /// What came since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
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
        let before = disk_use(&roots).unwrap();
        fs::hard_link(roots[0].join("a"), roots[1].join("b")).unwrap();
        let after = disk_use(&roots).unwrap();
        assert_eq!(after.since(before).inodes, 0);
        assert!(before.bytes >= 5000 && before.inodes == 3);
    }
}
