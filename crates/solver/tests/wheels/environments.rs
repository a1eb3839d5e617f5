//! Hand-made environments: where files go, what installers add, who replaces whom, and what an environment is called.

use std::path::Path;

use envfs_solver::LockedWheel;
use envfs_store::environment::PackageKind;
use serde_json::json;

use crate::support::{Files, Room, recorded};

const SITE: &str = "lib/python3.11/site-packages";

fn text<'a>(files: &'a Files, path: &str) -> &'a str {
    match files.get(path) {
        Some((content, _)) => std::str::from_utf8(content).unwrap(),
        None => panic!("{path} is not among {:?}", files.keys()),
    }
}

/// Every line of a `RECORD` is of a file that is there and has that content.
fn assert_record_is_true(files: &Files, dist_info: &str) {
    let record = text(files, &format!("{SITE}/{dist_info}/RECORD"));
    let lines: Vec<&str> = record.lines().collect();
    assert!(lines.is_sorted(), "{record}");
    for line in lines {
        let (path, digest) = line.split_once(',').unwrap();
        let path = match path.strip_prefix("../../../") {
            Some(outside) => outside.to_owned(),
            None => format!("{SITE}/{path}"),
        };
        if digest == "," {
            assert!(path.ends_with("/RECORD"), "{line}");
        } else {
            assert_eq!(digest, recorded(text(files, &path).as_bytes()), "{path}");
        }
    }
}

#[test]
fn a_wheel_is_where_its_python_looks_for_it() {
    let room = Room::new();
    let wheel = room
        .wheel(
            "My_Tool",
            "1.0",
            &[
                ("my_tool/__init__.py", "def main(): print('hello')\n"),
                (
                    "My_Tool-1.0.dist-info/entry_points.txt",
                    "[console_scripts]\nmy-tool = my_tool:main\nwrapped = my_tool:main\n",
                ),
                ("My_Tool-1.0.data/scripts/run-it", "#!python -O\nprint(1)\n"),
                ("My_Tool-1.0.data/scripts/wrapped", "#!python\nold wrapper\n"),
                ("My_Tool-1.0.data/scripts/plain.sh", "#!/bin/sh\necho plain\n"),
                ("My_Tool-1.0.data/headers/tool.h", "int tool;\n"),
                ("My_Tool-1.0.data/data/share/my,tool.txt", "data\n"),
            ],
        )
        .with_requested(true)
        .with_direct_url(Some("{\"url\":\"https://host/x\",\"archive_info\":{}}".to_owned()));
    let built = room
        .build(&[room.python()], std::slice::from_ref(&wheel), None)
        .unwrap();
    let files = room.files(&built, Path::new("/envs/x"));
    let info = format!("{SITE}/My_Tool-1.0.dist-info");
    assert_eq!(text(&files, &format!("{info}/INSTALLER")), "envfs\n");
    assert_eq!(text(&files, &format!("{info}/REQUESTED")), "");
    assert!(text(&files, &format!("{info}/direct_url.json")).contains("https://host/x"));
    assert_eq!(text(&files, "include/python3.11/my-tool/tool.h"), "int tool;\n");
    assert_eq!(text(&files, "share/my,tool.txt"), "data\n");
    assert!(text(&files, "bin/my-tool").contains("from my_tool import main"));
    assert!(text(&files, "bin/wrapped").contains("from my_tool import main"));
    assert!(text(&files, "bin/run-it").ends_with("'python3.11' '-O' \"$0\" \"$@\"\n' '''\nprint(1)\n"));
    assert_eq!(text(&files, "bin/plain.sh"), "#!/bin/sh\necho plain\n");
    assert!(
        ["my-tool", "wrapped", "run-it", "plain.sh"]
            .iter()
            .all(|name| files[&format!("bin/{name}")].1)
    );
    let record = text(&files, &format!("{info}/RECORD"));
    assert!(record.contains("\"../../../share/my,tool.txt\",sha256="), "{record}");
    let plain = record
        .lines()
        .filter(|line| !line.starts_with('"'))
        .collect::<Vec<_>>()
        .join("\n");
    let mut checked = files.clone();
    checked.insert(format!("{info}/RECORD"), (plain.into_bytes(), false));
    assert_record_is_true(&checked, "My_Tool-1.0.dist-info");
    assert_eq!(
        files,
        room.files(&built, Path::new("/another/and/longer/place")),
        "nothing holds a prefix"
    );

    let package = built.environment.packages.last().unwrap();
    assert_eq!(package.kind, PackageKind::Pypi);
    assert_eq!(
        (package.name.as_str(), package.build.as_str()),
        ("my-tool", "py3-none-any")
    );
    assert!(built.clashes.is_empty(), "{:?}", built.clashes);
    let again = room.build(&[room.python()], &[wheel], None).unwrap();
    assert!(again.reused && again.environment == built.environment);
}

#[test]
fn wheels_are_part_of_what_an_environment_is_called_and_their_order_is_not() {
    let room = Room::new();
    let (a, b) = (
        room.wheel("a", "1", &[("a.py", "1")]),
        room.wheel("b", "1", &[("b.py", "1")]),
    );
    let signature = |wheels: &[LockedWheel]| {
        room.build(&[room.python()], wheels, None)
            .unwrap()
            .environment
            .signature
    };
    let both = signature(&[a.clone(), b.clone()]);
    assert_eq!(both, signature(&[b.clone(), a.clone()]));
    assert_eq!(
        both,
        signature(&[a.clone().with_requested(true), b.clone()]),
        "who asked is not content"
    );
    let fewer = [signature(&[]), signature(std::slice::from_ref(&a)), signature(&[b])];
    assert!(!fewer.contains(&both));
    let message = room
        .build(&[room.python()], &[a.clone(), a.clone()], None)
        .unwrap_err()
        .to_string();
    assert!(message.contains("two packages are called a"), "{message}");
    let message = room.build(&[], &[a], None).unwrap_err().to_string();
    assert!(message.contains("needs Python"), "{message}");
}

#[test]
fn a_wheel_takes_the_place_of_a_distribution_that_conda_brought() {
    let room = Room::new();
    let old_record = "thing/__init__.py,,\nthing/gone.py,,\n../../../bin/thing-tool,,\nother/shared.py,,\nthing-1.0.dist-info/RECORD,,\n";
    let old = room.package(
        "thing-conda",
        "1.0",
        &json!({ "noarch": "python" }),
        &[
            ("site-packages/thing/__init__.py", "old = 1\n"),
            ("site-packages/thing/gone.py", "old = 1\n"),
            ("site-packages/thing/__pycache__/gone.cpython-311.pyc", "bytecode"),
            ("site-packages/Thing-1.0.dist-info/METADATA", "Name: thing\nVersion: 1.0\n"),
            ("site-packages/Thing-1.0.dist-info/RECORD", old_record),
            ("site-packages/Thing-1.0.dist-info/entry_points.txt", "[console_scripts]\nold-thing = thing:main\n"),
            ("site-packages/elder-1.0-py3.11.egg-info/PKG-INFO", "Name: elder\n"),
            ("python-scripts/thing-tool", "#!/bin/sh\n"),
            ("share/thing.txt", "not in RECORD\n"),
            (
                "info/link.json",
                r#"{"noarch": {"type": "python", "entry_points": ["old-thing = thing:main", "kept = thing:main"]}, "package_metadata_version": 1}"#,
            ),
        ],
    );
    let other = room.package(
        "other",
        "1.0",
        &json!({}),
        &[(&format!("{SITE}/other/shared.py"), "theirs\n")],
    );
    let packages = [room.python(), old, other];
    let wheels = [
        room.wheel("thing", "2.0", &[("thing/__init__.py", "new = 1\n")]),
        room.wheel("elder", "2.0", &[("elder.py", "new = 1\n")]),
    ];
    let conda_only = room.build(&packages, &[], None).unwrap();
    let files = room.files(&conda_only, Path::new("/e"));
    assert!(files.contains_key("bin/old-thing") && files.contains_key(&format!("{SITE}/thing/gone.py")));

    let flat = room.build(&packages, &wheels, None).unwrap();
    let files = room.files(&flat, Path::new("/e"));
    for hidden in [
        "lib/python3.11/site-packages/thing/gone.py",
        "lib/python3.11/site-packages/thing/__pycache__/gone.cpython-311.pyc",
        "lib/python3.11/site-packages/Thing-1.0.dist-info/METADATA",
        "lib/python3.11/site-packages/elder-1.0-py3.11.egg-info/PKG-INFO",
        "bin/thing-tool",
        "bin/old-thing",
    ] {
        assert!(!files.contains_key(hidden), "{hidden}");
    }
    assert_eq!(text(&files, &format!("{SITE}/thing/__init__.py")), "new = 1\n");
    assert_eq!(
        text(&files, &format!("{SITE}/other/shared.py")),
        "theirs\n",
        "another package's file"
    );
    assert!(files.contains_key("share/thing.txt") && files.contains_key("bin/kept"));
    assert!(
        text(&files, "conda-meta/thing-conda-1.0-0.json").contains("thing/gone.py"),
        "what conda brought"
    );
    assert!(flat.clashes.is_empty(), "{:?}", flat.clashes);
    assert_record_is_true(&files, "thing-2.0.dist-info");

    // The same on top of an environment that has the old one.
    let other_room = Room::new();
    let base = other_room.build(&packages, &[], None).unwrap();
    let thin = other_room.build(&packages, &wheels, Some(&base.environment)).unwrap();
    assert_eq!(thin.environment.signature, flat.environment.signature);
    assert_eq!(other_room.files(&thin, Path::new("/e")), files);
    assert!(
        thin.environment
            .packages
            .iter()
            .all(|package| package.kind == PackageKind::Pypi)
    );
}

#[test]
fn a_thin_environment_inherits_wheels_as_they_were_asked_for() {
    let room = Room::new();
    let (a, b) = (
        room.wheel("a", "1", &[("a/x.py", "1")]),
        room.wheel("b", "1", &[("b.py", "1")]),
    );
    let url = Some("{\"url\":\"https://host/a\",\"archive_info\":{}}".to_owned());
    let asked = a.clone().with_requested(true).with_direct_url(url);
    let base = room.build(&[room.python()], &[asked], None).unwrap();
    let thin = room
        .build(
            &[room.python()],
            &[a, b.clone().with_requested(true)],
            Some(&base.environment),
        )
        .unwrap();
    let files = room.files(&thin, Path::new("/e"));
    for path in [
        "a-1.dist-info/REQUESTED",
        "a-1.dist-info/direct_url.json",
        "b-1.dist-info/REQUESTED",
    ] {
        assert!(files.contains_key(&format!("{SITE}/{path}")), "{path}");
    }
    assert_eq!(thin.environment.packages.len(), 1, "only what is added");
    assert_eq!(thin.environment.all_packages(&room.store).unwrap().len(), 3);
    assert_eq!(thin.environment.base, Some(base.environment.signature));
    // A lock that lacks what the base has is refused.
    let message = room
        .build(&[room.python()], &[b], Some(&base.environment))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("a-1-py3-none-any, which the lock does not"),
        "{message}"
    );
}

#[test]
fn a_wheel_that_is_not_the_one_of_the_lock_is_refused() {
    let room = Room::new();
    let wheel = room.wheel("a", "1", &[("a.py", "1")]);
    let message = room
        .build(&[room.python()], &[wheel.clone().with_sha256([1; 32])], None)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("has sha256") && message.contains("a-1-py3-none-any.whl"),
        "{message}"
    );
    std::fs::rename(room.path("a-1-py3-none-any.whl"), room.path("a-2-py3-none-any.whl")).unwrap();
    let renamed = LockedWheel::new(room.path("a-2-py3-none-any.whl").to_str().unwrap()).unwrap();
    let message = room.build(&[room.python()], &[renamed], None).unwrap_err().to_string();
    assert!(
        message.contains("should hold a 2, but its directory says `a-1.dist-info`"),
        "{message}"
    );
}

#[test]
fn of_two_wheels_with_the_same_path_the_later_name_wins_and_the_clash_is_told() {
    let room = Room::new();
    let wheels = [
        room.wheel("b", "1", &[("both.py", "b")]),
        room.wheel("a", "1", &[("both.py", "a")]),
    ];
    let built = room.build(&[room.python()], &wheels, None).unwrap();
    assert_eq!(
        text(&room.files(&built, Path::new("/e")), &format!("{SITE}/both.py")),
        "b"
    );
    let [clash] = built.clashes.as_slice() else {
        panic!("{:?}", built.clashes)
    };
    assert_eq!(
        (clash.winner.as_str(), clash.loser.as_str()),
        ("b-1-py3-none-any", "a-1-py3-none-any")
    );
}

#[test]
fn a_python_that_does_not_run_is_named_with_a_way_out() {
    let room = Room::new();
    let wheels = [room.wheel("a", "1", &[("a.py", "1")])];
    let message = room
        .build_with(&[room.python()], &wheels, None, true)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("python 3.11.2 0 cannot be run") && message.contains("--no-pyc"),
        "{message}"
    );
    let nothing_to_compile = [room.wheel("b", "1", &[("b.txt", "1")])];
    room.build_with(&[room.python()], &nothing_to_compile, None, true)
        .unwrap();
}
