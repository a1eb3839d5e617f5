//! Environments that are mounted already are used where they are, kept, and taken away when nobody uses them.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use envfs_tests::channel::Channel;
use envfs_tests::mounted::{Mounted, Who, is_mounted, is_possible, leases, processes_of};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, Finished, files_below, finish};
use envfs_tests::user;
use serde_json::Value;

#[test]
fn a_warm_environment_is_used_where_it_is() {
    used_where_it_is(Who::Tester);
}

#[test]
fn a_warm_environment_is_used_where_it_is_as_an_ordinary_user() {
    used_where_it_is(Who::Ordinary);
}

fn used_where_it_is(who: Who) {
    let Some(world) = World::new(who) else { return };
    let signature = &world.signatures[0];
    let warmed = world.json(&["warm", signature]);
    let place = world.place(signature);
    assert_eq!(warmed[0]["mount_point"], place.to_str().unwrap());
    assert!(warmed[0]["names"].as_u64().unwrap() >= 2, "{warmed}");
    assert!(is_mounted(&place));
    // Again it is only said where it is.
    assert_eq!(world.json(&["warm", signature])[0]["backend"], Value::Null);

    // The command takes the place of the process that was started, and its environment is the warm one.
    let run = world.start(&[
        "run",
        signature,
        "--",
        "sh",
        "-c",
        "echo $$ $CONDA_PREFIX; cat $CONDA_PREFIX/share/name",
    ]);
    let pid = run.id();
    let output = String::from_utf8(run.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(output, format!("{pid} {}\na", place.display()));
    assert_eq!(world.run(&["run", signature, "--", "false"]).status.code(), Some(1));
    world
        .run(&["run", signature, "--", "no-such-program"])
        .refused(127, &["is not in the environment"]);

    // What somebody uses is not taken away, also by a command that has nothing of it open.
    let mut user = world.start(&["run", signature, "--", "sh", "-c", "cd /; echo there; read line"]);
    wait_for_a_line(&mut user);
    world.run(&["warm", "--stop"]).refused(1, &["is in use"]);
    assert!(is_mounted(&place));
    let listed = world.json(&["ps"]);
    let (runs, others): (Vec<&Value>, Vec<&Value>) =
        listed.as_array().unwrap().iter().partition(|row| row["kind"] == "run");
    let at_place = others
        .iter()
        .filter(|row| row["mount_point"] == place.to_str().unwrap());
    assert_eq!(at_place.count(), 1, "what is used is listed as well: {listed:#}");
    let runs = runs.iter();
    assert_eq!(
        runs.map(|row| row["pid"].as_u64().unwrap()).collect::<Vec<_>>(),
        [u64::from(user.id())]
    );
    drop(user.stdin.take());
    user.wait().unwrap();

    assert_eq!(world.json(&["warm"])[0]["until"], "stopped");
    world.run(&["warm", "--stop", signature]).success();
    assert!(!is_mounted(&place));
    assert_eq!(world.json(&["warm"]), serde_json::json!([]));
    world.assert_nothing_left();
}

#[test]
fn a_mount_of_the_same_user_is_used_unless_it_is_to_be_fresh() {
    let Some(world) = World::new(Who::Tester) else { return };
    let signature = world.signatures[0].parse().unwrap();
    let mounted = Mounted::at(
        &world.envfs,
        &signature,
        &world.envfs.path().join("somewhere"),
        Who::Tester,
    );
    let prefix = |arguments: &[&str]| {
        let words = [
            &["run"],
            arguments,
            &[&world.signatures[0], "--", "sh", "-c", "echo $CONDA_PREFIX"],
        ]
        .concat();
        world.run(&words).success().trim_end().to_owned()
    };
    assert_eq!(prefix(&[]), mounted.path().to_str().unwrap());
    assert_eq!(
        prefix(&["--fresh"]),
        world.place(&world.signatures[0]).to_str().unwrap()
    );
    // That of another store does not count.
    let other = world.envfs.path().join("other");
    let in_other = |arguments: &[&str]| {
        let mut command = world.envfs.command();
        finish(command.env("ENVFS_STORE", &other).args(arguments))
            .success()
            .trim_end()
            .to_owned()
    };
    let channel = format!("file://{}", world.envfs.path().join("channel").display());
    assert_eq!(in_other(&["ensure", "-c", &channel, "a"]), world.signatures[0]);
    let place = other.join("mnt").join(&world.signatures[0][..16]);
    let output = in_other(&["run", &world.signatures[0], "--", "sh", "-c", "echo $CONDA_PREFIX"]);
    assert_eq!(output, place.to_str().unwrap());
    mounted.unmount();
    assert_eq!(prefix(&[]), world.place(&world.signatures[0]).to_str().unwrap());
    world.assert_nothing_left();
}

#[test]
fn what_can_be_written_to_is_not_used() {
    if !user::is_root() {
        envfs_tests::data::skip("a test of writable mounts: the tester is not root");
        return;
    }
    let Some(world) = World::new(Who::Tester) else { return };
    let place = world.envfs.path().join("writable");
    std::fs::create_dir(&place).unwrap();
    let signature = &world.signatures[0];
    world
        .run(&["mount", "--writable", signature, place.to_str().unwrap()])
        .success();
    let output = world
        .run(&["run", signature, "--", "sh", "-c", "echo $CONDA_PREFIX"])
        .success();
    assert_eq!(output.trim_end(), world.place(signature).to_str().unwrap());
    world.run(&["umount", place.to_str().unwrap()]).success();
}

#[test]
fn an_idle_environment_serves_the_next_run_and_goes() {
    idle(Who::Tester);
}

#[test]
fn an_idle_environment_serves_the_next_run_and_goes_as_an_ordinary_user() {
    idle(Who::Ordinary);
}

fn idle(who: Who) {
    let Some(world) = World::new(who) else { return };
    let signature = &world.signatures[0];
    let place = world.place(signature);
    world.run(&["run", "--idle=30s", signature, "--", "true"]).success();
    assert!(is_mounted(&place));
    assert_eq!(world.json(&["warm"])[0]["idle_s"], 30);
    // Shorter from now on; a run that lasts longer keeps it.
    world.run(&["warm", "--stop"]).success();
    let mut user = world.start(&[
        "run",
        "--idle=1s",
        signature,
        "--",
        "sh",
        "-c",
        "echo there; read line; cat $CONDA_PREFIX/share/name",
    ]);
    wait_for_a_line(&mut user);
    std::thread::sleep(Duration::from_secs(7));
    assert!(is_mounted(&place));
    drop(user.stdin.take());
    assert!(
        String::from_utf8(user.wait_with_output().unwrap().stdout)
            .unwrap()
            .ends_with('a')
    );
    eventually("the idle mount goes", || !is_mounted(&place));
    eventually("nothing is left", || world.left().is_empty());
}

#[test]
fn what_stays_holds_nothing_of_who_left_it() {
    holds_nothing(Who::Tester);
}

#[test]
fn what_stays_holds_nothing_of_who_left_it_as_an_ordinary_user() {
    holds_nothing(Who::Ordinary);
}

/// Neither a lock or a pipe that the run inherited, nor a place among the children of the command.
fn holds_nothing(who: Who) {
    let Some(world) = World::new(who) else { return };
    let signature = &world.signatures[0];
    let program = world.envfs.command().get_program().to_str().unwrap().to_owned();
    let lock = world.envfs.path().join("home/lock");
    let script = format!(
        "exec 9> {lock}; flock 9; exec {program} run --idle=30s {signature} -- \
         sh -c 'read children < /proc/$$/task/$$/children; echo \"[$children]\"'",
        lock = lock.display(),
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).env_clear();
    shell.envs(
        world
            .envfs
            .command()
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    // Ends with the last holder of the pipe.
    assert_eq!(finish(who.runs(&mut shell)).success(), "[]\n");
    assert!(is_mounted(&world.place(signature)));
    let mut free = std::process::Command::new("flock");
    finish(free.args(["--nonblock", lock.to_str().unwrap(), "true"])).success();
    world.run(&["warm", "--stop"]).success();
    world.assert_nothing_left();
}

#[test]
fn a_killed_server_is_passed_over() {
    let Some(world) = World::new(Who::Ordinary) else { return };
    let signature = &world.signatures[0];
    world.run(&["warm", signature]).success();
    let place = world.place(signature);
    let listed = world.json(&["ps"]);
    let row = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["mount_point"] == place.to_str().unwrap());
    let server = i32::try_from(row.unwrap()["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), nix::sys::signal::Signal::SIGKILL).unwrap();
    let read = ["run", signature, "--", "sh", "-c", "cat $CONDA_PREFIX/share/name"];
    eventually("a run works", || world.run(&read).stdout == "a");
    // It is made anew in its place.
    world.run(&["warm", signature]).success();
    assert_eq!(world.run(&read).success(), "a");
    world.run(&["warm", "--stop"]).success();
    world.assert_nothing_left();
}

#[test]
fn the_queue_follows_what_was_used_last() {
    let Some(world) = World::new(Who::Tester) else { return };
    let places = [0, 1].map(|number: usize| world.place(&world.signatures[number]));
    world.run(&["run", &world.signatures[0], "--", "true"]).success();
    world.run(&["warm", "--queue", "1"]).success();
    eventually("the first is warm", || is_mounted(&places[0]));
    assert!(!is_mounted(&places[1]));
    // Uses are told apart by the second.
    std::thread::sleep(Duration::from_millis(1100));
    world.run(&["run", &world.signatures[1], "--", "true"]).success();
    eventually("the second takes its place", || {
        is_mounted(&places[1]) && !is_mounted(&places[0])
    });
    assert_eq!(world.json(&["warm"])[0]["until"], "outrun");
    world.run(&["warm", "--stop"]).success();
    eventually("nothing is left", || world.left().is_empty());
}

/// A store with two environments, and whoever uses it.
struct World {
    envfs: Envfs,
    signatures: Vec<String>,
    who: Who,
}

impl World {
    fn new(who: Who) -> Option<Self> {
        if !is_possible() {
            return None;
        }
        let envfs = Envfs::new();
        let mut channel = Channel::new(&envfs.path().join("channel"));
        let mut signatures = Vec::new();
        for name in ["a", "b"] {
            channel.add(
                &Package::new(&format!("{name} 1.0 h0_0")).file("share/name", name),
                Format::Conda,
            );
            signatures.push(envfs.build(["-c", &channel.url(), name]).to_string());
        }
        if who == Who::Ordinary {
            user::open_to_all(envfs.path());
            user::give_to_ordinary_user(&envfs.store_path());
            user::give_to_ordinary_user(&envfs.path().join("home"));
        }
        Some(Self { envfs, signatures, who })
    }

    fn place(&self, signature: &str) -> PathBuf {
        self.envfs.store_path().join("mnt").join(&signature[..16])
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = self.envfs.command();
        finish(self.who.runs(command.args(arguments)))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["--json"], arguments].concat()).success()).unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.envfs.command();
        let command = self.who.runs(command.args(arguments));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// What should not be there when everything has ended.
    fn left(&self) -> Vec<String> {
        let mut left = processes_of(self.envfs.path());
        left.extend((leases(&self.envfs.store()) > 0).then(|| "leases".to_owned()));
        let below = |name| files_below(&self.envfs.store_path().join(name));
        left.extend(
            below("mnt")
                .iter()
                .chain(&below("warm"))
                .map(|path| path.display().to_string()),
        );
        left
    }

    fn assert_nothing_left(&self) {
        eventually("nothing is left", || self.left().is_empty());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a failed test leaves must not stay mounted.
        drop(self.run(&["warm", "--stop"]));
    }
}

fn wait_for_a_line(child: &mut Child) {
    let mut byte = [0];
    let output = child.stdout.as_mut().unwrap();
    while byte != *b"\n" {
        std::io::Read::read_exact(output, &mut byte).unwrap();
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not within a minute: {what}");
}
