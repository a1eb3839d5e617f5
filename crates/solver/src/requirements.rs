//! What a person asks for from PyPI: requirements, constraints, and where to look.
//!
//! Read from requirements files and the `pip:` section of an environment.yml ([`line`], [`file`]) and from pyproject.toml
//! ([`pyproject`]). Every requirement keeps the place where it stands, so that a mistake can be pointed at. Knows no
//! network, no Python and no packages.

mod file;
mod line;
mod poetry;
mod pyproject;
#[cfg(test)]
mod tests;
mod uv_sources;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::VersionOrUrl;
use url::Url;

use crate::pep508::Pep508;
use crate::pypi::normalized_name;

pub(crate) use file::{read_file, read_lines};
pub(crate) use poetry::{git_url, specifiers as poetry_specifiers};
pub(crate) use pyproject::{Project, located, read as read_pyproject};

/// Everything that is asked for from PyPI.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requirements {
    pub(crate) wanted: Vec<Requirement>,
    pub(crate) constraints: Vec<Requirement>,
    pub(crate) sources: Sources,
    pub(crate) requires_python: Option<VersionSpecifiers>,
}

/// Where packages are looked for; empty: uv's own settings decide.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sources {
    pub(crate) index_url: Option<String>,
    pub(crate) extra_index_urls: Vec<String>,
    pub(crate) find_links: Vec<String>,
    pub(crate) no_index: bool,
    pub(crate) allow_prereleases: bool,
    /// Names of distributions that are built even where there is a wheel; `:all:` are all of them.
    pub(crate) no_binary: Vec<String>,
    /// Whether the first index that has a package decides, as uv does it, and not the best version of all, as pip does.
    pub(crate) is_first_index_only: bool,
}

/// One requirement and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Requirement {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    /// SHA-256 that the file allows; empty: any.
    pub(crate) sha256: Vec<[u8; 32]>,
}

/// What a requirement asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A distribution of an index, or a wheel at a URL.
    Pep508(Box<Pep508>),
    /// A wheel at a place, without a name of its own.
    Wheel(Url),
    /// Something that must be built first.
    Source(Source),
}

/// Something that must be built before it can be installed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    /// As it was written.
    pub(crate) text: String,
    /// As uv reads it, wherever it runs.
    pub(crate) line: String,
    pub(crate) what: SourceKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SourceKind {
    /// A repository.
    Repository,
    /// A source distribution.
    Archive,
    /// A directory with a project.
    Directory(PathBuf),
}

/// A place in a file, or on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: Option<PathBuf>,
    /// From 1; 0: the file has no lines worth counting.
    pub(crate) line: u64,
}

/// Which optional parts of a project are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Extras: optional dependencies that a project publishes.
    pub extras: Vec<String>,
    /// Groups of dependencies ([PEP 735](https://peps.python.org/pep-0735/)) that it does not.
    pub groups: Vec<String>,
}

impl Requirements {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Whether something has to be built, whatever there is on an index.
    pub(crate) fn need_builds(&self) -> bool {
        let is_source = |requirement: &Requirement| matches!(requirement.kind, Kind::Source(_));
        !self.sources.no_binary.is_empty() || self.wanted.iter().any(is_source)
    }

    /// The directories of the projects that are asked for, and of those that they take from beside them.
    pub(crate) fn projects(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        let asked = self.wanted.iter().filter_map(|requirement| match &requirement.kind {
            Kind::Source(Source {
                what: SourceKind::Directory(path),
                ..
            }) => Some(path.clone()),
            _ => None,
        });
        let mut next: Vec<PathBuf> = asked.collect();
        while let Some(directory) = next.pop() {
            if directory.is_dir() && !found.contains(&directory) {
                next.extend(uv_sources::directories(&directory));
                found.push(directory);
            }
        }
        found
    }

    /// Whether a distribution is built even if there is a wheel of it.
    pub(crate) fn is_built(&self, name: &str) -> bool {
        let no_binary = self.sources.no_binary.iter();
        no_binary
            .clone()
            .any(|built| built == ":all:" || normalized_name(built) == name)
    }

    /// Adds requirements as PEP 508 writes them, or as a line of a requirements file would.
    ///
    /// # Errors
    /// A text is no requirement.
    pub fn add(&mut self, texts: &[String], directory: &Path) -> Result<(), RequirementError> {
        for text in texts {
            let place = Place { path: None, line: 0 };
            read_lines(self, [(place, text.as_str())], directory)?;
        }
        Ok(())
    }

    /// What is asked for, one requirement a line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.wanted.iter().map(Requirement::line).collect()
    }

    /// The Pythons that the project allows, as PEP 440 writes them.
    #[must_use]
    pub fn requires_python(&self) -> Option<String> {
        self.requires_python.as_ref().map(ToString::to_string)
    }

    /// Looks for what cannot be had, before anything is resolved.
    ///
    /// # Errors
    /// A requirement is a directory that does not exist or holds no project, or something that has to be built and may not be.
    pub fn check(&self, may_build: bool) -> Result<(), RequirementError> {
        let sources = self.wanted.iter().filter_map(|requirement| match &requirement.kind {
            Kind::Source(source) => Some((source, requirement)),
            Kind::Pep508(_) | Kind::Wheel(_) => None,
        });
        let sources: Vec<_> = sources.collect();
        let missing = sources.iter().find_map(|(source, requirement)| match &source.what {
            SourceKind::Directory(path) if !is_project(path) => Some((source, requirement, path)),
            _ => None,
        });
        if let Some((source, requirement, directory)) = missing {
            let problem = match directory.exists() {
                true => "holds no project (neither pyproject.toml nor setup.py)",
                false => "does not exist",
            };
            return Err(RequirementError::NoDirectory {
                problem,
                place: requirement.place.clone(),
                text: source.text.clone(),
                directory: directory.clone(),
            });
        }
        match sources.as_slice() {
            _ if may_build => Ok(()),
            [] => Ok(()),
            [(source, requirement), others @ ..] => Err(RequirementError::MustBeBuilt {
                place: requirement.place.clone(),
                text: source.text.clone(),
                what: match source.what {
                    SourceKind::Repository => "a repository",
                    SourceKind::Archive => "a source distribution",
                    SourceKind::Directory(_) => "a directory with sources",
                },
                others: others.len(),
            }),
        }
    }
}

impl Requirement {
    /// The name of the distribution, normalized, where the requirement says it.
    pub(crate) fn name(&self) -> Option<String> {
        match &self.kind {
            Kind::Pep508(requirement) => Some(normalized_name(requirement.name.as_ref())),
            Kind::Wheel(url) => {
                let file = url.path_segments().and_then(Iterator::last)?;
                file.split('-').next().map(normalized_name)
            }
            Kind::Source(_) => None,
        }
    }

    /// As a line for uv.
    pub(crate) fn line(&self) -> String {
        match &self.kind {
            Kind::Pep508(requirement) => requirement.to_string(),
            Kind::Wheel(url) => url.to_string(),
            Kind::Source(source) => source.line.clone(),
        }
    }
}

fn is_project(directory: &Path) -> bool {
    ["pyproject.toml", "setup.py"]
        .iter()
        .any(|name| directory.join(name).is_file())
}

/// Whether a version satisfies a requirement; a URL is satisfied by any.
pub(crate) fn is_met_by(requirement: &Pep508, version: &Version) -> bool {
    match &requirement.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => specifiers.contains(version),
        _ => true,
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.line) {
            (None, _) => f.write_str("command line"),
            (Some(path), 0) => write!(f, "{}", path.display()),
            (Some(path), line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Why requirements cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(private_interfaces, reason = "a place is shown and not taken apart")]
pub enum RequirementError {
    /// A file cannot be read.
    #[error("{}cannot read {}", included_by(from.as_ref()), path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Where it is named.
        from: Option<Place>,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A line is no requirement.
    #[error("{place}: '{text}' is not a requirement: {reason}")]
    NotARequirement {
        /// Where it stands.
        place: Place,
        /// What it says.
        text: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// An option is unknown or lacks its value.
    #[error("{place}: {reason}")]
    Option {
        /// Where it stands.
        place: Place,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A file includes itself.
    #[error("{place}: {} includes itself", path.display())]
    Cycle {
        /// Where it is included again.
        place: Place,
        /// The file.
        path: PathBuf,
    },
    /// A project file cannot be understood.
    #[error("{}: {reason}", path.display())]
    Project {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
    /// A directory is not there.
    #[error("{place}: '{text}' asks for the project in {}, which {problem}; take the line out, or bring the project there", directory.display())]
    NoDirectory {
        /// Where it stands.
        place: Place,
        /// What it says.
        text: String,
        /// Where the project would have to be.
        directory: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Something would have to be built.
    #[error(
        "{place}: '{text}' is {what}{}, and building from source is switched off; allow it, name the file or URL of a wheel \
         instead, or take a release from an index",
        and_others(*others)
    )]
    MustBeBuilt {
        /// Where it stands.
        place: Place,
        /// What it says.
        text: String,
        /// What it is.
        what: &'static str,
        /// How many more there are.
        others: usize,
    },
}

fn included_by(place: Option<&Place>) -> String {
    place.map_or_else(String::new, |place| format!("{place}: "))
}

fn and_others(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!(" (with {count} more)"),
    }
}
