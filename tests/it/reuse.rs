//! What was asked before is found again: without a solve, without a network, however it is spelled.

use std::path::PathBuf;

use envfs_store::answers;
use envfs_tests::channel::Channel;
use envfs_tests::mounted::{Who, is_possible};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, Finished, files_below, finish};
use envfs_tests::server::Server;
use envfs_tests::user;
use serde_json::Value;

#[test]
fn a_known_spec_needs_neither_a_network_nor_a_solve() {
    let mut world = World::new();
    let first = world.ensure(&["environment.yml"]);
    assert_eq!(first["known"], false);
    let asked = world.server.requests();
    assert!(asked > 0);
    // Another spelling, another file: the same question.
    world
        .envfs
        .write("other.yml", &spec(&world.server, "# mine\nname: other\n", "'app  1.*'"));
    world
        .envfs
        .write("requirements.lock.yml", &spec(&world.server, "", "'app=1'"));
    for known in ["environment.yml", "other.yml", "requirements.lock.yml", "."] {
        let again = world.ensure(&[known]);
        assert_eq!(again["signature"], first["signature"], "{known}");
        assert_eq!(again["known"], true, "{known}");
        assert_eq!(again["stale"], Value::Null, "{known}");
    }
    assert_eq!(world.server.requests(), asked);
    world.server.stop();
    assert_eq!(world.ensure(&["environment.yml"])["known"], true);
    let shown = world.envfs.json(["show", "environment.yml"]);
    assert_eq!(shown["signature"], first["signature"]);
    world.envfs.assert_sound();
}

/// Seen by the kernel: no connection, no socket, no other program, so neither a solve by uv nor a child.
#[test]
fn a_known_spec_is_found_without_a_socket_or_another_program() {
    let mut world = World::new();
    world.ensure(&["environment.yml"]);
    world.server.stop();
    let log = world.envfs.path().join("calls");
    let ensure = world.envfs.command();
    let mut traced = std::process::Command::new("strace");
    traced.args(["--follow-forks", "-e", "trace=socket,connect,execve,fork,vfork", "-o"]);
    traced
        .arg(&log)
        .arg(ensure.get_program())
        .args(["--json", "ensure", "environment.yml"]);
    let set = ensure.get_envs().filter_map(|(name, value)| Some((name, value?)));
    traced.env_clear().envs(set).current_dir(world.envfs.path());
    if !std::path::Path::new("/usr/bin/strace").exists() {
        return envfs_tests::data::skip("a known spec under strace, which is not here");
    }
    let known: Value = serde_json::from_str(&finish(&mut traced).success()).unwrap();
    assert_eq!((&known["known"], &known["reused"]), (&true.into(), &true.into()));
    let calls = std::fs::read_to_string(log).unwrap();
    // The driver of a GPU is asked for its version, which is part of the question (`__cuda`, CEP 30).
    let is_call = |line: &&str| line.contains('(') && !line.contains("nvidia-smi");
    let calls: Vec<&str> = calls.lines().filter(is_call).collect();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].contains("execve("), "{calls:?}");
}

#[test]
fn another_question_is_asked_anew() {
    let world = World::new();
    let first = world.ensure(&["environment.yml"]);
    world
        .envfs
        .write("more.yml", &spec(&world.server, "variables: {A: b}\n", "app=1"));
    for other in [
        vec!["more.yml"],
        vec!["environment.yml", "--python", "3.12"],
        vec!["environment.yml", "--exclude-newer", "2026-01-31"],
    ] {
        assert_eq!(world.ensure(&other)["known"], false, "{other:?}");
        assert_eq!(world.ensure(&other)["known"], true, "{other:?}");
    }
    assert_ne!(world.ensure(&["more.yml"])["signature"], first["signature"]);
}

#[test]
fn an_old_answer_is_asked_again_and_a_stale_one_used_while_the_channel_is_down() {
    let mut world = World::new();
    let first = world.ensure(&["environment.yml"]);
    world.channel.add(&app("1.2"), Format::Conda);
    assert_eq!(world.ensure(&["environment.yml"])["signature"], first["signature"]);
    world.make_answers_older(23 * 3600);
    assert_eq!(world.ensure(&["environment.yml"])["signature"], first["signature"]);
    world.make_answers_older(2 * 3600);
    assert_eq!(world.ensure(&["environment.yml", "--max-age", "2d"])["known"], true);
    world.server.stop();
    let stale = world.try_ensure(&["environment.yml"]);
    assert!(
        stale.stderr.contains("warning: a solution that is 1 d old is used"),
        "{stale}"
    );
    let stale: Value = serde_json::from_str(&stale.success()).unwrap();
    assert_eq!(stale["signature"], first["signature"]);
    assert!(
        stale["stale"].as_str().unwrap().contains("cannot be reached"),
        "{stale}"
    );

    let server = Server::start(world.channel.path());
    world.server = server;
    world.write_spec();
    let newer = world.ensure(&["environment.yml"]);
    assert_eq!(newer["known"], false);
    assert_ne!(newer["signature"], first["signature"]);
}

#[test]
fn a_refresh_asks_whatever_is_known() {
    let mut world = World::new();
    let first = world.ensure(&["environment.yml"]);
    world.channel.add(&app("1.2"), Format::Conda);
    let newer = world.ensure(&["environment.yml", "--refresh"]);
    assert_eq!(newer["known"], false);
    assert_ne!(newer["signature"], first["signature"]);
    // What was found is the answer from now on.
    assert_eq!(world.ensure(&["environment.yml"])["signature"], newer["signature"]);
}

#[test]
fn an_environment_that_is_gone_is_built_from_its_kept_lock() {
    let mut world = World::new();
    let first = world.ensure(&["environment.yml"]);
    let signature = first["signature"].as_str().unwrap();
    std::fs::remove_file(world.envfs.store_path().join(format!("environments/{signature}.json"))).unwrap();
    world.server.stop();
    let again = world.ensure(&["environment.yml"]);
    assert_eq!(again["known"], true);
    assert_eq!(again["reused"], false);
    assert_eq!(again["signature"], first["signature"]);
}

#[test]
fn a_damaged_answer_is_none() {
    let world = World::new();
    let first = world.ensure(&["environment.yml"]);
    for answer in world.answers() {
        std::fs::remove_file(&answer).unwrap();
        std::fs::write(&answer, "{\"format\": 1").unwrap();
    }
    let again = world.ensure(&["environment.yml"]);
    assert_eq!(again["known"], false);
    assert_eq!(again["signature"], first["signature"]);
}

#[test]
fn a_lock_is_known_by_its_bytes() {
    let mut world = World::new();
    world.envfs.run(["lock", "-f", "environment.yml"]);
    let first = world.ensure(&["pixi.lock"]);
    assert_eq!(first["known"], false);
    world.server.stop();
    world.make_answers_older(365 * 86_400);
    // The directory stands for the lock in it, and a copy of the lock is the same lock.
    std::fs::create_dir(world.envfs.path().join("project")).unwrap();
    std::fs::copy(
        world.envfs.path().join("pixi.lock"),
        world.envfs.path().join("project/pixi.lock"),
    )
    .unwrap();
    for known in ["pixi.lock", "./project"] {
        let again = world.ensure(&[known]);
        assert_eq!(
            (&again["known"], &again["stale"]),
            (&Value::Bool(true), &Value::Null),
            "{known}"
        );
        assert_eq!(again["signature"], first["signature"]);
    }
}

#[test]
fn what_is_not_known_cannot_be_had_without_a_channel() {
    let mut world = World::new();
    world.server.stop();
    world
        .envfs
        .try_run(["ensure", "environment.yml"])
        .refused(1, &["cannot be reached"]);
    world.envfs.assert_nothing_built();
    world
        .envfs
        .try_run(["ensure", "environment.yml", "--max-age", "7x"])
        .refused(2, &["is no span of time"]);
    std::fs::create_dir(world.envfs.path().join("empty")).unwrap();
    world
        .envfs
        .try_run(["ensure", "./empty"])
        .refused(1, &["holds no lock and no spec", "pixi.lock"]);
}

#[test]
fn a_run_of_a_known_spec_needs_no_network() {
    run_without_network(Who::Tester);
}

#[test]
fn a_run_of_a_known_spec_needs_no_network_as_an_ordinary_user() {
    run_without_network(Who::Ordinary);
}

fn run_without_network(who: Who) {
    if !is_possible() {
        return;
    }
    let mut world = World::new();
    if who == Who::Ordinary {
        user::open_to_all(world.envfs.path());
        user::give_to_ordinary_user(world.envfs.path());
    }
    for is_known in [false, true] {
        let mut run = world.envfs.command();
        run.args([
            "run",
            "environment.yml",
            "--",
            "sh",
            "-c",
            "cat $CONDA_PREFIX/share/app/version",
        ]);
        assert_eq!(finish(who.runs(&mut run)).success(), "1.0", "{is_known}");
        if !is_known {
            world.server.stop();
        }
    }
}

/// A channel on a server, and a spec that asks it.
struct World {
    envfs: Envfs,
    channel: Channel,
    server: Server,
}

impl World {
    fn new() -> Self {
        let envfs = Envfs::new();
        let channel = Channel::new(&envfs.path().join("channel"))
            .with(&app("1.0"), Format::Conda)
            .with(&Package::python("3.12.1"), Format::Conda);
        let server = Server::start(channel.path());
        let world = Self { envfs, channel, server };
        world.write_spec();
        world
    }

    fn write_spec(&self) {
        self.envfs.write("environment.yml", &spec(&self.server, "", "app=1"));
    }

    fn try_ensure(&self, arguments: &[&str]) -> Finished {
        self.envfs.try_run([&["--json", "ensure"], arguments].concat())
    }

    fn ensure(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.try_ensure(arguments).success()).unwrap()
    }

    fn answers(&self) -> Vec<PathBuf> {
        files_below(&self.envfs.store_path().join("cache/locks"))
    }

    fn make_answers_older(&self, seconds: u64) {
        let store = self.envfs.store();
        for (question, mut answer) in answers::list(&store).unwrap() {
            answer.solved_unix_s -= seconds;
            answer.keep(&store, &question).unwrap();
        }
    }
}

fn spec(server: &Server, more: &str, dependency: &str) -> String {
    format!(
        "channels: ['{}']\n{more}dependencies:\n  - {dependency}\n",
        server.url()
    )
}

fn app(version: &str) -> Package {
    Package::new(&format!("app {version} h0_0")).file("share/app/version", version)
}
