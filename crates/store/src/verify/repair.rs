//! A repair from beginning to end.
//!
//! 1. Everything is checked.
//! 2. What is whole elsewhere comes back: files that stand under the names of others, documents from their copies, content from
//!    other stores. What is replaced is kept in the quarantine.
//! 3. What is still damaged is put into the quarantine, and what is whole in a damaged pack is written elsewhere before. From
//!    here on nothing in the store is wrong, and some of it may be missing.
//! 4. Environments that miss something are built again, beside the store, and what they have comes as from another store.
//! 5. What still is missing is told, with the environments that miss it.
//!
//! Killed anywhere, another repair goes on; what was being given its own name may then be in the quarantine. Builds, mounts and runs go on meanwhile; no collection does.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::mend::Mender;
use super::references::{self, References};
use super::{Checked, Finding, Kind, cached, content, documents};
use crate::digest::Digest;
use crate::durable;
use crate::environment;
use crate::error::Result;
use crate::index;
use crate::store::Store;

/// How often environments are built again: first what trees refer to comes back, then trees that could not be told before.
const ROUNDS: usize = 2;

/// Where things may be had.
pub struct Repair<'a> {
    /// Other stores.
    pub donors: &'a [Store],
    /// Who builds environments again, if anybody does.
    pub rebuild: Option<&'a dyn Rebuild>,
}

/// Builds environments again.
pub trait Rebuild {
    /// Brings into stores in `directory` what it can of `environments` and of the packages that they consist of. Nothing is written to
    /// `store`, where things are missing.
    fn rebuild(&self, store: &Store, environments: &BTreeSet<Digest>, directory: &Path) -> Vec<Store>;
}

/// What became of something that was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// It is as it was.
    Repaired,
    /// It is gone, and made again when it is missed.
    Dropped,
    /// It is in the quarantine, and nothing misses it.
    Quarantined,
    /// It cannot be had.
    Lost,
}

/// Something that was wrong, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Mended {
    /// What was wrong.
    #[serde(flatten)]
    pub finding: Finding,
    /// What became of it.
    pub remedy: Remedy,
    /// Where the damaged file is now.
    pub quarantine: Option<PathBuf>,
}

/// What a repair did.
#[derive(Debug, Clone, Default)]
pub struct Repaired {
    /// How many things were checked.
    pub count: u64,
    /// What was wrong.
    pub mended: Vec<Mended>,
    /// The environments that miss something, and the files or other things that they miss.
    pub environments: BTreeMap<Digest, BTreeSet<String>>,
}

impl Repaired {
    /// Whether nothing is lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.environments.is_empty() && self.mended.iter().all(|mended| mended.remedy != Remedy::Lost)
    }
}

impl Store {
    /// Checks everything in this store, and mends what can be mended.
    ///
    /// # Errors
    /// When the store cannot be read or written. What was mended before stays so.
    pub fn repair(&self, repair: &Repair<'_>) -> Result<Repaired> {
        let _only = self.reserve("collection")?;
        let checked = self.verify()?;
        let mut work = Work {
            mender: Mender::new(self)?,
            store: self,
            findings: checked.findings.clone(),
            moved: BTreeMap::new(),
            dropped: BTreeSet::new(),
            unmended: BTreeSet::new(),
        };
        if !checked.findings.is_empty() {
            work.mend(repair)?;
        }
        work.finish(&checked)
    }

    /// The environments that something in `findings` is about, with what they would miss without it.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn concerned(&self, findings: &[Finding]) -> Result<BTreeMap<Digest, BTreeSet<String>>> {
        if findings.is_empty() {
            return Ok(BTreeMap::new());
        }
        Ok(concerned(self, &References::of(self, findings)?, findings))
    }
}

/// The environments that something in `findings` is about, with what they would miss without it.
fn concerned(store: &Store, references: &References, findings: &[Finding]) -> BTreeMap<Digest, BTreeSet<String>> {
    let mut found: BTreeMap<Digest, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        for signature in references.concerned(finding) {
            found.entry(signature).or_default().push(finding);
        }
    }
    let missed = |(signature, findings): (Digest, Vec<&Finding>)| (signature, missed(store, &signature, &findings));
    found.into_iter().map(missed).collect()
}

/// What an environment misses: its files, or what is not a file of it.
fn missed(store: &Store, signature: &Digest, findings: &[&Finding]) -> BTreeSet<String> {
    let lost: HashSet<Digest> = findings.iter().flat_map(|finding| &finding.objects).copied().collect();
    let mut missed = BTreeSet::new();
    let mut named = HashSet::new();
    let environment = environment::get(store, signature).ok().flatten();
    if let Some(tree) = environment.and_then(|environment| store.tree(&environment.tree).ok()) {
        for node in tree.files(false).flatten().filter(|node| lost.contains(&node.digest())) {
            if let Ok(path) = tree.path(node) {
                missed.insert(String::from_utf8_lossy(&path).into_owned());
                named.insert(node.digest());
            }
        }
    }
    let nameless = findings
        .iter()
        .filter(|finding| !finding.objects.iter().any(|object| named.contains(object)));
    missed.extend(nameless.map(|finding| finding.path.display().to_string()));
    missed
}

struct Work<'a> {
    store: &'a Store,
    mender: Mender<'a>,
    /// What is wrong now.
    findings: Vec<Finding>,
    /// Where damaged files went that nothing has replaced.
    moved: BTreeMap<PathBuf, PathBuf>,
    /// What is made again when it is missed.
    dropped: BTreeSet<PathBuf>,
    /// What no check will find again, and is not mended.
    unmended: BTreeSet<PathBuf>,
}

impl Work<'_> {
    fn mend(&mut self, repair: &Repair<'_>) -> Result<()> {
        self.documents()?;
        self.mender.rename(&self.findings)?;
        self.look_again()?;
        self.bring(repair.donors)?;
        self.quarantine()?;
        // What packs held is known to be missing only now.
        self.bring(repair.donors)?;
        for round in 0..ROUNDS {
            let Some(rebuild) = repair.rebuild else { break };
            let concerned = self.concerned()?;
            if concerned.is_empty() {
                break;
            }
            let scratch = durable::create_own_directory(self.mender.workspace.path(), "scratch-")?;
            let built = rebuild.rebuild(self.store, &concerned, &scratch);
            self.bring(&built)?;
            if round + 1 == ROUNDS {
                self.adopt(&built)?;
            }
            // What stays goes with the workspace.
            let _ = durable::remove_tree(&scratch);
        }
        self.cached()
    }

    /// The environments that miss something now.
    fn concerned(&self) -> Result<BTreeSet<Digest>> {
        let references = References::of(self.store, &self.findings)?;
        let findings = self.findings.iter();
        Ok(findings.flat_map(|finding| references.concerned(finding)).collect())
    }

    /// Brings what is missing, and looks again.
    fn bring(&mut self, donors: &[Store]) -> Result<()> {
        if self.findings.is_empty() {
            return Ok(());
        }
        let references = References::of(self.store, &self.findings)?;
        self.mender.bring(&self.findings, &references, donors)?;
        self.look_again()
    }

    /// Takes environments as they were built again, where they could not be made what they were: with other words in the records of
    /// their packages, which only what was lost had said.
    fn adopt(&mut self, built: &[Store]) -> Result<()> {
        for signature in &self.concerned()? {
            let donors: Vec<Store> = built
                .iter()
                .filter(|donor| environment::own_path(donor, signature).exists())
                .cloned()
                .collect();
            self.mender.environment(signature, &donors)?;
        }
        self.look_again()
    }

    /// Checks once more what was wrong, and all references.
    fn look_again(&mut self) -> Result<()> {
        self.store.forget_packs();
        let mut checked = Checked::default();
        for finding in self.findings.iter().filter(|finding| !finding.is_missing) {
            content::check_file(self.store, finding.kind, &finding.path, &mut checked);
        }
        references::check(self.store, &mut checked)?;
        checked.findings.sort();
        checked.findings.dedup();
        self.findings = checked.findings;
        Ok(())
    }

    /// Puts documents and their copies in each other's place, the database anew, and what is made again out of the way.
    fn documents(&mut self) -> Result<()> {
        let findings = self.findings.clone();
        documents::each_ledger(self.store, &mut |kind, ledger, check| {
            let keys: BTreeSet<String> = findings
                .iter()
                .filter(|finding| finding.kind == kind)
                .map(|finding| finding.name.clone())
                .collect();
            if keys.is_empty() {
                return Ok(());
            }
            let locked = ledger.lock()?;
            for key in keys {
                let places = [ledger.path(&key), ledger.copy(&key)];
                let sound = places.iter().find(|path| path.exists() && check(path, &key).is_ok());
                let bytes = sound.map(std::fs::read).and_then(std::result::Result::ok);
                for path in places.iter().filter(|path| path.exists() && check(path, &key).is_err()) {
                    let kept = self.mender.aside.take(path)?;
                    if bytes.is_none() {
                        self.moved.extend(kept.map(|kept| (path.clone(), kept)));
                    }
                }
                match bytes {
                    Some(bytes) => locked.restore(&key, &bytes)?,
                    // It is not missed by anything.
                    None => self.unmended.extend(places),
                }
            }
            Ok(())
        })?;
        for finding in &findings {
            match finding.kind {
                Kind::Index => {
                    let place = self.mender.aside.place(&finding.path)?;
                    // Without an index nothing fails.
                    if index::replace(self.store, place.parent().unwrap_or(&place)).is_err() {
                        self.unmended.insert(finding.path.clone());
                    }
                }
                Kind::Built => self.drop(&finding.path)?,
                Kind::Cache if !finding.path.starts_with(self.cache_of_boot()) => self.drop(&finding.path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies of this boot, once what they are copies of is there again.
    fn cached(&mut self) -> Result<()> {
        let Some((cache, copies)) = cached::copies(self.store)? else {
            return Ok(());
        };
        for copy in copies.iter().filter(|copy| !copy.is_sound(self.store)) {
            let aside = self.mender.aside.place(&copy.path)?;
            if !cache.mend(&self.mender.workspace, copy, &aside)? {
                self.dropped.insert(copy.path.clone());
                self.moved.insert(copy.path.clone(), aside);
            }
        }
        Ok(())
    }

    fn cache_of_boot(&self) -> PathBuf {
        self.store.path("cache").join(&crate::host::Host::current().boot)
    }

    fn drop(&mut self, path: &Path) -> Result<()> {
        self.dropped.insert(path.to_owned());
        let taken = self.mender.aside.take(path)?;
        self.moved.extend(taken.map(|place| (path.to_owned(), place)));
        Ok(())
    }

    /// Puts aside what is damaged, and what lacks something that it needs to be used.
    fn quarantine(&mut self) -> Result<()> {
        let references = References::of(self.store, &self.findings)?;
        let damaged: Vec<Finding> = self
            .findings
            .iter()
            .filter(|finding| !finding.is_missing)
            .cloned()
            .collect();
        for finding in damaged {
            let taken = match finding.kind {
                Kind::Pack => self.mender.salvage(&finding.path, &references)?,
                Kind::Object | Kind::Layer | Kind::Tree | Kind::Environment => self.mender.take(&finding.path)?,
                _ => None,
            };
            self.moved.extend(taken.map(|place| (finding.path.clone(), place)));
        }
        self.look_again()?;
        // A layer in its place has all its objects in theirs.
        let lacking: Vec<PathBuf> = self
            .findings
            .iter()
            .filter(|finding| finding.kind == Kind::Layer && !finding.is_missing)
            .map(|finding| finding.path.clone())
            .collect();
        for path in lacking {
            let taken = self.mender.take(&path)?;
            self.moved.extend(taken.map(|place| (path.clone(), place)));
        }
        self.look_again()
    }

    fn finish(mut self, checked: &Checked) -> Result<Repaired> {
        let references = match self.findings.is_empty() {
            true => References::default(),
            false => References::of(self.store, &self.findings)?,
        };
        let environments = concerned(self.store, &references, &self.findings);
        // A record in its place has its tree in its own: without one nothing could be collected.
        let trees = self.findings.iter().filter(|finding| finding.kind == Kind::Tree);
        let treeless: BTreeSet<Digest> = trees.flat_map(|finding| references.concerned(finding)).collect();
        for signature in treeless {
            let path = environment::own_path(self.store, &signature);
            let taken = self.mender.take(&path)?;
            self.moved.extend(taken.map(|place| (path, place)));
        }
        let still: BTreeSet<&PathBuf> = self.findings.iter().map(|finding| &finding.path).collect();
        let mut mended: Vec<Mended> = checked
            .findings
            .iter()
            .map(|finding| {
                let quarantine = self.moved.get(&finding.path).filter(|_| !is_there(finding)).cloned();
                let remedy = if self.dropped.contains(&finding.path) {
                    Remedy::Dropped
                } else if still.contains(&finding.path) || self.unmended.contains(&finding.path) {
                    Remedy::Lost
                } else if quarantine.is_some() {
                    Remedy::Quarantined
                } else {
                    Remedy::Repaired
                };
                Mended {
                    finding: finding.clone(),
                    remedy,
                    quarantine,
                }
            })
            .collect();
        let known: BTreeSet<&PathBuf> = checked.findings.iter().map(|finding| &finding.path).collect();
        let new = self.findings.iter().filter(|finding| !known.contains(&finding.path));
        mended.extend(new.map(|finding| Mended {
            finding: finding.clone(),
            remedy: Remedy::Lost,
            quarantine: None,
        }));
        Ok(Repaired {
            count: checked.count,
            mended,
            environments,
        })
    }
}

fn is_there(finding: &Finding) -> bool {
    finding.path.exists()
}
