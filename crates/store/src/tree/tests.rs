//! Trees keep what was merged, thin ones stand on their base, and no bytes make a reader panic.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::merge::{Leaf, Merge};
use super::*;
use crate::Store;
use crate::ingest::Ingest;
use crate::path::EnvPath;
use crate::view::View;
use crate::workspace::Workspace;

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    workspace: Workspace,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let workspace = Workspace::create(&store).unwrap();
        Self {
            _directory: directory,
            store,
            workspace,
        }
    }

    /// Merges packages, each a list of paths whose content is the package's name and the path.
    fn merge(&self, packages: &[(&str, &[&str])]) -> Merge {
        let mut ingest = Ingest::new(&self.store, &self.workspace).unwrap();
        let mut merge = Merge::new();
        for (name, paths) in packages {
            let package = merge.package(name);
            for path in *paths {
                let path_in_env = EnvPath::parse(path.trim_end_matches('/')).unwrap();
                if path.ends_with('/') {
                    merge.add_directory(Some(package), &path_in_env);
                    continue;
                }
                let stored = ingest.add_bytes(format!("{name}:{path}").as_bytes()).unwrap();
                let leaf = Leaf::File {
                    digest: stored.digest,
                    size_bytes: stored.size_bytes,
                    mtime_s: 1_000_000_000,
                    executable: path.starts_with("bin/"),
                    placeholder: None,
                };
                merge.add(Some(package), &path_in_env, leaf);
            }
        }
        ingest.publish().unwrap();
        merge
    }

    fn tree(&self, merge: Merge, base: Option<(Digest, &Tree)>) -> (WrittenTree, Tree) {
        let written = merge.write(&self.store, &self.workspace, base).unwrap();
        (written, self.store.tree(&written.digest).unwrap())
    }

    /// Every path with its content (directories: none).
    fn contents(&self, tree: Tree) -> BTreeMap<String, Option<String>> {
        let view = View::new(&self.store, Arc::new(tree), Path::new("/envs/x")).unwrap();
        let tree = view.tree();
        let mut contents = BTreeMap::new();
        let mut pending = vec![tree.root().unwrap()];
        while let Some(directory) = pending.pop() {
            for child in tree.children(directory, 0).unwrap() {
                let child = child.unwrap();
                assert_eq!(tree.parent(child).unwrap().id(), directory.id());
                let path = String::from_utf8(tree.path(child).unwrap()).unwrap();
                let content = match child.kind().unwrap() {
                    NodeKind::Directory => {
                        pending.push(child);
                        None
                    }
                    _ => Some(String::from_utf8(view.read(child).unwrap()).unwrap()),
                };
                contents.insert(path, content);
            }
        }
        tree.verify().unwrap();
        contents
    }
}

fn expected(entries: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
    let mut contents = BTreeMap::new();
    for (path, package) in entries {
        for (slash, _) in path.match_indices('/') {
            contents.entry(path[..slash].to_owned()).or_insert(None);
        }
        let is_directory = package.is_empty();
        contents.insert((*path).to_owned(), (!is_directory).then(|| format!("{package}:{path}")));
    }
    contents
}

#[test]
fn the_later_package_wins() {
    let fixture = Fixture::new();
    let merge = fixture.merge(&[
        ("a", &["f", "d/one", "d/two", "x", "e/"]),
        ("b", &["f", "d", "x/y"]),
        ("c", &["d/three"]),
    ]);
    let clashes: Vec<_> = merge
        .clashes()
        .iter()
        .map(|clash| (&*clash.path, &*clash.winner, &*clash.loser))
        .collect();
    assert_eq!(
        clashes,
        [("f", "b", "a"), ("d", "b", "a"), ("x", "b", "a"), ("d", "c", "b")]
    );
    let (_, tree) = fixture.tree(merge, None);
    assert_eq!(
        fixture.contents(tree),
        expected(&[("f", "b"), ("d/three", "c"), ("x/y", "b"), ("e", "")])
    );
}

#[test]
fn a_thin_tree_holds_only_what_differs() {
    let fixture = Fixture::new();
    let base_packages: [(&str, &[&str]); 2] = [("a", &["bin/a", "lib/a/1", "lib/a/2", "share/x"]), ("b", &["lib/b/1"])];
    let (base, base_tree) = fixture.tree(fixture.merge(&base_packages), None);
    let more: (&str, &[&str]) = ("c", &["lib/c/1", "lib/a/3"]);
    let all = [base_packages[0], base_packages[1], more];

    let (thin, thin_tree) = fixture.tree(fixture.merge(&all), Some((base.digest, &base_tree)));
    assert_eq!(thin.base, Some(base.digest));
    // The root, lib, lib/a, lib/c and two files.
    assert_eq!(thin.own_nodes, 6);
    assert_eq!(thin_tree.packages().unwrap(), ["c"]);
    let (_, flat_tree) = fixture.tree(fixture.merge(&all), None);
    assert_eq!(fixture.contents(thin_tree), fixture.contents(flat_tree));

    // On a thin base, the new tree stands on the flat one.
    let (_, thin_tree) = fixture.tree(fixture.merge(&all), Some((base.digest, &base_tree)));
    let more: (&str, &[&str]) = ("d", &["bin/d"]);
    let deeper = [base_packages[0], base_packages[1], all[2], more];
    let (second, second_tree) = fixture.tree(fixture.merge(&deeper), Some((thin.digest, &thin_tree)));
    assert_eq!(second.base, Some(base.digest));
    let (_, flat_tree) = fixture.tree(fixture.merge(&deeper), None);
    assert_eq!(fixture.contents(second_tree), fixture.contents(flat_tree));

    // Nothing new: the base itself. Nothing shared: no base.
    let (same, _) = fixture.tree(fixture.merge(&base_packages), Some((base.digest, &base_tree)));
    assert_eq!((same.digest, same.new_bytes), (base.digest, 0));
    let (other, _) = fixture.tree(fixture.merge(&[("z", &["z"])]), Some((base.digest, &base_tree)));
    assert_eq!(other.base, None);
}

#[test]
fn objects_that_another_process_brings_are_found() {
    let fixture = Fixture::new();
    // This handle has looked at the packs before the other one adds to them.
    assert!(fixture.store.locate(&Digest::of(b"a-1-0:x")).unwrap().is_none());
    fixture.merge(&[("z", &["z"])]);
    let other = Fixture {
        _directory: tempfile::tempdir().unwrap(),
        store: Store::open(fixture.store.root()).unwrap(),
        workspace: Workspace::create(&fixture.store).unwrap(),
    };
    let merge = other.merge(&[("a-1-0", &["x"])]);
    let (_, tree) = fixture.tree(merge, None);
    assert_eq!(fixture.contents(tree), expected(&[("x", "a-1-0")]));
}

#[test]
fn a_path_that_is_too_long_names_the_file_that_limits_it() {
    use crate::placeholder::{CString, Encoding, Occurrences};
    let fixture = Fixture::new();
    let mut merge = fixture.merge(&[("tool-1-0", &["bin/tool"])]);
    let package = merge.package("old-1-0");
    let leaf = Leaf::File {
        digest: Digest::of(b"tool-1-0:bin/tool"),
        size_bytes: 17,
        mtime_s: 0,
        executable: true,
        placeholder: Some(Placeholder {
            prefix: "/opt/place".into(),
            occurrences: Occurrences::Binary {
                strings: vec![CString {
                    encoding: Encoding::Utf8,
                    offsets_bytes: vec![0],
                    end_bytes: 17,
                }],
            },
        }),
    };
    merge.add(Some(package), &EnvPath::parse("lib/old.so").unwrap(), leaf);
    let (_, tree) = fixture.tree(merge, None);
    let tree = Arc::new(tree);
    View::new(&fixture.store, Arc::clone(&tree), Path::new("/opt/x2345")).unwrap();
    let error = View::new(&fixture.store, tree, Path::new("/opt/x23456"))
        .unwrap_err()
        .to_string();
    for part in ["/opt/x23456", "11 bytes", "`lib/old.so`", "old-1-0", "room for 10"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let fixture = Fixture::new();
    let (written, _) = fixture.tree(fixture.merge(&[("a", &["bin/a", "lib/a/1", "x"])]), None);
    let bytes = std::fs::read(fixture.store.tree_path(&written.digest)).unwrap();
    let path = fixture.workspace.path().join("changed");
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7F, 0xFF] {
            let mut changed = bytes.clone();
            changed[at] = value;
            std::fs::write(&path, &changed).unwrap();
            if let Ok(tree) = Tree::open(&path, |_| path.clone()) {
                let _ = tree.verify();
                let _ = tree.find(b"lib/a/1").map(|node| node.map(|node| tree.path(node)));
            }
        }
    }
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        if let Ok(tree) = Tree::open(&path, |_| path.clone()) {
            let _ = tree.verify();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The merged tree is what writing the packages one after the other into a directory would leave.
    #[test]
    fn merging_is_writing_one_after_the_other(
        packages in prop::collection::vec(prop::collection::vec("[ab](/[ab]){0,2}", 1..6), 1..5),
    ) {
        let fixture = Fixture::new();
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        let names: Vec<String> = (0..packages.len()).map(|n| format!("p{n}")).collect();
        let mut input: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, paths) in names.iter().zip(&packages) {
            for path in paths {
                model.retain(|old, _| {
                    !old.starts_with(&format!("{path}/")) && !path.starts_with(&format!("{old}/"))
                });
                model.insert(path.clone(), format!("{name}:{path}"));
            }
            input.push((name, paths.iter().map(String::as_str).collect()));
        }
        let input: Vec<(&str, &[&str])> = input.iter().map(|(name, paths)| (*name, &paths[..])).collect();
        let (_, tree) = fixture.tree(fixture.merge(&input), None);
        let files: BTreeMap<String, String> =
            fixture.contents(tree).into_iter().filter_map(|(path, content)| Some((path, content?))).collect();
        prop_assert_eq!(files, model);
    }
}
