//! pylock.toml ([PEP 751](https://peps.python.org/pep-0751/)): exact distributions with their files.
//!
//! Read from what people keep beside their projects and from what uv writes. Which of its files are for a Python is decided
//! here; the packages' bytes, and how the file came to be, are not known.

mod document;

use std::path::{Path, PathBuf};

use pep440_rs::VersionSpecifiers;
use pep508_rs::MarkerTree;

use crate::pypi::{LockedWheel, normalized_name};
use crate::python::PythonTarget;
use crate::requirements::Parts;
use crate::source::{Distribution, Distributions, LockedSource};
use document::Document;

/// The major version that is understood.
const LOCK_VERSION: &str = "1.";

/// The content of a pylock.toml.
#[derive(Clone, Debug)]
pub(crate) struct Pylock {
    path: PathBuf,
    requires_python: Option<VersionSpecifiers>,
    extras: Vec<String>,
    groups: Vec<String>,
    default_groups: Vec<String>,
    packages: Vec<LockedDistribution>,
}

/// One version of a distribution with its files.
#[derive(Clone, Debug)]
pub(crate) struct LockedDistribution {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    wheels: Vec<LockedWheel>,
    /// What it can be built of.
    source: Option<LockedSource>,
}

/// What may be chosen of a distribution.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice<'a> {
    /// The digests that are allowed; empty: all.
    pub(crate) allowed: &'a [[u8; 32]],
    /// Whether it is built even if there is a wheel.
    pub(crate) is_built: bool,
}

impl Pylock {
    /// Reads the text of a pylock.toml; the path is for messages and for what lies beside it.
    ///
    /// # Errors
    /// It is no TOML, of a newer version, or breaks the format's rules.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, PylockError> {
        let malformed = |reason: String| PylockError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let document: Document = toml::from_str(text).map_err(|error| malformed(error.message().to_owned()))?;
        if !document.lock_version.starts_with(LOCK_VERSION) {
            return Err(malformed(format!(
                "it is of version {}, and only 1 is known: write it anew with an older tool, or update this one",
                document.lock_version
            )));
        }
        let packages = document.packages.into_iter().map(|package| package.read(path));
        Ok(Self {
            path: path.to_owned(),
            requires_python: document.requires_python,
            extras: document.extras,
            groups: document.dependency_groups,
            default_groups: document.default_groups,
            packages: packages.collect::<Result<_, _>>().map_err(malformed)?,
        })
    }

    pub(crate) fn packages(&self) -> &[LockedDistribution] {
        &self.packages
    }

    pub(crate) fn requires_python(&self) -> Option<&VersionSpecifiers> {
        self.requires_python.as_ref()
    }

    /// What is for a Python, with the parts that are asked for.
    ///
    /// # Errors
    /// It has no such part, or a package has neither a wheel that fits nor sources.
    pub(crate) fn select(&self, target: &PythonTarget, parts: &Parts) -> Result<Distributions, PylockError> {
        let unknown = |what: &'static str, name: &str, known: &[String]| PylockError::UnknownPart {
            path: self.path.clone(),
            what,
            name: name.to_owned(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        };
        if let Some(extra) = parts.extras.iter().find(|extra| !self.extras.contains(extra)) {
            return Err(unknown("extra", extra, &self.extras));
        }
        if let Some(group) = parts.groups.iter().find(|group| !self.groups.contains(group)) {
            return Err(unknown("group", group, &self.groups));
        }
        let mut groups = parts.groups.clone();
        groups.extend(self.default_groups.iter().cloned());
        let markers = target.marker_environment();
        let mut chosen = Vec::new();
        for package in &self.packages {
            if let Some(marker) = &package.marker {
                let text = without_parts(marker, &parts.extras, &groups);
                let tree: MarkerTree = text.parse().map_err(|_| PylockError::Malformed {
                    path: self.path.clone(),
                    reason: format!("the marker '{marker}' of {} cannot be understood", package.name),
                })?;
                if !tree.evaluate(&markers, &[]) {
                    continue;
                }
            }
            chosen.push(package.choose(target, &Choice::default())?);
        }
        Ok(Distributions::sorted(chosen))
    }
}

impl LockedDistribution {
    pub(crate) fn new(
        name: &str,
        version: Option<String>,
        wheels: Vec<LockedWheel>,
        source: Option<LockedSource>,
    ) -> Self {
        Self {
            name: normalized_name(name),
            version,
            marker: None,
            wheels,
            source,
        }
    }

    /// The name, normalized.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The wheel that fits a Python best, or else the sources, among those that the choice allows.
    ///
    /// # Errors
    /// None fits, or none has an allowed digest.
    pub(crate) fn choose(&self, target: &PythonTarget, choice: &Choice<'_>) -> Result<Distribution, PylockError> {
        let allowed = choice.allowed;
        let is_allowed =
            |wheel: &&LockedWheel| allowed.is_empty() || wheel.sha256().is_some_and(|sha256| allowed.contains(&sha256));
        let fitting = || {
            self.wheels
                .iter()
                .filter(|wheel| target.rank(wheel.file_name()).is_some())
        };
        let best = fitting()
            .filter(|_| !choice.is_built)
            .filter(is_allowed)
            .min_by_key(|wheel| target.rank(wheel.file_name()));
        if let Some(wheel) = best {
            return Ok(Distribution::Wheel(wheel.clone()));
        }
        if let Some(source) = &self.source
            && (allowed.is_empty() || source.sha256().is_some_and(|sha256| allowed.contains(&sha256)))
        {
            return Ok(Distribution::Source(source.clone()));
        }
        let distribution = match &self.version {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        };
        if let Some(wheel) = fitting().next() {
            return Err(PylockError::Hash {
                distribution,
                file_name: wheel.file_name().to_string(),
            });
        }
        Err(PylockError::NoWheel {
            distribution,
            python: target.version(),
            subdir: target.subdir().to_string(),
            offered: match self.wheels.as_slice() {
                [] => "there is no file at all".to_owned(),
                wheels => format!("there is {}", enumerate(wheels)),
            },
        })
    }
}

/// Replaces what PEP 751 added to markers (`'dev' in dependency_groups`, `'x' in extras`) by what is always or never true.
fn without_parts(marker: &str, extras: &[String], groups: &[String]) -> String {
    let mut text = marker.to_owned();
    for (variable, known) in [("extras", extras), ("dependency_groups", groups)] {
        for negation in ["not in", "in"] {
            let end = format!(" {negation} {variable}");
            while let Some(at) = text.find(&end) {
                let before = &text[..at];
                let Some(quote) = before.chars().next_back().filter(|c| matches!(c, '\'' | '"')) else {
                    break;
                };
                let Some(start) = before[..before.len() - 1].rfind(quote) else {
                    break;
                };
                let name = &before[start + 1..before.len() - 1];
                let is_in = known
                    .iter()
                    .any(|known| normalized_name(known) == normalized_name(name));
                let holds = is_in == (negation == "in");
                let truth = if holds {
                    "python_version >= '0'"
                } else {
                    "python_version < '0'"
                };
                text = format!("{}{truth}{}", &text[..start], &text[at + end.len()..]);
            }
        }
    }
    text
}

fn enumerate(wheels: &[LockedWheel]) -> String {
    const SHOWN: usize = 4;
    let mut tags: Vec<_> = wheels.iter().map(|wheel| wheel.file_name().tag()).collect();
    let more = tags.len().saturating_sub(SHOWN);
    tags.truncate(SHOWN);
    match more {
        0 => tags.join(", "),
        more => format!("{} and {more} more", tags.join(", ")),
    }
}

/// Why exact distributions cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PylockError {
    /// The file breaks the rules of its format.
    #[error("{} is not a valid lock: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file has not what is asked for.
    #[error("{} has no {what} '{name}'; it has: {known}", path.display())]
    UnknownPart {
        /// The file.
        path: PathBuf,
        /// `extra` or `group`.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No wheel fits.
    #[error(
        "{distribution} has no wheel for Python {python} on {subdir}: {offered}; ask for a version that has one, for another \
         Python, or for the conda package"
    )]
    NoWheel {
        /// Name and version.
        distribution: String,
        /// The version of Python.
        python: String,
        /// The platform.
        subdir: String,
        /// What there is instead.
        offered: String,
    },
    /// The digest is not one of those that are allowed.
    #[error(
        "no wheel of {distribution} that fits has one of the digests that the requirements allow (the best is {file_name}): \
         the file on the index is another than the one that was hashed; compare them, and write the hashes anew if you \
         trust it"
    )]
    Hash {
        /// Name and version.
        distribution: String,
        /// The wheel that would have been taken.
        file_name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::tests::target;

    const TEXT: &str = r#"
lock-version = "1.0"
requires-python = ">=3.9"
extras = ["gui"]
dependency-groups = ["dev"]
[[packages]]
name = "Only.Windows"
version = "1"
marker = "sys_platform == 'win32'"
wheels = [{ url = "https://h/only_windows-1-py3-none-any.whl" }]
[[packages]]
name = "tool"
version = "1"
marker = "'dev' in dependency_groups and python_version >= '3.9'"
wheels = [{ path = "wheels/tool-1-py3-none-any.whl", size = 3 }]
[[packages]]
name = "fast"
version = "2"
wheels = [
  { url = "https://h/fast-2-py3-none-any.whl" },
  { url = "https://h/fast-2-cp312-cp312-manylinux_2_17_x86_64.whl", hashes = { sha256 = "0000000000000000000000000000000000000000000000000000000000000001" } },
]
"#;

    fn select(parts: &Parts) -> Result<Vec<String>, PylockError> {
        let lock = Pylock::parse(TEXT, Path::new("/p/pylock.toml")).unwrap();
        let chosen = lock.select(&target("3.12.8", "linux-64"), parts)?;
        Ok(chosen.wheels.iter().map(|wheel| wheel.url().to_owned()).collect())
    }

    #[test]
    fn markers_and_tags_select() {
        let fast = "https://h/fast-2-cp312-cp312-manylinux_2_17_x86_64.whl";
        assert_eq!(select(&Parts::default()).unwrap(), [fast]);
        let dev = Parts {
            groups: vec!["dev".to_owned()],
            ..Parts::default()
        };
        assert_eq!(
            select(&dev).unwrap(),
            [fast, "file:///p/wheels/tool-1-py3-none-any.whl"]
        );
    }

    #[test]
    fn a_part_that_is_not_there_is_refused() {
        let parts = Parts {
            extras: vec!["nope".to_owned()],
            ..Parts::default()
        };
        let error = select(&parts).unwrap_err().to_string();
        assert!(error.contains("extra 'nope'") && error.contains("gui"), "{error}");
    }

    #[test]
    fn without_a_wheel_that_fits_the_error_says_what_there_is() {
        let lock = Pylock::parse(TEXT, Path::new("/p/pylock.toml")).unwrap();
        let windows = target("3.12", "win-64");
        let fast = &lock.packages()[2];
        assert!(fast.choose(&windows, &Choice::default()).is_ok());
        let other = Choice {
            allowed: &[[7; 32]],
            is_built: false,
        };
        let error = fast.choose(&windows, &other).unwrap_err().to_string();
        assert!(error.contains("digests"), "{error}");
        let text = "lock-version = \"1.0\"\n[[packages]]\nname = \"x\"\nversion = \"1\"\n";
        let lock = Pylock::parse(text, Path::new("pylock.toml")).unwrap();
        let error = lock.packages()[0]
            .choose(&windows, &Choice::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("x 1") && error.contains("win-64"), "{error}");
    }

    #[test]
    fn sources_are_taken_where_no_wheel_fits_or_they_are_wanted() {
        let text = r#"
lock-version = "1.0"
[[packages]]
name = "a"
version = "1"
sdist = { url = "https://h/a-1.tar.gz", hashes = { sha256 = "0000000000000000000000000000000000000000000000000000000000000002" } }
wheels = [{ url = "https://h/a-1-py3-none-any.whl" }]
[[packages]]
name = "b"
vcs = { type = "git", url = "https://h/b.git", requested-revision = "main", commit-id = "12" }
[[packages]]
name = "c"
directory = { path = "../c", editable = true }
[[packages]]
name = "d"
archive = { path = "d.zip", subdirectory = "in", hashes = {} }
"#;
        let lock = Pylock::parse(text, Path::new("/p/pylock.toml")).unwrap();
        let linux = target("3.12", "linux-64");
        let chosen = lock.select(&linux, &Parts::default()).unwrap();
        assert_eq!(chosen.wheels.len(), 1);
        let described: Vec<_> = chosen.sources.iter().map(LockedSource::describe).collect();
        let expected = [
            "commit 12 of https://h/b.git",
            "the project in /c",
            "the source distribution file:///p/d.zip",
        ];
        assert_eq!(described, expected);
        let built = Choice {
            allowed: &[],
            is_built: true,
        };
        let Distribution::Source(source) = lock.packages()[0].choose(&linux, &built).unwrap() else {
            panic!("a wheel was taken");
        };
        assert_eq!((source.version(), source.sha256().unwrap()[31]), (Some("1"), 2));
        assert_eq!(source.direct_url(), None, "it is of an index");
    }

    #[test]
    fn a_wheel_at_a_url_has_a_direct_url() {
        let text = "lock-version = \"1.0\"\n[[packages]]\nname = \"x\"\narchive = { url = \"https://u:p@h/x-1-py3-none-any.whl\" }\n";
        let lock = Pylock::parse(text, Path::new("pylock.toml")).unwrap();
        let chosen = lock.select(&target("3.12", "linux-64"), &Parts::default()).unwrap();
        let wheel = &chosen.wheels[0];
        let expected = r#"{"url":"https://h/x-1-py3-none-any.whl","archive_info":{}}"#;
        assert_eq!(wheel.direct_url(), Some(expected));
    }
}
