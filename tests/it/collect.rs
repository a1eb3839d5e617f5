//! Collections beside mounts, runs and builds by the program itself; and collections that are killed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use envfs_tests::channel::Channel;
use envfs_tests::mounted::{is_possible, mounts_below};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, files_below};
use envfs_tests::user;

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
}

impl World {
    fn new() -> Self {
        let envfs = Envfs::new();
        let mut channel = Channel::new(&envfs.path().join("channel"));
        for number in 0..PACKAGES {
            let mut package = Package::new(&format!("tool-{number} 1.0 0"));
            for file in 0..20 {
                let text = format!("{} {file}\n", if file < 8 { number / 2 } else { number + 100 }).repeat(50);
                package = package.file(&format!("share/tool-{number}/{file}"), &text);
            }
            package = package.file(
                &format!("share/tool-{number}/large"),
                format!("{:08}\n", number / 2).repeat(20_000),
            );
            let script = format!("#!/bin/sh\ncat \"${{0%/bin/*}}\"/share/tool-{number}/* | wc -l\n");
            channel.add(
                &package.executable(&format!("bin/tool-{number}"), script),
                Format::Conda,
            );
        }
        Self {
            channel: channel.url(),
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
            assert_eq!(told.trim(), LINES, "tool-{number} of {signature}");
        }
    }
}

/// What each command counts: 20 texts of 50 lines, and a large one.
const LINES: &str = "21000";

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
    let count = |path: String| -> String {
        let output = Command::new(path).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(count(format!("{at}/bin/tool-0")), LINES);
    assert_eq!(count(format!("{link}/bin/tool-4")), LINES);
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
    let working = AtomicU32::new(2);
    let (runs, mounts, lost, collections) = (
        AtomicU32::new(0),
        AtomicU32::new(0),
        AtomicU32::new(0),
        AtomicU32::new(0),
    );
    let is_stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2_u32 {
            let (world, working, runs, mounts, lost, is_over) = (&world, &working, &runs, &mounts, &lost, &is_over);
            scope.spawn(move || {
                let _working = Working(working);
                let mut state = 0x9e37_79b9 + worker;
                let owner = format!("w:{worker}");
                let at = world.envfs.path().join(format!("m{worker}"));
                std::fs::create_dir(&at).unwrap();
                let at = at.to_str().unwrap();
                let mut rounds = 0;
                while !is_over(rounds) {
                    rounds += 1;
                    let first = random(&mut state) % PACKAGES;
                    let second = (first + 1 + random(&mut state) % (PACKAGES - 1)) % PACKAGES;
                    let signature = world.build(&[first, second]);
                    // Nothing keeps it yet: what fails fails because it is gone as a whole, and says so.
                    let added = world.envfs.try_run(["owner", "add", &owner, &signature]);
                    if !added.status.success() {
                        lost.fetch_add(1, Ordering::Relaxed);
                        added.refused(1, &["no environment in"]);
                        continue;
                    }
                    if random(&mut state).is_multiple_of(2) {
                        world.assert_runs(&signature, &[first, second]);
                        runs.fetch_add(2, Ordering::Relaxed);
                    } else {
                        world.envfs.run(["mount", &signature, at]);
                        world.envfs.run(["owner", "rm", &owner]);
                        let output = Command::new(format!("{at}/bin/tool-{second}")).output().unwrap();
                        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), LINES, "{output:?}");
                        world.envfs.run(["umount", at]);
                        mounts.fetch_add(1, Ordering::Relaxed);
                    }
                }
                world.envfs.run(["owner", "rm", &owner]);
            });
        }
        scope.spawn(|| {
            while working.load(Ordering::Relaxed) > 0 {
                // Most of what is built is to live for long enough to be used.
                let count = collections.fetch_add(1, Ordering::Relaxed);
                let grace = if count.is_multiple_of(4) { "0" } else { "3s" };
                world.envfs.json(["gc", "--grace", grace]);
            }
            is_stopped.store(true, Ordering::Relaxed);
        });
    });
    assert!(is_stopped.into_inner());
    println!(
        "{} runs, {} mounts, {} gone before they were kept, {} collections in {:?}",
        runs.into_inner(),
        mounts.into_inner(),
        lost.into_inner(),
        collections.into_inner(),
        started.elapsed()
    );
    await_unmounted(&world);
    world.gc();
    assert_eq!(world.left(), Vec::<PathBuf>::new());
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
        if leases.is_empty() && mounts_below(world.envfs.path()).is_empty() {
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
