//! Names as people use them: set, promoted, rolled back, refused, killed in the middle.

use std::process::{Command, Stdio};

use envfs_tests::channel::Channel;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, files_below, finish};
use envfs_tests::user;

/// How often a change of a name is killed.
const KILLS: u32 = 60;

/// A store with environments that differ in one file, and their signatures.
pub(crate) fn built(count: usize) -> (Envfs, Vec<String>) {
    let envfs = Envfs::new();
    let mut channel = Channel::new(&envfs.path().join("channel"));
    let signatures = (0..count)
        .map(|number| {
            let name = format!("tool-{number}");
            let script = format!("#!/bin/sh\necho {number}\n");
            channel.add(
                &Package::new(&format!("{name} 1.0 0")).executable("bin/tool", script),
                Format::Conda,
            );
            envfs.build(["-c", &channel.url(), &name]).to_string()
        })
        .collect();
    (envfs, signatures)
}

#[test]
fn a_name_is_an_environment_everywhere() {
    let (envfs, built) = built(2);
    let [a, b] = [&built[0], &built[1]];
    envfs.run(["name", "set", "team/proj:qa", a, "-m", "first"]);
    assert_eq!(envfs.run(["promote", "team/proj:qa", "team/proj"]).trim(), a);
    for text in ["team/proj", "team/proj:current", "team/proj:qa"] {
        assert_eq!(envfs.json(["show", text])["signature"], **a);
        assert_eq!(envfs.run(["name", "show", text]).trim(), a);
    }
    assert_eq!(envfs.run(["build", "team/proj:qa"]).trim(), a);
    envfs.run(["name", "set", "team/proj:qa", b]);
    let changed = envfs.json(["promote", "team/proj:qa", "team/proj", "--expect", &a[..8]]);
    assert_eq!(
        (&changed["before"], &changed["signature"]),
        (&a.as_str().into(), &b.as_str().into())
    );
    envfs
        .try_run(["promote", "team/proj:qa", "team/proj", "--expect", a])
        .refused(1, &["was not changed"]);
    envfs
        .try_run(["name", "set", "team/proj:qa", a, "--expect", "none"])
        .refused(1, &["not for nothing"]);
    assert_eq!(envfs.run(["rollback", "team/proj"]).trim(), a);
    let history = envfs.json(["name", "history", "team/proj"]);
    assert_eq!(history[0]["restores"], 1);
    assert_eq!(history[1]["promoted_from"], "team/proj:qa");
    assert_eq!(history.as_array().unwrap().len(), 3);
    assert_eq!(envfs.json(["name", "ls", "team/"]).as_array().unwrap().len(), 2);
    assert_eq!(envfs.json(["name", "ls", "other"]), serde_json::json!([]));
    // A file comes first; with its tag the name is meant again.
    envfs.write("proj", "dependencies: [no-such-package]\n");
    envfs.run(["name", "set", "proj", b]);
    assert!(!envfs.try_run(["--offline", "show", "proj"]).status.success());
    assert_eq!(envfs.json(["show", "proj:current"])["signature"], **b);
    let removed = envfs.json(["name", "rm", "proj"]);
    assert_eq!(
        (&removed["name"], &removed["signature"]),
        (&"proj:current".into(), &b.as_str().into())
    );
    envfs
        .try_run(["show", "proj:current"])
        .refused(1, &["there is no name `proj:current`", "envfs name ls"]);
    envfs.try_run(["show", "a b"]).refused(1, &["`a b` is not a name"]);
    envfs
        .try_run(["show", "no/such.yml"])
        .refused(1, &["there is no file `no/such.yml`"]);
    envfs
        .try_run(["name", "set", "0123456789", a])
        .refused(2, &["looks like a signature"]);
    envfs.assert_sound();
}

#[test]
fn who_may_not_write_may_not_promote() {
    let (envfs, built) = built(2);
    if !user::is_root() {
        envfs_tests::data::skip("an ordinary user: this is none but root");
        return;
    }
    envfs.run(["name", "set", "proj", &built[0]]);
    user::open_to_all(envfs.path());
    let mut command = envfs.command();
    command.args(["name", "set", "proj", &built[1]]);
    finish(user::as_ordinary_user(&mut command)).refused(1, &["may change names", "store/refs"]);
    let mut command = envfs.command();
    command.args(["name", "show", "proj"]);
    assert_eq!(finish(user::as_ordinary_user(&mut command)).success().trim(), built[0]);
}

#[test]
fn a_change_that_is_killed_happens_or_does_not() {
    let (envfs, built) = built(2);
    envfs.run(["name", "set", "proj:x", &built[0]]);
    let change = |to: &str| -> Command {
        let mut command = envfs.command();
        command
            .args(["name", "set", "proj:x", to])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let started = std::time::Instant::now();
    change(&built[1]).status().unwrap();
    let duration = started.elapsed();
    let mut changes = 2;
    for kill in 0..KILLS {
        let before = envfs.run(["name", "show", "proj:x"]);
        let other = built.iter().find(|signature| **signature != before.trim()).unwrap();
        let mut child = change(other).spawn().unwrap();
        std::thread::sleep(duration * kill * 2 / KILLS);
        child.kill().unwrap();
        child.wait().unwrap();
        let history = envfs.json(["name", "history", "proj:x"]);
        let known = history.as_array().unwrap().len();
        assert!(known == changes || known == changes + 1, "{history}");
        assert_eq!(history[0]["number"], known);
        changes = known;
    }
    // No lock stays, and the next change sweeps what was left.
    envfs.run(["name", "set", "proj:y", &built[0]]);
    assert!(files_below(&envfs.store_path().join("refs/.tmp")).is_empty());
    println!(
        "{} of {KILLS} changes happened before their process was killed",
        changes - 2
    );
}

#[test]
fn a_path_follows_a_name_and_what_runs_keeps_what_it_has() {
    let (envfs, built) = built_that_wait(3);
    if !envfs_tests::mounted::is_possible() {
        return;
    }
    let path = envfs.path().join("proj");
    let tool = path.join("bin/tool");
    envfs.run(["name", "set", "proj", &built[0]]);
    envfs.run(["name".as_ref(), "link".as_ref(), "proj".as_ref(), path.as_os_str()]);
    let run = || finish(&mut Command::new(&tool)).success();
    assert_eq!(run(), "0\n0\n");
    assert_eq!(std::fs::read_to_string(path.join("share/number")).unwrap(), "0\n");
    // It has started, and reads more of its environment after the name has changed.
    let mut running = Command::new(&tool)
        .arg("wait")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = std::io::BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut told, &mut line).unwrap();
    assert_eq!(line, "0\n");
    // New processes see one or the other, and never half of each.
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    let seen = run();
                    assert!(["0\n0\n", "1\n1\n", "2\n2\n"].contains(&seen.as_str()), "{seen}");
                }
            });
        }
        for round in 0..6 {
            envfs.run(["name", "set", "proj", &built[(round + 1) % 3]]);
        }
        envfs.run(["name", "set", "proj", &built[1]]);
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(run(), "1\n1\n");
    envfs.run(["gc", "--grace", "0"]);
    drop(running.stdin.take());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut told, &mut rest).unwrap();
    assert_eq!(
        rest, "0\n",
        "it has seen another environment than the one it was started in"
    );
    running.wait().unwrap();

    let links = envfs.json(["name", "links"]);
    assert_eq!(links[0]["shown"], built[1][..16]);
    assert_eq!(envfs.run(["rollback", "proj"]).trim(), built[0]);
    assert_eq!(run(), "0\n0\n");
    // As after a start of the machine: nothing is mounted.
    for mount in envfs_tests::mounted::mounts_below(envfs.path()) {
        envfs.run(["umount".as_ref(), mount.as_os_str()]);
    }
    assert!(!tool.exists());
    envfs.run(["name", "mount"]);
    assert_eq!(run(), "0\n0\n");
    let unlinked = envfs.json(["name".as_ref(), "unlink".as_ref(), path.as_os_str()]);
    assert_eq!(
        unlinked,
        serde_json::json!({"name": "proj:current", "path": path, "shown": null})
    );
    assert!(path.symlink_metadata().is_err());
    assert_eq!(
        envfs_tests::mounted::mounts_below(envfs.path()),
        Vec::<std::path::PathBuf>::new()
    );
    std::fs::write(&path, "").unwrap();
    envfs
        .try_run(["name".as_ref(), "link".as_ref(), "proj".as_ref(), path.as_os_str()])
        .refused(1, &["is not a link"]);
}

/// As [`built`], with a command that says its number, and with an argument waits and then says what it sees at its prefix.
fn built_that_wait(count: usize) -> (Envfs, Vec<String>) {
    let envfs = Envfs::new();
    let mut channel = Channel::new(&envfs.path().join("channel"));
    let prefix = envfs_tests::package::PLACEHOLDER;
    let signatures = (0..count)
        .map(|number| {
            let name = format!("tool-{number}");
            let script =
                format!("#!/bin/sh\necho {number}\n[ -z \"$1\" ] || read -r line\nexec cat {prefix}/share/number\n");
            let package = Package::new(&format!("{name} 1.0 0"))
                .prefixed("bin/tool", script, "text")
                .file("share/number", format!("{number}\n"));
            channel.add(&package, Format::Conda);
            envfs.build(["-c", &channel.url(), &name]).to_string()
        })
        .collect();
    (envfs, signatures)
}
