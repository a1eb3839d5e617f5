//! What the metadata of an environment says of the distributions in it: what they need, whether somebody asked for them, and
//! where they came from.
//!
//! A record of an environment names files, and of what was built here only the wheel that it became: useless elsewhere.

use envfs_store::built;
use envfs_store::digest::Sha256;
use envfs_store::tree::{Node, NodeKind};
use envfs_store::view::View;

use crate::pypi::{LockedWheel, normalized_name};
use crate::source::{Distribution, Distributions, LockedSource, SourcePlace};
use crate::wheel_metadata;

/// A file of metadata is small; a larger one is none.
pub(crate) const MAX_METADATA_BYTES: u64 = 4 << 20;

/// The wheels of the environment in `view` with what it says of them. What was built becomes what it was built of, where that
/// is no index: of such a source distribution nothing is known but its name and version.
///
/// # Errors
/// The environment is damaged.
pub fn installed_distributions(view: &View, wheels: Vec<LockedWheel>) -> envfs_store::Result<Distributions> {
    let mut found = Vec::new();
    for info in dist_infos(view)? {
        let text = |name: &str| read(view, info, name);
        let Some(metadata) = text("METADATA")? else { continue };
        let field = |name: &str| {
            let headers = metadata.lines().take_while(|line| !line.trim().is_empty());
            let mut values = headers.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            values.next().map(|value| value.trim().to_owned())
        };
        if let (Some(name), Some(version)) = (field("Name"), field("Version")) {
            found.push(Installed {
                name: normalized_name(&name),
                version,
                requirements: wheel_metadata::requirements(&metadata),
                is_requested: text("REQUESTED")?.is_some(),
                direct_url: text("direct_url.json")?,
            });
        }
    }
    let known = wheels.into_iter().map(
        |wheel| match found.iter().find(|installed| installed.name == wheel.name()) {
            Some(installed) => installed.complete(wheel),
            None => Distribution::Wheel(wheel),
        },
    );
    Ok(Distributions::sorted(known))
}

/// The directories of metadata in an environment.
///
/// # Errors
/// The environment is damaged.
pub(crate) fn dist_infos(view: &View) -> envfs_store::Result<Vec<Node<'_>>> {
    let mut found = Vec::new();
    let Some(lib) = view.tree().find(b"lib")? else {
        return Ok(found);
    };
    for python in view.tree().children(lib, 0)? {
        let python = python?;
        if !(python.name()?.starts_with(b"python3") && python.kind()? == NodeKind::Directory) {
            continue;
        }
        let Some(site) = view.tree().lookup(python, b"site-packages")? else {
            continue;
        };
        for directory in view.tree().children(site, 0)? {
            let directory = directory?;
            if directory.kind()? == NodeKind::Directory && directory.name()?.ends_with(b".dist-info") {
                found.push(directory);
            }
        }
    }
    Ok(found)
}

/// A file of a directory of metadata. None if there is none, or it is too large to be one.
///
/// # Errors
/// The environment is damaged.
pub(crate) fn read(view: &View, directory: Node<'_>, name: &str) -> envfs_store::Result<Option<String>> {
    match view.tree().lookup(directory, name.as_bytes())? {
        Some(file) if file.kind()? == NodeKind::File && file.stored_bytes() <= MAX_METADATA_BYTES => {
            Ok(Some(String::from_utf8_lossy(&view.read(file)?).into_owned()))
        }
        _ => Ok(None),
    }
}

/// What a directory of metadata says.
struct Installed {
    name: String,
    version: String,
    requirements: (Vec<String>, Option<String>),
    is_requested: bool,
    direct_url: Option<String>,
}

impl Installed {
    fn complete(&self, wheel: LockedWheel) -> Distribution {
        let (requires_dist, requires_python) = self.requirements.clone();
        let place = self.direct_url.as_deref().and_then(SourcePlace::of_direct_url);
        match place {
            Some(place) if is_built_here(&wheel) => {
                let source = LockedSource::new(&self.name, Some(self.version.clone()), place);
                let source = source.with_requirements(requires_dist, requires_python);
                Distribution::Source(source.with_requested(self.is_requested))
            }
            _ => Distribution::Wheel(
                wheel
                    .with_requirements(requires_dist, requires_python)
                    .with_requested(self.is_requested)
                    .with_direct_url(self.direct_url.clone()),
            ),
        }
    }
}

/// Whether a wheel lies in a store, as what became of sources.
#[must_use]
pub fn is_built_here(wheel: &LockedWheel) -> bool {
    let path = wheel.parsed_url().to_file_path();
    let sha256 = wheel.sha256().map(Sha256::from_bytes);
    matches!((path, sha256), (Ok(path), Some(sha256)) if built::is_place(&path, &sha256))
}
