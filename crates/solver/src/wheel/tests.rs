//! Wheels as they should be become layers; wheels as nobody should make them are refused, and leave nothing.

use std::io::{Cursor, Seek, Write};

use envfs_store::Store;
use envfs_store::digest::{Digest, Sha256};
use envfs_store::layer::{EntryKind, Layer};
use envfs_store::workspace::Workspace;
use sha2::Digest as _;
use zip::write::SimpleFileOptions;

use super::record::base64url;
use super::{MTIME_S, WheelError};
use crate::limits::ArchiveLimits;
use crate::pypi::WheelFileName;

const NAME: &str = "Hello_World-1.0-py3-none-any.whl";
const DIST_INFO: &str = "hello_world-1.0.dist-info";
const WHEEL: &str = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
const METADATA: &str = "Metadata-Version: 2.1\nName: hello.world\nVersion: 1.0.0\n\nA description.\n";

/// A wheel that is being made, without the checks of a friendly builder.
struct Builder {
    files: Vec<(String, Vec<u8>, u32)>,
    record: Option<String>,
}

impl Builder {
    /// With a module and the metadata that a wheel needs.
    fn new() -> Self {
        let builder = Self {
            files: Vec::new(),
            record: None,
        };
        builder
            .file("hello_world/__init__.py", b"hi = 1\n")
            .file(&format!("{DIST_INFO}/WHEEL"), WHEEL.as_bytes())
            .file(&format!("{DIST_INFO}/METADATA"), METADATA.as_bytes())
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.file_with_mode(path, content, 0o100_644)
    }

    fn file_with_mode(mut self, path: &str, content: &[u8], mode: u32) -> Self {
        self.files.retain(|(other, ..)| other != path);
        self.files.push((path.to_owned(), content.to_owned(), mode));
        self
    }

    fn without(mut self, path: &str) -> Self {
        self.files.retain(|(other, ..)| other != path);
        self
    }

    /// With other lines than a true `RECORD` has.
    fn with_record(mut self, change: impl FnOnce(String) -> String) -> Self {
        self.record = Some(change(self.true_record()));
        self
    }

    fn true_record(&self) -> String {
        let mut record = String::new();
        for (path, content, _) in self.files.iter().filter(|(path, ..)| !path.ends_with('/')) {
            let digest = base64url(&sha2::Sha256::digest(content));
            record += &format!("{path},sha256={digest},{}\n", content.len());
        }
        record + &format!("{DIST_INFO}/RECORD,,\n")
    }

    fn bytes(&self) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let record = self.record.clone().unwrap_or_else(|| self.true_record());
        let record_file = (format!("{DIST_INFO}/RECORD"), record.into_bytes(), 0o100_644);
        for (path, content, mode) in self.files.iter().chain([&record_file]) {
            let options = SimpleFileOptions::default();
            if mode & 0o170_000 == 0o120_000 {
                zip.add_symlink(path, std::str::from_utf8(content).unwrap(), options)
                    .unwrap();
                continue;
            }
            if path.ends_with('/') {
                zip.add_directory(path, options).unwrap();
                continue;
            }
            zip.start_file(path, options.unix_permissions(*mode)).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }
}

fn ingest(bytes: &[u8], name: &str) -> (Result<Layer, WheelError>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    let name = WheelFileName::parse(name).unwrap();
    let result = super::ingest(
        &store,
        &workspace,
        file,
        &name,
        Sha256::from_bytes([9; 32]),
        &ArchiveLimits::default(),
    );
    (result.map(|(layer, _)| layer), directory)
}

fn layer(builder: &Builder) -> Layer {
    ingest(&builder.bytes(), NAME).0.unwrap()
}

fn refusal_of(bytes: &[u8], name: &str) -> String {
    let (result, directory) = ingest(bytes, name);
    let message = result.expect_err("the wheel should be refused").to_string();
    assert!(message.contains(name), "{message}");
    for kept in ["layers", "objects", "packs"] {
        let left = std::fs::read_dir(directory.path().join(kept)).unwrap().count();
        assert_eq!(left, 0, "{kept} after: {message}");
    }
    message
}

fn refusal(builder: &Builder) -> String {
    refusal_of(&builder.bytes(), NAME)
}

#[test]
fn a_wheel_becomes_a_layer() {
    let large = vec![7; 200_000];
    let scripts = b"[console_scripts]\nhello = hello_world:main\n";
    let layer = layer(
        &Builder::new()
            .file("hello_world/data.bin", &large)
            .file_with_mode("hello_world/tool", b"#!/bin/sh\n", 0o100_755)
            .file("hello_world-1.0.data/scripts/run", b"#!python\n")
            .file("hello_world-1.0.data/headers/h.h", b"")
            .file("hello_world-1.0.data/data/etc/hello.conf", b"x")
            .file("hello_world/kept/", b"")
            .file("hello_world/", b"")
            .file(&format!("{DIST_INFO}/entry_points.txt"), scripts)
            .file(&format!("{DIST_INFO}/INSTALLER"), b"somebody")
            .file(&format!("{DIST_INFO}/licenses/LICENSE"), b"free"),
    );
    let paths: Vec<String> = layer.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(
        paths,
        [
            "data/etc/hello.conf",
            "headers/h.h",
            "python-scripts/run",
            "site-packages/hello_world/__init__.py",
            "site-packages/hello_world/data.bin",
            "site-packages/hello_world/kept",
            "site-packages/hello_world/tool",
            "site-packages/hello_world-1.0.dist-info/METADATA",
            "site-packages/hello_world-1.0.dist-info/WHEEL",
            "site-packages/hello_world-1.0.dist-info/entry_points.txt",
            "site-packages/hello_world-1.0.dist-info/licenses/LICENSE",
        ]
    );
    assert!(layer.entries.iter().all(|entry| entry.mtime_s == MTIME_S));
    let executables: Vec<&String> = layer
        .entries
        .iter()
        .zip(&paths)
        .filter(|(entry, _)| matches!(&entry.kind, EntryKind::File(file) if file.executable))
        .map(|(_, path)| path)
        .collect();
    assert_eq!(executables, ["python-scripts/run", "site-packages/hello_world/tool"]);
    let EntryKind::File(found) = &layer.entries[4].kind else {
        panic!("a file")
    };
    assert_eq!(found.digest, Digest::of(&large));
    assert_eq!(layer.info["dist-info"], DIST_INFO.as_bytes());
    assert_eq!(layer.info["entry_points.txt"], scripts);
    assert!(
        layer.info["METADATA"].ends_with(b"Version: 1.0.0\n"),
        "without the description"
    );
}

#[test]
fn a_record_may_use_longer_digests_and_must_not_lie() {
    let module = "hello_world/__init__.py";
    let of_module = format!("{module},sha256={},7\n", base64url(&sha2::Sha256::digest(b"hi = 1\n")));
    let sha512 = base64url(&sha2::Sha512::digest(b"hi = 1\n"));
    let sha384 = base64url(&sha2::Sha384::digest(b"hi = 1\n"));
    for longer in [
        format!("{module},sha512={sha512},7\n"),
        format!("\"{module}\",sha384={sha384},\n"),
    ] {
        layer(&Builder::new().with_record(|record| record.replace(&of_module, &longer)));
    }
    for (line, expected) in [
        (String::new(), "`hello_world/__init__.py` is not listed in its RECORD"),
        (format!("{module},,7\n"), "has no digest in its RECORD"),
        (
            of_module.replace(",7", ",8"),
            "`hello_world/__init__.py` has 7 bytes, but its RECORD says 8",
        ),
        (
            format!("{module},sha256={},7\n", base64url(&[1; 32])),
            "`hello_world/__init__.py` has the sha256",
        ),
        (
            format!("{module},sha512={},7\n", base64url(&[1; 64])),
            "`hello_world/__init__.py` has the sha512",
        ),
        (format!("{module},md5=AAAA,7\n"), "by `md5`"),
        (
            format!("{of_module}ghost.py,sha256={},1\n", base64url(&[1; 32])),
            "`ghost.py` is listed in its RECORD, and is not there",
        ),
    ] {
        let message = refusal(&Builder::new().with_record(|record| record.replace(&of_module, &line)));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_could_leave_the_environment_is_refused() {
    for (path, mode, expected) in [
        ("../evil.py", 0o100_644, "has a `..` component"),
        ("a/../../evil.py", 0o100_644, "has a `..` component"),
        ("/etc/evil", 0o100_644, "is absolute"),
        ("a\\..\\evil.py", 0o100_644, "has a backslash"),
        ("link", 0o120_777, "is a symlink"),
        (
            "hello_world-1.0.data/data/conda-meta/history",
            0o100_644,
            "belongs to the installer",
        ),
        (
            "hello_world-1.0.data/scripts/python3",
            0o100_644,
            "the Python interpreter",
        ),
        (
            "hello_world-1.0.data/purelib/hello_world/__init__.py",
            0o100_644,
            "goes where another file",
        ),
        (
            "hello_world/__init__.py/x",
            0o100_644,
            "is a file, and a directory to other files",
        ),
    ] {
        let message = refusal(&Builder::new().file_with_mode(path, b"/etc/passwd", mode));
        assert!(message.contains(expected), "{path}: {message}");
    }
}

#[test]
fn two_readers_must_see_one_wheel() {
    let replaced = |bytes: &[u8], from: &[u8], to: &[u8], only_last: bool| {
        let mut bytes = bytes.to_owned();
        let found: Vec<usize> = (0..bytes.len() - from.len())
            .filter(|&at| bytes[at..].starts_with(from))
            .collect();
        assert!(found.len() >= 2, "a local and a central name");
        for &at in if only_last {
            &found[found.len() - 1..]
        } else {
            &found[..]
        } {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        bytes
    };
    let bytes = Builder::new().file("a/x.py", b"1").file("a/y.py", b"2").bytes();
    let twice = refusal_of(&replaced(&bytes, b"a/y.py", b"a/x.py", false), NAME);
    assert!(twice.contains("duplicate"), "{twice}");
    let differing = refusal_of(&replaced(&bytes, b"a/y.py", b"a/z.py", true), NAME);
    assert!(differing.contains("its zip directory"), "{differing}");
}

#[test]
fn a_wheel_is_of_the_distribution_that_its_name_says() {
    let bytes = Builder::new().bytes();
    for (name, expected) in [
        (
            "other-1.0-py3-none-any.whl",
            "should hold other 1.0, but its directory says `hello_world-1.0.dist-info`",
        ),
        ("hello_world-2.0-py3-none-any.whl", "should hold hello-world 2.0"),
    ] {
        let message = refusal_of(&bytes, name);
        assert!(message.contains(expected), "{message}");
    }
    ingest(&bytes, "hello_world-1.0+local-py3-none-any.whl").0.unwrap();
    let metadata = METADATA.replace("hello.world", "other");
    let message = refusal(&Builder::new().file(&format!("{DIST_INFO}/METADATA"), metadata.as_bytes()));
    assert!(message.contains("but its METADATA says other 1.0.0"), "{message}");
    let (whole, name) = (layer(&Builder::new()), |name| WheelFileName::parse(name).unwrap());
    super::check(&whole, &name(NAME)).unwrap();
    assert!(super::check(&whole, &name("other-1.0-py3-none-any.whl")).is_err());
    let no_wheel = Layer {
        info: [("index.json".to_owned(), b"{}".to_vec())].into(),
        ..whole
    };
    let message = super::check(&no_wheel, &name(NAME)).unwrap_err().to_string();
    assert!(message.contains("of another kind"), "{message}");
}

#[test]
fn metadata_must_be_there_and_be_understood() {
    for (builder, expected) in [
        (
            Builder::new().file("other-1.dist-info/METADATA", b""),
            "several .dist-info directories",
        ),
        (
            Builder::new().file(&format!("{DIST_INFO}/WHEEL"), b"Wheel-Version: 2.0\n"),
            "the Wheel-Version 2.0",
        ),
        (
            Builder::new().file(&format!("{DIST_INFO}/WHEEL"), b"x"),
            "has no Wheel-Version",
        ),
        (Builder::new().without(&format!("{DIST_INFO}/WHEEL")), "it has no WHEEL"),
        (
            Builder::new().without(&format!("{DIST_INFO}/METADATA")),
            "it has no METADATA",
        ),
        (
            Builder::new().file(
                &format!("{DIST_INFO}/entry_points.txt"),
                b"[console_scripts]\n../x = a:b\n",
            ),
            "`../x` cannot be the name of a command",
        ),
        (
            Builder::new().file(
                &format!("{DIST_INFO}/entry_points.txt"),
                b"[gui_scripts]\npython = a:b\n",
            ),
            "the command `python`",
        ),
    ] {
        let message = refusal(&builder);
        assert!(message.contains(expected), "{message}");
    }
    let without_record = |bytes: &[u8]| {
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut copy = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for index in 0..zip.len() {
            let member = zip.by_index_raw(index).unwrap();
            if !member.name().unwrap().ends_with("RECORD") {
                copy.raw_copy_file(member).unwrap();
            }
        }
        copy.finish().unwrap().into_inner()
    };
    let message = refusal_of(&without_record(&Builder::new().bytes()), NAME);
    assert!(message.contains("it has no RECORD"), "{message}");
    let mut empty = Builder::new();
    empty.files.clear();
    let message = refusal(&empty);
    assert!(message.contains("it has no WHEEL"), "{message}");
}

#[test]
fn what_is_damaged_is_refused() {
    assert!(refusal_of(b"", NAME).contains("zip") || refusal_of(b"", NAME).contains("cannot be read"));
    let whole = Builder::new().file("a.bin", &[7; 3000]).bytes();
    for len in [1, 100, whole.len() / 2, whole.len() - 1] {
        refusal_of(&whole[..len], NAME);
    }
    for at in (0..whole.len()).step_by(3) {
        // A flipped bit is an error or changes nothing that counts; it is never a panic, and never another file.
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        if let (Ok(layer), _store) = ingest(&flipped, NAME) {
            let digests: Vec<_> = layer.entries.iter().map(|entry| entry.kind.clone()).collect();
            assert!(
                digests
                    .iter()
                    .any(|kind| matches!(kind, EntryKind::File(file) if file.digest == Digest::of(&[7; 3000])))
            );
        }
    }
}
