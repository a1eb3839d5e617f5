//! The one seam through which the store is written: create, sync, publish, remove.
//!
//! Nothing else in this crate creates, renames or unlinks a file of the store, so that what may be lost in a
//! power cut, and in which order, can be read (and cut at every step by tests) in this one room. The order is
//! always: the content is synced, then renamed to its name, then the directory that holds the name is synced.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{IoContext, Result};

/// Permission bits of everything that is published: nobody writes to it again.
const PUBLISHED_MODE: u32 = 0o444;

/// A file that is being written and has no name that readers know. Removed when dropped unpublished.
pub(crate) struct Draft {
    file: File,
    path: PathBuf,
    published: bool,
}

impl Draft {
    /// Starts a file in `directory`, which must be on the file system of its later place.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("draft-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(PUBLISHED_MODE)
            .open(&path)
            .at("create", &path)?;
        Ok(Self {
            file,
            path,
            published: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).at("write", &self.path)
    }

    /// Makes the content durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().at("sync", &self.path)
    }

    /// Gives the synced content its name. The name is durable once [`sync_directory`] has returned for the
    /// directory of `destination`. What stands there is replaced: content has one name, and a name one content.
    pub(crate) fn publish(mut self, destination: &Path) -> Result<()> {
        fs::rename(&self.path, destination).at("publish", destination)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // A draft that stays behind is swept with its workspace.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes `bytes` to `destination` so that readers see all of it or nothing, and it survives a power cut.
pub(crate) fn write(workspace: &Path, destination: &Path, bytes: &[u8]) -> Result<()> {
    let mut draft = Draft::create(workspace)?;
    draft.write_all(bytes)?;
    draft.sync()?;
    draft.publish(destination)?;
    sync_directory(parent(destination))
}

/// Writes `bytes` to `destination` so that readers see all of it or nothing. Not durable: for what is trusted only until
/// the machine stops.
pub(crate) fn write_evictable(workspace: &Path, destination: &Path, bytes: &[u8]) -> Result<()> {
    let mut draft = Draft::create(workspace)?;
    draft.write_all(bytes)?;
    draft.publish(destination)
}

/// Makes the names in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    let file = File::open(directory).at("open", directory)?;
    file.sync_all().at("sync", directory)
}

/// Creates `directory` and what is missing above it.
pub(crate) fn create_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).at("create", directory)
}

/// Moves a file, and says whether it was there. Not durable until the directories are synced.
pub(crate) fn move_file(from: &Path, to: &Path) -> Result<bool> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        result => result.at("move", from).map(|()| true),
    }
}

/// Moves a directory that nobody else writes to.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).at("move", from)
}

/// Sets the modification time of a file to now.
pub(crate) fn touch(path: &Path) -> Result<()> {
    let file = File::open(path).at("open", path)?;
    file.set_modified(std::time::SystemTime::now()).at("touch", path)
}

/// Removes a file; one that is already gone is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Removes a directory with all that is in it; one that is already gone is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
