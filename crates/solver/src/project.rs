//! A project with several environments: variants that share most of what they hold.
//!
//! Three spellings of one thing: our own (`envfs.toml`, or `[tool.envfs]` of a pyproject.toml), pixi's features and environments
//! (`pixi.toml`), and the extras and groups that a pyproject.toml has anyway. What is read here is what each variant asks for, in
//! the words of a command line; reading requirements and solving is the business of others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::known_keys::{line_of, refuse_unknown};
use crate::lock::DEFAULT_ENVIRONMENT;
use crate::requirements::located;
use crate::spec::parse_match_spec;
use crate::subdir::Subdir;

/// A project and its variants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The file.
    pub path: PathBuf,
    /// The platforms it is for; empty: it does not say.
    pub platforms: Vec<Subdir>,
    /// The default one first, the others by name.
    pub variants: Vec<Variant>,
}

/// One environment of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// What it is called.
    pub name: String,
    /// Channels, the first having priority.
    pub channels: Vec<String>,
    /// The conda packages it asks for.
    pub match_specs: Vec<String>,
    /// What it asks for from PyPI, as lines of a requirements file.
    pub requirements: Vec<String>,
    /// The pyproject.toml whose dependencies it has.
    pub file: Option<PathBuf>,
    /// Extras of that.
    pub extras: Vec<String>,
    /// Dependency groups of that.
    pub groups: Vec<String>,
}

/// Why a project cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what a project is written in.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The place, what is wrong there, and what would be right.
        reason: String,
    },
}

impl Project {
    /// The file in a directory that describes variants, the most explicit first; none: there is no such file.
    #[must_use]
    pub fn find(directory: &Path) -> Option<PathBuf> {
        let files = ["envfs.toml", "pixi.toml", "pyproject.toml"].map(|name| directory.join(name));
        files.into_iter().find(|file| file.is_file())
    }

    /// Whether a file says of itself that it has variants: one by its name, a pyproject.toml by a table `[tool.envfs]`.
    #[must_use]
    pub fn is_explicit(path: &Path) -> bool {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("envfs.toml" | "pixi.toml") => true,
            Some("pyproject.toml") => read(path)
                .ok()
                .and_then(|text| text.parse::<toml::Table>().ok())
                .is_some_and(|table| table.get("tool").is_some_and(|tool| tool.get("envfs").is_some())),
            _ => false,
        }
    }

    /// Reads a project. A pyproject.toml without `[tool.envfs]` has a variant for each of its extras and groups.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or has a key that nobody knows. The error names the line.
    pub fn read(path: &Path) -> Result<Self, ProjectError> {
        let text = read(path)?;
        let malformed = |reason: String| ProjectError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let parsed = match path.file_name().and_then(|name| name.to_str()) {
            Some("pixi.toml") => toml::from_str::<Pixi>(&text)
                .map_err(|error| located(&error, &text))
                .and_then(|pixi| {
                    refuse_unknown(&text, &[], &[&PIXI_KEYS[..], &PIXI_FEATURE_KEYS].concat())?;
                    refuse_unknown(&text, &["feature", "*"], &PIXI_FEATURE_KEYS)?;
                    pixi.variants()
                }),
            Some("pyproject.toml") => toml::from_str::<Pyproject>(&text)
                .map_err(|error| located(&error, &text))
                .and_then(|project| project.variants(path, &text)),
            _ => toml::from_str::<Own>(&text)
                .map_err(|error| located(&error, &text))
                .and_then(|own| own.variants(None, &text)),
        };
        let (platforms, mut variants) = parsed.map_err(malformed)?;
        variants
            .sort_by(|a, b| (a.name != DEFAULT_ENVIRONMENT, &a.name).cmp(&(b.name != DEFAULT_ENVIRONMENT, &b.name)));
        let platforms = platforms
            .iter()
            .map(|name| name.parse::<Subdir>().map_err(|error| malformed(error.to_string())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            path: path.to_owned(),
            platforms,
            variants,
        })
    }

    /// What all variants together ask for: what they share has to be the same in all of them.
    #[must_use]
    pub fn union(&self) -> Variant {
        let mut union = Variant::default();
        for variant in &self.variants {
            add_missing(&mut union.channels, &variant.channels);
            add_missing(&mut union.match_specs, &variant.match_specs);
            add_missing(&mut union.requirements, &variant.requirements);
            add_missing(&mut union.extras, &variant.extras);
            add_missing(&mut union.groups, &variant.groups);
            union.file = union.file.or_else(|| variant.file.clone());
        }
        union
    }
}

/// Platforms and variants as they were read.
type Read = (Vec<String>, Vec<Variant>);

fn read(path: &Path) -> Result<String, ProjectError> {
    std::fs::read_to_string(path).map_err(|source| ProjectError::Io {
        path: path.to_owned(),
        source,
    })
}

fn add_missing(all: &mut Vec<String>, more: &[String]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}

/// `envfs.toml`, and `[tool.envfs]`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
struct Own {
    channels: Vec<String>,
    platforms: Vec<String>,
    dependencies: Vec<toml::Spanned<String>>,
    pypi: Vec<String>,
    variants: BTreeMap<String, OwnVariant>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
struct OwnVariant {
    dependencies: Vec<toml::Spanned<String>>,
    pypi: Vec<String>,
    extras: Vec<String>,
    groups: Vec<String>,
}

/// MatchSpecs of the file `text`, each looked at where it stands.
fn checked(asked: Vec<toml::Spanned<String>>, text: &str) -> Result<Vec<String>, String> {
    let check = |asked: toml::Spanned<String>| match parse_match_spec(asked.get_ref()) {
        Ok(_) => Ok(asked.into_inner()),
        Err(reason) => Err(format!(
            "line {}: '{}' is not a MatchSpec: {reason}",
            line_of(asked.span().start, text),
            asked.get_ref()
        )),
    };
    asked.into_iter().map(check).collect()
}

impl Own {
    /// `file` is the pyproject.toml around it. Without any variant, the common part is one.
    fn variants(self, file: Option<&Path>, text: &str) -> Result<Read, String> {
        let dependencies = checked(self.dependencies, text)?;
        let mut all = self.variants;
        all.entry(DEFAULT_ENVIRONMENT.to_owned()).or_default();
        let variants = all.into_iter().map(|(name, own)| {
            let own_dependencies = checked(own.dependencies, text)?;
            let mut variant = Variant {
                name,
                channels: self.channels.clone(),
                match_specs: dependencies.clone(),
                requirements: self.pypi.clone(),
                file: file.map(Path::to_owned),
                extras: own.extras,
                groups: own.groups,
            };
            add_missing(&mut variant.match_specs, &own_dependencies);
            add_missing(&mut variant.requirements, &own.pypi);
            Ok(variant)
        });
        Ok((self.platforms, variants.collect::<Result<_, String>>()?))
    }
}

/// What matters here of a pyproject.toml; the rest is read where its requirements are.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Pyproject {
    project: ProjectTable,
    dependency_groups: BTreeMap<String, toml::Value>,
    tool: Tools,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct ProjectTable {
    optional_dependencies: BTreeMap<String, toml::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tools {
    envfs: Option<Own>,
    poetry: Poetry,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Poetry {
    extras: BTreeMap<String, toml::Value>,
    group: BTreeMap<String, toml::Value>,
}

impl Pyproject {
    fn variants(self, path: &Path, text: &str) -> Result<Read, String> {
        if let Some(own) = self.tool.envfs {
            return own.variants(Some(path), text);
        }
        let extras = self
            .project
            .optional_dependencies
            .into_keys()
            .chain(self.tool.poetry.extras.into_keys());
        let groups = self
            .dependency_groups
            .into_keys()
            .chain(self.tool.poetry.group.into_keys());
        let base = Variant {
            name: DEFAULT_ENVIRONMENT.to_owned(),
            file: Some(path.to_owned()),
            ..Variant::default()
        };
        let mut variants = BTreeMap::from([(base.name.clone(), base.clone())]);
        for extra in extras {
            let variant = variants.entry(extra.clone()).or_insert_with(|| base.clone());
            variant.extras = vec![extra];
        }
        for group in groups {
            // An extra and a group of one name are one variant.
            let variant = variants.entry(group.clone()).or_insert_with(|| base.clone());
            variant.groups = vec![group];
        }
        let named = variants.into_iter().map(|(name, variant)| Variant { name, ..variant });
        Ok((Vec::new(), named.collect()))
    }
}

/// Tables of a pixi.toml that are of the whole project ([pixi manifest](https://pixi.sh/latest/reference/pixi_manifest/)).
const PIXI_KEYS: [&str; 7] = [
    "workspace",
    "project",
    "package",
    "feature",
    "environments",
    "tool",
    "$schema",
];

/// Those that a feature has too.
const PIXI_FEATURE_KEYS: [&str; 16] = [
    "dependencies",
    "host-dependencies",
    "build-dependencies",
    "run-dependencies",
    "pypi-dependencies",
    "pypi-options",
    "constraints",
    "dev",
    "channels",
    "channel-priority",
    "solve-strategy",
    "platforms",
    "target",
    "tasks",
    "activation",
    "system-requirements",
];

/// What matters here of a pixi.toml.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Pixi {
    #[serde(alias = "project")]
    workspace: PixiWorkspace,
    #[serde(flatten)]
    main: PixiFeature,
    feature: BTreeMap<String, PixiFeature>,
    environments: BTreeMap<String, PixiEnvironment>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PixiWorkspace {
    channels: Vec<toml::Value>,
    platforms: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct PixiFeature {
    dependencies: BTreeMap<String, toml::Value>,
    pypi_dependencies: BTreeMap<String, toml::Value>,
    channels: Vec<toml::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PixiEnvironment {
    Features(Vec<String>),
    Table {
        #[serde(default)]
        features: Vec<String>,
        #[serde(default, rename = "no-default-feature")]
        no_default_feature: bool,
    },
}

impl Pixi {
    fn variants(mut self) -> Result<Read, String> {
        self.environments
            .entry(DEFAULT_ENVIRONMENT.to_owned())
            .or_insert_with(|| PixiEnvironment::Features(Vec::new()));
        let mut variants = Vec::new();
        for (name, environment) in &self.environments {
            let (features, has_default) = match environment {
                PixiEnvironment::Features(features) => (features, true),
                PixiEnvironment::Table {
                    features,
                    no_default_feature,
                } => (features, !no_default_feature),
            };
            let mut variant = Variant {
                name: name.clone(),
                ..Variant::default()
            };
            if has_default {
                variant.add(&self.main)?;
            }
            for feature in features {
                let feature = self.feature.get(feature).ok_or_else(|| {
                    let known: Vec<_> = self.feature.keys().map(String::as_str).collect();
                    format!(
                        "environment `{name}` has the feature `{feature}`, which is none of: {}",
                        known.join(", ")
                    )
                })?;
                variant.add(feature)?;
            }
            add_missing(
                &mut variant.channels,
                &self.workspace.channels.iter().filter_map(channel).collect::<Vec<_>>(),
            );
            variants.push(variant);
        }
        Ok((self.workspace.platforms, variants))
    }
}

impl Variant {
    fn add(&mut self, feature: &PixiFeature) -> Result<(), String> {
        let channels: Vec<String> = feature.channels.iter().filter_map(channel).collect();
        add_missing(&mut self.channels, &channels);
        for (name, value) in &feature.dependencies {
            let text = match (text_of(value, "version"), text_of(value, "build")) {
                (None, _) => {
                    return Err(format!(
                        "the dependency `{name}` has no version: write `{name} = \"*\"`"
                    ));
                }
                (Some("*"), None) => name.clone(),
                (Some(version), None) => format!("{name} {version}"),
                (Some(version), Some(build)) => format!("{name} {version} {build}"),
            };
            let text = match text_of(value, "channel").filter(|_| value.is_table()) {
                Some(channel) => format!("{channel}::{text}"),
                None => text,
            };
            parse_match_spec(&text)
                .map_err(|reason| format!("the dependency `{name}`: '{text}' is not a MatchSpec: {reason}"))?;
            add_missing(&mut self.match_specs, &[text]);
        }
        for (name, value) in &feature.pypi_dependencies {
            let Some(version) = text_of(value, "version") else {
                return Err(format!(
                    "the dependency `{name}` from PyPI has no version, and nothing is built from source here"
                ));
            };
            let extras: Vec<&str> = value
                .get("extras")
                .and_then(toml::Value::as_array)
                .map(|extras| extras.iter().filter_map(toml::Value::as_str).collect())
                .unwrap_or_default();
            let extras = if extras.is_empty() {
                String::new()
            } else {
                format!("[{}]", extras.join(","))
            };
            let version = if version == "*" { "" } else { version };
            add_missing(&mut self.requirements, &[format!("{name}{extras}{version}")]);
        }
        Ok(())
    }
}

/// A value that is a text, or a table with one.
fn text_of<'a>(value: &'a toml::Value, key: &str) -> Option<&'a str> {
    match value {
        toml::Value::String(text) if key == "version" => Some(text),
        value => value.get(key)?.as_str(),
    }
}

fn channel(value: &toml::Value) -> Option<String> {
    value
        .as_str()
        .or_else(|| value.get("channel")?.as_str())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests;
