//! poetry.lock: exact versions with digests of their files, but not where the files are.
//!
//! Since version 2.1 (Poetry 2) every package says for which groups and markers it is there. Before, only the edges of the
//! graph do: then it is walked, from what the project beside the lock asks for, or else from the packages that nobody needs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::{MarkerEnvironment, MarkerTree};
use serde::Deserialize;

use super::{PythonLockError, stale};
use crate::pypi::normalized_name;
use crate::python::PythonTarget;
use crate::requirements::{Kind, Parts, Place, Project, Requirements, git_url, poetry_specifiers, read_lines};

/// The group of a project's own dependencies.
const MAIN: &str = "main";

/// The content of a poetry.lock.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    package: Vec<Package>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    metadata: Metadata,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    python_versions: Option<String>,
    /// Before version 2.0 files stood here and not with their packages.
    #[serde(default)]
    files: BTreeMap<String, Vec<File>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    optional: bool,
    category: Option<String>,
    groups: Option<Vec<String>>,
    markers: Option<Markers>,
    python_versions: Option<String>,
    #[serde(default)]
    files: Vec<File>,
    #[serde(default)]
    dependencies: BTreeMap<String, Dependency>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    source: Option<Source>,
    /// Whether a directory is installed as an editable project.
    #[serde(default)]
    develop: bool,
}

/// The condition under which a package is there: one, or one for each group.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Markers {
    One(String),
    ByGroup(BTreeMap<String, String>),
}

#[derive(Clone, Debug, Deserialize)]
struct File {
    hash: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Dependency {
    Version(String),
    Table(Box<DependencyTable>),
    Several(Vec<Dependency>),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct DependencyTable {
    version: Option<String>,
    optional: bool,
    markers: Option<String>,
    extras: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Source {
    r#type: String,
    url: String,
    resolved_reference: Option<String>,
    subdirectory: Option<String>,
}

impl Document {
    /// The Pythons it is for; of alternatives the last, which is the newest.
    pub(super) fn requires_python(&self) -> Option<String> {
        let text = self.metadata.python_versions.as_deref()?;
        poetry_specifiers(text.rsplit("||").next().unwrap_or(text)).ok()
    }

    /// The versions for a Python, with the digests that are allowed.
    ///
    /// # Errors
    /// As [`select`](super::PythonLock::select).
    pub(super) fn select(
        &self,
        target: &PythonTarget,
        parts: &Parts,
        project: Option<&Project>,
        path: &Path,
    ) -> Result<Requirements, PythonLockError> {
        if let Some(project) = project {
            stale::check(project, &|name| self.versions(name), path)?;
        }
        self.require_parts(parts, path)?;
        let chooser = Chooser {
            document: self,
            version: target.parsed_version(),
            markers: target.marker_environment(),
            parts,
        };
        let is_marked = self.package.iter().any(|package| package.groups.is_some());
        let chosen = match project {
            _ if is_marked => chooser.marked(),
            Some(project) => chooser.reached(chooser.roots_of(project)),
            None => chooser.reached(chooser.roots()),
        };
        let mut requirements = Requirements::default();
        for index in chosen {
            self.pin(&self.package[index], &mut requirements, path)?;
        }
        Ok(requirements)
    }

    fn versions(&self, name: &str) -> Vec<String> {
        let named = self
            .package
            .iter()
            .filter(|package| normalized_name(&package.name) == name);
        named.map(|package| package.version.clone()).collect()
    }

    fn require_parts(&self, parts: &Parts, path: &Path) -> Result<(), PythonLockError> {
        let unknown = |what, name: &String| PythonLockError::UnknownPart {
            path: path.to_owned(),
            what,
            name: name.clone(),
        };
        for extra in &parts.extras {
            if !self
                .extras
                .keys()
                .any(|known| normalized_name(known) == normalized_name(extra))
            {
                return Err(unknown("extra", extra));
            }
        }
        for group in &parts.groups {
            if !self
                .package
                .iter()
                .any(|package| package.groups().any(|known| known == group))
            {
                return Err(unknown("group", group));
            }
        }
        Ok(())
    }

    fn pin(&self, package: &Package, into: &mut Requirements, path: &Path) -> Result<(), PythonLockError> {
        let place = || Place {
            path: Some(path.to_owned()),
            line: 0,
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        let source = package.source.as_ref();
        let line = match source.map(|source| (source.r#type.as_str(), source.url.as_str())) {
            None | Some(("legacy" | "pypi", _)) => format!("{}=={}", package.name, package.version),
            Some(("url", url)) => format!("{} @ {url}", package.name),
            Some(("file", file)) => {
                let file = std::path::absolute(directory.join(file)).unwrap_or_else(|_| directory.join(file));
                format!("{} @ file://{}", package.name, file.display())
            }
            Some(("git", url)) => {
                let commit = source.and_then(|source| source.resolved_reference.as_deref());
                let commit = commit.ok_or_else(|| PythonLockError::Malformed {
                    path: path.to_owned(),
                    reason: format!("the repository of {} has no resolved_reference", package.name),
                })?;
                let inside = source.and_then(|source| source.subdirectory.as_ref());
                let inside = inside.map_or_else(String::new, |inside| format!("#subdirectory={inside}"));
                format!("{} @ git+{}@{commit}{inside}", package.name, git_url(url))
            }
            Some((_, place)) if package.develop => format!("-e {place}"),
            Some((_, place)) => format!("{} @ {}", package.name, directory.join(place).display()),
        };
        if let Some(source) = source.filter(|source| source.r#type == "legacy")
            && !into.sources.extra_index_urls.contains(&source.url)
        {
            into.sources.extra_index_urls.push(source.url.clone());
        }
        read_lines(into, [(place(), line.as_str())], directory)?;
        let files = match package.files.as_slice() {
            [] => self.metadata.files.get(&package.name).map_or(&[][..], Vec::as_slice),
            files => files,
        };
        if let Some(pinned) = into.wanted.last_mut() {
            let digests = files.iter().filter_map(|file| file.hash.strip_prefix("sha256:"));
            pinned.sha256 = digests
                .filter_map(|digits| hex::decode(digits).ok()?.try_into().ok())
                .collect();
        }
        Ok(())
    }
}

impl Package {
    fn groups(&self) -> impl Iterator<Item = &str> {
        let old = self.groups.is_none().then(|| self.category.as_deref().unwrap_or(MAIN));
        self.groups.iter().flatten().map(String::as_str).chain(old)
    }
}

/// Decides which packages are there.
struct Chooser<'a> {
    document: &'a Document,
    version: &'a Version,
    markers: MarkerEnvironment,
    parts: &'a Parts,
}

impl Chooser<'_> {
    /// By what every package says of itself.
    fn marked(&self) -> BTreeSet<usize> {
        let in_extras = self.in_extras();
        let packages = self.document.package.iter().enumerate();
        let chosen = packages.filter(|(_, package)| {
            let is_for_extra = in_extras.contains(&normalized_name(&package.name));
            self.is_in_groups(package) && self.fits(package) && (!package.optional || is_for_extra) && {
                let holds = |group: &str| match &package.markers {
                    None => true,
                    Some(Markers::One(marker)) => self.holds(marker),
                    Some(Markers::ByGroup(markers)) => markers.get(group).is_none_or(|marker| self.holds(marker)),
                };
                package.groups().any(|group| self.is_wanted(group) && holds(group))
            }
        });
        chosen.map(|(index, _)| index).collect()
    }

    /// By walking from some packages to what they need.
    fn reached(&self, roots: Vec<(usize, Vec<String>)>) -> BTreeSet<usize> {
        let mut extras: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        let mut waiting: VecDeque<(usize, Vec<String>)> = roots.into();
        while let Some((index, asked)) = waiting.pop_front() {
            let is_new = !extras.contains_key(&index);
            let known = extras.entry(index).or_default();
            let before = known.len();
            known.extend(asked.iter().map(|extra| normalized_name(extra)));
            if !is_new && known.len() == before {
                continue;
            }
            let active = known.clone();
            let package = &self.document.package[index];
            for (name, dependency) in &package.dependencies {
                let optional_name = |members: &Vec<String>| members.iter().any(|member| is_called(member, name));
                let mut by_extra = package.extras.iter();
                let is_asked =
                    by_extra.any(|(extra, members)| active.contains(&normalized_name(extra)) && optional_name(members));
                self.follow(name, dependency, is_asked, &mut waiting);
            }
        }
        extras.into_keys().collect()
    }

    fn follow(
        &self,
        name: &str,
        dependency: &Dependency,
        is_asked: bool,
        waiting: &mut VecDeque<(usize, Vec<String>)>,
    ) {
        let table = match dependency {
            Dependency::Several(several) => {
                for dependency in several {
                    self.follow(name, dependency, is_asked, waiting);
                }
                return;
            }
            Dependency::Version(version) => DependencyTable {
                version: Some(version.clone()),
                ..DependencyTable::default()
            },
            Dependency::Table(table) => (**table).clone(),
        };
        let holds = table
            .markers
            .as_ref()
            .is_none_or(|marker| is_asked && marker.contains("extra") || self.holds(marker));
        if (table.optional && !is_asked) || !holds {
            return;
        }
        if let Some(index) = self.find(name, table.version.as_deref()) {
            waiting.push_back((index, table.extras));
        }
    }

    /// The package of a name that is for this Python, of several the one whose version is asked for.
    fn find(&self, name: &str, constraint: Option<&str>) -> Option<usize> {
        let name = normalized_name(name);
        let specifiers = constraint.and_then(|text| poetry_specifiers(text).ok()?.parse::<VersionSpecifiers>().ok());
        let mut named: Vec<usize> = (0..self.document.package.len())
            .filter(|index| normalized_name(&self.document.package[*index].name) == name)
            .collect();
        let is_met = |index: &usize| {
            let version = self.document.package[*index].version.parse::<Version>().ok();
            specifiers
                .as_ref()
                .is_none_or(|all| version.is_none_or(|version| all.contains(&version)))
        };
        // Everybody must find the same one of several: the newest that fits.
        let version = |index: &usize| self.document.package[*index].version.parse::<Version>().ok();
        named.sort_by_key(|index| {
            let package = &self.document.package[*index];
            (!self.fits(package), !is_met(index), Reverse(version(index)))
        });
        named.first().copied()
    }

    fn roots_of(&self, project: &Project) -> Vec<(usize, Vec<String>)> {
        let mut roots = Vec::new();
        for requirement in &project.requirements.wanted {
            let Some(name) = requirement.name() else { continue };
            let (mut extras, mut holds) = (Vec::new(), true);
            if let Kind::Pep508(wanted) = &requirement.kind {
                holds = wanted.evaluate_markers(&self.markers, &[]);
                extras = wanted.extras.iter().map(ToString::to_string).collect();
            }
            if let Some(index) = self.find(&name, None).filter(|_| holds) {
                roots.push((index, extras));
            }
        }
        roots
    }

    /// What nobody else needs must have been asked for.
    fn roots(&self) -> Vec<(usize, Vec<String>)> {
        let in_extras = self.in_extras();
        let packages = || self.document.package.iter();
        let needed: BTreeSet<String> = packages()
            .flat_map(|package| package.dependencies.keys().map(|name| normalized_name(name)))
            .collect();
        let is_root = |package: &Package| {
            let name = normalized_name(&package.name);
            let is_asked = in_extras.contains(&name) || (!package.optional && !needed.contains(&name));
            is_asked && self.is_in_groups(package) && self.fits(package)
        };
        let names: BTreeSet<&str> = packages()
            .filter(|package| is_root(package))
            .map(|package| package.name.as_str())
            .collect();
        let roots = names.into_iter().filter_map(|name| self.find(name, None));
        roots.map(|index| (index, Vec::new())).collect()
    }

    fn in_extras(&self) -> BTreeSet<String> {
        let asked = |name: &str| {
            self.parts
                .extras
                .iter()
                .any(|extra| normalized_name(extra) == normalized_name(name))
        };
        let extras = self.document.extras.iter().filter(|(extra, _)| asked(extra));
        extras
            .flat_map(|(_, members)| members.iter().map(|member| normalized_name(bare_name(member))))
            .collect()
    }

    fn is_wanted(&self, group: &str) -> bool {
        group == MAIN || self.parts.groups.iter().any(|asked| asked == group)
    }

    fn is_in_groups(&self, package: &Package) -> bool {
        package.groups().any(|group| self.is_wanted(group))
    }

    fn fits(&self, package: &Package) -> bool {
        let Some(text) = &package.python_versions else {
            return true;
        };
        text.split("||").any(|text| {
            let specifiers = poetry_specifiers(text)
                .ok()
                .and_then(|text| text.parse::<VersionSpecifiers>().ok());
            specifiers.is_none_or(|specifiers| specifiers.contains(self.version))
        })
    }

    fn holds(&self, marker: &str) -> bool {
        let tree: Option<MarkerTree> = marker.parse().ok();
        let extras: Vec<_> = self
            .parts
            .extras
            .iter()
            .filter_map(|extra| extra.parse().ok())
            .collect();
        tree.is_none_or(|tree| tree.evaluate(&self.markers, &extras))
    }
}

/// `coverage[toml] (>=5.0.2)` is called `coverage`.
fn bare_name(member: &str) -> &str {
    let end = member.find(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
    &member[..end.unwrap_or(member.len())]
}

fn is_called(member: &str, name: &str) -> bool {
    normalized_name(bare_name(member)) == normalized_name(name)
}
