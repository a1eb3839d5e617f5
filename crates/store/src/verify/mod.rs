//! Whether everything in a store is what its name says, and all that is referred to is there; and mending what is not.
//!
//! Every file that matters tells by itself whether it is whole: objects, packs and trees by their names, layers and sealed
//! documents by digests in them. What is lost is known by what refers to it. A check takes no lock, and disturbs nobody: what
//! a collection removes meanwhile is not missed.

mod aside;
mod cached;
mod content;
mod documents;
mod mend;
mod references;
mod repair;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, Result};
use crate::stamps::Checks;
use crate::store::{Location, Store, list};
use crate::tree::Tree;

pub use repair::{Mended, Rebuild, Remedy, Repair, Repaired};

/// What is noted of objects that were withdrawn, in `quarantine/log`, is no longer than this.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// What something is that is damaged or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A whole object, or one that no pack holds any more.
    Object,
    /// A pack, or objects in it.
    Pack,
    /// The files of a package.
    Layer,
    /// The index of an environment.
    Tree,
    /// The record of an environment.
    Environment,
    /// A name.
    Name,
    /// The pins of an environment.
    Pin,
    /// What an owner needs.
    Owner,
    /// A path that follows a name.
    Link,
    /// A wheel that was built, or its record.
    Built,
    /// What is made again when it is missed: answers, traces, copies for the kernel.
    Cache,
    /// The database of uses.
    Index,
}

/// Something that is damaged or lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// What it is called: a digest, or the name of a document.
    pub name: String,
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Whether it is not there.
    pub is_missing: bool,
    /// What is wrong, in a sentence that names the file.
    pub message: String,
    /// The objects that cannot be had for it.
    #[serde(skip)]
    pub(crate) objects: BTreeSet<Digest>,
    /// Whether nothing that it holds can be told apart.
    #[serde(skip)]
    pub(crate) is_unreadable: bool,
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// How many things were checked.
    pub count: u64,
    /// What is damaged or lost.
    pub findings: Vec<Finding>,
    /// Whole files that are what their names say, as they were before they were read.
    sound: Vec<(Digest, Metadata)>,
}

impl Store {
    /// Checks everything in this store; not what is in one below.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn verify(&self) -> Result<Checked> {
        let mut checked = Checked::default();
        content::check(self, &mut checked)?;
        documents::check(self, &mut checked)?;
        cached::check(self, &mut checked)?;
        references::check(self, &mut checked)?;
        checked.findings.sort();
        checked.findings.dedup();
        self.stamps().note(checked.sound.drain(..));
        self.forget(&checked.findings)?;
        Ok(checked)
    }

    /// Takes back what was noted of files that are wrong, and of the trees that may hold them.
    fn forget(&self, findings: &[Finding]) -> Result<()> {
        let is_whole = |finding: &&Finding| matches!(finding.kind, Kind::Object | Kind::Tree) && !finding.is_missing;
        let wrong: Vec<Digest> = findings
            .iter()
            .filter(is_whole)
            .filter_map(|finding| finding.name.parse().ok())
            .collect();
        if !wrong.is_empty() {
            let trees = list(&self.path("trees"))?;
            self.stamps().forget(wrong.into_iter());
            self.stamps()
                .forget_all_of(trees.iter().filter_map(|path| content::parse_name(path).ok()));
        }
        Ok(())
    }
}

/// Whole objects that a kernel opens without asking.
impl Store {
    /// Whether all whole objects of the tree called `name` were read through by this user in this boot, or are not to be
    /// behind a mount.
    #[must_use]
    pub fn is_read_through(&self, name: &Digest) -> bool {
        self.checks() != Checks::First || self.stamps().holds_all_of(name)
    }

    /// Reads through the whole objects of `tree`, called `name`, that were not. What is damaged is moved into the quarantine, so that
    /// it is an error from then on for whoever opens it, and given back with what is wrong.
    ///
    /// # Errors
    /// When the tree is damaged, or an object cannot be read.
    pub fn read_through(&self, name: &Digest, tree: &Tree) -> Result<Vec<Error>> {
        let mut seen = HashSet::new();
        let mut wrong = Vec::new();
        for node in tree.files(false) {
            let node = node?;
            if node.location()? != Location::Object || !seen.insert(node.digest()) {
                continue;
            }
            match self.check_whole(&node.digest()) {
                Ok(()) => {}
                // Collected meanwhile, or missed before.
                Err(error) if error.is_gone() => {}
                Err(error @ Error::Corrupt { .. }) => {
                    self.withdraw(&node.digest());
                    wrong.push(error);
                }
                // It may be right: whoever mounts next tries again.
                Err(error) => return Err(error),
            }
        }
        if wrong.is_empty() {
            self.stamps().note_all_of(name);
        }
        Ok(wrong)
    }

    /// Takes a damaged object out of sight, unless it was repaired meanwhile, where that is allowed: who may not is only told.
    fn withdraw(&self, digest: &Digest) {
        let path = self.own_object_path(digest);
        let withdraw = || {
            let _alone = self.exclude()?;
            match content::verify_bytes(&path, digest) {
                Err(error @ Error::Corrupt { .. }) => {
                    Ok(aside::Aside::new(self).take(&path)?.map(|place| (error, place)))
                }
                result => result.map(|()| None),
            }
        };
        if let Ok(Some((error, place))) = withdraw() {
            let line = format!("{error}: moved to {}\n", place.display());
            let log = self.path("quarantine").join("log");
            let _ = durable::append_evictable(&log, line.as_bytes(), MAX_LOG_BYTES);
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Finding {
    /// Something at `path` that is not as it should be.
    fn damaged(kind: Kind, path: &Path, error: &Error) -> Self {
        let name = name_of(path);
        let object = name.parse().ok().filter(|_| kind == Kind::Object);
        Self {
            kind,
            name,
            path: path.to_owned(),
            is_missing: false,
            message: match error {
                Error::Io { source, .. } => format!("{error}: {source}"),
                _ => error.to_string(),
            },
            objects: object.into_iter().collect(),
            is_unreadable: true,
        }
    }

    /// Something called `name` that is not there, and `needed` by something.
    fn missing(kind: Kind, path: &Path, name: &dyn fmt::Display, needed: &str) -> Self {
        Self {
            kind,
            name: name.to_string(),
            path: path.to_owned(),
            is_missing: true,
            message: format!("`{}` is lost: {needed}", path.display()),
            objects: BTreeSet::new(),
            is_unreadable: false,
        }
    }
}

impl Checked {
    /// Counts what was checked at `path`, and notes what is wrong with it; unless it was collected meanwhile.
    fn note(&mut self, kind: Kind, path: &Path, result: Result<()>) {
        match result {
            Err(_) if path.symlink_metadata().is_err() => return,
            Err(error) => self.findings.push(Finding::damaged(kind, path, &error)),
            Ok(()) => {}
        }
        self.count += 1;
    }
}

/// What a file is called, without what its kind adds.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = [".json.zst", ".json", ".pack"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    stem.unwrap_or(&name).to_owned()
}
