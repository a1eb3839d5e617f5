//! All of it together and for long: builds, mounts, runs and collections, with processes killed beside them, and damage that is
//! repaired between them. Now and then everybody pauses, and it is looked that nothing is missing, wrong or left over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use envfs_tests::chance::below;
use envfs_tests::damage::{damage, lasting};
use envfs_tests::data::skip;
use envfs_tests::load::{Done, PACKAGES, Worker, World};
use envfs_tests::mounted::{Mounted, Who, assert_no_process_of, is_possible, mounts_below, processes_of};
use envfs_tests::program::{files_below, finish};
use envfs_tests::user;
use serde_json::Value;

/// How long it takes, in seconds, and where chance begins. `cargo xtask soak` sets both.
const SECONDS_VARIABLE: &str = "ENVFS_TEST_SOAK_SECONDS";
const SEED_VARIABLE: &str = "ENVFS_TEST_SOAK_SEED";
const SECONDS: u64 = 12;

/// How long there is load between two pauses.
const LOAD: Duration = Duration::from_secs(10);

const WORKERS: u32 = 2;

/// Of what is mounted all the time, only what FUSE serves has processes that stay: a server and its keeper. One that sees what is
/// opened first of what the kernel serves is there for two minutes at most.
const PROCESSES: usize = 2;
const KERNEL: &str = "resident-kernel";

/// A server at rest has no more of its own than this, and no more files open, however long it has served.
const MAX_SERVER_KIB: u64 = 32 << 10;
const MAX_SERVER_FILES: usize = 64;

/// After a repair files may lie in other packs than before, which take some blocks more or less.
const MAX_GROWN_BYTES: u64 = 64 << 10;

/// What takes longer hangs, on the slowest of machines.
const MAX_TIME: Duration = Duration::from_secs(60);

/// How long what has ended may be seen.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How old a draft may become before somebody sweeps it.
const DRAFT_AGE: Duration = Duration::from_secs(120);

#[test]
fn everything_together() {
    if !is_possible() {
        return;
    }
    if !user::is_root() {
        return skip("a soak: only root can be two users");
    }
    let said = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let duration = Duration::from_secs(said(SECONDS_VARIABLE).unwrap_or(SECONDS));
    let seed = said(SEED_VARIABLE).unwrap_or(1);
    println!("seed {seed}, {} s", duration.as_secs());
    let worlds = [World::new(Who::Tester), World::new(Who::Ordinary)];
    let done = Done::default();
    let residents = worlds.each_ref().map(Residents::new);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let started = Instant::now();
    let mut minutes = 0;
    let mut pauses = 0;
    while started.elapsed() < duration {
        load(&residents, pauses, &mut state, &done);
        for residents in &residents {
            residents.assert_nothing_else();
            residents.break_and_mend(&mut state, &done);
        }
        pauses += 1;
        if started.elapsed().as_secs() / 60 > minutes {
            minutes = started.elapsed().as_secs() / 60;
            println!("minute {minutes}: {pauses} pauses; {}", done.shown());
        }
    }
    for residents in residents {
        residents.end();
    }
    println!("{pauses} pauses in {:?}; {}", started.elapsed(), done.shown());
    assert!(done.slowest() < MAX_TIME, "{:?}", done.slowest());
}

/// Everybody works, and is killed, until it is time for a pause.
fn load(residents: &[Residents<'_>], pause: u32, state: &mut u64, done: &Done) {
    let started = Instant::now();
    let is_over = || started.elapsed() > LOAD;
    std::thread::scope(|scope| {
        for residents in residents {
            let world = residents.world;
            let working = &residents.working;
            for number in 0..WORKERS {
                let mut worker = Worker::new(world, &format!("{pause}-{number}"), seed(state), done);
                working.fetch_add(1, Ordering::Relaxed);
                scope.spawn(move || {
                    let working = Working(working);
                    while !is_over() {
                        worker.round();
                    }
                    worker.end();
                    drop(working);
                });
            }
            let mut killer = seed(state);
            scope.spawn(move || {
                while working.load(Ordering::Relaxed) > 0 {
                    residents.kill_something(&mut killer, done);
                    done.count("collections", || world.gc());
                    done.count("reads of residents", || residents.assert_whole());
                }
            });
        }
    });
}

/// Counts a worker out, also if it fails: what goes on beside them ends with the last.
struct Working<'a>(&'a AtomicU32);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn seed(state: &mut u64) -> u64 {
    (below(state, usize::MAX) as u64) << 32 | below(state, usize::MAX) as u64 | 1
}

/// Environments of one store that are mounted all the time, one for each backend, and what is there on account of them.
struct Residents<'a> {
    world: &'a World,
    mounted: Vec<(Mounted<'a>, [usize; 2])>,
    signatures: BTreeSet<String>,
    mounts: usize,
    /// What the store holds, as a collection counts it.
    bytes: u64,
    working: AtomicU32,
}

impl<'a> Residents<'a> {
    fn new(world: &'a World) -> Self {
        let backends: &[&str] = match world.who {
            Who::Tester => &["kernel", "fuse", "link"],
            Who::Ordinary => &["fuse", "link"],
        };
        let mut mounted = Vec::new();
        let mut signatures = BTreeSet::new();
        for (number, backend) in backends.iter().enumerate() {
            let numbers = [number, number + 3];
            let signature = world.build(&numbers);
            let at = world.envfs.path().join(format!("resident-{backend}"));
            let options = ["--backend", *backend];
            let signature_digest = signature.parse().unwrap();
            mounted.push((
                Mounted::with(&world.envfs, &signature_digest, &at, world.who, &options),
                numbers,
            ));
            // What nothing refers to is not missed when it is lost.
            world.envfs.run(["pin", "add", &signature, "--reason", "resident"]);
            signatures.insert(signature);
        }
        Self {
            mounts: mounts_below(world.envfs.path()).len(),
            bytes: world.gc()["left_bytes"].as_u64().unwrap(),
            world,
            mounted,
            signatures,
            working: AtomicU32::new(0),
        }
    }

    fn at(mounted: &Mounted<'_>) -> String {
        mounted.path().to_str().unwrap().to_owned()
    }

    fn assert_whole(&self) {
        for (mounted, numbers) in &self.mounted {
            self.world.assert_reads(&Self::at(mounted), numbers);
        }
    }

    /// `kill -9` of a build or a collection somewhere on its way, or of the server of a mount.
    fn kill_something(&self, state: &mut u64, done: &Done) {
        let world = self.world;
        let mut victim = world.envfs.command();
        match below(state, 3) {
            0 => {
                let number = below(state, PACKAGES - 1);
                victim.arg("build").args(world.specs(&[number, number + 1]));
                self.kill(&mut victim, state);
                done.count("killed builds", || ());
            }
            1 => {
                victim.args(["gc", "--grace", "0"]);
                self.kill(&mut victim, state);
                done.count("killed collections", || ());
            }
            _ => {
                let rows = world.envfs.json(["ps"]);
                // A mount whose first server is killed is refused; those of workers may be just beginning. A run is no server.
                let served = |row: &&Value| {
                    let place = row["mount_point"].as_str().unwrap();
                    row["kind"] == "mount"
                        && row["backend"] == "fuse"
                        && self
                            .mounted
                            .iter()
                            .any(|(mounted, _)| mounted.path() == Path::new(place))
                };
                let servers: Vec<_> = rows.as_array().unwrap().iter().filter(served).collect();
                let Some(pid) = servers
                    .get(below(state, servers.len().max(1)))
                    .and_then(|row| row["pid"].as_u64())
                else {
                    return;
                };
                // The number may be somebody else's by now.
                if processes_of(world.envfs.path())
                    .iter()
                    .any(|process| process.starts_with(&format!("/proc/{pid}:")))
                {
                    finish(Command::new("kill").args(["-9", &pid.to_string()]));
                    done.count("killed servers", || ());
                }
            }
        }
    }

    fn kill(&self, victim: &mut Command, state: &mut u64) {
        let mut child = victim.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(below(state, 300) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// When nobody else is there, nothing else is: no mount, process, lease, environment or byte; and those who serve have
    /// not grown.
    fn assert_nothing_else(&self) {
        let world = self.world;
        let envfs = &world.envfs;
        // What was killed left its drafts to the next who writes.
        world.build(&[0]);
        await_count(PROCESSES, || {
            let mut processes = processes_of(envfs.path());
            processes.retain(|process| !process.contains(KERNEL));
            processes
        });
        await_count(self.mounts, || mounts_below(envfs.path()));
        world.gc();
        let collected = world.gc();
        let rows = envfs.json(["ls"]);
        let listed = rows.as_array().unwrap().iter();
        let listed: BTreeSet<_> = listed
            .map(|row| row["signature"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(listed, self.signatures, "{:#?}", self.kept(&listed));
        assert_eq!(collected["freed_bytes"], 0, "{collected}");
        let grown_bytes = collected["left_bytes"].as_u64().unwrap().saturating_sub(self.bytes);
        assert!(
            grown_bytes < MAX_GROWN_BYTES,
            "{grown_bytes}: {collected}; {:#?}; {:#?}",
            world.left(),
            self.kept(&listed)
        );
        self.assert_sound();
        let rows = envfs.json(["ps"]);
        let ours = rows.as_array().unwrap().iter().filter(|row| {
            let place = Path::new(row["mount_point"].as_str().unwrap());
            place.starts_with(envfs.path())
        });
        let ours: Vec<_> = ours.collect();
        assert_eq!(ours.len(), self.mounted.len(), "{rows:#}");
        for row in ours {
            assert_eq!(row["state"], "serving", "{rows:#}");
            for pid in ["pid", "keeper_pid"].iter().filter_map(|name| row[name].as_u64()) {
                assert_small(pid);
            }
        }
    }

    /// What keeps each of these.
    fn kept(&self, signatures: &BTreeSet<String>) -> Vec<String> {
        let why = |signature| self.world.envfs.try_run(["--json", "why", signature]).stdout;
        signatures.iter().map(|signature| why(signature)).collect()
    }

    fn assert_sound(&self) {
        let verified = self.world.envfs.json(["verify"]);
        assert_eq!(verified["damaged"], serde_json::json!([]));
        let mut left = files_below(&self.world.envfs.store_path().join("tmp"));
        left.retain(|path| !is_draft(path));
        assert_eq!(left, Vec::<PathBuf>::new());
    }

    /// Damages the store, reads through what can see it, repairs it from a copy, and reads again.
    fn break_and_mend(&self, state: &mut u64, done: &Done) {
        let world = self.world;
        let (store, copy) = (world.envfs.store_path(), world.envfs.path().join("copy"));
        finish(Command::new("cp").arg("-a").args([&store, &copy])).success();
        let what = damage(&store, &lasting(&store), state);
        world.who.owns(&store);
        for (mounted, numbers) in &self.mounted {
            // What the kernel serves it does not look at again.
            if mounted.path().ends_with(KERNEL) {
                continue;
            }
            for number in *numbers {
                let read = world.read(&Self::at(mounted), number);
                if read.stderr.is_empty() {
                    world.assert_whole(number, &read.stdout);
                }
            }
        }
        done.count("repairs", || {
            let from = ["verify", "--repair", "--from", copy.to_str().unwrap()];
            let repaired = world.envfs.try_run(from);
            assert!(repaired.status.success(), "{what}{repaired}");
        });
        std::fs::remove_dir_all(&copy).unwrap();
        self.assert_sound();
        self.assert_whole();
    }

    /// With what was mounted gone, nothing is left.
    fn end(self) {
        for (mounted, _) in self.mounted {
            mounted.unmount();
        }
        for signature in &self.signatures {
            self.world.envfs.run(["pin", "rm", signature]);
        }
        assert_no_process_of(self.world.envfs.path());
        self.world.gc();
        let mut left = self.world.left();
        left.retain(|path| !is_draft(path));
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}

/// Whether it is what somebody who was killed has begun to write, which is taken for theirs for a minute.
fn is_draft(path: &Path) -> bool {
    let is_young = |path: &Path| {
        let modified = path.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < DRAFT_AGE))
    };
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("draft-"))
        && is_young(path)
}

/// Memory of its own (`RssAnon`, `proc_pid_status(5)`) and open files of a process at rest.
fn assert_small(pid: u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(kib < MAX_SERVER_KIB, "process {pid} has {kib} KiB of its own");
    assert!(files < MAX_SERVER_FILES, "process {pid} has {files} files open");
}

/// What ends asynchronously has a moment to do so.
fn await_count<T: std::fmt::Debug>(count: usize, seen: impl Fn() -> Vec<T>) {
    let started = Instant::now();
    loop {
        let seen = seen();
        if seen.len() == count {
            return;
        }
        assert!(
            started.elapsed() < END_LIMIT,
            "{count} of these should be left: {seen:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
