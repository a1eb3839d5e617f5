//! Locks of the Python world: pylock.toml (PEP 751), poetry.lock and uv.lock.
//!
//! They are for many Pythons and platforms at once; what one environment needs is selected here. They hold no Python: that comes
//! from a conda channel. Where the project lies beside its lock, the lock must still fit it. Knows nothing of how wheels are
//! fetched.

mod poetry;
mod stale;
mod uv;

use std::io;
use std::path::{Path, PathBuf};

use crate::pylock::{Pylock, PylockError};
use crate::python::PythonTarget;
use crate::requirements::{Parts, RequirementError, Requirements};
use crate::source::Distributions;

/// A lock of the Python world.
#[derive(Clone, Debug)]
pub struct PythonLock {
    path: PathBuf,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Pylock(Pylock),
    Poetry(Box<poetry::Document>),
    Uv(Box<uv::Document>),
}

/// What a lock holds for one environment.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Exact wheels and sources, by name.
    Exact(Distributions),
    /// Exact versions with their digests, but not where they are: nothing else may be added to them.
    Pins(Requirements),
}

impl PythonLock {
    /// Whether the text is that of such a lock, going by its keys only.
    #[must_use]
    pub fn is_lock(text: &str) -> bool {
        format_of(text).is_some()
    }

    /// Reads a lock.
    ///
    /// # Errors
    /// The file cannot be read, is none of these locks, or breaks the rules of its format.
    pub fn read(path: &Path) -> Result<Self, PythonLockError> {
        let text = std::fs::read_to_string(path).map_err(|source| PythonLockError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a lock; the path is for messages and for what lies beside it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, path: &Path) -> Result<Self, PythonLockError> {
        let malformed = |error: &toml::de::Error| PythonLockError::Malformed {
            path: path.to_owned(),
            reason: error.message().to_owned(),
        };
        let content = match format_of(text) {
            Some(Format::Pylock) => Content::Pylock(Pylock::parse(text, path)?),
            Some(Format::Poetry) => Content::Poetry(toml::from_str(text).map_err(|error| malformed(&error))?),
            Some(Format::Uv) => Content::Uv(toml::from_str(text).map_err(|error| malformed(&error))?),
            None => return Err(PythonLockError::UnknownFormat { path: path.to_owned() }),
        };
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// What the format is called.
    #[must_use]
    pub fn format(&self) -> &'static str {
        match self.content {
            Content::Pylock(_) => "pylock.toml",
            Content::Poetry(_) => "poetry.lock",
            Content::Uv(_) => "uv.lock",
        }
    }

    /// The Pythons it is for, as a MatchSpec.
    #[must_use]
    pub fn python(&self) -> String {
        let allowed = match &self.content {
            Content::Pylock(pylock) => pylock.requires_python().map(ToString::to_string),
            Content::Poetry(document) => document.requires_python(),
            Content::Uv(document) => document.requires_python.clone(),
        };
        match allowed.filter(|allowed| !allowed.is_empty()) {
            Some(allowed) => format!("python {}", allowed.replace(' ', "")),
            None => "python".to_owned(),
        }
    }

    /// What it holds for a Python, with the parts that are asked for.
    ///
    /// # Errors
    /// It has no such part, it does not fit its project any more, or a package has neither a wheel that fits nor sources.
    pub fn select(&self, target: &PythonTarget, parts: &Parts) -> Result<Selection, PythonLockError> {
        match &self.content {
            Content::Pylock(pylock) => Ok(Selection::Exact(pylock.select(target, parts)?)),
            Content::Poetry(document) => {
                let project = stale::project_beside(&self.path, parts)?;
                document
                    .select(target, parts, project.as_ref(), &self.path)
                    .map(Selection::Pins)
            }
            Content::Uv(document) => {
                let project = stale::project_beside(&self.path, parts)?;
                document
                    .select(target, parts, project.as_ref(), &self.path)
                    .map(Selection::Exact)
            }
        }
    }
}

/// Why a lock cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PythonLockError {
    /// The file cannot be read.
    #[error("cannot read lock file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is none of these locks.
    #[error("{} is neither a pylock.toml, a poetry.lock nor a uv.lock", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file breaks the rules of its format.
    #[error("{} is not a valid lock: {reason}; write it anew with the tool that made it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The lock has not what is asked for.
    #[error("{} has no {what} '{name}'", path.display())]
    UnknownPart {
        /// The file.
        path: PathBuf,
        /// `extra` or `group`.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The project asks for what the lock does not hold.
    #[error("{} is stale: the project asks for '{requirement}', and the lock holds {held}; lock the project again with the tool that made the lock", path.display())]
    Stale {
        /// The lock.
        path: PathBuf,
        /// What the project asks for.
        requirement: String,
        /// What there is.
        held: String,
    },
    /// The project beside the lock cannot be read.
    #[error(transparent)]
    Project(#[from] RequirementError),
    /// A package cannot be used.
    #[error(transparent)]
    Package(#[from] PylockError),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Pylock,
    Poetry,
    Uv,
}

/// Tells the formats apart by the keys before their first table, and by the names of their tables.
fn format_of(text: &str) -> Option<Format> {
    let has_line = |begin: &str| text.lines().any(|line| line.starts_with(begin));
    let head = text.lines().take_while(|line| !line.starts_with('['));
    let has_key = |key: &str| {
        head.clone().any(|line| {
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        })
    };
    if has_key("lock-version") {
        return Some(Format::Pylock);
    }
    if has_line("[metadata]") && has_line("content-hash") && !has_key("version") {
        return Some(Format::Poetry);
    }
    // Cargo's lock looks alike, and has no Python.
    (has_key("version") && has_key("requires-python")).then_some(Format::Uv)
}

#[cfg(test)]
mod tests;
