//! What an environment holds, in the formats of other tools.
//!
//! Each format says what it can: only pixi.lock and conda-lock.yml hold conda packages and wheels with their digests for
//! several platforms. Writes texts; where they go is decided elsewhere.

mod conda_lock;
mod environment;
mod explicit;
mod pylock;
mod requirements;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::lock::{DEFAULT_ENVIRONMENT, Lock, LockError, LockedContents};
use crate::package::LockedPackage;
use crate::pypi::{LockedWheel, normalized_name};
use crate::source::{LockedSource, SourcePlace};

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Export<'a> {
    /// The environment's name.
    pub name: Option<&'a str>,
    /// The channels it was solved with, the first having priority.
    pub channels: &'a [String],
    /// What it holds, for one platform or several. Formats that know only one write the first.
    pub contents: &'a [LockedContents],
    /// Environment variables that activation sets.
    pub variables: &'a BTreeMap<String, String>,
    /// Leaves out build strings, so that another platform may choose its own.
    pub no_builds: bool,
    /// Writes only what was asked for, and not what that needs.
    pub asked: Option<Asked>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// From conda channels.
    pub match_specs: Vec<String>,
    /// From PyPI.
    pub requirements: Vec<String>,
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// environment.yml, as `conda env export` writes it.
    Environment,
    /// A list of URLs after a line `@EXPLICIT`.
    Explicit,
    /// conda-lock.yml (CEP 37).
    CondaLock,
    /// pixi.lock, version 7.
    Pixi,
    /// pylock.toml (PEP 751).
    Pylock,
    /// A requirements file.
    Requirements,
}

/// The formats and what they are called.
const FORMATS: [(&str, ExportFormat); 6] = [
    ("environment", ExportFormat::Environment),
    ("explicit", ExportFormat::Explicit),
    ("conda-lock", ExportFormat::CondaLock),
    ("pixi", ExportFormat::Pixi),
    ("pylock", ExportFormat::Pylock),
    ("requirements", ExportFormat::Requirements),
];

impl ExportFormat {
    /// The packages that the format cannot hold: how many of conda, how many from PyPI.
    #[must_use]
    pub fn left_out(self, contents: &LockedContents) -> (usize, usize) {
        match self {
            Self::Environment | Self::Pixi => (0, 0),
            Self::CondaLock => {
                let is_held = |source: &&LockedSource| {
                    matches!(source.place(), SourcePlace::Archive { .. }) && source.version().is_some()
                };
                (
                    0,
                    contents.sources.len() - contents.sources.iter().filter(is_held).count(),
                )
            }
            Self::Explicit => (0, contents.wheels.len() + contents.sources.len()),
            Self::Pylock | Self::Requirements => (contents.packages.len(), 0),
        }
    }

    /// Whether the format holds several platforms.
    #[must_use]
    pub fn holds_platforms(self) -> bool {
        matches!(self, Self::CondaLock | Self::Pixi)
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMATS.iter().find(|(_, format)| format == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for ExportFormat {
    type Err = UnknownExportFormat;

    fn from_str(text: &str) -> Result<Self, UnknownExportFormat> {
        let found = FORMATS.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| UnknownExportFormat { given: text.to_owned() })
    }
}

/// Writes an environment in a format.
///
/// # Errors
/// The format needs to know more of a package than is known.
pub fn export(request: &Export<'_>, format: ExportFormat) -> Result<String, ExportError> {
    let first = request.contents.first().ok_or(ExportError::Nothing)?;
    match format {
        ExportFormat::Environment => Ok(environment::write(request, first)),
        ExportFormat::Explicit => explicit::write(first),
        ExportFormat::CondaLock => Ok(conda_lock::write(request)),
        ExportFormat::Pixi => {
            let lock = Lock::from_solutions(DEFAULT_ENVIRONMENT, request.channels, request.contents)?;
            Ok(lock.render()?)
        }
        ExportFormat::Pylock => pylock::write(first),
        ExportFormat::Requirements => Ok(requirements::write(request, first)),
    }
}

impl Asked {
    /// What must have been asked for: what nothing else in the environment needs. A guess, for environments that do not say it.
    #[must_use]
    pub fn guess(contents: &LockedContents) -> Self {
        let mut needed = BTreeSet::new();
        for package in &contents.packages {
            needed.extend(package.depends().iter().map(|depend| name_of(depend).to_owned()));
        }
        let is_needed = |package: &&LockedPackage| !needed.contains(package.name());
        let packages = contents.packages.iter().filter(is_needed);
        let mut needed_wheels = BTreeSet::new();
        for wheel in &contents.wheels {
            // What only an extra needs does not tell why something is there.
            let always = wheel.requires_dist().iter().filter(|text| !text.contains("extra =="));
            needed_wheels.extend(always.map(|text| normalized_name(name_of(text))));
        }
        // Installers note it (PEP 376); locks do not.
        let is_noted = contents.wheels.iter().any(LockedWheel::is_requested)
            || contents.sources.iter().any(LockedSource::is_requested);
        let is_asked = |wheel: &&LockedWheel| match is_noted {
            true => wheel.is_requested(),
            false => !needed_wheels.contains(wheel.name()),
        };
        let wheels = contents.wheels.iter().filter(is_asked);
        let sources = contents.sources.iter();
        let sources = sources.filter(|source| !is_noted || source.is_requested());
        Self {
            match_specs: packages
                .map(|package| format!("{}={}", package.name(), package.version()))
                .collect(),
            requirements: wheels
                .map(LockedWheel::line)
                .chain(sources.map(LockedSource::line))
                .collect(),
        }
    }
}

/// The name at the start of a MatchSpec or a requirement.
fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
    &text[..end.unwrap_or(text.len())]
}

/// A text as a scalar of YAML: plain where nothing can be misread, else in quotes.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./+=~@ <>,!*:".contains(c);
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    let is_safe =
        starts_well && !is_word && !text.contains(": ") && !text.ends_with([':', ' ']) && text.chars().all(is_plain);
    if is_safe {
        return text.to_owned();
    }
    serde_json::to_string(text).unwrap_or_default()
}

/// The text is not the name of a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is no format; known are environment, explicit, conda-lock, pixi, pylock and requirements")]
pub struct UnknownExportFormat {
    /// What was given.
    pub given: String,
}

/// Why an environment cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// There is no platform to write.
    #[error("there is nothing to export: no platform was solved")]
    Nothing,
    /// The lock cannot be written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file has no digest.
    #[error("{package} has no SHA-256, and {format} needs one: build the environment first, and export that")]
    NoDigest {
        /// The package or wheel.
        package: String,
        /// The format.
        format: &'static str,
    },
}
