//! conda-lock.yml, as CEP 37 describes it.
//!
//! Its categories become environments: `main` is the default one, any other is an environment of its name that holds
//! `main` and itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rattler_conda_lock::{Document, LockFile as CepLockFile};
use rattler_lock::LockFile;
use rattler_lock::conda_lock::{CondaLockError, CondaLockErrorKind, ImportOptions};

use super::{DEFAULT_ENVIRONMENT, Lock, LockError, LockFormat, LockedEnvironment, pixi};

/// The category that every environment holds.
const MAIN: &str = "main";

pub(super) fn parse(text: &str, path: &Path) -> Result<Lock, LockError> {
    let malformed = |error: &dyn std::error::Error| LockError::Malformed {
        path: path.to_owned(),
        format: "conda-lock.yml",
        reason: with_causes(error),
    };
    let document = Document::parse(text).map_err(|error| malformed(&error))?;
    let file = document.lock_file();
    let categories: BTreeSet<&str> = file.package.iter().map(|package| package.category.as_str()).collect();

    let whole = LockFile::from_conda_lock_document(&document, &options(file, &categories));
    let files = match whole {
        Ok(whole) => vec![whole],
        Err(error) if matches!(error.kind(), CondaLockErrorKind::ConflictingArtifact) => {
            by_platform(file, &categories).map_err(|_| malformed(&error))?
        }
        Err(error) => return Err(malformed(&error)),
    };
    let mut environments: Vec<LockedEnvironment> = Vec::new();
    for file in files {
        // The format holds neither noarch nor build numbers, constrains or timestamps: no package is complete.
        for found in pixi::from_lock_file(&file, LockFormat::CondaLock, false, path)?.environments {
            match environments
                .iter_mut()
                .find(|environment| environment.name == found.name)
            {
                Some(environment) => environment.platforms.extend(found.platforms),
                None => environments.push(found),
            }
        }
    }
    Ok(Lock {
        path: path.to_owned(),
        format: LockFormat::CondaLock,
        environments,
    })
}

/// Old files give one noarch archive other dependencies on each platform. Apart from each other, platforms do not conflict.
fn by_platform(file: &CepLockFile, categories: &BTreeSet<&str>) -> Result<Vec<LockFile>, CondaLockError> {
    let of_platform = |platform: &String| {
        let mut part = file.clone();
        part.metadata.platforms.retain(|other| other == platform);
        part.metadata.content_hash.retain(|other, _| other == platform);
        part.package.retain(|package| package.platform == *platform);
        LockFile::from_conda_lock(&part, &options(&part, categories))
    };
    file.metadata.platforms.iter().map(of_platform).collect()
}

/// Which categories make up which environment.
fn options(file: &CepLockFile, categories: &BTreeSet<&str>) -> ImportOptions {
    let mut environments = BTreeMap::from([(DEFAULT_ENVIRONMENT.to_owned(), BTreeSet::from([MAIN.to_owned()]))]);
    for &category in categories.iter().filter(|category| **category != MAIN) {
        let name = if category == DEFAULT_ENVIRONMENT {
            "category-default"
        } else {
            category
        };
        let mut held = BTreeSet::from([MAIN.to_owned()]);
        if file.package.iter().any(|package| package.category == category) {
            held.insert(category.to_owned());
        }
        environments.insert(name.to_owned(), held);
    }
    ImportOptions { environments }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
