//! The index forgets nothing that matters, whatever happens to its file.

use super::*;
use crate::workspace::Workspace;

fn store_with(names: &[&str]) -> (tempfile::TempDir, Store, Vec<Environment>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let environments = names.iter().map(|name| {
        let tree = crate::tree::merge::Merge::new()
            .write(&store, &workspace, None)
            .unwrap();
        let environment = Environment::new(Digest::of(name.as_bytes()), "linux-64".into(), tree.digest);
        environment.publish(&store, &workspace).unwrap();
        environment
    });
    let environments = environments.collect();
    (directory, store, environments)
}

#[test]
fn uses_are_counted_and_the_latest_come_first() {
    let (_directory, store, environments) = store_with(&["a", "b", "c"]);
    let [a, b, c] = [0, 1, 2].map(|number: usize| environments[number].signature);
    let index = Index::open(&store).unwrap();
    index
        .record(&environments[0], Some(10), Some(Path::new("environment.yml")))
        .unwrap();
    for signature in [a, b, b] {
        used(&store, &signature).unwrap();
    }
    assert_eq!(index.of(&b).unwrap(), None, "a use waits for no database");
    let index = Index::open(&store).unwrap();
    let known = index.of(&a).unwrap().unwrap();
    assert_eq!((known.file_bytes, known.uses), (Some(10), 1));
    assert_eq!(known.owner_uid, Some(nix::unistd::geteuid().as_raw()));
    assert_eq!(known.spec.as_deref(), Some(Path::new("environment.yml")));
    // Noted again with less, it knows as much as before.
    index.record(&environments[0], None, None).unwrap();
    assert_eq!(index.of(&a).unwrap(), Some(known));
    assert_eq!(index.latest(5).unwrap(), [b, a]);
    assert_eq!(index.latest(1).unwrap(), [b]);
    assert_eq!(index.of(&c).unwrap(), None);
    // Another process sees the same.
    assert_eq!(Index::open(&store).unwrap().all().unwrap()[&b].uses, 2);
}

#[test]
fn a_rebuild_follows_the_files() {
    let (_directory, store, environments) = store_with(&["a", "b"]);
    let mut index = Index::open(&store).unwrap();
    let gone = Digest::of(b"gone");
    used(&store, &gone).unwrap();
    used(&store, &environments[0].signature).unwrap();
    assert_eq!(index.rebuild(&store).unwrap(), 2);
    let all = index.all().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[&environments[0].signature].uses, 1);
    assert!(!all.contains_key(&gone));
}

#[test]
fn the_last_use_survives_the_database() {
    let (_directory, store, environments) = store_with(&["a"]);
    let signature = environments[0].signature;
    environment::touch(&store, &signature);
    let last_use = environment::facts(&store, &signature).last_used_unix_s.unwrap();
    let mut index = Index::open(&store).unwrap();
    index.rebuild(&store).unwrap();
    assert_eq!(index.of(&signature).unwrap().unwrap().last_used_unix_s, Some(last_use));
}

#[test]
fn damage_and_newer_tables_are_put_aside_and_told_once() {
    let (directory, store, environments) = store_with(&["a"]);
    let path = path(&store);
    for (number, expected) in ["it is damaged", "newer version"].into_iter().enumerate() {
        drop(Index::open(&store).unwrap());
        if number == 0 {
            // As long as they are there, SQLite mends the database with them.
            for log in ["sqlite-wal", "sqlite-shm"] {
                std::fs::remove_file(path.with_extension(log)).unwrap();
            }
            std::fs::write(&path, "not a database, and long enough to be read as one".repeat(100)).unwrap();
        } else {
            let connection = Connection::open(&path).unwrap();
            connection
                .pragma_update(None, "user_version", schema::VERSION + 1)
                .unwrap();
        }
        let mut index = Index::open(&store).unwrap();
        let warning = index.take_warning().unwrap();
        assert!(warning.contains(expected), "{warning}");
        assert_eq!(index.take_warning(), None);
        assert!(index.all().unwrap().contains_key(&environments[0].signature));
        assert!(directory.path().join("index.sqlite.aside").is_file());
        assert_eq!(Index::open(&store).unwrap().take_warning(), None);
    }
}

#[test]
fn many_write_at_once() {
    let (_directory, store, environments) = store_with(&["a"]);
    let signature = environments[0].signature;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    // One that waits too long goes without.
                    used(&store, &signature).unwrap();
                    drop(Index::open(&store));
                }
            });
        }
    });
    let index = Index::open(&store).unwrap();
    let uses = index.of(&signature).unwrap().unwrap().uses;
    assert!((1..=80).contains(&uses), "{uses}");
}
