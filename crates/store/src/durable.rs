//! The one seam through which the store is written: create, sync, publish, remove.
//!
//! Nothing else in this crate creates, writes, renames or unlinks a file of the store, which `cargo xtask tidy` checks, so that
//! what may be lost in a power cut, and in which order, can be read in this one room. The order is always: the content is
//! synced, then renamed to its name, then the directory that holds the name is synced. Tests cut it at every step, and leave
//! out each kind of sync to see that it is missed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode, OFlags};

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
        let path = draft_path(directory);
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

/// A directory that is being filled and has no name that readers know: what is in it appears all at once. Removed when
/// dropped unpublished. Not durable: for what is trusted only until the machine stops.
pub(crate) struct DraftDirectory {
    directory: OwnedFd,
    path: PathBuf,
    published: bool,
}

impl DraftDirectory {
    /// Starts a directory in `workspace`, which must be on the file system of its later place.
    pub(crate) fn create(workspace: &Path) -> Result<Self> {
        let path = draft_path(workspace);
        fs::create_dir(&path).at("create", &path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(io::Error::from)
            .at("open", &path)?;
        Ok(Self {
            directory,
            path,
            published: false,
        })
    }

    /// Writes a file of the directory: an open, a write and a close, because a draft of each would cost as much again.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let write = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(PUBLISHED_MODE))?;
            File::from(file).write_all(bytes)
        };
        write().at("write", &self.path.join(name))
    }

    /// Gives the directory its name, unless another one has it: then that one stays.
    pub(crate) fn publish(mut self, destination: &Path) -> Result<()> {
        match fs::rename(&self.path, destination) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(()),
            result => result.at("publish", destination),
        }
    }
}

impl Drop for DraftDirectory {
    fn drop(&mut self) {
        if !self.published {
            // A draft that stays behind is swept with its workspace.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A name that no other draft has.
fn draft_path(workspace: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    workspace.join(format!("draft-{}-{number}", std::process::id()))
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

/// Writes a new file where nothing else may be left beside it, so that it appears with all its bytes: it has no name before
/// (open(2), `O_TMPFILE`), where the file system can do that. Not durable.
///
/// # Errors
/// When there is such a file, or it cannot be written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let write = || match rustix::fs::open(parent(path), flags, mode) {
        Ok(nameless) => {
            let mut file = File::from(nameless);
            file.write_all(bytes)?;
            let here = format!("/proc/self/fd/{}", file.as_raw_fd());
            let follow = rustix::fs::AtFlags::SYMLINK_FOLLOW;
            Ok(rustix::fs::linkat(
                rustix::fs::CWD,
                here,
                rustix::fs::CWD,
                path,
                follow,
            )?)
        }
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)?
            .write_all(bytes),
        Err(errno) => Err(io::Error::from(errno)),
    };
    write().at("write", path)
}

/// Adds `line` to a file that may be lost, unless that has `max_bytes` already.
pub(crate) fn append_evictable(path: &Path, line: &[u8], max_bytes: u64) -> Result<()> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .at("open", path)?;
    // Many may add at once: each line is added as a whole (open(2), `O_APPEND`).
    let mut file = Flock::lock(file, FlockArg::LockShared)
        .map_err(|(_, errno)| errno)
        .at("lock", path)?;
    if file.metadata().at("inspect", path)?.len() < max_bytes {
        file.write_all(line).at("write", path)?;
    }
    Ok(())
}

/// Takes all lines out of a file that others add to.
pub(crate) fn take_evictable(path: &Path) -> Result<Option<String>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result.at("open", path)?,
    };
    let mut file = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .at("lock", path)?;
    let mut text = String::new();
    file.read_to_string(&mut text).at("read", path)?;
    file.set_len(0).at("empty", path)?;
    Ok((!text.is_empty()).then_some(text))
}

/// Opens a file that is there to be locked, and makes it where there is none. What is in it stays.
pub(crate) fn open_to_lock(path: &Path) -> io::Result<File> {
    let result = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    match result {
        // A lock can be taken on a file that may only be read, as in a store of somebody else.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            File::open(path).map_err(|_| error)
        }
        result => result,
    }
}

/// Writes `bytes` over what a file says that its writer holds locked. At once: whoever reads meanwhile sees a whole text, if that
/// has as many bytes as the one before. For what ends with its process.
pub(crate) fn write_over(file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    file.write_all_at(bytes, 0).at("write", path)?;
    file.set_len(bytes.len() as u64).at("write", path)
}

/// Opens a file that is there to be written to in places.
pub(crate) fn open_to_write(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).at("open", path)
}

/// Makes such a file.
pub(crate) fn create_to_write(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o644);
    options.open(path).at("create", path)
}

/// Writes `bytes` to one place of a file that may be lost.
pub(crate) fn write_at(file: &File, path: &Path, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
    file.write_all_at(bytes, offset_bytes).at("write", path)
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

/// Creates a directory in `above` whose name begins with `prefix` and that nobody else has.
pub(crate) fn create_own_directory(above: &Path, prefix: &str) -> Result<PathBuf> {
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(above);
    Ok(made.at("create a workspace in", above)?.keep())
}

/// Removes a directory unless there is something in it, and says whether it is gone.
pub(crate) fn remove_empty_directory(directory: &Path) -> bool {
    fs::remove_dir(directory).is_ok()
}

/// Moves a file, and says whether it was there. Not durable until the directories are synced.
pub(crate) fn move_file(from: &Path, to: &Path) -> Result<bool> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        result => result.at("move", from).map(|()| true),
    }
}

/// Gives a file a second name.
pub(crate) fn link_file(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to).at("link", from)
}

/// Gives a file another name, in place of what is called so.
pub(crate) fn replace(path: &Path, by: &Path) -> Result<()> {
    fs::rename(path, by).at("put aside", path)
}

/// Gives two files the names of each other, in one step (`RENAME_EXCHANGE` of rename(2)). Says whether there was one at `other`: else `path`
/// is called so now. None where the file system cannot. Not durable until the directories are synced.
pub(crate) fn exchange(path: &Path, other: &Path) -> Result<Option<bool>> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Some(true)),
        Err(Errno::NOENT) => replace(path, other).map(|()| Some(false)),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(io::Error::from(errno)).at("rename", path),
    }
}

/// Makes now the time of a file, for those who ask when it was used. Content is as it was.
pub(crate) fn touch(path: &Path) -> Result<()> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let now = TimeSpec::UTIME_NOW;
    utimensat(nix::fcntl::AT_FDCWD, path, &now, &now, UtimensatFlags::FollowSymlink).at("set the time of", path)
}

/// Removes a file; one that is already gone is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Removes a directory with all that is in it, also directories that their owner has closed, as overlayfs leaves them; one
/// that is already gone is fine.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open_directories(path).and_then(|()| fs::remove_dir_all(path))
        }
        result => result,
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Lets the owner of a directory, and of those in it, list and change them.
fn open_directories(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

/// The entries of a directory, sorted; none where there is no directory.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("list", directory)?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .at("list", directory)?;
    paths.sort();
    Ok(paths)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
