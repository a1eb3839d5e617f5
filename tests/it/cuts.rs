//! Every step of every command that changes the store: as the last one before its process is killed, and as the one that fails.

use std::collections::BTreeMap;

use envfs_tests::changes::{Change, World};
use envfs_tests::program::{Finished, files_below, finish};
use envfs_tests::sound::{Content, leftovers, wrongs};
use envfs_tests::steps::{self, Ended, Kind, Step, Verdict, Watched, spread};
use nix::errno::Errno;

/// So many steps of each command are tried.
const STEPS: usize = 8;

#[test]
fn a_command_that_is_killed_before_any_of_its_steps() {
    let world = World::new(None);
    let mut counts = BTreeMap::new();
    for change in world.changes().iter().chain([&world.migration()]) {
        for last in spread(world.count_steps(change), STEPS) {
            world.reset(change);
            let watched = Watched::below(world.store());
            let ended = steps::run_until(&mut world.command(change), watched, last);
            let case = case(change, &ended, last);
            assert_eq!(wrongs(world.store()), [""; 0], "{case}");
            // What was there before is there still, but for what the command removes.
            assert_between(&Content::of(world.store()), change, &case);
            again(&world, change, &case);
            *counts.entry(change.name).or_insert(0) += 1;
            ended.wait_for_all();
        }
    }
    println!("killed before a step: {counts:?}");
}

#[test]
fn a_disk_that_is_full_or_fails_at_any_step() {
    let world = World::new(None);
    let mut counts = BTreeMap::new();
    for change in &world.changes() {
        for failing in spread(world.count_steps(change), STEPS) {
            for fault in [Fault::Full, Fault::Once(Errno::EIO)] {
                world.reset(change);
                let watched = Watched::below(world.store());
                let ended = steps::run(&mut world.command(change), watched, move |step| {
                    fault.verdict(step, failing)
                });
                let case = format!("{fault:?}, {}", case(change, &ended, failing));
                assert_eq!(wrongs(world.store()), [""; 0], "{case}");
                assert_between(&Content::of(world.store()), change, &case);
                match ended.finished.status.code() {
                    // Nothing depends on what failed.
                    Some(0) => assert_eq!(Content::of(world.store()), change.after, "{case}"),
                    _ => assert_refused(&ended.finished, &world, fault, &case),
                }
                again(&world, change, &case);
                *counts.entry((change.name, ended.finished.status.code())).or_insert(0) += 1;
                ended.wait_for_all();
            }
        }
    }
    println!("failed at a step, and the exit code: {counts:?}");
}

/// Of a migration also the report lies on that disk; what it failed at is told there, or if that cannot be written, at once.
#[test]
fn a_migration_on_a_disk_that_is_full_or_fails_at_any_step() {
    let world = World::new(None);
    let change = world.migration();
    let disk = world.store().parent().unwrap().to_owned();
    world.reset(&change);
    let whole = steps::run(&mut world.command(&change), Watched::below(&disk), |_| Verdict::Happens);
    assert!(whole.finished.status.success(), "{}", whole.finished);
    let count = whole.steps.len();
    whole.wait_for_all();
    let mut counts = BTreeMap::new();
    for failing in spread(count, 2 * STEPS) {
        for fault in [Fault::Full, Fault::Once(Errno::EIO)] {
            world.reset(&change);
            let ended = steps::run(&mut world.command(&change), Watched::below(&disk), move |step| {
                fault.verdict(step, failing)
            });
            let case = format!("{fault:?}, {}", case(&change, &ended, failing));
            assert_eq!(wrongs(world.store()), [""; 0], "{case}");
            assert_between(&Content::of(world.store()), &change, &case);
            let finished = &ended.finished;
            assert!(!finished.stderr.contains("panicked"), "{case}");
            let report = std::fs::read_to_string(world.report().join("report.json")).unwrap_or_default();
            let told = format!("{}{report}", finished.stderr);
            if finished.status.success() {
                assert_eq!(Content::of(world.store()), change.after, "{case}");
                assert!(report.contains("\"succeeded\": true"), "{report}: {case}");
            } else {
                assert_eq!(finished.status.code(), Some(1), "{case}");
                for part in [&disk.display().to_string(), fault.message()] {
                    assert!(told.contains(part), "`{part}` is missing in {told}: {case}");
                }
            }
            again(&world, &change, &case);
            *counts.entry(finished.status.code()).or_insert(0) += 1;
            ended.wait_for_all();
        }
    }
    println!("of {count} steps, the exit code of those that failed: {counts:?}");
}

/// What a disk does wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// From some step on nothing more can be written to it.
    Full,
    /// One step fails.
    Once(Errno),
}

impl Fault {
    fn verdict(self, step: &Step, failing: usize) -> Verdict {
        let takes_room = !matches!(step.kind, Kind::Remove | Kind::Mark | Kind::Sync);
        match self {
            Self::Full if step.number >= failing && takes_room => Verdict::Fails(Errno::ENOSPC),
            Self::Once(errno) if step.number == failing => Verdict::Fails(errno),
            _ => Verdict::Happens,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Full => "No space left on device",
            Self::Once(_) => "Input/output error",
        }
    }
}

/// Its message names the file and the reason, and it printed no result.
fn assert_refused(finished: &Finished, world: &World, fault: Fault, case: &str) {
    let store = world.store().display().to_string();
    assert_eq!(finished.status.code(), Some(1), "{case}");
    assert_eq!(finished.stdout, "", "{case}");
    if let Fault::Full = fault {
        // Removing takes no room.
        let left = files_below(&world.store().join("tmp"));
        assert!(left.iter().all(|path| path.ends_with("lock")), "{left:?}: {case}");
    }
    for part in ["error: ", &store, fault.message()] {
        assert!(finished.stderr.contains(part), "`{part}` is missing: {case}");
    }
    assert!(!finished.stderr.contains("panicked"), "{case}");
}

/// The command does now what it would have done then, and nothing is left of the first time.
fn again(world: &World, change: &Change, case: &str) {
    if Content::of(world.store()) != change.after {
        let finished = finish(&mut world.command(change));
        assert!(finished.status.success(), "{case}\nthen: {finished}");
    }
    assert_eq!(wrongs(world.store()), [""; 0], "{case}");
    assert_eq!(Content::of(world.store()), change.after, "{case}");
    assert_eq!(
        leftovers(world.store()),
        [""; 0].map(std::path::PathBuf::from),
        "{case}"
    );
    assert_eq!(world.collect(), change.collected, "{case}");
}

/// Whatever is in the store both before and after is in it between, and nothing else is.
fn assert_between(found: &Content, change: &Change, case: &str) {
    let (before, after) = (&change.before, &change.after);
    for name in before.files.intersection(&after.files) {
        assert!(found.files.contains(name), "{} is lost: {case}", name.display());
    }
    for name in &found.files {
        assert!(
            before.files.contains(name) || after.files.contains(name),
            "{} came from nowhere: {case}",
            name.display()
        );
    }
    assert!(
        found.names == before.names || found.names == after.names,
        "{found:?}: {case}"
    );
    assert!(
        found.pins == before.pins || found.pins == after.pins,
        "{found:?}: {case}"
    );
    assert!(
        found.owners == before.owners || found.owners == after.owners,
        "{found:?}: {case}"
    );
}

fn case(change: &Change, ended: &Ended, number: usize) -> String {
    let step = ended.steps.iter().find(|step| step.number == number);
    let step = step.map_or_else(
        || "after its last step".to_owned(),
        |step| format!("step {number}: {:?} {}", step.kind, step.path.display()),
    );
    format!("{}, {step}\n{}", change.name, ended.finished)
}
