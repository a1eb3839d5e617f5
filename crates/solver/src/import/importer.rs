//! The packages of a prefix are linked from their layers, and what the prefix has besides or instead is laid on top.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use envfs_store::capture::{self, Captured, Change, ChangeKind};
use envfs_store::digest::Sha256;
use envfs_store::environment::{self, Environment, PackageKind};
use envfs_store::ingest::Written;
use envfs_store::layer::Layer;
use envfs_store::path::EnvPath;
use envfs_store::signature;
use envfs_store::view::View;

use super::dist::Known;
use super::prefix::FoundKind;
use super::survey::Surveyed;
use super::{ImportError, ImportRequest, Imported, ImportedPackage, Origin};
use crate::build::{self, BuildRequest, Contents, Destination};
use crate::bytecode::{NESTED, source_of};
use crate::package::LockedPackage;
use crate::pypi::LockedWheel;

/// An import on its way.
pub(super) struct Importer {
    destination: Destination,
    request: ImportRequest,
    found: Surveyed,
    /// Archives that were not in the store before.
    fetched: BTreeSet<Sha256>,
    contents: Contents,
    report: Vec<ImportedPackage>,
    /// Files that are not what their package's record says.
    altered: BTreeSet<EnvPath>,
    /// Paths where this installer writes another thing than the one before, and both mean the same.
    equivalent: BTreeSet<EnvPath>,
    written: Written,
}

impl Importer {
    pub(super) fn new(
        destination: Destination,
        request: ImportRequest,
        found: Surveyed,
        fetched: BTreeSet<Sha256>,
    ) -> Result<Self, ImportError> {
        let mut this = Self {
            destination,
            request,
            found,
            fetched,
            contents: Contents::default(),
            report: Vec::new(),
            altered: BTreeSet::new(),
            equivalent: BTreeSet::new(),
            written: Written::default(),
        };
        this.take_packages()?;
        this.take_dists()?;
        this.report.sort();
        Ok(this)
    }

    fn take_packages(&mut self) -> Result<(), ImportError> {
        let mut packages = Vec::new();
        let Destination { store, workspace } = self.destination.clone();
        for installed in &self.found.packages {
            let package = &installed.package;
            let sha256 = package.sha256().map(Sha256::from_bytes);
            let known = sha256.map(|sha256| store.layer(&sha256)).transpose()?.flatten();
            let (layer, origin) = match known {
                Some(layer) if self.fetched.contains(&layer.archive) => (layer, Origin::Fetched),
                Some(layer) => (layer, Origin::Store),
                None => {
                    let site_packages = self.found.site.as_ref().map(|site| site.site_packages.as_str());
                    let (layer, written) = installed.take(
                        &self.found.prefix,
                        site_packages,
                        (&store, &workspace),
                        &mut self.altered,
                    )?;
                    self.written += written;
                    (layer, Origin::Prefix)
                }
            };
            self.report.push(reported(package, origin));
            packages.push((package.clone(), layer));
        }
        if let Some(python) = &self.found.python {
            let (package, layer, written) = python.take(self.found.subdir, &store, &workspace)?;
            self.written += written;
            self.equivalent.extend(python.replaces());
            self.report.push(reported(&package, Origin::Prefix));
            packages.push((package, layer));
        }
        self.contents.set_packages(packages)?;
        Ok(())
    }

    fn take_dists(&mut self) -> Result<(), ImportError> {
        let Some(site) = &self.found.site else { return Ok(()) };
        let Destination { store, workspace } = self.destination.clone();
        let known = Known::in_store(&store)?;
        let mut wheels: Vec<(LockedWheel, Layer)> = Vec::new();
        for dist in &self.found.dists {
            let (wheel, layer, origin) = match dist.recognise(&known, &store, site)? {
                Some((wheel, layer)) => (wheel, layer, Origin::Store),
                None => {
                    let (layer, written) =
                        dist.take(&self.found.prefix, site, (&store, &workspace), &mut self.altered)?;
                    self.written += written;
                    let wheel = dist.wheel.clone().with_sha256(*layer.archive.as_bytes());
                    (wheel, layer, Origin::Prefix)
                }
            };
            self.equivalent.extend(dist.equivalent(&self.found.prefix, site)?);
            self.report.push(ImportedPackage {
                kind: PackageKind::Pypi,
                name: wheel.name().to_owned(),
                version: wheel.version().to_owned(),
                build: wheel.file_name().tag(),
                origin,
            });
            wheels.push((wheel, layer));
        }
        self.contents.set_wheels(wheels)?;
        Ok(())
    }

    /// Links the packages, and puts on top what the prefix has besides.
    pub(super) fn finish(mut self, fetched: Written) -> Result<Imported, ImportError> {
        let variables = self.found.variables()?;
        let build = BuildRequest {
            packages: Vec::new(),
            wheels: Vec::new(),
            sources: Vec::new(),
            link_scripts: self.request.link_scripts.clone(),
            subdir: self.found.subdir,
            variables,
            bytecode: self.request.bytecode,
            base: None,
        };
        let built = build::finish(&self.destination, &build, &self.contents, 0, Written::default())?;
        self.written += fetched;
        self.written += built.written;
        let mut imported = Imported {
            environment: built.environment,
            kind: self.found.prefix.kind,
            reused: built.reused,
            packages: std::mem::take(&mut self.report),
            changes: Vec::new(),
            outside: std::mem::take(&mut self.found.outside),
            prefix_bytes: self.found.prefix.size_bytes,
            written: self.written,
            clashes: built.clashes,
            kept: built.kept,
        };
        let Destination { store, workspace } = &self.destination;
        if let Some(captured) = self.changes(&imported.environment)? {
            let signature = signature::of_change(
                &imported.environment.subdir,
                &imported.environment.signature,
                &captured.layer.archive,
            );
            imported.reused = environment::get(store, &signature)?.is_some();
            let (environment, kept) = capture::commit(
                store,
                workspace,
                &imported.environment,
                &captured.layer,
                captured.written,
            )?;
            imported.written += captured.written;
            imported.environment = environment;
            imported.kept = kept.map(Arc::new);
            imported.changes = captured.changes;
        }
        for change in &mut imported.changes {
            if change.kind == ChangeKind::Added && self.altered.contains(&change.path) {
                change.kind = ChangeKind::Modified;
            }
        }
        let missing = self.altered.iter().filter(|path| self.found.prefix.get(path).is_none());
        imported.changes.extend(missing.map(|path| Change {
            path: path.clone(),
            kind: ChangeKind::Removed,
        }));
        // A directory is there for the files in it.
        imported.changes.retain(|change| {
            let is_directory = matches!(self.found.prefix.get(&change.path), Some(found) if matches!(found.kind, FoundKind::Directory));
            !is_directory || self.found.prefix.is_empty(&change.path)
        });
        imported.changes.sort();
        Ok(imported)
    }

    fn changes(&self, environment: &Environment) -> Result<Option<Captured>, ImportError> {
        let Destination { store, workspace } = &self.destination;
        let prefix = &self.found.prefix;
        let view = View::new(store, Arc::new(store.tree(&environment.tree)?), Path::new(&prefix.text))?;
        let is_linked = |path: &EnvPath| view.tree().find(path.as_bytes()).is_ok_and(|node| node.is_some());
        let is_ignored = |path: &EnvPath, kind: ChangeKind| {
            if self.equivalent.contains(path) || is_installers(path) {
                return true;
            }
            if self.found.python.is_some() && path.names().next() == Some(NESTED.as_bytes()) {
                return true;
            }
            match source_of(path) {
                // Bytecode was made for the modules of packages; that of others is kept.
                Some(source) => kind != ChangeKind::Added || is_linked(&source) || prefix.get(&source).is_none(),
                None => path.names().last() == Some(b"__pycache__"),
            }
        };
        let installed = capture::Installed {
            view: &view,
            directory: &prefix.root,
            is_ignored: &is_ignored,
        };
        Ok(installed.capture(store, workspace)?)
    }
}

fn reported(package: &LockedPackage, origin: Origin) -> ImportedPackage {
    ImportedPackage {
        kind: PackageKind::Conda,
        name: package.name().to_owned(),
        version: package.version(),
        build: package.build().to_owned(),
        origin,
    }
}

/// Whether a path is an installer's own: records are written anew, and pins stay. Nor are there backups to be kept from an
/// environment that takes no place.
fn is_installers(path: &EnvPath) -> bool {
    path.as_bytes() == b"CACHEDIR.TAG"
        || path.names().next() == Some(b"conda-meta") && path.names().last() != Some(b"pinned")
}
