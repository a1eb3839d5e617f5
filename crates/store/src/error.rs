//! What can go wrong in the store. Every error says which file, and keeps its cause.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the store does not hold what its format demands.
    #[error("`{}` is damaged: {what}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        what: String,
    },
    /// Something that is referred to is not there.
    #[error("{kind} {name} is not in the store `{}`", store.display())]
    Missing {
        /// What kind of thing: `object`, `tree`, `layer`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The store that was searched.
        store: PathBuf,
    },
    /// Somebody holds a lock for too long.
    #[error(
        "`{}` is held by {} for more than {} s: end it, or wait for it and try again",
        path.display(), by(holders), limit.as_secs()
    )]
    Held {
        /// The locked file.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
        /// Who holds it.
        holders: Vec<Holder>,
    },
    /// The store was made by a newer version.
    #[error("the store `{}` needs a newer envfs: it uses {what}", path.display())]
    NewerFormat {
        /// Where the store is.
        path: PathBuf,
        /// What this version does not know.
        what: String,
    },
    /// A directory that is to become a store holds something else.
    #[error("`{}` is no store, and holds something else: `{}`", path.display(), entry.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// The name of something in it.
        entry: PathBuf,
    },
    /// There is no store where one should be.
    #[error("there is no store at `{}`", _0.display())]
    NoStore(PathBuf),
    /// A path that no environment may hold.
    #[error(transparent)]
    Path(#[from] crate::path::InvalidPath),
}

impl Error {
    /// Whether a file was not there.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether a disk or a quota is full.
    pub(crate) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// Whether something could not be written because this user may only read there.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
    }

    /// A damaged file.
    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

/// A process of this host that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name; empty if this user may not see it.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.name)
    }
}

fn by(holders: &[Holder]) -> String {
    match holders {
        [] => "a process of another host or user".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Adds to an [`io::Error`] what was tried on which file.
pub(crate) trait IoContext<T> {
    /// `action` is a verb, as in "cannot `open` ...".
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).at(action, path)
    }
}
