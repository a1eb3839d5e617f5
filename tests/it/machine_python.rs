//! A Python of the machine below packages from PyPI: taken where no channel has one or where it is asked for, the same wherever
//! it was installed, at home at any path, and refused with words that help.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use envfs_tests::channel::Channel;
use envfs_tests::data::skip;
use envfs_tests::program::{Envfs, finish};
use envfs_tests::{pypi, user};
use serde_json::Value;

const PYTHON: &str = "/usr/bin/python3";

/// A program that uses what a Python needs of the machine, and a wheel. Time zones are the machine's.
const USE: &str = "import ctypes, sqlite3, ssl, sys, zoneinfo, greeting; ctypes.CDLL(None); ssl.create_default_context(); \
                   print(sqlite3.connect(':memory:').execute('select 1').fetchone()[0], \
                   not any('.python' in path for path in zoneinfo.TZPATH), sys.base_prefix == sys.prefix + '/.python', greeting.__file__.startswith(sys.prefix), sys.prefix)";

/// A store, two wheels in a directory, and the version of the machine's Python; or nothing, said loudly.
struct Room {
    envfs: Envfs,
    wheels: PathBuf,
    /// `3.11`
    version: String,
}

impl Room {
    fn new() -> Option<Self> {
        let uv = pypi::uv()?;
        let code = "import sys; print('%d.%d' % sys.version_info[:2])";
        let Ok(asked) = Command::new(PYTHON).args(["-c", code]).output() else {
            skip("the Python of the machine: it has none");
            return None;
        };
        let mut envfs = Envfs::new();
        envfs.set("ENVFS_UV", uv);
        let wheels = envfs.path().join("wheels");
        fs::create_dir(&wheels).unwrap();
        let _ = pypi::greeting(&wheels);
        let _ = pypi::wheel(&wheels, "other", "1.0", &[("other.py", "")]);
        let version = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
        Some(Self { envfs, wheels, version })
    }

    /// The arguments of a build, with packages from the directory.
    fn asked(&self, options: &[&str], names: &[&str]) -> Vec<String> {
        let from = format!("--find-links={}", self.wheels.display());
        let mut arguments = vec!["build".to_owned()];
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        for requirement in ["--no-index", &from].iter().chain(names) {
            arguments.push(format!("--pypi={requirement}"));
        }
        arguments
    }

    fn build(&self, options: &[&str], names: &[&str]) -> Value {
        self.envfs.json(self.asked(options, names))
    }

    /// A copy of the machine's Python, used once, so that it has bytecode of its place.
    fn copied(&self, name: &str) -> PathBuf {
        let root = self.envfs.path().join(name);
        let program = root.join(format!("bin/python{}", self.version));
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("lib")).unwrap();
        // With their times, as whoever unpacks the same archive twice gets them.
        let [original, library] = [
            Path::new(PYTHON).canonicalize().unwrap(),
            format!("/usr/lib/python{}", self.version).into(),
        ];
        finish(Command::new("cp").arg("-a").arg(original).arg(&program)).success();
        finish(Command::new("cp").arg("-a").arg(library).arg(root.join("lib"))).success();
        finish(Command::new("find").arg(&root).args([
            "-name",
            "__pycache__",
            "-prune",
            "-exec",
            "rm",
            "-r",
            "{}",
            "+",
        ]))
        .success();
        let mut python = Command::new(&program);
        python.env_remove("PYTHONDONTWRITEBYTECODE");
        let said = finish(python.args(["-c", "import json, sys; print(sys.base_prefix)"])).success();
        assert_eq!(said.trim(), root.to_str().unwrap());
        assert!(
            root.join(format!("lib/python{}/json/__pycache__", self.version))
                .is_dir()
        );
        program
    }
}

#[test]
fn packages_from_pypi_stand_on_the_python_of_the_machine() {
    let Some(room) = Room::new() else { return };
    let one = room.build(&["--machine-python", "--python", &room.version], &["greeting"]);
    let environment = one["signature"].as_str().unwrap();
    let used = room.envfs.run(["run", environment, "--", "python", "-c", USE]);
    assert!(used.starts_with("1 True True True /"), "{used}");
    let greeted = room.envfs.run(["run", environment, "--", "greet"]);
    assert!(greeted.starts_with("hello from"), "{greeted}");
    let site = room.envfs.run(["run", environment, "--", "python", "-m", "site"]);
    assert!(
        site.contains(&format!("/lib/python{}/site-packages'", room.version)) && !site.contains("'/usr"),
        "{site}"
    );

    // Another environment costs its wheel, and the Python is not read again.
    let two = room.build(&["--machine-python", "--python", &room.version], &["greeting", "other"]);
    assert_eq!((&two["base"], &two["new_packages"]), (&one["base"], &1.into()), "{two}");
    assert!(two["new_bytes"].as_u64().unwrap() < 256 << 10, "{two}");

    if user::is_root() {
        for name in ["here", "a/longer/place"] {
            let place = room.envfs.path().join(name);
            fs::create_dir_all(&place).unwrap();
            room.envfs.run(["mount", environment, place.to_str().unwrap()]);
            let used = finish(Command::new(place.join("bin/python")).args(["-c", USE]));
            room.envfs.run(["umount", place.to_str().unwrap()]);
            assert_eq!(used.success().trim(), format!("1 True True True {}", place.display()));
        }
    } else {
        skip("mounts that everybody sees: only root makes them everywhere");
    }
    room.envfs.assert_sound();
}

#[test]
fn the_same_python_of_another_place_is_the_same_environment() {
    let Some(room) = Room::new() else { return };
    let [here, there] = ["here", "some/where/else"].map(|name| room.copied(name));
    let built = |program: &Path| room.build(&[&format!("--machine-python={}", program.display())], &["greeting"]);
    let first = built(&here);
    let second = built(&there);
    assert_eq!(first["signature"], second["signature"]);
    assert_eq!(
        (&second["reused"], &second["new_bytes"]),
        (&true.into(), &0.into()),
        "{second}"
    );
    // It does not need the place where it was.
    fs::remove_dir_all(here.ancestors().nth(2).unwrap()).unwrap();
    fs::remove_dir_all(there.ancestors().nth(2).unwrap()).unwrap();
    let used = room
        .envfs
        .run(["run", first["signature"].as_str().unwrap(), "--", "python", "-c", USE]);
    assert!(used.starts_with("1 True True True /"), "{used}");
}

#[test]
fn it_is_taken_where_no_channel_has_one_and_none_was_named() {
    let Some(room) = Room::new() else { return };
    let channel = Channel::new(&room.envfs.path().join("channel"));
    let configuration = room.envfs.path().join("home/.config/envfs");
    fs::create_dir_all(&configuration).unwrap();
    let text = format!("default-channels = [\"{}\"]\n", channel.url());
    fs::write(configuration.join("config.toml"), text).unwrap();
    let asked = ["--python", room.version.as_str()];
    let taken = room.envfs.try_run(room.asked(&asked, &["greeting"]));
    assert!(
        taken
            .stderr
            .contains(&format!("is this machine's own: /usr/bin/python{}", room.version)),
        "{taken}"
    );
    let signature = taken.success();
    let insisted = room.build(&["--machine-python", "--python", &room.version], &["greeting"]);
    assert_eq!(insisted["signature"], signature.trim());

    // A channel that was named is to have it; so is one for conda packages.
    let url = channel.url();
    for options in [
        &["-c", &url, "--python", &room.version][..],
        &["--python", &room.version, "zlib"],
    ] {
        let refused = room.envfs.try_run(room.asked(options, &["greeting"]));
        refused.refused(1, &["no set of packages satisfies"]);
        assert!(!refused.stderr.contains("this machine's"), "{refused}");
    }
    room.envfs
        .try_run(["lock", "--python", &room.version, "--pypi", "greeting"])
        .refused(1, &["No candidates were found for python"]);
}

#[test]
fn what_cannot_stand_on_it_is_refused() {
    let Some(room) = Room::new() else { return };
    let refused = |options: &[&str], code, parts: &[&str]| {
        room.envfs
            .try_run(room.asked(options, &["greeting"]))
            .refused(code, parts);
    };
    refused(
        &["--machine-python", "--python", "3.99"],
        1,
        &["this machine has no Python 3.99", "--machine-python=PROGRAM"],
    );
    refused(&["--machine-python=/bin/true"], 1, &["/bin/true is no Python 3"]);
    refused(&["--machine-python", "zlib"], 2, &["only packages from PyPI"]);
    refused(&["--machine-python", "-c", "x"], 2, &["--channel"]);
    room.envfs.assert_nothing_built();
}
