//! Names that change, by one and by many at once.

use super::*;
use crate::environment::Environment;
use crate::workspace::Workspace;

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    names: Names,
    /// Environments that are in the store.
    built: [Digest; 3],
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let built = [b"a", b"b", b"c"].map(|name| Digest::of(name));
    let workspace = Workspace::create(&store).unwrap();
    for signature in built {
        // A tree without files, which refers to nothing.
        let tree = crate::tree::merge::Merge::new()
            .write(&store, &workspace, None)
            .unwrap();
        let environment = Environment::new(signature, "linux-64".into(), tree.digest);
        environment.publish(&store, &workspace).unwrap();
    }
    Fixture {
        names: Names::of(&store),
        _directory: directory,
        store,
        built,
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn author() -> Author {
    Author {
        by: "somebody".into(),
        message: Some("why".into()),
    }
}

#[test]
fn a_name_has_a_history_and_goes_back_step_by_step() {
    let fixture = fixture();
    let Fixture { names, built, .. } = &fixture;
    let [a, b, c] = *built;
    let (qa, current) = (name("team/proj:qa"), name("team/proj"));
    for signature in [a, b, c] {
        names.set(&qa, &signature, &author(), None).unwrap();
        names.promote(&qa, &current, &author(), None).unwrap();
    }
    let named = names.load(&current).unwrap();
    assert_eq!(named.current.signature, c);
    assert_eq!(named.current.promoted_from, Some(qa.clone()));
    assert_eq!(named.current.message.as_deref(), Some("why"));
    assert_eq!(named.last(2).collect::<Vec<_>>(), [c, b]);
    assert_eq!(named.last(0).collect::<Vec<_>>(), [c]);

    let back = |to| names.rollback(&current, to, &author(), None);
    let named = back(None).unwrap();
    assert_eq!((named.current.signature, named.current.restores), (b, Some(2)));
    assert_eq!(back(None).unwrap().current.signature, a);
    assert!(matches!(back(None), Err(NameError::NothingBefore(_))));
    let named = back(Some(3)).unwrap();
    assert_eq!((named.current.signature, named.current.number), (c, 6));
    assert!(matches!(
        back(Some(99)),
        Err(NameError::NoSuchChange { number: 99, .. })
    ));
    // Numbers go on, and what is no change is none.
    names.set(&current, &c, &author(), None).unwrap();
    let numbers: Vec<_> = names
        .load(&current)
        .unwrap()
        .changes()
        .map(|change| change.number)
        .collect();
    assert_eq!(numbers, [6, 5, 4, 3, 2, 1]);

    let all: Vec<_> = names
        .list()
        .unwrap()
        .into_iter()
        .map(|named| named.unwrap().name)
        .collect();
    assert_eq!(all, [current.clone(), qa]);
    names.remove(&current, None).unwrap();
    assert_eq!(names.get(&current).unwrap(), None);
    assert!(matches!(names.remove(&current, None), Err(NameError::Unknown(_))));
}

#[test]
fn a_name_stands_only_for_what_is_there_and_only_if_it_is_as_expected() {
    let fixture = fixture();
    let Fixture {
        names, built, store, ..
    } = &fixture;
    let [a, b, _] = *built;
    let proj = name("proj:x");
    let unknown = Digest::of(b"unknown");
    assert!(matches!(
        names.set(&proj, &unknown, &author(), None),
        Err(NameError::NotBuilt(_))
    ));
    assert!(matches!(
        names.promote(&name("no:such"), &proj, &author(), None),
        Err(NameError::Unknown(_))
    ));
    let set = |signature: &Digest, expected: Expected| names.set(&proj, signature, &author(), Some(&expected));
    assert!(matches!(
        set(&a, Expected::Signature(a)),
        Err(NameError::Unexpected { found: None, .. })
    ));
    set(&a, Expected::Nothing).unwrap();
    assert!(matches!(set(&b, Expected::Nothing), Err(NameError::Unexpected { .. })));
    set(&b, Expected::Signature(a)).unwrap();
    let refused = names.remove(&proj, Some(&Expected::Signature(a))).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "`proj:x` was not changed: it stands for {}, not for {}",
            &b.to_string()[..16],
            &a.to_string()[..16]
        )
    );
    std::fs::write(store.root().join("refs/proj:bad"), "{").unwrap();
    std::fs::write(store.root().join("refs/no name"), "{").unwrap();
    let listed = names.list().unwrap();
    assert_eq!(listed.iter().filter(|named| named.is_err()).count(), 1);
    assert_eq!(listed.len(), 2);
}

#[test]
fn no_change_of_many_at_once_is_lost() {
    const THREADS: usize = 8;
    const CHANGES: usize = 20;
    let fixture = fixture();
    let Fixture { names, built, .. } = &fixture;
    let [a, b, _] = *built;
    let proj = name("proj");
    names.set(&proj, &a, &author(), None).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let named = names.load(&proj).unwrap();
                        assert!(named.current.signature == a || named.current.signature == b);
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..CHANGES {
                        // Each change is from what is seen to the other one: a lost one would not be in the history.
                        loop {
                            let seen = names.load(&proj).unwrap().current.signature;
                            let other = if seen == a { b } else { a };
                            match names.set(&proj, &other, &author(), Some(&Expected::Signature(seen))) {
                                Ok(_) => break,
                                Err(NameError::Unexpected { .. }) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    let named = names.load(&proj).unwrap();
    assert_eq!(named.changes().count(), 1 + THREADS * CHANGES);
    assert_eq!(named.current.number, (1 + THREADS * CHANGES) as u64);
}
