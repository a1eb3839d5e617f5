//! The index of uses may be lost, damaged or out of reach: nothing fails for it, and nothing that matters is gone.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use envfs_tests::channel::Channel;
use envfs_tests::mounted::{Who, is_possible};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::user;
use serde_json::Value;

#[test]
fn uses_are_counted_and_survive_what_happens_to_the_database() {
    if !is_possible() {
        return;
    }
    let envfs = built();
    assert_eq!(row(&envfs)["uses"], 0);
    for _ in 0..2 {
        envfs.run(["run", "environment.yml", "--", "true"]);
    }
    let used = row(&envfs);
    assert_eq!(used["uses"], 2);
    assert!(used["file_bytes"].as_u64().unwrap() > 3, "{used}");
    assert_eq!(used["owner_uid"], nix::unistd::geteuid().as_raw());
    assert_eq!(used["spec"], "environment.yml");
    let last_used = used["last_used_unix_s"].as_u64().unwrap();

    for database in databases(&envfs) {
        std::fs::remove_file(database).unwrap();
    }
    let rebuilt = envfs.json(["store", "reindex"]);
    assert_eq!(rebuilt["environments"], 1);
    let after = row(&envfs);
    for field in ["file_bytes", "owner_uid", "spec", "signature"] {
        assert_eq!(after[field], used[field], "{field}");
    }
    assert!(after["last_used_unix_s"].as_u64().unwrap() >= last_used);
    envfs.assert_sound();
}

#[test]
fn a_damaged_database_is_put_aside_with_a_warning() {
    let envfs = built();
    for database in databases(&envfs) {
        std::fs::remove_file(database).unwrap();
    }
    std::fs::write(envfs.store_path().join("index.sqlite"), "nonsense ".repeat(1000)).unwrap();
    let listed = envfs.try_run(["ls"]);
    assert!(listed.stderr.contains("warning: the index was put aside"), "{listed}");
    assert!(listed.status.success());
    assert!(envfs.store_path().join("index.sqlite.aside").is_file());
    assert!(!envfs.try_run(["ls"]).stderr.contains("warning"));
    assert!(row(&envfs)["file_bytes"].is_u64());
}

#[test]
fn somebody_elses_store_is_listed_as_it_is() {
    if !user::is_root() {
        envfs_tests::data::skip("a test of two users: the tester is not root");
        return;
    }
    let envfs = built();
    user::open_to_all(envfs.path());
    let list = || {
        let mut list = envfs.command();
        let text = finish(Who::Ordinary.runs(list.args(["--json", "ls"]))).success();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(list()[0]["subdir"], "linux-64");
    for database in databases(&envfs) {
        std::fs::remove_file(database).unwrap();
    }
    assert_eq!(list()[0]["uses"], 0);
    assert_eq!(databases(&envfs), Vec::<PathBuf>::new());
}

#[test]
fn what_the_umask_lets_a_group_do_it_may_do_to_the_index() {
    let envfs = built();
    for database in databases(&envfs) {
        std::fs::remove_file(database).unwrap();
    }
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 002; exec \"$0\" store reindex"])
        .arg(envfs.program());
    command.env("ENVFS_STORE", envfs.store_path());
    finish(&mut command).success();
    let made = databases(&envfs);
    assert!(!made.is_empty());
    for database in made {
        let mode = database.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o664, "{}", database.display());
    }
}

/// A store with one environment.
fn built() -> Envfs {
    let envfs = Envfs::new();
    let app = Package::new("app 1.0 h0_0").file("share/app/version", "1.0");
    let channel = Channel::new(&envfs.path().join("channel")).with(&app, Format::Conda);
    envfs.write(
        "environment.yml",
        &format!("channels: ['{}']\ndependencies: [app]\n", channel.url()),
    );
    envfs.run(["ensure", "environment.yml"]);
    envfs
}

fn row(envfs: &Envfs) -> Value {
    envfs.json(["ls"])[0].clone()
}

fn databases(envfs: &Envfs) -> Vec<PathBuf> {
    let names = ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"];
    let paths = names.map(|name| envfs.store_path().join(name));
    paths.into_iter().filter(|path| path.exists()).collect()
}
