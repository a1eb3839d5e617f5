//! Stores that older versions wrote can be read, and this version writes the very same bytes.
//!
//! `tests/v1` is a store that the first version wrote, `tests/v2` one with sealed records. They are never written again: when a
//! format changes, its version changes, and another store is put beside them.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use envfs_store::Store;
use envfs_store::digest::{Digest, Sha256};
use envfs_store::environment::{self, Environment, Package, PackageKind};
use envfs_store::ingest::{Ingest, Written};
use envfs_store::layer::{Entry, EntryKind, FileEntry, Layer};
use envfs_store::path::EnvPath;
use envfs_store::placeholder::{CString, Encoding, Occurrences, Placeholder, TextOccurrence};
use envfs_store::tree::merge::{Leaf, Merge};
use envfs_store::view::View;
use envfs_store::workspace::Workspace;

const TEXT: &[u8] = b"#!/old/bin/sh\necho /old/share\n";
const BINARY: &[u8] = b"ELF\0/old/lib\0end";
const MTIME_S: i64 = 1_700_000_000;

fn text_placeholder() -> Placeholder {
    Placeholder {
        prefix: "/old".into(),
        occurrences: Occurrences::Text {
            shebang: TEXT[..14].to_vec(),
            occurrences: vec![TextOccurrence {
                offset_bytes: 19,
                encoding: Encoding::Utf8,
            }],
        },
    }
}

fn binary_placeholder() -> Placeholder {
    Placeholder {
        prefix: "/old".into(),
        occurrences: Occurrences::Binary {
            strings: vec![CString {
                encoding: Encoding::Utf8,
                offsets_bytes: vec![4],
                end_bytes: 12,
            }],
        },
    }
}

/// Writes one of everything.
fn write(root: &Path) {
    let store = Store::open(root).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let mut ingest = Ingest::new(&store, &workspace).unwrap();
    let text = ingest.add_bytes(TEXT).unwrap();
    let binary = ingest.add_bytes(BINARY).unwrap();
    ingest.publish().unwrap();
    let archive = Sha256::from_bytes([0xA5; 32]);
    let entry = |path: &str, stored: envfs_store::ingest::Stored, placeholder| Entry {
        path: EnvPath::parse(path).unwrap(),
        mtime_s: MTIME_S,
        kind: EntryKind::File(FileEntry {
            digest: stored.digest,
            sha256: Some(stored.sha256),
            size_bytes: stored.size_bytes,
            executable: true,
            placeholder: Some(placeholder),
        }),
    };
    let layer = Layer {
        archive,
        info: BTreeMap::from([("index.json".to_owned(), b"{}".to_vec())]),
        patched_mtime_s: MTIME_S + 1,
        entries: vec![
            entry("bin/tool", text, text_placeholder()),
            entry("lib/tool.so", binary, binary_placeholder()),
            Entry {
                path: EnvPath::parse("link").unwrap(),
                mtime_s: MTIME_S,
                kind: EntryKind::Symlink(b"bin/tool".to_vec()),
            },
        ],
    };
    layer.publish(&store, &workspace).unwrap();
    let base = merged(&layer, &[]).write(&store, &workspace, None).unwrap();
    let base_tree = store.tree(&base.digest).unwrap();
    let thin = merged(&layer, &["more"])
        .write(&store, &workspace, Some((base.digest, &base_tree)))
        .unwrap();
    let mut environment = Environment::new(Digest::of(b"base"), "linux-64".into(), base.digest);
    environment.created_unix_s = 1_700_000_000;
    environment.packages.push(Package {
        kind: PackageKind::Conda,
        name: "tool".into(),
        version: "1".into(),
        build: "0".into(),
        subdir: "linux-64".into(),
        url: "file:///channel/linux-64/tool-1-0.conda".into(),
        sha256: archive,
        size_bytes: 5,
    });
    environment.publish(&store, &workspace).unwrap();
    let mut inheriting = Environment::new(Digest::of(b"thin"), "linux-64".into(), thin.digest);
    inheriting.created_unix_s = 1_700_000_000;
    inheriting.base = Some(environment.signature);
    inheriting.variables.insert("GREETING".into(), "hello".into());
    inheriting.added = Written {
        objects: 1,
        bytes: 2,
        inodes: 3,
    };
    inheriting.publish(&store, &workspace).unwrap();
}

fn merged(layer: &Layer, more: &[&str]) -> Merge {
    let mut merge = Merge::new();
    let package = merge.package("tool-1-0");
    for entry in &layer.entries {
        let leaf = match &entry.kind {
            EntryKind::File(file) => Leaf::File {
                digest: file.digest,
                size_bytes: file.size_bytes,
                mtime_s: entry.mtime_s,
                executable: file.executable,
                placeholder: file.placeholder.clone(),
            },
            EntryKind::Symlink(target) => Leaf::Symlink {
                target: target.clone(),
                mtime_s: entry.mtime_s,
            },
            EntryKind::Directory => continue,
        };
        merge.add(Some(package), &entry.path, leaf);
    }
    for path in more {
        let leaf = Leaf::Symlink {
            target: b"link".to_vec(),
            mtime_s: MTIME_S,
        };
        merge.add(None, &EnvPath::parse(path).unwrap(), leaf);
    }
    merge
}

fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path != root.join("lock")
                && ["cache", "ballast"]
                    .iter()
                    .all(|part| !path.starts_with(root.join(part)))
            {
                // What is locked, only of this boot, or there for its room carries no truth.
                files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn pinned(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(version)
}

#[test]
fn this_version_writes_what_the_second_one_wrote() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path());
    let (new, old) = (files(directory.path()), files(&pinned("v2")));
    assert_eq!(new.keys().collect::<Vec<_>>(), old.keys().collect::<Vec<_>>());
    for (path, bytes) in new {
        assert_eq!(bytes, old[&path], "{}", path.display());
    }
}

#[test]
fn what_earlier_versions_wrote_is_read() {
    for version in ["v1", "v2"] {
        assert_read(version);
    }
}

fn assert_read(version: &str) {
    // A copy, because opening a store may lock files in it.
    let directory = tempfile::tempdir().unwrap();
    for (path, bytes) in files(&pinned(version)) {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let store = Store::open(directory.path()).unwrap();
    let checked = store.verify().unwrap();
    assert!(checked.count >= 6);
    assert_eq!(checked.findings, []);
    let thin = environment::load(&store, &Digest::of(b"thin")).unwrap();
    assert_eq!(thin.all_packages(&store).unwrap()[0].dist_name(), "tool-1-0");
    assert_eq!(thin.variables["GREETING"], "hello");
    let view = View::new(&store, Arc::new(store.tree(&thin.tree).unwrap()), Path::new("/n")).unwrap();
    let read = |path: &str| view.read(view.tree().find(path.as_bytes()).unwrap().unwrap()).unwrap();
    assert_eq!(read("bin/tool"), b"#!/n/bin/sh\necho /n/share\n");
    assert_eq!(read("lib/tool.so"), b"ELF\0/n/lib\0\0\0end");
    let more = view.tree().find(b"more").unwrap().unwrap();
    assert_eq!(more.symlink_target().unwrap(), b"link");
    assert!(store.layer(&Sha256::from_bytes([0xA5; 32])).unwrap().is_some());
}
