//! uv.lock: a graph of packages with markers on its edges, and every file of every package.
//!
//! Its format is not specified; what is read here is what uv writes in version 1. Knows nothing of uv as a program.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use pep508_rs::{ExtraName, MarkerEnvironment, MarkerTree};
use serde::Deserialize;
use url::Url;

use super::{PythonLockError, stale};
use crate::pylock::{Choice, LockedDistribution};
use crate::pypi::{LockedWheel, normalized_name};
use crate::python::PythonTarget;
use crate::requirements::{Parts, Project};
use crate::source::{Distribution, Distributions, LockedSource, SourcePlace};

/// The content of a uv.lock.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) requires_python: Option<String>,
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: Option<String>,
    source: Source,
    #[serde(default)]
    dependencies: Vec<Dependency>,
    #[serde(default)]
    optional_dependencies: BTreeMap<String, Vec<Dependency>>,
    #[serde(default)]
    dev_dependencies: BTreeMap<String, Vec<Dependency>>,
    #[serde(default)]
    wheels: Vec<File>,
    sdist: Option<File>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Source {
    registry: Option<String>,
    url: Option<String>,
    path: Option<String>,
    git: Option<String>,
    directory: Option<String>,
    editable: Option<String>,
    r#virtual: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    name: String,
    version: Option<String>,
    #[serde(default)]
    extra: Vec<String>,
    marker: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct File {
    url: Option<String>,
    path: Option<String>,
    hash: Option<String>,
    size: Option<u64>,
}

impl Document {
    /// What is for a Python, by name: what the project needs, with the parts that are asked for.
    ///
    /// # Errors
    /// As [`select`](super::PythonLock::select).
    pub(super) fn select(
        &self,
        target: &PythonTarget,
        parts: &Parts,
        project: Option<&Project>,
        path: &Path,
    ) -> Result<Distributions, PythonLockError> {
        if let Some(project) = project {
            stale::check(project, &|name| self.versions(name), path)?;
        }
        let roots = self.roots(project);
        let mut walk = Walk {
            document: self,
            markers: target.marker_environment(),
            chosen: chosen(&roots, parts),
            waiting: VecDeque::new(),
            seen: BTreeSet::new(),
            path,
        };
        for part in &parts.extras {
            self.require(&roots, "extra", part, path, |package| &package.optional_dependencies)?;
        }
        for part in &parts.groups {
            self.require(&roots, "group", part, path, |package| &package.dev_dependencies)?;
        }
        for root in &roots {
            walk.follow(&root.dependencies)?;
            for (tables, asked) in [
                (&root.optional_dependencies, &parts.extras),
                (&root.dev_dependencies, &parts.groups),
            ] {
                for (name, dependencies) in tables {
                    if asked
                        .iter()
                        .any(|asked| normalized_name(asked) == normalized_name(name))
                    {
                        walk.follow(dependencies)?;
                    }
                }
            }
        }
        let own: Vec<usize> = roots.iter().map(|root| self.index_of(root)).collect();
        let found = walk.finish()?;
        let mut chosen = Vec::new();
        for index in found.into_iter().filter(|index| !own.contains(index)) {
            let package = &self.package[index];
            // Nothing is installed of a project that is no package; only what it needs.
            if package.source.r#virtual.is_none() {
                chosen.push(package.choose(target, path)?);
            }
        }
        Ok(Distributions::sorted(chosen))
    }

    fn index_of(&self, package: &Package) -> usize {
        let position = self.package.iter().position(|other| std::ptr::eq(other, package));
        position.unwrap_or(self.package.len())
    }

    fn versions(&self, name: &str) -> Vec<String> {
        let named = self.package.iter().filter(|package| package.name == name);
        // A project without a fixed version meets every requirement.
        named
            .map(|package| package.version.clone().unwrap_or_default())
            .collect()
    }

    /// The project of the lock: that beside it, or the one in its directory, or all members of the workspace.
    fn roots(&self, project: Option<&Project>) -> Vec<&Package> {
        let members = || self.package.iter().filter(|package| package.source.member().is_some());
        let name = project.and_then(|project| project.name.as_deref()).map(normalized_name);
        let named: Vec<_> = members()
            .filter(|package| Some(&package.name) == name.as_ref())
            .collect();
        if !named.is_empty() {
            return named;
        }
        let here: Vec<_> = members()
            .filter(|package| package.source.member() == Some("."))
            .collect();
        if here.is_empty() { members().collect() } else { here }
    }

    fn require(
        &self,
        roots: &[&Package],
        what: &'static str,
        name: &str,
        path: &Path,
        table: impl Fn(&Package) -> &BTreeMap<String, Vec<Dependency>>,
    ) -> Result<(), PythonLockError> {
        let is_known = |package: &&Package| {
            table(package)
                .keys()
                .any(|known| normalized_name(known) == normalized_name(name))
        };
        if roots.iter().any(is_known) {
            return Ok(());
        }
        Err(PythonLockError::UnknownPart {
            path: path.to_owned(),
            what,
            name: name.to_owned(),
        })
    }
}

/// The parts of `roots` that are asked for, as uv writes them where some exclude others (`[tool.uv] conflicts`): `extra-3-pkg-name`
/// and `group-3-pkg-name`, with the length of the package's name.
fn chosen(roots: &[&Package], parts: &Parts) -> Vec<ExtraName> {
    let asked = [("extra", &parts.extras), ("group", &parts.groups)];
    let names = roots.iter().flat_map(|root| {
        asked.iter().flat_map(|(kind, names)| {
            let of = |name: &String| {
                let part = normalized_name(name);
                format!("{kind}-{}-{}-{part}", root.name.len(), root.name)
            };
            names.iter().map(of).collect::<Vec<_>>()
        })
    });
    names.filter_map(|name| name.parse().ok()).collect()
}

/// A walk along the edges that hold for one Python.
struct Walk<'a> {
    document: &'a Document,
    markers: MarkerEnvironment,
    /// What is asked for, as markers of conflicting parts name it.
    chosen: Vec<ExtraName>,
    /// Packages, each alone or with one of its extras.
    waiting: VecDeque<(usize, Option<&'a str>)>,
    seen: BTreeSet<(usize, Option<&'a str>)>,
    path: &'a Path,
}

impl<'a> Walk<'a> {
    fn follow(&mut self, dependencies: &'a [Dependency]) -> Result<(), PythonLockError> {
        for dependency in dependencies {
            if let Some(marker) = &dependency.marker {
                let tree: MarkerTree = marker
                    .parse()
                    .map_err(|_| self.malformed(format!("the marker '{marker}' cannot be understood")))?;
                if !tree.evaluate(&self.markers, &self.chosen) {
                    continue;
                }
            }
            let is_meant = |package: &Package| {
                package.name == dependency.name
                    && (dependency.version.is_none() || dependency.version == package.version)
            };
            let index = self.document.package.iter().position(is_meant);
            let index = index.ok_or_else(|| self.malformed(format!("it has no package '{}'", dependency.name)))?;
            for extra in [None]
                .into_iter()
                .chain(dependency.extra.iter().map(|extra| Some(extra.as_str())))
            {
                if self.seen.insert((index, extra)) {
                    self.waiting.push_back((index, extra));
                }
            }
        }
        Ok(())
    }

    /// Every package that is reached.
    fn finish(mut self) -> Result<BTreeSet<usize>, PythonLockError> {
        let document = self.document;
        while let Some((index, extra)) = self.waiting.pop_front() {
            let package = &document.package[index];
            match extra {
                None => self.follow(&package.dependencies)?,
                Some(extra) => {
                    let tables = package.optional_dependencies.iter();
                    for (_, dependencies) in tables.filter(|(name, _)| normalized_name(name) == normalized_name(extra))
                    {
                        self.follow(dependencies)?;
                    }
                }
            }
        }
        Ok(self.seen.into_iter().map(|(index, _)| index).collect())
    }

    fn malformed(&self, reason: String) -> PythonLockError {
        PythonLockError::Malformed {
            path: self.path.to_owned(),
            reason,
        }
    }
}

impl Source {
    /// The directory of a member of the workspace.
    fn member(&self) -> Option<&str> {
        self.editable.as_deref().or(self.r#virtual.as_deref())
    }

    /// A repository or a directory.
    fn place(&self, lock: &Path) -> Option<SourcePlace> {
        if let Some(git) = &self.git {
            return SourcePlace::of_git_url(git);
        }
        let (path, is_editable) = match (&self.editable, &self.directory) {
            (Some(path), _) => (path, true),
            (None, Some(path)) => (path, false),
            (None, None) => return None,
        };
        let directory = lock.parent().unwrap_or(Path::new("."));
        Some(SourcePlace::of_directory(Path::new(path), directory, is_editable))
    }
}

impl Package {
    fn choose(&self, target: &PythonTarget, path: &Path) -> Result<Distribution, PythonLockError> {
        let malformed = |reason: String| PythonLockError::Malformed {
            path: path.to_owned(),
            reason: format!("a file of {}: {reason}", self.name),
        };
        let wheels = self.wheels.iter().map(|file| file.read(&self.source, path));
        let wheels = wheels.collect::<Result<_, _>>().map_err(malformed)?;
        let place = match &self.sdist {
            Some(sdist) => Some(sdist.read_source(&self.source, path).map_err(malformed)?),
            None => self.source.place(path),
        };
        let source = place.map(|place| LockedSource::new(&self.name, self.version.clone(), place));
        let distribution = LockedDistribution::new(&self.name, self.version.clone(), wheels, source);
        Ok(distribution.choose(target, &Choice::default())?)
    }
}

impl File {
    fn read(&self, source: &Source, lock: &Path) -> Result<LockedWheel, String> {
        let wheel = LockedWheel::new(&self.place(source, lock)?).map_err(|error| error.to_string())?;
        let wheel = match self.sha256()? {
            Some(sha256) => wheel.with_sha256(sha256),
            None => wheel,
        };
        Ok(match self.size {
            Some(size_bytes) => wheel.with_size_bytes(size_bytes),
            None => wheel,
        })
    }

    fn read_source(&self, source: &Source, lock: &Path) -> Result<SourcePlace, String> {
        let place = self.place(source, lock)?;
        let url = Url::parse(&place).or_else(|_| Url::from_file_path(&place));
        Ok(SourcePlace::Archive {
            url: url.map_err(|()| format!("'{place}' is no place"))?,
            sha256: self.sha256()?,
            subdirectory: None,
            is_direct: source.registry.is_none(),
        })
    }

    fn sha256(&self) -> Result<Option<[u8; 32]>, String> {
        let Some(digits) = self.hash.as_deref().and_then(|hash| hash.strip_prefix("sha256:")) else {
            return Ok(None);
        };
        let sha256 = hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
        sha256.map(Some).ok_or_else(|| format!("'{digits}' is no SHA-256"))
    }

    fn place(&self, source: &Source, lock: &Path) -> Result<String, String> {
        let directory = lock.parent().unwrap_or(Path::new("."));
        let beside = |relative: &str| {
            let joined = directory.join(relative);
            std::path::absolute(&joined).unwrap_or(joined).display().to_string()
        };
        // The paths of a flat index are relative to it; a wheel that is a package's source has only a name of its own.
        Ok(match (&self.url, &self.path) {
            (Some(url), _) => url.clone(),
            (None, Some(path)) => beside(&format!("{}/{path}", source.registry.as_deref().unwrap_or("."))),
            (None, None) => match (&source.url, &source.path) {
                (Some(url), _) => url.clone(),
                (None, Some(path)) => beside(path),
                (None, None) => return Err("it has no place".to_owned()),
            },
        })
    }
}
