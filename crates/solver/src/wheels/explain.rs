//! What uv says when it fails, with a heading and with what may help.
//!
//! Reads uv's words only to choose what is said beside them; they themselves are always shown.

use super::provided::Provided;
use super::{Builds, WheelRequest, WheelsError};
use crate::uv::UvError;

pub(super) fn explain(error: UvError, request: &WheelRequest<'_>, provided: &[Provided]) -> WheelsError {
    let explanation = match error {
        UvError::Failed { explanation } => explanation,
        other => return WheelsError::Uv(other),
    };
    let explanation = match request.builds {
        Builds::No => explanation,
        Builds::NotYet | Builds::Anywhere(_) | Builds::By(..) | Builds::In(..) => without_switches(&explanation),
    };
    let says = |words: &[&str]| words.iter().any(|word| explanation.contains(word));
    let mut help = Vec::new();
    let mut is_for_want_of_builds = false;
    let summary = if says(&["401 Unauthorized", "403 Forbidden", "authentication credentials"]) {
        help.push(
            "give the index its user and password: in ~/.netrc, or in its address as https://user:password@host/simple"
                .to_owned(),
        );
        "a package index asks for credentials"
    } else if says(&["No solution found"]) {
        help.extend(about_provided(&explanation, provided));
        if says(&["no usable wheels", "no wheels", "only has wheels", BUILDS_ARE_OFF]) {
            is_for_want_of_builds = matches!(request.builds, Builds::No | Builds::NotYet);
            help.push(about_wheels(request));
        }
        if says(&["was not found in the package registry"]) {
            help.push("check the name, or say where the package is with --extra-index-url or --find-links".to_owned());
        }
        if request.exclude_newer.is_some() {
            help.push("packages newer than the given date were left out".to_owned());
        }
        "no set of packages from PyPI satisfies the request"
    } else if says(&[
        "Failed to fetch",
        "error sending request",
        "Request failed",
        "dns error",
        "Connect",
    ]) {
        help.push(
            "check the address of the index and the network; offline, what was resolved earlier still is".to_owned(),
        );
        WheelsError::UNREACHABLE
    } else if says(&["Git executable not found"]) {
        help.push("install git: a package comes from a repository".to_owned());
        "a repository cannot be read"
    } else if says(&["Git operation failed"]) {
        help.push("check the address of the repository, the branch or tag, and who may read it".to_owned());
        "a repository cannot be read"
    } else if says(&["Failed to build"]) {
        help.push(
            "what a package needs is found out by its build backend, which failed: see its words above".to_owned(),
        );
        "a package cannot be built from source"
    } else if says(&["No interpreter found", "No Python", "no interpreter"]) {
        help.push("uv works only where some Python 3 is installed, of whatever version: install one".to_owned());
        "uv finds no Python on this machine"
    } else {
        "uv could not resolve the packages from PyPI"
    };
    if says(&["network was disabled"]) {
        help.push("offline, only what was fetched earlier is known; run once without --offline".to_owned());
    }
    WheelsError::Failed {
        summary,
        explanation,
        help,
        is_for_want_of_builds,
    }
}

/// uv's remark on packages of which only wheels were looked at.
const BUILDS_ARE_OFF: &str = "building from source is disabled";

/// uv's words without its hints at options of its own that nobody has set.
fn without_switches(explanation: &str) -> String {
    let said = explanation.lines().filter(|line| !line.contains(BUILDS_ARE_OFF));
    said.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// What may help where a version has no wheel.
fn about_wheels(request: &WheelRequest<'_>) -> String {
    let (version, subdir) = (request.target.version(), request.target.subdir());
    match request.builds {
        Builds::No => format!(
            "there is no wheel for Python {version} on {subdir}, and building from source is switched off: allow it, ask for \
             a version that has a wheel, or for the conda package"
        ),
        Builds::NotYet | Builds::Anywhere(_) | Builds::By(..) | Builds::In(..) => format!(
            "there is no wheel for Python {version} on {subdir}: ask for a version that has one, for another Python, or for \
             the conda package"
        ),
    }
}

/// Which of the versions that the explanation speaks of come from conda.
fn about_provided(explanation: &str, provided: &[Provided]) -> Vec<String> {
    let mentioned = provided.iter().filter(|provided| {
        let pin = provided.constraint();
        let pin = pin.trim_end();
        explanation.match_indices(pin).any(|(at, _)| {
            let before = explanation[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "-_.".contains(c))
        })
    });
    mentioned
        .map(|provided| {
            let pin = provided.constraint();
            let pin = pin.trim_end();
            match &provided.package {
                Some(package) => format!(
                    "{pin} is there already, from the conda package {package}: ask for a version that fits among the \
                     conda dependencies, or take the requirement out"
                ),
                None => format!("{pin} is there already, in the base: ask for what fits it, or build without a base"),
            }
        })
        .collect()
}
