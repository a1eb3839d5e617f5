//! Wheels that were built of sources, found by what was built and by which Python; and the logs of builds that failed.
//!
//! ```text
//! <store>/built/<digest of the question>.json   which wheel it became
//! <store>/built/<sha256>/<file name>            that wheel
//! <store>/cache/build-logs/<name>.log           what a build said that failed; evictable
//! ```
//!
//! The wheel is durable before its record is. What a question is, the caller knows.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::digest::{Digest, Sha256};
use crate::durable::{self, Draft};
use crate::error::{Error, IoContext, Result};
use crate::sealed;
use crate::store::Store;
use crate::workspace::Workspace;

/// What the directory of them is called.
const DIRECTORY: &str = "built";

/// A wheel that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltWheel {
    /// The name of its file.
    pub file_name: String,
    /// The digest of its bytes.
    pub sha256: Sha256,
    /// How many bytes it has.
    pub size_bytes: u64,
}

impl BuiltWheel {
    /// Where it is kept.
    #[must_use]
    pub fn path(&self, store: &Store) -> PathBuf {
        store
            .path(DIRECTORY)
            .join(self.sha256.to_string())
            .join(&self.file_name)
    }
}

/// Whether `path` is where a store keeps a wheel with the digest `sha256` that was built.
#[must_use]
pub fn is_place(path: &Path, sha256: &Sha256) -> bool {
    let named = |path: Option<&Path>, name: &str| path.and_then(Path::file_name).is_some_and(|last| last == name);
    let directory = path.parent();
    named(directory, &sha256.to_string()) && named(directory.and_then(Path::parent), DIRECTORY)
}

/// The wheel that answers `question`, if it was built before and is still there.
///
/// # Errors
/// When its record is damaged.
pub fn find(store: &Store, question: &str) -> Result<Option<BuiltWheel>> {
    let path = record_path(store, question);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("read", &path),
    };
    let built = parse(&path, &bytes)?;
    let is_there = store.has_layer(&built.sha256) || built.path(store).is_file();
    Ok(is_there.then_some(built))
}

/// Keeps the wheel in `file`, called `file_name`, as the answer to `question`.
///
/// # Errors
/// When the file cannot be read or the store cannot be written.
pub fn keep(store: &Store, workspace: &Workspace, question: &str, file: &Path, file_name: &str) -> Result<BuiltWheel> {
    let mut draft = Draft::create(workspace.path())?;
    let mut size_bytes = 0;
    let sha256 = read_all(file, |piece| {
        size_bytes += piece.len() as u64;
        draft.write_all(piece)
    })?;
    let built = BuiltWheel {
        file_name: file_name.to_owned(),
        sha256,
        size_bytes,
    };
    let path = built.path(store);
    let directory = path.parent().unwrap_or(&path);
    durable::create_directory(directory)?;
    draft.sync()?;
    draft.publish(&path)?;
    durable::sync_directory(directory)?;
    durable::sync_directory(&store.path(DIRECTORY))?;
    let path = record_path(store, question);
    let record = sealed::seal(&place_of(&path), &built).expect("a record becomes JSON");
    durable::write(workspace.path(), &path, &record)?;
    Ok(built)
}

/// Checks records and wheels, and gives each that is damaged.
pub(crate) fn damaged(store: &Store) -> Result<(u64, Vec<Error>)> {
    let mut checked = 0;
    let mut errors = Vec::new();
    let mut check = |result: Result<()>| {
        checked += 1;
        errors.extend(result.err().filter(|error| !error.is_gone()));
    };
    for path in crate::store::list(&store.path(DIRECTORY))? {
        let named = path.file_name().and_then(|name| name.to_str()?.parse::<Sha256>().ok());
        match named {
            None => check(
                std::fs::read(&path)
                    .at("read", &path)
                    .and_then(|bytes| parse(&path, &bytes))
                    .map(drop),
            ),
            Some(sha256) => {
                for wheel in crate::store::list(&path)? {
                    check(check_wheel(&wheel, &sha256));
                }
            }
        }
    }
    Ok((checked, errors))
}

fn check_wheel(path: &Path, sha256: &Sha256) -> Result<()> {
    if read_all(path, |_| Ok(()))? == *sha256 {
        Ok(())
    } else {
        Err(Error::corrupt(path, "it is not the wheel that its directory names"))
    }
}

/// Calls `take` with the pieces of a file, and gives its digest.
fn read_all(path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<Sha256> {
    let mut file = File::open(path).at("open", path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let len = file.read(&mut buffer).at("read", path)?;
        if len == 0 {
            return Ok(Sha256::from_bytes(hasher.finalize().into()));
        }
        hasher.update(&buffer[..len]);
        take(&buffer[..len])?;
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<BuiltWheel> {
    let built = sealed::open::<BuiltWheel>(path, &place_of(path), bytes)?.document;
    if built.file_name.contains('/') {
        return Err(Error::corrupt(path, "it names no file".to_owned()));
    }
    Ok(built)
}

/// Where a record stands in its store.
fn place_of(path: &Path) -> String {
    format!("built/{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Keeps what a failed build of `name` said, in place of what the last one did, and returns where.
///
/// # Errors
/// When the store cannot be written.
pub fn keep_log(store: &Store, workspace: &Workspace, name: &str, log: &str) -> Result<PathBuf> {
    let directory = store.path("cache").join("build-logs");
    durable::create_directory(&directory)?;
    let path = directory.join(format!("{}.log", name.replace('/', "-")));
    durable::write_evictable(workspace.path(), &path, log.as_bytes())?;
    Ok(path)
}

/// Removes wheels whose layers are not in their places and that are not `young`, and then records of wheels that are gone.
/// Returns the bytes of the wheels. What is missed later is built again.
pub(crate) fn sweep(store: &Store, is_young: impl Fn(&Path) -> bool) -> Result<u64> {
    let mut freed_bytes = 0;
    let mut records = Vec::new();
    for path in crate::store::list(&store.path(DIRECTORY))? {
        match path.file_name().and_then(|name| name.to_str()?.parse::<Sha256>().ok()) {
            None => records.push(path),
            Some(sha256) if store.has_layer(&sha256) || is_young(&path) => {}
            Some(_) => {
                for wheel in crate::store::list(&path)? {
                    freed_bytes += wheel.metadata().map_or(0, |metadata| metadata.len());
                }
                durable::remove_tree(&path)?;
            }
        }
    }
    for path in records {
        let record = std::fs::read(&path).ok();
        let built = record.and_then(|bytes| parse(&path, &bytes).ok());
        if built.is_none_or(|built| !store.has_layer(&built.sha256) && !built.path(store).exists()) {
            durable::remove(&path)?;
        }
    }
    Ok(freed_bytes)
}

fn record_path(store: &Store, question: &str) -> PathBuf {
    let name = format!("{}.json", Digest::of(question.as_bytes()));
    store.path(DIRECTORY).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_found_by_its_question_as_long_as_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let workspace = Workspace::create(&store).unwrap();
        let file = directory.path().join("some.whl");
        std::fs::write(&file, "a wheel").unwrap();
        assert_eq!(find(&store, "q").unwrap(), None);
        let built = keep(&store, &workspace, "q", &file, "x-1-py3-none-any.whl").unwrap();
        assert_eq!(find(&store, "q").unwrap().as_ref(), Some(&built));
        assert_eq!(find(&store, "another").unwrap(), None);
        assert_eq!(std::fs::read(built.path(&store)).unwrap(), b"a wheel");
        std::fs::remove_file(built.path(&store)).unwrap();
        assert_eq!(find(&store, "q").unwrap(), None, "its wheel is gone");
        std::fs::write(record_path(&store, "q"), "{").unwrap();
        let message = find(&store, "q").unwrap_err().to_string();
        assert!(message.contains("built/"), "{message}");
    }
}
