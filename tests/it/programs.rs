//! Programs at work in environments that are written to: as root and as an ordinary user, in writable runs and mounts.

use std::path::Path;
use std::process::Command;

use envfs_store::digest::Digest;
use envfs_tests::data::{RealChannel, skip};
use envfs_tests::mounted::{self, Who};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::{pypi, user};

/// What file systems are asked for. Prints what depends on who mounts.
const FILE_SYSTEM: &str = include_str!("programs/file_system.py");

/// A store of `who` with an environment of packages of the real channel.
fn room(who: Who, packages: &[&str]) -> Option<(Envfs, RealChannel, Digest)> {
    if !mounted::is_possible() {
        return None;
    }
    let channel = RealChannel::miniforge()?;
    let envfs = Envfs::new();
    user::open_to_all(envfs.path());
    if who == Who::Ordinary {
        user::give_to_ordinary_user(envfs.path());
    }
    let mut build = envfs.command();
    build.args(["build", "-c", &channel.url()]).args(packages);
    let signature = finish(who.runs(&mut build)).success().trim().parse().unwrap();
    Some((envfs, channel, signature))
}

/// Runs a shell script in a writable run, which must succeed.
fn run(envfs: &Envfs, who: Who, signature: &Digest, script: &str) -> String {
    let mut command = envfs.command();
    command.args(["run", "--writable", &signature.to_string(), "--", "bash", "-ec", script]);
    finish(who.runs(&mut command)).success()
}

/// What `envfs diff` says of the writable runs.
fn changes(envfs: &Envfs, who: Who, signature: &Digest) -> String {
    let mut command = envfs.command();
    finish(who.runs(command.args(["diff", &signature.to_string()]))).success()
}

fn file_systems(who: Who) {
    let Some((envfs, _, signature)) = room(who, &["python=3.12"]) else {
        return;
    };
    let script = envfs.write("file_system.py", FILE_SYSTEM);
    let told = run(
        &envfs,
        who,
        &signature,
        &format!("python {} $CONDA_PREFIX", script.display()),
    );
    let is_root = who == Who::Tester && user::is_root();
    let renaming = if is_root { "works" } else { "EXDEV" };
    assert_eq!(told, format!("renaming a directory of the environment: {renaming}\n"));
    let changes = changes(&envfs, who, &signature);
    let lines: Vec<&str> = changes.lines().filter(|line| !line.starts_with("+ own")).collect();
    let changed = ["~ lib/python3.12/cmd.py", "~ lib/python3.12/code.py"];
    assert_eq!(
        lines, changed,
        "what was moved there and back, or written again, is no change"
    );
    if is_root {
        // The same in a mount that all see.
        let place = envfs.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let words = ["mount", "--writable", &signature.to_string(), place.to_str().unwrap()];
        envfs.run(words);
        let mut python = Command::new(place.join("bin/python"));
        assert_eq!(finish(python.arg(&script).arg(&place)).success(), told);
        envfs.run(["discard", place.to_str().unwrap()]);
    }
    envfs.assert_sound();
}

#[test]
fn file_systems_do_what_programs_expect() {
    file_systems(Who::Tester);
}

#[test]
fn file_systems_do_what_programs_of_ordinary_users_expect() {
    file_systems(Who::Ordinary);
}

fn installers(who: Who) {
    let Some((envfs, channel, signature)) = room(who, &["conda", "pip", "wheel"]) else {
        return;
    };
    let wheel = pypi::greeting(envfs.path());
    let pip = format!(
        "pip install --quiet --no-index {}; greet; pip uninstall --quiet -y wheel; ! python -c 'import wheel' 2> /dev/null",
        wheel.display()
    );
    assert!(run(&envfs, who, &signature, &pip).starts_with("hello from "));
    let conda = format!(
        "conda install --yes --quiet --override-channels -c {} mamba > $HOME/log 2>&1 || {{ cat $HOME/log >&2; exit 1; }}\n\
         mamba --version | head -1\n\
         python -m compileall -q lib/python3.12/json $CONDA_PREFIX/lib/python3.12/site-packages/greeting.py",
        channel.url()
    );
    assert!(run(&envfs, who, &signature, &conda).contains("1.5.12"));
    let removed =
        "conda remove --yes --quiet --offline --force mamba > $HOME/log 2>&1; ! test -e $CONDA_PREFIX/bin/mamba";
    run(&envfs, who, &signature, removed);
    let found = changes(&envfs, who, &signature);
    for line in ["+ bin/greet", "- lib/python3.12/site-packages/wheel"] {
        assert!(found.lines().any(|found| found == line), "{line} is not in:\n{found}");
    }
    assert!(
        !found.contains("bin/mamba") && !found.contains("EXTERNALLY-MANAGED"),
        "{found}"
    );

    // It becomes an environment that is seen anywhere, and the old one is what it was.
    let mut commit = envfs.command();
    let kept = finish(who.runs(commit.args(["commit", &signature.to_string()]))).success();
    let mut greet = envfs.command();
    let greeting = finish(who.runs(greet.args(["run", kept.trim(), "--", "greet"]))).success();
    assert!(greeting.contains(&kept[..16]), "{greeting}");
    let mut wheel = envfs.command();
    let old = ["run", &signature.to_string(), "--", "python", "-c", "import wheel"];
    finish(who.runs(wheel.args(old))).success();
    let mut discard = envfs.command();
    finish(who.runs(discard.args(["discard", &signature.to_string()]))).success();
    let mut diff = envfs.command();
    finish(who.runs(diff.args(["diff", &signature.to_string()]))).refused(1, &["no writable run has written"]);
    assert_eq!(
        std::fs::read_dir(envfs.store_path().join("writable")).unwrap().count(),
        0
    );
    envfs.assert_sound();
}

#[test]
fn pip_and_conda_install_and_remove() {
    installers(Who::Tester);
}

#[test]
fn pip_and_conda_of_ordinary_users_install_and_remove() {
    installers(Who::Ordinary);
}

fn git(who: Who) {
    let is_there = Command::new("git").arg("--version").output().is_ok();
    if !is_there {
        return skip("git in a writable run: git is not installed");
    }
    let Some((envfs, _, signature)) = room(who, &["python=3.12"]) else {
        return;
    };
    let script = "cd $CONDA_PREFIX\n\
        g='git -c user.name=n -c user.email=n@example.org -c init.defaultBranch=main'\n\
        mkdir work; cd work; $g init -q one; cd one\n\
        cp ../../lib/python3.12/*.py .; $g add .; $g commit -qm first; echo x > x; $g add x; $g commit -qm second\n\
        $g gc -q --aggressive; $g fsck 2> /dev/null; cd ..; $g clone -q one two; cd two\n\
        $g log --format=%s; $g status --short";
    assert_eq!(run(&envfs, who, &signature, script), "second\nfirst\n");
}

#[test]
fn git_works() {
    git(Who::Tester);
    git(Who::Ordinary);
}

#[test]
fn ordinary_users_are_told_what_they_can_do() {
    let envfs = Envfs::new();
    user::open_to_all(envfs.path());
    user::give_to_ordinary_user(envfs.path());
    let place = envfs.path().join("home");
    let refuse = |words: &[&str], code: i32, parts: &[&str]| {
        let mut command = envfs.command();
        command.args(words);
        finish(Who::Ordinary.runs(&mut command)).refused(code, parts);
    };
    let place: &Path = &place;
    refuse(
        &["mount", "--writable", "12345678", place.to_str().unwrap()],
        1,
        &["only root", "envfs run --writable"],
    );
    refuse(&["diff", "12345678"], 1, &["no environment"]);
    refuse(&["diff", "no/such/place"], 1, &["cannot find `no/such/place`"]);
    refuse(
        &["run", "--writable", "--backend", "fuse", "12345678", "--", "true"],
        2,
        &["--backend"],
    );
}
