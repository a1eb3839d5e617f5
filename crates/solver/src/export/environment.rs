//! environment.yml, as `conda env export` writes it ([CEP 24](https://github.com/conda/ceps/blob/main/cep-0024.md)).

use std::fmt::Write as _;

use super::{Export, scalar};
use crate::lock::LockedContents;
use crate::package::LockedPackage;
use crate::pypi::LockedWheel;
use crate::source::LockedSource;

pub(super) fn write(request: &Export<'_>, contents: &LockedContents) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        let _ = writeln!(text, "{line}");
    };
    if let Some(name) = request.name {
        line(&format!("name: {}", scalar(name)));
    }
    line("channels:");
    for channel in request.channels {
        line(&format!("  - {}", scalar(channel)));
    }
    line("dependencies:");
    let (packages, wheels) = match &request.asked {
        Some(asked) => (asked.match_specs.clone(), asked.requirements.clone()),
        None => {
            let packages = contents
                .packages
                .iter()
                .map(|package| pinned(package, request.no_builds));
            let wheels = contents.wheels.iter().map(LockedWheel::line);
            let sources = contents.sources.iter().map(LockedSource::line);
            (packages.collect(), wheels.chain(sources).collect())
        }
    };
    for package in packages {
        line(&format!("  - {}", scalar(&package)));
    }
    if !wheels.is_empty() {
        line("  - pip:");
    }
    for wheel in wheels {
        line(&format!("    - {}", scalar(&wheel)));
    }
    if !request.variables.is_empty() {
        line("variables:");
    }
    for (name, value) in request.variables {
        line(&format!("  {}: {}", scalar(name), scalar(value)));
    }
    text
}

fn pinned(package: &LockedPackage, no_builds: bool) -> String {
    let pinned = format!("{}={}", package.name(), package.version());
    if no_builds || package.build().is_empty() {
        return pinned;
    }
    format!("{pinned}={}", package.build())
}
