//! Mounts, runs and unmounts of which a process is killed before any of its steps: changes of files, of mounts, and starts of processes.
//!
//! What stays is shown, can be taken away, and is in nobody's way.

use std::collections::BTreeMap;
use std::path::Path;

use envfs_tests::changes::World;
use envfs_tests::data::skip;
use envfs_tests::mounted::{assert_no_process_of, is_possible, leases, mounts_below};
use envfs_tests::program::{files_below, finish};
use envfs_tests::sound::{leftovers, wrongs};
use envfs_tests::steps::{self, Verdict, Watched, spread};
use envfs_tests::user;

/// So many steps of each command are tried.
const STEPS: usize = 6;

/// What is done before, and what is killed: `$1` is the environment, `@` where it is mounted.
const COMMANDS: [(&[&str], &str); 9] = [
    (&[], "mount $1 @ --backend kernel"),
    (&[], "mount $1 @ --backend fuse"),
    (&[], "mount $1 @ --backend link"),
    (&[], "mount $1 @ --writable"),
    (&["mount $1 @ --backend kernel"], "umount @"),
    (&["mount $1 @ --backend fuse"], "umount @"),
    (&["mount $1 @ --backend link"], "umount @"),
    (&[], "run $1 -- true"),
    (&[], "run --writable $1 -- a"),
];

#[test]
fn of_whatever_is_killed_nothing_stays_in_the_way() {
    if !user::is_root() || !is_possible() {
        skip("killing what mounts: only root can look at all mounts");
        return;
    }
    let world = World::new(None);
    let at = world.store().with_file_name("at");
    std::fs::create_dir(&at).unwrap();
    let built = finish(world.program().args(world.build_of(&["a"]))).success();
    let words = |command: &str| -> Vec<String> {
        let word = |word: &str| match word {
            "$1" => built.trim().to_owned(),
            "@" => at.display().to_string(),
            word => word.to_owned(),
        };
        command.split(' ').map(word).collect()
    };
    let run = |command: &str| finish(world.program().args(words(command)));
    let mut counts = BTreeMap::new();
    for (before, command) in COMMANDS {
        let watched = || Watched::with_mounts(world.store().parent().unwrap());
        let begin = || before.iter().for_each(|first| drop(run(first).success()));
        begin();
        let whole = steps::run(world.program().args(words(command)), watched(), |_| Verdict::Happens);
        assert!(whole.finished.status.success(), "{}", whole.finished);
        let count = whole.steps.len();
        take_away(&world, &at, &whole.finished.to_string());
        whole.wait_for_all();
        for last in spread(count, STEPS) {
            begin();
            let ended = steps::run_until(world.program().args(words(command)), watched(), last);
            let step = ended.steps.iter().find(|step| step.number == last);
            let case = format!("{before:?} {command}, killed before {step:?}\n{}", ended.finished);
            run("ps").success();
            if before.is_empty() {
                // The same again, where that is what a person would do.
                let again = run(command);
                let is_there = !mounts_below(&at).is_empty() || !files_below(&at).is_empty();
                assert!(again.status.success() || is_there, "{case}\nthen: {again}");
            }
            take_away(&world, &at, &case);
            ended.wait_for_all();
            *counts.entry(command).or_insert(0) += 1;
        }
    }
    println!("killed before a step: {counts:?}");
}

/// Unmounts, and looks that nothing is left.
fn take_away(world: &World, at: &Path, case: &str) {
    if !mounts_below(at).is_empty() || !files_below(at).is_empty() {
        let unmounted = finish(world.program().args(["umount", "--lazy"]).arg(at));
        assert!(unmounted.status.success(), "{case}\nthen: {unmounted}");
    }
    let place = world.store().parent().unwrap();
    assert_no_process_of(place);
    assert_eq!(mounts_below(place), [""; 0].map(std::path::PathBuf::from), "{case}");
    assert_eq!(files_below(at), [""; 0].map(std::path::PathBuf::from), "{case}");
    assert_eq!(leases(&envfs_store::Store::open(world.store()).unwrap()), 0, "{case}");
    assert_eq!(lasting_wrongs(world.store()), [""; 0], "{case}");
    assert_eq!(
        leftovers(world.store()),
        [""; 0].map(std::path::PathBuf::from),
        "{case}"
    );
}

/// What stays wrong: a process that ends has lost its command line, by which it is known, before the kernel lets its locks go.
fn lasting_wrongs(store: &Path) -> Vec<String> {
    for _ in 0..100 {
        if wrongs(store).is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    wrongs(store)
}
