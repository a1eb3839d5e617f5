//! Environments that are written to: programs work in them, what is below never changes, and changes can be kept.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use envfs_store::digest::Digest;
use envfs_tests::channel::Channel;
use envfs_tests::data::{RealChannel, skip};
use envfs_tests::mounted::{is_mounted, is_possible};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::{pypi, user};

/// A place that nothing stays mounted at, even if the test fails.
struct Place(PathBuf);

impl std::ops::Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// A writable mount of the channel's Python with pip.
fn mounted(envfs: &Envfs, channel: &RealChannel) -> (Digest, Place) {
    let signature = envfs.build([
        "-c",
        &channel.url(),
        "python=3.12",
        "pip",
        "wheel",
        "setuptools",
        "idna",
    ]);
    let place = envfs.path().join("a place");
    std::fs::create_dir(&place).unwrap();
    envfs.run(["mount", "--writable", &signature.to_string(), place.to_str().unwrap()]);
    (signature, Place(place))
}

fn room() -> Option<(Envfs, RealChannel)> {
    if !user::is_root() {
        skip("writable mounts: only root makes them");
        return None;
    }
    RealChannel::miniforge().map(|channel| (Envfs::new(), channel))
}

#[test]
fn what_is_written_can_be_kept_and_seen_anywhere() {
    let Some((envfs, channel)) = room() else { return };
    let (signature, place) = mounted(&envfs, &channel);
    let python = |arguments: &[&str]| {
        let mut command = Command::new(place.join("bin/python"));
        finish(command.args(arguments).env_remove("PYTHONDONTWRITEBYTECODE")).success()
    };
    let wheel = pypi::greeting(envfs.path());
    python(&["-m", "pip", "install", "--no-index", wheel.to_str().unwrap()]);
    python(&["-m", "pip", "uninstall", "-y", "idna"]);
    let changes = envfs.run(["diff", place.to_str().unwrap()]);
    for line in [
        "+ bin/greet",
        "+ lib/python3.12/site-packages/greeting.py",
        "- lib/python3.12/site-packages/idna",
    ] {
        assert!(
            changes.lines().any(|found| found == line),
            "{line} is not in:\n{changes}"
        );
    }
    assert!(
        !changes.contains("EXTERNALLY-MANAGED") && !changes.contains("frozen"),
        "{changes}"
    );

    let kept = envfs.run(["commit", place.to_str().unwrap()]).trim().to_owned();
    assert_eq!(
        envfs.run(["commit", place.to_str().unwrap()]).trim(),
        kept,
        "the same changes are the same environment"
    );
    assert_ne!(kept, signature.to_string());
    let greeting = envfs.run(["run", &kept, "--", "greet"]);
    let elsewhere = envfs.store_path().join("mnt").join(&kept[..16]);
    let module = elsewhere.join("lib/python3.12/site-packages/greeting.py");
    assert_eq!(greeting.trim(), format!("hello from {}", module.display()));
    let missing = envfs.try_run(["run", &kept, "--", "python", "-c", "import idna"]);
    assert!(missing.stderr.contains("No module named 'idna'"), "{missing}");
    // What is below has not changed.
    envfs.run(["run", &signature.to_string(), "--", "python", "-c", "import idna"]);
    envfs.run(["discard", place.to_str().unwrap()]);
    assert!(!is_mounted(&place));
    assert_eq!(
        std::fs::read_dir(envfs.store_path().join("writable")).unwrap().count(),
        0
    );
    envfs.assert_sound();
}

#[test]
fn changes_outlive_the_mount_and_belong_to_it() {
    let Some((envfs, channel)) = room() else { return };
    let (signature, place) = mounted(&envfs, &channel);
    let library = place.join("lib/python3.12");
    // Directories of the environment can be renamed, modes changed, and files mapped and written.
    std::fs::rename(library.join("json"), library.join("renamed")).unwrap();
    std::fs::write(library.join("os.py"), "changed").unwrap();
    let database = "import sqlite3; c = sqlite3.connect('base.db'); c.execute('create table t (n)'); c.commit()";
    let mut sqlite = Command::new(place.join("bin/python3.12"));
    std::fs::remove_file(library.join("os.py")).unwrap();
    std::fs::write(library.join("os.py"), restored(&envfs, &signature, "os.py")).unwrap();
    std::fs::rename(library.join("renamed"), library.join("json")).unwrap();
    finish(sqlite.args(["-c", database]).current_dir(place.join("share"))).success();
    let changes = envfs.run(["diff", place.to_str().unwrap()]);
    let written: Vec<_> = changes.lines().filter(|line| !line.contains("__pycache__")).collect();
    assert_eq!(written, ["+ share/base.db"]);

    envfs.run(["umount", place.to_str().unwrap()]);
    envfs.run(["mount", "--writable", &signature.to_string(), place.to_str().unwrap()]);
    assert!(place.join("share/base.db").is_file());
    envfs.run(["umount", place.to_str().unwrap()]);
    let other = envfs.build(["-c", &channel.url(), "python=3.12"]);
    envfs
        .try_run(["mount", "--writable", &other.to_string(), place.to_str().unwrap()])
        .refused(1, &["holds changes of the environment", "commit or discard"]);
    // What was written can be kept also when it is not mounted.
    let kept = envfs.run(["commit", place.to_str().unwrap()]);
    envfs.run([
        "run",
        kept.trim(),
        "--",
        "sh",
        "-c",
        "test -f $CONDA_PREFIX/share/base.db",
    ]);
    envfs.run(["discard", place.to_str().unwrap()]);
    envfs
        .try_run(["commit", place.to_str().unwrap()])
        .refused(1, &["is not a writable mount"]);
    envfs.run(["mount", "--writable", &other.to_string(), place.to_str().unwrap()]);
    assert!(!place.join("share/base.db").exists());
    envfs.run(["discard", place.to_str().unwrap()]);
}

fn restored(envfs: &Envfs, signature: &Digest, module: &str) -> String {
    let print = format!(
        "print(open('{}/lib/python3.12/{module}').read(), end='')",
        "'+__import__('sys').prefix+'"
    );
    envfs.run(["run", &signature.to_string(), "--", "python", "-c", &print])
}

/// A store of a group, as docs/shared-server.md describes it: directories are of the group, whoever makes them, and a user's own
/// namespace knows only the user's first group.
#[test]
fn a_member_of_the_group_of_a_store_writes() {
    const GROUP: u32 = 60_001;
    if !user::is_root() || !is_possible() {
        return skip("stores of groups: only root can be several users");
    }
    let envfs = Envfs::new();
    user::open_to_all(envfs.path());
    let channel = Channel::new(&envfs.path().join("channel"))
        .with(&Package::new("app 1.0 0").file("share/app", "app"), Format::Conda);
    let store = envfs.store_path();
    std::fs::create_dir(&store).unwrap();
    chown(&store, None, Some(GROUP)).unwrap();
    std::fs::set_permissions(&store, Permissions::from_mode(0o2775)).unwrap();
    user::give_to_ordinary_user(&envfs.path().join("channel"));
    let as_member = |arguments: &[&str]| {
        let mut command = envfs.command();
        command.args(arguments);
        let mut member = Command::new("setpriv");
        member.args([
            "--reuid",
            "nobody",
            "--regid",
            "nogroup",
            "--groups",
            &GROUP.to_string(),
            "sh",
            "-c",
        ]);
        member
            .args(["umask 002; exec \"$0\" \"$@\""])
            .arg(command.get_program());
        member.args(command.get_args()).env_clear().current_dir(envfs.path());
        member.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        finish(&mut member).success()
    };
    let signature = as_member(&["build", "-c", &channel.url(), "app"]);
    let run = |option: &str| {
        let script = "echo more >> $CONDA_PREFIX/share/app; cat $CONDA_PREFIX/share/app";
        as_member(&["run", option, signature.trim(), "--", "sh", "-c", script])
    };
    assert_eq!(run("--scratch"), "appmore\n");
    assert_eq!(run("--writable"), "appmore\n");
    assert_eq!(run("--writable"), "appmore\nmore\n");
}
