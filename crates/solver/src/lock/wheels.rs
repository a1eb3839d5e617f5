//! Wheels and sources in lock files of the conda world: from the ecosystem's own types and back.
//!
//! Knows nothing of the files around them.

use std::path::{Path, PathBuf};

use rattler_lock::{
    PackageHashes, PypiDistributionData, PypiPackageData, PypiSourceData, SourceData, UrlOrPath, Verbatim,
};
use url::Url;

use super::LockError;
use crate::direct_url;
use crate::network::without_credentials;
use crate::pypi::LockedWheel;
use crate::source::{Distribution, LockedSource, SourcePlace, normal};

/// How pixi marks the URL of an archive that is of no index.
const DIRECT: &str = "direct+";
/// How pixi marks the URL of a repository.
const GIT: &str = "git+";

/// What a lock file names: a wheel, or sources.
///
/// # Errors
/// The name of a file is not that of a wheel, or a repository is named without its commit.
pub(super) fn read(package: &PypiPackageData, path: &Path) -> Result<Distribution, LockError> {
    let malformed = |reason: String| LockError::Malformed {
        path: path.to_owned(),
        format: "lock file",
        reason,
    };
    let requires_dist = package.requires_dist().iter().map(ToString::to_string).collect();
    let requires_python = package.requires_python().map(ToString::to_string);
    let (location, fragment, is_direct) = match package.location().inner() {
        UrlOrPath::Url(url) => match url.as_str().strip_prefix(DIRECT) {
            Some(url) => (url.to_owned(), "", true),
            None => (url.to_string(), "", false),
        },
        UrlOrPath::Path(file) => {
            let (file, fragment) = split_fragment(file.as_str());
            let beside = path.parent().unwrap_or(Path::new(".")).join(file);
            (absolute(&beside).display().to_string(), fragment, true)
        }
    };
    let data = package.as_wheel();
    let sha256 = data.and_then(|data| Some((*data.hash.as_ref()?.sha256()?).into()));
    let file_name = location.split(['#', '?']).next().unwrap_or(&location);
    if file_name.ends_with(".whl") && !location.starts_with(GIT) {
        let wheel = LockedWheel::new(&location).map_err(|error| malformed(error.to_string()))?;
        let wheel = wheel.with_requirements(requires_dist, requires_python);
        let wheel = match sha256 {
            Some(sha256) => wheel.with_sha256(sha256),
            None => wheel,
        };
        let direct_url = is_direct.then(|| direct_url::of_archive(wheel.parsed_url(), wheel.sha256(), None));
        return Ok(Distribution::Wheel(wheel.with_direct_url(direct_url.flatten())));
    }
    let place = source_place(&location, fragment, sha256, is_direct)
        .ok_or_else(|| malformed(format!("{} is at '{location}', which names no commit", package.name())))?;
    let version = data
        .map(|data| data.version.to_string())
        .filter(|version| version != "0");
    let source = LockedSource::new(&package.name().to_string(), version, place);
    let source = source.with_requirements(requires_dist, requires_python);
    Ok(Distribution::Source(source))
}

/// What a location without a wheel is: a URL, or a path from the root.
fn source_place(location: &str, fragment: &str, sha256: Option<[u8; 32]>, is_direct: bool) -> Option<SourcePlace> {
    if location.starts_with(GIT) {
        return SourcePlace::of_git_url(location);
    }
    let is_archive = [".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz", ".tar.zst"]
        .iter()
        .any(|end| location.split(['#', '?']).next().unwrap_or(location).ends_with(end));
    let path = Path::new(location);
    if path.is_absolute() && !is_archive {
        return Some(SourcePlace::of_directory(path, Path::new("/"), fragment == EDITABLE));
    }
    let mut url = Url::parse(location).or_else(|_| Url::from_file_path(path)).ok()?;
    let inside = url
        .fragment()
        .unwrap_or(fragment)
        .strip_prefix(SUBDIRECTORY)
        .map(str::to_owned);
    url.set_fragment(None);
    Some(SourcePlace::Archive {
        url,
        sha256,
        subdirectory: inside,
        is_direct,
    })
}

/// The format has no word for a project that is edited: it stands behind its path, as a subdirectory does.
const EDITABLE: &str = "editable";
const SUBDIRECTORY: &str = "subdirectory=";

/// Splits what we write behind a path off it; any other `#` is part of the path.
fn split_fragment(path: &str) -> (&str, &str) {
    match path.rsplit_once('#') {
        Some((path, fragment)) if fragment == EDITABLE || fragment.starts_with(SUBDIRECTORY) => (path, fragment),
        _ => (path, ""),
    }
}

/// The wheel as a lock file holds it, without credentials.
///
/// # Errors
/// Its version or what it needs is not as PEP 440 and PEP 508 want them.
pub(super) fn write(wheel: &LockedWheel) -> Result<PypiPackageData, LockError> {
    Parts {
        what: wheel,
        name: wheel.name(),
        location: UrlOrPath::from(archive_url(wheel.parsed_url(), wheel.direct_url().is_some())?),
        sha256: wheel.sha256(),
        requires_dist: wheel.requires_dist(),
        requires_python: wheel.requires_python(),
    }
    .write(Some(wheel.version()))
}

/// What has to be built, as a lock file in the directory `beside` holds it, without credentials. What lies there or below is
/// named relative to it, so that project and lock can be moved together.
///
/// # Errors
/// As [`write`].
pub(super) fn write_source(source: &LockedSource, beside: Option<&Path>) -> Result<PypiPackageData, LockError> {
    let location = match source.place() {
        SourcePlace::Archive {
            url,
            subdirectory,
            is_direct,
            ..
        } => {
            let fragment = subdirectory.as_ref().map(|inside| format!("{SUBDIRECTORY}{inside}"));
            match url.to_file_path() {
                Ok(path) if url.scheme() == "file" => local(&path, beside, fragment.as_deref()),
                _ => {
                    let mut url = url.clone();
                    url.set_fragment(fragment.as_deref());
                    UrlOrPath::Url(archive_url(&url, *is_direct)?)
                }
            }
        }
        SourcePlace::Repository {
            url,
            commit,
            requested,
            subdirectory,
        } => {
            let url = SourcePlace::to_git_url(url, commit, requested.as_deref(), subdirectory.as_deref());
            UrlOrPath::Url(url)
        }
        SourcePlace::Directory { path, is_editable } => local(path, beside, is_editable.then_some(EDITABLE)),
    };
    // The format knows the versions of archives and repositories only: a directory changes under the same name.
    let is_directory = matches!(source.place(), SourcePlace::Directory { .. });
    Parts {
        what: source,
        name: source.name(),
        location,
        sha256: source.sha256(),
        requires_dist: source.requires_dist(),
        requires_python: source.requires_python(),
    }
    .write(source.version().filter(|_| !is_directory))
}

fn local(path: &Path, beside: Option<&Path>, fragment: Option<&str>) -> UrlOrPath {
    let relative = beside.and_then(|beside| path.strip_prefix(beside).ok());
    let path = match relative {
        Some(relative) => format!("./{}", relative.display()),
        None => path.display().to_string(),
    };
    let fragment = fragment.map_or_else(String::new, |fragment| format!("#{fragment}"));
    UrlOrPath::Path(format!("{path}{fragment}").into())
}

/// The URL of an archive, without credentials.
fn archive_url(url: &Url, is_direct: bool) -> Result<Url, LockError> {
    let url = without_credentials(url);
    if !is_direct || url.scheme() == "file" {
        return Ok(url);
    }
    format!("{DIRECT}{url}").parse().map_err(|error| LockError::Render {
        reason: format!("the URL {url} is unusable: {error}"),
    })
}

/// What is written of a wheel and of sources alike.
struct Parts<'a> {
    what: &'a dyn std::fmt::Display,
    name: &'a str,
    location: UrlOrPath,
    sha256: Option<[u8; 32]>,
    requires_dist: &'a [String],
    requires_python: Option<&'a str>,
}

impl Parts<'_> {
    fn write(self, version: Option<&str>) -> Result<PypiPackageData, LockError> {
        let failed = |what: &str, reason: &dyn std::fmt::Display| LockError::Render {
            reason: format!("{what} of {} is unusable: {reason}", self.what),
        };
        let name = self.name.parse().map_err(|error| failed("the name", &error))?;
        let location = Verbatim::from(self.location);
        let requires_dist = self.requires_dist.iter().map(|text| text.parse());
        let requires_dist = requires_dist
            .collect::<Result<_, _>>()
            .map_err(|error| failed("what is needed", &error))?;
        let requires_python = self.requires_python.map(str::parse).transpose();
        let requires_python = requires_python.map_err(|error| failed("the Python", &error))?;
        let Some(version) = version else {
            return Ok(PypiPackageData::from(PypiSourceData {
                name,
                location,
                requires_dist,
                requires_python,
                source_data: SourceData::default(),
            }));
        };
        Ok(PypiPackageData::from(PypiDistributionData {
            name,
            version: version.parse().map_err(|error| failed("the version", &error))?,
            location,
            index_url: None,
            hash: self.sha256.map(|sha256| PackageHashes::Sha256(sha256.into())),
            requires_dist,
            requires_python,
        }))
    }
}

/// The path from the root, without `.` and `..`.
fn absolute(path: &Path) -> PathBuf {
    normal(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}
