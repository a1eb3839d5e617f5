//! Mounts, runs and unmounts of which a process is killed before any of its steps: changes of files, of mounts, and starts of processes.
//!
//! So is whatever `envfs serve` starts, also later, when somebody comes. What stays is shown, can be taken away, and is in nobody's way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use envfs_tests::changes::World;
use envfs_tests::data::skip;
use envfs_tests::mounted::{assert_no_process_of, is_possible, leases, mounts_below};
use envfs_tests::program::{Finished, files_below, finish};
use envfs_tests::sound::{leftovers, wrongs};
use envfs_tests::steps::{self, Verdict, Watched, spread};
use envfs_tests::user;

/// So many steps of each command are tried.
const STEPS: usize = 6;

/// And of a server, from its start to its first user.
const SERVE_STEPS: usize = 6;

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

/// Whoever serves, whoever starts another server, and whoever mounts for them when somebody comes.
#[test]
fn of_whoever_serves_and_is_killed_nothing_stays_in_the_way() {
    if !user::is_root() || !is_possible() {
        skip("killing what serves: only root can look at all mounts");
        return;
    }
    let world = World::new(None);
    let at = world.store().with_file_name("at");
    std::fs::create_dir(&at).unwrap();
    let built = finish(world.program().args(world.build_of(&["a"]))).success();
    let serve = || {
        let mut serve = world.program();
        serve.args(["serve", "--idle", "1h"]).arg(&at);
        serve
    };
    let file = at.join(built.trim()).join("share/a/own-0");
    let right = "a0\n".repeat(2000);
    // Of who was killed in the middle nobody waits for an answer.
    let come = || {
        finish(
            Command::new("timeout")
                .args(["30", "cat"])
                .arg(&file)
                .stdin(Stdio::null()),
        )
    };
    let steps = |last: usize| {
        let count = Arc::new(AtomicUsize::new(0));
        let killed = Arc::new(Mutex::new(None));
        let ended = steps::run(&mut serve(), Watched::with_mounts(world.store().parent().unwrap()), {
            let (count, killed) = (Arc::clone(&count), Arc::clone(&killed));
            move |step| {
                count.store(step.number, Ordering::Relaxed);
                if step.number != last {
                    return Verdict::Happens;
                }
                *killed.lock().unwrap() = Some(step.clone());
                Verdict::KillsBefore
            }
        });
        (ended, count, killed)
    };
    let (whole, count, _) = steps(usize::MAX);
    assert!(whole.finished.status.success(), "{}", whole.finished);
    assert_eq!(come().success(), right);
    let count = count.load(Ordering::Relaxed);
    take_away(&world, &at, &whole.finished.to_string());
    whole.wait_for_all();
    let mut came = [0, 0];
    for last in spread(count, SERVE_STEPS) {
        let (ended, _, killed) = steps(last);
        let first = come();
        let case = format!(
            "killed before {:?}\n{}\n{first}",
            killed.lock().unwrap(),
            ended.finished
        );
        assert!(!first.stderr.contains("panicked"), "{case}");
        let is_right = |came: &Finished| came.status.success() && came.stdout == right;
        assert!(is_right(&first) || !first.status.success(), "{case}");
        came[usize::from(is_right(&first))] += 1;
        let listed = finish(world.program().args(["--json", "ps"])).success();
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let mut rows = listed.as_array().unwrap().iter();
        if rows.any(|row| row["mount_point"] == *at.to_str().unwrap() && row["state"] == "serving") {
            // Whoever comes next is served, whatever became of those who mounted for the first.
            let second = come();
            assert!(is_right(&second), "{case}\nthen: {second}");
        }
        let again = finish(&mut serve());
        assert!(
            again.status.success() || !mounts_below(&at).is_empty(),
            "{case}\nthen: {again}"
        );
        if !mounts_below(&at).is_empty() {
            finish(world.program().args(["umount", "--lazy"]).arg(&at)).success();
        }
        finish(&mut serve()).success();
        assert_eq!(come().success(), right, "{case}");
        take_away(&world, &at, &case);
        ended.wait_for_all();
    }
    println!(
        "killed before {} of {count} steps: {} saw an error, {} did not",
        came[0] + came[1],
        came[0],
        came[1]
    );
}

/// Unmounts, and looks that nothing is left.
fn take_away(world: &World, at: &Path, case: &str) {
    if !mounts_below(at).is_empty() || !files_below(at).is_empty() {
        let unmounted = finish(world.program().args(["umount", "--lazy"]).arg(at));
        assert!(unmounted.status.success(), "{case}\nthen: {unmounted}");
    }
    let stopped = finish(world.program().args(["warm", "--stop"]));
    assert!(stopped.status.success(), "{case}\nthen: {stopped}");
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
