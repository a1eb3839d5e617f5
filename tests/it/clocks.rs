//! Clocks that jump while commands run, and two hosts whose clocks are a year apart: nothing that is in use goes, nothing stays for
//! ever, and nobody is told an age that cannot be.
//!
//! The machine's own clock is left alone: commands are told another time, as they would be by a host whose clock is wrong on a
//! store whose files are dated by a server.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use envfs_tests::clock::{Clock, Off};
use envfs_tests::data::skip;
use envfs_tests::load::{Done, Worker, World, sleeping};
use envfs_tests::mounted::{Who, is_mounted, is_possible, mounts_below};
use envfs_tests::program::{Finished, finish};
use envfs_tests::user;

const DAY: Duration = Duration::from_secs(86_400);

/// What a clock jumps between.
const WILD: [Off; 6] = [
    Off::Right,
    Off::AheadDays(5),
    Off::Begins,
    Off::BehindDays(365),
    Off::AheadDays(400),
    Off::BehindDays(2),
];

/// Set, it is how many rounds of use a clock jumps under.
const ROUNDS_VARIABLE: &str = "ENVFS_TEST_CLOCK_ROUNDS";

fn rounds() -> usize {
    let given = std::env::var(ROUNDS_VARIABLE).ok();
    given.map_or(4, |text| text.parse().unwrap())
}

/// Collects for as long as a worker works, and says how often.
fn collected_beside_work(world: &World, seed: u64, done: &Done, collect: impl Fn(usize) + Sync) -> usize {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                collect(count);
                count += 1;
            }
            count
        });
        let worker = scope.spawn(|| {
            let mut worker = Worker::new(world, "a", seed, done);
            (0..rounds()).for_each(|_| worker.round());
            worker.end();
        });
        let ended = worker.join();
        is_over.store(true, Ordering::Relaxed);
        let collections = collector.join();
        ended.unwrap();
        collections.unwrap()
    })
}

#[test]
fn a_clock_that_jumps_meanwhile_takes_nothing_and_keeps_nothing() {
    let Some((world, clock)) = world("clock") else { return };
    let done = Done::default();
    let (collections, jumps) = clock.jumps(&WILD, || {
        collected_beside_work(&world, 7, &done, |count| {
            let options = ["--grace=0", "--grace=10m", "--max-age=30d"];
            world.envfs.run(["gc", options[count % options.len()]]);
        })
    });
    println!("{jumps} jumps, {collections} collections: {}", done.shown());
    assert_all_goes(&world);
}

#[test]
fn what_is_kept_mounted_is_found_and_goes_whatever_the_clock_does_meanwhile() {
    let Some((world, clock)) = world("clock") else { return };
    let run = |arguments: &[&str]| told(world.envfs.try_run(arguments));
    let signature = world.build(&[0]);
    run(&["name", "set", "kept", &signature]);
    let root = world.directory("envs");
    let _gone = GoesWithTheTest(&world, &root);
    let ((), jumps) = clock.jumps(&WILD, || {
        for _ in 0..rounds() {
            run(&["warm", "--idle", "1h", &signature]);
            run(&["serve", &root, "--idle", "1h"]);
            world.assert_reads(&format!("{root}/kept"), &[0]);
            for _ in 0..3 {
                run(&["gc", "--grace", "0"]);
                world.assert_runs(&signature, &[0]);
                world.assert_reads(&format!("{root}/kept"), &[0]);
            }
            for listing in [&["ps"][..], &["ls"], &["name", "ls"], &["why", &signature], &["warm"]] {
                run(listing);
            }
            run(&["umount", &root]);
            run(&["warm", "--stop"]);
            world.await_unmounted();
            assert_eq!(mounts_below(world.envfs.path()), [""; 0].map(PathBuf::from));
        }
    });
    println!("{jumps} jumps");
    run(&["name", "rm", "kept"]);
    assert_all_goes(&world);
}

/// Whoever asked while the clock was wrong, either way, gets an answer; and with a right clock again it is never one that is older than it
/// may be, nor one for ever.
#[test]
fn answers_of_a_wrong_clock_are_asked_again_and_then_known() {
    let Some((world, clock)) = world("clock") else { return };
    let ensure = || {
        let words = ["ensure".to_owned()].into_iter().chain(world.specs(&[1]));
        world.envfs.json(words)
    };
    let first = ensure();
    assert_eq!((&first["known"], &ensure()["known"]), (&false.into(), &true.into()));
    for off in WILD
        .into_iter()
        .filter(|off| *off != Off::Right && *off != Off::BehindDays(2))
    {
        clock.set(off);
        // To this clock, the answer is days old or of the future.
        let asked = ensure();
        assert_eq!(
            (&asked["known"], &asked["signature"]),
            (&false.into(), &first["signature"]),
            "{off:?}"
        );
        let again = ensure();
        assert_eq!(again["known"], true, "{off:?}: {again}");
        world.envfs.run(["gc"]);
        clock.set(Off::Right);
        assert_eq!(ensure()["known"], false, "{off:?}");
        assert_eq!(ensure()["known"], true, "{off:?}");
    }
    // What was solved under a jumping clock is known from the next time on.
    let (told, _) = clock.jumps(&WILD, || (0..rounds()).map(|_| ensure()).collect::<Vec<_>>());
    assert!(
        told.iter().all(|told| told["signature"] == first["signature"]),
        "{told:?}"
    );
    ensure();
    assert_eq!(ensure()["known"], true);
}

/// One host builds and uses, the other one collects, with a clock that is a year ahead, or a year behind.
#[test]
fn two_hosts_whose_clocks_are_a_year_apart_share_a_store() {
    for off in [Off::AheadDays(365), Off::BehindDays(365), Off::Begins] {
        let Some((world, clock)) = world("other-clock") else {
            return;
        };
        let Some(other) = OtherHost::new(&world, &clock) else {
            return;
        };
        clock.set(off);
        let done = Done::default();
        let collections = collected_beside_work(&world, 11, &done, |count| {
            other.run(&["gc", ["--grace=0", "--grace=10m"][count % 2]]);
        });
        // A run that nothing else keeps is seen by the other one too.
        let signature = world.build(&[2]);
        let mut run = sleeping(&world.envfs, &signature);
        other.run(&["gc", "--grace", "0"]);
        world.assert_runs(&signature, &[2]);
        drop(run.stdin.take());
        run.wait().unwrap();
        println!("{off:?}: {collections} collections: {}", done.shown());
        assert_all_goes(&world);
    }
}

/// What a file server dates is no older to a host whose clock is ahead, and not of the future to one whose clock is behind.
#[test]
fn ages_are_told_by_who_dates_the_files() {
    let Some((world, clock)) = world("other-clock") else {
        return;
    };
    let Some(other) = OtherHost::new(&world, &clock) else {
        return;
    };
    let signature = world.build(&[3]);
    let record = world.envfs.store_path().join(format!("environments/{signature}.json"));
    let draft = world.envfs.store_path().join("tmp/draft-1-1");
    std::fs::write(&draft, "somebody is writing this").unwrap();
    clock.set(Off::AheadDays(365));
    other.run(&["gc"]);
    other.run(&["gc", "--max-age", "30d"]);
    assert!(record.exists(), "it was made a moment ago");
    assert!(draft.exists(), "and so was this");
    std::fs::remove_file(draft).unwrap();

    // Nobody has used it for long; looking at it from a host in the past is no use of it.
    clock.set(Off::BehindDays(365));
    let used = SystemTime::now() - 40 * DAY;
    std::fs::File::open(&record).unwrap().set_modified(used).unwrap();
    other.run(&["gc", "--max-age", "60d"]);
    assert!(record.exists());
    world.envfs.run(["gc", "--max-age", "30d"]);
    assert!(!record.exists(), "it was used {:?} ago", used.elapsed());

    // And it collects as others do.
    world.build(&[3]);
    other.run(&["gc", "--grace", "0"]);
    assert!(!record.exists());
}

/// A world whose commands go by this clock, if its name is `clock`; by the machine's otherwise.
fn world(name: &str) -> Option<(World, Clock)> {
    if !is_possible() {
        return None;
    }
    let mut world = World::new(Who::Tester);
    let clock = Clock::new(world.envfs.path(), name)?;
    if name == "clock" {
        for (name, value) in clock.settings() {
            world.envfs.set(name, value);
        }
    }
    Some((world, clock))
}

/// Without a name, pin, owner or use everything goes at once.
fn assert_all_goes(world: &World) {
    world.await_unmounted();
    world.envfs.run(["verify"]);
    for _ in 0..2 {
        world.gc();
    }
    assert_eq!(world.envfs.json(["ls"]), serde_json::json!([]));
    assert_eq!(world.left(), [""; 0].map(PathBuf::from));
}

/// What a failed test leaves must not stay mounted.
struct GoesWithTheTest<'a>(&'a World, &'a str);

impl Drop for GoesWithTheTest<'_> {
    fn drop(&mut self) {
        if is_mounted(self.1.as_ref()) {
            self.0.envfs.try_run(["umount", "--lazy", self.1]);
        }
        self.0.envfs.try_run(["warm", "--stop"]);
    }
}

/// The same store, seen by a host with a name, a kernel and a clock of its own.
struct OtherHost<'a> {
    world: &'a World,
    clock: &'a Clock,
    boot: PathBuf,
}

impl<'a> OtherHost<'a> {
    fn new(world: &'a World, clock: &'a Clock) -> Option<Self> {
        if !user::is_root() {
            skip("another host: only root can give a command another name of the machine");
            return None;
        }
        let boot = world.envfs.write("boot", "5f0c1f6e-0000-4000-8000-000000000001\n");
        Some(Self { world, clock, boot })
    }

    fn run(&self, arguments: &[&str]) -> String {
        let program = self.world.envfs.command();
        let script = "hostname other && mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "sh", "-c", script]).arg(&self.boot);
        command.arg(program.get_program()).args(arguments).env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        told(finish(self.clock.rules(&mut command)))
    }
}

fn told(finished: Finished) -> String {
    assert!(!finished.stderr.contains("panicked"), "{finished}");
    finished.success()
}
