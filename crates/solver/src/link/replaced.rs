//! Distributions of conda packages that wheels replace: which files of a package are no longer seen.
//!
//! Two versions of a distribution cannot share a directory: modules that only the older one has would still be found. What
//! an uninstaller would remove, by the distribution's own `RECORD`, is left out of the tree. A package's files are hidden on
//! account of its own metadata only, so that no package can hide those of another.

use std::collections::{BTreeMap, BTreeSet};

use envfs_store::ingest::{Ingest, Stored};
use envfs_store::layer::{Entry, EntryKind};
use envfs_store::path::EnvPath;

use super::LinkError;
use crate::bytecode::source_of;
use crate::pypi::normalized_name;
use crate::wheel::{entry_points, record};

/// Metadata of one distribution in a package.
struct Distribution<'a> {
    /// Its directory, or the file where it is one.
    directory: EnvPath,
    record: Option<&'a Entry>,
    entry_points: Option<&'a Entry>,
}

/// The files among `linked`, and the commands among `scripts`, that belong to distributions with names in `replaced`.
pub(super) fn hidden(
    linked: &[(EnvPath, &Entry)],
    scripts: &[EnvPath],
    site_packages: &str,
    replaced: &BTreeSet<String>,
    ingest: &mut Ingest<'_>,
) -> Result<BTreeSet<EnvPath>, LinkError> {
    let mut hidden = BTreeSet::new();
    let found = distributions(linked, site_packages, replaced);
    if found.is_empty() {
        return Ok(hidden);
    }
    let own: BTreeSet<&EnvPath> = linked.iter().map(|(path, _)| path).chain(scripts).collect();
    for distribution in found {
        let directory = distribution.directory;
        hidden.extend(
            own.iter()
                .filter(|path| is_below(path, &directory))
                .map(|path| (*path).clone()),
        );
        for row in record::installed_paths(&text_of(distribution.record, ingest)?) {
            hidden.extend(record::resolve(site_packages, &row).filter(|path| own.contains(path)));
        }
        let commands = entry_points::scripts(&text_of(distribution.entry_points, ingest)?).unwrap_or_default();
        hidden.extend(
            scripts
                .iter()
                .filter(|path| {
                    commands
                        .iter()
                        .any(|command| path.names().last() == Some(command.name.as_bytes()))
                })
                .cloned(),
        );
    }
    let bytecode: Vec<EnvPath> = linked
        .iter()
        .filter(|(path, _)| source_of(path).is_some_and(|source| hidden.contains(&source)))
        .map(|(path, _)| path.clone())
        .collect();
    hidden.extend(bytecode);
    Ok(hidden)
}

fn distributions<'a>(
    linked: &[(EnvPath, &'a Entry)],
    site_packages: &str,
    replaced: &BTreeSet<String>,
) -> Vec<Distribution<'a>> {
    let mut found = BTreeMap::new();
    for (path, entry) in linked {
        let below = std::str::from_utf8(path.as_bytes())
            .ok()
            .and_then(|path| path.strip_prefix(site_packages)?.strip_prefix('/'));
        let Some(below) = below else { continue };
        let (top, rest) = below.split_once('/').unwrap_or((below, ""));
        if !name_of(top).is_some_and(|name| replaced.contains(&name)) {
            continue;
        }
        let Ok(directory) = EnvPath::parse(format!("{site_packages}/{top}")) else {
            continue;
        };
        let distribution = found.entry(top.to_owned()).or_insert(Distribution {
            directory,
            record: None,
            entry_points: None,
        });
        match rest {
            "RECORD" => distribution.record = Some(*entry),
            "entry_points.txt" => distribution.entry_points = Some(*entry),
            _ => {}
        }
    }
    found.into_values().collect()
}

/// The distribution that a directory of metadata is of: `x-1.dist-info`, or of the older kind `x-1-py3.12.egg-info`.
fn name_of(directory: &str) -> Option<String> {
    let name = match directory.strip_suffix(".dist-info") {
        Some(stem) => stem.rsplit_once('-').map_or(stem, |(name, _version)| name),
        None => directory.strip_suffix(".egg-info")?.split('-').next()?,
    };
    Some(normalized_name(name))
}

fn is_below(path: &EnvPath, directory: &EnvPath) -> bool {
    path.as_bytes()
        .strip_prefix(directory.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A metadata file, or nothing where there is none.
fn text_of(entry: Option<&Entry>, ingest: &mut Ingest<'_>) -> Result<String, LinkError> {
    let Some(EntryKind::File(file)) = entry.map(|entry| &entry.kind) else {
        return Ok(String::new());
    };
    let content = ingest.content(&Stored {
        digest: file.digest,
        // Only the digest and the size are looked at.
        sha256: file.sha256.unwrap_or(envfs_store::digest::Sha256::from_bytes([0; 32])),
        size_bytes: file.size_bytes,
    })?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_metadata_directories() {
        for (directory, expected) in [
            ("Foo_Bar-1.0.dist-info", Some("foo-bar")),
            ("foo-bar-1.0.dist-info", Some("foo-bar")),
            ("PyYAML-5.3-py3.12.egg-info", Some("pyyaml")),
            ("x.egg-info", Some("x")),
            ("x", None),
        ] {
            assert_eq!(name_of(directory).as_deref(), expected, "{directory}");
        }
    }
}
