//! What an installer leaves in an environment besides the packages' files: `conda-meta`, and notes for other installers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use envfs_store::ingest::Stored;
use envfs_store::layer::{Entry, EntryKind};
use envfs_store::path::EnvPath;
use envfs_store::placeholder::Occurrences;
use rattler::install::PythonInfo;
use rattler_conda_types::PrefixRecord;
use rattler_conda_types::package::FileMode;
use rattler_conda_types::prefix_record::{PathType, PathsEntry};

use crate::network::without_credentials;
use crate::package::LockedPackage;

/// What other installers are told: the environment does not change in place.
const HOW_TO_ADD: &str = "This environment is a read-only view of a shared store. To add a package, write it into the \
                          environment's specification and build it again, or build another on top of it: \
                          envfs build --base <this environment> <package>.";

/// Where the record of a package lies, by its `name-version-build`.
pub(super) fn path(dist_name: &str) -> EnvPath {
    let name = dist_name.replace('/', "_");
    EnvPath::parse(format!("conda-meta/{name}.json")).unwrap_or_else(|_| fixed("conda-meta/unnamed.json"))
}

/// The record of a linked package: what the channel says of it and which files it brought (CEP 32 and 34). Says nothing
/// that depends on the prefix, so that one record serves every mount: `sha256_in_prefix` is left out.
pub(super) fn prefix_record(
    package: &LockedPackage,
    linked: &[(EnvPath, &Entry)],
    scripts: &[(EnvPath, Stored)],
) -> Vec<u8> {
    let files = linked.iter().map(|(path, entry)| paths_entry(path, entry));
    let scripts = scripts.iter().map(|(path, stored)| PathsEntry {
        path_type: PathType::UnixPythonEntryPoint,
        size_in_bytes: Some(stored.size_bytes),
        ..plain_entry(path)
    });
    let mut known = package.record().clone();
    // Everybody who may read the environment reads this.
    known.url = without_credentials(&known.url);
    known.channel = known.channel.map(|channel| match channel.parse() {
        Ok(url) => without_credentials(&url).to_string(),
        Err(_) => channel,
    });
    let record = PrefixRecord::from_repodata_record(known, files.chain(scripts).collect());
    let mut json = Vec::new();
    record
        .write_to(&mut json, true)
        .expect("a record becomes JSON in memory");
    json
}

/// Files of the environment itself.
pub(super) fn environment_files(
    python: Option<&PythonInfo>,
    variables: &BTreeMap<String, String>,
) -> Vec<(EnvPath, Vec<u8>)> {
    let frozen = serde_json::json!({ "message": HOW_TO_ADD });
    let mut files = vec![
        // Its presence is what makes a directory a conda environment.
        (fixed("conda-meta/history"), Vec::new()),
        // CEP 22: conda, mamba and pixi leave such an environment alone.
        (fixed("conda-meta/frozen"), with_newline(frozen.to_string())),
    ];
    if !variables.is_empty() {
        let state = serde_json::json!({ "env_vars": variables });
        files.push((fixed("conda-meta/state"), with_newline(state.to_string())));
    }
    if let Some(library) = python.and_then(|python| python.site_packages_path.parent()) {
        // PEP 668: pip and uv leave it alone too, and show the text.
        let path = EnvPath::parse(library.join("EXTERNALLY-MANAGED").as_os_str().as_bytes());
        files.extend(path.map(|path| (path, format!("[externally-managed]\nError={HOW_TO_ADD}\n").into_bytes())));
    }
    files
}

fn paths_entry(path: &EnvPath, entry: &Entry) -> PathsEntry {
    match &entry.kind {
        EntryKind::Directory => PathsEntry {
            path_type: PathType::Directory,
            ..plain_entry(path)
        },
        EntryKind::Symlink(_) => PathsEntry {
            path_type: PathType::SoftLink,
            ..plain_entry(path)
        },
        EntryKind::File(file) => PathsEntry {
            sha256: file.sha256.map(|sha256| (*sha256.as_bytes()).into()),
            size_in_bytes: Some(file.size_bytes),
            prefix_placeholder: file.placeholder.as_ref().map(|placeholder| placeholder.prefix.clone()),
            file_mode: file
                .placeholder
                .as_ref()
                .map(|placeholder| match placeholder.occurrences {
                    Occurrences::Text { .. } => FileMode::Text,
                    Occurrences::Binary { .. } => FileMode::Binary,
                }),
            ..plain_entry(path)
        },
    }
}

fn plain_entry(path: &EnvPath) -> PathsEntry {
    PathsEntry {
        relative_path: PathBuf::from(OsStr::from_bytes(path.as_bytes())),
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

fn fixed(path: &str) -> EnvPath {
    EnvPath::parse(path).expect("a valid path")
}

fn with_newline(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(b'\n');
    bytes
}
