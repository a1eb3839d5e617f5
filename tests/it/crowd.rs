//! Many commands at once: none fails, and none leaves anything behind.

use std::process::Stdio;

use envfs_store::digest::Digest;
use envfs_tests::channel::Channel;
use envfs_tests::data::RealChannel;
use envfs_tests::mounted::{Who, is_possible, leases, mounts_below, processes_of};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, first_line};
use envfs_tests::user;

/// How many commands run at once, in so many environments.
const RUNS: usize = 50;
const ENVIRONMENTS: usize = 5;

#[test]
fn fifty_runs_of_five_environments() {
    run_at_once(Who::Tester, RUNS);
}

#[test]
fn ten_runs_of_five_environments_as_an_ordinary_user() {
    run_at_once(Who::Ordinary, RUNS / 5);
}

fn run_at_once(who: Who, count: usize) {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    if !is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let mut channel = Channel::new(&envfs.path().join("channel"));
    let base = envfs.build(miniforge.build_arguments(&[])).to_string();
    let mut environments = Vec::new();
    for number in 0..ENVIRONMENTS {
        // Each says who it is, through a file of its own that holds its prefix.
        let name = format!("own-{number}");
        channel.add(&own_package(&name, number), Format::Conda);
        environments.push(envfs.build(["-c", &channel.url(), "-c", &miniforge.url(), "--base", &base, &name]));
    }
    if who == Who::Ordinary {
        user::open_to_all(envfs.path());
        user::give_to_ordinary_user(&envfs.store_path());
        user::give_to_ordinary_user(&envfs.path().join("home"));
    }
    let script = "import sys, own; print(own.NUMBER, sys.prefix == own.PREFIX, sys.argv[1])";
    let runs: Vec<_> = (0..count)
        .map(|run| {
            let mut command = envfs.command();
            command.args(["run", &environments[run % ENVIRONMENTS].to_string(), "--"]);
            command.args(["python", "-c", script, &run.to_string()]);
            who.runs(&mut command)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (run, child) in runs.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "run {run}: {output:?}");
        assert_eq!(told, format!("{} True {run}", run % ENVIRONMENTS));
    }
    assert_nothing_left(&envfs);
}

#[test]
fn commands_that_fail_or_are_killed_leave_nothing() {
    if !is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let package = Package::new("tool 1.0 0").executable("bin/tool", "#!/bin/sh\nexit \"$1\"\n");
    let channel = Channel::new(&envfs.path().join("channel")).with(&package, Format::Conda);
    let signature: Digest = envfs.build(["-c", &channel.url(), "tool"]);
    let signature = signature.to_string();
    for code in [0, 1, 7, 255] {
        let ended = envfs.try_run(["run", &signature, "--", "tool", &code.to_string()]);
        assert_eq!(ended.status.code(), Some(code), "{ended}");
    }
    assert_eq!(
        envfs
            .try_run(["run", &signature, "--", "no-such-program"])
            .status
            .code(),
        Some(127)
    );
    let killed = envfs.try_run(["run", &signature, "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(killed.status.code(), Some(137), "{killed}");
    // Killed outright, it cannot end its command; the environment lives for as long as that does, and no longer.
    let mut command = envfs.command();
    let mut child = command
        .args(["run", &signature, "--", "sh", "-c", "echo $$; exec sleep 100"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sleeping = first_line(&mut child).parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleeping), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_nothing_left(&envfs);
}

/// A module that knows its number and, as installers write it, its prefix.
fn own_package(name: &str, number: usize) -> Package {
    let module = format!("NUMBER = {number}\nPREFIX = '{}'\n", envfs_tests::package::PLACEHOLDER);
    Package::new(&format!("{name} 1.0 0"))
        .depends("python >=3.12,<3.13")
        .prefixed("lib/python3.12/site-packages/own.py", module, "text")
}

/// No mount, process, lease or draft; what ends asynchronously has a moment to do so.
fn assert_nothing_left(envfs: &Envfs) {
    let left = || {
        let mut left = processes_of(envfs.path());
        left.extend(
            mounts_below(envfs.path())
                .iter()
                .map(|mount| format!("mount {}", mount.display())),
        );
        left.extend((leases(&envfs.store()) > 0).then(|| "leases".to_owned()));
        left
    };
    for _ in 0..100 {
        if left().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(left(), Vec::<String>::new());
    envfs.assert_sound();
}
