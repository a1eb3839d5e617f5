//! Files of a store that are not what they were: flipped, cut, exchanged, lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::chance::below;
use crate::program::files_below;

/// The files of a store that are to last.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn lasting(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut pending: Vec<PathBuf> = ["objects", "packs", "layers", "trees", "environments", "refs", "roots"]
        .iter()
        .map(|name| store.join(name))
        .collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(files_below(&path));
        } else if path.is_file() && !path.ends_with(".lock") {
            let inside = path.strip_prefix(store).unwrap().to_owned();
            files.insert(inside, fs::read(&path).unwrap());
        }
    }
    files
}

/// Writes a file anew, as if the disk gave other bytes.
///
/// # Panics
/// When it cannot be written.
pub fn rewrite(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// Flips one bit of a file.
///
/// # Panics
/// When it cannot be read or written.
pub fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 1 << (at % 8);
    rewrite(path, &bytes);
}

/// Damages some files of a store in some way, and says how.
///
/// # Panics
/// When a file cannot be written.
pub fn damage(store: &Path, files: &BTreeMap<PathBuf, Vec<u8>>, state: &mut u64) -> String {
    let mut what = String::new();
    let paths: Vec<&PathBuf> = files
        .keys()
        .filter(|path| !path.to_string_lossy().contains(".copies"))
        .collect();
    for _ in 0..=below(state, 3) {
        let inside = paths[below(state, paths.len())];
        let path = store.join(inside);
        let Ok(bytes) = fs::read(&path) else { continue };
        if bytes.is_empty() {
            continue;
        }
        let how = match below(state, 4) {
            0 => {
                rewrite(&path, &bytes[..below(state, bytes.len())]);
                "cut"
            }
            1 => {
                fs::remove_file(&path).unwrap();
                "lost"
            }
            2 => {
                let others: Vec<_> = paths.iter().filter(|other| other.parent() == inside.parent()).collect();
                let other = store.join(others[below(state, others.len())]);
                if let Ok(others_bytes) = fs::read(&other) {
                    rewrite(&path, &others_bytes);
                    rewrite(&other, &bytes);
                }
                "swapped"
            }
            _ => {
                flip(&path, below(state, bytes.len()));
                "flipped"
            }
        };
        what.push_str(&format!("{} {how}; ", inside.display()));
    }
    what
}
