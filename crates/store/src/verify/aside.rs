//! Where damaged things go: moved there, never removed.
//!
//! ```text
//! <store>/quarantine/<number>/   what one repair moved, in directories as those of the store
//! <store>/quarantine/log         what was moved because it was found to be wrong beside a mount, a line each
//! ```
//!
//! Nothing is read from there. People may look at it, and remove it.

use std::cell::OnceCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::durable;
use crate::error::{Error, Result};
use crate::store::Store;

/// The quarantine of one repair; made when something goes there.
pub(super) struct Aside<'a> {
    store: &'a Store,
    path: OnceCell<PathBuf>,
}

impl<'a> Aside<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            path: OnceCell::new(),
        }
    }

    /// Where the file at `path` is to be put; its directory is there.
    pub(super) fn place(&self, path: &Path) -> Result<PathBuf> {
        let inside = path.strip_prefix(self.store.root()).unwrap_or(path);
        let place = self.root()?.join(inside);
        durable::create_directory(place.parent().unwrap_or(&place))?;
        Ok(place)
    }

    /// Moves the file at `path`, and says where to; nothing where it is gone.
    pub(super) fn take(&self, path: &Path) -> Result<Option<PathBuf>> {
        let place = self.place(path)?;
        let was_there = durable::move_file(path, &place)?;
        if was_there {
            self.sync(path, &place)?;
        }
        Ok(was_there.then_some(place))
    }

    /// Keeps the file at `path`, which is about to be replaced.
    pub(super) fn keep(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let place = self.place(path)?;
        match durable::link_file(path, &place) {
            // Where there are no hard links it is gone for a moment.
            Err(Error::Io { source, .. }) if is_without_links(&source) => drop(durable::move_file(path, &place)?),
            // What was there first is kept already.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
            result => result?,
        }
        self.sync(path, &place)
    }

    fn sync(&self, path: &Path, place: &Path) -> Result<()> {
        [path.parent(), place.parent()]
            .into_iter()
            .flatten()
            .try_for_each(durable::sync_directory)
    }

    fn root(&self) -> Result<&Path> {
        if let Some(path) = self.path.get() {
            return Ok(path);
        }
        let all = self.store.path("quarantine");
        durable::create_directory(&all)?;
        let numbers = durable::list(&all)?;
        let numbers = numbers
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse::<u64>().ok());
        let path = all.join((numbers.max().unwrap_or(0) + 1).to_string());
        durable::create_directory(&path)?;
        durable::sync_directory(&all)?;
        Ok(self.path.get_or_init(|| path))
    }
}

/// Whether the file system makes no hard link, of this file or of any (link(2)).
fn is_without_links(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK))
}
