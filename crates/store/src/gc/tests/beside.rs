//! Collections beside others who write and read, as threads that know no more of each other than processes do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::*;

/// How long the load lasts where nothing else is said, in rounds of each writer; and the variable that gives seconds.
const ROUNDS: u64 = 30;
const SECONDS_VARIABLE: &str = "ENVFS_TEST_GC_SECONDS";

#[test]
fn collections_beside_builds_and_reads() {
    const WRITERS: u64 = 3;
    const READERS: u64 = 2;
    let (_directory, store) = store();
    let seconds: Option<u64> = std::env::var(SECONDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let started = Instant::now();
    let is_over = |rounds: u64| match seconds {
        Some(seconds) => started.elapsed() > Duration::from_secs(seconds),
        None => rounds >= ROUNDS,
    };
    let (writing, built, read, collections) = (
        AtomicU64::new(WRITERS),
        AtomicU64::new(0),
        AtomicU64::new(0),
        AtomicU64::new(0),
    );
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (writing, built) = (&writing, &built);
            let root = store.root();
            scope.spawn(move || {
                let _writing = Writing(writing);
                let mut random = 0x9e37_79b9_7f4a_7c15 ^ (writer + 1);
                let mut rounds = 0;
                while !is_over(rounds) {
                    // As if it were another process.
                    let store = Store::open(root).unwrap();
                    let first = next(&mut random, 8);
                    let packages = [first, first + 1, 20 + next(&mut random, 6)];
                    let base =
                        (next(&mut random, 2) == 0).then(|| build(&store, &[40 + next(&mut random, 2)], None).unwrap());
                    // As `build --base` does: what it inherits from is claimed.
                    let claim = base.as_ref().map(|base| Claim::take(&store, &base.signature));
                    let base = base.filter(|_| matches!(claim, Some(Ok(_))));
                    let environment = build(&store, &packages, base.as_ref()).unwrap();
                    let owner = format!("w:{writer}");
                    if next(&mut random, 3) == 0 {
                        disown(&store, &owner);
                    }
                    // It may be gone again already, but not in between.
                    let kept = Roots::of(&store).add(&owner.parse().unwrap(), &[environment.signature], 1);
                    if kept.is_ok() {
                        // It may have been built again, by who knew another base.
                        let environment = environment::load(&store, &environment.signature).unwrap();
                        assert_eq!(read_all(&store, &environment).unwrap() % 21, 0);
                    }
                    built.fetch_add(1, Ordering::Relaxed);
                    rounds += 1;
                }
            });
        }
        for reader in 0..READERS {
            let (writing, read) = (&writing, &read);
            let root = store.root();
            scope.spawn(move || {
                let mut random = 77 + reader;
                let store = Store::open(root).unwrap();
                while writing.load(Ordering::Relaxed) > 0 {
                    let signatures = environment::own_signatures(&store).unwrap();
                    let Some(signature) = signatures.get(next(&mut random, 100) as usize % signatures.len().max(1))
                    else {
                        continue;
                    };
                    // What is claimed stays; what is gone before cannot be claimed.
                    let Ok((environment, claim)) = Claim::take(&store, signature) else {
                        continue;
                    };
                    assert_eq!(read_all(&store, &environment).unwrap() % 21, 0);
                    drop(claim);
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let store = Store::open(store.root()).unwrap();
            while writing.load(Ordering::Relaxed) > 0 {
                gc(&store);
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    println!(
        "{} builds, {} reads, {} collections in {:?}",
        built.into_inner(),
        read.into_inner(),
        collections.into_inner(),
        started.elapsed()
    );
    gc(&store);
    assert_sound(&store);
    let kept: BTreeSet<Digest> = Roots::of(&store)
        .owners()
        .unwrap()
        .into_iter()
        .flat_map(|owned| owned.environments.into_keys())
        .collect();
    let environments = load_all(&store).unwrap();
    for signature in &kept {
        assert!(environments.contains_key(signature));
    }
    for environment in environments.values() {
        assert_eq!(read_all(&store, environment).unwrap() % 21, 0);
        let is_base = environments
            .values()
            .any(|other| other.base == Some(environment.signature));
        assert!(kept.contains(&environment.signature) || is_base);
    }
    for writer in 0..WRITERS {
        disown(&store, &format!("w:{writer}"));
    }
    gc(&store);
    assert_eq!(contents(&store), BTreeSet::new(), "something leaked");
}

/// Who opens a tree before any record refers to it has it moved to the trash at any moment, and gets it back.
#[test]
fn a_tree_that_is_moved_while_it_is_opened_is_opened() {
    const MOVES: u64 = 3000;
    let (_directory, store) = store();
    let tree = build(&store, &[1, 2], None).unwrap().tree;
    let generation = trash::Generation::create(store.root()).unwrap();
    let round = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut moved = 0;
            while moved < MOVES {
                let wanted = round.load(Ordering::Relaxed);
                if wanted > moved {
                    generation.take("trees", &store.tree_path(&tree)).unwrap();
                    moved = wanted;
                }
            }
        });
        let opened = (1..=MOVES).map(|number| {
            round.store(number, Ordering::Relaxed);
            store.tree(&tree).err()
        });
        let failed: Vec<_> = opened.flatten().collect();
        assert!(failed.is_empty(), "{} of {MOVES}: {}", failed.len(), failed[0]);
    });
}

/// Counts a writer out, also if it fails: the others wait for that.
struct Writing<'a>(&'a AtomicU64);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A number below `end`, by xorshift.
fn next(state: &mut u64, end: u64) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    u32::try_from((*state >> 32) % end).unwrap()
}
