//! pyproject.toml: what a project needs, by its own account.
//!
//! Reads `[project]` ([PEP 621](https://peps.python.org/pep-0621/)), `[dependency-groups]` ([PEP 735](https://peps.python.org/pep-0735/)),
//! the indexes and sources of `[tool.uv]` and, through [`poetry`](super::poetry), `[tool.poetry]`. The project itself is not
//! installed: an environment holds what it needs. Knows nothing of how requirements are met.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::poetry::{self, Poetry};
use super::{Kind, Parts, Place, Requirement, RequirementError, Requirements, uv_sources};
use crate::known_keys::{line_of, refuse_unknown};
use crate::pep508;
use crate::pypi::normalized_name;

/// A project's own account of what it needs.
#[derive(Debug, Default)]
pub(crate) struct Project {
    pub(crate) name: Option<String>,
    pub(crate) requirements: Requirements,
}

/// Reads a pyproject.toml, with the parts that are asked for.
///
/// # Errors
/// The file cannot be read, is no TOML, names no dependencies, or has not the parts that are asked for.
pub(crate) fn read(path: &Path, parts: &Parts) -> Result<Project, RequirementError> {
    let text = std::fs::read_to_string(path).map_err(|source| RequirementError::Io {
        path: path.to_owned(),
        from: None,
        source,
    })?;
    let document: Document = toml::from_str(&text).map_err(|error| RequirementError::Project {
        path: path.to_owned(),
        reason: located(&error, &text),
    })?;
    refuse_unknown(&text, &["project"], &PROJECT_KEYS).map_err(|reason| RequirementError::Project {
        path: path.to_owned(),
        reason,
    })?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Reader { path, document }.read(parts)
}

/// The keys of `[project]` (PEP 621, and PEP 794 for the last two).
const PROJECT_KEYS: [&str; 20] = [
    "name",
    "version",
    "description",
    "readme",
    "requires-python",
    "license",
    "license-files",
    "authors",
    "maintainers",
    "keywords",
    "classifiers",
    "urls",
    "scripts",
    "gui-scripts",
    "entry-points",
    "dependencies",
    "optional-dependencies",
    "dynamic",
    "import-names",
    "import-namespaces",
];

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Document {
    project: Option<ProjectTable>,
    dependency_groups: BTreeMap<String, Vec<GroupEntry>>,
    tool: Tools,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct ProjectTable {
    name: Option<String>,
    requires_python: Option<String>,
    dependencies: Vec<String>,
    optional_dependencies: BTreeMap<String, Vec<String>>,
    dynamic: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum GroupEntry {
    Requirement(String),
    Include {
        #[serde(rename = "include-group")]
        group: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tools {
    uv: UvTable,
    poetry: Option<Poetry>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct UvTable {
    index: Vec<UvIndex>,
    sources: BTreeMap<String, toml::Value>,
    constraint_dependencies: Vec<String>,
    dev_dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct UvIndex {
    url: String,
    #[serde(default)]
    default: bool,
}

struct Reader {
    path: PathBuf,
    document: Document,
}

impl Reader {
    fn read(mut self, parts: &Parts) -> Result<Project, RequirementError> {
        let poetry = self.document.tool.poetry.take();
        let mut name = None;
        let mut texts = Vec::new();
        let mut requirements = Requirements::default();
        let mut known_extras = Vec::new();
        let mut known_groups = self.group_names();
        if let Some(project) = &self.document.project {
            if project.dynamic.iter().any(|field| field == "dependencies") && poetry.is_none() {
                return Err(
                    self.error("its dependencies are dynamic, known only to its build backend; list them in [project]")
                );
            }
            name = project.name.clone();
            requirements.requires_python = self.requires_python(project.requires_python.as_deref())?;
            texts.extend(project.dependencies.iter().cloned());
            known_extras.extend(project.optional_dependencies.keys().map(|extra| normalized_name(extra)));
        }
        if let Some(poetry) = poetry {
            let read = poetry.read(parts, self.document.project.is_some());
            let read = read.map_err(|reason| self.error(&reason))?;
            name = name.or(read.name);
            if requirements.requires_python.is_none() {
                requirements.requires_python = self.requires_python(read.requires_python.as_deref())?;
            }
            texts.extend(read.requirements);
            known_extras.extend(read.known_extras);
            known_groups.extend(read.known_groups);
            self.add_sources(&mut requirements, read.sources);
        }
        if self.document.project.is_none() && texts.is_empty() && known_groups.is_empty() {
            return Err(self.error(
                "it names no dependencies: it has neither [project] nor [tool.poetry] nor [dependency-groups]; a file in the form of \
                 envfs.toml or pixi.toml must be called so",
            ));
        }
        for extra in &parts.extras {
            self.require_known("extra", extra, &known_extras)?;
            texts.extend(self.extra(extra));
        }
        for group in &parts.groups {
            self.require_known("group", group, &known_groups)?;
            texts.extend(self.group(group, 0)?);
        }
        self.expand_own_extras(name.as_deref(), &mut texts);
        for text in texts {
            requirements.wanted.push(self.requirement(&text)?);
        }
        for text in &self.document.tool.uv.constraint_dependencies {
            requirements.constraints.push(self.requirement(text)?);
        }
        for index in &self.document.tool.uv.index {
            match index.default {
                true => requirements.sources.index_url = Some(index.url.clone()),
                false => requirements.sources.extra_index_urls.push(index.url.clone()),
            }
            requirements.sources.is_first_index_only = true;
        }
        self.apply_uv_sources(&mut requirements)?;
        Ok(Project { name, requirements })
    }

    fn error(&self, reason: &str) -> RequirementError {
        RequirementError::Project {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }

    fn place(&self) -> Place {
        Place {
            path: Some(self.path.clone()),
            line: 0,
        }
    }

    fn requires_python(&self, text: Option<&str>) -> Result<Option<pep440_rs::VersionSpecifiers>, RequirementError> {
        text.map(|text| {
            let parsed = text.parse();
            parsed.map_err(|_| {
                self.error(&format!(
                    "requires-python '{text}' is no version specifier such as '>=3.10'"
                ))
            })
        })
        .transpose()
    }

    fn requirement(&self, text: &str) -> Result<Requirement, RequirementError> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let mut one = Requirements::default();
        super::read_lines(&mut one, [(self.place(), text)], directory)?;
        one.wanted
            .pop()
            .ok_or_else(|| self.error(&format!("'{text}' is no requirement")))
    }

    fn group_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .document
            .dependency_groups
            .keys()
            .map(|name| normalized_name(name))
            .collect();
        if !self.document.tool.uv.dev_dependencies.is_empty() {
            names.push("dev".to_owned());
        }
        names
    }

    fn require_known(&self, what: &str, asked: &str, known: &[String]) -> Result<(), RequirementError> {
        if known.contains(&normalized_name(asked)) {
            return Ok(());
        }
        Err(self.error(&match known {
            [] => format!("it has no {what} '{asked}', and no other"),
            known => format!("it has no {what} '{asked}'; it has: {}", known.join(", ")),
        }))
    }

    fn extra(&self, name: &str) -> Vec<String> {
        let tables = self
            .document
            .project
            .iter()
            .flat_map(|project| &project.optional_dependencies);
        tables
            .filter(|(extra, _)| normalized_name(extra) == normalized_name(name))
            .flat_map(|(_, texts)| texts.iter().cloned())
            .collect()
    }

    fn group(&self, name: &str, depth: usize) -> Result<Vec<String>, RequirementError> {
        if depth > self.document.dependency_groups.len() {
            return Err(self.error(&format!("the group '{name}' includes itself")));
        }
        let mut texts = Vec::new();
        if normalized_name(name) == "dev" {
            texts.extend(self.document.tool.uv.dev_dependencies.iter().cloned());
        }
        let groups = self.document.dependency_groups.iter();
        for (_, entries) in groups.filter(|(group, _)| normalized_name(group) == normalized_name(name)) {
            for entry in entries {
                match entry {
                    GroupEntry::Requirement(text) => texts.push(text.clone()),
                    GroupEntry::Include { group } => {
                        self.require_known("group", group, &self.group_names())?;
                        texts.extend(self.group(group, depth + 1)?);
                    }
                }
            }
        }
        Ok(texts)
    }

    /// `project[extra]` within a project's own extras and groups stands for what the extra holds.
    fn expand_own_extras(&self, name: Option<&str>, texts: &mut Vec<String>) {
        let Some(name) = name.map(normalized_name) else { return };
        let is_own = |text: &String| {
            let parsed = pep508::parse(text, None).ok();
            parsed.filter(|parsed| normalized_name(parsed.name.as_ref()) == name)
        };
        let mut seen = Vec::new();
        while let Some(at) = texts.iter().position(|text| is_own(text).is_some()) {
            let own = texts.remove(at);
            for extra in is_own(&own).map(|own| own.extras).unwrap_or_default() {
                if !seen.contains(&extra) {
                    texts.extend(self.extra(extra.as_ref()));
                    seen.push(extra);
                }
            }
        }
    }

    fn add_sources(&self, requirements: &mut Requirements, sources: Vec<poetry::PoetrySource>) {
        for source in sources {
            match source.is_default {
                true => requirements.sources.index_url = Some(source.url),
                false => requirements.sources.extra_index_urls.push(source.url),
            }
        }
    }

    /// What `[tool.uv.sources]` takes from elsewhere than an index.
    fn apply_uv_sources(&self, requirements: &mut Requirements) -> Result<(), RequirementError> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let mut wanted = Vec::new();
        for requirement in std::mem::take(&mut requirements.wanted) {
            let name = requirement.name();
            let mut sources = self.document.tool.uv.sources.iter();
            let source = sources.find(|(key, _)| Some(normalized_name(key)) == name);
            let lines = match (&requirement.kind, source) {
                (Kind::Pep508(parsed), Some((_, source))) => uv_sources::lines(parsed, source, directory),
                _ => Ok(None),
            };
            match lines.map_err(|reason| self.error(&reason))? {
                None => wanted.push(requirement),
                Some(lines) => {
                    for line in lines {
                        wanted.push(self.requirement(&line)?);
                    }
                }
            }
        }
        requirements.wanted = wanted;
        Ok(())
    }
}

/// The parser's message with its place in front.
pub(crate) fn located(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    match error.span() {
        Some(span) => format!("line {}: {message}", line_of(span.start, text)),
        None => message.to_owned(),
    }
}
