//! `[tool.poetry]` of a pyproject.toml, in Poetry's own words for versions, as requirements of PEP 508.
//!
//! Source: the [dependency specification](https://python-poetry.org/docs/dependency-specification/) of Poetry. Knows no files.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Parts;
use crate::pypi::normalized_name;

/// The table.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Poetry {
    name: Option<String>,
    dependencies: BTreeMap<String, Dependency>,
    dev_dependencies: BTreeMap<String, Dependency>,
    group: BTreeMap<String, Group>,
    extras: BTreeMap<String, Vec<String>>,
    source: Vec<SourceTable>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Group {
    dependencies: BTreeMap<String, Dependency>,
}

#[derive(Deserialize)]
struct SourceTable {
    url: Option<String>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    priority: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Dependency {
    Version(String),
    Table(Box<Table>),
    /// One for each platform or Python.
    Several(Vec<Dependency>),
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Table {
    version: Option<String>,
    extras: Vec<String>,
    optional: bool,
    markers: Option<String>,
    python: Option<String>,
    platform: Option<String>,
    git: Option<String>,
    rev: Option<String>,
    tag: Option<String>,
    branch: Option<String>,
    subdirectory: Option<String>,
    develop: bool,
    path: Option<String>,
    url: Option<String>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    pub(super) name: Option<String>,
    pub(super) requires_python: Option<String>,
    pub(super) requirements: Vec<String>,
    pub(super) known_extras: Vec<String>,
    pub(super) known_groups: Vec<String>,
    pub(super) sources: Vec<PoetrySource>,
}

/// An index.
pub(super) struct PoetrySource {
    pub(super) url: String,
    pub(super) is_default: bool,
}

impl Poetry {
    /// The requirements of the parts that are asked for. Where a `[project]` table lists the dependencies, this one only
    /// adds to them.
    ///
    /// # Errors
    /// A dependency cannot be understood; the text says which.
    pub(super) fn read(self, parts: &Parts, has_project: bool) -> Result<Read, String> {
        let is_asked = |names: &[String], name: &str| {
            names
                .iter()
                .any(|asked| normalized_name(asked) == normalized_name(name))
        };
        let mut read = Read {
            name: self.name,
            known_extras: self.extras.keys().map(|name| normalized_name(name)).collect(),
            known_groups: self.group.keys().map(|name| normalized_name(name)).collect(),
            ..Read::default()
        };
        if !self.dev_dependencies.is_empty() {
            read.known_groups.push("dev".to_owned());
        }
        let in_extras: Vec<String> = self
            .extras
            .iter()
            .filter(|(extra, _)| is_asked(&parts.extras, extra))
            .flat_map(|(_, members)| members.iter().map(|member| normalized_name(member)))
            .collect();
        for (name, dependency) in &self.dependencies {
            if name == "python" {
                let Dependency::Version(version) = dependency else {
                    continue;
                };
                // Of alternatives the last, which is the newest: it allows nothing that is not allowed.
                read.requires_python = Some(specifiers(alternatives(version).last().unwrap_or(version))?);
            } else if !has_project {
                let is_wanted = |table: &Table| !table.optional || in_extras.contains(&normalized_name(name));
                add(&mut read.requirements, name, dependency, &is_wanted)?;
            }
        }
        let groups = self
            .group
            .iter()
            .map(|(name, group)| (name.as_str(), &group.dependencies));
        for (name, dependencies) in groups.chain([("dev", &self.dev_dependencies)]) {
            if is_asked(&parts.groups, name) {
                for (name, dependency) in dependencies {
                    add(&mut read.requirements, name, dependency, &|_| true)?;
                }
            }
        }
        read.sources = self.source.into_iter().filter_map(SourceTable::read).collect();
        Ok(read)
    }
}

impl SourceTable {
    fn read(self) -> Option<PoetrySource> {
        let is_default = self.default || matches!(self.priority.as_deref(), Some("default" | "primary"));
        Some(PoetrySource {
            url: self.url?,
            is_default,
        })
    }
}

fn add(
    into: &mut Vec<String>,
    name: &str,
    dependency: &Dependency,
    is_wanted: &dyn Fn(&Table) -> bool,
) -> Result<(), String> {
    match dependency {
        Dependency::Version(version) => {
            let table = Table {
                version: Some(version.clone()),
                ..Table::default()
            };
            if is_wanted(&table) {
                into.push(requirement(name, &table)?);
            }
        }
        Dependency::Table(table) if is_wanted(table) => into.push(requirement(name, table)?),
        Dependency::Table(_) => {}
        Dependency::Several(several) => {
            for dependency in several {
                add(into, name, dependency, is_wanted)?;
            }
        }
    }
    Ok(())
}

fn requirement(name: &str, table: &Table) -> Result<String, String> {
    let mut text = name.to_owned();
    if !table.extras.is_empty() {
        text = format!("{text}[{}]", table.extras.join(","));
    }
    if let Some(git) = &table.git {
        let revision = [&table.rev, &table.tag, &table.branch].into_iter().flatten().next();
        let revision = revision.map_or_else(String::new, |revision| format!("@{revision}"));
        let inside = table.subdirectory.as_ref();
        let inside = inside.map_or_else(String::new, |inside| format!("#subdirectory={inside}"));
        text = format!("{text} @ git+{}{revision}{inside}", git_url(git));
    } else if let (Some(path), true) = (&table.path, table.develop) {
        text = format!("-e {path}{}", text.trim_start_matches(name));
    } else if let Some(place) = table.url.as_ref().or(table.path.as_ref()) {
        let is_bare = !place.contains("://") && !place.starts_with(['.', '/']);
        text = format!("{text} @ {}{place}", if is_bare { "./" } else { "" });
    } else if let Some(version) = &table.version {
        text += &specifiers(version)?;
    }
    let mut markers = Vec::new();
    markers.extend(table.markers.iter().map(|marker| format!("({marker})")));
    if let Some(python) = &table.python {
        markers.extend(marker_of_python(python)?);
    }
    markers.extend(
        table
            .platform
            .iter()
            .map(|platform| format!("sys_platform == '{platform}'")),
    );
    if !markers.is_empty() {
        text = format!("{text} ; {}", markers.join(" and "));
    }
    Ok(text)
}

/// The address of a repository as a URL: people also write it as ssh does, `git@host:owner/name.git` (git-clone(1), "GIT URLS").
pub(crate) fn git_url(address: &str) -> String {
    match address.split_once(':') {
        Some((user_and_host, path)) if !address.contains("://") && !user_and_host.contains('/') => {
            format!("ssh://{user_and_host}/{}", path.trim_start_matches('/'))
        }
        _ => address.to_owned(),
    }
}

/// The marker for a constraint on Python; none if it allows all.
fn marker_of_python(constraint: &str) -> Result<Option<String>, String> {
    let mut any = Vec::new();
    for alternative in alternatives(constraint) {
        let specifiers = specifiers(alternative)?;
        let all: Vec<_> = specifiers
            .split(',')
            .filter(|one| !one.is_empty())
            .map(marker_of_specifier)
            .collect();
        if all.is_empty() {
            return Ok(None);
        }
        any.push(all.join(" and "));
    }
    Ok(Some(match any.as_slice() {
        [one] => one.clone(),
        any => format!("({})", any.join(" or ")),
    }))
}

/// What stands between `||`, or between single bars.
fn alternatives(constraint: &str) -> impl DoubleEndedIterator<Item = &str> {
    constraint.split('|').map(str::trim).filter(|one| !one.is_empty())
}

fn marker_of_specifier(specifier: &str) -> String {
    let end = specifier.find(|c: char| c.is_ascii_digit()).unwrap_or(specifier.len());
    let (operator, version) = specifier.split_at(end);
    format!("python_full_version {} '{}'", operator.trim(), version.trim())
}

/// Poetry's constraint as PEP 440 writes it: `^1.2` is `>=1.2,<2`, `~1.2` is `>=1.2,<1.3`, a bare version is `==`.
///
/// # Errors
/// It cannot be written so; the text says why.
pub(crate) fn specifiers(constraint: &str) -> Result<String, String> {
    let constraint = constraint.trim();
    if constraint == "*" || constraint.is_empty() {
        return Ok(String::new());
    }
    if constraint.contains("||") || constraint.contains(" | ") {
        return Err(format!(
            "the version '{constraint}' has alternatives, which PEP 440 cannot say: choose one of them"
        ));
    }
    let mut specifiers = Vec::new();
    let separated = constraint.replace(", ", ",");
    for part in separated.split(',').flat_map(join_operators) {
        let part = part.as_str();
        let bound = |version: &str, kept: usize| upper_bound(version, kept).ok_or_else(|| unknown(part));
        if let Some(version) = part.strip_prefix('^') {
            let leading_zeros = numbers(version).iter().take_while(|number| **number == 0).count();
            let kept = leading_zeros.min(numbers(version).len().saturating_sub(1)) + 1;
            specifiers.push(format!(">={version},<{}", bound(version, kept)?));
        } else if let Some(version) = part.strip_prefix("~=") {
            specifiers.push(format!("~={version}"));
        } else if let Some(version) = part.strip_prefix('~') {
            let kept = numbers(version).len().min(2);
            specifiers.push(format!(">={version},<{}", bound(version, kept)?));
        } else if part.starts_with(|c: char| c.is_ascii_digit()) {
            specifiers.push(format!("=={part}"));
        } else if let Some(version) = part.strip_prefix('=').filter(|rest| !rest.starts_with('=')) {
            specifiers.push(format!("=={version}"));
        } else if part.starts_with(['<', '>', '=', '!']) {
            specifiers.push(part.to_owned());
        } else {
            return Err(unknown(part));
        }
    }
    Ok(specifiers.join(","))
}

fn unknown(part: &str) -> String {
    format!("'{part}' is no version; it must read like '^1.2', '~1.2', '>=1.2,<2' or '1.2.*'")
}

/// `>= 1.0 <2` is two constraints; the space after an operator says nothing.
fn join_operators(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match parts.last_mut() {
            Some(last) if !last.contains(|c: char| c.is_ascii_digit()) => last.push_str(word),
            _ => parts.push(word.to_owned()),
        }
    }
    parts
}

fn numbers(version: &str) -> Vec<u64> {
    version.trim().split('.').map_while(|part| part.parse().ok()).collect()
}

/// The version with its number at `kept` (from 1) raised by one and nothing behind it.
fn upper_bound(version: &str, kept: usize) -> Option<String> {
    let mut numbers = numbers(version);
    if numbers.is_empty() {
        return None;
    }
    numbers.truncate(kept.max(1));
    *numbers.last_mut()? += 1;
    Some(numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_named_by_urls() {
        for (address, expected) in [
            ("git@host:owner/name.git", "ssh://git@host/owner/name.git"),
            ("https://host:8443/owner/name.git", "https://host:8443/owner/name.git"),
            ("ssh://git@host:22/name.git", "ssh://git@host:22/name.git"),
            ("file:///srv/name", "file:///srv/name"),
            ("../name", "../name"),
        ] {
            assert_eq!(git_url(address), expected);
        }
    }

    #[test]
    fn poetrys_versions_become_pep_440() {
        let cases = [
            ("^1.2.3", ">=1.2.3,<2"),
            ("^0.2.3", ">=0.2.3,<0.3"),
            ("^0.0.3", ">=0.0.3,<0.0.4"),
            ("^0", ">=0,<1"),
            ("^3.9", ">=3.9,<4"),
            ("~1.2.3", ">=1.2.3,<1.3"),
            ("~1", ">=1,<2"),
            ("~=2.1", "~=2.1"),
            ("1.2.*", "==1.2.*"),
            ("*", ""),
            ("=1.0", "==1.0"),
            (">=1.0 <2.0", ">=1.0,<2.0"),
            (">= 1.0, <2", ">=1.0,<2"),
        ];
        for (poetry, expected) in cases {
            assert_eq!(specifiers(poetry).unwrap(), expected, "{poetry}");
        }
        assert!(specifiers("^1 || ^2").unwrap_err().contains("alternatives"));
        assert!(specifiers("newest").is_err());
    }
}
