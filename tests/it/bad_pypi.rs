//! What cannot be had of the Python world is refused with words that name it and the remedy, and leaves no environment. What
//! cannot be built from source is with the sources, and what an environment has already with `--with`.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use envfs_tests::channel::Channel;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, Finished};
use envfs_tests::pypi::{self, Index};
use serde_json::json;

use crate::bad_input::answering;

/// A store, a channel with a Python and a noarch package that is a distribution, and a directory for wheels.
struct Room {
    envfs: Envfs,
    channel: Channel,
    wheels: PathBuf,
}

impl Room {
    fn new() -> Option<Self> {
        let uv = pypi::uv()?;
        let mut envfs = Envfs::new();
        envfs.set("ENVFS_UV", uv);
        let provided = Package::new("greeting 1.0 py_0")
            .noarch_python()
            .depends("python")
            .file("site-packages/greeting.py", "")
            .file(
                "site-packages/greeting-1.0.dist-info/METADATA",
                "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
            );
        let channel = Channel::new(&envfs.path().join("channel"))
            .with(&Package::python("3.12.1"), Format::Conda)
            .with(&provided, Format::Conda);
        let wheels = envfs.path().join("wheels");
        fs::create_dir(&wheels).unwrap();
        Some(Self { envfs, channel, wheels })
    }

    /// A build from the directory of wheels.
    fn build(&self, match_specs: &[&str], requirements: &[&str]) -> Finished {
        let from = format!("--find-links={}", self.wheels.display());
        let requirements = [&["--no-index", &from], requirements].concat();
        self.build_from(match_specs, &requirements)
    }

    fn build_from(&self, match_specs: &[&str], requirements: &[&str]) -> Finished {
        let channel = self.channel.url();
        let mut arguments = ["build", "-c", &channel, "python"].map(str::to_owned).to_vec();
        arguments.extend(match_specs.iter().map(|spec| (*spec).to_owned()));
        arguments.extend(requirements.iter().map(|requirement| format!("--pypi={requirement}")));
        self.envfs.try_run(arguments)
    }

    fn refused(&self, finished: &Finished, parts: &[&str]) {
        finished.refused(1, parts);
        assert_eq!(self.envfs.json(["ls"]), json!([]));
        self.envfs.assert_sound();
    }
}

#[test]
fn a_conflict_across_the_two_worlds_names_the_conda_package() {
    let Some(room) = Room::new() else { return };
    let metadata = "Metadata-Version: 2.1\nName: other\nVersion: 1.0\nRequires-Dist: greeting>=2\n";
    let _ = pypi::wheel(
        &room.wheels,
        "other",
        "1.0",
        &[("other.py", ""), ("other-1.0.dist-info/METADATA", metadata)],
    );
    let _ = pypi::wheel(&room.wheels, "greeting", "2.0", &[("greeting.py", "")]);
    let conflict = room.build(&["greeting"], &["other"]);
    let parts = [
        "no set of packages from PyPI satisfies",
        "greeting>=2",
        "greeting==1.0 is there already, from the conda package greeting 1.0 py_0",
        "ask for a version that fits among the conda dependencies",
    ];
    room.refused(&conflict, &parts);
    // Where conda does not provide it, there is none.
    room.build(&[], &["other"]).success();
}

#[test]
fn a_wheel_whose_record_lies_is_refused() {
    let Some(room) = Room::new() else { return };
    let _ = pypi::lying_wheel(&room.wheels, "liar", "1.0", ("liar.py", "evil = True\n"));
    let parts = ["liar-1.0-py3-none-any.whl", "`liar.py`", "RECORD"];
    room.refused(&room.build(&[], &["liar"]), &parts);
}

#[test]
fn no_wheel_for_the_platform_is_said_with_a_way_out() {
    // Where there is no wheel a source could do, and a Python is asked about it: a real one.
    let Some((envfs, channel)) = pypi::room() else { return };
    let wheel = pypi::wheel(envfs.path(), "far", "1.0", &[("far.py", "")]);
    fs::rename(wheel, envfs.path().join("far-1.0-py3-none-win_amd64.whl")).unwrap();
    let channel = channel.url();
    let from = format!("--pypi=--find-links={}", envfs.path().display());
    let arguments = [
        "build",
        "-c",
        &channel,
        "--python=3",
        "--pypi=--no-index",
        &from,
        "--pypi=far",
    ];
    let refused = envfs.try_run(arguments);
    refused.refused(
        1,
        &[
            "far==1.0 has no wheels with a matching platform tag",
            "there is no wheel for Python 3",
            "on linux-64: ask for a version that has one",
        ],
    );
    assert!(!refused.stderr.contains("switched off"), "{refused}");
}

#[test]
fn a_wheel_that_is_another_than_was_asked_for_is_refused() {
    let Some(room) = Room::new() else { return };
    let _ = pypi::wheel(&room.wheels, "mine", "1.0", &[("mine.py", "")]);
    let wrong = format!("mine==1.0 --hash=sha256:{}", "0".repeat(64));
    let parts = [
        "no wheel of mine 1.0 that fits has one of the digests",
        "write the hashes anew",
    ];
    room.refused(&room.build(&[], &[&wrong]), &parts);
}

#[test]
fn an_index_that_is_down_or_private_is_named() {
    let Some(room) = Room::new() else { return };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = format!("http://{closed}/simple");
    let refused = room.build_from(&[], &[&format!("--index-url={down}"), "mine"]);
    let parts = [
        "a package index cannot be reached",
        &down,
        "check the address of the index",
    ];
    room.refused(&refused, &parts);
    let private = answering(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    let refused = room.build_from(&[], &[&format!("--index-url={private}"), "mine"]);
    let parts = ["a package index asks for credentials", &private, "~/.netrc"];
    room.refused(&refused, &parts);
}

/// Who asks is said in the address, by variables that it names, or in uv's own settings, and holds for the files too.
#[test]
fn a_private_index_is_used_by_whom_it_is_for() {
    let Some(mut room) = Room::new() else { return };
    let _ = pypi::wheel(&room.wheels, "mine", "1.0", &[("mine.py", "")]);
    let index = Index::serve_to(&room.wheels, Some("Basic dXNlcjpzZWNyZXQ="));
    let from = |user: &str| {
        format!(
            "--index-url={}",
            index.url().replace("http://", &format!("http://{user}@"))
        )
    };
    let refused = room.build_from(&[], &[&from("user:wrong"), "mine"]);
    room.refused(&refused, &["a package index asks for credentials"]);
    let refused = room.build_from(&[], &[&from("user:${TOKEN}"), "mine"]);
    room.refused(&refused, &["names the variable TOKEN, which is not set"]);
    let built = room.build_from(&[], &[&from("user:secret"), "mine"]).success();
    room.envfs.set("TOKEN", "secret");
    room.envfs
        .write("requirements.txt", &format!("{}\nmine\n", from("user:${TOKEN}")));
    let channel = room.channel.url();
    let lock = ["lock", "-c", &channel, "-f", "requirements.txt", "python"];
    room.envfs.run(lock);
    let lock = fs::read_to_string(room.envfs.path().join("pixi.lock")).unwrap();
    assert!(
        lock.contains("/files/mine-1.0") && !lock.contains("secret") && !lock.contains("TOKEN"),
        "{lock}"
    );
    assert_eq!(room.envfs.run(["build", "pixi.lock"]), built);

    let mut other = Room::new().unwrap();
    other.envfs.set(
        "UV_INDEX",
        format!("mine={}", from("user:secret").trim_start_matches("--index-url=")),
    );
    other.build_from(&[], &["mine"]).success();
}

#[test]
fn a_lock_that_does_not_fit_its_project_any_more_is_stale() {
    let Some(room) = Room::new() else { return };
    let lock = "version = 1\nrevision = 3\nrequires-python = \">=3.10\"\n[[package]]\nname = \"demo\"\nversion = \"1\"\n\
                source = { virtual = \".\" }\n";
    room.envfs.write("uv.lock", lock);
    room.envfs.write(
        "pyproject.toml",
        "[project]\nname = 'demo'\nversion = '1'\nrequires-python = '>=3.10'\ndependencies = ['newcomer>=2']\n",
    );
    let channel = room.channel.url();
    for command in ["build", "lock"] {
        let refused = room.envfs.try_run([command, "-c", &channel, "-f", "uv.lock"]);
        let parts = [
            "uv.lock is stale",
            "'newcomer>=2'",
            "no newcomer",
            "lock the project again",
        ];
        room.refused(&refused, &parts);
    }
    assert!(!room.envfs.path().join("pixi.lock").exists());
}
