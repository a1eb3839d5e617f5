//! What another installer recorded of the same packages, on another machine: every `sha256_in_prefix` is reproduced.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use envfs_store::environment;
use envfs_store::tree::{Node, NodeKind};
use envfs_store::view::View;
use envfs_tests::data::{RealChannel, shared};
use envfs_tests::program::Envfs;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Where the channel's python is not the one of the records (see its README): binaries of another build, the links to them,
/// and no bytecode.
const REPLACED: [&str; 4] = [
    "bin/python",
    "lib/libpython3.12.so",
    "lib/python3.12/lib-dynload/",
    "/__pycache__/",
];

/// How often symlinks may follow each other.
const MAX_LINKS: usize = 40;

#[test]
fn every_recorded_digest_is_reproduced() {
    let (Some(channel), Some(archive)) = (
        RealChannel::miniforge(),
        shared("oracle/conda-forge-py312.conda-meta.tar.zst"),
    ) else {
        return;
    };
    let records = records(&archive);
    assert_eq!(records.len(), 84);
    let envfs = Envfs::new();
    let mut arguments = vec!["build".to_owned()];
    arguments.extend(channel.build_arguments(&[]));
    let signature = envfs.run(&arguments).trim().parse().unwrap();
    let store = envfs.store();
    let tree = store
        .tree(&environment::load(&store, &signature).unwrap().tree)
        .unwrap();
    let view = View::new(&store, Arc::new(tree), &prefix_of(&records)).unwrap();

    let (mut checked, mut patched, mut links, mut replaced) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for (name, record) in &records {
        for entry in record["paths_data"]["paths"].as_array().unwrap() {
            let Some(expected) = entry["sha256_in_prefix"].as_str() else {
                continue;
            };
            let path = entry["_path"].as_str().unwrap();
            let is_replaced = name.starts_with("python-3.12.8-") && REPLACED.iter().any(|part| path.contains(part));
            let Some(node) = resolve(&view, path) else {
                assert!(is_replaced && path.ends_with(".pyc"), "{name}: {path} is not there");
                replaced += 1;
                continue;
            };
            // The digest of a symlink to a directory is that of nothing.
            let content = if node.kind().unwrap() == NodeKind::File {
                view.read(node).unwrap()
            } else {
                Vec::new()
            };
            let actual = hex::encode(Sha256::digest(content));
            if actual != expected && is_replaced {
                replaced += 1;
                continue;
            }
            if actual != expected {
                wrong.push(format!(
                    "{name}: {path} ({}) has {actual}, not {expected}",
                    entry["path_type"]
                ));
            }
            checked += 1;
            links += usize::from(entry["path_type"] == "softlink");
            patched += usize::from(entry["sha256"].as_str().is_some_and(|original| original != expected));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {checked} are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    // So that none of it passes because it was not looked at.
    assert!(
        checked > 9_000 && patched > 250 && links > 1_200,
        "{checked} files, {patched} patched, {links} links"
    );
    assert!(replaced < 900, "{replaced} files are passed over");
}

/// The records, by the names of their files.
fn records(archive: &Path) -> BTreeMap<String, Value> {
    let decoder = zstd::stream::read::Decoder::new(std::fs::File::open(archive).unwrap()).unwrap();
    let mut tar = tar::Archive::new(decoder);
    let mut records = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            records.insert(name, serde_json::from_reader(entry).unwrap());
        }
    }
    records
}

/// The prefix that was used: packages were extracted below it.
fn prefix_of(records: &BTreeMap<String, Value>) -> PathBuf {
    let mut prefixes: Vec<PathBuf> = records
        .values()
        .map(|record| {
            let extracted = Path::new(record["extracted_package_dir"].as_str().unwrap());
            assert_eq!(extracted.parent().unwrap().file_name().unwrap(), "pkgs");
            extracted.parent().unwrap().parent().unwrap().to_owned()
        })
        .collect();
    prefixes.dedup();
    assert_eq!(prefixes.len(), 1);
    prefixes.remove(0)
}

/// What is at `path`, behind all symlinks.
fn resolve<'a>(view: &'a View, path: &str) -> Option<Node<'a>> {
    let mut path = PathBuf::from(path);
    for _ in 0..MAX_LINKS {
        let node = view.tree().find(path.as_os_str().as_encoded_bytes()).unwrap()?;
        if node.kind().unwrap() != NodeKind::Symlink {
            return Some(node);
        }
        let target = String::from_utf8(node.symlink_target().unwrap().to_vec()).unwrap();
        path = normal(&path.parent().unwrap().join(target));
    }
    panic!("{} is a loop", path.display())
}

fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(normal.pop(), "{} leaves the prefix", path.display()),
            other => normal.push(other),
        }
    }
    normal
}
