//! Where what was written into environments is kept: in the store, and in directories of people's own (`--upper`).
//!
//! ```text
//! <store>/writable/<name>/            one of them in the store; its mount.json says which environment is below
//! <store>/writable/<name>.elsewhere   the path of a directory elsewhere that is such a place
//! ```
//!
//! A directory elsewhere counts as long as it is there and holds a `mount.json`. Knows nothing of overlays.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::store::{Store, list};

/// How many digits of the digest of a path name what is kept of it.
const NAME_DIGITS: usize = 32;

/// How the name of a file ends that tells of a directory elsewhere.
const ELSEWHERE: &str = "elsewhere";

/// What must be known of such a place: a part of its `mount.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WritableState {
    /// The environment below.
    pub signature: Digest,
    /// Where that is, or was, seen.
    pub mount_point: PathBuf,
}

/// The place in the store for what is written at `mount_point`.
#[must_use]
pub fn place(store: &Store, mount_point: &Path) -> PathBuf {
    store.path("writable").join(name(mount_point))
}

/// Notes that what is written into an environment is kept in `directory`, which must exist.
///
/// # Errors
/// When the store cannot be written.
pub fn register(store: &Store, directory: &Path) -> Result<()> {
    let record = record(store, directory);
    if record.exists() {
        return Ok(());
    }
    durable::create_directory(&store.path("writable"))?;
    durable::write(&store.path("tmp"), &record, directory.as_os_str().as_bytes())
}

/// Takes that back; what was never noted is fine.
///
/// # Errors
/// When the store cannot be written.
pub fn forget(store: &Store, directory: &Path) -> Result<()> {
    durable::remove(&record(store, directory))
}

/// All that is kept, wherever it can be seen now.
///
/// # Errors
/// When something cannot be read or is damaged.
pub fn states(store: &Store) -> Result<Vec<WritableState>> {
    let mut states = Vec::new();
    for path in list(&store.path("writable"))? {
        let directory = elsewhere(&path)?.unwrap_or(path);
        states.extend(state(&directory.join("mount.json"))?);
    }
    Ok(states)
}

/// Forgets directories elsewhere that are gone: once what is below them may be collected, what comes there later is
/// somebody's own.
///
/// # Errors
/// When something cannot be read, or the store cannot be written.
pub(crate) fn forget_gone(store: &Store) -> Result<()> {
    for path in list(&store.path("writable"))? {
        if let Some(elsewhere) = elsewhere(&path)?
            && matches!(elsewhere.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound)
        {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

/// The directory that the file at `path` tells of, if it is one that tells of a directory elsewhere.
fn elsewhere(path: &Path) -> Result<Option<PathBuf>> {
    if path.extension() != Some(OsStr::new(ELSEWHERE)) {
        return Ok(None);
    }
    match fs::read(path) {
        // Taken back since it was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => Ok(Some(PathBuf::from(OsStr::from_bytes(&text.at("read", path)?)))),
    }
}

fn state(path: &Path) -> Result<Option<WritableState>> {
    match fs::read(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).at("read", path),
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Error::corrupt(path, error.to_string())),
    }
}

fn record(store: &Store, directory: &Path) -> PathBuf {
    place(store, directory).with_extension(ELSEWHERE)
}

fn name(path: &Path) -> String {
    Digest::of(path.as_os_str().as_bytes()).to_string()[..NAME_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_counts_as_long_as_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let state = |path: &Path, what: &[u8]| {
            let state = WritableState {
                signature: Digest::of(what),
                mount_point: "/envs/x".into(),
            };
            fs::create_dir_all(path).unwrap();
            let text = format!(r#"{{"signature":"{}","mount_point":"/envs/x"}}"#, state.signature);
            fs::write(path.join("mount.json"), text).unwrap();
            state
        };
        let own = state(&place(&store, Path::new("/envs/x")), b"own");
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        register(&store, &elsewhere).unwrap();
        assert_eq!(
            states(&store).unwrap(),
            std::slice::from_ref(&own),
            "nothing is kept there yet"
        );
        let other = state(&elsewhere, b"other");
        let mut found = states(&store).unwrap();
        found.sort_by_key(|state| state.signature != own.signature);
        assert_eq!(found, [own.clone(), other.clone()]);
        register(&store, &elsewhere).unwrap();
        fs::write(elsewhere.join("mount.json"), "{").unwrap();
        assert!(states(&store).unwrap_err().to_string().contains("elsewhere/mount.json"));
        let away = directory.path().join("away");
        fs::rename(&elsewhere, &away).unwrap();
        assert_eq!(states(&store).unwrap(), std::slice::from_ref(&own));
        state(&away, b"other");
        fs::rename(&away, &elsewhere).unwrap();
        assert_eq!(states(&store).unwrap().len(), 2, "looking forgets nothing");
        fs::remove_dir_all(&elsewhere).unwrap();
        forget_gone(&store).unwrap();
        // Once it is forgotten, what comes there later is somebody's own.
        state(&elsewhere, b"other");
        assert_eq!(states(&store).unwrap(), [own]);
        register(&store, &elsewhere).unwrap();
        forget(&store, &elsewhere).unwrap();
        assert_eq!(list(&store.path("writable")).unwrap().len(), 1);
    }
}
