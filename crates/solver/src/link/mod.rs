//! Layers become an environment's tree: where each file goes, who wins, and what installers add.
//!
//! Follows what conda's installers write into a directory, to the file: noarch Python packages are mapped to the
//! environment's Python (CEP 34, `noarch: python`), entry points become scripts, the package that depends wins over what
//! it depends on, and `conda-meta` says what is there. Nothing here depends on where the environment will be seen:
//! what holds a prefix is recorded as a placeholder.
//!
//! Wheels are linked after the conda packages, by name; a wheel takes the place of a distribution that a conda package brings.

mod bytecode;
mod entry_points;
mod records;
mod replaced;
mod scripts;
mod wheel;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use envfs_store::Store;
use envfs_store::capture;
use envfs_store::digest::Sha256;
use envfs_store::environment::Environment;
use envfs_store::ingest::{Ingest, Stored, Written};
use envfs_store::layer::{Entry, EntryKind, Layer};
use envfs_store::path::{EnvPath, InvalidPath};
use envfs_store::placeholder::Placeholder;
use envfs_store::tree::merge::{Clash, DIRECTORY_MTIME_S, Leaf, Merge};
use envfs_store::tree::{Tree, WrittenTree};
use envfs_store::workspace::Workspace;
use rattler::install::PythonInfo;
use rattler_conda_types::package::{IndexJson, LinkJson, NoArchLinks};

use crate::bytecode::Bytecode;
use crate::package::LockedPackage;
use crate::pypi::LockedWheel;
use crate::subdir::Subdir;
use bytecode::Waiting;
pub(crate) use wheel::Site;
use wheel::WheelLinker;

/// Packages to be linked, and what comes with them.
pub(crate) struct Linkage<'a> {
    /// In link order, each with its layer.
    pub(crate) packages: &'a [(LockedPackage, Layer)],
    /// In link order too.
    pub(crate) wheels: &'a [(LockedWheel, Layer)],
    /// What was compiled of the layers.
    pub(crate) bytecode: &'a Bytecode,
    /// The platform of the environment.
    pub(crate) subdir: Subdir,
    /// Environment variables that activation sets.
    pub(crate) variables: &'a BTreeMap<String, String>,
    /// The environment to inherit from.
    pub(crate) base: Option<Base<'a>>,
    /// What was written into the base's packages, the oldest first.
    pub(crate) changes: &'a [Layer],
}

/// An environment to inherit from.
#[derive(Clone, Copy)]
pub(crate) struct Base<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) tree: &'a Tree,
    /// The archives of all its packages, wheels too.
    pub(crate) archives: &'a BTreeSet<Sha256>,
    /// Whether its tree holds more than its packages bring: then it is taken as it is, and not linked again.
    pub(crate) is_changed: bool,
}

/// What linking left behind.
pub(crate) struct Linked {
    pub(crate) tree: WrittenTree,
    pub(crate) clashes: Vec<Clash>,
    /// Link scripts that the packages bring.
    pub(crate) link_scripts: Vec<FoundScript>,
    pub(crate) written: Written,
}

/// A script that a package wants to be run when it is linked.
pub(crate) struct FoundScript {
    /// Where it lies in the environment.
    pub(crate) path: String,
    is_before: bool,
}

impl FoundScript {
    /// Whether nobody runs it: what comes before linking could only change what is shared, so rattler ignores it too.
    pub(crate) fn is_always_skipped(&self) -> bool {
        self.is_before
    }
}

/// Why packages cannot be linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A Python package without Python.
    #[error("{package} needs Python, and the environment has none: add `python` to its dependencies")]
    MissingPython {
        /// The package.
        package: String,
    },
    /// A Python of which the version is not known.
    #[error("the package {package} does not say which Python it is: {reason}")]
    UnknownPython {
        /// The package.
        package: String,
        /// What its record says.
        reason: String,
    },
    /// Metadata that is missing.
    #[error("{package}: the archive has no info/{file}: use another build of the package, or tell its channel")]
    MissingMetadata {
        /// The package.
        package: String,
        /// The file.
        file: &'static str,
    },
    /// Metadata of a package that cannot be read.
    #[error("{package}: its info/{file} is not valid: use another build of the package, or tell its channel")]
    Metadata {
        /// The package.
        package: String,
        /// The file.
        file: &'static str,
        /// Where it fails.
        source: serde_json::Error,
    },
    /// Commands of a wheel that cannot be read.
    #[error("{package}: {what}; use another version of it, or tell its maintainers")]
    EntryPoints {
        /// The wheel.
        package: String,
        /// What is wrong.
        what: String,
    },
    /// A path that cannot be in an environment.
    #[error("{package}: {source}")]
    Path {
        /// The package.
        package: String,
        /// What is wrong.
        source: InvalidPath,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

/// Links `linkage` and makes its tree durable. Its layers must be.
///
/// # Errors
/// When a package's metadata is invalid, Python is missing, or the store cannot be written.
pub(crate) fn link(store: &Store, workspace: &Workspace, linkage: &Linkage<'_>) -> Result<Linked, LinkError> {
    let changed = linkage.base.filter(|base| base.is_changed);
    let is_linked = |layer: &Layer| changed.is_some_and(|base| base.archives.contains(&layer.archive));
    let mut linker = Linker {
        python: python_of(linkage)?,
        bytecode: Waiting::new(linkage.bytecode),
        ingest: Ingest::new(store, workspace)?,
        merge: match changed {
            Some(base) => Merge::from_tree(base.tree)?,
            None => Merge::new(),
        },
        link_scripts: Vec::new(),
        replaced: linkage
            .wheels
            .iter()
            .map(|(wheel, _)| wheel.name().to_owned())
            .collect(),
    };
    for (package, layer) in linkage.packages.iter().filter(|(_, layer)| !is_linked(layer)) {
        linker.add_package(package, layer, linkage)?;
    }
    for (wheel, layer) in linkage.wheels.iter().filter(|(_, layer)| !is_linked(layer)) {
        linker.add_wheel(wheel, layer, linkage.base)?;
    }
    linker.bytecode.add_to(&mut linker.merge);
    linker.add_environment_files(linkage)?;
    let mut written = linker.ingest.publish()?;
    let clashes = linker.merge.clashes().to_vec();
    // A base that was changed since has the results of its scripts already, and they may be among what was changed.
    for layer in linkage.changes.iter().filter(|_| changed.is_none()) {
        capture::add_to(&mut linker.merge, layer);
    }
    let base = linkage.base.map(|base| (base.environment.tree, base.tree));
    let tree = linker.merge.write(store, workspace, base)?;
    written += Written {
        objects: 0,
        bytes: tree.new_bytes,
        inodes: u64::from(tree.new_bytes > 0),
    };
    Ok(Linked {
        tree,
        clashes,
        link_scripts: linker.link_scripts,
        written,
    })
}

struct Linker<'a> {
    python: Option<PythonInfo>,
    ingest: Ingest<'a>,
    merge: Merge,
    bytecode: Waiting<'a>,
    link_scripts: Vec<FoundScript>,
    /// Names of distributions that wheels bring.
    replaced: BTreeSet<String>,
}

impl Linker<'_> {
    fn add_package(&mut self, package: &LockedPackage, layer: &Layer, linkage: &Linkage<'_>) -> Result<(), LinkError> {
        let dist_name = format!("{}-{}-{}", package.name(), package.version(), package.build());
        let python = self.python_for(package, layer)?;
        let index = self.merge.package(&dist_name);
        let invalid = |source| LinkError::Path {
            package: package.to_string(),
            source,
        };
        let mut linked = Vec::with_capacity(layer.entries.len());
        for entry in &layer.entries {
            linked.push((target_path(python.as_ref(), &entry.path).map_err(invalid)?, entry));
        }
        self.bytecode
            .note(index, layer, |path| target_path(python.as_ref(), path))
            .map_err(invalid)?;
        let mut generated = Vec::new();
        if let Some(python) = &python {
            for entry_point in entry_points_of(package, layer)? {
                generated.push(entry_points::script(&entry_point, python).map_err(invalid)?);
            }
        }
        let commands: Vec<EnvPath> = generated.iter().map(|(path, ..)| path.clone()).collect();
        let hidden = self.hidden(&linked, &commands)?;
        for (path, entry) in linked.iter().filter(|(path, _)| !hidden.contains(path)) {
            match leaf(entry, layer.patched_mtime_s) {
                Some(leaf) => self.merge.add(Some(index), path, leaf),
                None => self.merge.add_directory(Some(index), path),
            }
        }
        let mut scripts = Vec::with_capacity(generated.len());
        for (path, content, placeholder) in generated {
            let stored = self.ingest.add_bytes(&content)?;
            if !hidden.contains(&path) {
                let leaf = file(stored, layer.patched_mtime_s, true, Some(placeholder));
                self.merge.add(Some(index), &path, leaf);
            }
            scripts.push((path, stored));
        }
        self.note_link_scripts(package, &linked);
        let record = records::path(&dist_name);
        let leaf = match inherited_record(layer, &record, linkage.base)? {
            Some(leaf) => leaf,
            None => {
                let json = records::prefix_record(package, &linked, &scripts);
                file(self.ingest.add_bytes(&json)?, layer.patched_mtime_s, false, None)
            }
        };
        self.merge.add(None, &record, leaf);
        Ok(())
    }

    fn add_wheel(&mut self, wheel: &LockedWheel, layer: &Layer, base: Option<Base<'_>>) -> Result<(), LinkError> {
        let Some(python) = &self.python else {
            return Err(LinkError::MissingPython {
                package: wheel.to_string(),
            });
        };
        let site = Site::of(python);
        let linker = WheelLinker {
            site: &site,
            ingest: &mut self.ingest,
            merge: &mut self.merge,
            base: base
                .filter(|base| base.archives.contains(&layer.archive))
                .map(|base| base.tree),
        };
        let index = linker.link(wheel, layer)?;
        self.bytecode
            .note(index, layer, |path| site.target(path, wheel.name()))
            .map_err(|source| LinkError::Path {
                package: wheel.to_string(),
                source,
            })
    }

    /// What of a package is not seen because a wheel brings the same distribution.
    fn hidden(&mut self, linked: &[(EnvPath, &Entry)], commands: &[EnvPath]) -> Result<BTreeSet<EnvPath>, LinkError> {
        match &self.python {
            Some(python) if !self.replaced.is_empty() => {
                let site_packages = Site::of(python).site_packages;
                replaced::hidden(linked, commands, &site_packages, &self.replaced, &mut self.ingest)
            }
            _ => Ok(BTreeSet::new()),
        }
    }

    /// The Python that a noarch package is for. Whether it is one, the archive decides: channels may disagree.
    fn python_for(&self, package: &LockedPackage, layer: &Layer) -> Result<Option<PythonInfo>, LinkError> {
        let index: IndexJson = parse_info(package, layer, "index.json")?.ok_or_else(|| LinkError::MissingMetadata {
            package: package.to_string(),
            file: "index.json",
        })?;
        if !index.noarch.is_python() {
            return Ok(None);
        }
        match &self.python {
            Some(python) => Ok(Some(python.clone())),
            None => Err(LinkError::MissingPython {
                package: package.to_string(),
            }),
        }
    }

    fn add_environment_files(&mut self, linkage: &Linkage<'_>) -> Result<(), LinkError> {
        for (path, content) in records::environment_files(self.python.as_ref(), linkage.variables) {
            let stored = self.ingest.add_bytes(&content)?;
            self.merge
                .add(None, &path, file(stored, DIRECTORY_MTIME_S, false, None));
        }
        Ok(())
    }

    fn note_link_scripts(&mut self, package: &LockedPackage, linked: &[(EnvPath, &Entry)]) {
        for when in ["pre-link", "post-link"] {
            let path = format!("bin/.{}-{when}.sh", package.name());
            if linked.iter().any(|(linked, _)| linked.as_bytes() == path.as_bytes()) {
                let is_before = when == "pre-link";
                self.link_scripts.push(FoundScript { path, is_before });
            }
        }
    }
}

/// The record of a package that the base holds too is the base's, so that it costs nothing.
fn inherited_record(layer: &Layer, path: &EnvPath, base: Option<Base<'_>>) -> Result<Option<Leaf>, LinkError> {
    let Some(base) = base.filter(|base| base.archives.contains(&layer.archive)) else {
        return Ok(None);
    };
    let node = base.tree.find(path.as_bytes())?;
    Ok(node.map(|node| Leaf::File {
        digest: node.digest(),
        size_bytes: node.stored_bytes(),
        mtime_s: node.mtime_s(),
        executable: false,
        placeholder: None,
    }))
}

fn python_of(linkage: &Linkage<'_>) -> Result<Option<PythonInfo>, LinkError> {
    let Some((package, _)) = linkage.packages.iter().find(|(package, _)| package.name() == "python") else {
        return Ok(None);
    };
    let record = &package.record().package_record;
    match PythonInfo::from_python_record(record, linkage.subdir.to_conda()) {
        Ok(python) => Ok(Some(python)),
        Err(error) => Err(LinkError::UnknownPython {
            package: package.to_string(),
            reason: error.to_string(),
        }),
    }
}

fn entry_points_of(
    package: &LockedPackage,
    layer: &Layer,
) -> Result<Vec<rattler_conda_types::package::EntryPoint>, LinkError> {
    let link: Option<LinkJson> = parse_info(package, layer, "link.json")?;
    Ok(match link.map(|link| link.noarch) {
        Some(NoArchLinks::Python(python)) => python.entry_points,
        _ => Vec::new(),
    })
}

fn parse_info<T: serde::de::DeserializeOwned>(
    package: &LockedPackage,
    layer: &Layer,
    file: &'static str,
) -> Result<Option<T>, LinkError> {
    layer
        .info
        .get(file)
        .map(|json| serde_json::from_slice(json))
        .transpose()
        .map_err(|source| LinkError::Metadata {
            package: package.to_string(),
            file,
            source,
        })
}

fn target_path(python: Option<&PythonInfo>, path: &EnvPath) -> Result<EnvPath, InvalidPath> {
    let Some(python) = python else {
        return Ok(path.clone());
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
    EnvPath::parse(python.get_python_noarch_target_path(path).as_os_str().as_bytes())
}

/// What an entry is in the tree; none for a directory.
fn leaf(entry: &Entry, patched_mtime_s: i64) -> Option<Leaf> {
    match &entry.kind {
        EntryKind::Directory => None,
        EntryKind::Symlink(target) => Some(Leaf::Symlink {
            target: target.clone(),
            mtime_s: entry.mtime_s,
        }),
        EntryKind::File(found) => {
            let placeholder = found.placeholder.clone().filter(Placeholder::changes_content);
            Some(Leaf::File {
                digest: found.digest,
                size_bytes: found.size_bytes,
                // A file that changes is newer than the bytecode that was compiled from it.
                mtime_s: if placeholder.is_some() {
                    patched_mtime_s
                } else {
                    entry.mtime_s
                },
                executable: found.executable,
                placeholder,
            })
        }
    }
}

fn file(stored: Stored, mtime_s: i64, executable: bool, placeholder: Option<Placeholder>) -> Leaf {
    Leaf::File {
        digest: stored.digest,
        size_bytes: stored.size_bytes,
        mtime_s,
        executable,
        placeholder,
    }
}
