//! Solutions of earlier solves: the same question to the same index has the same answer.
//!
//! What is kept is which records were chosen, under a digest of everything that the choice depends on. Deleting it costs a solve
//! and nothing else. Knows nothing of how a choice is made.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rattler_conda_types::RepoDataRecord;
use rattler_repodata_gateway::RepoData;
use sha2::{Digest as _, Sha256};

/// Part of every key. Raise it when another solver may choose otherwise.
const SOLVER_VERSION: &str = "1";

/// The place of one question's answer.
pub(super) struct Remembered {
    path: PathBuf,
}

/// What a choice depends on, taken in piece by piece.
pub(super) struct Question {
    digest: Sha256,
}

impl Question {
    pub(super) fn new() -> Self {
        let mut this = Self { digest: Sha256::new() };
        this.add(SOLVER_VERSION);
        this.add(env!("CARGO_PKG_VERSION"));
        this
    }

    /// Takes in a text. No two sequences of texts look alike.
    pub(super) fn add(&mut self, text: &str) {
        self.digest.update(text.len().to_le_bytes());
        self.digest.update(text.as_bytes());
    }

    /// Takes in what the index says of every package that may be chosen, in whatever order it came.
    pub(super) fn add_index(&mut self, index: &[RepoData]) {
        let mut records: Vec<&RepoDataRecord> = index.iter().flat_map(RepoData::iter).collect();
        records.sort_by(|a, b| a.url.cmp(&b.url));
        for record in records {
            let package = &record.package_record;
            self.add(record.url.as_str());
            // An index may correct these without a new archive.
            self.add(&package.sha256.map(hex::encode).unwrap_or_default());
            self.add(&format!("{:?} {:?}", package.timestamp, package.indexed_timestamp));
            for list in [&package.depends, &package.constrains, &package.track_features] {
                self.add(&list.len().to_string());
                list.iter().for_each(|text| self.add(text));
            }
        }
    }

    /// Where the answer is kept, if it is.
    pub(super) fn place(self, cache_dir: &Path) -> Remembered {
        let name = format!("{}.json", hex::encode(self.digest.finalize()));
        Remembered {
            path: cache_dir.join("solutions").join(name),
        }
    }
}

impl Remembered {
    /// The records that were chosen, if they were: of the index, or pinned.
    pub(super) fn recall(&self, index: &[RepoData], pinned: &[RepoDataRecord]) -> Option<Vec<RepoDataRecord>> {
        let urls: Vec<String> = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let records = pinned.iter().chain(index.iter().flat_map(RepoData::iter));
        let by_url: HashMap<&str, &RepoDataRecord> = records.map(|record| (record.url.as_str(), record)).collect();
        urls.iter()
            .map(|url| by_url.get(url.as_str()).copied().cloned())
            .collect()
    }

    /// Keeps a choice. The file appears whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn keep(&self, chosen: &[RepoDataRecord]) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let urls: Vec<&str> = chosen.iter().map(|record| record.url.as_str()).collect();
        let temporary = tempfile::NamedTempFile::new_in(directory)?;
        fs::write(temporary.path(), serde_json::to_vec(&urls)?)?;
        temporary.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}
