//! Variants of a project: one lock in which they agree, signatures that move when they do, and a check that notices.

use std::process::Command;

use envfs_tests::channel::Channel;
use envfs_tests::mounted;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, finish};
use serde_json::{Value, json};

/// A store, and a project whose variant `dev` does not bear the newest `a`.
fn project() -> (Envfs, Channel) {
    let envfs = Envfs::new();
    let channel = Channel::new(&envfs.path().join("channel"))
        .with(&Package::new("a 1.0 h0_0").file("share/a", "1"), Format::Conda)
        .with(&Package::new("a 2.0 h0_0").file("share/a", "2"), Format::Conda)
        .with(
            &Package::new("b 1.0 h0_0").depends("a <2").file("share/b", "1"),
            Format::Conda,
        )
        .with(&Package::new("c 1.0 h0_0").file("share/c", "1"), Format::Conda)
        .with(&Package::new("c 2.0 h0_0").file("share/c", "2"), Format::Conda);
    write(&envfs, &channel, &["a"], &[("dev", "b"), ("ml", "c <2")]);
    (envfs, channel)
}

fn write(envfs: &Envfs, channel: &Channel, dependencies: &[&str], variants: &[(&str, &str)]) {
    let mut text = format!("channels = ['{}']\ndependencies = {dependencies:?}\n", channel.url());
    for (name, dependency) in variants {
        text += &format!("[variants.{name}]\ndependencies = ['{dependency}']\n");
    }
    envfs.write("envfs.toml", &text);
}

fn lock(envfs: &Envfs) {
    envfs.run(["lock", "-f", "envfs.toml"]);
}

fn listed(envfs: &Envfs) -> Vec<(String, u64, String)> {
    let listed = envfs.json(["variants"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = listed.as_array().unwrap().iter();
    all.map(|one| {
        (
            text(&one["name"]),
            one["packages"].as_u64().unwrap(),
            text(&one["signature"]),
        )
    })
    .collect()
}

/// Exit code, and how each variant that is named has changed.
fn changed_since(envfs: &Envfs, since: &str) -> (i32, Vec<String>) {
    let finished = envfs.try_run(["--json", "variants", "--changed-since", since]);
    let compared: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    let all = compared.as_array().unwrap().iter();
    let changes = all.map(|one| format!("{} {}", one["name"].as_str().unwrap(), one["change"].as_str().unwrap()));
    (finished.status.code().unwrap(), changes.collect())
}

#[test]
fn variants_share_versions_and_each_has_its_signature() {
    let (envfs, _channel) = project();
    lock(&envfs);
    let variants = listed(&envfs);
    let counts: Vec<_> = variants
        .iter()
        .map(|(name, packages, _)| (name.as_str(), *packages))
        .collect();
    assert_eq!(counts, [("default", 1), ("dev", 2), ("ml", 2)]);
    for (name, _, signature) in &variants {
        let built = envfs.json(["build", "pixi.lock", "--environment", name]);
        let shown = envfs.json(["show", built["signature"].as_str().unwrap()]);
        let packages = shown["packages"].as_array().unwrap();
        let version = packages.iter().find(|package| package["name"] == "a").unwrap()["version"].clone();
        assert_eq!(version, "1.0", "all share the `a` that `dev` bears");
        // What is built with bytecode has the signature that is listed; the tests build without.
        let with = envfs
            .command()
            .env_remove("ENVFS_NO_PYC")
            .args(["build", "pixi.lock", "--environment", name])
            .output();
        assert_eq!(String::from_utf8(with.unwrap().stdout).unwrap().trim(), signature);
    }
}

#[test]
fn a_variant_runs_and_is_mounted_by_its_name() {
    if !mounted::is_possible() {
        return;
    }
    let (envfs, _channel) = project();
    lock(&envfs);
    let read = ["--", "sh", "-c", "ls $CONDA_PREFIX/share"];
    let run = |arguments: &[&str]| envfs.run([&["run"], arguments, &read].concat());
    assert_eq!(run(&["pixi.lock", "--environment", "dev"]), "a\nb\n");
    assert_eq!(run(&[".", "--environment=ml"]), "a\nc\n");
    assert_eq!(run(&["."]), "a\n");
    let signature = envfs.build(["pixi.lock", "--environment", "ml"]).to_string();
    let at = envfs.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let at = at.to_str().unwrap();
    let mounted = envfs.json(["mount", "pixi.lock", at, "--environment", "ml"]);
    assert_eq!(mounted["signature"], signature);
    envfs.run(["umount", at]);

    let refused = |arguments: &[&str], code: i32, parts: &[&str]| {
        envfs
            .try_run([arguments, &["--", "true"]].concat())
            .refused(code, parts);
    };
    refused(
        &["run", "pixi.lock", "--environment", "none"],
        1,
        &["none", "default, dev, ml"],
    );
    refused(
        &["run", &signature, "--environment", "ml"],
        2,
        &["one environment already"],
    );
    envfs.write("environment.yml", "dependencies: [a]\n");
    refused(
        &["run", "environment.yml", "--environment", "ml"],
        2,
        &["is not locked", "envfs lock -f environment.yml"],
    );
    for command in ["build", "ensure"] {
        envfs
            .try_run([command, "environment.yml", "--environment", "ml"])
            .refused(2, &["--environment is for"]);
    }
}

#[test]
fn only_signatures_that_move_are_told() {
    let (envfs, channel) = project();
    lock(&envfs);
    std::fs::copy(envfs.path().join("pixi.lock"), envfs.path().join("old.lock")).unwrap();
    assert_eq!(
        changed_since(&envfs, "old.lock"),
        (0, ["default same", "dev same", "ml same"].map(str::to_owned).to_vec())
    );
    write(&envfs, &channel, &["a"], &[("dev", "b"), ("ml", "c >=2"), ("new", "c")]);
    lock(&envfs);
    let expected = ["default same", "dev same", "ml changed", "new added"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(changed_since(&envfs, "old.lock"), (3, expected));

    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        let settings = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@localhost",
            "-c",
            "init.defaultBranch=main",
        ];
        finish(command.current_dir(envfs.path()).args(settings).args(arguments)).success()
    };
    git(&["init", "-q"]);
    git(&["add", "pixi.lock"]);
    git(&["commit", "-q", "-m", "lock"]);
    assert_eq!(changed_since(&envfs, "HEAD").0, 0);
    write(&envfs, &channel, &["a"], &[("dev", "b")]);
    lock(&envfs);
    let (code, changes) = changed_since(&envfs, "HEAD");
    assert_eq!(
        (code, changes[2..].to_vec()),
        (3, vec!["ml removed".to_owned(), "new removed".to_owned()])
    );
    envfs
        .try_run(["variants", "--changed-since", "no-such-rev"])
        .refused(1, &["neither a lock file nor a revision"]);
    envfs
        .try_run(["variants", "--changed-since", "--output=x"])
        .refused(2, &[]);
}

#[test]
fn a_lock_that_says_something_else_is_noticed_without_solving() {
    let (envfs, channel) = project();
    lock(&envfs);
    let check = || envfs.try_run(["--offline", "lock", "--check"]);
    assert_eq!(check().success(), "");
    // Nothing is asked of the channel.
    std::fs::rename(channel.path(), envfs.path().join("gone")).unwrap();
    assert_eq!(check().success(), "");
    let disagree = |dependencies: &[&str], variants: &[(&str, &str)], expected: &[&str]| {
        write(&envfs, &channel, dependencies, variants);
        let finished = check();
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        assert!(finished.stderr.contains("lock again: envfs lock -f"), "{finished}");
        for line in expected {
            assert!(finished.stdout.contains(line), "{line}: {finished}");
        }
        let json = envfs.try_run(["--json", "lock", "--check"]).stdout;
        assert!(serde_json::from_str::<Value>(&json).unwrap() != json!([]));
    };
    let all = [("dev", "b"), ("ml", "c <2")];
    disagree(
        &["a", "zlib"],
        &all,
        &["default (linux-64): `zlib` is asked for, and not locked"],
    );
    disagree(&["a >=2"], &all, &["`a >=2` is asked for, and a 1.0 h0_0 is locked"]);
    disagree(
        &["a"],
        &[("dev", "b"), ("ml", "a")],
        &["ml (linux-64): c 1.0 h0_0 is locked, and nobody asks for it"],
    );
    disagree(&["a"], &[("dev", "b")], &["ml: it is locked, and no variant"]);
    disagree(
        &["a"],
        &[("dev", "b"), ("ml", "c"), ("x", "c")],
        &["x: it is not locked"],
    );
    // What is looser than before is no disagreement.
    write(&envfs, &channel, &["a"], &[("dev", "b"), ("ml", "c")]);
    assert_eq!(check().success(), "");
}

#[test]
fn contradictions_and_mistakes_are_explained() {
    let (envfs, channel) = project();
    write(&envfs, &channel, &["a"], &[("dev", "b"), ("ml", "a >=2")]);
    envfs
        .try_run(["lock", "-f", "envfs.toml"])
        .refused(1, &["variants share a version of every package"]);
    write(&envfs, &channel, &["a"], &[("dev", "no-such-package")]);
    let alone = envfs.try_run(["lock", "-f", "envfs.toml"]);
    assert!(
        !alone.stderr.contains("variants share"),
        "that is no contradiction: {alone}"
    );
    alone.refused(1, &["no-such-package"]);
    assert!(!envfs.path().join("pixi.lock").exists());
    envfs.write("envfs.toml", "dependencies = ['a => 1']\n");
    envfs
        .try_run(["lock", "-f", "envfs.toml"])
        .refused(1, &["envfs.toml: line 1: 'a => 1' is not a MatchSpec"]);
    envfs.write("envfs.toml", "dependancies = []\n");
    envfs
        .try_run(["lock", "-f", "envfs.toml"])
        .refused(1, &["envfs.toml: line 1: unknown field `dependancies`"]);
    envfs.try_run(["lock", "--variants", "a"]).refused(2, &["-f"]);
    envfs.try_run(["variants"]).refused(1, &["pixi.lock"]);
}

#[test]
fn pixi_environments_are_variants() {
    let (envfs, channel) = project();
    let text = format!(
        "[workspace]\nname = 'x'\nchannels = ['{}']\nplatforms = ['linux-64']\n[dependencies]\na = '*'\n\
         [feature.ml.dependencies]\nc = '<2'\n[environments]\nml = ['ml']\n",
        channel.url()
    );
    envfs.write("pixi.toml", &text);
    envfs.run(["lock", "-f", "pixi.toml"]);
    let names: Vec<_> = listed(&envfs)
        .into_iter()
        .map(|(name, packages, _)| (name, packages))
        .collect();
    assert_eq!(names, [("default".to_owned(), 1), ("ml".to_owned(), 2)]);
    envfs.run(["lock", "--check", "-f", "pixi.toml"]);
}

#[test]
fn a_lock_is_checked_against_what_lies_beside_it() {
    let (envfs, channel) = project();
    std::fs::remove_file(envfs.path().join("envfs.toml")).unwrap();
    envfs.run(["lock", "-c", &channel.url(), "c"]);
    envfs.write("environment.yaml", "dependencies: [c]\n");
    envfs.run(["lock", "--check"]);
    envfs.write("environment.yaml", "dependencies: [a]\n");
    let checked = envfs.try_run(["lock", "--check"]);
    assert!(checked.stderr.contains("environment.yaml asks for"), "{checked}");
    std::fs::remove_file(envfs.path().join("environment.yaml")).unwrap();
    envfs.write("requirements.txt", "greeting\n");
    let checked = envfs.try_run(["lock", "--check"]);
    assert!(checked.stderr.contains("requirements.txt asks for"), "{checked}");
}

#[test]
fn a_lock_of_variants_is_checked_as_one() {
    let (envfs, channel) = project();
    envfs.run(["lock", "-f", "envfs.toml"]);
    std::fs::remove_file(envfs.path().join("envfs.toml")).unwrap();
    envfs.write(
        "pyproject.toml",
        "[project]\nname = 'x'\n[dependency-groups]\ndev = []\nml = []\n",
    );
    let checked = envfs.try_run(["lock", "--check"]);
    assert!(!checked.stdout.contains("no variant"), "{checked}");
    let help = "envfs lock -f ./pyproject.toml --variants";
    assert!(checked.stderr.contains(help), "{checked}");
    envfs.write(
        "c.toml",
        &format!("channels = ['{}']\ndependencies = ['a']\n", channel.url()),
    );
    envfs
        .try_run(["lock", "-f", "c.toml"])
        .refused(1, &["c.toml", "in the form of envfs.toml", "must be called so"]);
}
