//! One conda package that is being made: its payload in a directory, and what `info/` says about it.
//!
//! The documents follow the conda package format as conda-build writes it: `index.json`, `paths.json` (version 1),
//! `about.json`, `link.json`, `files`, `has_prefix`. This room does not know where the payload came from, nor how an
//! archive is laid out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memchr::memmem;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The modification time of everything in the channel, in seconds: shipped `.pyc` files are valid for it.
pub(super) const MTIME_S: u64 = 1_700_000_000;

/// The length of a prefix placeholder in bytes: conda-build fills paths up to it, and a longer prefix cannot be installed.
pub(super) const PLACEHOLDER_BYTES: usize = 255;

/// How an archive is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A zip of two zstd tars.
    Conda,
    /// One bzip2 tar, the older format.
    TarBz2,
}

/// For which platforms a package is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only linux-64.
    Arch,
    /// Every platform; `site-packages/` is mapped to the environment's Python.
    NoarchPython,
    /// Every platform, as it is.
    NoarchGeneric,
}

/// A package, ready to be packed.
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) build: String,
    pub(super) kind: Kind,
    pub(super) format: Format,
    pub(super) depends: Vec<String>,
    pub(super) constrains: Vec<String>,
    pub(super) license: String,
    pub(super) summary: String,
    pub(super) home: String,
    /// `command = module:function`, for noarch Python packages.
    pub(super) entry_points: Vec<String>,
    /// CEP 17: where this Python keeps site-packages; only the package `python` says it.
    pub(super) python_site_packages_path: Option<String>,
    /// The directory whose content is the payload.
    pub(super) payload: PathBuf,
    /// Licence texts: name in `info/licenses`, content.
    pub(super) licenses: BTreeMap<String, Vec<u8>>,
}

/// One file of a payload, or a symbolic link.
pub(super) struct Entry {
    /// Relative to the payload, with `/`.
    pub(super) path: String,
    pub(super) kind: EntryKind,
}

/// What an entry is.
pub(super) enum EntryKind {
    /// A regular file; `first_link` names the entry of which this one is another name.
    File {
        executable: bool,
        first_link: Option<String>,
    },
    /// A symbolic link with its target.
    Link(String),
}

impl Package {
    /// `name-version-build`, which archives and records are called.
    pub(super) fn stem(&self) -> String {
        format!("{}-{}-{}", self.name, self.version, self.build)
    }

    /// The channel's directory for this package.
    pub(super) fn subdir(&self) -> &'static str {
        if self.kind == Kind::Arch { "linux-64" } else { "noarch" }
    }

    /// `info/index.json`.
    pub(super) fn index(&self) -> Value {
        let mut index = json!({
            "build": self.build,
            "build_number": 0,
            "depends": self.depends,
            "license": self.license,
            "name": self.name,
            "subdir": self.subdir(),
            "timestamp": MTIME_S * 1000,
            "version": self.version,
        });
        if !self.constrains.is_empty() {
            index["constrains"] = json!(self.constrains);
        }
        match self.kind {
            Kind::Arch => {
                index["arch"] = json!("x86_64");
                index["platform"] = json!("linux");
            }
            Kind::NoarchPython => index["noarch"] = json!("python"),
            Kind::NoarchGeneric => index["noarch"] = json!("generic"),
        }
        if let Some(path) = &self.python_site_packages_path {
            index["python_site_packages_path"] = json!(path);
        }
        index
    }

    /// `info/link.json`, for noarch packages.
    fn link(&self) -> Option<Value> {
        let noarch = match self.kind {
            Kind::Arch => return None,
            Kind::NoarchGeneric => json!({"type": "generic"}),
            Kind::NoarchPython if self.entry_points.is_empty() => json!({"type": "python"}),
            Kind::NoarchPython => json!({"type": "python", "entry_points": self.entry_points}),
        };
        Some(json!({"noarch": noarch, "package_metadata_version": 1}))
    }

    /// Every document of `info/`, by path.
    ///
    /// # Errors
    /// When a file of the payload cannot be read.
    pub(super) fn info_files(&self, entries: &[Entry]) -> Result<BTreeMap<String, Vec<u8>>> {
        let placeholder = placeholder(&self.name);
        let mut paths = Vec::with_capacity(entries.len());
        let mut has_prefix = String::new();
        for entry in entries {
            let (record, mode) = self.paths_entry(entry, &placeholder)?;
            if let Some(mode) = mode {
                has_prefix.push_str(&format!("{placeholder} {mode} {}\n", entry.path));
            }
            paths.push(record);
        }
        let files: String = entries.iter().map(|entry| format!("{}\n", entry.path)).collect();
        let about = json!({
            "home": self.home, "license": self.license, "summary": self.summary,
            "extra": {"made_by": "cargo xtask channel"},
        });
        let mut info = BTreeMap::from([
            ("info/about.json".to_owned(), pretty(&about)?),
            ("info/files".to_owned(), files.into_bytes()),
            ("info/hash_input.json".to_owned(), b"{}\n".to_vec()),
            ("info/index.json".to_owned(), pretty(&self.index())?),
            (
                "info/paths.json".to_owned(),
                pretty(&json!({"paths": paths, "paths_version": 1}))?,
            ),
        ]);
        if !has_prefix.is_empty() {
            info.insert("info/has_prefix".to_owned(), has_prefix.into_bytes());
        }
        if let Some(link) = self.link() {
            info.insert("info/link.json".to_owned(), pretty(&link)?);
        }
        for (name, text) in &self.licenses {
            info.insert(format!("info/licenses/{name}"), text.clone());
        }
        Ok(info)
    }

    /// One entry of paths.json, and the file mode if the file holds the placeholder.
    fn paths_entry(&self, entry: &Entry, placeholder: &str) -> Result<(Value, Option<&'static str>)> {
        let path = self.payload.join(&entry.path);
        // conda-build describes the file behind a symbolic link, and nothing (the empty hash) where there is none.
        let content = match &entry.kind {
            EntryKind::Link(_) => fs::read(&path).unwrap_or_default(),
            EntryKind::File { .. } => fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
        };
        let is_link = matches!(entry.kind, EntryKind::Link(_));
        let mut record = json!({
            "_path": entry.path,
            "path_type": if is_link { "softlink" } else { "hardlink" },
            "sha256": hex::encode(Sha256::digest(&content)),
            "size_in_bytes": content.len(),
        });
        if is_link || memmem::find(&content, placeholder.as_bytes()).is_none() {
            return Ok((record, None));
        }
        let mode = if content.contains(&0) { "binary" } else { "text" };
        record["file_mode"] = json!(mode);
        record["prefix_placeholder"] = json!(placeholder);
        Ok((record, Some(mode)))
    }
}

/// The path that stands for the environment's prefix in the files of a package: 255 bytes, as conda-build makes it.
pub(super) fn placeholder(name: &str) -> String {
    let mut path = format!("/home/conda/feedstock_root/build_artifacts/{name}_{MTIME_S}/_h_env");
    while path.len() < PLACEHOLDER_BYTES {
        path.push_str("_placehold");
    }
    path.truncate(PLACEHOLDER_BYTES);
    path
}

/// Everything in a payload, sorted by path; directories are implied by what they hold.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn entries(payload: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut first_names: BTreeMap<u64, String> = BTreeMap::new();
    for path in files_below(payload)? {
        let relative = path
            .strip_prefix(payload)?
            .to_str()
            .with_context(|| format!("{} is not UTF-8", path.display()))?
            .to_owned();
        let metadata = fs::symlink_metadata(&path)?;
        let kind = if metadata.is_symlink() {
            EntryKind::Link(fs::read_link(&path)?.to_string_lossy().into_owned())
        } else {
            let first_link = if metadata.nlink() > 1 {
                first_names.get(&metadata.ino()).cloned()
            } else {
                None
            };
            first_names.entry(metadata.ino()).or_insert_with(|| relative.clone());
            EntryKind::File {
                executable: metadata.permissions().mode() & 0o111 != 0,
                first_link,
            }
        };
        found.push(Entry { path: relative, kind });
    }
    Ok(found)
}

/// Every file and link below a directory, sorted.
///
/// # Errors
/// When a directory cannot be read.
pub(super) fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_255_bytes_long_and_differ_between_packages() {
        assert_eq!(placeholder("python").len(), 255);
        assert_eq!(placeholder("scikit-learn").len(), 255);
        assert_ne!(placeholder("python"), placeholder("numpy"));
    }

    #[test]
    fn a_second_name_of_a_file_points_to_the_first() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        fs::write(directory.path().join("bin/a"), "x").unwrap();
        fs::hard_link(directory.path().join("bin/a"), directory.path().join("bin/b")).unwrap();
        let entries = entries(directory.path()).unwrap();
        assert!(matches!(&entries[0].kind, EntryKind::File { first_link: None, .. }));
        assert!(matches!(&entries[1].kind, EntryKind::File { first_link: Some(first), .. } if first == "bin/a"));
    }
}
