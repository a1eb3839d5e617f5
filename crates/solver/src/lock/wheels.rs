//! Wheels in lock files of the conda world: from the ecosystem's own types and back.
//!
//! Knows nothing of the files around them.

use std::path::{Component, Path, PathBuf};

use rattler_lock::{PackageHashes, PypiDistributionData, PypiPackageData, UrlOrPath, Verbatim};

use super::LockError;
use crate::direct_url;
use crate::pypi::LockedWheel;

/// How pixi marks the URL of a wheel that is of no index.
const DIRECT: &str = "direct+";

/// The wheel that a lock file names; none if it names sources.
///
/// # Errors
/// The name of the file is not that of a wheel.
pub(super) fn read(package: &PypiPackageData, path: &Path) -> Result<Option<LockedWheel>, LockError> {
    let PypiPackageData::Distribution(data) = package else {
        return Ok(None);
    };
    let (location, is_direct) = match data.location.inner() {
        UrlOrPath::Url(url) => match url.as_str().strip_prefix(DIRECT) {
            Some(url) => (url.to_owned(), true),
            None => (url.to_string(), url.scheme() == "file"),
        },
        UrlOrPath::Path(file) => {
            let beside = path.parent().unwrap_or(Path::new(".")).join(file.as_str());
            (absolute(&beside).display().to_string(), true)
        }
    };
    let file_name = location.split(['#', '?']).next().unwrap_or(&location);
    if !file_name.ends_with(".whl") {
        return Ok(None);
    }
    let wheel = LockedWheel::new(&location).map_err(|error| LockError::Malformed {
        path: path.to_owned(),
        format: "lock file",
        reason: error.to_string(),
    })?;
    let requires_dist = data.requires_dist.iter().map(ToString::to_string).collect();
    let requires_python = data.requires_python.as_ref().map(ToString::to_string);
    let wheel = wheel.with_requirements(requires_dist, requires_python);
    let wheel = match data.hash.as_ref().and_then(PackageHashes::sha256) {
        Some(sha256) => wheel.with_sha256((*sha256).into()),
        None => wheel,
    };
    let direct_url = is_direct.then(|| direct_url::of_archive(wheel.parsed_url(), wheel.sha256()));
    Ok(Some(wheel.with_direct_url(direct_url.flatten())))
}

/// The wheel as a lock file holds it, without credentials.
///
/// # Errors
/// Its version or what it needs is not as PEP 440 and PEP 508 want them.
pub(super) fn write(wheel: &LockedWheel) -> Result<PypiPackageData, LockError> {
    let failed = |what: &str, reason: &dyn std::fmt::Display| LockError::Render {
        reason: format!("{what} of {wheel} is unusable: {reason}"),
    };
    let mut url = crate::network::without_credentials(wheel.parsed_url());
    if wheel.direct_url().is_some() && url.scheme() != "file" {
        url = format!("{DIRECT}{url}")
            .parse()
            .map_err(|error| failed("the URL", &error))?;
    }
    let requires_dist = wheel.requires_dist().iter().map(|text| text.parse());
    let requires_python = wheel.requires_python().map(str::parse).transpose();
    let data = PypiDistributionData {
        name: wheel.name().parse().map_err(|error| failed("the name", &error))?,
        version: wheel.version().parse().map_err(|error| failed("the version", &error))?,
        location: Verbatim::from(UrlOrPath::Url(url)),
        index_url: None,
        hash: wheel.sha256().map(|sha256| PackageHashes::Sha256(sha256.into())),
        requires_dist: requires_dist
            .collect::<Result<_, _>>()
            .map_err(|error| failed("what is needed", &error))?,
        requires_python: requires_python.map_err(|error| failed("the Python", &error))?,
    };
    Ok(data.into())
}

/// The path from the root, without `.` and `..`.
fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut normal = PathBuf::new();
    for component in whole.components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            component => normal.push(component),
        }
    }
    normal
}
