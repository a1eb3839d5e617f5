//! Power cuts: the disk under a store is cut off at every step of what changes the store, and at random under a mix of commands.
//!
//! After each the disk is mounted again. Then everything verifies, everything that is referred to is there, what a command had
//! said was done is done, and the next command finds nothing in its way. That these checks see a missing sync is a test itself.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use envfs_store::digest::Digest;
use envfs_tests::chance::random;
use envfs_tests::changes::{Change, World};
use envfs_tests::power::{Disk, FileSystem, Journal};
use envfs_tests::program::finish;
use envfs_tests::sound::{Content, leftovers, wrongs};
use envfs_tests::steps::{self, Kind, Step, Verdict, Watched};

/// How many cuts there are, where the variable says no number: half of them at steps, half at random.
const CUTS: usize = 50;
const CUTS_VARIABLE: &str = "ENVFS_TEST_POWER_CUTS";

/// What can happen to a disk.
const CASES: [(FileSystem, Journal); 4] = [
    (FileSystem::Ext4, Journal::Flushed),
    (FileSystem::Ext4, Journal::Lost),
    (FileSystem::Xfs, Journal::Flushed),
    (FileSystem::Xfs, Journal::Lost),
];

/// A random cut comes within so much time.
const LONGEST_LIFE: Duration = Duration::from_millis(500);

fn cuts() -> usize {
    std::env::var(CUTS_VARIABLE).map_or(CUTS, |text| text.parse().unwrap()) / 2
}

#[test]
fn at_steps_of_every_change() {
    let started = Instant::now();
    let mut done = 0;
    for (number, (kind, journal)) in CASES.into_iter().enumerate() {
        let Some(disk) = Disk::new(kind) else { return };
        let world = World::new(Some(&disk.path().join("store")));
        let changes = world.changes();
        let counts = changes.iter().map(|change| world.count_steps(change));
        // One more: after the last, when the command has said that it is done.
        let all: Vec<_> = changes
            .iter()
            .zip(counts)
            .flat_map(|(change, count)| (1..=count + 1).map(move |step| (change, step)))
            .collect();
        let wanted = (cuts() / CASES.len()).max(1);
        for cut in 0..wanted.min(all.len()) {
            // Spread over all steps, and over others in each case.
            let at = (cut * CASES.len() + number) * all.len() / (wanted.min(all.len()) * CASES.len());
            let (change, step) = all[at];
            at_step(&disk, &world, change, journal, step);
            done += 1;
        }
        println!("{kind:?}, journal {journal:?}: {} steps", all.len());
    }
    println!("{done} power cuts at steps in {:?}", started.elapsed());
}

/// Cuts before this step of the change, or after the last if there is none such.
fn at_step(disk: &Disk, world: &World, change: &Change, journal: Journal, at: usize) {
    world.reset(change);
    disk.sync();
    let switch = disk.switch(journal);
    let now = switch.clone();
    let ended = steps::run(&mut world.command(change), Watched::below(world.store()), move |step| {
        if step.number != at {
            return Verdict::Happens;
        }
        now.cut();
        Verdict::KillsBefore
    });
    let was_done = ended.finished.status.success();
    if was_done {
        switch.cut();
    }
    let step = ended.steps.iter().find(|step| step.number == at);
    let case = format!("{}, {journal:?}, before {step:?}\n{}", change.name, ended.finished);
    ended.wait_for_all();
    disk.restore();
    assert_eq!(wrongs(world.store()), [""; 0], "{case}");
    let found = Content::of(world.store());
    if was_done {
        assert_eq!(found.names, change.after.names, "{case}");
        assert_eq!(found.pins, change.after.pins, "{case}");
        assert_eq!(found.owners, change.after.owners, "{case}");
        assert_eq!(found.environments(), change.after.environments(), "{case}");
    }
    for kept in change.before.files.intersection(&change.after.files) {
        assert!(found.files.contains(kept), "{} is lost: {case}", kept.display());
    }
    if found != change.after {
        let finished = finish(&mut world.command(change));
        assert!(finished.status.success(), "{case}\nthen: {finished}");
    }
    assert_eq!(wrongs(world.store()), [""; 0], "{case}");
    assert_eq!(Content::of(world.store()), change.after, "{case}");
    assert_eq!(leftovers(world.store()), [""; 0].map(PathBuf::from), "{case}");
}

/// Without a kind of sync, the same checks fail.
#[test]
fn a_sync_that_is_missing_is_missed() {
    type IsLeftOut = fn(&Step) -> bool;
    let of_files: IsLeftOut = |step| step.kind == Kind::Sync && !step.is_directory;
    let of_directories: IsLeftOut = |step| step.kind == Kind::Sync && step.is_directory;
    let none: IsLeftOut = |_| false;
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let Some(disk) = Disk::new(kind) else { return };
        let world = World::new(Some(&disk.path().join("store")));
        let changes = world.changes();
        // What is removed syncs directories alone; elsewhere the syncs of files that come later make up for those of directories.
        let removing = "name rm";
        let writing = ["build", "name set", "pin add", "owner add"];
        let is_tried = |change: &&Change| change.name == removing || writing.contains(&change.name);
        for change in changes.iter().filter(is_tried) {
            let left_out = match change.name == removing {
                true => (Journal::Lost, of_directories, true),
                false => (Journal::Flushed, of_files, true),
            };
            let cases = [left_out, (Journal::Flushed, none, false), (Journal::Lost, none, false)];
            for (journal, is_left_out, is_missed) in cases {
                world.reset(change);
                disk.sync();
                let watched = Watched::below(world.store());
                let ended = steps::run(&mut world.command(change), watched, move |step| {
                    match is_left_out(step) {
                        true => Verdict::IsLeftOut,
                        false => Verdict::Happens,
                    }
                });
                assert!(ended.finished.status.success(), "{}", ended.finished);
                disk.switch(journal).cut();
                ended.wait_for_all();
                disk.restore();
                let is_wrong = !wrongs(world.store()).is_empty() || Content::of(world.store()) != change.after;
                assert_eq!(is_wrong, is_missed, "{kind:?}, {journal:?}, {}", change.name);
            }
        }
    }
}

/// What a worker was told of its name.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// What it stands for, after the last command that said that it is done.
    done: Option<Digest>,
    /// What it may stand for since then.
    begun: Option<Option<Digest>>,
}

/// A worker that builds, names, renames and collects, one command after the other.
struct Worker<'a> {
    world: &'a World,
    number: usize,
    told: Told,
    /// Set before the power goes. What succeeds later may have been told by a disk that is dead: XFS seems to sync a directory then without
    /// an error.
    is_over: &'a AtomicBool,
    state: u64,
}

#[test]
fn at_random_under_a_mix_of_commands() {
    let started = Instant::now();
    let mut done = 0;
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for kind in [FileSystem::Xfs, FileSystem::Ext4] {
        let Some(disk) = Disk::new(kind) else { return };
        let world = World::new(Some(&disk.path().join("store")));
        disk.sync();
        let mut told = [Told::default(); 2];
        let mut commands = 0;
        for cut in 0..cuts().div_ceil(2) {
            let journal = [Journal::Flushed, Journal::Lost][cut % 2];
            let life = LONGEST_LIFE.mul_f64(random(&mut state));
            commands += work_until_cut(&disk, &world, &mut told, journal, life, &mut state);
            disk.restore();
            let case = format!("{kind:?}, {journal:?}, cut {cut} after {life:?}");
            assert_eq!(wrongs(world.store()), [""; 0], "{case}");
            let found = Content::of(world.store());
            for (number, told) in told.iter_mut().enumerate() {
                let name = found.names.get(&name_of(number)).copied();
                let may_be = [Some(told.done), told.begun];
                assert!(
                    may_be.contains(&Some(name)),
                    "{} stands for {name:?} after {told:?}: {case}",
                    name_of(number)
                );
                *told = Told {
                    done: name,
                    begun: None,
                };
            }
            if world.store().exists() {
                assert_eq!(leftovers(world.store()), [""; 0].map(PathBuf::from), "{case}");
            }
            done += 1;
        }
        println!("{kind:?}: {commands} commands ended before they were cut");
    }
    println!("{done} power cuts at random in {:?}", started.elapsed());
}

/// Lets workers work for so long, and says how many commands succeeded.
fn work_until_cut(
    disk: &Disk,
    world: &World,
    told: &mut [Told; 2],
    journal: Journal,
    life: Duration,
    state: &mut u64,
) -> usize {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = told
            .iter_mut()
            .enumerate()
            .map(|(number, told)| {
                random(state);
                let mut worker = Worker {
                    world,
                    number,
                    told: *told,
                    is_over: &is_over,
                    state: *state ^ (number as u64 + 1),
                };
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut commands = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        commands += worker.work();
                    }
                    *told = worker.told;
                    commands
                })
            })
            .collect();
        std::thread::sleep(life);
        is_over.store(true, Ordering::SeqCst);
        disk.switch(journal).cut();
        // What runs now ends by itself: it can write nothing any more.
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    })
}

impl Worker<'_> {
    /// Does one thing, and says how many commands succeeded.
    fn work(&mut self) -> usize {
        let name = name_of(self.number);
        match random(&mut self.state) {
            x if x < 0.15 => usize::from(self.run(&["gc", "--grace", "0"]).is_some()),
            x if x < 0.25 && self.told.done.is_some() => {
                self.told.begun = Some(None);
                let removed = self.run(&["name", "rm", &name]);
                self.settle(removed.is_some())
            }
            _ => {
                let packages: &[&str] = match random(&mut self.state) {
                    x if x < 0.3 => &["a"],
                    x if x < 0.6 => &["b"],
                    _ => &["a", "b"],
                };
                let arguments = self.world.build_of(packages);
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let Some(built) = self.run(&arguments) else { return 0 };
                let signature = built.trim();
                self.told.begun = Some(signature.parse().ok());
                let named = self.run(&["name", "set", &name, signature]);
                1 + self.settle(named.is_some())
            }
        }
    }

    /// What had begun is done, or was refused or cut.
    fn settle(&mut self, is_done: bool) -> usize {
        if is_done && !self.is_over.load(Ordering::SeqCst) {
            self.told.done = self.told.begun.take().flatten();
        }
        usize::from(is_done)
    }

    /// What a command printed, if it succeeded.
    fn run(&self, arguments: &[&str]) -> Option<String> {
        let finished = finish(self.world.program().args(arguments));
        assert!(!finished.stderr.contains("panicked"), "{arguments:?}: {finished}");
        finished.status.success().then_some(finished.stdout)
    }
}

fn name_of(worker: usize) -> String {
    format!("worker-{worker}:current")
}
