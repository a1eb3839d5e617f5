//! Collections beside mounts, runs and builds by the program itself; and collections that are killed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use envfs_tests::changes;
use envfs_tests::load::{Done, PACKAGES, Worker, World, sleeping};
use envfs_tests::mounted::{Who, is_possible};
use envfs_tests::program::files_below;
use envfs_tests::steps::{self, Verdict, Watched};
use envfs_tests::user;

/// How often a collection is killed.
const KILLS: u32 = 40;

/// How many rounds each builder and runner does, where the variable says no number of seconds.
const ROUNDS: u32 = 12;
const SECONDS_VARIABLE: &str = "ENVFS_TEST_GC_SECONDS";

#[test]
fn what_is_used_stays_and_the_rest_goes() {
    if !is_possible() {
        return;
    }
    let world = World::new(Who::Tester);
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
    assert_eq!(envfs.json(["umount", &at])["mount_point"], *at);
    assert_eq!(envfs.json(["umount", &link])["mount_point"], *link);
    if user::is_root() {
        envfs.run(["mount", "--writable", &named, &at]);
        std::fs::write(format!("{at}/written"), "x").unwrap();
        envfs.run(["umount", &at]);
        envfs.run(["name", "rm", "proj"]);
        world.await_unmounted();
        assert_eq!(world.gc()["environments"].as_array().unwrap().len(), 3);
        envfs.run(["mount", "--writable", &named, &at]);
        assert_eq!(std::fs::read_to_string(format!("{at}/written")).unwrap(), "x");
        let discarded = serde_json::json!({"signature": named, "mount_point": at});
        assert_eq!(envfs.json(["discard", &at]), discarded);
    } else {
        envfs.run(["name", "rm", "proj"]);
        world.await_unmounted();
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
        world.await_unmounted();
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
    let world = World::new(Who::Tester);
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
    assert!(own > 180_000 && own < 240_000, "{taken}");
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
    let world = World::new(Who::Tester);
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
    world.await_unmounted();
    world.gc();
    assert_eq!(world.left(), Vec::<PathBuf>::new());
}

#[test]
fn collections_beside_builds_mounts_and_runs() {
    if !is_possible() {
        return;
    }
    let world = World::new(Who::Tester);
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
                let mut worker = Worker::new(world, &number.to_string(), u64::from(number) + 0x9e37_79b9, done);
                let mut rounds = 0;
                while !is_over(rounds) {
                    rounds += 1;
                    worker.round();
                }
                worker.end();
            });
        }
        scope.spawn(|| {
            while working.load(Ordering::Relaxed) > 0 {
                done.count("collections", || world.gc());
            }
            is_stopped.store(true, Ordering::Relaxed);
        });
    });
    assert!(is_stopped.into_inner());
    println!("{} in {:?}", done.shown(), started.elapsed());
    world.await_unmounted();
    world.gc();
    assert_eq!(world.left(), Vec::<PathBuf>::new());
    assert_eq!(world.gc()["left_bytes"], 0);
}

const WORKERS: u32 = 2;

/// Counts a worker out, also if it fails: the collections end with the last.
struct Working<'a>(&'a AtomicU32);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Each command is stopped at every step between its first record and its first word, and a collection that spares nothing young comes
/// in between.
#[test]
fn what_a_command_has_recorded_stays_until_it_is_printed() {
    let world = changes::World::new(None);
    let directory = tempfile::tempdir().unwrap();
    let printed = directory.path().join("printed");
    for change in world.changes() {
        if !["build", "build on a base", "ensure", "import", "commit"].contains(&change.name) {
            continue;
        }
        world.reset(&change);
        let before = records(world.store());
        let told = Arc::new(Mutex::new((BTreeSet::new(), 0)));
        let mut command = printing_to(&printed, &world.command(&change));
        let ended = steps::run(&mut command, Watched::below(world.store()), {
            let (store, told, printed) = (world.store().to_owned(), Arc::clone(&told), printed.clone());
            let mut gc = world.program();
            gc.args(["gc", "--grace", "0"]);
            move |_| {
                let (made, collections) = &mut *told.lock().unwrap();
                made.extend(records(&store).difference(&before).cloned());
                let is_printed = printed.metadata().is_ok_and(|printed| printed.len() > 0);
                if !made.is_empty() && !is_printed {
                    *collections += u32::from(ends_soon(&mut gc));
                }
                Verdict::Happens
            }
        });
        assert!(ended.finished.status.success(), "{}: {}", change.name, ended.finished);
        ended.wait_for_all();
        let (made, collections) = &*told.lock().unwrap();
        assert!(*collections > 0, "{}: every collection had to wait", change.name);
        let left = records(world.store());
        let lost: Vec<_> = made.difference(&left).collect();
        assert_eq!(
            lost,
            [""; 0],
            "{}: of {} after {collections} collections",
            change.name,
            made.len()
        );
    }
}

/// The command, with its output in a file, which is empty until it says something.
fn printing_to(file: &Path, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" > \"$0\""]).arg(file);
    shell.arg(command.get_program()).args(command.get_args());
    shell
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::null());
    shell
}

/// The names of all environments of a store.
fn records(store: &Path) -> BTreeSet<String> {
    let found = files_below(&store.join("environments")).into_iter();
    found
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect()
}

/// Whether a collection comes to its end. One that waits for a command that is stopped is killed, which harms nothing.
fn ends_soon(gc: &mut Command) -> bool {
    let mut child = gc.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}
