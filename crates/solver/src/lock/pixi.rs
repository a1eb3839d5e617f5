//! pixi.lock: versions 1 to 7 are read, version 7 is written.
//!
//! Translates between the ecosystem's parser and our own lock. Knows nothing of the other formats.

use std::collections::BTreeMap;
use std::path::Path;

use rattler_conda_types::RepoDataRecord;
use rattler_lock::{CondaPackageData, LockFile, PlatformData, PlatformName};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use super::{DEFAULT_ENVIRONMENT, Lock, LockError, LockFormat, LockedEnvironment, LockedPlatform, wheels};
use crate::network::without_credentials;
use crate::package::LockedPackage;
use crate::pep508;
use crate::source::Distribution;
use crate::subdir::Subdir;

/// The version that is written. Tools that know only older ones cannot read it.
pub(super) const WRITTEN_VERSION: u16 = 7;

pub(super) fn parse(text: &str, path: &Path) -> Result<Lock, LockError> {
    let malformed = |reason| LockError::Malformed {
        path: path.to_owned(),
        format: "pixi.lock",
        reason,
    };
    if pep508::may_be_refused(text) {
        check_requirements(text).map_err(malformed)?;
    }
    let file =
        LockFile::from_str_with_base_directory(text, path.parent()).map_err(|error| malformed(error.to_string()))?;
    let format = LockFormat::Pixi(file.version() as u16);
    from_lock_file(&file, format, true, path)
}

/// Where requirements of the Python world stand, and nothing else.
#[derive(Deserialize)]
struct Document {
    #[serde(default, alias = "package")]
    packages: Vec<Requiring>,
}

#[derive(Deserialize)]
struct Requiring {
    /// `conda` or `pypi`, until version 3; there the requirements of both are `dependencies`.
    manager: Option<String>,
    #[serde(default, alias = "dependencies")]
    requires_dist: Maybe<Vec<Maybe<String>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Maybe<T> {
    This(T),
    Other(IgnoredAny),
}

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

/// Looks at each requirement before the parser does.
fn check_requirements(text: &str) -> Result<(), String> {
    let document: Document = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let is_conda = |package: &Requiring| package.manager.as_deref() == Some("conda");
    for package in document.packages.into_iter().filter(|package| !is_conda(package)) {
        let Maybe::This(requirements) = package.requires_dist else {
            continue;
        };
        for requirement in requirements {
            if let Maybe::This(text) = requirement {
                pep508::check(&text).map_err(|wrong| format!("the requirement `{text}`: {wrong}"))?;
            }
        }
    }
    Ok(())
}

/// Translates what the parser read. Of some formats no package is `complete`.
pub(super) fn from_lock_file(
    file: &LockFile,
    format: LockFormat,
    is_complete: bool,
    path: &Path,
) -> Result<Lock, LockError> {
    let mut environments = Vec::new();
    for (name, environment) in file.environments() {
        let mut platforms = Vec::new();
        for (platform, packages) in environment.packages_by_platform() {
            let mut locked = LockedPlatform {
                name: platform.name().to_string(),
                subdir: Subdir::from_conda(platform.subdir()),
                packages: Vec::new(),
                wheels: Vec::new(),
                sources: Vec::new(),
                unbuilt: Vec::new(),
            };
            for package in packages {
                add_package(&mut locked, package, is_complete, path)?;
            }
            locked.packages.sort_by(|a, b| a.name().cmp(b.name()));
            locked.wheels.sort_by(|a, b| a.name().cmp(b.name()));
            locked.sources.sort_by(|a, b| a.name().cmp(b.name()));
            platforms.push(locked);
        }
        platforms.sort_by(|a, b| a.name.cmp(&b.name));
        environments.push(LockedEnvironment {
            name: name.to_owned(),
            channels: environment
                .channels()
                .iter()
                .map(|channel| channel.url.clone())
                .collect(),
            platforms,
        });
    }
    environments
        .sort_by(|a, b| (a.name != DEFAULT_ENVIRONMENT, &a.name).cmp(&(b.name != DEFAULT_ENVIRONMENT, &b.name)));
    Ok(Lock {
        path: path.to_owned(),
        format,
        environments,
    })
}

fn add_package(
    platform: &mut LockedPlatform,
    package: &rattler_lock::LockedPackage,
    is_complete: bool,
    path: &Path,
) -> Result<(), LockError> {
    let binary = match package {
        rattler_lock::LockedPackage::Pypi(pypi) => {
            match wheels::read(pypi, path)? {
                Distribution::Wheel(wheel) => platform.wheels.push(wheel),
                Distribution::Source(source) => platform.sources.push(source),
            }
            return Ok(());
        }
        rattler_lock::LockedPackage::Conda(CondaPackageData::Source(source)) => {
            platform.unbuilt.push(source.name().as_normalized().to_owned());
            return Ok(());
        }
        rattler_lock::LockedPackage::Conda(CondaPackageData::Binary(binary)) => binary,
    };
    let record = RepoDataRecord::try_from(binary.as_ref()).map_err(|error| LockError::Malformed {
        path: path.to_owned(),
        format: "lock file",
        reason: format!(
            "the location of {} is no URL: {error}",
            binary.package_record.name.as_normalized()
        ),
    })?;
    let package = LockedPackage::from_record(record).map_err(|source| LockError::Package {
        path: path.to_owned(),
        source,
    })?;
    platform.packages.push(if is_complete {
        package
    } else {
        package.into_incomplete()
    });
    Ok(())
}

pub(super) fn render(lock: &Lock, beside: Option<&Path>) -> Result<String, LockError> {
    let failed = |error: &dyn std::error::Error| LockError::Render {
        reason: error.to_string(),
    };
    let mut names = BTreeMap::new();
    for environment in &lock.environments {
        for platform in &environment.platforms {
            names.insert(platform.name.clone(), platform.subdir);
        }
    }
    let mut platforms = Vec::new();
    for (name, subdir) in names {
        // Virtual packages are left out: they describe the machine that solved, and the packages do not depend on it.
        platforms.push(PlatformData {
            name: PlatformName::try_from(name).map_err(|error| failed(&error))?,
            subdir: subdir.to_conda(),
            virtual_packages: Vec::new(),
        });
    }
    let mut builder = LockFile::builder()
        .with_platforms(platforms)
        .map_err(|error| failed(&error))?;
    for environment in &lock.environments {
        builder.set_channels(
            &environment.name,
            environment.channels.iter().map(|channel| public_text(channel)),
        );
        for platform in &environment.platforms {
            builder
                .add_environment_platform(&environment.name, &platform.name)
                .map_err(|error| failed(&error))?;
            for package in &platform.packages {
                let data = CondaPackageData::from(public_record(package.record()));
                builder
                    .add_conda_package(&environment.name, &platform.name, data)
                    .map_err(|error| failed(&error))?;
            }
            let wheels = platform.wheels.iter().map(wheels::write);
            for data in wheels.chain(
                platform
                    .sources
                    .iter()
                    .map(|source| wheels::write_source(source, beside)),
            ) {
                let data = data?;
                builder
                    .add_pypi_package(&environment.name, &platform.name, data)
                    .map_err(|error| failed(&error))?;
            }
        }
    }
    builder.finish().render_to_string().map_err(|error| failed(&error))
}

/// A lock file is for everyone who has the project: it holds no credentials.
fn public_record(record: &RepoDataRecord) -> RepoDataRecord {
    RepoDataRecord {
        url: without_credentials(&record.url),
        channel: record.channel.as_deref().map(public_text),
        ..record.clone()
    }
}

fn public_text(channel: &str) -> String {
    Url::parse(channel).map_or_else(|_| channel.to_owned(), |url| without_credentials(&url).into())
}
