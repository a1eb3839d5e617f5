//! Stores with real environments that are damaged: everything is found, comes back from another store, from the archives of
//! packages or by another build, or is named; and what is read is right or an error, by whatever backend.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use envfs_tests::channel::Channel;
use envfs_tests::damage::{damage, flip, lasting, rewrite};
use envfs_tests::data::RealChannel;
use envfs_tests::mounted::{is_mounted, is_possible};
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use envfs_tests::program::{Envfs, Finished};
use envfs_tests::user;
use serde_json::Value;

/// How many random damages there are, and the variable that says else. A seed follows from the number of a round, so that one
/// can be repeated.
const ROUNDS: u64 = 12;
const ROUNDS_VARIABLE: &str = "ENVFS_TEST_CORRUPTIONS";

/// Two environments of made packages, the second on the first, with a name, a pin and an owner.
struct World {
    envfs: Envfs,
    first: String,
    second: String,
}

impl World {
    fn new() -> Self {
        let envfs = Envfs::new();
        let mut channel = Channel::new(&envfs.path().join("channel"));
        for (name, number) in [("one", 1), ("two", 2), ("three", 3)] {
            channel.add(&package(name, number), Format::Conda);
        }
        let url = channel.url();
        let first = envfs.build(["-c", &url, "one", "two"]).to_string();
        let second = envfs.build(["-c", &url, "--base", &first, "three"]).to_string();
        envfs.run(["name", "set", "team/proj", &second]);
        envfs.run(["pin", "add", &first, "--reason", "why"]);
        envfs.run(["owner", "add", "flow", &second]);
        Self { envfs, first, second }
    }

    /// With what its store holds, and an empty directory.
    fn with_mount_point() -> (Self, BTreeMap<PathBuf, Vec<u8>>, PathBuf) {
        let world = Self::new();
        let at = world.envfs.path().join("mount");
        fs::create_dir(&at).unwrap();
        let whole = lasting(&world.envfs.store_path());
        (world, whole, at)
    }

    fn repair(&self, more: &[&str]) -> (Finished, Value) {
        let arguments = ["--json", "verify", "--repair"].iter().chain(more);
        let finished = self.envfs.try_run(arguments);
        let told = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
        (finished, told)
    }

    fn verify(&self) -> Value {
        let finished = self.envfs.try_run(["--json", "verify"]);
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
    }

    /// Reads all files of both environments as a program sees them: right or an error.
    fn assert_never_wrong(&self, what: &str, backend: &str) -> usize {
        let mut failed = 0;
        for (signature, packages) in [
            (&self.first, &[("one", 1), ("two", 2)][..]),
            (&self.second, &[("one", 1), ("two", 2), ("three", 3)]),
        ] {
            let at = self.envfs.path().join("mount");
            fs::create_dir_all(&at).unwrap();
            let when = if backend == "kernel" { "always" } else { "first" };
            let at_text = at.to_str().unwrap();
            let arguments = ["--verify", when, "mount", signature, at_text, "--backend", backend];
            let mounted = self.envfs.try_run(arguments);
            if !mounted.status.success() {
                failed += 1;
                continue;
            }
            for (name, number) in packages {
                for (path, content) in content(name, *number) {
                    let content = content.replace(PLACEHOLDER, at.to_str().unwrap());
                    match fs::read(at.join(&path)) {
                        Ok(bytes) => assert!(bytes == content.as_bytes(), "{what}: {path} is wrong by {backend}"),
                        Err(_) => failed += 1,
                    }
                }
            }
            self.envfs.run(["umount", at.to_str().unwrap()]);
            assert!(!is_mounted(&at));
        }
        failed
    }
}

/// The files of a package: small ones, one with a placeholder, and a large one.
fn content(name: &str, number: usize) -> Vec<(String, String)> {
    let mut files: Vec<_> = (0..6)
        .map(|file| (format!("share/{name}/{file}"), format!("{name} {file}\n").repeat(30)))
        .collect();
    files.push((
        format!("bin/{name}"),
        format!("#!/bin/sh\necho {PLACEHOLDER}/share/{name}\n"),
    ));
    files.push((format!("lib/{name}"), format!("{number:08}").repeat(20_000)));
    files
}

fn package(name: &str, number: usize) -> Package {
    let mut package = Package::new(&format!("{name} 1.0 0"));
    for (path, content) in content(name, number) {
        package = match path.starts_with("bin/") {
            true => package.prefixed(&path, content, "text"),
            false => package.file(&path, content),
        };
    }
    package
}

#[test]
fn what_is_damaged_at_random_comes_back_from_packages() {
    let world = World::new();
    let store = world.envfs.store_path();
    let whole = lasting(&store);
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |text| text.parse().unwrap());
    let (mut found, mut rebuilt) = (0, 0);
    for round in 0..rounds {
        let mut state = (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let what = format!("round {round}: {}", damage(&store, &whole, &mut state));
        let is_damaged = lasting(&store) != whole;
        let verified = world.verify();
        let damaged = verified["damaged"].as_array().unwrap().len();
        assert_eq!(damaged > 0, is_damaged, "{what}: {verified:#}");
        found += damaged;
        let (finished, told) = world.repair(&[]);
        // What only a build knows, such as the record of an environment, may be written with another time.
        let after = lasting(&store);
        if finished.status.success() {
            assert_eq!(world.verify()["damaged"], serde_json::json!([]), "{what}");
            let differs: Vec<_> = whole
                .iter()
                .filter(|(path, bytes)| after.get(*path) != Some(bytes))
                .collect();
            rebuilt += usize::from(!differs.is_empty());
            let is_record = |path: &Path| path.starts_with("environments");
            let is_content = |path: &Path| {
                ["objects", "layers", "refs", "roots"]
                    .iter()
                    .any(|part| path.starts_with(part))
            };
            for (path, _) in differs {
                assert!(!is_content(path), "{what}: {} differs: {told:#}", path.display());
                assert!(
                    is_record(path) || !after.contains_key(path),
                    "{what}: {}",
                    path.display()
                );
            }
        } else {
            let named = told["environments"].as_object().unwrap().len();
            let lost = told["damaged"].to_string();
            assert!(named > 0 || lost.contains("\"lost\""), "{what}: {told:#}");
            let wrong = world.verify();
            let is_missing = |finding: &Value| finding["is_missing"] == true;
            assert!(
                wrong["damaged"].as_array().unwrap().iter().all(is_missing),
                "{what}: {wrong:#}"
            );
        }
        fs::remove_dir_all(&store).unwrap();
        for (path, bytes) in &whole {
            let path = store.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        world.envfs.run(["store", "info"]);
    }
    println!("{rounds} rounds, {found} found, {rebuilt} rebuilt with other bytes");
}

#[test]
fn each_kind_of_content_comes_back_as_it_was() {
    let world = World::new();
    let store = world.envfs.store_path();
    let whole = lasting(&store);
    for directory in ["objects", "packs", "layers", "trees"] {
        for path in whole.keys().filter(|path| path.starts_with(directory)) {
            flip(&store.join(path), whole[path].len() / 2);
            let (finished, _) = world.repair(&[]);
            assert!(finished.status.success(), "{}: {finished}", path.display());
            let after = lasting(&store);
            let differs = whole.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes));
            let differs: Vec<_> = differs.map(|(path, _)| path).collect();
            assert_eq!(differs, [""; 0], "{} damaged", path.display());
        }
    }
    // The damaged bytes are kept.
    assert!(store.join("quarantine/1").is_dir());
    world.envfs.assert_sound();
}

#[test]
fn what_cannot_be_had_is_named() {
    let world = World::new();
    let store = world.envfs.store_path();
    let whole = lasting(&store);
    let large = whole.keys().find(|path| path.starts_with("objects")).unwrap();
    flip(&store.join(large), 7);
    fs::remove_dir_all(world.envfs.path().join("channel")).unwrap();
    let told = world.verify();
    assert_eq!(told["damaged"][0]["kind"], "object");
    assert!(!told["environments"].as_object().unwrap().is_empty(), "{told:#}");
    let finished = world.envfs.try_run(["verify", "--repair"]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stdout.contains("quarantine/1/objects/"), "{finished}");
    assert!(finished.stdout.contains(&world.second), "{finished}");
    assert!(finished.stderr.contains("not built again"), "{finished}");
    // Nothing else is harmed, and a collection goes on.
    world.envfs.run(["gc", "--grace", "0"]);
    // Another store has it.
    let donor = Envfs::new();
    for (path, bytes) in &whole {
        let path = donor.store_path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    donor.run(["store", "info"]);
    let (finished, told) = world.repair(&["--from", donor.store_path().to_str().unwrap()]);
    assert!(finished.status.success(), "{finished}");
    assert_eq!(told["environments"], serde_json::json!({}));
    assert_eq!(lasting(&store), whole);
    let missing = world.envfs.try_run(["verify", "--repair", "--from", "/no/store"]);
    missing.refused(1, &["/no/store"]);
    world
        .envfs
        .try_run(["verify", "--from", "/x"])
        .refused(2, &["--repair"]);
}

#[test]
fn what_is_read_is_right_or_an_error_by_every_backend() {
    if !is_possible() {
        return;
    }
    for backend in ["kernel", "fuse", "link"] {
        // The kernel opens large files without asking: only a check before the mount keeps it from ever reading wrong ones.
        if backend == "kernel" && !user::is_root() {
            continue;
        }
        let world = World::new();
        let store = world.envfs.store_path();
        let whole = lasting(&store);
        assert_eq!(world.assert_never_wrong("undamaged", backend), 0);
        let mut failed: BTreeMap<_, usize> = BTreeMap::new();
        for (path, content) in &whole {
            let kind = path.components().next().unwrap().as_os_str();
            if kind != "objects" && kind != "packs" {
                continue;
            }
            let _ = fs::remove_dir_all(store.join("cache"));
            // Each object in a pack: they start at such places.
            let mut bytes = content.clone();
            bytes.iter_mut().step_by(64).for_each(|byte| *byte ^= 1);
            rewrite(&store.join(path), &bytes);
            *failed.entry(kind).or_default() += world.assert_never_wrong(&path.display().to_string(), backend);
            rewrite(&store.join(path), content);
        }
        println!("errors by {backend}: {failed:?}");
        assert!(
            failed.len() == 2 && failed.values().all(|count| *count > 0),
            "{failed:?}"
        );
        let _ = fs::remove_dir_all(store.join("cache"));
        assert_eq!(world.assert_never_wrong("healed", backend), 0);
    }
}

#[test]
fn what_the_kernel_reads_unasked_is_checked_behind_the_first_mount() {
    if !is_possible() || !user::is_root() {
        return;
    }
    let (world, whole, at) = World::with_mount_point();
    let (store, at_text) = (world.envfs.store_path(), at.to_str().unwrap());
    let log = store.join("quarantine/log");
    for object in whole.keys().filter(|path| path.starts_with("objects")) {
        flip(&store.join(object), 100_000);
    }
    world.envfs.run(["mount", &world.first, at_text, "--backend", "kernel"]);
    let withdrawn = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    for _ in 0..600 {
        if withdrawn() == 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(
        withdrawn(),
        2,
        "both large files of the environment are found to be damaged"
    );
    for name in ["one", "two"] {
        assert!(fs::read(at.join("lib").join(name)).is_err(), "{name} can be read");
        assert!(fs::read(at.join("share").join(name).join("0")).is_ok());
    }
    // Put back beside the mount, it is right there too.
    let (finished, _) = world.repair(&[]);
    assert!(finished.status.success(), "{finished}");
    world.envfs.run(["umount", at_text]);
    world.envfs.run(["mount", &world.first, at_text, "--backend", "kernel"]);
    assert_eq!(fs::read(at.join("lib/one")).unwrap(), content("one", 1)[7].1.as_bytes());
    world.envfs.run(["umount", at_text]);
    assert_eq!(lasting(&store), whole);
}

#[test]
fn a_mount_goes_on_while_what_it_shows_is_repaired() {
    if !is_possible() {
        return;
    }
    let (world, whole, at) = World::with_mount_point();
    let (store, at_text) = (world.envfs.store_path(), at.to_str().unwrap());
    for backend in ["fuse", "link"] {
        world.envfs.run(["mount", &world.second, at_text, "--backend", backend]);
        for path in whole
            .keys()
            .filter(|path| path.starts_with("objects") || path.starts_with("packs"))
        {
            flip(&store.join(path), whole[path].len() / 2);
        }
        let (finished, _) = world.repair(&[]);
        assert!(finished.status.success(), "{finished}");
        for (name, number) in [("one", 1), ("two", 2), ("three", 3)] {
            for (path, content) in content(name, number) {
                let content = content.replace(PLACEHOLDER, at_text);
                assert!(
                    fs::read(at.join(&path)).unwrap() == content.as_bytes(),
                    "{path} by {backend}"
                );
            }
        }
        world.envfs.run(["umount", at_text]);
        assert_eq!(lasting(&store), whole);
    }
}

#[test]
fn real_packages_come_back() {
    let Some(channel) = RealChannel::local() else { return };
    let envfs = Envfs::new();
    let url = channel.url();
    let signature = envfs.build(["-c", &url, "python", "numpy"]).to_string();
    let store = envfs.store_path();
    let whole = lasting(&store);
    let largest = |directory: &str| {
        let paths = whole.iter().filter(|(path, _)| path.starts_with(directory));
        paths.max_by_key(|(_, bytes)| bytes.len()).unwrap().0.clone()
    };
    for path in ["objects", "packs", "trees"].map(largest) {
        flip(&store.join(&path), whole[&path].len() / 3);
    }
    let verified: Value = serde_json::from_str(&envfs.try_run(["--json", "verify"]).stdout).unwrap();
    assert_eq!(verified["damaged"].as_array().unwrap().len(), 3, "{verified:#}");
    assert!(verified["environments"][&signature].is_array(), "{verified:#}");
    let repaired = envfs.try_run(["verify", "--repair"]);
    assert!(repaired.status.success(), "{repaired}");
    // A tree that was lost may name another pack where two hold an object.
    let after = lasting(&store);
    let is_content = |path: &Path| !path.starts_with("trees") && !path.starts_with("environments");
    let differs = whole
        .iter()
        .filter(|(path, bytes)| is_content(path) && after.get(*path) != Some(bytes));
    assert_eq!(differs.map(|(path, _)| path).collect::<Vec<_>>(), [""; 0]);
    envfs.assert_sound();
}
