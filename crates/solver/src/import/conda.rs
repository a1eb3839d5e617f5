//! Packages of a conda environment, by the records of `conda-meta`: where an archive cannot be had, what the record lists is
//! taken from the prefix, with the package's own placeholder in the place of the prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::ingest::Written;
use envfs_store::layer::Layer;
use envfs_store::path::EnvPath;
use envfs_store::workspace::Workspace;
use rattler_conda_types::package::FileMode;
use rattler_conda_types::prefix_record::{PathType, PathsEntry};
use rattler_conda_types::{NoArchType, PrefixRecord};

use super::ImportError;
use super::own::{Expected, OwnLayer};
use super::prefix::{Found, Prefix};
use crate::bytecode::source_of;
use crate::package::LockedPackage;

/// A package that a record says is installed.
pub(super) struct Installed {
    pub(super) package: LockedPackage,
    is_noarch_python: bool,
    paths: Vec<(EnvPath, PathsEntry)>,
}

/// The packages of the prefix, by name.
pub(super) fn packages(prefix: &Prefix) -> Result<Vec<Installed>, ImportError> {
    let mut found = Vec::new();
    for (path, name) in prefix.children("conda-meta") {
        if !name.ends_with(".json") {
            continue;
        }
        let file = prefix.place(path);
        let text = prefix.read(&path.to_string())?.unwrap_or_default();
        let invalid = |reason: String| ImportError::Record {
            file: file.clone(),
            reason,
        };
        let record: PrefixRecord = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        let is_noarch_python = record.repodata_record.package_record.noarch.is_python();
        let paths = listed(&record).map_err(|error| invalid(error.to_string()))?;
        let package = LockedPackage::from_record(record.repodata_record).map_err(|error| invalid(error.to_string()))?;
        found.push(Installed {
            package,
            is_noarch_python,
            paths,
        });
    }
    Ok(found)
}

impl Installed {
    /// Every path that the package brought.
    pub(super) fn paths(&self) -> impl Iterator<Item = &EnvPath> {
        self.paths.iter().map(|(path, _)| path)
    }

    /// Its files as a layer. Those that are not what the record says go into `altered`.
    pub(super) fn take(
        &self,
        prefix: &Prefix,
        site_packages: Option<&str>,
        (store, workspace): (&Store, &Workspace),
        altered: &mut BTreeSet<EnvPath>,
    ) -> Result<(Layer, Written), ImportError> {
        let mut layer = OwnLayer::new(prefix, store, workspace)?;
        for (path, listed) in &self.paths {
            // Bytecode of a noarch package was made at its installation, and is made anew here.
            let is_made = listed.path_type == PathType::PycFile || self.is_noarch_python && source_of(path).is_some();
            let Some(found) = prefix.get(path) else {
                if !is_made {
                    altered.insert(path.clone());
                }
                continue;
            };
            if !is_made && !layer.take(path, found, self.place(path, site_packages), expected(listed))? {
                altered.insert(path.clone());
            }
        }
        layer.publish(BTreeMap::from([("index.json".to_owned(), self.index())]))
    }

    /// The files that are in the prefix, each with what is expected of it.
    pub(super) fn files<'a>(&'a self, prefix: &'a Prefix) -> impl Iterator<Item = (&'a EnvPath, &'a Found, Expected)> {
        self.paths
            .iter()
            .filter_map(|(path, listed)| Some((path, prefix.get(path)?, expected(listed))))
    }

    /// Where a file lies in an archive of this kind.
    fn place(&self, path: &EnvPath, site_packages: Option<&str>) -> EnvPath {
        let inside = site_packages
            .filter(|_| self.is_noarch_python)
            .and_then(|site_packages| path.as_bytes().strip_prefix(site_packages.as_bytes()));
        inside
            .and_then(|rest| EnvPath::parse([b"site-packages", rest].concat()).ok())
            .unwrap_or_else(|| path.clone())
    }

    /// What `info/index.json` says of it.
    fn index(&self) -> Vec<u8> {
        let record = &self.package.record().package_record;
        let noarch = if self.is_noarch_python {
            NoArchType::python()
        } else {
            NoArchType::none()
        };
        let index = serde_json::json!({
            "name": record.name.as_normalized(), "version": record.version.as_str(), "build": record.build.as_str(),
            "build_number": record.build_number, "subdir": record.subdir, "noarch": noarch, "depends": record.depends,
        });
        index.to_string().into_bytes()
    }
}

fn listed(record: &PrefixRecord) -> Result<Vec<(EnvPath, PathsEntry)>, envfs_store::path::InvalidPath> {
    let mut paths = record.paths_data.paths.clone();
    if paths.is_empty() {
        // Records of older tools list names only.
        paths = record.files.iter().map(|file| named_only(file.clone())).collect();
    }
    let above = above_site_packages(record);
    paths
        .into_iter()
        .map(|listed| {
            let path = listed.relative_path.as_os_str().as_bytes();
            let placed = above.and_then(|above| placed(path, above));
            Ok((EnvPath::parse(placed.as_deref().unwrap_or(path))?, listed))
        })
        .collect()
}

/// Where the modules of a noarch package lie: `lib/python3.12/`.
fn above_site_packages(record: &PrefixRecord) -> Option<&str> {
    let is_python = record.repodata_record.package_record.noarch.is_python();
    let mut files = record.files.iter().filter(|_| is_python);
    files.find_map(|file| {
        let file = file.to_str()?;
        file.find("/site-packages/").map(|at| &file[..=at])
    })
}

/// Where a file of a noarch package is that its record lists as it is in the archive: conda and mamba do so, and say only in `files`
/// where it is.
fn placed(path: &[u8], above: &str) -> Option<Vec<u8>> {
    match path.strip_prefix(b"python-scripts/") {
        Some(script) => Some([b"bin/", script].concat()),
        None => path
            .starts_with(b"site-packages/")
            .then(|| [above.as_bytes(), path].concat()),
    }
}

fn named_only(relative_path: std::path::PathBuf) -> PathsEntry {
    PathsEntry {
        relative_path,
        original_path: None,
        path_type: PathType::HardLink,
        no_link: false,
        sha256: None,
        sha256_in_prefix: None,
        size_in_bytes: None,
        file_mode: None,
        prefix_placeholder: None,
    }
}

fn expected(listed: &PathsEntry) -> Expected {
    let mode = listed.file_mode.unwrap_or(FileMode::Text);
    let placeholder = listed.prefix_placeholder.clone().map(|placeholder| (placeholder, mode));
    Expected {
        // Of a link it is the digest of what is behind it.
        sha256: listed.sha256.map(|sha256| Sha256::from_bytes(sha256.into())),
        is_made: listed.path_type == PathType::UnixPythonEntryPoint,
        sha256_in_prefix: listed.sha256_in_prefix.map(|sha256| Sha256::from_bytes(sha256.into())),
        placeholder,
    }
}
