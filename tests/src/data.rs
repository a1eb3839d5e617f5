//! Data that may be there or not: real packages beside the project, and the channel that `cargo xtask channel` makes.
//! A test that needs what is not there skips, loudly.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file or folder of the real data beside the project, or nothing, said loudly.
#[must_use]
pub fn shared(path: &str) -> Option<PathBuf> {
    found(&project().join("../shared/data").join(path), "the optional real data")
}

/// The root of the project.
///
/// # Panics
/// When this crate has no parent directory.
#[must_use]
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Says that a test does nothing, and why.
pub fn skip(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}

/// A channel of real software.
pub struct RealChannel {
    /// Its directory.
    pub path: PathBuf,
}

impl RealChannel {
    /// A whole Miniforge, 84 packages; or nothing, said loudly.
    #[must_use]
    pub fn miniforge() -> Option<Self> {
        let path = shared("channels/conda-forge-py312")?;
        Some(Self { path })
    }

    /// The channel that `cargo xtask channel` makes of Debian's Python and wheels; or nothing, said loudly.
    #[must_use]
    pub fn local() -> Option<Self> {
        let path = found(
            &project().join("target/channel"),
            "the channel of `cargo xtask channel`",
        )?;
        Some(Self { path })
    }

    /// The channel as it is named on the command line.
    #[must_use]
    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// The records of the channel: subdir, file name, record.
    ///
    /// # Panics
    /// When the index cannot be read.
    #[must_use]
    pub fn records(&self) -> Vec<(&'static str, String, Value)> {
        let mut records = Vec::new();
        for subdir in ["linux-64", "noarch"] {
            let text = std::fs::read(self.path.join(subdir).join("repodata.json")).unwrap();
            let index: Value = serde_json::from_slice(&text).unwrap();
            for list in ["packages", "packages.conda"] {
                for (file, record) in index[list].as_object().into_iter().flatten() {
                    records.push((subdir, file.clone(), record.clone()));
                }
            }
        }
        records
    }

    /// The archives of all packages.
    #[must_use]
    pub fn archives(&self) -> Vec<PathBuf> {
        self.records()
            .iter()
            .map(|(subdir, file, _)| self.path.join(subdir).join(file))
            .collect()
    }

    /// The names of all packages.
    ///
    /// # Panics
    /// When the index cannot be read.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let records = self.records();
        records
            .iter()
            .map(|(_, _, record)| record["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The arguments of a build of all packages but those called `except`.
    #[must_use]
    pub fn build_arguments(&self, except: &[&str]) -> Vec<String> {
        let mut arguments = vec!["-c".to_owned(), self.url()];
        arguments.extend(self.names().into_iter().filter(|name| !except.contains(&name.as_str())));
        arguments
    }
}

fn found(path: &Path, what: &str) -> Option<PathBuf> {
    if let Ok(path) = path.canonicalize() {
        return Some(path);
    }
    skip(&format!("{what} is not there: {}", path.display()));
    None
}
