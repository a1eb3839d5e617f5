//! What was removed and can still come back: moved aside first, unlinked when nobody can rely on it any more.
//!
//! ```text
//! <store>/trash/
//!   <number>/        what one collection removed
//!     waits          the workspaces that lived then, one a line: who writes in one may have found what is here
//!     objects/ packs/ layers/ trees/ environments/
//!   .<number>/       the same, being unlinked: nothing comes back from there
//! ```
//!
//! Whoever misses something in its place asks here, and gets it back by a rename.

use std::fs;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::Result;

/// The kinds of things, in the order in which they must go: first what refers, then what is referred to.
pub(crate) const KINDS: [&str; 5] = ["environments", "layers", "trees", "packs", "objects"];

/// Moves the thing of this kind whose file is called as that of `place` back to `place`, and says whether it was here.
/// Who may not write to the store finds nothing.
pub(crate) fn restore(root: &Path, kind: &str, place: &Path) -> bool {
    let Some(name) = place.file_name() else { return false };
    let generations = durable::list(&root.join("trash")).unwrap_or_default();
    let mut found = generations.iter().filter(|path| is_generation(path));
    found.any(|generation| {
        let aside = generation.join(kind).join(name);
        if !aside.exists() {
            return false;
        }
        // Its directory may have gone with the last of its objects.
        let made = place
            .parent()
            .is_none_or(|directory| durable::create_directory(directory).is_ok());
        made && durable::move_file(&aside, place).is_ok()
    })
}

/// Where the thing of this kind called `name` lies now, for who wants to look at it before it comes back.
pub(crate) fn find(root: &Path, kind: &str, name: &str) -> Option<PathBuf> {
    let generations = durable::list(&root.join("trash")).ok()?;
    let mut asides = generations
        .iter()
        .filter(|path| is_generation(path))
        .map(|generation| generation.join(kind).join(name));
    asides.find(|aside| aside.exists())
}

/// Everything of this kind that can come back.
pub(crate) fn all(root: &Path, kind: &str) -> Vec<PathBuf> {
    let generations = durable::list(&root.join("trash")).unwrap_or_default();
    let kinds = generations
        .iter()
        .filter(|path| is_generation(path))
        .map(|path| path.join(kind));
    kinds
        .flat_map(|directory| durable::list(&directory).unwrap_or_default())
        .collect()
}

/// What one collection removes.
pub(crate) struct Generation {
    path: PathBuf,
    waits: Vec<String>,
}

/// The file that lists [`Generation::waits`].
const WAITS: &str = "waits";

impl Generation {
    /// Starts to remove things.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        let trash = root.join("trash");
        durable::create_directory(&trash)?;
        let numbers = durable::list(&trash)?;
        let last = numbers.iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            name.trim_start_matches('.').parse::<u64>().ok()
        });
        let path = trash.join((last.max().unwrap_or(0) + 1).to_string());
        for kind in KINDS {
            durable::create_directory(&path.join(kind))?;
        }
        durable::sync_directory(&path)?;
        durable::sync_directory(&trash)?;
        Ok(Self {
            path,
            waits: Vec::new(),
        })
    }

    /// From now on also waits for the workspaces called `living`, before anything that they may have found is moved.
    pub(crate) fn wait_for(&mut self, living: &[String]) -> Result<()> {
        let known = self.waits.len();
        for name in living {
            if !self.waits.contains(name) {
                self.waits.push(name.clone());
            }
        }
        if self.waits.len() > known {
            let text = self.waits.join("\n");
            durable::write(&self.path, &self.path.join(WAITS), text.as_bytes())?;
        }
        Ok(())
    }

    /// Those that are there, of this and of earlier collections.
    pub(crate) fn all(root: &Path) -> Result<Vec<Self>> {
        let found = durable::list(&root.join("trash"))?;
        let generations = found.into_iter().filter(|path| is_generation(path));
        Ok(generations
            .map(|path| {
                // Without the file nobody was writing.
                let text = fs::read_to_string(path.join(WAITS)).unwrap_or_default();
                let waits = text.lines().map(str::to_owned).collect();
                Self { path, waits }
            })
            .collect())
    }

    /// Moves the file at `place` aside. One that is gone is fine.
    pub(crate) fn take(&self, kind: &str, place: &Path) -> Result<()> {
        let name = place.file_name().unwrap_or_default();
        durable::move_file(place, &self.path.join(kind).join(name)).map(drop)
    }

    /// Makes sure that what was moved so far is not found in its old place after a power cut.
    pub(crate) fn sync(&self, root: &Path, kinds: &[&str]) -> Result<()> {
        for kind in kinds {
            durable::sync_directory(&root.join(kind))?;
            durable::sync_directory(&self.path.join(kind))?;
        }
        Ok(())
    }

    /// The names of the workspaces that lived when something was moved here.
    pub(crate) fn waits(&self) -> &[String] {
        &self.waits
    }

    /// What of this kind is in it.
    pub(crate) fn contents(&self, kind: &str) -> Result<Vec<PathBuf>> {
        durable::list(&self.path.join(kind))
    }

    /// From now on nothing comes back from it: it can be unlinked at leisure.
    pub(crate) fn seal(self) -> Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let sealed = self.path.with_file_name(format!(".{name}"));
        durable::replace(&self.path, &sealed)?;
        Ok(sealed)
    }
}

/// Unlinks what was sealed, also by a collection that died meanwhile.
pub(crate) fn unlink_sealed(root: &Path) -> Result<()> {
    for path in durable::list(&root.join("trash"))? {
        if !is_generation(&path) {
            // What stays is a draft or a sealed one; nobody else writes here.
            if path.is_dir() {
                durable::remove_tree(&path)?;
            } else {
                durable::remove(&path)?;
            }
        }
    }
    Ok(())
}

fn is_generation(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.parse::<u64>().is_ok())
}
