//! Prefixes replaced when files are read: what is read, whole or in pieces, is what rattler would have written.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use envfs_store::environment;
use envfs_store::view::{PrefixError, View};
use envfs_tests::channel::Channel;
use envfs_tests::large::Noise;
use envfs_tests::package::{Format, PLACEHOLDER, Package, Raw};
use envfs_tests::program::{Envfs, files_below};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rattler::install::link::copy_and_replace_placeholders;
use rattler_conda_types::Subdir;
use rattler_conda_types::package::FileMode;
use serde_json::json;

/// The size of the large patched binary.
const LARGE_BYTES: usize = 100 << 20;

/// How a placeholder can be written down.
const ENCODINGS: [fn(&str) -> Vec<u8>; 5] = [
    |text| text.as_bytes().to_vec(),
    |text| text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    |text| text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    |text| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
    |text| text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect(),
];

/// A part of a made-up file.
#[derive(Clone, Debug)]
enum Part {
    Bytes(Vec<u8>),
    Text(String),
    /// The placeholder, in one of the encodings.
    Placeholder(usize),
    /// Only the first bytes of it.
    Cut(usize, usize),
    /// Ends a string in this many bytes.
    Nul(usize),
}

/// A made-up file.
#[derive(Clone, Debug)]
struct Made {
    placeholder: String,
    is_text: bool,
    shebang: Option<String>,
    parts: Vec<Part>,
}

#[test]
fn random_files_at_random_prefixes_and_ranges() {
    let config = Config {
        cases: 16,
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    };
    let files = proptest::collection::vec(made(), 1..120);
    let cases = (
        files,
        proptest::collection::vec("/[a-z0-9_ é]{0,18}", 1..4),
        any::<u64>(),
    );
    let mut runner = TestRunner::new(config);
    let changed = Cell::new(0);
    runner
        .run(&cases, |(files, prefixes, seed)| {
            check_made(&files, &prefixes, seed, &changed)
        })
        .unwrap();
    assert!(
        changed.get() > 200,
        "only {} files were changed by their prefix",
        changed.get()
    );
}

#[test]
fn shebangs_at_every_length() {
    let lines = [
        "bin/python3.12",
        "bin/python",
        "bin/perl -w",
        "bin/env  python",
        "bin/my tool",
        "bin/bash -e -x",
    ];
    let mut package = Package::new("shebangs 1.0 0");
    let mut contents = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for space in ["", " "] {
            let content = format!("#!{space}{PLACEHOLDER}/{line}\nprefix = '{PLACEHOLDER}'\n");
            let path = format!("bin/tool-{index}{}", space.len());
            package = package.prefixed(&path, &content, "text");
            contents.push((path, content));
        }
    }
    let (envfs, view_at) = built(&package);
    for len in (1..20).chain(90..135).chain([200, 255, 256, 400]) {
        for prefix in [
            format!("/{}", "x".repeat(len - 1)),
            format!("/{}", "a b".repeat(len / 3 + 1)),
        ] {
            let view = view_at(&prefix).unwrap();
            for (path, content) in &contents {
                assert_eq!(
                    whole(&view, path),
                    replaced(content.as_bytes(), PLACEHOLDER, view.prefix(), true),
                    "{path} at {prefix}"
                );
            }
        }
    }
    drop(envfs);
}

#[test]
fn a_large_binary_is_read_in_pieces_and_never_made() {
    let mut content = vec![0; LARGE_BYTES];
    std::io::Read::read_exact(&mut Noise::new("large binary", LARGE_BYTES as u64), &mut content).unwrap();
    for (index, at) in (1_000..LARGE_BYTES - 4_096).step_by(3_333_331).enumerate() {
        let mut string = ENCODINGS[index % ENCODINGS.len()](&format!("{PLACEHOLDER}/lib/x:{PLACEHOLDER}/share"));
        string.extend([0; 4]);
        content[at..at + string.len()].copy_from_slice(&string);
    }
    let (envfs, view_at) = built(&Package::new("large 1.0 0").prefixed("lib/large.so", &content, "binary"));
    let prefix = "/home/some one/envs/large";
    let expected = replaced(&content, PLACEHOLDER, prefix, false);
    assert_ne!(expected, content);
    drop(content);

    let objects_before = objects(&envfs);
    let view = view_at(prefix).unwrap();
    let node = view.tree().find(b"lib/large.so").unwrap().unwrap();
    assert_eq!(view.attributes(node).unwrap().size_bytes, expected.len() as u64);
    let file = view.open(node).unwrap();
    assert!(file.whole_object().is_none(), "a patched file is not its object");
    let read_before = bytes_read_by_this_thread();
    let mut state = 1;
    let mut wanted = 0;
    for _ in 0..2_000 {
        let (offset, len) = (random(&mut state, expected.len() + 100), random(&mut state, 9_000));
        let mut buffer = vec![0; len];
        let read = file.read_at(offset as u64, &mut buffer).unwrap();
        let start = offset.min(expected.len());
        let end = (start + len).min(expected.len());
        assert!(buffer[..read] == expected[start..end], "{len} bytes at {offset}");
        wanted += len as u64;
    }
    let read = bytes_read_by_this_thread() - read_before;
    assert!(
        read <= wanted,
        "{read} bytes were read for {wanted}: more than the pieces asked for"
    );
    // The whole of it, in the pieces a kernel asks for.
    let mut offset = 0;
    let mut buffer = vec![0; 128 << 10];
    while offset < expected.len() {
        let read = file.read_at(offset as u64, &mut buffer).unwrap();
        assert!(
            read > 0 && buffer[..read] == expected[offset..offset + read],
            "at {offset}"
        );
        offset += read;
    }
    assert_eq!(objects(&envfs), objects_before, "reading has made something");
}

#[test]
fn a_path_that_is_too_long_is_refused_with_the_length_that_fits() {
    let package = Package::new("tight 1.0 0")
        .listed(
            Raw::file("lib/tight.so", "\x7fELF\0/opt/anaconda1anaconda2anaconda3/lib\0"),
            &json!({"file_mode": "binary", "prefix_placeholder": "/opt/anaconda1anaconda2anaconda3"}),
        )
        .prefixed("etc/roomy.conf", format!("prefix={PLACEHOLDER}\n"), "text");
    let (envfs, view_at) = built(&package);
    view_at(&format!("/{}", "x".repeat(31))).unwrap();
    let message = view_at(&format!("/{}", "x".repeat(32))).unwrap_err().to_string();
    for part in ["33 bytes", "`lib/tight.so`", "tight-1.0-0", "at most 32 bytes"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let signature = envfs.json(["ls"])[0]["signature"].as_str().unwrap().to_owned();
    assert_eq!(envfs.json(["show", &signature])["longest_mount_path_bytes"], 32);
}

fn check_made(files: &[Made], prefixes: &[String], seed: u64, changed: &Cell<usize>) -> Result<(), TestCaseError> {
    let mut package = Package::new("made 1.0 0");
    for (index, file) in files.iter().enumerate() {
        let mode = if file.is_text { "text" } else { "binary" };
        let fields = json!({"file_mode": mode, "prefix_placeholder": file.placeholder});
        package = package.listed(Raw::file(&format!("share/{index}"), file.content()), &fields);
    }
    let (_envfs, view_at) = built(&package);
    let mut state = seed | 1;
    for prefix in prefixes {
        let view = view_at(prefix).unwrap();
        for (index, file) in files.iter().enumerate() {
            let path = format!("share/{index}");
            let expected = replaced(&file.content(), &file.placeholder, view.prefix(), file.is_text);
            changed.set(changed.get() + usize::from(expected != file.content()));
            prop_assert_eq!(&whole(&view, &path), &expected, "file {} at {}", index, prefix);
            let opened = view.open(view.tree().find(path.as_bytes()).unwrap().unwrap()).unwrap();
            for _ in 0..8 {
                let (offset, len) = (
                    random(&mut state, expected.len() + 2),
                    random(&mut state, expected.len() + 2),
                );
                let start = offset.min(expected.len());
                let end = (start + len).min(expected.len());
                let piece = opened.bytes_at(offset as u64, len).unwrap();
                prop_assert_eq!(
                    &piece[..],
                    &expected[start..end],
                    "file {} from {} at {}",
                    index,
                    offset,
                    prefix
                );
            }
        }
    }
    Ok(())
}

impl Made {
    fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        if let Some(shebang) = &self.shebang {
            content.extend(format!("#!{}/{shebang}\n", self.placeholder).as_bytes());
        }
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => content.extend(bytes),
                Part::Text(text) => content.extend(text.as_bytes()),
                Part::Placeholder(encoding) => content.extend(ENCODINGS[*encoding](&self.placeholder)),
                Part::Cut(encoding, len) => {
                    let whole = ENCODINGS[*encoding](&self.placeholder);
                    content.extend(&whole[..len % whole.len()]);
                }
                Part::Nul(count) => content.extend(vec![0; *count]),
            }
        }
        content
    }
}

fn made() -> impl Strategy<Value = Made> {
    let part = prop_oneof![
        2 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Part::Bytes),
        2 => "[a-zA-Z/:\n#! ]{0,40}".prop_map(Part::Text),
        4 => (0..ENCODINGS.len()).prop_map(Part::Placeholder),
        1 => (0..ENCODINGS.len(), any::<u16>()).prop_map(|(encoding, len)| Part::Cut(encoding, len.into())),
        2 => (1..9_usize).prop_map(Part::Nul),
    ];
    let shebang = proptest::option::weighted(0.3, "[a-z0-9./]{1,60}( -[a-z]{1,9}){0,2}");
    // Binaries have room for every prefix of these tests, and no more than some of them need.
    let placeholder = prop_oneof!["/[a-z_]{40,60}", "/(ab){20,30}", "/[a-z_é]{40,60}"];
    (
        placeholder,
        any::<bool>(),
        shebang,
        proptest::collection::vec(part, 0..24),
    )
        .prop_map(|(placeholder, is_text, shebang, parts)| Made {
            placeholder,
            is_text,
            shebang: shebang.filter(|_| is_text),
            parts,
        })
}

/// A store that holds one package, and how it looks at a prefix.
fn built(package: &Package) -> (Envfs, impl Fn(&str) -> Result<View, PrefixError> + use<>) {
    let envfs = Envfs::new();
    let channel = Channel::new(&envfs.path().join("channel")).with(package, Format::Conda);
    let name = package.index()["name"].as_str().unwrap().to_owned();
    let signature = envfs.build(["-c", &channel.url(), &name]);
    let store = envfs.store();
    let tree = Arc::new(
        store
            .tree(&environment::load(&store, &signature).unwrap().tree)
            .unwrap(),
    );
    (envfs, move |prefix: &str| {
        View::new(&store, Arc::clone(&tree), Path::new(prefix))
    })
}

fn whole(view: &View, path: &str) -> Vec<u8> {
    view.read(view.tree().find(path.as_bytes()).unwrap().unwrap()).unwrap()
}

/// What rattler writes.
fn replaced(content: &[u8], placeholder: &str, prefix: &str, is_text: bool) -> Vec<u8> {
    let mode = if is_text { FileMode::Text } else { FileMode::Binary };
    let mut written = Vec::new();
    copy_and_replace_placeholders(content, &mut written, placeholder, prefix, &Subdir::Linux64, mode).unwrap();
    written
}

/// All files of the store that hold content.
fn objects(envfs: &Envfs) -> Vec<std::path::PathBuf> {
    let store = envfs.store_path();
    let mut objects = files_below(&store.join("packs"));
    for shard in files_below(&store.join("objects")) {
        objects.extend(files_below(&shard));
    }
    objects.extend(files_below(&store));
    objects.sort();
    objects
}

/// `rchar` of proc(5): what this thread has got from `read` and `pread`.
fn bytes_read_by_this_thread() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    line.parse().unwrap()
}

/// A number below `end`, by xorshift.
fn random(state: &mut u64, end: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state % end as u64).unwrap()
}
