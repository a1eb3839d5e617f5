//! One wheel's layer in the tree: its files where the environment's Python looks for them, its commands, and what an installer
//! adds to its `.dist-info` directory (PEP 376, 610 and 627).

use std::collections::BTreeMap;
use std::path::Path;

use envfs_store::digest::Sha256;
use envfs_store::ingest::{Ingest, Stored};
use envfs_store::layer::{Entry, EntryKind, FileEntry, Layer};
use envfs_store::path::{EnvPath, InvalidPath};
use envfs_store::tree::Tree;
use envfs_store::tree::merge::{Merge, PackageIndex};
use rattler::install::PythonInfo;

use super::{LinkError, file, leaf, scripts};
use crate::pypi::LockedWheel;
use crate::wheel::entry_points::{self, Script};
use crate::wheel::{DATA, HEADERS, MTIME_S, SCRIPTS, SITE_PACKAGES, info, record};

/// What `INSTALLER` says.
const INSTALLER: &[u8] = b"envfs\n";

/// Where a Python looks for what wheels bring, as paths in the environment.
pub(crate) struct Site {
    pub(crate) site_packages: String,
    scripts: String,
    /// Has the version in it, as `lib/pythonX.Y` does.
    headers: String,
    /// The file name of the interpreter.
    interpreter: String,
    /// `3.12`
    short_version: String,
}

impl Site {
    pub(crate) fn of(python: &PythonInfo) -> Self {
        let (major, minor) = python.short_version;
        let library = python.site_packages_path.parent();
        let name = |path: Option<&Path>| match path.and_then(Path::file_name) {
            Some(name) => name.to_string_lossy().into_owned(),
            None => format!("python{major}.{minor}"),
        };
        Self {
            site_packages: python.site_packages_path.to_string_lossy().into_owned(),
            scripts: python.bin_dir.to_string_lossy().into_owned(),
            headers: format!("include/{}", name(library)),
            interpreter: name(Some(python.path())),
            short_version: format!("{major}.{minor}"),
        }
    }

    /// The directory of commands.
    pub(crate) fn scripts(&self) -> &str {
        &self.scripts
    }

    /// The directory of the directories of headers.
    pub(crate) fn headers(&self) -> &str {
        &self.headers
    }

    /// Where a file of a wheel's layer goes.
    pub(crate) fn target(&self, path: &EnvPath, distribution: &str) -> Result<EnvPath, InvalidPath> {
        let inside = |prefix: &str| path.as_bytes().strip_prefix(prefix.as_bytes());
        let (directory, rest) = if let Some(rest) = inside(SITE_PACKAGES) {
            (format!("{}/", self.site_packages), rest)
        } else if let Some(rest) = inside(SCRIPTS) {
            (format!("{}/", self.scripts), rest)
        } else if let Some(rest) = inside(HEADERS) {
            (format!("{}/{distribution}/", self.headers), rest)
        } else {
            (String::new(), inside(DATA).unwrap_or(path.as_bytes()))
        };
        EnvPath::parse([directory.as_bytes(), rest].concat())
    }

    /// How `RECORD` writes a path of the environment: relative to the directory of the distributions.
    fn recorded(&self, path: &EnvPath) -> String {
        let path = String::from_utf8_lossy(path.as_bytes());
        match path
            .strip_prefix(&self.site_packages)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            Some(inside) => inside.to_owned(),
            None => format!("{}{path}", "../".repeat(self.site_packages.split('/').count())),
        }
    }
}

/// A wheel on its way into a tree.
pub(super) struct WheelLinker<'a, 'b> {
    pub(super) site: &'a Site,
    pub(super) ingest: &'a mut Ingest<'b>,
    pub(super) merge: &'a mut Merge,
    /// The tree of the base, if that holds this wheel too.
    pub(super) base: Option<&'a Tree>,
}

/// Lines of an installed `RECORD`, sorted as installers sort them.
type Rows = BTreeMap<String, Option<(Sha256, u64)>>;

impl WheelLinker<'_, '_> {
    /// Links it, and returns what its files were added with.
    pub(super) fn link(mut self, wheel: &LockedWheel, layer: &Layer) -> Result<PackageIndex, LinkError> {
        let invalid = |source| LinkError::Path {
            package: wheel.to_string(),
            source,
        };
        let index = self.merge.package(&format!(
            "{}-{}-{}",
            wheel.name(),
            wheel.version(),
            wheel.file_name().tag()
        ));
        let commands = commands(wheel, layer, &self.site.short_version)?;
        let mut rows = Rows::new();
        for entry in &layer.entries {
            if is_wrapper(entry, &commands) {
                continue;
            }
            let path = self.site.target(&entry.path, wheel.name()).map_err(invalid)?;
            self.add_entry(index, entry, &path, &mut rows)?;
        }
        for command in &commands {
            let path = EnvPath::parse(format!("{}/{}", self.site.scripts, command.name)).map_err(invalid)?;
            let content = scripts::of_entry_point(command, &self.site.interpreter);
            self.add_generated(index, &path, &content, true, &mut rows)?;
        }
        self.add_metadata(index, wheel, layer, rows)
            .map_err(|error| match error {
                AddError::Path(source) => invalid(source),
                AddError::Store(error) => error.into(),
            })?;
        Ok(index)
    }

    fn add_entry(
        &mut self,
        index: PackageIndex,
        entry: &Entry,
        path: &EnvPath,
        rows: &mut Rows,
    ) -> Result<(), LinkError> {
        if let EntryKind::File(found) = &entry.kind {
            if entry.path.as_bytes().starts_with(SCRIPTS.as_bytes())
                && let Some(content) = self.rewritten(found)?
            {
                return Ok(self.add_generated(index, path, &content, true, rows)?);
            }
            rows.insert(
                self.site.recorded(path),
                found.sha256.map(|sha256| (sha256, found.size_bytes)),
            );
        }
        match leaf(entry, MTIME_S) {
            Some(leaf) => self.merge.add(Some(index), path, leaf),
            None => self.merge.add_directory(Some(index), path),
        }
        Ok(())
    }

    /// A script with the environment's Python in it, if it wants that.
    fn rewritten(&mut self, script: &FileEntry) -> Result<Option<Vec<u8>>, LinkError> {
        let Some(sha256) = script.sha256 else { return Ok(None) };
        let content = self.ingest.content(&Stored {
            digest: script.digest,
            sha256,
            size_bytes: script.size_bytes,
        })?;
        Ok(scripts::rewritten(&content, &self.site.interpreter))
    }

    /// What an installer writes into the `.dist-info` directory. Where the base holds the wheel too, what was asked for there
    /// is still asked for.
    fn add_metadata(
        &mut self,
        index: PackageIndex,
        wheel: &LockedWheel,
        layer: &Layer,
        mut rows: Rows,
    ) -> Result<(), AddError> {
        let dist_info = layer
            .info
            .get(info::DIST_INFO)
            .map(|name| String::from_utf8_lossy(name))
            .unwrap_or_default();
        let path = |name: &str| EnvPath::parse(format!("{}/{dist_info}/{name}", self.site.site_packages));
        let (installer, requested, direct_url, record) = (
            path("INSTALLER")?,
            path("REQUESTED")?,
            path("direct_url.json")?,
            path("RECORD")?,
        );
        self.add_generated(index, &installer, INSTALLER, false, &mut rows)?;
        if wheel.is_requested() || self.inherited(&requested)?.is_some() {
            self.add_generated(index, &requested, b"", false, &mut rows)?;
        }
        let own = wheel.direct_url().map(|json| json.as_bytes().to_owned());
        if let Some(json) = self.inherited(&direct_url)?.or(own) {
            self.add_generated(index, &direct_url, &json, false, &mut rows)?;
        }
        rows.insert(self.site.recorded(&record), None);
        let mut text = String::new();
        for (path, file) in &rows {
            record::write_row(
                &mut text,
                path,
                file.as_ref().map(|(sha256, size_bytes)| (sha256, *size_bytes)),
            );
        }
        let stored = self.ingest.add_bytes(text.as_bytes())?;
        self.merge.add(Some(index), &record, file(stored, MTIME_S, false, None));
        Ok(())
    }

    /// A generated file as the base has it.
    fn inherited(&mut self, path: &EnvPath) -> Result<Option<Vec<u8>>, envfs_store::Error> {
        let Some(base) = self.base else { return Ok(None) };
        let Some(node) = base.find(path.as_bytes())? else {
            return Ok(None);
        };
        let content = self.ingest.content(&Stored {
            digest: node.digest(),
            // Only the digest and the size are looked at.
            sha256: Sha256::from_bytes([0; 32]),
            size_bytes: node.stored_bytes(),
        })?;
        Ok(Some(content.to_vec()))
    }

    fn add_generated(
        &mut self,
        index: PackageIndex,
        path: &EnvPath,
        content: &[u8],
        executable: bool,
        rows: &mut Rows,
    ) -> Result<(), envfs_store::Error> {
        let stored = self.ingest.add_bytes(content)?;
        rows.insert(self.site.recorded(path), Some((stored.sha256, stored.size_bytes)));
        self.merge
            .add(Some(index), path, file(stored, MTIME_S, executable, None));
        Ok(())
    }
}

enum AddError {
    Path(InvalidPath),
    Store(envfs_store::Error),
}

impl From<InvalidPath> for AddError {
    fn from(error: InvalidPath) -> Self {
        Self::Path(error)
    }
}

impl From<envfs_store::Error> for AddError {
    fn from(error: envfs_store::Error) -> Self {
        Self::Store(error)
    }
}

/// The commands of a wheel. pip has one with the version of its Python, which no `entry_points.txt` can name.
fn commands(wheel: &LockedWheel, layer: &Layer, short_version: &str) -> Result<Vec<Script>, LinkError> {
    let text = layer
        .info
        .get(info::ENTRY_POINTS)
        .map(|text| String::from_utf8_lossy(text))
        .unwrap_or_default();
    let mut commands = entry_points::scripts(&text).map_err(|what| LinkError::EntryPoints {
        package: wheel.to_string(),
        what,
    })?;
    let versioned = commands
        .iter()
        .find(|command| wheel.name() == "pip" && command.name == "pip")
        .map(|command| Script {
            name: format!("pip{short_version}"),
            ..command.clone()
        });
    commands.retain(|command| {
        versioned
            .as_ref()
            .is_none_or(|versioned| versioned.name != command.name)
    });
    commands.extend(versioned);
    Ok(commands)
}

/// Whether a script of the wheel is one that an entry point makes anew.
fn is_wrapper(entry: &Entry, commands: &[Script]) -> bool {
    let script = entry.path.as_bytes().strip_prefix(SCRIPTS.as_bytes());
    script.is_some_and(|script| commands.iter().any(|command| command.name.as_bytes() == script))
}
