//! Collections of small stores.

mod beside;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::digest::Sha256;
use crate::error::Error;
use crate::examples::{ALIKE_FROM, bring, build, files_of, signature_of};
use crate::ingest::Ingest;
use crate::layer::{EntryKind, Layer};
use crate::lease::{self, Claim};
use crate::names::{Author, Names};
use crate::roots::{Owner, Pin, Roots};
use crate::store::list;
use crate::view::View;

/// A machine on which nothing is mounted but what leases say.
struct Nowhere<'a>(&'a Store);

impl Machine for Nowhere<'_> {
    fn uses(&self) -> Result<Vec<Use>> {
        let leases = lease::list(self.0)?.into_iter();
        Ok(leases
            .map(|lease| Use {
                signature_digits: lease.signature.to_string(),
                mount_point: lease.mount_point,
            })
            .collect())
    }

    fn boot(&self) -> Option<Boot> {
        Some(Boot {
            id: "boot".into(),
            machine: "here".into(),
        })
    }

    fn usual_place(&self, signature: &Digest) -> PathBuf {
        Path::new("/envs").join(&signature.to_string()[..16])
    }
}

const NOW: Options = Options {
    keep_last: 1,
    grace: Duration::ZERO,
    max_age: None,
    max_bytes: None,
    dry_run: false,
};

#[test]
fn what_is_made_again_goes_with_what_it_belongs_to() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let tree = Digest::of(b"a tree that is gone");
    crate::trace::Trace::default().save(&store, &tree).unwrap();
    let wheel = directory.path().join("x.whl");
    std::fs::write(&wheel, "a wheel").unwrap();
    let built = {
        let workspace = Workspace::create(&store).unwrap();
        crate::built::keep(&store, &workspace, "question", &wheel, "x-1-py3-none-any.whl").unwrap()
    };
    let careful = Options {
        grace: Duration::from_secs(600),
        ..NOW
    };
    collect(&store, &careful, &Nowhere(&store)).unwrap();
    assert!(built.path(&store).exists(), "it is young");
    gc(&store);
    assert!(!built.path(&store).exists());
    assert_eq!(crate::built::find(&store, "question").unwrap(), None);
    assert_eq!(list(&store.path("built")).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(crate::trace::Trace::load(&store, &tree), None);
}

/// As damage cannot make them, for what is written is sealed, but somebody who may write can.
#[test]
fn records_that_inherit_from_each_other_are_told_and_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let first = build(&store, &[1], None).unwrap();
    let heir = build(&store, &[1, 2], Some(&first)).unwrap();
    let last = build(&store, &[1, 2, 3], Some(&heir)).unwrap();
    let mut circular = first.clone();
    circular.base = Some(heir.signature);
    let workspace = Workspace::create(&store).unwrap();
    circular.publish(&store, &workspace).unwrap();
    let is_told = |error: Error| {
        let told = error.to_string();
        let names = [&first, &heir].map(|environment| environment.signature.to_string());
        assert!(names.iter().all(|name| told.contains(name)), "{told}");
    };
    is_told(collect(&store, &NOW, &Nowhere(&store)).unwrap_err());
    is_told(kept(&store, 1, &Nowhere(&store)).unwrap_err());
    is_told(shares::shares(&store).unwrap_err());
    is_told(last.all_packages(&store).unwrap_err());
    is_told(last.is_changed(&store).unwrap_err());
    let findings = store.verify().unwrap().findings;
    let found: BTreeSet<&str> = findings.iter().map(|finding| finding.name.as_str()).collect();
    for environment in [&first, &heir, &last] {
        assert!(found.contains(environment.signature.to_string().as_str()), "{found:?}");
    }
    // What stands on none of them is put back from the trash in no endless way either.
    for environment in [&circular, &heir] {
        let generation = trash::Generation::create(store.root()).unwrap();
        let place = environment::own_path(&store, &environment.signature);
        generation.take("environments", &place).unwrap();
    }
    is_told(last.publish(&store, &workspace).unwrap_err());
}

fn gc(store: &Store) -> Collected {
    collect(store, &NOW, &Nowhere(store)).unwrap()
}

/// Reads every file of an environment, and says how many there were.
fn read_all(store: &Store, environment: &Environment) -> Result<usize> {
    let tree = Arc::new(store.tree(&environment.tree)?);
    let view = View::new(store, tree, Path::new("/envs/x"))
        .map_err(|error| Error::corrupt(Path::new("x"), error.to_string()))?;
    let mut count = 0;
    for node in view.tree().files(false) {
        view.read(node?)?;
        count += 1;
    }
    Ok(count)
}

fn own(store: &Store, owner: &str, signature: &Digest) {
    let owner: Owner = owner.parse().unwrap();
    Roots::of(store).add(&owner, &[*signature], 1).unwrap();
}

fn disown(store: &Store, owner: &str) {
    Roots::of(store).drop_needs(&owner.parse().unwrap(), None).unwrap();
}

/// The content of the store, by its paths.
fn contents(store: &Store) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<_> = ["objects", "packs", "layers", "trees", "environments", "trash", "tmp"]
        .map(|name| store.path(name))
        .into();
    while let Some(directory) = pending.pop() {
        for path in list(&directory).unwrap() {
            if path.is_dir() {
                pending.push(path);
            } else {
                found.insert(path.strip_prefix(store.root()).unwrap().to_owned());
            }
        }
    }
    found
}

fn assert_sound(store: &Store) {
    assert_eq!(store.verify().unwrap().findings, []);
}

/// What a store holds in which only these environments were ever built, apart from packs, whose files differ.
fn assert_holds_only(store: &Store, environments: &[(&[u32], Option<&[u32]>)]) {
    let directory = tempfile::tempdir().unwrap();
    let fresh = Store::open(directory.path()).unwrap();
    for (packages, base) in environments {
        let base = base.map(|base| build(&fresh, base, None).unwrap());
        build(&fresh, packages, base.as_ref()).unwrap();
    }
    let unpacked = |store: &Store| -> BTreeSet<PathBuf> {
        let files = contents(store).into_iter();
        // Where objects are in packs enters thin and flat trees alike.
        files
            .filter(|path| !path.starts_with("packs") && !path.starts_with("trees"))
            .collect()
    };
    assert_eq!(unpacked(store), unpacked(&fresh));
    assert_eq!(
        list(&store.path("trees")).unwrap().len(),
        list(&fresh.path("trees")).unwrap().len()
    );
    let packed = |store: &Store| -> BTreeSet<Digest> {
        let packs = list(&store.path("packs")).unwrap().into_iter();
        packs
            .flat_map(|path| crate::pack::read_index(&path).unwrap())
            .map(|entry| entry.digest)
            .collect()
    };
    let missing: Vec<_> = packed(&fresh).difference(&packed(store)).copied().collect();
    assert_eq!(missing, []);
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

#[test]
fn what_nothing_keeps_goes_and_what_something_keeps_stays() {
    let (_directory, store) = store();
    let named = build(&store, &[1, 2], None).unwrap();
    let before = build(&store, &[3], None).unwrap();
    let pinned = build(&store, &[4], None).unwrap();
    let heir = build(&store, &[6], Some(&build(&store, &[5], None).unwrap())).unwrap();
    let claimed = build(&store, &[7], None).unwrap();
    build(&store, &[8, 9], None).unwrap();
    let names = Names::of(&store);
    let name = "proj".parse().unwrap();
    names.set(&name, &before.signature, &Author::default(), None).unwrap();
    names.set(&name, &named.signature, &Author::default(), None).unwrap();
    let pin = Pin {
        until_unix_s: Some(unix_s(SystemTime::now()) + 1000),
        reason: None,
        by: "x".into(),
        at_unix_s: 1,
    };
    Roots::of(&store).pin(&pinned.signature, pin.clone()).unwrap();
    own(&store, "w:1", &heir.signature);
    let claim = Claim::take(&store, &claimed.signature).unwrap();

    let options = Options { keep_last: 2, ..NOW };
    let collected = collect(&store, &options, &Nowhere(&store)).unwrap();
    assert_eq!(collected.environments, [signature_of(&[8, 9])]);
    assert_eq!((collected.layers, collected.packs, collected.waiting_bytes), (2, 2, 0));
    assert_sound(&store);
    let rest: [(&[u32], Option<&[u32]>); 5] = [
        (&[1, 2], None),
        (&[3], None),
        (&[4], None),
        (&[6], Some(&[5])),
        (&[7], None),
    ];
    assert_holds_only(&store, &rest);

    drop(claim);
    disown(&store, "w:1");
    Roots::of(&store).unpin(&pinned.signature, |_| true).unwrap();
    let expired = Pin {
        until_unix_s: Some(1),
        ..pin
    };
    Roots::of(&store).pin(&pinned.signature, expired).unwrap();
    assert_eq!(gc(&store).environments.len(), 5);
    assert_holds_only(&store, &[(&[1, 2], None)]);
    assert_eq!(read_all(&store, &named).unwrap(), 42);
    names.remove(&name, None).unwrap();
    gc(&store);
    assert_eq!(contents(&store), BTreeSet::new());
}

#[test]
fn a_dry_run_says_what_a_run_does_and_does_nothing() {
    let (_directory, store) = store();
    own(&store, "w", &build(&store, &[1, 2], None).unwrap().signature);
    build(&store, &[3, 5, 7], None).unwrap();
    let before = contents(&store);
    let options = Options { dry_run: true, ..NOW };
    let told = collect(&store, &options, &Nowhere(&store)).unwrap();
    assert_eq!(contents(&store), before);
    let done = gc(&store);
    assert_eq!(done.environments, told.environments);
    assert_eq!(
        (done.layers, done.trees, done.packs, done.objects),
        (told.layers, told.trees, told.packs, told.objects)
    );
    assert!(done.objects >= 2 && done.freed_bytes > 300_000, "{done:?}");
}

#[test]
fn who_found_something_there_gets_it_back() {
    let (_directory, store) = store();
    build(&store, &[2], None).unwrap();
    // A build that has looked at what is there, in another process.
    let writer = Store::open(store.root()).unwrap();
    let workspace = Workspace::create(&writer).unwrap();
    let layer = bring(&writer, &workspace, 2).unwrap();
    let neighbour = {
        // It shares files with the other package, and so does not write them.
        let mut ingest = Ingest::new(&writer, &workspace).unwrap();
        let stored: Vec<_> = files_of(3)
            .iter()
            .map(|(_, bytes)| ingest.add_bytes(bytes).unwrap())
            .collect();
        (ingest, stored)
    };
    let collected = gc(&store);
    assert_eq!(collected.environments.len(), 1);
    assert!(collected.waiting_bytes > 0);
    assert!(!store.layer_path(&layer.archive).exists());
    // Nothing is unlinked while it lives, however often somebody collects.
    assert!(gc(&store).waiting_bytes > 0);
    neighbour.0.publish().unwrap();
    let mut entries = layer.entries.clone();
    for (entry, stored) in entries.iter_mut().zip(&neighbour.1) {
        if let EntryKind::File(file) = &mut entry.kind {
            (file.digest, file.size_bytes) = (stored.digest, stored.size_bytes);
        }
    }
    let other = Layer {
        archive: Sha256::from_bytes([9; 32]),
        entries,
        ..layer.clone()
    };
    other.publish(&writer, &workspace).unwrap();
    drop(workspace);
    assert_sound(&store);
    // The layer is in its place, and so is all that it refers to; then it goes, because no environment came of it.
    for (digest, _) in other.objects() {
        assert!(Store::open(store.root()).unwrap().locate(&digest).unwrap().is_some());
    }
    let again = build(&writer, &[2], None).unwrap();
    own(&store, "w", &again.signature);
    gc(&store);
    assert_eq!(read_all(&store, &again).unwrap(), 21);
    assert_holds_only(&store, &[(&[2], None)]);
}

#[test]
fn a_base_that_went_while_its_heir_was_built_comes_back() {
    let (_directory, store) = store();
    let base = build(&store, &[1], None).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    assert_eq!(gc(&store).environments, [base.signature]);
    let mut heir = Environment::new(Digest::of(b"heir"), "linux-64".into(), base.tree);
    heir.base = Some(base.signature);
    heir.publish(&store, &workspace).unwrap();
    drop(workspace);
    assert_sound(&store);
    assert_eq!(read_all(&store, &base).unwrap(), 21);
    own(&store, "w", &heir.signature);
    gc(&store);
    assert_eq!(read_all(&store, &heir).unwrap(), 21);
}

#[test]
fn packs_with_little_alive_are_written_anew_and_read_through_old_hints() {
    let (_directory, store) = store();
    let many = build(&store, &[10], None).unwrap();
    // 11 shares five small files with 10, which lie in the pack of 10.
    let few = build(&store, &[11], None).unwrap();
    own(&store, "w", &few.signature);
    let reader = Store::open(store.root()).unwrap();
    read_all(&reader, &many).unwrap();
    let collected = gc(&store);
    assert_eq!(
        (collected.environments.len(), collected.rewritten_packs),
        (1, 1),
        "{collected:?}"
    );
    assert_sound(&store);
    // Who has the old pack open, who knows nothing yet, and who writes.
    assert_eq!(read_all(&reader, &few).unwrap(), 21);
    assert_eq!(read_all(&Store::open(store.root()).unwrap(), &few).unwrap(), 21);
    let again = build(&reader, &[10], None).unwrap();
    assert_eq!(read_all(&Store::open(store.root()).unwrap(), &again).unwrap(), 21);
    assert_sound(&store);
    gc(&store);
    assert_holds_only(&store, &[(&[11], None)]);
    let second = gc(&store);
    let nothing = Collected {
        left_bytes: second.left_bytes,
        ..Collected::default()
    };
    assert_eq!(second, nothing, "the second time there is nothing to do");
}

#[test]
fn a_limit_counts_what_is_dead_in_packs() {
    let (_directory, store) = store();
    build(&store, &[ALIKE_FROM], None).unwrap();
    // Fifteen of its twenty small files lie in the pack of the other one, which stays more than half alive.
    let few = build(&store, &[ALIKE_FROM + 1], None).unwrap();
    own(&store, "w", &few.signature);
    let collected = gc(&store);
    assert_eq!((collected.environments.len(), collected.rewritten_packs), (1, 0));
    let left_bytes = collected.left_bytes;
    let within = |max_bytes: u64, dry_run: bool| {
        let options = Options {
            max_bytes: Some(max_bytes),
            dry_run,
            ..NOW
        };
        collect(&store, &options, &Nowhere(&store)).unwrap()
    };
    assert_eq!(within(left_bytes, false).rewritten_packs, 0, "it fits");
    let would_be = within(left_bytes - 1, true);
    let collected = within(left_bytes - 1, false);
    assert_eq!((would_be.rewritten_packs, collected.rewritten_packs), (1, 1));
    assert!(collected.left_bytes < left_bytes && would_be.left_bytes < left_bytes);
    assert_eq!(read_all(&Store::open(store.root()).unwrap(), &few).unwrap(), 21);
    assert_sound(&store);
    // Where nothing more can go, it is said how much there is.
    let more = within(1, false);
    assert_eq!((more.rewritten_packs, more.left_bytes), (0, collected.left_bytes));
}

/// A clock that was years ahead has dated everything: nothing is lost, and nothing is held until those years have passed.
#[test]
fn what_is_dated_in_the_future_is_young_from_the_first_collection_on() {
    let (_directory, store) = store();
    let environment = build(&store, &[1], None).unwrap();
    let ahead = SystemTime::now() + Duration::from_secs(10 * 365 * 86_400);
    let date_all = |time: SystemTime| {
        for kind in ["environments", "layers", "trees", "packs"] {
            for path in list(&store.path(kind)).unwrap() {
                std::fs::File::open(path).unwrap().set_modified(time).unwrap();
            }
        }
    };
    date_all(ahead);
    let day = Options {
        grace: Duration::from_secs(86_400),
        ..NOW
    };
    let dry = Options {
        dry_run: true,
        ..day.clone()
    };
    for options in [dry, day] {
        let mut collected = collect(&store, &options, &Nowhere(&store)).unwrap();
        collected.left_bytes = 0;
        assert_eq!(collected, Collected::default());
    }
    assert!(environment::get(&store, &environment.signature).unwrap().is_some());
    // A moment later it is old enough for whoever grants nothing.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(gc(&store).environments, [environment.signature]);
    assert_holds_only(&store, &[]);
}

#[test]
fn the_least_recently_used_goes_until_the_rest_fits() {
    let (_directory, store) = store();
    let now = SystemTime::now();
    let environments: Vec<_> = [20, 30, 40, 50]
        .into_iter()
        .enumerate()
        .map(|(index, package)| {
            let environment = build(&store, &[package], None).unwrap();
            let record = std::fs::File::open(environment::path(&store, &environment.signature)).unwrap();
            let days = u64::try_from(index).unwrap() + 1;
            record.set_modified(now - Duration::from_secs(days * 86400)).unwrap();
            environment.signature
        })
        .collect();
    own(&store, "w", &environments[3]);
    let all = shares::shares(&store).unwrap();
    assert_eq!(all.environments.len(), 4);
    assert!(all.environments.iter().all(|share| share.shared_bytes == 0));
    let options = Options {
        max_bytes: Some(all.total_bytes / 2),
        ..NOW
    };
    let collected = collect(&store, &options, &Nowhere(&store)).unwrap();
    let mut expected = vec![environments[1], environments[2]];
    expected.sort();
    let mut gone = collected.environments;
    gone.sort();
    assert_eq!(gone, expected);
    let options = Options {
        max_age: Some(Duration::from_secs(2 * 86400)),
        ..NOW
    };
    assert_eq!(collect(&store, &options, &Nowhere(&store)).unwrap().environments, []);
    let options = Options {
        grace: Duration::from_secs(2 * 86400),
        ..NOW
    };
    assert_eq!(collect(&store, &options, &Nowhere(&store)).unwrap().environments, []);
    assert_eq!(gc(&store).environments, [environments[0]]);
}

#[test]
fn nothing_is_collected_when_nobody_knows_what_is_kept() {
    let (_directory, store) = store();
    build(&store, &[1], None).unwrap();
    std::fs::create_dir_all(store.path("refs")).unwrap();
    std::fs::write(store.path("refs/proj:x"), "{").unwrap();
    let before = contents(&store);
    let error = collect(&store, &NOW, &Nowhere(&store)).unwrap_err();
    assert!(error.to_string().contains("refs/proj:x"), "{error}");
    assert_eq!(contents(&store), before);
}
