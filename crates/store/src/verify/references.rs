//! What is referred to and not there. Opens records, trees and layers, and reads no object.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::content;
use super::{Checked, Finding, Kind};
use crate::digest::{Digest, Sha256};
use crate::environment::{self, Environment};
use crate::error::{Error, Result};
use crate::linked;
use crate::names::Names;
use crate::pack::PackEntry;
use crate::roots::Roots;
use crate::store::{Location, Store, list};
use crate::tree::Tree;
use crate::writable;

/// What the environments of a store refer to.
#[derive(Default)]
pub(super) struct References {
    /// The objects, with their sizes.
    pub(super) objects: BTreeMap<Digest, u64>,
    /// What trees say of the packs in which they found objects.
    pub(super) packs: BTreeMap<Digest, Vec<PackEntry>>,
    /// Which environments hold an object.
    holders: HashMap<Digest, BTreeSet<Digest>>,
    /// Which environments stand on a tree, a layer or another environment.
    pub(super) standing: HashMap<String, BTreeSet<Digest>>,
}

impl References {
    /// What all environments of `store` refer to whose records can be read.
    pub(super) fn of(store: &Store, findings: &[Finding]) -> Result<Self> {
        let damaged = damaged_trees(findings);
        let mut references = Self::default();
        let mut hints = HashSet::new();
        for signature in environment::own_signatures(store)? {
            if let Ok(Some(found)) = environment::get(store, &signature) {
                references.add(store, &found, &damaged, &mut hints);
            }
        }
        Ok(references)
    }

    /// The objects that a pack held, as far as trees say.
    fn packed(&self, pack: &str) -> impl Iterator<Item = &Digest> {
        let entries = pack.parse().ok().and_then(|pack| self.packs.get(&pack));
        entries.into_iter().flatten().map(|entry| &entry.digest)
    }

    /// The environments that `finding` is about.
    pub(super) fn concerned(&self, finding: &Finding) -> BTreeSet<Digest> {
        let packed = match finding.kind {
            Kind::Pack if finding.is_unreadable => Some(self.packed(&finding.name)),
            _ => None,
        };
        let objects = finding.objects.iter().chain(packed.into_iter().flatten());
        let of_objects = objects.filter_map(|object| self.holders.get(object));
        let mut found: BTreeSet<Digest> = of_objects.flatten().copied().collect();
        found.extend(self.standing.get(&finding.name).into_iter().flatten());
        if finding.kind == Kind::Environment {
            found.extend(finding.name.parse::<Digest>().ok());
        }
        found
    }

    fn add(
        &mut self,
        store: &Store,
        environment: &Environment,
        damaged: &HashSet<String>,
        hints: &mut HashSet<(Digest, Digest)>,
    ) {
        let signature = environment.signature;
        let mut stands_on = |name: String| {
            self.standing.entry(name).or_default().insert(signature);
        };
        stands_on(environment.tree.to_string());
        layers_of(environment).for_each(|layer| stands_on(layer.to_string()));
        let mut trees = vec![environment.tree];
        let mut base = environment.base;
        for below in environment.bases(store) {
            // Also one that is missing.
            base.into_iter().for_each(|base| stands_on(base.to_string()));
            let Ok(below) = below else { break };
            stands_on(below.tree.to_string());
            trees.push(below.tree);
            base = below.base;
        }
        if trees.iter().any(|tree| damaged.contains(&tree.to_string())) {
            return;
        }
        let Ok(tree) = store.tree(&environment.tree) else {
            return;
        };
        for node in tree.files(false).flatten() {
            let (digest, size_bytes) = (node.digest(), node.stored_bytes());
            self.objects.insert(digest, size_bytes);
            self.holders.entry(digest).or_default().insert(signature);
            if let Ok(Location::Pack(pack, offset_bytes)) = node.location()
                && let Ok(size_bytes) = u32::try_from(size_bytes)
                && hints.insert((pack, digest))
            {
                self.packs.entry(pack).or_default().push(PackEntry {
                    digest,
                    offset_bytes,
                    size_bytes,
                });
            }
        }
    }
}

/// Looks for everything that environments, layers, names, pins and owners refer to.
pub(super) fn check(store: &Store, checked: &mut Checked) -> Result<()> {
    let damaged = damaged_trees(&checked.findings);
    let mut lost = BTreeMap::new();
    for signature in environment::own_signatures(store)? {
        // One that is damaged is told already.
        if let Ok(Some(environment)) = environment::get(store, &signature) {
            let found = of_environment(store, &environment, &damaged)?;
            // Collected meanwhile, with what it held.
            if !found.is_empty() && environment::own_path(store, &signature).exists() {
                lost.extend(found.into_iter().map(|finding| (finding.path.clone(), finding)));
            }
        }
    }
    for path in list(&store.path("layers"))? {
        if let Ok(layer) = content::layer(&path) {
            let lacks = objects_lost(store, layer.objects())?;
            if !lacks.is_empty() && path.exists() {
                let message = format!("it lacks {} of its files", lacks.len());
                let finding = Finding::damaged(Kind::Layer, &path, &Error::corrupt(&path, message));
                checked.findings.push(finding);
                lost.extend(lacks);
            }
        }
    }
    checked.findings.extend(lost.into_values());
    check_roots(store, checked)
}

fn of_environment(store: &Store, environment: &Environment, damaged: &HashSet<String>) -> Result<Vec<Finding>> {
    let signature = environment.signature;
    let needed = format!("the environment {signature} needs it");
    let mut found = Vec::new();
    if let Some(base) = &environment.base
        && !environment::path(store, base).exists()
    {
        let path = environment::path(store, base);
        found.push(Finding::missing(Kind::Environment, &path, base, &needed));
    }
    let base_of = |base: &Digest| environment::get(store, base).ok().flatten()?.base;
    if let Err(error) = environment::check_circle(store, environment, base_of) {
        let path = environment::own_path(store, &signature);
        found.push(Finding::damaged(Kind::Environment, &path, &error));
    }
    for layer in layers_of(environment).filter(|layer| !store.has_layer(layer)) {
        let path = store.layer_path(&layer);
        found.push(Finding::missing(Kind::Layer, &path, &layer, &needed));
    }
    match store.tree(&environment.tree) {
        // What is told already says nothing of objects.
        Ok(tree) if is_damaged(&tree, &environment.tree, damaged) => {}
        Ok(tree) => found.extend(objects_lost(store, objects_of(&tree))?.into_values()),
        Err(Error::Missing { .. }) => {
            let path = store.tree_path(&environment.tree);
            found.push(Finding::missing(Kind::Tree, &path, &environment.tree, &needed));
        }
        Err(Error::Io { path, source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let name = super::name_of(&path);
            found.push(Finding::missing(Kind::Tree, &path, &name, &needed));
        }
        // Damage is told already.
        Err(_) => {}
    }
    Ok(found)
}

/// The names of trees that are not what they were.
fn damaged_trees(findings: &[Finding]) -> HashSet<String> {
    let trees = findings
        .iter()
        .filter(|finding| finding.kind == Kind::Tree && !finding.is_missing);
    trees.map(|finding| finding.name.clone()).collect()
}

fn is_damaged(tree: &Tree, name: &Digest, damaged: &HashSet<String>) -> bool {
    let names = std::iter::once(*name).chain(tree.base());
    names.into_iter().any(|name| damaged.contains(&name.to_string()))
}

/// The layers that an environment was linked of.
pub(super) fn layers_of(environment: &Environment) -> impl Iterator<Item = Sha256> {
    let packages = environment.packages.iter().map(|package| package.sha256);
    packages.chain(environment.link_scripts)
}

fn objects_of(tree: &Tree) -> impl Iterator<Item = (Digest, u64)> {
    tree.files(false)
        .flatten()
        .map(|node| (node.digest(), node.stored_bytes()))
}

/// Those of `objects` that are nowhere.
fn objects_lost(
    store: &Store,
    objects: impl Iterator<Item = (Digest, u64)>,
) -> Result<BTreeMap<std::path::PathBuf, Finding>> {
    let mut lost = BTreeMap::new();
    for (digest, _) in objects {
        match store.require(&digest) {
            Ok(_) => {}
            Err(Error::Missing { .. }) => {
                let path = store.own_object_path(&digest);
                let finding = Finding::missing(Kind::Object, &path, &digest, "a file of an environment or package");
                lost.insert(
                    path,
                    Finding {
                        objects: BTreeSet::from([digest]),
                        ..finding
                    },
                );
            }
            // A pack that cannot be read is told already.
            Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// What is kept is there. Damaged roots are told already.
fn check_roots(store: &Store, checked: &mut Checked) -> Result<()> {
    let mut require = |signature: &Digest, needed: String| {
        let path = environment::path(store, signature);
        if !path.exists() {
            let finding = Finding::missing(Kind::Environment, &path, signature, &needed);
            checked.findings.push(finding);
        }
    };
    for named in Names::of(store).list()?.into_iter().flatten() {
        require(
            &named.current.signature,
            format!("the name {} stands for it", named.name),
        );
    }
    let roots = Roots::of(store);
    let now_unix_s = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs());
    for signature in roots.pin_ledger().keys()?.iter().filter_map(|key| key.parse().ok()) {
        let pins = roots.pins_of(&signature).unwrap_or_default();
        if pins.iter().any(|pin| pin.holds(now_unix_s)) {
            require(&signature, "it is pinned".to_owned());
        }
    }
    for owner in roots.owner_ledger().keys()?.iter().filter_map(|key| key.parse().ok()) {
        for signature in roots.needs_of(&owner).ok().flatten().unwrap_or_default().keys() {
            require(signature, format!("{owner} needs it"));
        }
    }
    for record in linked::list(store)? {
        let mount_point = record.mount_point.display();
        require(&record.signature, format!("it is linked into `{mount_point}`"));
    }
    for state in writable::states(store)? {
        let mount_point = state.mount_point.display();
        require(
            &state.signature,
            format!("what was written at `{mount_point}` stands on it"),
        );
    }
    Ok(())
}
