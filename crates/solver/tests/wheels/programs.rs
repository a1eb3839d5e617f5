//! What Python's own tools think of an environment with wheels: a real interpreter, written out, without a mount.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use envfs_solver::LockedPackage;
use envfs_store::view::View;

use crate::support::{Room, conda, real_wheels, with_digest, write_out};

/// What Python itself needs.
const PYTHON: [&str; 14] = [
    "bzip2-",
    "expat-",
    "libffi-",
    "libgcc-",
    "libstdcxx-",
    "libuuid-",
    "libxcrypt-",
    "ncurses-",
    "openssl-",
    "python-3",
    "readline-",
    "sqlite-",
    "xz-",
    "zlib-",
];

/// The interpreter of the channel that `cargo xtask channel` makes, and what it needs.
fn python() -> Option<Vec<LockedPackage>> {
    let channel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/channel/linux-64");
    let Ok(entries) = std::fs::read_dir(&channel) else {
        eprintln!("SKIPPED: there is no channel; `cargo xtask channel` makes one");
        return None;
    };
    let paths: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path().canonicalize().unwrap())
        .collect();
    let found: Vec<LockedPackage> = PYTHON
        .iter()
        .filter_map(|start| {
            paths
                .iter()
                .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start))
        })
        .map(|path| conda(path))
        .collect();
    assert_eq!(found.len(), PYTHON.len());
    Some(found)
}

#[test]
fn pip_and_importlib_are_content() {
    let wheels = real_wheels();
    let Some(python) = python().filter(|_| !wheels.is_empty()) else {
        return;
    };
    let room = Room::new();
    let locked: Vec<_> = wheels.iter().map(|path| with_digest(path)).collect();
    let built = room.build(&python, &locked, None).unwrap();
    let prefix = room.path("environment");
    let tree = Arc::new(room.store.tree(&built.environment.tree).unwrap());
    write_out(&View::new(&room.store, tree, &prefix).unwrap());
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(prefix.join("bin").join(program))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", room.path("home"))
            .output()
            .unwrap();
        let log = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{program} {arguments:?}: {log}");
        log
    };
    let checked = run("pip", &["check"]);
    assert!(checked.contains("No broken requirements"), "{checked}");
    let shown = run("python3.11", &["-m", "pip", "show", "-f", "tqdm"]);
    for expected in ["  ../../../bin/tqdm", "  tqdm/__init__.py", "  tqdm-4"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    run("tqdm", &["--version"]);
    let missing = "import importlib.metadata as m\n\
                   bad = [(d.name, str(f)) for d in m.distributions() for f in d.files or [] if not f.locate().exists()]\n\
                   assert not bad, bad\n\
                   assert m.distribution('numpy').read_text('INSTALLER') == 'envfs\\n'\n\
                   import numpy, pandas, requests; print(numpy.zeros(2).sum())";
    assert_eq!(run("python3.11", &["-c", missing]), "0.0\n");
}

/// Says which modules were not taken from bytecode, and imports everything that is named.
const IMPORT: &str = "import importlib, importlib.util, sys\n\
    for name in sys.argv[1:]: importlib.import_module(name)\n\
    site = [m for m in sys.modules.values() if 'site-packages' in (getattr(m, '__file__', None) or '') and m.__file__.endswith('.py')]\n\
    import os, struct\n\
    def fresh(m):\n\
    \x20   try: head = open(importlib.util.cache_from_source(m.__file__), 'rb').read(16)\n\
    \x20   except OSError: return False\n\
    \x20   s = os.stat(m.__file__)\n\
    \x20   return head == importlib.util.MAGIC_NUMBER + struct.pack('<III', 0, int(s.st_mtime), s.st_size)\n\
    print(len(site), [m.__file__ for m in site if not fresh(m)])";

#[test]
fn modules_are_compiled_once_and_nobody_compiles_them_again() {
    let wheels = real_wheels();
    let Some(python) = python().filter(|_| !wheels.is_empty()) else {
        return;
    };
    let noarch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/channel/noarch");
    let idna = std::fs::read_dir(noarch.canonicalize().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("idna-"));
    let packages: Vec<LockedPackage> = python.into_iter().chain(idna.map(|path| conda(&path))).collect();
    let named = |name: &str| {
        wheels
            .iter()
            .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name))
    };
    let chosen: Vec<_> = ["requests-", "urllib3-", "certifi-", "charset_normalizer-", "six-"]
        .iter()
        .filter_map(|name| named(name))
        .map(|path| with_digest(path))
        .collect();
    let room = Room::new();
    let without = room.build(&packages, &chosen, None).unwrap();
    let with = room.build_with(&packages, &chosen, None, true).unwrap();
    assert_ne!(without.environment.signature, with.environment.signature);
    let prefix = room.path("environment");
    let view = |built: &envfs_solver::Built, prefix: &Path| {
        let tree = Arc::new(room.store.tree(&built.environment.tree).unwrap());
        View::new(&room.store, tree, prefix).unwrap()
    };
    write_out(&view(&with, &prefix));
    let run = |arguments: &[&str]| {
        let output = Command::new(prefix.join("bin/python3.11"))
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let seen = run(&["-B", "-c", IMPORT, "requests", "six", "idna", "certifi"]);
    let (count, stale) = seen.trim().split_once(' ').unwrap();
    assert!(count.parse::<usize>().unwrap() > 40, "{seen}");
    assert_eq!(stale, "[]", "modules that would be compiled at every start");
    let shown = run(&["-B", "-c", "import six; print(six.add_metaclass.__code__.co_filename)"]);
    assert_eq!(
        Path::new(shown.trim()),
        prefix.join("lib/python3.11/site-packages/six.py"),
        "tracebacks show the mount"
    );

    // Another environment of the same packages makes none of it again.
    let fewer = room.build_with(&packages, &chosen[..3], None, true).unwrap();
    assert!(fewer.written.objects < 40, "{:?}", fewer.written);
    let thin = room
        .build_with(&packages, &chosen, Some(&fewer.environment), true)
        .unwrap();
    assert_eq!(thin.environment.signature, with.environment.signature);
    assert_eq!(room.files(&thin, Path::new("/e")), room.files(&with, Path::new("/e")));
}

#[test]
fn bytecode_is_beside_the_module_it_was_made_of_and_nowhere_else() {
    let Some(python) = python() else { return };
    let room = Room::new();
    let deep = format!("x = {}{}\n", "(".repeat(5000), ")".repeat(5000));
    let wheels = [
        room.wheel(
            "a",
            "1",
            &[("both.py", "v = 1\n"), ("same.py", "w = 1\n"), ("lonely.py", "u = 1\n")],
        ),
        // Of the same sizes and times as the modules that they replace; one is for another Python.
        room.wheel(
            "b",
            "1",
            &[("both.py", "v 1 =\n"), ("same.py", "w = 2\n"), ("deep.py", &deep)],
        ),
    ];
    let built = room.build_with(&python, &wheels, None, true).unwrap();
    let files = room.files(&built, Path::new("/e"));
    let bytecode = |module: &str| {
        files.get(&format!(
            "lib/python3.11/site-packages/__pycache__/{module}.cpython-311.pyc"
        ))
    };
    assert!(bytecode("lonely").is_some() && bytecode("same").is_some());
    assert!(bytecode("deep").is_none() && bytecode("both").is_none());
    assert!(
        built.clashes.iter().all(|clash| !clash.path.contains("__pycache__")),
        "{:?}",
        built.clashes
    );
    let prefix = room.path("environment");
    let tree = Arc::new(room.store.tree(&built.environment.tree).unwrap());
    write_out(&View::new(&room.store, tree, &prefix).unwrap());
    let output = Command::new(prefix.join("bin/python3.11"))
        .args(["-c", "import same; print(same.w)"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n", "{output:?}");
}
