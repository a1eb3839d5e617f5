//! What a person asks for: dependencies, requirements from PyPI, channels, variables, perhaps a base to inherit.
//!
//! A spec is checked when it is read: every MatchSpec and every requirement in it parses. What the packages behind it are
//! is found out elsewhere; this room knows no network and no records.

mod environment_yml;
mod selector;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rattler_conda_types::{MatchSpec, ParseMatchSpecError, ParseMatchSpecOptions};

use crate::requirements::{self, Parts, RequirementError, Requirements};
use crate::subdir::Subdir;
use selector::Selector;

/// Nobody writes more than this; a larger file is something else.
const MAX_SIZE_BYTES: u64 = 16 << 20;

/// A specification of an environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    name: Option<String>,
    channels: Vec<String>,
    dependencies: Vec<Dependency>,
    variables: BTreeMap<String, String>,
    base: Option<String>,
    platforms: Vec<Subdir>,
    requirements: Requirements,
    /// The Python that the requirements need, as a MatchSpec.
    python: Option<String>,
    origin: Option<PathBuf>,
}

/// One line of `dependencies`, for some or all platforms.
#[derive(Clone, Debug, PartialEq)]
struct Dependency {
    text: String,
    selector: Option<Selector>,
}

impl Spec {
    /// Reads what a person keeps: an environment.yml, a requirements file (`.txt`, `.in`) or a project (`.toml`), told
    /// apart by the file's name.
    ///
    /// Understood in an environment.yml are `name`, `channels` (with `nodefaults`), `dependencies` (MatchSpecs,
    /// `channel::package`, build globs, platform selectors such as `# [linux]`, a section `pip:` as pip reads it),
    /// `variables`, `platforms` and our own `base`, the environment to inherit: a signature or the path of a lock or spec
    /// file. `prefix` and `category` are ignored. Relative paths are relative to the file.
    ///
    /// What a project needs is its dependencies with the `parts` that are asked for; the project itself is not installed.
    ///
    /// # Errors
    /// The file cannot be read or is not what its name says, has a key that nobody knows, a dependency that is no MatchSpec
    /// or a requirement that is none, or has not the parts that are asked for. The error names the place.
    pub fn read(path: &Path, parts: &Parts) -> Result<Self, SpecError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension == Some("toml") {
            let project = requirements::read_pyproject(path, parts)?;
            return Ok(Self::from_requirements(project.requirements, project.name, path));
        }
        if !parts.extras.is_empty() || !parts.groups.is_empty() {
            return Err(SpecError::NoParts { path: path.to_owned() });
        }
        if matches!(extension, Some("txt" | "in")) {
            return Ok(Self::from_requirements(requirements::read_file(path)?, None, path));
        }
        Self::parse_environment_yml(&read_text(path)?, path)
    }

    /// Reads the text of an environment.yml; the path is for messages and relative paths.
    ///
    /// # Errors
    /// As [`read`](Self::read); files that a `pip:` section includes are read too.
    pub fn parse_environment_yml(text: &str, path: &Path) -> Result<Self, SpecError> {
        environment_yml::parse(text, path)
    }

    /// A spec from a command line.
    ///
    /// # Errors
    /// An argument is no MatchSpec.
    pub fn from_match_specs(match_specs: &[String], channels: &[String]) -> Result<Self, SpecError> {
        let mut spec = Self {
            channels: without_nodefaults(channels),
            ..Self::default()
        };
        spec.add_match_specs(match_specs)?;
        Ok(spec)
    }

    /// Asks for more.
    ///
    /// # Errors
    /// An argument is no MatchSpec.
    pub fn add_match_specs(&mut self, match_specs: &[String]) -> Result<(), SpecError> {
        for text in match_specs {
            parse_match_spec(text).map_err(|reason| SpecError::Argument {
                text: text.clone(),
                reason,
            })?;
            self.dependencies.push(Dependency {
                text: text.clone(),
                selector: None,
            });
        }
        self.settle_python();
        Ok(())
    }

    /// Asks for more from PyPI, in lines as a requirements file has them. Paths in them are relative to `directory`.
    ///
    /// # Errors
    /// A line is no requirement, or a file that it names cannot be read.
    pub fn add_requirements(&mut self, lines: &[String], directory: &Path) -> Result<(), SpecError> {
        self.requirements.add(lines, directory)?;
        self.settle_python();
        Ok(())
    }

    /// Puts channels before those that are there: they have priority.
    pub fn prepend_channels(&mut self, channels: &[String]) {
        let mut all = without_nodefaults(channels);
        for channel in std::mem::take(&mut self.channels) {
            if !all.contains(&channel) {
                all.push(channel);
            }
        }
        self.channels = all;
    }

    /// Inherits from an environment instead of the one that was named, if any.
    pub fn set_base(&mut self, base: &str) {
        self.base = Some(base.to_owned());
    }

    /// The environment's name, which has no influence on what it is.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The channels as they were written, the first having priority; empty when none was named.
    #[must_use]
    pub fn channels(&self) -> &[String] {
        &self.channels
    }

    /// The MatchSpecs that hold for a platform, as they were written, and the Python that the requirements need.
    #[must_use]
    pub fn match_specs(&self, subdir: Subdir) -> Vec<&str> {
        let is_for = |dependency: &&Dependency| {
            let selector = dependency.selector.as_ref();
            selector.is_none_or(|selector| selector.holds(subdir))
        };
        let dependencies = self.dependencies.iter().filter(is_for);
        dependencies
            .map(|dependency| dependency.text.as_str())
            .chain(self.python.as_deref())
            .collect()
    }

    /// Whether packages from PyPI are asked for, and of channels nothing but a Python for them.
    #[must_use]
    pub fn asks_only_for_python(&self, subdir: Subdir) -> bool {
        !self.requirements.is_empty() && self.match_specs(subdir).into_iter().all(is_python)
    }

    /// What is asked for from PyPI.
    #[must_use]
    pub fn requirements(&self) -> &Requirements {
        &self.requirements
    }

    /// Environment variables to set when the environment is activated.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The environment to inherit.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The platforms the file names; empty: it does not say.
    #[must_use]
    pub fn platforms(&self) -> &[Subdir] {
        &self.platforms
    }

    /// The file it was read from.
    #[must_use]
    pub fn origin(&self) -> Option<&Path> {
        self.origin.as_deref()
    }

    fn from_requirements(requirements: Requirements, name: Option<String>, path: &Path) -> Self {
        let mut spec = Self {
            name,
            requirements,
            origin: Some(path.to_owned()),
            ..Self::default()
        };
        spec.settle_python();
        spec
    }

    /// Requirements need a Python: the one that their project allows, or any where nobody asks for one.
    fn settle_python(&mut self) {
        let allowed = self.requirements.requires_python();
        let is_named = self.dependencies.iter().any(|dependency| is_python(&dependency.text));
        self.python = match allowed {
            Some(allowed) => Some(format!("python {}", allowed.replace(' ', ""))),
            None if is_named || self.requirements.is_empty() => None,
            None => Some("python".to_owned()),
        };
    }
}

/// Why a spec cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A place in the file is wrong.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The file as a whole is not an environment.yml.
    #[error("{} is not an environment.yml: {problem}", path.display())]
    NotASpec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// What is asked for from PyPI cannot be used.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// Only projects have extras and groups.
    #[error("{} is no project: only a pyproject.toml has extras and groups; write the extras behind the names, as in requests[socks]", path.display())]
    NoParts {
        /// The file.
        path: PathBuf,
    },
    /// An argument of the command line is no MatchSpec.
    #[error("'{text}' is not a MatchSpec: {reason}")]
    Argument {
        /// What was given.
        text: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// Parses one MatchSpec. The error says what is wrong and, where it is a frequent mistake, what would be right.
pub(crate) fn parse_match_spec(text: &str) -> Result<MatchSpec, String> {
    let options = ParseMatchSpecOptions::lenient()
        .with_exact_names_only(true)
        .with_extras(true);
    MatchSpec::from_str(text, options).map_err(|error| explain(text, &error))
}

fn is_python(match_spec: &str) -> bool {
    let name = match_spec.rsplit("::").next().unwrap_or(match_spec);
    let end = name.find(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
    &name[..end.unwrap_or(name.len())] == "python"
}

fn read_text(path: &Path) -> Result<String, SpecError> {
    let failed = |source| SpecError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_SIZE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_SIZE_BYTES {
        return Err(SpecError::NotASpec {
            path: path.to_owned(),
            problem: format!("it is larger than {} MiB", MAX_SIZE_BYTES >> 20),
        });
    }
    Ok(text)
}

fn explain(text: &str, error: &ParseMatchSpecError) -> String {
    let swapped = [("=>", ">="), ("=<", "<="), ("=!", "!=")]
        .into_iter()
        .find(|(wrong, _)| text.contains(wrong));
    if let Some((wrong, right)) = swapped {
        return format!("write '{right}' instead of '{wrong}'");
    }
    if matches!(error, ParseMatchSpecError::MissingPackageName) {
        return "it has no package name; it must read like 'numpy', 'numpy >=1.26,<3' or 'channel::numpy=1.26'"
            .to_owned();
    }
    format!("{error}; it must read like 'numpy', 'numpy >=1.26,<3', 'numpy=1.26=py312*' or 'channel::numpy'")
}

/// conda appends its own default channels unless a file says `nodefaults`. We never do, so the word asks for nothing.
fn without_nodefaults(channels: &[String]) -> Vec<String> {
    channels
        .iter()
        .filter(|channel| *channel != "nodefaults")
        .cloned()
        .collect()
}
