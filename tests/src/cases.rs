//! The awkward archives of other projects' test suites, under the names that they give themselves.

use std::path::{Path, PathBuf};

use crate::data;
use crate::reference::Reference;

/// All archives of the collection, by their place in it; none, said loudly, where it is not there.
///
/// # Panics
/// When the collection cannot be listed.
#[must_use]
pub fn all() -> Vec<PathBuf> {
    let Some(root) = data::shared("cases") else {
        return Vec::new();
    };
    let mut archives = Vec::new();
    for folder in std::fs::read_dir(&root).unwrap() {
        for archive in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            archives.push(archive.unwrap().path());
        }
    }
    archives.sort();
    archives
}

/// One archive of the collection, by the end of its path; `None`, said loudly, where the collection is not there.
///
/// # Panics
/// When the collection lacks it.
#[must_use]
pub fn named(end: &str) -> Option<PathBuf> {
    let all = all();
    if all.is_empty() {
        return None;
    }
    let found = all.into_iter().find(|path| path.ends_with(end));
    Some(found.unwrap_or_else(|| panic!("the collection has no {end}")))
}

/// Copies an archive into `directory`, under the name that its metadata gives it, or its own where rattler cannot read
/// that.
///
/// # Panics
/// When it cannot be copied.
#[must_use]
pub fn stage(reference: &Reference, archive: &Path, directory: &Path) -> PathBuf {
    let own_name = archive.file_name().unwrap().to_str().unwrap();
    let name = match reference.record(archive) {
        Ok(record) => record.identifier.to_file_name(),
        Err(_) if own_name.matches('-').count() < 2 => format!("unreadable-0-{own_name}"),
        Err(_) => own_name.to_owned(),
    };
    let staged = directory.join(name);
    std::fs::copy(archive, &staged).unwrap();
    staged
}

/// An `@EXPLICIT` file for archives that lie side by side.
#[must_use]
pub fn explicit(archives: &[PathBuf]) -> String {
    let mut text = "# platform: linux-64\n@EXPLICIT\n".to_owned();
    for archive in archives {
        text.push_str(&format!(
            "file://{}\n",
            archive.display().to_string().replace(' ', "%20")
        ));
    }
    text
}
