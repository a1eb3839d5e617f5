//! What sources say is run where it can do no harm: neither when they are asked what they need nor when they are built can it
//! write to what is not its own, or reach other processes. And real ones still build, compiled code among them.

use std::fs;
use std::path::Path;
use std::process::Command;

use envfs_tests::data::skip;
use envfs_tests::program::Envfs;
use envfs_tests::user::Who;
use envfs_tests::{pypi, user};

/// What a backend does first, wherever it is asked for something. It has to be asked, because the version is not written down.
const HOSTILE: &str = r#"
import json, os, pwd

_told = []


def _tries(name, action):
    try:
        action()
        _told.append(name + " done")
    except OSError as error:
        _told.append(name + " " + os.strerror(error.errno))


def _writes(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").close()


for _name, _place in json.loads(os.environ["PLACES"]).items():
    _tries(_name, lambda: _writes(_place + "/was-here"))
_tries("own", lambda: _writes(os.environ["HOME"] + "/was-here"))
_tries("temporary", lambda: _writes(os.environ["TMPDIR"] + "/was-here"))
_tries("cached", lambda: _writes(os.environ["UV_CACHE_DIR"] + "/was-here"))
_tries("lock", lambda: os.unlink(os.environ["STORE"] + "/FORMAT"))
_tries("shown", lambda: open(os.environ["HOME"] + "/setting", "a").close())
_tries("kill", lambda: os.kill(int(os.environ["TESTER"]), 0))
_tries("remount", lambda: os.system("mount -o remount,rw,bind / / 2>/dev/null") and _writes("/was-here"))
_tries("device", lambda: os.mknod(os.environ["TMPDIR"] + "/device", 0o660 | 0o020000, os.makedev(1, 1)))
# Whoever puts the wheel together must not write where this leads.
_plant = os.path.dirname(os.environ["HOME"]) + "/mine-1.0-py3-none-any.whl"
_victim = json.loads(os.environ["PLACES"])["home"] + "/was-here"
_tries("planted", lambda: os.path.lexists(_plant) or os.symlink(_victim, _plant))
_told.append("reads " + open(os.environ["HOME"] + "/setting").read())
with open("src/" + next(n for n in os.listdir("src") if n.endswith(".py")), "a") as _module:
    _module.write("TOLD = " + repr(_told) + "\n")
"#;

#[test]
fn builds_write_to_nothing_but_their_own() {
    build_what_is_hostile(Who::Tester);
}

#[test]
fn builds_of_ordinary_users_write_to_nothing_but_their_own() {
    if user::is_root() {
        build_what_is_hostile(Who::Ordinary);
    } else {
        skip("the tester is an ordinary user");
    }
}

fn build_what_is_hostile(who: Who) {
    let Some((mut envfs, channel)) = pypi::room() else {
        return;
    };
    let project = pypi::project(envfs.path(), "mine", "one");
    let pyproject = project.join("pyproject.toml");
    let text = fs::read_to_string(&pyproject).unwrap();
    fs::write(&pyproject, text.replace("version = \"1.0\"", "dynamic = [\"version\"]")).unwrap();
    let backend = fs::read_to_string(project.join("backend.py")).unwrap();
    fs::write(project.join("backend.py"), HOSTILE.to_owned() + &backend).unwrap();

    let home = envfs.path().join("home");
    fs::write(home.join("setting"), "what is set").unwrap();
    fs::create_dir(home.join("directory")).unwrap();
    let beside = tempfile::tempdir().unwrap();
    user::open_to_all(beside.path());
    who.owns(beside.path());
    let places = [
        ("home", home.clone()),
        ("in home", home.join("directory")),
        ("store", envfs.store_path()),
        ("beside", beside.path().to_owned()),
        ("machine", "/var/tmp".into()),
        ("temporary of all", std::env::temp_dir()),
    ];
    let places: serde_json::Map<_, _> = places
        .iter()
        .map(|(name, path)| ((*name).to_owned(), path.to_str().unwrap().into()))
        .collect();
    envfs.set("PLACES", serde_json::Value::from(places.clone()).to_string());
    envfs.set("STORE", envfs.store_path());
    envfs.set("TESTER", std::process::id().to_string());
    user::open_to_all(envfs.path());
    envfs.give_to(who);

    let asked = [
        "build",
        "-c",
        &channel.url(),
        "--python",
        "3",
        "--pypi",
        "--no-index",
        "--pypi",
        "./mine",
    ];
    let environment = envfs.run(asked).trim().to_owned();
    let code = "import mine; print('\\n'.join(mine.TOLD))";
    let told = envfs.run(["run", &environment, "--", "python", "-c", code]);
    let read_only = places.keys().map(|name| format!("{name} Read-only file system"));
    let expected = read_only.chain(
        [
            "own done",
            "planted done",
            "temporary done",
            "cached done",
            "lock Read-only file system",
            "shown Read-only file system",
            "kill No such process",
            "remount Read-only file system",
            "device Operation not permitted",
            "reads what is set",
        ]
        .map(str::to_owned),
    );
    for line in expected {
        assert!(told.lines().any(|told| told == line), "{line}\n{told}");
    }
    // Also what seemed to be written is nowhere.
    for place in places.values().map(|place| Path::new(place.as_str().unwrap())) {
        assert!(!place.join("was-here").exists(), "{}", place.display());
    }
    assert!(!envfs.path().join("uv-cache/was-here").exists());
    let left = fs::read_dir(envfs.store_path().join("tmp")).unwrap();
    assert!(left.count() <= 1, "something is left in the store");
    envfs.assert_sound();
}

/// A distribution with a module in C, whose source distribution alone may be used.
const COMPILED: &str = "bitarray";

#[test]
fn a_real_source_distribution_is_compiled() {
    let Some(uv) = pypi::uv() else { return };
    let Some(python) = python_to_compile_for() else { return };
    let mut envfs = Envfs::new();
    envfs.set("ENVFS_UV", uv);
    pypi::reach_the_registry(&mut envfs);
    let python = format!("--machine-python={python}");
    let no_binary = format!("--no-binary={COMPILED}");
    let asked = ["build", &python, "--pypi", &no_binary, "--pypi", COMPILED];
    let built = envfs.try_run(asked);
    if pypi::is_unreachable(&built) {
        return;
    }
    let environment = built.success().trim().to_owned();
    let code = "import bitarray, bitarray._bitarray as c; b = bitarray.bitarray('1011'); print(b.count(), c.__file__)";
    let used = envfs.run(["run", &environment, "--", "python", "-c", code]);
    let (count, module) = used.trim().split_once(' ').unwrap();
    assert!(count == "3" && module.ends_with(".so"), "{used}");
    // What was asked is there, and needs nobody any more.
    let again = envfs.run([&["ensure"][..], &asked[1..], &["--offline"]].concat());
    assert_eq!(again.trim(), environment);
    envfs.assert_sound();
}

/// A Python of this machine that has its headers, where there is a compiler too.
fn python_to_compile_for() -> Option<String> {
    let code = "import os, sys, sysconfig, shutil; \
                print(sys.executable if os.path.exists(sysconfig.get_paths()['include'] + '/Python.h') \
                and shutil.which('gcc') else '')";
    let asked = Command::new("python3").args(["-c", code]).output().ok()?;
    let found = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    if found.is_empty() {
        skip("the machine has no compiler, or no Python with headers");
        return None;
    }
    Some(found)
}
