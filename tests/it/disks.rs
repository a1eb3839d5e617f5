//! Stores on other file systems than tests use otherwise: what works there works, and what does not says what to do instead.
//!
//! A network file system is not made here; one that a program serves is as far as a test gets.

use std::path::{Path, PathBuf};

use envfs_tests::load::World;
use envfs_tests::mounted::{Who, is_possible, mounts_below};
use envfs_tests::program::{Finished, files_below};
use envfs_tests::volume::Volume;

/// Ways to mount, and whether each works everywhere.
const MOUNTS: [(&[&str], bool); 5] = [
    (&[], true),
    (&["--backend", "fuse"], true),
    (&["--backend", "link"], true),
    (&["--backend", "kernel"], false),
    (&["--writable"], false),
];

/// All that a store is for, on `disk`, which is mounted where the store will be, by root and by an ordinary user. Says what worked.
fn use_all(disk: impl Fn(&Path) -> Option<Volume>) -> Vec<(Who, Vec<String>)> {
    let mut all = Vec::new();
    if !is_possible() {
        return all;
    }
    for who in [Who::Tester, Who::Ordinary] {
        let world = World::new(who);
        let Some(disk) = disk(&world.envfs.store_path()) else {
            return all;
        };
        who.owns(disk.path());
        let signature = world.build(&[0, 1]);
        world.envfs.run(["name", "set", "kept", &signature]);
        let at = world.directory("at");
        let mut works = Vec::new();
        for (options, is_needed) in MOUNTS {
            let mounted = world.envfs.try_run([&["mount", &signature, &at], options].concat());
            if is_told(&mounted, is_needed) {
                works.push(options.join(" "));
                world.assert_reads(&at, &[0, 1]);
                world.envfs.run(["gc", "--grace", "0"]);
                world.assert_reads(&at, &[0, 1]);
                world.envfs.run(["umount", &at]);
            }
        }
        world.assert_runs(&signature, &[0, 1]);
        for how in ["--writable", "--scratch"] {
            let script = "echo x > $CONDA_PREFIX/new && cat $CONDA_PREFIX/new";
            let run = world.envfs.try_run(["run", how, &signature, "--", "sh", "-c", script]);
            if is_told(&run, false) {
                works.push(format!("run {how}"));
                assert_eq!(run.stdout, "x\n");
            }
        }
        world.envfs.run(["warm", "--idle", "1h", &signature]);
        world.assert_runs(&signature, &[0]);
        world.envfs.run(["warm", "--stop"]);
        world.envfs.run(["verify"]);
        assert_goes(&world, &signature, &at);
        all.push((who, works));
    }
    all
}

/// It succeeded, or was refused with a word on what works instead.
fn is_told(finished: &Finished, is_needed: bool) -> bool {
    if finished.status.success() {
        return true;
    }
    assert!(!is_needed, "{finished}");
    finished.refused(1, &[]);
    let ways = ["--backend", "--store", "envfs run"];
    assert!(ways.iter().any(|way| finished.stderr.contains(way)), "{finished}");
    false
}

/// Nothing keeps it any more, and nothing is left of it.
fn assert_goes(world: &World, signature: &str, at: &str) {
    // What was written keeps its environment.
    for place in [signature, at] {
        let discarded = world.envfs.try_run(["discard", place]);
        assert!(matches!(discarded.status.code(), Some(0 | 1)), "{discarded}");
    }
    world.envfs.run(["name", "rm", "kept"]);
    world.await_unmounted();
    assert_eq!(mounts_below(at.as_ref()), [""; 0].map(PathBuf::from));
    // What was removed while it was open has another name until it is closed, where a program serves the files.
    for _ in 0..2 {
        world.gc();
    }
    let mut left = world.left();
    left.retain(|path| !files_below(path).is_empty() || path.is_file());
    assert_eq!(
        left,
        [""; 0].map(PathBuf::from),
        "{:?}",
        left.iter().map(|path| files_below(path)).collect::<Vec<_>>()
    );
}

#[test]
fn a_store_on_tmpfs() {
    println!("{:?}", use_all(|path| Volume::in_memory(path, "size=200m")));
}

#[test]
fn a_store_on_xfs() {
    println!("{:?}", use_all(|path| Volume::xfs(path, 320 << 20, &[])));
}

#[test]
fn a_store_on_xfs_without_reflinks() {
    println!(
        "{:?}",
        use_all(|path| Volume::xfs(path, 320 << 20, &["-m", "reflink=0"]))
    );
}

#[test]
fn a_store_on_btrfs() {
    println!("{:?}", use_all(|path| Volume::btrfs(path, 256 << 20)));
}

#[test]
fn a_store_on_overlayfs() {
    println!("{:?}", use_all(Volume::overlay));
}

#[test]
fn a_store_that_a_program_serves() {
    println!("{:?}", use_all(Volume::passed_through));
}
