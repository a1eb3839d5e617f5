//! Archives as they should be become layers; archives as nobody should make them are refused, and leave nothing.

use std::io::{Seek, Write};
use std::path::Path;

use envfs_store::Store;
use envfs_store::digest::{Digest, Sha256};
use envfs_store::layer::{EntryKind, Layer};
use envfs_store::placeholder::Occurrences;
use envfs_store::workspace::Workspace;
use sha2::Digest as _;
use tar::EntryType;

use super::ArchiveError;
use crate::limits::ArchiveLimits;

const PLACEHOLDER: &str = "/opt/placehold/placehold/placehold";

/// An entry of a tar, written without the checks of a friendly writer.
struct Raw<'a> {
    path: &'a str,
    kind: EntryType,
    content: &'a [u8],
    link: &'a str,
    mode: u32,
}

impl<'a> Raw<'a> {
    fn file(path: &'a str, content: &'a [u8]) -> Self {
        Self {
            path,
            kind: EntryType::Regular,
            content,
            link: "",
            mode: 0o644,
        }
    }

    fn link(path: &'a str, kind: EntryType, link: &'a str) -> Self {
        Self {
            kind,
            link,
            ..Self::file(path, b"")
        }
    }
}

fn tar_of(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.content.len() as u64);
        header.set_mode(entry.mode);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        builder.append(&header, entry.content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn paths_json(files: &[(&str, &[u8], Option<&str>)]) -> String {
    let paths: Vec<_> = files
        .iter()
        .map(|(path, content, mode)| {
            let mut entry = serde_json::json!({
                "_path": path,
                "path_type": "hardlink",
                "sha256": hex::encode(sha2::Sha256::digest(content)),
                "size_in_bytes": content.len(),
            });
            if let Some(mode) = mode {
                entry["file_mode"] = (*mode).into();
                entry["prefix_placeholder"] = PLACEHOLDER.into();
            }
            entry
        })
        .collect();
    serde_json::json!({ "paths": paths, "paths_version": 1 }).to_string()
}

fn index_json() -> &'static [u8] {
    br#"{"name": "x", "version": "1", "build": "0", "build_number": 0, "subdir": "linux-64", "depends": []}"#
}

fn conda(payload: &[u8], info: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("metadata.json", options).unwrap();
    zip.write_all(br#"{"conda_pkg_format_version": 2}"#).unwrap();
    for (name, tar) in [("pkg-x-1-0.tar.zst", payload), ("info-x-1-0.tar.zst", info)] {
        zip.start_file(name, options).unwrap();
        zip.write_all(&zstd::encode_all(tar, 1).unwrap()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn tar_bz2(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(&tar_of(entries)).unwrap();
    encoder.finish().unwrap()
}

fn ingest(archive: &[u8]) -> (Result<Layer, ArchiveError>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(archive).unwrap();
    file.rewind().unwrap();
    let result = super::ingest(
        &store,
        &workspace,
        file,
        "x-1-0.conda",
        Sha256::from_bytes([9; 32]),
        &ArchiveLimits::default(),
    );
    (result.map(|(layer, _)| layer), directory)
}

/// A package of files that `info/paths.json` lists.
fn package(files: &[(&str, &[u8], Option<&str>)], more: Vec<Raw<'_>>) -> Vec<u8> {
    let json = paths_json(files);
    let mut entries: Vec<Raw<'_>> = files
        .iter()
        .map(|(path, content, _)| Raw::file(path, content))
        .collect();
    entries.extend(more);
    entries.push(Raw::file("info/index.json", index_json()));
    entries.push(Raw::file("info/paths.json", json.as_bytes()));
    tar_bz2(&entries)
}

fn refusal(archive: &[u8]) -> String {
    let (result, directory) = ingest(archive);
    let message = result.expect_err("the archive should be refused").to_string();
    assert!(message.contains("x-1-0.conda"), "{message}");
    for kept in ["layers", "objects", "packs"] {
        let left = std::fs::read_dir(directory.path().join(kept)).unwrap().count();
        assert_eq!(left, 0, "{kept} after: {message}");
    }
    message
}

#[test]
fn both_formats_give_the_same_layer() {
    let large = vec![7; 200_000];
    let script = format!("#!{PLACEHOLDER}/bin/python\nprefix = '{PLACEHOLDER}'\n").into_bytes();
    let binary = format!("ELF\0{PLACEHOLDER}/lib\0end").into_bytes();
    let files: [(&str, &[u8], Option<&str>); 4] = [
        ("bin/tool", &script, Some("text")),
        ("lib/libx.so", &binary, Some("binary")),
        ("lib/large.bin", &large, None),
        ("share/empty", b"", None),
    ];
    let json = paths_json(&files);
    let payload: Vec<Raw<'_>> = files
        .iter()
        .map(|(path, content, _)| Raw::file(path, content))
        .collect();
    let info = [
        Raw::file("info/index.json", index_json()),
        Raw::file("info/paths.json", json.as_bytes()),
    ];
    let (from_conda, _store) = ingest(&conda(&tar_of(&payload), &tar_of(&info)));
    let (from_bz2, _store) = ingest(&package(&files, Vec::new()));
    let layer = from_conda.unwrap();
    assert_eq!(layer, from_bz2.unwrap());
    let paths: Vec<_> = layer.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["bin/tool", "lib/large.bin", "lib/libx.so", "share/empty"]);
    let EntryKind::File(tool) = &layer.entries[0].kind else {
        panic!("a file")
    };
    let Some(Occurrences::Text { shebang, occurrences }) = tool.placeholder.as_ref().map(|found| &found.occurrences)
    else {
        panic!("a text placeholder")
    };
    assert_eq!(shebang.len(), PLACEHOLDER.len() + "#!/bin/python\n".len());
    assert_eq!(occurrences.len(), 1);
    let EntryKind::File(large_entry) = &layer.entries[1].kind else {
        panic!("a file")
    };
    assert_eq!(large_entry.digest, Digest::of(&large));
}

#[test]
fn hardlinks_share_and_duplicates_end_with_the_last() {
    let first = b"first".as_slice();
    let second = b"second".as_slice();
    let files: [(&str, &[u8], Option<&str>); 2] = [("a", second, None), ("b", first, None)];
    let json = paths_json(&files);
    let (layer, _store) = ingest(&tar_bz2(&[
        Raw::file("a", first),
        Raw::link("b", EntryType::Link, "a"),
        Raw::file("./a", second),
        Raw::link("dangling", EntryType::Symlink, "../../nowhere"),
        Raw::file("info/index.json", index_json()),
        Raw::file("info/paths.json", json.as_bytes()),
    ]));
    let digests: Vec<_> = layer
        .unwrap()
        .entries
        .into_iter()
        .map(|entry| match entry.kind {
            EntryKind::File(file) => file.digest,
            other => panic!("{other:?}"),
        })
        .collect();
    // What is not listed is not linked.
    assert_eq!(digests, [Digest::of(second), Digest::of(first)]);
}

#[test]
fn what_could_leave_the_environment_is_refused() {
    let file: [(&str, &[u8], Option<&str>); 1] = [("a", b"a", None)];
    for (entry, expected) in [
        (Raw::file("../evil", b"x"), "`../evil` has a `..` component"),
        (Raw::file("lib/../../evil", b"x"), "has a `..` component"),
        (Raw::file("/etc/passwd", b"x"), "`/etc/passwd` is absolute"),
        (Raw::link("dev", EntryType::Block, ""), "is a device node"),
        (Raw::link("null", EntryType::Char, ""), "is a device node"),
        (Raw::link("pipe", EntryType::Fifo, ""), "is a device node or a pipe"),
        (
            Raw::link("hard", EntryType::Link, "../../etc/passwd"),
            "is a hardlink whose target has a `..`",
        ),
        (
            Raw::link("hard", EntryType::Link, "/etc/passwd"),
            "is a hardlink whose target is absolute",
        ),
        (
            Raw::link("hard", EntryType::Link, "later"),
            "is no earlier file of the archive",
        ),
        (Raw::link("empty", EntryType::Symlink, ""), "has no target"),
    ] {
        let message = refusal(&package(&file, vec![entry]));
        assert!(message.contains(expected), "{message}");
    }
    let through = vec![
        Raw::link("link", EntryType::Symlink, "/etc"),
        Raw::file("link/passwd", b"x"),
    ];
    assert!(refusal(&package(&file, through)).contains("`link/passwd` lies below `link`, a symlink to `/etc`"));
    let listed: [(&str, &[u8], Option<&str>); 1] = [("conda-meta/evil.json", b"{}", None)];
    assert!(refusal(&package(&listed, Vec::new())).contains("belongs to the installer"));
}

#[test]
fn what_is_not_as_announced_is_refused() {
    let file: [(&str, &[u8], Option<&str>); 1] = [("lib/a", b"good", None)];
    let json = paths_json(&file);
    let rest = || {
        [
            Raw::file("info/index.json", index_json()),
            Raw::file("info/paths.json", json.as_bytes()),
        ]
    };
    let mut wrong = vec![Raw::file("lib/a", b"evil")];
    wrong.extend(rest());
    let message = refusal(&tar_bz2(&wrong));
    for part in [
        "`lib/a`",
        &hex::encode(sha2::Sha256::digest(b"evil")),
        &hex::encode(sha2::Sha256::digest(b"good")),
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(refusal(&tar_bz2(&rest())).contains("lists `lib/a`, which it does not hold"));
    assert!(refusal(&tar_bz2(&rest()[1..])).contains("it has no info/index.json"));
    assert!(refusal(&tar_bz2(&[])).contains("index.json"));
    let broken = [
        Raw::file("info/index.json", index_json()),
        Raw::file("info/paths.json", b"{"),
    ];
    assert!(refusal(&tar_bz2(&broken)).contains("info/paths.json"));
}

#[test]
fn what_is_cut_off_or_no_archive_is_refused() {
    let file: [(&str, &[u8], Option<&str>); 1] = [("lib/a", b"good", None)];
    let whole = package(&file, Vec::new());
    for len in [0, 3, 4, 100, whole.len() / 2, whole.len() - 1] {
        refusal(&whole[..len]);
    }
    assert!(refusal(b"not an archive at all").contains("neither a .conda"));
    let json = paths_json(&file);
    let info = [
        Raw::file("info/index.json", index_json()),
        Raw::file("info/paths.json", json.as_bytes()),
    ];
    let whole = conda(&tar_of(&[Raw::file("lib/a", b"good")]), &tar_of(&info));
    for len in [10, 100, whole.len() / 2, whole.len() - 1] {
        refusal(&whole[..len]);
    }
    for at in (60..whole.len() - 400).step_by(7) {
        // A flipped byte is an error or changes nothing that counts; it is never a panic.
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        let _ = ingest(&flipped);
    }
}

#[test]
fn packages_from_before_paths_json_are_read() {
    let script = format!("prefix={PLACEHOLDER}\n");
    let has_prefix = format!("{PLACEHOLDER} text etc/a.conf\n");
    let (layer, _store) = ingest(&tar_bz2(&[
        Raw::file("info/index.json", index_json()),
        Raw::file("info/files", b"etc/a.conf\nlink\n"),
        Raw::file("info/has_prefix", has_prefix.as_bytes()),
        Raw::file("etc/a.conf", script.as_bytes()),
        Raw::link("link", EntryType::Symlink, "etc/a.conf"),
    ]));
    let layer = layer.unwrap();
    let EntryKind::File(conf) = &layer.entries[0].kind else {
        panic!("a file")
    };
    assert_eq!(
        conf.placeholder.as_ref().map(|found| found.prefix.as_str()),
        Some(PLACEHOLDER)
    );
    assert_eq!(layer.entries[1].kind, EntryKind::Symlink(b"etc/a.conf".to_vec()));
    assert_eq!(layer.entries[1].path.to_string(), Path::new("link").to_string_lossy());
}

#[test]
fn times_are_those_before_the_point() {
    let file: [(&str, &[u8], Option<&str>); 1] = [("lib/a.py", b"a", None)];
    let json = paths_json(&file);
    let mut tar = tar::Builder::new(Vec::new());
    // As Python's tarfile writes 1700000000.9: exact in the pax header, rounded in the plain one.
    tar.append_pax_extensions([("mtime", b"1700000000.9".as_slice())])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("lib/a.py").unwrap();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_001);
    header.set_cksum();
    tar.append(&header, b"a".as_slice()).unwrap();
    let info = [
        Raw::file("info/index.json", index_json()),
        Raw::file("info/paths.json", json.as_bytes()),
    ];
    let (layer, _store) = ingest(&conda(&tar.into_inner().unwrap(), &tar_of(&info)));
    assert_eq!(layer.unwrap().entries[0].mtime_s, 1_700_000_000);
}
