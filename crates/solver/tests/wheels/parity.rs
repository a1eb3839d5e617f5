//! Files of a wheel are what `uv pip install` writes into a relocatable environment, with the exceptions that are listed here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Files, Room, any_wheels, recorded, with_digest};

const SITE: &str = "lib/python3.11/site-packages";

/// uv, where there is one.
fn uv() -> Option<PathBuf> {
    let named = std::env::var_os("ENVFS_UV").map(PathBuf::from);
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = named
        .into_iter()
        .chain(std::env::split_paths(&paths).map(|path| path.join("uv")))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: there is no uv on PATH or at ENVFS_UV");
    }
    found
}

/// What uv installs, without what it puts into an empty environment. Nothing where there is no Python 3.11.
fn installed(uv: &Path, wheels: &[PathBuf], room: &Room) -> Option<Files> {
    let environment = room.path("uv-environment");
    let run = |arguments: &[&str], more: &[PathBuf]| {
        let output = Command::new(uv)
            .args(arguments)
            .args(more)
            .env("UV_CACHE_DIR", room.path("uv-cache"))
            .env("UV_OFFLINE", "1")
            .env("UV_NO_CONFIG", "1")
            .env("UV_PYTHON_DOWNLOADS", "never")
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(log) }
    };
    let path = environment.to_str().unwrap();
    if let Err(log) = run(&["venv", "--relocatable", "--python", "3.11", path], &[]) {
        eprintln!("SKIPPED: uv finds no Python 3.11: {log}");
        return None;
    }
    let before = crate::support::files_in(&environment);
    run(
        &["pip", "install", "--no-deps", "--link-mode", "copy", "--python", path],
        wheels,
    )
    .unwrap();
    let mut files = crate::support::files_in(&environment);
    files.retain(|path, _| !before.contains_key(path));
    Some(files)
}

/// uv's files as they would be by the listed exceptions.
fn with_exceptions(mut theirs: Files) -> Files {
    // A cache entry of uv's own, and its lock on the environment.
    theirs.retain(|path, _| !path.ends_with(".dist-info/uv_cache.json") && path != ".lock");
    let mut expected = Files::new();
    for (path, (mut content, executable)) in theirs {
        // A virtual environment has headers of its own, because it has no other `include`.
        let path = path.replacen("include/site/", "include/", 1);
        if is_metadata(&path, "INSTALLER") {
            content = b"envfs\n".to_vec();
        }
        // A command is bound to the interpreter by its version, and not to whatever is called `python`.
        if path.starts_with("bin/") && content.starts_with(b"#!/bin/sh\n'''exec'") {
            content = String::from_utf8(content)
                .unwrap()
                .replacen("/'python'", "/'python3.11'", 1)
                .into_bytes();
        }
        expected.insert(path, (content, executable));
    }
    // These change digests in RECORD.
    let records: Vec<String> = expected
        .keys()
        .filter(|path| is_metadata(path, "RECORD"))
        .cloned()
        .collect();
    for path in records {
        let record = String::from_utf8(expected[&path].0.clone()).unwrap();
        let record: String = record
            .lines()
            .filter(|line| !line.contains("/uv_cache.json,"))
            .map(|line| line.replace("../../../include/site/", "../../../include/"))
            .map(|line| match line.split(',').next().unwrap().strip_prefix("../../../") {
                Some(outside) if outside.starts_with("bin/") => {
                    format!("../../../{outside},{}\n", recorded(&expected[outside].0))
                }
                _ => match line.split_once(".dist-info/INSTALLER,") {
                    Some((name, _)) if !name.contains('/') => {
                        format!("{name}.dist-info/INSTALLER,{}\n", recorded(b"envfs\n"))
                    }
                    _ => format!("{line}\n"),
                },
            })
            .collect();
        let mut lines: Vec<&str> = record.lines().collect();
        lines.sort_by_key(|line| line.split(",sha256=").next().unwrap().trim_end_matches(','));
        expected.get_mut(&path).unwrap().0 = (lines.join("\n") + "\n").into_bytes();
    }
    expected
}

/// Whether a path is that file of an installed distribution, and not of one that another brings along.
fn is_metadata(path: &str, file: &str) -> bool {
    let inside = path.strip_prefix(SITE).and_then(|rest| rest.strip_prefix('/'));
    inside
        .and_then(|inside| inside.split_once(".dist-info/"))
        .is_some_and(|(name, rest)| !name.contains('/') && rest == file)
}

#[test]
fn every_file_is_what_uv_installs() {
    let wheels = any_wheels();
    let Some(uv) = uv().filter(|_| !wheels.is_empty()) else {
        return;
    };
    let room = Room::new();
    let Some(theirs) = installed(&uv, &wheels, &room) else {
        return;
    };
    let locked: Vec<_> = wheels
        .iter()
        .map(|path| {
            let url = format!("{{\"url\":\"file://{}\",\"archive_info\":{{}}}}", path.display());
            with_digest(path).with_requested(true).with_direct_url(Some(url))
        })
        .collect();
    let python = room.python();
    let nothing = room.build(std::slice::from_ref(&python), &[], None).unwrap();
    let before = room.files(&nothing, Path::new("/e"));
    let built = room.build(&[python], &locked, None).unwrap();
    let mut ours = room.files(&built, Path::new("/e"));
    ours.retain(|path, _| !before.contains_key(path));
    let expected = with_exceptions(theirs);
    for (path, (content, executable)) in &expected {
        let Some((our_content, our_executable)) = ours.get(path) else {
            panic!("{path}: we have none")
        };
        if content != our_content {
            let lines = |bytes: &[u8]| {
                String::from_utf8_lossy(bytes)
                    .lines()
                    .map(str::to_owned)
                    .collect::<BTreeSet<_>>()
            };
            let (theirs, ours) = (lines(content), lines(our_content));
            let show =
                |left: &BTreeSet<String>, right| left.difference(right).take(5).cloned().collect::<Vec<_>>().join("\n");
            panic!(
                "{path}: uv has\n{}\nand we have\n{}",
                show(&theirs, &ours),
                show(&ours, &theirs)
            );
        }
        assert_eq!(executable, our_executable, "{path}: executable");
    }
    let more: Vec<&String> = ours.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "uv has none of {more:?}");
    assert!(ours.contains_key(&format!("{SITE}/numpy/__init__.py")));
    eprintln!("{} files of {} wheels are the same", ours.len(), wheels.len());
}
