//! Lock files: exact packages for each environment and platform.
//!
//! Reads what the ecosystem writes (pixi.lock, conda-lock.yml, `@EXPLICIT`), tells them apart by what they say and not by
//! their name, and writes pixi.lock. Knows packages; nothing of specs, solving or downloading.

mod conda_lock;
mod explicit;
mod pixi;
#[cfg(test)]
mod tests;
mod wheels;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::document::write_document;
use crate::package::{LockedPackage, PackageError};
use crate::pypi::LockedWheel;
use crate::source::LockedSource;
use crate::subdir::Subdir;

/// The environment that files without names of their own hold, as pixi calls it.
pub const DEFAULT_ENVIRONMENT: &str = "default";
/// A lock file larger than this is not one: the largest known have some 10 MB.
const MAX_SIZE_BYTES: u64 = 256 << 20;

/// The content of a lock file.
#[derive(Clone, Debug)]
pub struct Lock {
    path: PathBuf,
    format: LockFormat,
    environments: Vec<LockedEnvironment>,
}

/// How a lock file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockFormat {
    /// pixi.lock of the given version, 1 to 7.
    Pixi(u16),
    /// conda-lock.yml (CEP 37).
    CondaLock,
    /// A list of URLs after a line `@EXPLICIT`.
    Explicit,
}

impl fmt::Display for LockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixi(version) => write!(f, "pixi.lock version {version}"),
            Self::CondaLock => f.write_str("conda-lock.yml"),
            Self::Explicit => f.write_str("@EXPLICIT"),
        }
    }
}

#[derive(Clone, Debug)]
struct LockedEnvironment {
    name: String,
    channels: Vec<String>,
    platforms: Vec<LockedPlatform>,
}

/// The packages of one environment for one platform.
#[derive(Clone, Debug)]
struct LockedPlatform {
    /// pixi.lock may give a platform a name of its own; elsewhere it is the subdir.
    name: String,
    subdir: Subdir,
    packages: Vec<LockedPackage>,
    wheels: Vec<LockedWheel>,
    /// What has to be built to become wheels.
    sources: Vec<LockedSource>,
    /// Names of packages that nobody here can build: conda packages from source.
    unbuilt: Vec<String>,
}

/// What was solved for one platform.
#[derive(Clone, Debug)]
pub struct LockedContents {
    /// The platform.
    pub subdir: Subdir,
    /// The conda packages.
    pub packages: Vec<LockedPackage>,
    /// The wheels.
    pub wheels: Vec<LockedWheel>,
    /// What has to be built to become wheels.
    pub sources: Vec<LockedSource>,
}

impl LockedContents {
    /// How many packages there are, of all kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packages.len() + self.wheels.len() + self.sources.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Lock {
    /// Reads a lock file of any known format.
    ///
    /// # Errors
    /// The file cannot be read, is of no known format or is malformed.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mut text = String::new();
        file.take(MAX_SIZE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MAX_SIZE_BYTES {
            return Err(LockError::UnknownFormat { path: path.to_owned() });
        }
        Self::parse(&text, path)
    }

    /// Reads the text of a lock file; the path is for messages and for relative paths within.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, path: &Path) -> Result<Self, LockError> {
        match detect(text) {
            Some(Detected::Pixi) => pixi::parse(text, path),
            Some(Detected::CondaLock) => conda_lock::parse(text, path),
            Some(Detected::Explicit) => explicit::parse(text, path),
            None => Err(LockError::UnknownFormat { path: path.to_owned() }),
        }
    }

    /// Whether the text is that of a lock file, going by its first words only.
    #[must_use]
    pub fn is_lock(text: &str) -> bool {
        detect(text).is_some()
    }

    /// A lock of what was solved, one environment for any number of platforms.
    ///
    /// # Errors
    /// A package is not complete: it came from a file that knows too little of it.
    pub fn from_solutions(name: &str, channels: &[String], contents: &[LockedContents]) -> Result<Self, LockError> {
        let packages = contents.iter().flat_map(|contents| &contents.packages);
        if let Some(incomplete) = packages.into_iter().find(|package| !package.is_complete()) {
            return Err(LockError::Incomplete {
                url: incomplete.redacted_url(),
            });
        }
        let platforms = contents.iter().map(|contents| LockedPlatform {
            name: contents.subdir.to_string(),
            subdir: contents.subdir,
            packages: contents.packages.clone(),
            wheels: contents.wheels.clone(),
            sources: contents.sources.clone(),
            unbuilt: Vec::new(),
        });
        Ok(Self {
            path: PathBuf::from("pixi.lock"),
            format: LockFormat::Pixi(pixi::WRITTEN_VERSION),
            environments: vec![LockedEnvironment {
                name: name.to_owned(),
                channels: channels.to_vec(),
                platforms: platforms.collect(),
            }],
        })
    }

    /// One lock with the environments of several, whose names must differ.
    #[must_use]
    pub fn join(locks: Vec<Self>) -> Self {
        let mut environments: Vec<_> = locks.into_iter().flat_map(|lock| lock.environments).collect();
        environments
            .sort_by(|a, b| (a.name != DEFAULT_ENVIRONMENT, &a.name).cmp(&(b.name != DEFAULT_ENVIRONMENT, &b.name)));
        Self {
            path: PathBuf::from("pixi.lock"),
            format: LockFormat::Pixi(pixi::WRITTEN_VERSION),
            environments,
        }
    }

    /// How the file was written.
    #[must_use]
    pub fn format(&self) -> LockFormat {
        self.format
    }

    /// Names of the environments, the default one first, the others by name.
    #[must_use]
    pub fn environments(&self) -> Vec<&str> {
        self.environments
            .iter()
            .map(|environment| environment.name.as_str())
            .collect()
    }

    /// The platforms an environment is locked for.
    ///
    /// # Errors
    /// There is no such environment.
    pub fn subdirs(&self, environment: &str) -> Result<Vec<Subdir>, LockError> {
        let platforms = &self.environment(environment)?.platforms;
        let mut subdirs: Vec<_> = platforms.iter().map(|platform| platform.subdir).collect();
        subdirs.sort();
        subdirs.dedup();
        Ok(subdirs)
    }

    /// The channels an environment was solved with, the first having priority. Empty where the format has none.
    ///
    /// # Errors
    /// There is no such environment.
    pub fn channels(&self, environment: &str) -> Result<&[String], LockError> {
        Ok(&self.environment(environment)?.channels)
    }

    /// The conda packages of an environment for a platform, by name; those of an `@EXPLICIT` file in its order.
    ///
    /// # Errors
    /// There is no such environment or platform, or the environment needs conda packages to be built.
    pub fn packages(&self, environment: &str, subdir: Subdir) -> Result<Vec<LockedPackage>, LockError> {
        Ok(self.built_platform(environment, subdir)?.packages.clone())
    }

    /// The wheels of an environment for a platform, by name.
    ///
    /// # Errors
    /// As [`packages`](Self::packages).
    pub fn wheels(&self, environment: &str, subdir: Subdir) -> Result<Vec<LockedWheel>, LockError> {
        Ok(self.built_platform(environment, subdir)?.wheels.clone())
    }

    /// What has to be built of an environment for a platform, by name.
    ///
    /// # Errors
    /// As [`packages`](Self::packages).
    pub fn sources(&self, environment: &str, subdir: Subdir) -> Result<Vec<LockedSource>, LockError> {
        Ok(self.built_platform(environment, subdir)?.sources.clone())
    }

    /// The text of a pixi.lock, version 7: the same packages give the same bytes, without credentials.
    ///
    /// # Errors
    /// A package holds something that the format cannot.
    pub fn render(&self) -> Result<String, LockError> {
        pixi::render(self, None)
    }

    /// Writes the lock as pixi.lock, with the sources beside it named relative to it: the file is the old one or the new one, whole, at any time.
    ///
    /// # Errors
    /// As [`render`](Self::render), or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LockError> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = pixi::render(self, absolute.parent())?;
        write_document(path, text.as_bytes()).map_err(|source| LockError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    fn environment(&self, name: &str) -> Result<&LockedEnvironment, LockError> {
        let found = self.environments.iter().find(|environment| environment.name == name);
        found.ok_or_else(|| LockError::UnknownEnvironment {
            path: self.path.clone(),
            name: name.to_owned(),
            known: self.environments().join(", "),
        })
    }

    /// A platform whose conda packages need no building.
    fn built_platform(&self, environment: &str, subdir: Subdir) -> Result<&LockedPlatform, LockError> {
        let platform = self.platform(environment, subdir)?;
        if platform.unbuilt.is_empty() {
            return Ok(platform);
        }
        Err(LockError::Sources {
            path: self.path.clone(),
            environment: environment.to_owned(),
            names: enumerate(&platform.unbuilt),
        })
    }

    fn platform(&self, environment: &str, subdir: Subdir) -> Result<&LockedPlatform, LockError> {
        let platforms = &self.environment(environment)?.platforms;
        let of_subdir: Vec<_> = platforms.iter().filter(|platform| platform.subdir == subdir).collect();
        match of_subdir.as_slice() {
            [platform] => Ok(platform),
            [] => platforms
                .iter()
                .find(|platform| platform.subdir == Subdir::NOARCH)
                .ok_or_else(|| LockError::NotLockedFor {
                    path: self.path.clone(),
                    environment: environment.to_owned(),
                    subdir,
                    known: enumerate(platforms.iter().map(|platform| &platform.name)),
                }),
            several => several
                .iter()
                .find(|platform| platform.name == subdir.as_str())
                .copied()
                .ok_or_else(|| LockError::SeveralPlatforms {
                    path: self.path.clone(),
                    environment: environment.to_owned(),
                    subdir,
                    names: enumerate(several.iter().map(|platform| &platform.name)),
                }),
        }
    }
}

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The file cannot be read or written.
    #[error("cannot {action} lock file {}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is no lock file that is known.
    #[error(
        "{} is not a lock file: it is neither a pixi.lock (version and environments), a conda-lock.yml (metadata and \
         package) nor a list of URLs after a line @EXPLICIT",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file is of a known format and breaks its rules.
    #[error("{} is not a valid {format}: {reason}; write it anew with the tool that made it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// The place and what is wrong there.
        reason: String,
    },
    /// A line of an `@EXPLICIT` file cannot be understood.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it and what it should be.
        reason: String,
    },
    /// A package of the file cannot be used.
    #[error("a package of {} cannot be used", path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PackageError,
    },
    /// The environment is not in the file.
    #[error("{} has no environment '{name}'; it has: {known}", path.display())]
    UnknownEnvironment {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The environment is not locked for the platform.
    #[error("environment '{environment}' of {} is not locked for {subdir}, only for {known}; lock it for {subdir} too", path.display())]
    NotLockedFor {
        /// The file.
        path: PathBuf,
        /// The environment.
        environment: String,
        /// What was asked for.
        subdir: Subdir,
        /// What there is.
        known: String,
    },
    /// The environment has several variants for the platform.
    #[error("environment '{environment}' of {} has several platforms for {subdir}: {names}; keep one of them in the project and lock again", path.display())]
    SeveralPlatforms {
        /// The file.
        path: PathBuf,
        /// The environment.
        environment: String,
        /// What was asked for.
        subdir: Subdir,
        /// What there is.
        names: String,
    },
    /// The environment holds packages that must be built first.
    #[error("environment '{environment}' of {} holds conda packages to be built from source ({names}), and only packages of the Python world are built here; put built packages of them on a channel, and lock again", path.display())]
    Sources {
        /// The file.
        path: PathBuf,
        /// The environment.
        environment: String,
        /// Some of their names.
        names: String,
    },
    /// Too little is known of a package to write it into a lock.
    #[error("too little is known of {url} to lock it: its archive must be read first")]
    Incomplete {
        /// The archive, without credentials.
        url: String,
    },
    /// The lock cannot be written in its format.
    #[error("the lock cannot be written as pixi.lock: {reason}")]
    Render {
        /// What the format cannot hold.
        reason: String,
    },
}

enum Detected {
    Pixi,
    CondaLock,
    Explicit,
}

/// Tells the formats apart by the keys at the left margin (or in the outermost braces, where a tool wrote JSON).
fn detect(text: &str) -> Option<Detected> {
    if text.lines().any(|line| line.trim() == "@EXPLICIT") {
        return Some(Detected::Explicit);
    }
    let has_key = |key: &str| {
        text.lines().any(|line| {
            let line = line.trim_start_matches(['{', ' ', '\t', '"', ',']);
            line.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with(':') || rest.starts_with("\":"))
        })
    };
    let has_margin_key = |key: &str| {
        text.lines()
            .any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
    };
    if has_margin_key("version") && has_margin_key("environments") {
        return Some(Detected::Pixi);
    }
    if !(has_key("version") && has_key("metadata") && has_key("package")) {
        return None;
    }
    // pixi.lock began as a dialect of conda-lock.yml; only the latter says for each package if it is optional.
    if has_key("content_hash") && !has_key("optional") && !has_key("- optional") {
        return Some(Detected::Pixi);
    }
    Some(Detected::CondaLock)
}

/// The first few of many names.
fn enumerate(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<_> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
        _ => names.join(", "),
    }
}
