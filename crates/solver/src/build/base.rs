//! The environment that another inherits from, with its tree mapped.

use std::collections::BTreeSet;

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::environment::{Environment, Package};
use envfs_store::tree::Tree;

use super::BuildError;
use crate::link::Base;

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
