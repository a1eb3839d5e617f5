//! Channels made by hand: directories with packages and `repodata.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::package::{Format, Package};

/// A channel in a directory.
pub struct Channel {
    path: PathBuf,
    records: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Channel {
    /// An empty channel for linux-64 and noarch in `path`, which is made.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut channel = Self {
            path: path.to_owned(),
            records: BTreeMap::new(),
        };
        for subdir in ["linux-64", "noarch"] {
            channel.records.insert(subdir.to_owned(), BTreeMap::new());
            channel.write_index(subdir);
        }
        channel
    }

    /// Adds a package.
    #[must_use]
    pub fn with(mut self, package: &Package, format: Format) -> Self {
        self.add(package, format);
        self
    }

    /// Adds a package, and returns where its archive lies.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn add(&mut self, package: &Package, format: Format) -> PathBuf {
        let directory = self.path.join(package.subdir());
        fs::create_dir_all(&directory).unwrap();
        let archive = package.write(&directory, format);
        self.record(package, &archive);
        archive
    }

    /// Records an archive that lies in the channel already.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn record(&mut self, package: &Package, archive: &Path) {
        let mut hasher = Sha256::new();
        let mut file = fs::File::open(archive).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            let len = std::io::Read::read(&mut file, &mut buffer).unwrap();
            if len == 0 {
                break;
            }
            hasher.update(&buffer[..len]);
            size += len;
        }
        let mut record = package.index();
        record["sha256"] = hex::encode(hasher.finalize()).into();
        record["size"] = size.into();
        let name = archive.file_name().unwrap().to_str().unwrap().to_owned();
        let records = self.records.entry(package.subdir().to_owned()).or_default();
        records.insert(name, record);
        self.write_index(package.subdir());
    }

    /// The channel as it is named on the command line.
    #[must_use]
    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write_index(&self, subdir: &str) {
        let directory = self.path.join(subdir);
        fs::create_dir_all(&directory).unwrap();
        let (conda, bz2): (BTreeMap<_, _>, BTreeMap<_, _>) = self.records[subdir]
            .iter()
            .partition(|(name, _)| name.ends_with(".conda"));
        let index = json!({
            "info": {"subdir": subdir}, "packages": bz2, "packages.conda": conda, "repodata_version": 1,
        });
        fs::write(directory.join("repodata.json"), index.to_string()).unwrap();
    }
}
