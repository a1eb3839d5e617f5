//! Whether a lock still says what a project asks for, found without solving and without a network.
//!
//! A lock agrees when it holds something for everything that is asked for, holds what that needs in turn, and holds nothing
//! else. That there is something newer is no disagreement.

use std::collections::{BTreeMap, BTreeSet};

use crate::lock::LockedContents;
use crate::package::LockedPackage;
use crate::pypi::normalized_name;
use crate::requirements::{Kind, is_met_by};
use crate::spec::{Spec, parse_match_spec};

/// What of a lock is not what `spec` asks for, in words; nothing where they agree.
#[must_use]
pub fn disagreements(spec: &Spec, contents: &LockedContents) -> Vec<String> {
    let mut found = Vec::new();
    let mut needed = BTreeSet::new();
    for text in spec.match_specs(contents.subdir) {
        // Everything in a spec was parsed when it was read.
        let Ok(wanted) = parse_match_spec(text) else { continue };
        let named: Vec<&LockedPackage> = contents
            .packages
            .iter()
            .filter(|package| wanted.name.matches(&package.record().package_record.name))
            .collect();
        match named.as_slice() {
            [] => found.push(format!("`{text}` is asked for, and not locked")),
            [package, ..] if !rattler_conda_types::Matches::matches(&wanted, &package.record().package_record) => {
                found.push(format!("`{text}` is asked for, and {package} is locked"));
            }
            [package, ..] => drop(needed.insert(package.name())),
        }
    }
    let mut needed_wheels = BTreeSet::new();
    for requirement in &spec.requirements().wanted {
        let Some(name) = requirement.name() else { continue };
        let wheel = contents.wheels.iter().find(|wheel| wheel.name() == name);
        let version = wheel.and_then(|wheel| wheel.version().parse().ok());
        match (wheel, &requirement.kind) {
            // conda may bring the distribution, under another name even.
            (None, _) if !contents.packages.is_empty() && provides(contents, &name) => {
                needed.extend(
                    contents
                        .packages
                        .iter()
                        .map(LockedPackage::name)
                        .filter(|package| *package == name),
                );
            }
            // A marker may say that it is for another platform.
            (None, Kind::Pep508(asked)) if !asked.marker.is_true() => {}
            (None, _) => found.push(format!("`{}` is asked for, and not locked", requirement.line())),
            (Some(wheel), Kind::Pep508(asked)) if version.is_some_and(|version| !is_met_by(asked, &version)) => {
                found.push(format!("`{}` is asked for, and {wheel} is locked", requirement.line()));
            }
            (Some(_), _) => drop(needed_wheels.insert(name)),
        }
    }
    found.extend(unneeded(contents, needed, needed_wheels));
    found
}

fn provides(contents: &LockedContents, distribution: &str) -> bool {
    contents
        .packages
        .iter()
        .any(|package| normalized_name(package.name()) == distribution)
}

/// What nobody needs who is needed.
fn unneeded(contents: &LockedContents, packages: BTreeSet<&str>, wheels: BTreeSet<String>) -> Vec<String> {
    let by_name: BTreeMap<&str, &LockedPackage> = contents
        .packages
        .iter()
        .map(|package| (package.name(), package))
        .collect();
    let mut pending: Vec<String> = packages.into_iter().map(str::to_owned).collect();
    let mut needed = BTreeSet::new();
    while let Some(name) = pending.pop() {
        let Some(package) = by_name.get(name.as_str()) else {
            continue;
        };
        if needed.insert(name) {
            pending.extend(package.depends().iter().filter_map(|text| {
                let spec = parse_match_spec(text).ok()?;
                spec.name.as_exact().map(|name| name.as_normalized().to_owned())
            }));
        }
    }
    let mut pending: Vec<String> = wheels.into_iter().collect();
    let mut needed_wheels = BTreeSet::new();
    let mut is_all_known = true;
    while let Some(name) = pending.pop() {
        let Some(wheel) = contents.wheels.iter().find(|wheel| wheel.name() == name) else {
            // A package of conda may be what a wheel needs.
            needed.extend(
                by_name
                    .keys()
                    .filter(|package| normalized_name(package) == name)
                    .map(|name| (*name).to_owned()),
            );
            continue;
        };
        if needed_wheels.insert(name) {
            is_all_known &= wheel.has_requirements();
            pending.extend(wheel.requires_dist().iter().map(|text| distribution_of(text)));
        }
    }
    let packages = contents
        .packages
        .iter()
        .filter(|package| !needed.contains(package.name()))
        .map(|package| format!("{package} is locked, and nobody asks for it"));
    let wheels = contents
        .wheels
        .iter()
        // One whose needs the index did not tell may need any of them.
        .filter(|wheel| is_all_known && !needed_wheels.contains(wheel.name()))
        .map(|wheel| format!("{wheel} is locked, and nobody asks for it"));
    packages.chain(wheels).collect()
}

/// The distribution that a line of PEP 508 names.
fn distribution_of(requirement: &str) -> String {
    let end = requirement.find(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
    normalized_name(&requirement[..end.unwrap_or(requirement.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pypi::LockedWheel;

    fn wheel(file: &str) -> LockedWheel {
        LockedWheel::new(&format!("https://index.example/{file}")).unwrap()
    }

    #[test]
    fn what_the_index_did_not_tell_does_not_count_as_nothing() {
        let anyio = wheel("anyio-4.0-py3-none-any.whl");
        let mut contents = LockedContents {
            subdir: "linux-64".parse().unwrap(),
            packages: Vec::new(),
            wheels: vec![anyio.clone(), wheel("idna-3.20-py3-none-any.whl")],
            sources: Vec::new(),
        };
        let unneeded = |contents: &LockedContents| {
            let asked = BTreeSet::from(["anyio".to_owned()]);
            unneeded(contents, BTreeSet::new(), asked)
        };
        assert_eq!(unneeded(&contents), [""; 0], "idna may be what anyio needs");
        contents.wheels[0] = anyio.clone().with_requirements(Vec::new(), Some(">=3.8".to_owned()));
        assert_eq!(unneeded(&contents), ["idna 3.20 is locked, and nobody asks for it"]);
        contents.wheels[0] = anyio.with_requirements(vec!["idna>=2.8".to_owned()], None);
        assert_eq!(unneeded(&contents), [""; 0]);
    }
}
