//! What conda packages provide of the Python world: distributions with a name and a version.
//!
//! Where a package's layer is in the store, its own `METADATA` or `PKG-INFO` says it. Before that, its record does: the
//! `purls` that some channels and lock files give, or else the package's name, if it depends on Python. The few packages of
//! conda-forge that are called otherwise than on PyPI stand in a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::layer::{EntryKind, FileEntry, Layer};
use envfs_store::store::ObjectBytes;
use envfs_store::view::View;
use pep440_rs::Version;

use super::InheritedBase;
use crate::installed::{self, MAX_METADATA_BYTES};
use crate::package::LockedPackage;
use crate::pypi::normalized_name;

/// A distribution that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Provided {
    pub(super) name: String,
    version: String,
    /// The conda package it comes from; none: a wheel of the base, or what somebody installed there.
    pub(super) package: Option<String>,
    /// Lines of its metadata about extras: their names, and what they need.
    extras: Vec<String>,
}

/// Conda packages that are called otherwise than the distribution they hold.
const OTHER_NAMES: [(&str, &str); 17] = [
    ("brotli-python", "brotli"),
    ("dask-core", "dask"),
    ("matplotlib-base", "matplotlib"),
    ("msgpack-python", "msgpack"),
    ("py-opencv", "opencv-python"),
    ("py-xgboost", "xgboost"),
    ("pyarrow-core", "pyarrow"),
    ("pytables", "tables"),
    ("python-build", "build"),
    ("python-fastjsonschema", "fastjsonschema"),
    ("python-flatbuffers", "flatbuffers"),
    ("python-graphviz", "graphviz"),
    ("python-tzdata", "tzdata"),
    ("python-xxhash", "xxhash"),
    ("pytorch", "torch"),
    ("seaborn-base", "seaborn"),
    ("tensorflow-base", "tensorflow"),
];

/// What is there before anything is added: what a base shows, and what the other conda packages provide.
///
/// # Errors
/// A layer of the store, or the base, is damaged.
pub(super) fn all(
    packages: &[LockedPackage],
    base: Option<InheritedBase<'_>>,
    store: Option<&Store>,
) -> envfs_store::Result<Vec<Provided>> {
    let Some(base) = base else {
        return by_packages(packages, store);
    };
    let is_inherited = |package: &LockedPackage| base.packages.iter().any(|other| other.url() == package.url());
    let added: Vec<_> = packages
        .iter()
        .filter(|package| !is_inherited(package))
        .cloned()
        .collect();
    let known = by_packages(base.packages, store)?;
    let mut provided = by_view(base.view, &known)?;
    for one in by_packages(&added, store)? {
        provided.retain(|provided| provided.name != one.name);
        provided.push(one);
    }
    Ok(provided)
}

/// What the metadata in an environment says, whoever put it there. What is known of it already says where it came from.
fn by_view(view: &View, known: &[Provided]) -> envfs_store::Result<Vec<Provided>> {
    let mut provided = Vec::new();
    for directory in installed::dist_infos(view)? {
        let Some(text) = installed::read(view, directory, "METADATA")? else {
            continue;
        };
        provided.extend(of_metadata(&text, None).map(|found| {
            let same = known
                .iter()
                .find(|known| known.name == found.name && known.version == found.version);
            same.cloned().unwrap_or(found)
        }));
    }
    Ok(provided)
}

/// What the packages provide, by name.
///
/// # Errors
/// A layer of the store is damaged.
fn by_packages(packages: &[LockedPackage], store: Option<&Store>) -> envfs_store::Result<Vec<Provided>> {
    let mut provided = BTreeMap::new();
    for package in packages {
        let layer = match (store, package.sha256()) {
            (Some(store), Some(sha256)) => store.layer(&Sha256::from_bytes(sha256))?.map(|layer| (store, layer)),
            _ => None,
        };
        let found = match layer {
            Some((store, layer)) => by_layer(store, &layer, package)?,
            None => by_record(package),
        };
        for one in found {
            // A package that holds a distribution knows it better than one that is only called so.
            provided.entry(one.name.clone()).or_insert(one);
        }
    }
    Ok(provided.into_values().collect())
}

/// Writes a wheel for each: metadata that says name and version, and nothing else.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn write_stubs(directory: &Path, provided: &[Provided]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    provided.iter().try_for_each(|provided| provided.write_stub(directory))
}

impl Provided {
    /// The line that fixes it.
    pub(super) fn constraint(&self) -> String {
        format!("{}=={}\n", self.name, self.version)
    }

    fn write_stub(&self, directory: &Path) -> io::Result<()> {
        // In a file name a dash separates (PEP 427).
        let stem = format!("{}-{}", self.name.replace('-', "_"), self.version.replace('-', "_"));
        let mut metadata = format!(
            "Metadata-Version: 2.1\nName: {}\nVersion: {}\n",
            self.name, self.version
        );
        for line in &self.extras {
            let _ = writeln!(metadata, "{line}");
        }
        let wheel = "Wheel-Version: 1.0\nGenerator: envfs\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        let mut archive = zip::ZipWriter::new(fs::File::create(directory.join(format!("{stem}-py3-none-any.whl")))?);
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, text) in [("METADATA", metadata.as_str()), ("WHEEL", wheel), ("RECORD", "")] {
            archive.start_file(format!("{stem}.dist-info/{name}"), stored)?;
            archive.write_all(text.as_bytes())?;
        }
        archive.finish()?;
        Ok(())
    }
}

/// By what the record says, without the package.
fn by_record(package: &LockedPackage) -> Vec<Provided> {
    let of = |name: &str, version: &str| Provided::new(name, version, Some(package), Vec::new());
    let purls = package.record().package_record.purls.as_ref();
    if let Some(purls) = purls.filter(|purls| !purls.is_empty()) {
        let texts = purls.iter().map(ToString::to_string);
        let names = texts.filter_map(|text| {
            let name = text.strip_prefix("pkg:pypi/")?;
            Some(name.split(['@', '?', '#']).next().unwrap_or(name).to_owned())
        });
        return names.filter_map(|name| of(&name, &package.version())).collect();
    }
    let needs_python = package
        .depends()
        .iter()
        .any(|depend| matches!(depend.split([' ', '=', '<', '>']).next(), Some("python" | "python_abi")));
    if !needs_python {
        return Vec::new();
    }
    let other = OTHER_NAMES.iter().find(|(conda, _)| *conda == package.name());
    let name = other.map_or(package.name(), |(_, name)| *name);
    of(name, &package.version()).into_iter().collect()
}

/// By the metadata among the files of the package.
fn by_layer(store: &Store, layer: &Layer, package: &LockedPackage) -> envfs_store::Result<Vec<Provided>> {
    let mut provided = Vec::new();
    for entry in &layer.entries {
        let Some(file) = std::str::from_utf8(entry.path.as_bytes())
            .ok()
            .filter(|path| is_metadata(path))
        else {
            continue;
        };
        let EntryKind::File(bytes) = &entry.kind else { continue };
        if bytes.size_bytes > MAX_METADATA_BYTES {
            continue;
        }
        let text = read(store, bytes)?;
        let Some(found) = of_metadata(&text, Some(package)) else {
            tracing::debug!(package = package.name(), file, "metadata without a name or a version");
            continue;
        };
        provided.push(found);
    }
    Ok(provided)
}

/// `[lib/python3.12/]site-packages/x.dist-info/METADATA`, `x.egg-info/PKG-INFO` or `x.egg-info`, and nothing vendored below.
fn is_metadata(path: &str) -> bool {
    let Some(inside) = path.strip_prefix("site-packages/").or_else(|| {
        let (before, inside) = path.split_once("/site-packages/")?;
        before.strip_prefix("lib/python")?;
        Some(inside)
    }) else {
        return false;
    };
    match inside.split_once('/') {
        Some((directory, "METADATA")) => directory.ends_with(".dist-info"),
        Some((directory, "PKG-INFO")) => directory.ends_with(".egg-info"),
        Some(_) => false,
        None => inside.ends_with(".egg-info"),
    }
}

fn read(store: &Store, file: &FileEntry) -> envfs_store::Result<String> {
    let location = store.require(&file.digest)?;
    let bytes = match store.open_object(&file.digest, file.size_bytes, location)? {
        ObjectBytes::Small(bytes) => bytes,
        ObjectBytes::Whole(file) => {
            let mut bytes = Vec::new();
            // What cannot be read now is no metadata; whoever mounts it will be told.
            let _ = file.take(MAX_METADATA_BYTES).read_to_end(&mut bytes);
            bytes
        }
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn of_metadata(text: &str, package: Option<&LockedPackage>) -> Option<Provided> {
    let headers = || text.lines().take_while(|line| !line.trim().is_empty());
    let field = |name: &str| headers().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()));
    let is_of_extra = |line: &&str| {
        line.starts_with("Provides-Extra:") || (line.starts_with("Requires-Dist:") && line.contains("extra"))
    };
    let extras = headers().filter(is_of_extra).map(str::to_owned).collect();
    Provided::new(field("Name")?, field("Version")?, package, extras)
}

impl Provided {
    /// None if the version is not one of PEP 440: nothing can be compared with it.
    fn new(name: &str, version: &str, package: Option<&LockedPackage>, extras: Vec<String>) -> Option<Self> {
        let version: Version = version.parse().ok()?;
        Some(Self {
            name: normalized_name(name),
            version: version.to_string(),
            package: package.map(ToString::to_string),
            extras,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(file_name: &str) -> LockedPackage {
        let url = format!("https://host/channel/noarch/{file_name}.conda")
            .parse()
            .unwrap();
        LockedPackage::from_archive_url(&url, None, None).unwrap()
    }

    #[test]
    fn metadata_is_found_but_not_what_is_vendored() {
        assert!(is_metadata("site-packages/tqdm-4.66.dist-info/METADATA"));
        assert!(is_metadata("lib/python3.12/site-packages/numpy-2.1.dist-info/METADATA"));
        assert!(is_metadata("lib/python3.7/site-packages/x.egg-info"));
        assert!(is_metadata("lib/python3.7/site-packages/x.egg-info/PKG-INFO"));
        assert!(!is_metadata(
            "site-packages/setuptools/_vendor/wheel-0.4.dist-info/METADATA"
        ));
        assert!(!is_metadata("share/site-packages/x.dist-info/METADATA"));
        assert!(!is_metadata("site-packages/x.dist-info/RECORD"));
    }

    #[test]
    fn a_distribution_keeps_what_its_extras_need() {
        let text = "Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0\nProvides-Extra: x\n\
                    Requires-Dist: a\nRequires-Dist: b ; extra == 'x'\n\nName: body\n";
        let provided = of_metadata(text, Some(&package("foo-1.0-0"))).unwrap();
        assert_eq!((provided.name.as_str(), provided.version.as_str()), ("foo-bar", "1.0"));
        assert_eq!(
            provided.extras,
            ["Provides-Extra: x", "Requires-Dist: b ; extra == 'x'"]
        );
        assert_eq!(of_metadata("Name: x\n", None), None);
    }

    #[test]
    fn a_record_that_says_nothing_provides_nothing() {
        assert_eq!(by_record(&package("zlib-1.3-0")), []);
    }
}
