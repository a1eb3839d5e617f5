//! The environment that another inherits from, with its tree mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::environment::{Environment, Package, PackageKind};
use envfs_store::tree::Tree;
use envfs_store::view::View;

use super::BuildError;
use super::bring::{Archive, Brought};
use crate::link::Base;
use crate::package::LockedPackage;

/// The packages that a base has from a directory and not from their archives: its record names the layer of what was taken, a
/// lock the archive. They are the same where the base's own `conda-meta` names that archive.
#[derive(Default)]
pub(super) struct Imported {
    archives: BTreeMap<Sha256, Sha256>,
}

impl Imported {
    /// Those of `base` among `packages`.
    pub(super) fn of(
        store: &Store,
        base: Option<&Environment>,
        packages: &[LockedPackage],
    ) -> Result<Self, BuildError> {
        let mut this = Self::default();
        let Some(base) = base else { return Ok(this) };
        let mut view = None;
        for inherited in base.all_packages(store)? {
            let same = |package: &&LockedPackage| package.name() == inherited.name;
            let locked = packages.iter().find(same).and_then(LockedPackage::sha256);
            let locked = locked.map(Sha256::from_bytes);
            let Some(archive) = locked.filter(|locked| *locked != inherited.sha256) else {
                continue;
            };
            if inherited.kind != PackageKind::Conda {
                continue;
            }
            let view = match &mut view {
                Some(view) => view,
                none => none.insert(View::new(store, Arc::new(store.tree(&base.tree)?), Path::new("/"))?),
            };
            if archive_of(view, &inherited)? == Some(archive) {
                this.archives.insert(archive, inherited.sha256);
            }
        }
        Ok(this)
    }

    /// The packages as the base has them.
    pub(super) fn stand_in(&self, packages: &mut [LockedPackage]) {
        self.replace(packages.iter_mut(), self.archives.iter());
    }

    /// The other way round: packages keep the digests of their archives in their own records.
    pub(super) fn stand_back(&self, brought: &mut [Brought]) {
        let packages = brought.iter_mut().filter_map(|brought| match &mut brought.archive {
            Archive::Package(package) => Some(&mut **package),
            Archive::Wheel(_) => None,
        });
        self.replace(packages, self.archives.iter().map(|(archive, layer)| (layer, archive)));
    }

    fn replace<'a>(
        &self,
        packages: impl Iterator<Item = &'a mut LockedPackage>,
        pairs: impl Iterator<Item = (&'a Sha256, &'a Sha256)>,
    ) {
        if self.archives.is_empty() {
            return;
        }
        let pairs: BTreeMap<_, _> = pairs.collect();
        for package in packages {
            let other = package
                .sha256()
                .and_then(|sha256| pairs.get(&Sha256::from_bytes(sha256)));
            if let Some(other) = other {
                *package = package.clone().with_sha256(*other.as_bytes());
            }
        }
    }
}

/// The archive that the `conda-meta` of an environment names for a package.
fn archive_of(view: &View, package: &Package) -> Result<Option<Sha256>, BuildError> {
    let path = format!("conda-meta/{}.json", package.dist_name());
    let Some(node) = view.tree().find(path.as_bytes())? else {
        return Ok(None);
    };
    // Who damages it by hand has another package.
    let record = LockedPackage::from_prefix_record_json(&view.read(node)?).ok();
    Ok(record.and_then(|record| record.sha256()).map(Sha256::from_bytes))
}

/// A base with its tree mapped.
pub(super) struct OpenBase<'a> {
    pub(super) environment: &'a Environment,
    pub(super) archives: BTreeSet<Sha256>,
    pub(super) is_changed: bool,
    tree: Tree,
}

impl<'a> OpenBase<'a> {
    /// Opens a base of an environment that is made of `packages`.
    pub(super) fn open(store: &Store, environment: &'a Environment, packages: &[Package]) -> Result<Self, BuildError> {
        let mut archives = BTreeSet::new();
        for package in environment.all_packages(store)? {
            if !packages.iter().any(|other| other.sha256 == package.sha256) {
                return Err(BuildError::NotABase {
                    base: environment.signature.to_string(),
                    package: package.dist_name(),
                });
            }
            archives.insert(package.sha256);
        }
        Ok(Self {
            environment,
            is_changed: environment.is_changed(store)?,
            tree: store.tree(&environment.tree)?,
            archives,
        })
    }

    pub(super) fn as_base(&self) -> Base<'_> {
        Base {
            environment: self.environment,
            tree: &self.tree,
            archives: &self.archives,
            is_changed: self.is_changed,
        }
    }
}
