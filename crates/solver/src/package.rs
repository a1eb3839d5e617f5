//! One package of a lock: what is known of it and where its archive lies.
//!
//! The only room that turns records of others (an index, a lock file, `conda-meta`, `info/index.json`)
//! into our own type. It knows nothing of solving, downloading or reading archives.

use std::collections::BTreeSet;
use std::fmt;

use rattler_conda_types::package::{BuildString, DistArchiveIdentifier, DistArchiveType, IndexJson};
use rattler_conda_types::{NoArchType, PackageName, PackageRecord, PrefixRecord, RepoDataRecord, VersionWithSource};
use url::Url;

use crate::subdir::Subdir;

/// A package with an exact archive.
///
/// How much is known depends on where it comes from:
///
/// | from | name, version, build, url | digests | dependencies, noarch and the rest |
/// | --- | --- | --- | --- |
/// | a solve, pixi.lock, `conda-meta` | yes | what the channel publishes | yes |
/// | conda-lock.yml | yes | yes | names and versions of dependencies only |
/// | `@EXPLICIT` | yes, from the file name | at most the one after `#` | no |
///
/// [`is_complete`](Self::is_complete) tells the first row from the others;
/// [`completed_from_index_json`](Self::completed_from_index_json) turns any row into the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedPackage {
    record: RepoDataRecord,
    is_complete: bool,
}

impl LockedPackage {
    /// The package's name, normalized to lower case.
    #[must_use]
    pub fn name(&self) -> &str {
        self.record.package_record.name.as_normalized()
    }

    /// The version as the package spells it.
    #[must_use]
    pub fn version(&self) -> String {
        self.record.package_record.version.as_str().into_owned()
    }

    /// The build string.
    #[must_use]
    pub fn build(&self) -> &str {
        self.record.package_record.build.as_str()
    }

    /// The build number; 0 when nothing is known of it.
    #[must_use]
    pub fn build_number(&self) -> u64 {
        self.record.package_record.build_number
    }

    /// The subdir its record names; empty when nothing is known of it.
    #[must_use]
    pub fn subdir(&self) -> &str {
        &self.record.package_record.subdir
    }

    /// The channel, as a URL or a name, if it is known.
    #[must_use]
    pub fn channel(&self) -> Option<&str> {
        self.record.channel.as_deref()
    }

    /// Where the archive lies: `https://`, `http://`, `oci://` or `file://`. Never holds a digest as fragment.
    #[must_use]
    pub fn url(&self) -> &str {
        self.record.url.as_str()
    }

    /// The URL without user, password and access token: fit for messages and for what is shown to others.
    #[must_use]
    pub fn redacted_url(&self) -> String {
        crate::network::redact(&self.record.url)
    }

    /// The archive's file name, such as `zlib-1.3.1-h0_0.conda`.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.record.identifier.to_file_name()
    }

    /// SHA-256 of the archive.
    #[must_use]
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.record.package_record.sha256.map(Into::into)
    }

    /// MD5 of the archive.
    #[must_use]
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.record.package_record.md5.map(Into::into)
    }

    /// Size of the archive.
    #[must_use]
    pub fn size_bytes(&self) -> Option<u64> {
        self.record.package_record.size
    }

    /// What it depends on, as MatchSpecs. Empty when [`is_complete`](Self::is_complete) is false and nothing is known.
    #[must_use]
    pub fn depends(&self) -> &[String] {
        &self.record.package_record.depends
    }

    /// Whether the record is the whole one that a channel's index would give.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The package with the digest of its archive, once the archive has been read.
    #[must_use]
    pub fn with_sha256(mut self, sha256: [u8; 32]) -> Self {
        self.record.package_record.sha256 = Some(sha256.into());
        self
    }

    /// The package with everything that the archive's own `info/index.json` says, and the archive's digest and size.
    ///
    /// What a channel's index knows and the archive cannot (URL, channel, patched dependencies of a complete record) is kept.
    ///
    /// # Errors
    /// The bytes are not an index.json, or it is of another package than this one.
    pub fn completed_from_index_json(
        &self,
        index_json: &[u8],
        sha256: [u8; 32],
        size_bytes: u64,
    ) -> Result<Self, PackageError> {
        let index: IndexJson = serde_json::from_slice(index_json).map_err(|source| PackageError::IndexJson {
            url: self.redacted_url(),
            source,
        })?;
        let found = format!("{} {} {}", index.name.as_normalized(), index.version, index.build);
        let known = &self.record.package_record;
        let is_same = index.name == known.name
            && index.version.version() == known.version.version()
            && index.build == known.build;
        if !is_same {
            return Err(PackageError::OtherPackage {
                url: self.redacted_url(),
                wanted: self.to_string(),
                found,
            });
        }
        let mut record = self.record.clone();
        if !self.is_complete {
            record.package_record = complete_record(index, known, &self.redacted_url())?;
            record = Self::from_record(record)?.record;
        }
        record.package_record.sha256 = Some(sha256.into());
        record.package_record.size = Some(size_bytes);
        Ok(Self {
            record,
            is_complete: true,
        })
    }

    /// Reads a record of `conda-meta/*.json`: an installed package, such as one of a base environment.
    ///
    /// # Errors
    /// The bytes are not such a record.
    pub fn from_prefix_record_json(json: &[u8]) -> Result<Self, PackageError> {
        let record: PrefixRecord = serde_json::from_slice(json).map_err(PackageError::PrefixRecord)?;
        Self::from_record(record.repodata_record)
    }

    /// A package of which only the archive's place, digest and size are known, as the record of an environment has them.
    ///
    /// # Errors
    /// It is no URL, or its last part is not the name of a conda archive.
    pub fn from_place(url: &str, sha256: [u8; 32], size_bytes: u64) -> Result<Self, PackageError> {
        let not_an_archive = |_| PackageError::NotAnArchive { url: url.to_owned() };
        let url = Url::parse(url).map_err(not_an_archive)?;
        let mut package = Self::from_archive_url(&url, None, Some(sha256))?;
        package.record.package_record.size = Some(size_bytes);
        Ok(package)
    }

    /// A package of which only the archive's place and perhaps a digest are known.
    ///
    /// # Errors
    /// The URL's last part is not the name of a conda archive.
    pub(crate) fn from_archive_url(
        url: &Url,
        md5: Option<[u8; 16]>,
        sha256: Option<[u8; 32]>,
    ) -> Result<Self, PackageError> {
        let mut url = url.clone();
        url.set_fragment(None);
        let not_an_archive = || PackageError::NotAnArchive {
            url: crate::network::redact(&url),
        };
        let file_name = url.path_segments().and_then(Iterator::last).unwrap_or_default();
        let file_name = percent_encoding::percent_decode_str(file_name).decode_utf8_lossy();
        let identifier = DistArchiveIdentifier::try_from_filename(&file_name).ok_or_else(not_an_archive)?;
        let name: PackageName = identifier.identifier.name.parse().map_err(|_| not_an_archive())?;
        let version: VersionWithSource = identifier.identifier.version.parse().map_err(|_| not_an_archive())?;
        let build = BuildString::new_unchecked(identifier.identifier.build_string.clone());

        let mut package_record = PackageRecord::new(name, version, build);
        let (channel, subdir) = channel_and_subdir(&url);
        package_record.subdir = subdir.unwrap_or_default();
        package_record.noarch = NoArchType::none();
        package_record.md5 = md5.map(Into::into);
        package_record.sha256 = sha256.map(Into::into);
        let record = RepoDataRecord {
            package_record,
            identifier,
            url,
            channel,
        };
        Ok(Self {
            is_complete: false,
            ..Self::from_record(record)?
        })
    }

    /// A package of which everything is known.
    ///
    /// # Errors
    /// The archive is not a conda archive (an index may also list wheels).
    pub(crate) fn from_record(mut record: RepoDataRecord) -> Result<Self, PackageError> {
        if !matches!(record.identifier.archive_type, DistArchiveType::Conda(_)) {
            return Err(PackageError::NotAnArchive {
                url: crate::network::redact(&record.url),
            });
        }
        // Both follow from the subdir. Some indexes and lock files repeat them and some do not, and the same package must
        // give the same record wherever it was read.
        let subdir = record
            .package_record
            .subdir
            .parse::<Subdir>()
            .ok()
            .map(Subdir::to_conda);
        record.package_record.arch = subdir.and_then(|subdir| subdir.arch()).map(|arch| arch.to_string());
        record.package_record.platform = subdir.and_then(|subdir| subdir.only_platform().map(str::to_owned));
        Ok(Self {
            record,
            is_complete: true,
        })
    }

    /// The same package, known to lack what only an index or the archive could tell.
    pub(crate) fn into_incomplete(self) -> Self {
        Self {
            is_complete: false,
            ..self
        }
    }

    /// The record that the package was read from.
    pub(crate) fn record(&self) -> &RepoDataRecord {
        &self.record
    }
}

impl fmt::Display for LockedPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name(), self.version(), self.build())
    }
}

/// The packages in the order in which they are linked: what a package depends on comes before it.
///
/// Deterministic: the order of the input does not matter. In a cycle, noarch packages come last.
///
/// # Errors
/// Two packages have the same name: an environment holds one of each.
pub fn link_order(packages: Vec<LockedPackage>) -> Result<Vec<LockedPackage>, PackageError> {
    // The sort keeps one package per name and drops the others silently.
    let mut names = BTreeSet::new();
    for package in &packages {
        if !names.insert(package.name()) {
            let of_that_name = packages.iter().filter(|other| other.name() == package.name());
            return Err(PackageError::SameName {
                name: package.name().to_owned(),
                urls: of_that_name
                    .map(LockedPackage::redacted_url)
                    .collect::<Vec<_>>()
                    .join(" and "),
            });
        }
    }
    let sorted = PackageRecord::sort_topologically(packages.into_iter().map(ByRecord).collect());
    Ok(sorted.into_iter().map(|by_record| by_record.0).collect())
}

/// Why a record is not a package that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The URL does not end in the name of a conda archive.
    #[error(
        "{url} is not a conda package: its last part must read name-version-build.conda or name-version-build.tar.bz2"
    )]
    NotAnArchive {
        /// The URL, without credentials.
        url: String,
    },
    /// An archive's own description cannot be read.
    #[error("info/index.json of {url} cannot be read; the package is broken, ask its channel for another build")]
    IndexJson {
        /// The URL of the archive, without credentials.
        url: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An archive's own description names no platform that is known.
    #[error("info/index.json of {url} names no known subdir: {reason}")]
    IndexSubdir {
        /// The URL of the archive, without credentials.
        url: String,
        /// What is missing or unknown.
        reason: String,
    },
    /// An archive holds another package than its name says.
    #[error("{url} should hold {wanted} but holds {found}; the channel or the lock file is wrong")]
    OtherPackage {
        /// The URL of the archive, without credentials.
        url: String,
        /// The package that was asked for.
        wanted: String,
        /// The package that is inside.
        found: String,
    },
    /// A record of `conda-meta` cannot be read.
    #[error("the conda-meta record of an installed package cannot be read")]
    PrefixRecord(#[source] serde_json::Error),
    /// Two packages of an environment share a name.
    #[error("two packages are called {name}: {urls}; an environment can hold only one of them")]
    SameName {
        /// The name they share.
        name: String,
        /// Where they come from, without credentials.
        urls: String,
    },
}

fn complete_record(index: IndexJson, known: &PackageRecord, url: &str) -> Result<PackageRecord, PackageError> {
    let complete = PackageRecord::from_index_json(index, None, None, known.md5);
    complete.map_err(|error| PackageError::IndexSubdir {
        url: url.to_owned(),
        reason: error.to_string(),
    })
}

/// `https://host/channel/linux-64/x.conda` -> (`https://host/channel/`, `linux-64`), where the path has that shape.
fn channel_and_subdir(url: &Url) -> (Option<String>, Option<String>) {
    let Some((folder, _file)) = url.as_str().rsplit_once('/') else {
        return (None, None);
    };
    let Some((channel, subdir)) = folder.rsplit_once('/') else {
        return (None, None);
    };
    if subdir.parse::<Subdir>().is_err() {
        return (None, None);
    }
    (Some(format!("{channel}/")), Some(subdir.to_owned()))
}

#[derive(Clone)]
struct ByRecord(LockedPackage);

impl AsRef<PackageRecord> for ByRecord {
    fn as_ref(&self) -> &PackageRecord {
        &self.0.record.package_record
    }
}

#[cfg(test)]
mod tests;
