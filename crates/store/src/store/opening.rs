//! Opening a store, and making an empty one where there is nothing: its format is known, and nothing else is in its place.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::{Inner, Store};
use crate::ballast;
use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::stamps::Stamps;

/// The version of the layout above. A store of another version is refused, so a new one needs a migration.
pub const FORMAT_VERSION: u32 = 1;

/// The content of `FORMAT`.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    /// Features that an old version may ignore.
    #[serde(default)]
    compatible: Vec<String>,
    /// Features that an old version may ignore as long as it does not write.
    #[serde(default)]
    read_only_compatible: Vec<String>,
    /// Features without which nothing can be read.
    #[serde(default)]
    incompatible: Vec<String>,
}

const DIRECTORIES: [&str; 8] = [
    "objects",
    "packs",
    "layers",
    "trees",
    "environments",
    "leases",
    "mnt",
    "tmp",
];

/// Names by which a store is known that has lost its `FORMAT`, and how many of them it takes.
const TELLING: [&str; 4] = ["packs", "layers", "trees", "environments"];
const MIN_TELLING: usize = 2;

/// What may be in a directory before it is a store: caches, and what a file system puts into its root.
const EARLIER: [&str; 2] = ["cache", "lost+found"];

impl Store {
    /// Opens the store at `root`, and makes an empty one where there is nothing.
    ///
    /// # Errors
    /// When the directory cannot be made or read, holds something else, or was made by a newer version.
    pub fn open(root: &Path) -> Result<Self> {
        Self::new(root, None, Arc::new(Stamps::of(root)))?.opened()
    }

    /// Opens the store at `root` over the one at `lower`, such as a user's over the system's. What the lower one holds is found
    /// as if it were here, and is not written again; nothing is ever written there.
    ///
    /// # Errors
    /// As [`Store::open`]; or when there is no store at `lower`.
    pub fn open_over(root: &Path, lower: &Path) -> Result<Self> {
        // Whoever fills the lower one may be about to make it.
        if std::path::absolute(root).at("resolve", root)? == std::path::absolute(lower).at("resolve", lower)? {
            return Self::open(root);
        }
        let stamps = Arc::new(Stamps::of(root));
        let lower = Self::existing(lower, Arc::clone(&stamps))?;
        let upper = Self::new(root, Some(lower.clone()), stamps)?;
        if is_same_directory(upper.root(), lower.root()) {
            return lower.opened();
        }
        upper.opened()
    }

    /// Opens the store at `root` to read from it; makes none.
    ///
    /// # Errors
    /// When there is none, or it was made by a newer version.
    pub fn open_existing(root: &Path) -> Result<Self> {
        Self::existing(root, Arc::new(Stamps::of(root)))
    }

    fn existing(root: &Path, stamps: Arc<Stamps>) -> Result<Self> {
        let store = Self::new(root, None, stamps)?;
        let format = store.path("FORMAT");
        let bytes = fs::read(&format).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NoStore(store.0.root.clone()),
            _ => Error::Io {
                action: "read",
                path: format,
                source,
            },
        })?;
        store.check_format(&bytes, false)?;
        Ok(store)
    }

    fn new(root: &Path, lower: Option<Self>, stamps: Arc<Stamps>) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            root: std::path::absolute(root).at("resolve", root)?,
            lower,
            packs: Mutex::default(),
            stamps,
        })))
    }

    fn opened(self) -> Result<Self> {
        let store = self;
        match fs::read(store.path("FORMAT")) {
            Ok(bytes) => store.check_format(&bytes, true)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => store.initialise()?,
            Err(source) => {
                return Err(Error::Io {
                    action: "read",
                    path: store.path("FORMAT"),
                    source,
                });
            }
        }
        Ok(store)
    }

    /// Refuses a directory that holds something else. One that was being made, or has lost its `FORMAT`, is a store.
    fn check_place(&self) -> Result<()> {
        let entries = match fs::read_dir(self.root()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(Error::Io {
                    action: "list",
                    path: self.0.root.clone(),
                    source,
                });
            }
        };
        let names = entries.map(|entry| Ok(entry.at("list", self.root())?.file_name()));
        let names = names.collect::<Result<Vec<_>>>()?;
        let is_there = |directory: &&&str| names.iter().any(|name| name == **directory);
        if TELLING.iter().filter(is_there).count() >= MIN_TELLING {
            return Ok(());
        }
        let is_ours = |name: &&std::ffi::OsString| DIRECTORIES.iter().chain(&EARLIER).any(|ours| *name == ours);
        match names.iter().find(|name| !is_ours(name)) {
            Some(other) => Err(Error::Occupied {
                path: self.0.root.clone(),
                entry: other.into(),
            }),
            None => Ok(()),
        }
    }

    fn initialise(&self) -> Result<()> {
        self.check_place()?;
        for directory in DIRECTORIES {
            durable::create_directory(&self.path(directory))?;
        }
        durable::sync_directory(self.root())?;
        let format = Format {
            format: FORMAT_VERSION,
            compatible: Vec::new(),
            read_only_compatible: Vec::new(),
            incompatible: Vec::new(),
        };
        let mut text = serde_json::to_vec_pretty(&format).expect("numbers and strings become JSON");
        text.push(b'\n');
        // Two processes may both find nothing: they write the same bytes.
        durable::write(&self.path("tmp"), &self.path("FORMAT"), &text)?;
        ballast::keep(self.root());
        Ok(())
    }

    fn check_format(&self, bytes: &[u8], is_written: bool) -> Result<()> {
        let path = self.path("FORMAT");
        let format: Format = serde_json::from_slice(bytes).map_err(|error| Error::corrupt(&path, error.to_string()))?;
        let newer = |what| {
            Err(Error::NewerFormat {
                path: self.0.root.clone(),
                what,
            })
        };
        if format.format > FORMAT_VERSION {
            return newer(format!("format {}", format.format));
        }
        let of_writers = format.read_only_compatible.iter().filter(|_| is_written);
        match format.incompatible.iter().chain(of_writers).next() {
            Some(feature) => newer(format!("the feature `{feature}`")),
            None => Ok(()),
        }
    }
}

/// Whether both are the same directory, by whatever paths.
fn is_same_directory(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_newer_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        Store::open(directory.path()).unwrap();
        let format = directory.path().join("FORMAT");
        for newer in [
            r#"{"format": 2}"#,
            r#"{"format": 1, "incompatible": ["chunks"]}"#,
            r#"{"format": 1, "read_only_compatible": ["x"]}"#,
        ] {
            fs::remove_file(&format).unwrap();
            fs::write(&format, newer).unwrap();
            let error = Store::open(directory.path()).unwrap_err();
            assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
        }
        fs::write(&format, r#"{"format": 1, "compatible": ["hints"]}"#).unwrap();
        Store::open(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_that_holds_something_else_does_not_become_a_store() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        for earlier in EARLIER {
            fs::create_dir_all(root.join(earlier)).unwrap();
        }
        Store::open(&root).unwrap();
        // Whatever has come to it meanwhile, and though its format is lost.
        fs::write(root.join("notes.txt"), "").unwrap();
        fs::remove_file(root.join("FORMAT")).unwrap();
        Store::open(&root).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Occupied { .. }), "{error}");
        let before: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(before.len(), 1, "nothing is made");
    }

    #[test]
    fn a_store_that_is_the_one_below_itself_is_made_where_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let [own, system] = ["own", "system"].map(|name| directory.path().join(name));
        let error = Store::open_over(&own, &system).unwrap_err();
        assert!(matches!(error, Error::NoStore(_)), "{error}");
        assert!(!own.exists());
        assert!(Store::open_over(&system, &system).unwrap().lower().is_none());
        assert!(Store::open_over(&own, &system).unwrap().lower().is_some());
    }
}
