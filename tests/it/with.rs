//! `--with`: packages on top of an environment for one run or mount, resolved against what is there, and only once.

use std::fs;

use envfs_store::digest::Digest;
use envfs_tests::mounted::is_mounted;
use envfs_tests::program::{Envfs, finish};
use envfs_tests::pypi::{self, Index, wheel};
use envfs_tests::user;

/// A store with a Python, and an index that has `greeting` (in two versions, the newer one needs `manners`) and `manners`.
fn room() -> Option<(Envfs, Digest, Index)> {
    let (envfs, channel) = pypi::room()?;
    let signature = envfs.build(["-c", &channel.url(), "python", "pip", "idna"]);
    let wheels = envfs.path().join("wheels");
    fs::create_dir(&wheels).unwrap();
    let needs = "Metadata-Version: 2.1\nName: greeting\nVersion: 2.0\nRequires-Dist: manners\n";
    wheel(&wheels, "greeting", "1.0", &[("greeting.py", "WORDS = 'old'\n")]);
    wheel(&wheels, "manners", "1.0", &[("manners.py", "")]);
    let newer = [
        ("greeting.py", "WORDS = 'new'\n"),
        ("greeting-2.0.dist-info/METADATA", needs),
    ];
    wheel(&wheels, "greeting", "2.0", &newer);
    Some((envfs, signature, Index::serve(&wheels)))
}

/// What a program prints with packages on top.
fn run(envfs: &Envfs, environment: &str, with: &[&str], code: &str) -> String {
    let mut arguments = vec!["run", environment];
    with.iter().for_each(|with| arguments.extend(["--with", with]));
    arguments.extend(["--", "python", "-c", code]);
    envfs.run(arguments).trim().to_owned()
}

#[test]
fn packages_on_top_are_resolved_once_and_enter_nothing() {
    let Some((envfs, signature, index)) = room() else {
        return;
    };
    let (signature, from) = (signature.to_string(), format!("--index-url {}", index.url()));
    let code = "import greeting, manners; print(greeting.WORDS)";
    assert_eq!(run(&envfs, &signature, &[&from, "greeting>=1"], code), "new");
    let asked = index.questions();
    assert!(asked > 0);
    assert_eq!(run(&envfs, &signature, &[&from, "greeting>=1"], code), "new");
    assert_eq!(index.questions(), asked, "it was resolved again");
    // Another question is another answer, and the environment itself has nothing of it.
    let old = run(
        &envfs,
        &signature,
        &[&from, "greeting<2"],
        "import greeting; print(greeting.WORDS)",
    );
    assert_eq!(old, "old");
    let without = envfs.try_run(["run", &signature, "--", "python", "-c", "import greeting"]);
    assert!(without.stderr.contains("No module named 'greeting'"), "{without}");
    let again = index.questions();
    let refreshed = [
        "run",
        &signature,
        "--refresh",
        "--with",
        &from,
        "--with",
        "greeting>=1",
        "--",
        "true",
    ];
    envfs.run(refreshed);
    assert!(index.questions() > again, "it was not resolved again");
    // What is there is not replaced.
    envfs
        .try_run(["run", &signature, "--with", &from, "--with", "idna<3", "--", "true"])
        .refused(1, &["idna", "is there already, from the conda package"]);
    envfs.assert_sound();
}

#[test]
fn a_mount_can_have_them_too() {
    let Some((envfs, signature, index)) = room() else {
        return;
    };
    if !user::is_root() {
        envfs_tests::data::skip("mounts that everybody sees: only root makes them everywhere");
        return;
    }
    let place = envfs.path().join("place");
    fs::create_dir(&place).unwrap();
    let from = format!("--index-url={}", index.url());
    let mut mount = envfs.command();
    mount.args(["mount", &signature.to_string(), "--with", &from, "--with", "manners"]);
    finish(mount.arg(&place)).success();
    let mut check = std::process::Command::new(place.join("bin/python"));
    let checked = finish(check.args(["-m", "pip", "check"]));
    envfs.run(["umount", place.to_str().unwrap()]);
    assert!(!is_mounted(&place));
    checked.success();
}

#[test]
fn what_was_installed_by_hand_counts_as_there() {
    let Some((envfs, signature, index)) = room() else {
        return;
    };
    if !user::is_root() {
        envfs_tests::data::skip("writable mounts: only root makes them");
        return;
    }
    let place = envfs.path().join("place");
    fs::create_dir(&place).unwrap();
    let at = place.to_str().unwrap();
    envfs.run(["mount", "--writable", &signature.to_string(), at]);
    let old = envfs.path().join("wheels/greeting-1.0-py3-none-any.whl");
    let mut pip = std::process::Command::new(place.join("bin/python"));
    let installed = finish(pip.args(["-m", "pip", "install", "--no-index"]).arg(old));
    let mut remove = std::process::Command::new(place.join("bin/python"));
    let removed = finish(remove.args(["-m", "pip", "uninstall", "-y", "idna"]));
    let committed = envfs.run(["commit", at]).trim().to_owned();
    envfs.run(["discard", at]);
    installed.success();
    removed.success();

    let from = format!("--index-url {}", index.url());
    let code = "import greeting, manners; print(greeting.WORDS)";
    assert_eq!(run(&envfs, &committed, &[&from, "greeting", "manners"], code), "old");
    envfs
        .try_run([
            "run",
            &committed,
            "--with",
            &from,
            "--with",
            "greeting>=2",
            "--",
            "true",
        ])
        .refused(1, &["greeting==1.0 is there already"]);
    envfs
        .try_run(["run", &committed, "--with", &from, "--with", "idna", "--", "true"])
        .refused(1, &["idna was not found"]);
    // Nothing more on top of it is the environment itself.
    let same = envfs.build(["--base", &committed, "--pypi", &from, "--pypi", "greeting"]);
    assert_eq!(same.to_string(), committed);
    envfs.assert_sound();
}
