//! What a person asks for: dependencies, channels, variables, perhaps a base to inherit.
//!
//! A spec is checked when it is read: every MatchSpec in it parses. What the packages behind it are is found out
//! elsewhere; this room knows no network and no records.

mod environment_yml;
mod selector;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rattler_conda_types::{MatchSpec, ParseMatchSpecError, ParseMatchSpecOptions};

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
    origin: Option<PathBuf>,
}

/// One line of `dependencies`, for some or all platforms.
#[derive(Clone, Debug, PartialEq)]
struct Dependency {
    text: String,
    selector: Option<Selector>,
}

impl Spec {
    /// Reads an environment.yml.
    ///
    /// Understood are `name`, `channels` (with `nodefaults`), `dependencies` (MatchSpecs, `channel::package`, build
    /// globs, platform selectors such as `# [linux]`), `variables`, `platforms` and our own `base`, the environment to
    /// inherit: a signature or the path of a lock or spec file. `prefix` and `category` are ignored. Relative paths of
    /// channels and of the base are relative to the file.
    ///
    /// # Errors
    /// The file cannot be read, is not YAML, has a key that nobody knows, a dependency that is no MatchSpec, or a `pip:`
    /// section, which is not supported yet. The error names line and column.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
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
        Self::parse_environment_yml(&text, path)
    }

    /// Reads the text of an environment.yml; the path is for messages and relative paths.
    ///
    /// # Errors
    /// As [`read`](Self::read).
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

    /// The MatchSpecs that hold for a platform, as they were written.
    #[must_use]
    pub fn match_specs(&self, subdir: Subdir) -> Vec<&str> {
        self.dependencies
            .iter()
            .filter(|dependency| {
                dependency
                    .selector
                    .as_ref()
                    .is_none_or(|selector| selector.holds(subdir))
            })
            .map(|dependency| dependency.text.as_str())
            .collect()
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
    /// The file asks for packages from PyPI.
    #[error(
        "{}:{line}: a pip: section is not supported yet; use the conda packages of the same projects, or install the \
         rest with pip into a writable copy",
        path.display()
    )]
    Pip {
        /// The file.
        path: PathBuf,
        /// The line of `pip:`, from 1.
        line: u64,
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
