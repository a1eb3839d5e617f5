//! Whether a lock still fits the project that lies beside it.
//!
//! What counts is whether every requirement of the project is met by what is locked; how either is spelled does not.

use std::path::Path;

use pep440_rs::Version;

use super::PythonLockError;
use crate::requirements::{Kind, Parts, Project, RequirementError, is_met_by, read_pyproject};

/// The project beside a lock, if it is there.
///
/// # Errors
/// It is there and cannot be understood, or has not the parts that are asked for.
pub(super) fn project_beside(lock: &Path, parts: &Parts) -> Result<Option<Project>, RequirementError> {
    let path = lock.with_file_name("pyproject.toml");
    path.is_file().then(|| read_pyproject(&path, parts)).transpose()
}

/// Checks every requirement against the versions that a lock holds of a distribution.
///
/// # Errors
/// One is not met.
pub(super) fn check(
    project: &Project,
    versions: &dyn Fn(&str) -> Vec<String>,
    lock: &Path,
) -> Result<(), PythonLockError> {
    for requirement in &project.requirements.wanted {
        let (Kind::Pep508(wanted), Some(name)) = (&requirement.kind, requirement.name()) else {
            continue;
        };
        let held = versions(&name);
        let is_met = held.iter().any(|version| {
            version
                .parse::<Version>()
                .map_or(true, |version| is_met_by(wanted, &version))
        });
        if !is_met {
            return Err(PythonLockError::Stale {
                path: lock.to_owned(),
                requirement: requirement.line(),
                held: if held.is_empty() {
                    format!("no {name}")
                } else {
                    format!("{name} {}", held.join(" and "))
                },
            });
        }
    }
    Ok(())
}
