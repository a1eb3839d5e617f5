//! Small packages and environments, for the tests of rooms that need whole ones.

use std::collections::BTreeMap;

use crate::digest::{Digest, Sha256};
use crate::environment::{self, Environment, Package, PackageKind};
use crate::error::Result;
use crate::ingest::Ingest;
use crate::layer::{Entry, EntryKind, FileEntry, Layer};
use crate::path::EnvPath;
use crate::store::Store;
use crate::tree::merge::{Leaf, Merge};
use crate::workspace::Workspace;

/// From here on most of the small files of packages whose numbers are alike are the same.
pub(crate) const ALIKE_FROM: u32 = 500;

/// A package: small files and a large one, some of them the same in packages whose numbers are alike.
pub(crate) fn files_of(package: u32) -> Vec<(String, Vec<u8>)> {
    let (same, words) = if package < ALIKE_FROM { (5, 40) } else { (15, 400) };
    let mut files: Vec<_> = (0..20)
        .map(|file| {
            let shared = if file < same { package / 2 } else { package + 1000 };
            (
                format!("lib/p{package}/f{file}"),
                format!("{shared} {file} ").repeat(words).into_bytes(),
            )
        })
        .collect();
    files.push((
        format!("lib/p{package}/large"),
        format!("{:08}", package / 2).repeat(20_000).into_bytes(),
    ));
    files
}

/// Brings a package as a build does it: what is there is used.
pub(crate) fn bring(store: &Store, workspace: &Workspace, package: u32) -> Result<Layer> {
    let archive = Sha256::from_bytes(*Digest::of(&package.to_le_bytes()).as_bytes());
    let _making = store.reserve(&format!("layer-{archive}"))?;
    if let Some(layer) = store.layer(&archive)? {
        return Ok(layer);
    }
    let mut ingest = Ingest::new(store, workspace)?;
    let mut entries = Vec::new();
    for (path, bytes) in files_of(package) {
        let stored = ingest.add_bytes(&bytes)?;
        entries.push(Entry {
            path: EnvPath::parse(path.as_bytes()).unwrap(),
            mtime_s: 1_700_000_000,
            kind: EntryKind::File(FileEntry {
                digest: stored.digest,
                sha256: None,
                size_bytes: stored.size_bytes,
                executable: false,
                placeholder: None,
            }),
        });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    ingest.publish()?;
    let layer = Layer {
        archive,
        info: BTreeMap::new(),
        patched_mtime_s: 0,
        entries,
    };
    layer.publish(store, workspace)?;
    Ok(layer)
}

/// What an environment of these packages is called.
pub(crate) fn signature_of(packages: &[u32]) -> Digest {
    Digest::of(format!("{packages:?}").as_bytes())
}

/// Builds an environment of packages, which inherits from another that is there.
pub(crate) fn build(store: &Store, packages: &[u32], base: Option<&Environment>) -> Result<Environment> {
    let signature = signature_of(packages);
    if let Some(found) = environment::get(store, &signature)? {
        return Ok(found);
    }
    let workspace = Workspace::create(store)?;
    let layers = packages
        .iter()
        .map(|package| bring(store, &workspace, *package))
        .collect::<Result<Vec<_>>>()?;
    let base_tree = base.map(|base| store.tree(&base.tree)).transpose()?;
    let mut merge = match &base_tree {
        Some(tree) => Merge::from_tree(tree)?,
        None => Merge::new(),
    };
    let mut record = Environment::new(signature, "linux-64".into(), Digest::of(b""));
    for (package, layer) in packages.iter().zip(&layers) {
        let owner = merge.package(&format!("p{package}-1-0"));
        for entry in &layer.entries {
            if let EntryKind::File(file) = &entry.kind {
                let leaf = Leaf::File {
                    digest: file.digest,
                    size_bytes: file.size_bytes,
                    mtime_s: entry.mtime_s,
                    executable: false,
                    placeholder: None,
                };
                merge.add(Some(owner), &entry.path, leaf);
            }
        }
        record.packages.push(Package {
            kind: PackageKind::Conda,
            name: format!("p{package}"),
            version: "1".into(),
            build: "0".into(),
            subdir: "linux-64".into(),
            url: "file:///p".into(),
            sha256: layer.archive,
            size_bytes: 1,
        });
    }
    let pair = base.zip(base_tree.as_ref()).map(|(base, tree)| (base.tree, tree));
    record.tree = merge.write(store, &workspace, pair)?.digest;
    record.base = base.map(|base| base.signature);
    record.publish(store, &workspace)?;
    Ok(record)
}
