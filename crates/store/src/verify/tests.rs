//! Every kind of file damaged in every way: all of it is found, what can be had somewhere comes back byte by byte, and what
//! cannot is named.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::*;
use crate::answers::Answer;
use crate::environment::{self, Environment};
use crate::examples::{bring, build, files_of, signature_of};
use crate::ingest::Ingest;
use crate::linked::{self, LinkedRecord};
use crate::links::{Link, Links};
use crate::names::{Author, Names};
use crate::path::EnvPath;
use crate::roots::{Pin, Roots};
use crate::trace::Trace;
use crate::tree::merge::{Leaf, Merge};
use crate::view::View;
use crate::workspace::Workspace;

/// The variable that asks for more ways to damage each file.
const MORE_VARIABLE: &str = "ENVFS_TEST_MORE_DAMAGE";

/// Packages of the environments; the second inherits from the first.
const ENVIRONMENTS: [&[u32]; 3] = [&[0, 1], &[0, 1, 2], &[4]];

/// A store with one of everything.
fn sample(root: &Path) -> Store {
    let store = Store::open(root).unwrap();
    let first = build(&store, ENVIRONMENTS[0], None).unwrap();
    let heir = build(&store, ENVIRONMENTS[1], Some(&first)).unwrap();
    let other = build(&store, ENVIRONMENTS[2], None).unwrap();
    let names = Names::of(&store);
    for (name, signature) in [("team/a", heir.signature), ("b", first.signature)] {
        names
            .set(&name.parse().unwrap(), &signature, &Author::default(), None)
            .unwrap();
    }
    let roots = Roots::of(&store);
    for signature in [other.signature, heir.signature] {
        let pin = Pin {
            until_unix_s: None,
            reason: None,
            by: "me".into(),
            at_unix_s: 1,
        };
        roots.pin(&signature, pin).unwrap();
    }
    for owner in ["one", "two"] {
        roots
            .add(&owner.parse().unwrap(), &[first.signature, other.signature], 1)
            .unwrap();
    }
    for path in ["/x", "/y"] {
        let link = Link::new("b".parse().unwrap(), path.into(), "here".into());
        Links::of(&store).add(&link).unwrap();
    }
    for question in ["q", "r"] {
        let answer = Answer::new(first.signature, Some(question.repeat(300)), None);
        answer.keep(&store, &Digest::of(question.as_bytes())).unwrap();
    }
    Trace::default().save(&store, &first.tree).unwrap();
    let wheel = root.join("tmp/x.whl");
    fs::write(&wheel, "a wheel").unwrap();
    let workspace = Workspace::create(&store).unwrap();
    for question in ["v", "w"] {
        crate::built::keep(&store, &workspace, question, &wheel, "x-1-py3-none-any.whl").unwrap();
    }
    fs::remove_file(wheel).unwrap();
    drop(workspace);
    store
}

/// What of a store is to last, by its path.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for path in list(&directory).unwrap() {
            let inside = path.strip_prefix(root).unwrap().to_owned();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "quarantine" | "tmp" | ".tmp" | "leases" | "mnt") {
                    pending.push(path);
                }
            } else if !matches!(name.as_str(), "lock" | ".lock") && !name.starts_with("checked-") {
                files.insert(inside, fs::read(path).unwrap());
            }
        }
    }
    files
}

fn write(root: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for directory in ["tmp", "leases", "mnt"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// One way to damage a file.
#[derive(Debug, Clone)]
enum Harm {
    Flip(usize),
    Cut(usize),
    Delete,
    Swap(PathBuf),
}

/// The ways in which the file at `path` can be damaged; all bytes are as likely as others to be wrong.
fn harms(all: &BTreeMap<PathBuf, Vec<u8>>, path: &Path) -> Vec<Harm> {
    let len = all[path].len();
    let mut harms = vec![
        Harm::Flip(len / 3),
        Harm::Flip(len - 1),
        Harm::Cut(len - 1),
        Harm::Delete,
    ];
    if std::env::var_os(MORE_VARIABLE).is_some() {
        harms.extend(
            [0, 9, len / 2, len.saturating_sub(40)]
                .into_iter()
                .filter(|at| *at < len)
                .map(Harm::Flip),
        );
        harms.extend([0, len / 2].map(Harm::Cut));
    }
    let alike = |other: &&PathBuf| {
        *other != path && other.parent() == path.parent() && all[*other] != all[path]
            || (path.starts_with("objects") && other.starts_with("objects") && *other != path)
    };
    harms.extend(all.keys().find(alike).cloned().map(Harm::Swap));
    harms
}

fn damage(root: &Path, path: &Path, harm: &Harm) {
    let file = root.join(path);
    let bytes = fs::read(&file).unwrap();
    // Another file, as a mapping of the old one may be in use.
    fs::remove_file(&file).unwrap();
    match harm {
        Harm::Flip(at) => {
            let mut bytes = bytes;
            bytes[*at] ^= 0x10;
            fs::write(file, bytes).unwrap();
        }
        Harm::Cut(at) => fs::write(file, &bytes[..*at]).unwrap(),
        Harm::Delete => {}
        Harm::Swap(other) => {
            let other = root.join(other);
            fs::rename(&other, &file).unwrap();
            fs::write(other, bytes).unwrap();
        }
    }
}

/// Whether a file that is not there is missed: what is made again when it is needed is not, nor is a copy.
fn is_missed(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !["cache/", "traces/", "built/", "FORMAT"]
        .iter()
        .any(|start| text.starts_with(start))
        && !text.contains(".copies")
}

/// Every file of every environment is right or an error; says which environments have errors.
fn assert_never_wrong(store: &Store, what: &str) -> BTreeSet<Digest> {
    let expected: BTreeMap<String, Vec<u8>> = [0, 1, 2, 4].iter().flat_map(|package| files_of(*package)).collect();
    let mut failed = BTreeSet::new();
    for packages in ENVIRONMENTS {
        let signature = signature_of(packages);
        let read = |environment: &Environment| -> Result<()> {
            let tree = Arc::new(store.tree(&environment.tree)?);
            for package in packages {
                for (path, _) in files_of(*package) {
                    let view = View::new(store, Arc::clone(&tree), Path::new("/x")).unwrap();
                    let node = view.tree().find(path.as_bytes())?;
                    let node = node.ok_or_else(|| Error::corrupt(Path::new(&path), "it is not in the tree"))?;
                    let bytes = view.read(node)?;
                    assert!(bytes == expected[&path], "{what}: {path} is wrong");
                }
            }
            Ok(())
        };
        match environment::load(store, &signature).and_then(|environment| read(&environment)) {
            Ok(()) => {}
            Err(_) => drop(failed.insert(signature)),
        }
    }
    failed
}

/// Builds everything again from packages, as a solver does.
struct FromPackages;

impl Rebuild for FromPackages {
    fn rebuild(&self, store: &Store, environments: &BTreeSet<Digest>, directory: &Path) -> Vec<Store> {
        let fetched = Store::open(&directory.join("fetched")).unwrap();
        let workspace = Workspace::create(&fetched).unwrap();
        for packages in ENVIRONMENTS
            .iter()
            .filter(|packages| environments.contains(&signature_of(packages)))
        {
            for package in *packages {
                bring(&fetched, &workspace, *package).unwrap();
            }
        }
        drop(workspace);
        let built = Store::open(&directory.join("built")).unwrap();
        if environments
            .iter()
            .any(|signature| environment::get(store, signature).ok().flatten().is_none())
        {
            sample(built.root());
        }
        vec![fetched, built]
    }
}

/// A directory in memory, where there is one: thousands of files are synced.
fn quick_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Damages each file in each way, and lets `then` look at the store.
fn each_harm(mut then: impl FnMut(&Store, &str, &Path, &Harm, &BTreeMap<PathBuf, Vec<u8>>)) {
    let directory = quick_directory();
    let root = directory.path().join("store");
    let all = {
        sample(&root);
        files(&root)
    };
    // Ballast is there for its room alone.
    let is_content = |path: &Path| path != Path::new("FORMAT") && !path.starts_with("ballast");
    for path in all.keys().filter(|path| is_content(path)) {
        for harm in harms(&all, path) {
            let harmed = directory.path().join("harmed");
            write(&harmed, &all);
            damage(&harmed, path, &harm);
            let what = format!("{} {harm:?}", path.display());
            then(&Store::open(&harmed).unwrap(), &what, path, &harm, &all);
            fs::remove_dir_all(harmed).unwrap();
        }
    }
}

#[test]
fn a_sound_store_is_sound() {
    let directory = quick_directory();
    let store = sample(directory.path());
    let checked = store.verify().unwrap();
    assert_eq!(checked.findings, []);
    assert!(checked.count > 20, "{}", checked.count);
    let before = files(directory.path());
    let repaired = store
        .repair(&Repair {
            donors: &[],
            rebuild: None,
        })
        .unwrap();
    assert!(repaired.is_whole() && repaired.mended.is_empty());
    assert_eq!(files(directory.path()), before);
    assert!(!directory.path().join("quarantine").exists());
}

#[test]
fn everything_is_found_and_comes_back_from_another_store() {
    let directory = quick_directory();
    let mut donor = None;
    let mut count = 0;
    each_harm(|store, what, path, harm, all| {
        let donor = donor.get_or_insert_with(|| {
            write(directory.path(), all);
            Store::open(directory.path()).unwrap()
        });
        count += 1;
        let checked = store.verify().unwrap();
        let is_expected = !matches!(harm, Harm::Delete) || is_missed(path);
        assert_eq!(
            !checked.findings.is_empty(),
            is_expected,
            "{what}: {:?}",
            checked.findings
        );
        let of_file = |finding: &Finding| finding.path == store.root().join(path);
        if !matches!(harm, Harm::Delete) {
            assert!(checked.findings.iter().any(of_file), "{what}: {:?}", checked.findings);
        }
        assert_never_wrong(store, what);
        let repair = Repair {
            donors: std::slice::from_ref(donor),
            rebuild: None,
        };
        let repaired = store.repair(&repair).unwrap();
        assert!(repaired.is_whole(), "{what}: {repaired:#?}");
        assert_eq!(store.verify().unwrap().findings, [], "{what}");
        if is_missed(path) {
            let after = files(store.root());
            let differs = all
                .iter()
                .filter(|(path, bytes)| is_missed(path) && after.get(*path) != Some(bytes));
            assert_eq!(differs.map(|(path, _)| path).collect::<Vec<_>>(), [""; 0], "{what}");
            let more = after.keys().filter(|path| !all.contains_key(*path));
            assert_eq!(more.collect::<Vec<_>>(), [""; 0], "{what}");
        }
        assert_eq!(
            assert_never_wrong(&Store::open(store.root()).unwrap(), what),
            BTreeSet::new()
        );
    });
    println!("{count} damages");
    assert!(count > 100, "{count}");
}

#[test]
fn without_another_store_what_misses_something_is_named() {
    each_harm(|store, what, path, _, _| {
        let repaired = store
            .repair(&Repair {
                donors: &[],
                rebuild: None,
            })
            .unwrap();
        let left = store.verify().unwrap();
        let damaged: Vec<_> = left.findings.iter().filter(|finding| !finding.is_missing).collect();
        assert!(damaged.is_empty(), "{what}: {damaged:?}");
        assert!(
            left.findings.is_empty() || !repaired.is_whole(),
            "{what}: {repaired:#?}"
        );
        let failed = assert_never_wrong(&Store::open(store.root()).unwrap(), what);
        for signature in &failed {
            assert!(repaired.environments.contains_key(signature), "{what}: {repaired:#?}");
        }
        // Collections go on.
        let nothing = crate::gc::Options {
            keep_last: 1,
            grace: std::time::Duration::ZERO,
            max_age: None,
            max_bytes: None,
            dry_run: true,
        };
        crate::gc::collect(store, &nothing, &Still).unwrap_or_else(|error| panic!("{what}: {error}"));
        let _ = path;
    });
}

#[test]
fn what_can_be_built_again_comes_back_as_it_was() {
    each_harm(|store, what, path, _, all| {
        if !["objects", "packs", "layers", "trees"]
            .iter()
            .any(|start| path.starts_with(start))
        {
            return;
        }
        let repair = Repair {
            donors: &[],
            rebuild: Some(&FromPackages),
        };
        let repaired = store.repair(&repair).unwrap();
        let is_tree = path.starts_with("trees");
        assert!(repaired.is_whole() || is_tree, "{what}: {repaired:#?}");
        if !is_tree {
            let after = files(store.root());
            let differs = all.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes));
            assert_eq!(differs.map(|(path, _)| path).collect::<Vec<_>>(), [""; 0], "{what}");
            assert_eq!(store.verify().unwrap().findings, [], "{what}");
        }
    });
}

/// A machine on which nothing is mounted.
struct Still;

impl crate::gc::Machine for Still {
    fn uses(&self) -> Result<Vec<crate::gc::reasons::Use>> {
        Ok(Vec::new())
    }

    fn boot(&self) -> Option<crate::cache::Boot> {
        None
    }

    fn usual_place(&self, _: &Digest) -> PathBuf {
        "/x".into()
    }
}

#[test]
fn a_copy_that_says_something_else_is_found_and_made_anew() {
    let directory = quick_directory();
    let store = sample(directory.path());
    let (path, copy) = (
        directory.path().join("refs/b:current"),
        directory.path().join("refs/.copies/b:current"),
    );
    let earlier = fs::read(&copy).unwrap();
    let signature = signature_of(ENVIRONMENTS[1]);
    let author = Author::default();
    Names::of(&store)
        .set(&"b".parse().unwrap(), &signature, &author, None)
        .unwrap();
    let now = fs::read(&path).unwrap();
    assert_eq!(fs::read(&copy).unwrap(), now);
    write(
        directory.path(),
        &BTreeMap::from([(PathBuf::from("refs/.copies/b:current"), earlier)]),
    );
    let found = store.verify().unwrap().findings;
    assert_eq!(found.iter().map(|finding| &finding.path).collect::<Vec<_>>(), [&copy]);
    let nowhere = Repair {
        donors: &[],
        rebuild: None,
    };
    assert!(store.repair(&nowhere).unwrap().is_whole());
    assert_eq!([path, copy].map(|path| fs::read(path).unwrap()), [now.clone(), now]);
}

#[test]
fn what_only_a_damaged_record_refers_to_comes_back_with_it() {
    let directory = quick_directory();
    let store = sample(directory.path());
    // A file of the environment alone, as its history is, and a pack of that file alone.
    let workspace = Workspace::create(&store).unwrap();
    let mut ingest = Ingest::new(&store, &workspace).unwrap();
    let before = files(directory.path());
    let own = ingest.add_bytes(b"of this environment alone").unwrap();
    ingest.publish().unwrap();
    let after = files(directory.path());
    let pack = after.keys().find(|path| !before.contains_key(*path)).unwrap();
    let mut record = environment::load(&store, &signature_of(ENVIRONMENTS[2])).unwrap();
    let mut merge = Merge::from_tree(&store.tree(&record.tree).unwrap()).unwrap();
    let leaf = Leaf::File {
        digest: own.digest,
        size_bytes: own.size_bytes,
        mtime_s: 1,
        executable: false,
        placeholder: None,
    };
    merge.add(None, &EnvPath::parse(b"conda-meta/history").unwrap(), leaf);
    record.signature = Digest::of(b"another");
    record.tree = merge.write(&store, &workspace, None).unwrap().digest;
    record.publish(&store, &workspace).unwrap();
    let donor = tempfile::tempdir().unwrap();
    write(donor.path(), &files(directory.path()));
    let path = environment::own_path(&store, &record.signature);
    let whole = fs::read(&path).unwrap();
    let inside = path.strip_prefix(directory.path()).unwrap();
    damage(directory.path(), inside, &Harm::Cut(100));
    fs::remove_file(directory.path().join(pack)).unwrap();
    let from_donor = Repair {
        donors: &[Store::open(donor.path()).unwrap()],
        rebuild: None,
    };
    let repaired = store.repair(&from_donor).unwrap();
    assert!(repaired.is_whole(), "{:?}", repaired.mended);
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(store.verify().unwrap().findings, []);
}

#[test]
fn an_environment_that_is_linked_somewhere_is_missed_and_comes_back() {
    let directory = quick_directory();
    let (root, place) = (directory.path().join("store"), directory.path().join("linked"));
    let store = sample(&root);
    let donor = tempfile::tempdir().unwrap();
    write(donor.path(), &files(&root));
    // Nothing else refers to it.
    let signature = signature_of(ENVIRONMENTS[1]);
    let Some(environment) = environment::get(&store, &signature).unwrap() else {
        panic!("the sample has none");
    };
    let record = LinkedRecord {
        store: root.clone(),
        signature,
        tree: environment.tree,
        mount_point: place.clone(),
        boot: "1".into(),
        uid: 0,
        started_unix_s: 1,
    };
    fs::create_dir(&place).unwrap();
    fs::write(place.join(linked::MARKER), record.to_json().unwrap()).unwrap();
    record.register(&store).unwrap();
    let lost = environment::own_path(&store, &signature);
    let whole = fs::read(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    let found = store.verify().unwrap().findings;
    assert!(
        found
            .iter()
            .any(|finding| finding.path == lost && finding.message.contains("linked into")),
        "{found:?}"
    );
    let from_donor = Repair {
        donors: &[Store::open(donor.path()).unwrap()],
        rebuild: None,
    };
    assert!(store.repair(&from_donor).unwrap().is_whole());
    assert_eq!(fs::read(&lost).unwrap(), whole);
}

#[test]
fn a_document_that_is_lost_with_its_copy_damaged_is_not_said_to_be_repaired() {
    let directory = quick_directory();
    let store = sample(directory.path());
    fs::remove_file(directory.path().join("refs/b:current")).unwrap();
    damage(directory.path(), Path::new("refs/.copies/b:current"), &Harm::Flip(30));
    let nowhere = Repair {
        donors: &[],
        rebuild: None,
    };
    let repaired = store.repair(&nowhere).unwrap();
    let remedies: Vec<_> = repaired.mended.iter().map(|mended| mended.remedy).collect();
    assert!(
        !remedies.is_empty() && remedies.iter().all(|remedy| *remedy == Remedy::Lost),
        "{remedies:?}"
    );
    assert!(!repaired.is_whole());
}

#[test]
fn what_a_check_finds_damaged_is_read_through_again_before_it_is_mounted() {
    let directory = quick_directory();
    let store = sample(directory.path());
    let environment = environment::load(&store, &signature_of(ENVIRONMENTS[0])).unwrap();
    let tree = store.tree(&environment.tree).unwrap();
    assert!(store.read_through(&environment.tree, &tree).unwrap().is_empty());
    assert!(store.is_read_through(&environment.tree));
    let object = files(directory.path())
        .into_keys()
        .find(|path| path.starts_with("objects"));
    let object = object.unwrap();
    damage(directory.path(), &object, &Harm::Flip(3));
    assert!(!store.verify().unwrap().findings.is_empty());
    assert!(!store.is_read_through(&environment.tree));
}
