//! The installer that we must agree with: rattler's, into a directory, and what counts as agreeing.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use rattler::install::Installer;
use rattler::package_cache::PackageCache;
use rattler_conda_types::RepoDataRecord;
use rattler_package_streaming::fs::repodata_record_from_package_archive;

use crate::seen::{Listing, Seen};

/// rattler, with the packages it has extracted so far.
pub struct Reference {
    cache: PackageCache,
    runtime: tokio::runtime::Runtime,
}

/// One path at which an environment is not what rattler installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path below the prefix.
    pub path: String,
    /// What rattler has there.
    pub installed: Option<Seen>,
    /// What we have there.
    pub ours: Option<Seen>,
}

/// Differences of one kind, and why they are right.
pub struct Known {
    /// Which they are.
    pub is_it: fn(&Difference) -> bool,
    /// Why.
    pub reason: &'static str,
}

impl Reference {
    /// With an empty cache in `directory`.
    ///
    /// # Panics
    /// When there can be no threads.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Self {
            cache: PackageCache::new(directory.join("rattler-cache")),
            runtime: runtime.unwrap(),
        }
    }

    /// What an archive says of itself.
    ///
    /// # Errors
    /// When rattler cannot read it.
    pub fn record(&self, archive: &Path) -> Result<RepoDataRecord, String> {
        self.runtime
            .block_on(repodata_record_from_package_archive(archive))
            .map_err(|error| causes(&error))
    }

    /// Installs archives into `prefix`, where some of them may be already.
    ///
    /// # Errors
    /// When rattler cannot.
    pub fn install(&self, archives: &[PathBuf], prefix: &Path) -> Result<(), String> {
        let records = archives
            .iter()
            .map(|archive| self.record(archive))
            .collect::<Result<Vec<_>, _>>()?;
        let installer = Installer::new()
            .with_package_cache(self.cache.clone())
            .with_installed_packages(Vec::new());
        match self.runtime.block_on(installer.install(prefix, records)) {
            Ok(_) => Ok(()),
            Err(error) => Err(causes(&error)),
        }
    }
}

/// Where `ours` is not what rattler `installed`. Permission bits count as far as they say who may execute.
#[must_use]
pub fn differences(installed: &Listing, ours: &Listing) -> Vec<Difference> {
    let paths: BTreeSet<&String> = installed.keys().chain(ours.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let difference = Difference {
            path: path.clone(),
            installed: installed.get(path).cloned(),
            ours: ours.get(path).cloned(),
        };
        let agrees = match (&difference.installed, &difference.ours) {
            (Some(installed), Some(ours)) => agree(installed, ours),
            _ => false,
        };
        if !agrees {
            found.push(difference);
        }
    }
    found
}

/// What is left of `differences` when those that are known are taken away.
#[must_use]
pub fn unknown<'a>(differences: &'a [Difference], known: &[Known]) -> Vec<&'a Difference> {
    differences
        .iter()
        .filter(|difference| !known.iter().any(|known| (known.is_it)(difference)))
        .collect()
}

/// Archives carry the permission bits and the umask of their builder, and the two extractors of rattler treat them
/// differently: who may execute is what counts, and we serve 0755 or 0644.
fn agree(installed: &Seen, ours: &Seen) -> bool {
    match (installed, ours) {
        (
            Seen::File {
                content,
                size_bytes,
                mode,
                ..
            },
            Seen::File {
                content: our_content,
                size_bytes: our_size_bytes,
                mode: our_mode,
                ..
            },
        ) => {
            let wanted = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
            content == our_content && size_bytes == our_size_bytes && *our_mode == wanted
        }
        (installed, ours) => installed == ours,
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: rattler has {:?}, we have {:?}",
            self.path, self.installed, self.ours
        )
    }
}
