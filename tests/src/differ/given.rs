//! What environments and their plain copies hold before anything is done: many times the same small tree, so that each
//! sequence of operations has one that nobody has touched.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::package::{PLACEHOLDER, Package};

/// More than the store keeps in a pack, and no whole number of pages.
const LARGE_BYTES: usize = 200_003;

/// When all files were modified, in seconds since 1970-01-01 UTC.
pub const MTIME_S: u64 = 1_700_000_000;

/// The time of files that hold their prefix: a second after their package's `info/about.json` (docs/semantics.md).
const PATCHED_MTIME_S: u64 = MTIME_S + 1;

/// What one path of a tree is.
enum Given {
    /// A file.
    File(Vec<u8>),
    /// A file that may be executed.
    Executable(Vec<u8>),
    /// A text that holds its prefix.
    Text(String),
    /// A binary that holds its prefix.
    Binary(Vec<u8>),
    /// A symlink.
    Symlink(&'static str),
}

/// One tree. [`super::random`] knows the names.
fn tree() -> Vec<(&'static str, Given)> {
    let large: Vec<u8> = (0..LARGE_BYTES).map(|at| byte(at * 31 + at / 251)).collect();
    let mut binary = large.clone();
    binary[70_000..70_000 + PLACEHOLDER.len()].copy_from_slice(PLACEHOLDER.as_bytes());
    binary[70_000 + PLACEHOLDER.len()] = 0;
    vec![
        ("small", Given::File(b"a few bytes\n".to_vec())),
        ("empty", Given::File(Vec::new())),
        ("large", Given::File(large)),
        (
            "text",
            Given::Text(format!("#!{PLACEHOLDER}/bin/x\nat {PLACEHOLDER}\n")),
        ),
        ("binary", Given::Binary(binary)),
        ("program", Given::Executable(b"#!/bin/sh\n".to_vec())),
        ("dir/a", Given::File(vec![b'a'; 5000])),
        ("dir/b", Given::File(vec![b'b'; 4096])),
        ("dir/sub/c", Given::File(vec![b'c'; 4095])),
        ("link", Given::Symlink("small")),
        ("way", Given::Symlink("dir")),
        ("dangling", Given::Symlink("nowhere")),
        ("loop", Given::Symlink("loop")),
    ]
}

fn byte(number: usize) -> u8 {
    u8::try_from(number % 251).unwrap_or_default()
}

/// Where the tree called `number` lies below a prefix.
#[must_use]
pub fn place(number: usize) -> PathBuf {
    Path::new("share/cases").join(format!("{number:04}"))
}

/// A package with so many trees.
///
/// # Panics
/// Never; all paths are UTF-8.
#[must_use]
pub fn package(trees: usize) -> Package {
    let mut package = Package::new("trees 1.0 0");
    for number in 0..trees {
        for (name, given) in tree() {
            let path = place(number).join(name);
            let path = path.to_str().unwrap();
            package = match given {
                Given::File(content) => package.file(path, content),
                Given::Executable(content) => package.executable(path, content),
                Given::Text(content) => package.prefixed(path, content, "text"),
                Given::Binary(content) => package.prefixed(path, content, "binary"),
                Given::Symlink(target) => package.symlink(path, target),
            };
        }
    }
    package
}

/// Writes so many trees below `root`, as an installer would that installs into `prefix`.
///
/// # Panics
/// When they cannot be written.
pub fn write(root: &Path, trees: usize, prefix: &Path) {
    let prefix = prefix.to_str().unwrap();
    for number in 0..trees {
        for (name, given) in tree() {
            let path = root.join(place(number)).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
            let (content, mode, mtime_s) = match given {
                Given::Symlink(target) => {
                    symlink(target, &path).unwrap();
                    continue;
                }
                Given::File(content) => (content, 0o644, MTIME_S),
                Given::Executable(content) => (content, 0o755, MTIME_S),
                Given::Text(text) => (text.replace(PLACEHOLDER, prefix).into(), 0o755, PATCHED_MTIME_S),
                Given::Binary(bytes) => (patched(bytes, prefix), 0o755, PATCHED_MTIME_S),
            };
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(mtime_s)).unwrap();
        }
    }
}

/// The prefix in place of the placeholder, with zeros behind the string so that nothing else moves.
fn patched(mut bytes: Vec<u8>, prefix: &str) -> Vec<u8> {
    let at = bytes
        .windows(PLACEHOLDER.len())
        .position(|window| window == PLACEHOLDER.as_bytes())
        .unwrap();
    let end = at + PLACEHOLDER.len();
    bytes[at..end].fill(0);
    bytes[at..at + prefix.len()].copy_from_slice(prefix.as_bytes());
    bytes
}
