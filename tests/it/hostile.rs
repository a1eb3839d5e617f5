//! Archives as nobody should make them, served by a channel: each is refused with words that name it and the place, or means
//! what it says; the store is as it was, no draft stays, and the memory is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use envfs_store::digest::Sha256;
use envfs_store::layer::{Entry, EntryKind};
use envfs_tests::channel::Channel;
use envfs_tests::hostile::{self, Case, Outcome};
use envfs_tests::package::{Format, Package, Raw};
use envfs_tests::program::Envfs;
use envfs_tests::server::Server;
use sha2::Digest as _;

/// What a build of a small package may take: the program, and what it reads at a time.
const MAX_MEMORY_BYTES: u64 = 300 << 20;

#[test]
fn packages() {
    let envfs = Envfs::new();
    let mut channel =
        Channel::new(&envfs.path().join("channel")).with(&Package::new("good 1.0 0").file("g", "g"), Format::Conda);
    let cases = hostile::packages();
    let mut failed = Vec::new();
    for (package, case) in &cases {
        let archive = channel.path().join(package.subdir()).join(&case.file_name);
        std::fs::write(&archive, &case.archive).unwrap();
        channel.record(package, &archive);
    }
    let server = Server::start(channel.path());
    envfs.build(["-c", &server.url(), "good"]);
    for (number, (_, case)) in cases.iter().enumerate() {
        let name = format!("evil{number}");
        failed.extend(failure(&envfs, case, &["-c", &server.url(), &name]));
    }
    assert!(failed.is_empty(), "{}: {failed:?}", failed.len());
    envfs.assert_sound();
}

#[test]
fn wheels() {
    let envfs = Envfs::new();
    let python = Package::python("3.12.1");
    let mut channel = Channel::new(&envfs.path().join("channel"));
    let python = channel.add(&python, Format::Conda);
    let server = Server::start(channel.path());
    envfs.build(["-c", &server.url(), "python"]);
    let cases = hostile::wheels();
    let mut failed = Vec::new();
    for case in &cases {
        std::fs::write(channel.path().join(&case.file_name), &case.archive).unwrap();
        let lock = lock(&server.url(), &python, case);
        let lock = envfs.write("pixi.lock", &lock);
        failed.extend(failure(&envfs, case, &[lock.to_str().unwrap()]));
    }
    assert!(failed.is_empty(), "{}: {failed:?}", failed.len());
    envfs.assert_sound();
}

#[test]
fn cases_are_told_apart_and_refusals_give_a_reason() {
    let packages = hostile::packages();
    let wheels = hostile::wheels();
    let mut names = BTreeSet::new();
    let mut twice = Vec::new();
    for case in packages.iter().map(|(_, case)| case).chain(&wheels) {
        twice.extend((!names.insert(case.what)).then_some(case.what));
        if let Outcome::Refused(parts) = &case.outcome {
            let says_why = |part: &&str| !case.file_name.contains(*part);
            assert!(
                parts.iter().any(says_why),
                "`{}` may be refused for any reason",
                case.what
            );
        }
    }
    assert!(twice.is_empty(), "called alike: {twice:?}");
}

/// Memory that an archive makes the program take: small archives that unpack to much, and say much of themselves.
#[test]
fn bombs_take_no_memory() {
    let envfs = Envfs::new();
    let zeros = vec![0; 400 << 20];
    let good = || Package::new("bomb 1.0 0").file("a", "a");
    for (package, part) in [
        // What lies below info/ and is not read is unpacked, and kept nowhere.
        (good().info_file(Raw::file("info/junk", &zeros)), ""),
        (
            good().info_file(Raw::file("info/paths.json", &zeros)),
            "(the limit `metadata`)",
        ),
        (
            good().unlisted(Raw::special("name", tar::EntryType::GNULongName, "").content(&zeros)),
            "has a name or attributes of",
        ),
        (
            good().unlisted(Raw::special("name", tar::EntryType::XHeader, "").content(&zeros)),
            "has a name or attributes of",
        ),
    ] {
        let archive = package.archive(Format::Conda);
        assert!(archive.len() < 1 << 20, "no bomb: {} bytes", archive.len());
        std::fs::write(envfs.path().join("bomb-1.0-0.conda"), &archive).unwrap();
        let lock = envfs.write("explicit.txt", "# platform: linux-64\n@EXPLICIT\nbomb-1.0-0.conda\n");
        let (finished, peak_bytes) = envfs.measure(["build", lock.to_str().unwrap()]);
        match part {
            "" => drop(finished.success()),
            part => finished.refused(1, &["bomb-1.0-0.conda", part]),
        }
        assert!(peak_bytes < MAX_MEMORY_BYTES, "{part}: {peak_bytes} bytes of memory");
    }
}

#[test]
fn limits_are_settings() {
    let envfs = Envfs::new();
    std::fs::create_dir(envfs.path().join(".envfs")).unwrap();
    let write = |text: &str| std::fs::write(envfs.path().join(".envfs/config.toml"), text).unwrap();
    let shown = |arguments: &[&str]| {
        let shown = envfs.json(arguments.iter().copied().chain(["config", "show"]));
        let rows = shown.as_array().unwrap().clone();
        let value = |row: &serde_json::Value| {
            (
                row["key"].as_str().unwrap().to_owned(),
                row["value"].as_str().map(str::to_owned),
            )
        };
        rows.iter().map(value).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(shown(&[])["limits.files"].as_deref(), Some("1000000"));
    write("[envfs.limits]\nfiles = 5\nunpacked = \"1GiB\"\n");
    assert_eq!(shown(&[])["limits.files"].as_deref(), Some("5"));
    assert_eq!(shown(&[])["limits.unpacked"].as_deref(), Some("1073741824"));
    assert_eq!(shown(&["--limit", "files=7"])["limits.files"].as_deref(), Some("7"));
    envfs
        .try_run(["--limit", "inodes=7", "ls"])
        .refused(2, &["there is no limit `inodes`"]);
    write("[envfs.limits]\ninodes = 5\n");
    envfs
        .try_run(["ls"])
        .refused(1, &["config.toml", "there is no limit `inodes`"]);
}

/// The name of the case, if it is not as it must be. The others are tried all the same.
fn failure(envfs: &Envfs, case: &Case, asked: &[&str]) -> Option<&'static str> {
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(envfs, case, asked)));
    checked.is_err().then_some(case.what)
}

fn check(envfs: &Envfs, case: &Case, asked: &[&str]) {
    let before = kept(&envfs.store_path());
    let mut arguments = case.options.to_vec();
    arguments.push("build");
    arguments.extend(asked);
    let finished = envfs.try_run(&arguments);
    let what = case.what;
    match &case.outcome {
        Outcome::Refused(parts) => {
            assert_eq!(finished.status.code(), Some(1), "{what}: {finished}");
            for part in parts.iter().chain([&case.file_name.as_str()]) {
                assert!(
                    finished.stderr.contains(part),
                    "{what}: `{part}` is missing: {finished}"
                );
            }
            let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
            assert!(
                !finished.stderr.contains("panicked") && !finished.stderr.contains(steers),
                "{what}: {finished}"
            );
            assert_eq!(kept(&envfs.store_path()), before, "{what} left something");
        }
        Outcome::Taken(lines) => {
            assert!(finished.status.success(), "{what}: {finished}");
            let sha256 = Sha256::from_bytes(sha2::Sha256::digest(&case.archive).into());
            let layer = envfs.store().layer(&sha256).unwrap().unwrap();
            let found: Vec<String> = layer.entries.iter().map(line).collect();
            assert!(lines.is_empty() || *lines == found, "{what}: {found:?}");
        }
    }
}

fn line(entry: &Entry) -> String {
    match &entry.kind {
        EntryKind::Directory => format!("{}/", entry.path),
        EntryKind::File(file) => format!("{}{}", entry.path, if file.executable { "*" } else { "" }),
        EntryKind::Symlink(target) => format!("{} -> {}", entry.path, String::from_utf8_lossy(target)),
    }
}

/// Every file of the store that says what is in it, and those of drafts, with its size.
fn kept(store: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut pending: Vec<_> = [
        "objects",
        "packs",
        "layers",
        "trees",
        "environments",
        "refs",
        "roots",
        "leases",
        "tmp",
    ]
    .map(|name| store.join(name))
    .to_vec();
    while let Some(directory) = pending.pop() {
        for path in envfs_tests::program::files_below(&directory) {
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                pending.push(path);
            } else {
                found.insert(path.display().to_string(), metadata.len());
            }
        }
    }
    found
}

/// A lock of the Python and the wheel.
fn lock(url: &str, archive: &Path, case: &Case) -> String {
    let python = format!("{url}/linux-64/{}", archive.file_name().unwrap().display());
    let (python, wheel) = (python, format!("{url}/{}", case.file_name));
    let sha256 = hex::encode(sha2::Sha256::digest(&case.archive));
    format!(
        "version: 6\nenvironments:\n  default:\n    channels:\n    - url: {url}/\n    packages:\n      linux-64:\n      \
         - conda: {python}\n      - pypi: {wheel}\npackages:\n- conda: {python}\n  sha256: {}\n- pypi: {wheel}\n  name: evil\n  \
         version: '1.0'\n  sha256: {sha256}\n",
        hex::encode(sha2::Sha256::digest(std::fs::read(archive).unwrap()))
    )
}

#[test]
fn each_says_what_it_is() {
    let packages = hostile::packages().into_iter().map(|(_, case)| case.what);
    let mut all: Vec<&str> = packages.collect();
    all.extend(hostile::wheels().iter().map(|case| case.what));
    assert!(all.len() >= 150, "{} cases", all.len());
}
