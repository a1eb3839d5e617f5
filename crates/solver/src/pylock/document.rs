//! The text of a pylock.toml, field by field, and what its entries mean.
//!
//! Knows the format; nothing of Pythons, nor of what is chosen.

use std::path::Path;

use pep440_rs::VersionSpecifiers;
use serde::Deserialize;
use url::Url;

use super::LockedDistribution;
use crate::direct_url;
use crate::pypi::{LockedWheel, WheelFileName, normalized_name};
use crate::source::{LockedSource, SourcePlace, normal};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) lock_version: String,
    pub(super) requires_python: Option<VersionSpecifiers>,
    #[serde(default)]
    pub(super) extras: Vec<String>,
    #[serde(default)]
    pub(super) dependency_groups: Vec<String>,
    #[serde(default)]
    pub(super) default_groups: Vec<String>,
    #[serde(default)]
    pub(super) packages: Vec<Package>,
}

#[derive(Deserialize)]
pub(super) struct Package {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    #[serde(default)]
    wheels: Vec<File>,
    archive: Option<File>,
    sdist: Option<File>,
    vcs: Option<Repository>,
    directory: Option<Directory>,
}

#[derive(Deserialize)]
struct File {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    subdirectory: Option<String>,
    #[serde(default)]
    hashes: Hashes,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Repository {
    r#type: String,
    url: Option<String>,
    path: Option<String>,
    commit_id: String,
    requested_revision: Option<String>,
    subdirectory: Option<String>,
}

#[derive(Deserialize)]
struct Directory {
    path: String,
    #[serde(default)]
    editable: bool,
    subdirectory: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Hashes {
    sha256: Option<String>,
}

impl Package {
    /// The distribution; the path is that of the lock, beside which files may lie.
    pub(super) fn read(self, path: &Path) -> Result<LockedDistribution, String> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut wheels = Vec::new();
        for file in &self.wheels {
            wheels.push(file.read(&self.name, directory)?);
        }
        let mut place = match (&self.sdist, &self.vcs, &self.directory) {
            (_, Some(repository), _) => Some(repository.read(&self.name, directory)?),
            (_, _, Some(found)) => Some(found.read(directory)),
            (Some(sdist), _, _) => Some(sdist.read_source(&self.name, directory, false)?),
            _ => None,
        };
        if let Some(archive) = &self.archive {
            if archive.is_wheel() {
                let wheel = archive.read(&self.name, directory)?;
                let direct_url = direct_url::of_archive(wheel.parsed_url(), wheel.sha256(), None);
                wheels.push(wheel.with_direct_url(direct_url));
            } else {
                place = Some(archive.read_source(&self.name, directory, true)?);
            }
        }
        let source = place.map(|place| LockedSource::new(&self.name, self.version.clone(), place));
        Ok(LockedDistribution {
            marker: self.marker,
            ..LockedDistribution::new(&self.name, self.version, wheels, source)
        })
    }
}

impl File {
    fn is_wheel(&self) -> bool {
        let place = self.url.as_ref().or(self.path.as_ref());
        place.is_some_and(|place| place.split(['#', '?']).next().unwrap_or(place).ends_with(".whl"))
    }

    fn location(&self, directory: &Path) -> Option<String> {
        match (&self.url, &self.path) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(path)) => {
                let absolute = std::path::absolute(directory.join(path)).ok()?;
                Some(Url::from_file_path(absolute).ok()?.into())
            }
            (None, None) => None,
        }
    }

    fn read(&self, name: &str, directory: &Path) -> Result<LockedWheel, String> {
        let location = self
            .location(directory)
            .ok_or_else(|| format!("a wheel of {name} has neither url nor path"))?;
        let mut wheel = LockedWheel::new(&location).map_err(|error| error.to_string())?;
        if let Some(file_name) = &self.name {
            wheel = wheel.with_file_name(WheelFileName::parse(file_name).map_err(|error| error.to_string())?);
        }
        if wheel.name() != normalized_name(name) {
            return Err(format!("{} is not a wheel of {name}", wheel.file_name()));
        }
        if let Some(size_bytes) = self.size {
            wheel = wheel.with_size_bytes(size_bytes);
        }
        Ok(match self.hashes.read(name)? {
            Some(sha256) => wheel.with_sha256(sha256),
            None => wheel,
        })
    }

    fn read_source(&self, name: &str, directory: &Path, is_direct: bool) -> Result<SourcePlace, String> {
        let location = self
            .location(directory)
            .ok_or_else(|| format!("the sources of {name} have neither url nor path"))?;
        let url = location
            .parse()
            .map_err(|error| format!("'{location}' of {name} is no URL: {error}"))?;
        Ok(SourcePlace::Archive {
            url,
            sha256: self.hashes.read(name)?,
            subdirectory: self.subdirectory.clone(),
            is_direct,
        })
    }
}

impl Hashes {
    fn read(&self, name: &str) -> Result<Option<[u8; 32]>, String> {
        let read = self.sha256.as_ref().map(|digits| {
            let bytes = hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| format!("'{digits}' of {name} is no SHA-256"))
        });
        read.transpose()
    }
}

impl Repository {
    fn read(&self, name: &str, directory: &Path) -> Result<SourcePlace, String> {
        if self.r#type != "git" {
            return Err(format!(
                "{name} is in a {} repository, and only git is known",
                self.r#type
            ));
        }
        let parsed = match (&self.url, &self.path) {
            (Some(url), _) => url.parse().ok(),
            (None, Some(path)) => Url::from_directory_path(normal(&directory.join(path))).ok(),
            (None, None) => None,
        };
        Ok(SourcePlace::Repository {
            url: parsed.ok_or_else(|| format!("the repository of {name} has no place"))?,
            commit: self.commit_id.clone(),
            requested: self.requested_revision.clone(),
            subdirectory: self.subdirectory.clone(),
        })
    }
}

impl Directory {
    fn read(&self, directory: &Path) -> SourcePlace {
        let path = Path::new(&self.path).join(self.subdirectory.as_deref().unwrap_or_default());
        SourcePlace::of_directory(&path, directory, self.editable)
    }
}
