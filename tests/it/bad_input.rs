//! What cannot be done is refused with words that name the place and the remedy, and leaves nothing half-written:
//! specifications, channels, archives, signatures and stores. Mount points are with the mounts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use envfs_tests::channel::Channel;
use envfs_tests::data::{self, RealChannel};
use envfs_tests::package::{Format, Package, Raw};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::user;
use serde_json::{Value, json};

/// A byte of the first pack that belongs to an object or to the pack's own index.
const DAMAGED_AT: usize = 64;

#[test]
fn specifications() {
    let envfs = Envfs::new();
    let channel = one_package(&envfs).url();
    for (text, parts) in [
        ("dependecies:\n  - good\n", ["environment.yml:1:1", "dependecies"]),
        ("dependencies:\n  - good >>1\n", ["environment.yml:2:", "good >>1"]),
        (
            "dependencies:\n  - good\n  - [\n",
            ["environment.yml:", "environment.yml"],
        ),
        ("dependencies: good\n", ["environment.yml:1:15", "environment.yml"]),
        (
            "dependencies:\n  - good\n  - pip:\n    - requests=2\n",
            ["environment.yml:4", "pinned with '=='"],
        ),
    ] {
        let file = envfs.write("environment.yml", text);
        let file = file.to_str().unwrap();
        envfs.try_run(["build", "-c", &channel, "-f", file]).refused(1, &parts);
        envfs.try_run(["lock", "-c", &channel, "-f", file]).refused(1, &parts);
        assert!(
            !envfs.path().join("pixi.lock").exists(),
            "a lock was written for {text:?}"
        );
    }
    envfs
        .try_run(["build", "no-such.yml"])
        .refused(1, &["there is no file `no-such.yml`"]);
    envfs
        .try_run(["build", "-c", &channel, "-f", "no-such.yml"])
        .refused(1, &["cannot read no-such.yml"]);
    envfs
        .try_run(["build", "-c", &channel, "good =>>2"])
        .refused(1, &["'good =>>2' is not a MatchSpec"]);
    let wrong = envfs.write("wrong.lock", "version: 99\nenvironments: {}\npackages: []\n");
    envfs
        .try_run(["build", wrong.to_str().unwrap()])
        .refused(1, &["wrong.lock"]);
    let line = envfs.write(
        "explicit.txt",
        "@EXPLICIT\nhttps://host.example/linux-64/good-1.0-0.conda#12\n",
    );
    envfs
        .try_run(["build", line.to_str().unwrap()])
        .refused(1, &["explicit.txt:2", "'#12' is not a digest"]);
    envfs.assert_nothing_built();
}

#[test]
fn usage() {
    let envfs = Envfs::new();
    for arguments in [
        &["build"][..],
        &["lock"],
        &["no-such-command"],
        &["build", "--no-such-option"],
        &["mount", "3fb1c2d4"],
        &["run", "3fb1c2d4"],
        &["build", "--platform", "linux-65", "x"],
    ] {
        envfs.try_run(arguments).refused(2, &[]);
    }
    assert!(
        !envfs.store_path().join("environments").exists(),
        "a usage error made a store"
    );
}

#[test]
fn channels() {
    let envfs = Envfs::new();
    let channel = one_package(&envfs);
    let missing = format!("file://{}/no-such-channel", envfs.path().display());
    envfs
        .try_run(["build", "-c", &missing, "good"])
        .refused(1, &["no-such-channel' does not exist", "typo"]);
    let not_found = answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    envfs
        .try_run(["build", "-c", &not_found, "good"])
        .refused(1, &[&not_found, "does not exist", "typo"]);
    let forbidden = answering("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    envfs
        .try_run(["build", "-c", &forbidden, "good"])
        .refused(1, &[&forbidden, "HTTP status 401", "auth login"]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}/channel");
    envfs
        .try_run(["build", "-c", &closed, "good"])
        .refused(1, &[&closed, "cannot be reached", "--offline"]);
    envfs
        .try_run(["--offline", "build", "-c", &closed, "good"])
        .refused(1, &[&closed, "without --offline"]);
    let url = channel.url();
    envfs
        .try_run(["build", "-c", &url, "no-such-package"])
        .refused(1, &["no-such-package"]);
    envfs
        .try_run(["build", "-c", &url, "good >=2"])
        .refused(1, &["no set of packages satisfies", "good"]);
    std::fs::remove_dir_all(channel.path().join("noarch")).unwrap();
    envfs
        .try_run(["build", "-c", &url, "good"])
        .refused(1, &["has no noarch", "conda index"]);
    envfs.assert_nothing_built();
}

#[test]
fn archives_that_are_not_those_of_the_lock() {
    let envfs = Envfs::new();
    let channel = one_package(&envfs);
    let archive = channel.path().join("linux-64/good-1.0-0.conda");
    let whole = std::fs::read(&archive).unwrap();
    let url = channel.url();
    std::fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    envfs
        .try_run(["build", "-c", &url, "good"])
        .refused(1, &["good-1.0-0.conda"]);
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&archive, &changed).unwrap();
    envfs.try_run(["build", "-c", &url, "good"]).refused(
        1,
        &["good-1.0-0.conda has sha256", "but the lock says", "do not use it"],
    );
    std::fs::remove_file(&archive).unwrap();
    envfs
        .try_run(["build", "-c", &url, "good"])
        .refused(1, &["good-1.0-0.conda does not exist", "lock again"]);
    envfs.assert_nothing_built();
    std::fs::write(&archive, &whole).unwrap();
    envfs.build(["-c", &url, "good"]);
    envfs.assert_sound();
}

#[test]
fn damaged_archives() {
    for format in [Format::Conda, Format::TarBz2] {
        let envfs = Envfs::new();
        let package = Package::new("cut 1.0 0")
            .file("share/data", vec![b'x'; 300_000])
            .file("share/more", "more");
        let whole = package.archive(format);
        for len in [0, 3, 50, whole.len() / 3, whole.len() - 60, whole.len() - 1] {
            let lock = explicit(&envfs, &package, format, &whole[..len]);
            envfs.try_run(["build", &lock]).refused(1, &["cut-1.0-0"]);
        }
        let lock = explicit(&envfs, &package, format, b"this is a page that says: not found");
        envfs
            .try_run(["build", &lock])
            .refused(1, &["cut-1.0-0", "neither a .conda (zip) nor a .tar.bz2 (bzip2)"]);
        envfs.assert_nothing_built();
    }
}

#[test]
fn archives_whose_metadata_is_wrong() {
    let good = || Package::new("bad 1.0 0").file("share/data", "data");
    let wrong_sha256 = json!({"sha256": "00".repeat(32)});
    for (package, parts) in [
        (
            good().listed(Raw::file("share/x", "x"), &wrong_sha256),
            ["`share/x` has the sha256", "info/paths.json says 0000"],
        ),
        (
            good().listed(Raw::file("conda-meta/evil.json", "{}"), &json!({})),
            ["conda-meta/evil.json", "belongs to the installer"],
        ),
        (
            good().listed(Raw::file("x", "x"), &json!({"_path": "../x"})),
            ["`../x` has a `..` component", "info/paths.json"],
        ),
        (
            good().listed(Raw::file("x", "x"), &json!({"_path": "missing"})),
            ["lists `missing`", "which it does not hold"],
        ),
        (
            good().depends("python").noarch_python(),
            ["needs Python", "add `python`"],
        ),
    ] {
        let envfs = Envfs::new();
        let lock = explicit(&envfs, &package, Format::Conda, &package.archive(Format::Conda));
        envfs.try_run(["build", &lock]).refused(1, &parts);
        assert_eq!(envfs.json(["ls"]), json!([]));
        envfs.assert_sound();
    }
    let envfs = Envfs::new();
    Package::python("3.12.1").write(envfs.path(), Format::Conda);
    good()
        .noarch_python()
        .entry_point("../../evil = x:y")
        .write(envfs.path(), Format::Conda);
    let lock = envfs.write(
        "both.txt",
        "@EXPLICIT\npython-3.12.1-h0_0_cpython.conda\nbad-1.0-0.conda\n",
    );
    envfs
        .try_run(["build", lock.to_str().unwrap()])
        .refused(1, &["bad 1.0 0: its info/link.json is not valid"]);
    assert_eq!(envfs.json(["ls"]), json!([]));

    let package = Package::new("other 2.0 0").file("share/data", "data");
    let lock = explicit(&envfs, &good(), Format::Conda, &package.archive(Format::Conda));
    envfs
        .try_run(["build", &lock])
        .refused(1, &["should hold bad 1.0 0 but holds other 2.0 0"]);
    let (a, b) = (Package::new("same 1.0 0"), Package::new("same 2.0 0"));
    a.write(envfs.path(), Format::Conda);
    b.write(envfs.path(), Format::Conda);
    let lock = envfs.write("two.txt", "@EXPLICIT\nsame-1.0-0.conda\nsame-2.0-0.conda\n");
    envfs
        .try_run(["build", lock.to_str().unwrap()])
        .refused(1, &["two packages are called same", "same-2.0-0.conda"]);
    assert_eq!(envfs.json(["ls"]), json!([]));
}

#[test]
fn signatures() {
    let envfs = Envfs::new();
    let channel = one_package(&envfs);
    let signature = envfs.build(["-c", &channel.url(), "good"]).to_string();
    for command in [&["show"][..], &["build"], &["diff", &signature]] {
        let with = |text| envfs.try_run(command.iter().copied().chain([text]));
        with("0123456789").refused(
            1,
            &["no environment in", "has the signature `0123456789`", "`envfs ls`"],
        );
    }
    envfs
        .try_run(["show", "1234567"])
        .refused(1, &["`1234567` is not a signature", "at least the first 8"]);
    envfs
        .try_run(["show", &signature[..7]])
        .refused(1, &["at least the first 8"]);
    // Another one that starts alike.
    let records = envfs.store_path().join("environments");
    let record = std::fs::read_to_string(records.join(format!("{signature}.json"))).unwrap();
    let last = if signature.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{last}", &signature[..63]);
    std::fs::write(
        records.join(format!("{other}.json")),
        record.replace(&signature, &other),
    )
    .unwrap();
    envfs
        .try_run(["show", &signature[..12]])
        .refused(1, &["is ambiguous", &signature, &other]);
    envfs.run(["show", &signature]);
}

#[test]
fn stores() {
    let envfs = Envfs::new();
    let channel = one_package(&envfs);
    envfs.build(["-c", &channel.url(), "good"]);
    let format = envfs.store_path().join("FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    std::fs::remove_file(&format).unwrap();
    std::fs::write(&format, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    for command in [
        &["ls"][..],
        &["build", "-c", &channel.url(), "good"],
        &["store", "verify"],
    ] {
        envfs
            .try_run(command)
            .refused(1, &["needs a newer envfs", "format 2", "update envfs"]);
    }
    std::fs::write(&format, text).unwrap();
    envfs.assert_sound();

    // What is damaged is found, and named.
    let mut objects: Vec<PathBuf> = envfs_tests::program::files_below(&envfs.store_path().join("packs"));
    objects.sort();
    let bytes = std::fs::read(&objects[0]).unwrap();
    std::fs::remove_file(&objects[0]).unwrap();
    let mut damaged = bytes;
    damaged[DAMAGED_AT] ^= 1;
    std::fs::write(&objects[0], damaged).unwrap();
    let verified = envfs.try_run(["--json", "store", "verify"]);
    assert_eq!(verified.status.code(), Some(1), "{verified}");
    let told: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert!(
        told["damaged"][0]["message"].as_str().unwrap().contains(".pack"),
        "{told}"
    );

    let envfs = Envfs::new();
    std::fs::write(envfs.store_path(), "a file").unwrap();
    envfs.try_run(["ls"]).refused(1, &["store"]);
}

#[test]
fn a_directory_that_is_no_store() {
    let envfs = Envfs::new();
    envfs.write("home/notes.txt", "");
    let home = envfs.path().join("home");
    let parts = ["is no store, and holds something else", "notes.txt", "--store DIR"];
    envfs
        .try_run(["--store", home.to_str().unwrap(), "ls"])
        .refused(1, &parts);
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 1);
}

#[test]
fn places_to_write_to_that_are_no_files() {
    let envfs = Envfs::new();
    let channel = one_package(&envfs).url();
    let lock = |place: &str| {
        let mut command = envfs.command();
        command.args(["lock", "-c", &channel, "good", "-o", place]);
        command
    };
    let written = envfs.run(["lock", "-c", &channel, "good", "-o", "-"]);
    // Standard output is a pipe here.
    assert_eq!(finish(&mut lock("/dev/stdout")).success(), written);
    envfs.write("pixi.lock", &written);
    assert_eq!(
        envfs.run(["export", "pixi.lock", "--format", "pixi", "-o", "-"]),
        written
    );
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let told = finish(lock("-").stdout(full));
    told.refused(1, &["cannot write to standard output"]);
    assert!(!told.stderr.contains("envfs gc"), "{told}");
}

#[test]
fn a_full_disk() {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    if !user::is_root() {
        data::skip("a disk that is full: only root can make a small file system");
        return;
    }
    let envfs = Envfs::new();
    std::fs::create_dir(envfs.store_path()).unwrap();
    let disk = Disk::mount(&envfs, "24m");
    let mut arguments = vec!["build".to_owned()];
    arguments.extend(miniforge.build_arguments(&[]));
    for _ in 0..2 {
        envfs
            .try_run(&arguments)
            .refused(1, &["No space left on device", "free some space", "--store DIR"]);
        assert_eq!(envfs.json(["ls"]), json!([]));
        envfs.assert_sound();
    }
    // With room, the next build goes on with what is there.
    disk.resize("400m");
    let built = envfs.json(&arguments);
    assert!(
        built["new_packages"].as_u64().unwrap() < 84,
        "nothing of the first build was kept: {built}"
    );
    envfs.assert_sound();
}

fn one_package(envfs: &Envfs) -> Channel {
    let package = Package::new("good 1.0 0").file("share/good", "good".repeat(5_000));
    Channel::new(&envfs.path().join("channel")).with(&package, Format::Conda)
}

/// A lock without digests for one archive of any bytes.
fn explicit(envfs: &Envfs, package: &Package, format: Format, archive: &[u8]) -> String {
    let name = package.file_name(format);
    std::fs::write(envfs.path().join(&name), archive).unwrap();
    let lock = envfs.write("explicit.txt", &format!("# platform: linux-64\n@EXPLICIT\n{name}\n"));
    lock.to_str().unwrap().to_owned()
}

/// The URL of a channel on a server that has one answer to everything.
pub(crate) fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}/channel")
}

/// A small file system in memory, at the place of the store.
struct Disk(PathBuf);

impl Disk {
    fn mount(envfs: &Envfs, size: &str) -> Self {
        let path = envfs.store_path();
        finish(
            std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o"])
                .arg(format!("size={size}"))
                .arg("tmpfs")
                .arg(&path),
        )
        .success();
        Self(path)
    }

    fn resize(&self, size: &str) {
        finish(
            std::process::Command::new("mount")
                .arg("-o")
                .arg(format!("remount,size={size}"))
                .arg(&self.0),
        )
        .success();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        finish(std::process::Command::new("umount").arg("-l").arg(&self.0));
    }
}
