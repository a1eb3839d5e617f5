//! `envfs mount --ensure`, and mounts that outlive the program that made them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use envfs_tests::load::World;
use envfs_tests::mounted::{Who, assert_no_process_of, is_mounted, is_possible};
use envfs_tests::program::{Envfs, Finished, finish};
use envfs_tests::user;
use serde_json::Value;

/// The backends that are there for the tester.
fn backends() -> &'static [&'static str] {
    match user::is_root() {
        true => &["kernel", "fuse", "link"],
        false => &["fuse", "link"],
    }
}

fn ensure(envfs: &Envfs, signature: &str, at: &str, backend: &str) -> Finished {
    envfs.try_run(["--json", "mount", "--ensure", signature, at, "--backend", backend])
}

fn changed(finished: Finished) -> bool {
    let told: Value = serde_json::from_str(&finished.success()).unwrap();
    told["changed"].as_bool().unwrap()
}

/// How `envfs ps` shows the mount at `at`.
fn row(envfs: &Envfs, at: &str) -> Value {
    let rows = envfs.json(["ps"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["mount_point"] == at);
    row.unwrap_or_else(|| panic!("{rows:#}")).clone()
}

fn kill_all(row: &Value) {
    for name in ["keeper_pid", "pid"] {
        finish(Command::new("kill").args(["-9", &row[name].to_string()])).success();
    }
}

/// Waits until `envfs ps` shows such a state.
fn await_state(envfs: &Envfs, at: &str, state: &str) {
    for _ in 0..200 {
        if row(envfs, at)["state"] == state {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{:#}", row(envfs, at));
}

/// Waits until this environment alone is listed at `at`: a server whose mount another test's namespace still shows goes on for as long.
fn await_only(envfs: &Envfs, at: &str, signature: &str) {
    let mut rows = Value::Null;
    for _ in 0..200 {
        rows = envfs.json(["ps"]);
        let here = rows.as_array().unwrap().iter().filter(|row| row["mount_point"] == at);
        let shown: Vec<_> = here.map(|row| row["signature"].as_str().unwrap()).collect();
        if shown == [signature] {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{rows:#}");
}

#[test]
fn what_is_to_be_there_is_there() {
    if !is_possible() {
        return;
    }
    let world = World::new(Who::Tester);
    let envfs = &world.envfs;
    let (first, second) = (world.build(&[0, 1]), world.build(&[2]));
    for backend in backends() {
        let at = world.directory(backend);
        assert!(changed(ensure(envfs, &first, &at, backend)), "{backend}");
        let there = row(envfs, &at);
        for _ in 0..2 {
            assert!(!changed(ensure(envfs, &first, &at, backend)), "{backend}");
        }
        assert_eq!(row(envfs, &at), there);
        // Without it, it is refused as ever.
        envfs
            .try_run(["mount", &first, &at])
            .refused(1, &["is already a mount point"]);
        // What cannot be there does not take away what is.
        ensure(envfs, "0123456789", &at, backend).refused(1, &["0123456789"]);
        world.assert_reads(&at, &[0, 1]);
        assert!(changed(ensure(envfs, &second, &at, backend)), "{backend}");
        await_only(envfs, &at, &second);
        world.assert_reads(&at, &[2]);
        assert!(!Path::new(&at).join("bin/tool-0").exists());
        envfs.run(["umount", &at]);
    }
    // Another backend is another mount, if it was asked for.
    let at = world.directory("other");
    assert!(changed(ensure(envfs, &first, &at, "link")));
    assert!(!changed(ensure(envfs, &first, &at, "auto")));
    assert!(changed(ensure(envfs, &first, &at, "fuse")));
    assert_eq!(row(envfs, &at)["backend"], "fuse");
    envfs.run(["umount", &at]);
    let full = world.directory("full");
    std::fs::write(Path::new(&full).join("file"), "x").unwrap();
    ensure(envfs, &first, &full, "auto").refused(1, &["is not empty"]);
    ensure(envfs, &first, "/proc", "auto").refused(1, &["of proc"]);
    world.await_unmounted();
    envfs.assert_sound();
}

#[test]
fn many_who_want_the_same_get_it_once() {
    const AT_ONCE: usize = 6;
    if !is_possible() {
        return;
    }
    let world = World::new(Who::Tester);
    let envfs = &world.envfs;
    let (first, second) = (world.build(&[0]), world.build(&[2]));
    for backend in backends() {
        let at = world.directory(backend);
        for (signature, number) in [(&first, 0), (&second, 2), (&first, 0)] {
            let told: Vec<Finished> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..AT_ONCE)
                    .map(|_| scope.spawn(|| ensure(envfs, signature, &at, backend)))
                    .collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let made = told.into_iter().map(changed).filter(|changed| *changed).count();
            assert_eq!(made, 1, "{backend}");
            world.assert_reads(&at, &[number]);
            await_only(envfs, &at, signature);
        }
        envfs.run(["umount", &at]);
    }
    world.await_unmounted();
    assert_no_process_of(envfs.path());
    envfs.assert_sound();
}

#[test]
fn what_is_used_stays() {
    if !is_possible() {
        return;
    }
    let world = World::new(Who::Tester);
    let envfs = &world.envfs;
    let (first, second) = (world.build(&[0]), world.build(&[2]));
    let at = world.directory("at");
    assert!(changed(ensure(envfs, &first, &at, "fuse")));
    let mut user = Command::new("sleep").arg("1000").current_dir(&at).spawn().unwrap();
    ensure(envfs, &second, &at, "fuse").refused(1, &["is in use by sleep", "--lazy"]);
    world.assert_reads(&at, &[0]);
    // Nobody would restart it, but it serves.
    let keeper = row(envfs, &at)["keeper_pid"].to_string();
    finish(Command::new("kill").args(["-9", &keeper])).success();
    await_state(envfs, &at, "unguarded");
    assert!(!changed(ensure(envfs, &first, &at, "fuse")));
    world.assert_reads(&at, &[0]);
    user.kill().unwrap();
    user.wait().unwrap();
    assert!(changed(ensure(envfs, &first, &at, "fuse")));
    assert_eq!(row(envfs, &at)["state"], "serving");
    envfs.run(["umount", &at]);
    if user::is_root() {
        envfs.run(["mount", "--writable", &first, &at]);
        std::fs::write(format!("{at}/written"), "x").unwrap();
        ensure(envfs, &first, &at, "auto").refused(1, &["written to", "envfs umount"]);
        assert_eq!(std::fs::read_to_string(format!("{at}/written")).unwrap(), "x");
        envfs.run(["discard", &at]);
    }
    world.await_unmounted();
}

#[test]
fn what_is_dead_is_replaced() {
    if !is_possible() {
        return;
    }
    for who in [Who::Tester, Who::Ordinary] {
        let world = World::new(who);
        let envfs = &world.envfs;
        let signature = world.build(&[0, 1]);
        let at = world.directory("at");
        assert!(changed(ensure(envfs, &signature, &at, "fuse")));
        let open = (who == Who::Tester).then(|| std::fs::File::open(format!("{at}/bin/tool-0")).unwrap());
        kill_all(&row(envfs, &at));
        await_state(envfs, &at, "dead");
        assert!(changed(ensure(envfs, &signature, &at, "auto")), "{who:?}");
        assert_eq!(row(envfs, &at)["state"], "serving");
        world.assert_reads(&at, &[0, 1]);
        drop(open);
        envfs.run(["umount", &at]);
        assert!(!is_mounted(Path::new(&at)));
        world.await_unmounted();
    }
}

/// The program is replaced while it serves, as package managers do it, and then is gone: nobody notices.
#[test]
fn an_upgrade_disturbs_no_mount() {
    if !is_possible() {
        return;
    }
    let mut world = World::new(Who::Tester);
    let newer = world.envfs.program().to_owned();
    let older = world.envfs.path().join("envfs");
    std::fs::copy(&newer, &older).unwrap();
    let signature = world.build(&[0, 1]);
    world.envfs.use_program(&older);
    let mut places = Vec::new();
    for backend in backends() {
        let at = world.directory(backend);
        world.envfs.run(["mount", &signature, &at, "--backend", backend]);
        places.push(at);
    }
    let mut run = world.envfs.command();
    let script = "echo ready; read x; tool-0";
    run.args(["run", &signature, "--", "sh", "-c", script]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    await_output(run.stdout.as_mut().unwrap(), "ready\n");
    // Replaced by rename, then removed: what serves is a file that has no name any more.
    std::fs::copy(&newer, world.envfs.path().join("new")).unwrap();
    std::fs::rename(world.envfs.path().join("new"), &older).unwrap();
    std::fs::remove_file(&older).unwrap();
    for at in &places {
        world.assert_reads(at, &[0, 1]);
    }
    // A server that is killed now is started again from what is in memory.
    let at = places.iter().find(|at| at.ends_with("fuse")).unwrap();
    world.envfs.use_program(&newer);
    let mut pids = BTreeSet::new();
    for _ in 0..3 {
        let pid = row(&world.envfs, at)["pid"].to_string();
        finish(Command::new("kill").args(["-9", &pid])).success();
        world.assert_reads(at, &[0, 1]);
        await_state(&world.envfs, at, "serving");
        pids.insert(pid);
    }
    assert_eq!(pids.len(), 3, "each was another");
    // What the newer program finds it can look after.
    for (at, backend) in places.iter().zip(backends()) {
        assert_eq!(row(&world.envfs, at)["backend"], *backend);
        assert!(!changed(ensure(&world.envfs, &signature, at, backend)));
    }
    assert_eq!(world.gc()["environments"], serde_json::json!([]));
    drop(run.stdin.take());
    let finished = run.wait_with_output().unwrap();
    world.assert_whole(0, &String::from_utf8_lossy(&finished.stdout));
    for at in &places {
        world.envfs.run(["umount", at]);
    }
    assert_no_process_of(world.envfs.path());
    world.gc();
    assert_eq!(world.left(), Vec::<std::path::PathBuf>::new());
}

fn await_output(output: &mut impl std::io::Read, expected: &str) {
    let mut told = vec![0; expected.len()];
    output.read_exact(&mut told).unwrap();
    assert_eq!(told, expected.as_bytes());
}
