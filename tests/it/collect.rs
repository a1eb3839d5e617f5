//! Collections beside mounts, runs and builds by the program itself; and collections that are killed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use envfs_tests::channel::Channel;
use envfs_tests::mounted::{is_possible, mounts_below, processes_of};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, files_below};
use envfs_tests::user;
use sha2::{Digest as _, Sha256};

/// How often a collection is killed.
const KILLS: u32 = 40;

/// How many packages there are to build from.
const PACKAGES: usize = 8;

/// How many rounds each builder and runner does, where the variable says no number of seconds.
const ROUNDS: u32 = 12;
const SECONDS_VARIABLE: &str = "ENVFS_TEST_GC_SECONDS";

/// A channel of packages that share some files, each with a command that reads all of its own.
struct World {
    envfs: Envfs,
    channel: String,
    /// What the command of each package prints: the digest of everything in it.
    digests: Vec<String>,
}

impl World {
    fn new() -> Self {
        let envfs = Envfs::new();
        let mut channel = Channel::new(&envfs.path().join("channel"));
        let mut digests = Vec::new();
        for number in 0..PACKAGES {
            let mut files: Vec<(String, String)> = (0..20)
                .map(|file| {
                    let word = if file < 8 { number / 2 } else { number + 100 };
                    (format!("{file:02}"), format!("{word} {file}\n").repeat(50))
                })
                .collect();
            files.push(("large".to_owned(), format!("{:08}\n", number / 2).repeat(20_000)));
            let mut package = Package::new(&format!("tool-{number} 1.0 0"));
            let mut digest = Sha256::new();
            for (name, text) in &files {
                package = package.file(&format!("share/tool-{number}/{name}"), text);
                digest.update(text);
            }
            digests.push(hex::encode(digest.finalize()));
            let script = format!("#!/bin/sh\ncat \"${{0%/bin/*}}\"/share/tool-{number}/* | sha256sum\n");
            channel.add(
                &package.executable(&format!("bin/tool-{number}"), script),
                Format::Conda,
            );
        }
        Self {
            channel: channel.url(),
            digests,
            envfs,
        }
    }

    fn build(&self, numbers: &[usize]) -> String {
        self.envfs.build(self.specs(numbers)).to_string()
    }

    fn specs(&self, numbers: &[usize]) -> Vec<String> {
        let mut arguments = vec!["-c".to_owned(), self.channel.clone()];
        arguments.extend(numbers.iter().map(|number| format!("tool-{number}")));
        arguments
    }

    fn gc(&self) -> serde_json::Value {
        self.envfs.json(["gc", "--grace", "0"])
    }

    /// What is in the store beside records of what is kept.
    fn left(&self) -> Vec<PathBuf> {
        let store = self.envfs.store_path();
        let mut left = Vec::new();
        for name in ["packs", "layers", "trees", "environments", "trash", "tmp", "leases"] {
            left.extend(files_below(&store.join(name)));
        }
        for shard in files_below(&store.join("objects")) {
            left.extend(files_below(&shard));
        }
        left
    }

    /// The environment with these packages, which must all be there, as the kernel or a server shows it.
    fn assert_runs(&self, signature: &str, numbers: &[usize]) {
        for number in numbers {
            let told = self.envfs.run(["run", signature, "--", &format!("tool-{number}")]);
            self.assert_whole(*number, &told);
        }
    }

    /// The same of one that is mounted at `prefix`.
    fn assert_reads(&self, prefix: &str, numbers: &[usize]) {
        for number in numbers {
            let output = Command::new(format!("{prefix}/bin/tool-{number}")).output().unwrap();
            self.assert_whole(*number, &String::from_utf8_lossy(&output.stdout));
        }
    }

    fn assert_whole(&self, number: usize, told: &str) {
        assert_eq!(told.split(' ').next(), Some(&*self.digests[number]), "tool-{number}");
    }
}

#[test]
fn what_is_used_stays_and_the_rest_goes() {
    if !is_possible() {
        return;
    }
    let world = World::new();
    let envfs = &world.envfs;
    let mounted = world.build(&[0]);
    let running = world.build(&[2, 3]);
    let linked = world.build(&[4]);
    let named = world.build(&[6, 7]);
    let gone = world.build(&[0, 1]);
    let [at, link] = ["m", "l"].map(|name| {
        let path = envfs.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    });
    envfs.run(["mount", &mounted, &at]);
    envfs.run(["mount", &linked, &link, "--backend", "link"]);
    envfs.run(["name", "set", "proj", &named]);
    let mut run = sleeping(envfs, &running);
    let collected = world.gc();
    assert_eq!(collected["environments"], serde_json::json!([gone]));
    envfs.assert_sound();
    world.assert_reads(&at, &[0]);
    world.assert_reads(&link, &[4]);
    world.assert_runs("proj", &[6, 7]);
    world.assert_runs(&running, &[2, 3]);
    run.kill().unwrap();
    run.wait().unwrap();
    envfs.run(["umount", &at]);
    envfs.run(["umount", &link]);
    if user::is_root() {
        envfs.run(["mount", "--writable", &named, &at]);
        std::fs::write(format!("{at}/written"), "x").unwrap();
        envfs.run(["umount", &at]);
        envfs.run(["name", "rm", "proj"]);
        await_unmounted(&world);
        assert_eq!(world.gc()["environments"].as_array().unwrap().len(), 3);
        envfs.run(["mount", "--writable", &named, &at]);
        assert_eq!(std::fs::read_to_string(format!("{at}/written")).unwrap(), "x");
        envfs.run(["discard", &at]);
    } else {
        envfs.run(["name", "rm", "proj"]);
        await_unmounted(&world);
    }
    world.gc();
    assert_eq!(world.left(), Vec::<PathBuf>::new());
    what_is_written_elsewhere_keeps_what_is_below(&world);
    assert_eq!(world.left(), Vec::<PathBuf>::new());
}

/// A directory outside the store, as long as it is there and not discarded.
fn what_is_written_elsewhere_keeps_what_is_below(world: &World) {
    let envfs = &world.envfs;
    let below = world.build(&[1]);
    for is_discarded in [true, false] {
        let upper = envfs.path().join("upper");
        let upper = upper.to_str().unwrap();
        let script = "echo x > $CONDA_PREFIX/written";
        envfs.run(["run", "--writable", "--upper", upper, &below, "--", "sh", "-c", script]);
        await_unmounted(world);
        assert!(
            !world.gc()["environments"]
                .as_array()
                .unwrap()
                .contains(&below.as_str().into())
        );
        assert_eq!(envfs.json(["why", &below])[0]["reasons"][0]["kind"], "writable");
        if is_discarded {
            envfs.run(["discard", upper]);
        } else {
            std::fs::remove_dir_all(upper).unwrap();
        }
    }
    assert_eq!(envfs.try_run(["why", &below]).status.code(), Some(1));
    world.gc();
    assert_eq!(envfs.try_run(["show", &below]).status.code(), Some(1));
}

#[test]
fn what_keeps_something_and_what_it_takes_is_told() {
    let world = World::new();
    let envfs = &world.envfs;
    let base = world.build(&[0]);
    let mut arguments = world.specs(&[0, 1]);
    arguments.extend(["--base".to_owned(), base.clone()]);
    let heir = envfs.build(arguments).to_string();
    let free = world.build(&[5]);
    envfs.run(["name", "set", "proj:x", &heir]);
    envfs.run(["pin", "add", &heir, "--for", "1d", "--reason", "paper"]);
    let why = |what: &str| -> serde_json::Value {
        serde_json::from_str(&envfs.try_run(["--json", "why", what]).stdout).unwrap()
    };
    assert_eq!(why(&base)[0]["reasons"][0]["kind"], "base");
    let reasons = &why("proj:x")[0]["reasons"];
    assert_eq!(
        (&reasons[0]["kind"], &reasons[1]["reason"]),
        (&"name".into(), &"paper".into())
    );
    assert_eq!(why("tool-0").as_array().unwrap().len(), 2);
    assert_eq!(why("tool-5")[0]["signature"], free);
    assert_eq!(envfs.try_run(["why", &free]).status.code(), Some(1));
    let object = files_below(&envfs.store_path().join("objects"))
        .into_iter()
        .flat_map(|shard| files_below(&shard))
        .next()
        .unwrap();
    assert!(
        !why(object.file_name().unwrap().to_str().unwrap())
            .as_array()
            .unwrap()
            .is_empty()
    );
    envfs
        .try_run(["why", "no-such"])
        .refused(1, &["there is no name", "no environment holds a package"]);

    let listed = envfs.json(["ls"]);
    let named = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["signature"] == *heir)
        .unwrap();
    assert_eq!(named["names"], serde_json::json!(["proj:x"]));
    let svg = envfs.path().join("du.svg");
    let taken = envfs.json(["du".as_ref(), "--svg".as_ref(), svg.as_os_str()]);
    let rows = taken["environments"].as_array().unwrap();
    let of = |signature: &str| rows.iter().find(|row| row["signature"] == *signature).unwrap();
    // What only the free one holds is what a collection frees.
    let own = of(&free)["unique_bytes"].as_u64().unwrap();
    assert!(own > 180_000 && own < 220_000, "{taken}");
    assert!(
        of(&heir)["shared_bytes"].as_u64() > of(&heir)["unique_bytes"].as_u64(),
        "{taken}"
    );
    assert!(
        taken["total_bytes"].as_u64() < taken["directory_bytes"].as_u64(),
        "{taken}"
    );
    assert!(std::fs::read_to_string(svg).unwrap().contains("<rect"));
    let dry = envfs.json(["gc", "--grace", "0", "--dry-run"]);
    assert_eq!(dry["environments"], serde_json::json!([free]));
    assert_eq!(envfs.json(["ls"]).as_array().unwrap().len(), 3);
}

#[test]
fn a_collection_that_is_killed_loses_nothing() {
    if !is_possible() {
        return;
    }
    let world = World::new();
    let envfs = &world.envfs;
    let kept = world.build(&[0, 1]);
    envfs.run(["owner", "add", "w:1", &kept]);
    let collection = || -> Child {
        let mut command = envfs.command();
        command
            .args(["gc", "--grace", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().unwrap()
    };
    world.build(&[2, 3, 5]);
    let started = Instant::now();
    collection().wait().unwrap();
    let duration = started.elapsed();
    let mut killed = 0;
    for kill in 0..KILLS {
        // 0's neighbour shares files with it, so that packs are half alive.
        let number = 1 + kill as usize % (PACKAGES - 1);
        world.build(&[number, (number + 2) % PACKAGES]);
        let mut child = collection();
        std::thread::sleep(duration * kill / KILLS);
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().code().is_none());
        let verified = envfs.json(["store", "verify"]);
        assert_eq!(verified["damaged"], serde_json::json!([]), "after kill {kill}");
        if kill % 8 == 0 {
            world.assert_runs(&kept, &[0, 1]);
        }
    }
    println!("{killed} of {KILLS} collections were killed before they ended");
    world.gc();
    envfs.assert_sound();
    assert_eq!(envfs.json(["ls"]).as_array().unwrap().len(), 1);
    world.assert_runs(&kept, &[0, 1]);
    envfs.run(["owner", "rm", "w:1"]);
    await_unmounted(&world);
    world.gc();
    assert_eq!(world.left(), Vec::<PathBuf>::new());
}

#[test]
fn collections_beside_builds_mounts_and_runs() {
    if !is_possible() {
        return;
    }
    let world = World::new();
    let seconds: Option<u64> = std::env::var(SECONDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let started = Instant::now();
    let is_over = |rounds: u32| match seconds {
        Some(seconds) => started.elapsed() > Duration::from_secs(seconds),
        None => rounds >= ROUNDS,
    };
    let working = AtomicU32::new(WORKERS);
    let done = Done::default();
    let is_stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let (world, working, done, is_over) = (&world, &working, &done, &is_over);
            scope.spawn(move || {
                let _working = Working(working);
                let mut worker = Worker::new(world, number, done);
                let mut rounds = 0;
                while !is_over(rounds) {
                    rounds += 1;
                    worker.round();
                }
                world.envfs.run(["owner", "rm", &worker.owner]);
            });
        }
        scope.spawn(|| {
            while working.load(Ordering::Relaxed) > 0 {
                world.gc();
                done.collections.fetch_add(1, Ordering::Relaxed);
            }
            is_stopped.store(true, Ordering::Relaxed);
        });
    });
    assert!(is_stopped.into_inner());
    println!("{done:?} in {:?}", started.elapsed());
    await_unmounted(&world);
    world.gc();
    assert_eq!(world.left(), Vec::<PathBuf>::new());
    assert_eq!(world.gc()["left_bytes"], 0);
}

const WORKERS: u32 = 2;

/// What was done.
#[derive(Debug, Default)]
struct Done {
    builds: AtomicU32,
    runs: AtomicU32,
    kernel_mounts: AtomicU32,
    fuse_mounts: AtomicU32,
    /// What nothing kept yet when a collection came.
    gone_unkept: AtomicU32,
    collections: AtomicU32,
}

/// Builds, keeps, mounts, runs and drops at random.
struct Worker<'a> {
    world: &'a World,
    done: &'a Done,
    owner: String,
    at: String,
    state: u32,
}

impl<'a> Worker<'a> {
    fn new(world: &'a World, number: u32, done: &'a Done) -> Self {
        let at = world.envfs.path().join(format!("m{number}"));
        std::fs::create_dir(&at).unwrap();
        Self {
            world,
            done,
            owner: format!("w:{number}"),
            at: at.to_str().unwrap().to_owned(),
            state: 0x9e37_79b9 + number,
        }
    }

    fn round(&mut self) {
        let numbers = self.numbers();
        let Some(signature) = self.keep(&numbers) else { return };
        let envfs = &self.world.envfs;
        match random(&mut self.state) % 4 {
            0 => {
                self.world.assert_runs(&signature, &numbers);
                self.done.runs.fetch_add(2, Ordering::Relaxed);
            }
            1 => {
                // Of an environment that nothing keeps but a run, everything is still there.
                let mut run = sleeping(envfs, &signature);
                envfs.run(["owner", "rm", &self.owner]);
                self.world.gc();
                self.world.assert_runs(&signature, &numbers);
                drop(run.stdin.take());
                run.wait().unwrap();
                self.done.runs.fetch_add(3, Ordering::Relaxed);
            }
            choice => {
                let is_kernel = choice == 2 && user::is_root();
                let backend = if is_kernel { "kernel" } else { "fuse" };
                envfs.run(["mount", &signature, &self.at, "--backend", backend]);
                envfs.run(["owner", "rm", &self.owner]);
                // All names, then all bytes.
                let listed = envfs_tests::seen::list_directory(self.at.as_ref());
                assert!(listed.len() > 2 * 21, "{listed:?}");
                self.world.assert_reads(&self.at, &numbers);
                self.unmount();
                let mounts = if is_kernel {
                    &self.done.kernel_mounts
                } else {
                    &self.done.fuse_mounts
                };
                mounts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A run of the same environment by another worker may have found it here, and keeps it until it ends.
    fn unmount(&self) {
        for _ in 0..100 {
            let unmounted = self.world.envfs.try_run(["umount", &self.at]);
            if unmounted.status.success() {
                return;
            }
            unmounted.refused(1, &["is in use by"]);
        }
        panic!("{} stays in use", self.at);
    }

    /// Two packages.
    fn numbers(&mut self) -> [usize; 2] {
        let first = random(&mut self.state) % PACKAGES;
        [first, (first + 1 + random(&mut self.state) % (PACKAGES - 1)) % PACKAGES]
    }

    /// An environment that this worker keeps; none if it was collected before.
    fn keep(&mut self, numbers: &[usize]) -> Option<String> {
        let (world, envfs) = (self.world, &self.world.envfs);
        self.done.builds.fetch_add(1, Ordering::Relaxed);
        if random(&mut self.state).is_multiple_of(2) {
            // Made and kept by one command: no collection comes between.
            let dependencies: Vec<String> = numbers.iter().map(|number| format!("tool-{number}")).collect();
            let spec = format!("channels: ['{}']\ndependencies: {dependencies:?}\n", world.channel);
            let file = envfs.write(&format!("{}.yml", dependencies.join("-")), &spec);
            let kept = envfs.run(["owner", "add", &self.owner, file.to_str().unwrap()]);
            return Some(kept.trim().to_owned());
        }
        let signature = match random(&mut self.state) % 2 {
            0 => world.build(numbers),
            _ => self.build_on_base(numbers)?,
        };
        // Nothing keeps it yet: what fails fails because it is gone as a whole, and says so.
        let added = envfs.try_run(["owner", "add", &self.owner, &signature]);
        if added.status.success() {
            return Some(signature);
        }
        self.done.gone_unkept.fetch_add(1, Ordering::Relaxed);
        added.refused(1, &["environment", &signature]);
        None
    }

    /// The same in two steps, the second of which stands on the first; none if that was collected before.
    fn build_on_base(&mut self, numbers: &[usize]) -> Option<String> {
        let base = self.world.build(&numbers[..1]);
        let mut arguments = vec!["build".to_owned(), format!("--base={base}")];
        arguments.extend(self.world.specs(numbers));
        let built = self.world.envfs.try_run(arguments);
        if built.status.success() {
            return Some(built.stdout.trim().to_owned());
        }
        self.done.gone_unkept.fetch_add(1, Ordering::Relaxed);
        built.refused(1, &[&base[..16]]);
        None
    }
}

/// Counts a worker out, also if it fails: the collections end with the last.
struct Working<'a>(&'a AtomicU32);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A run that lasts until it is killed, and is ready when this returns.
fn sleeping(envfs: &Envfs, signature: &str) -> Child {
    use std::io::BufRead;
    let mut command = envfs.command();
    let mut child = command
        .args(["run", signature, "--", "sh", "-c", "echo ready; read x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    std::io::BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut told)
        .unwrap();
    assert_eq!(told.trim(), "ready");
    child
}

/// What ends asynchronously has a moment to do so.
fn await_unmounted(world: &World) {
    for _ in 0..200 {
        let leases = envfs_store::lease::list(&world.envfs.store()).unwrap();
        // What a killed run leaves is mounted where only its processes see it.
        let is_quiet = processes_of(world.envfs.path()).is_empty();
        if leases.is_empty() && is_quiet && mounts_below(world.envfs.path()).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn random(state: &mut u32) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    (*state >> 8) as usize
}
