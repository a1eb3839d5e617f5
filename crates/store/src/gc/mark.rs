//! What is alive: everything that an environment holds, and what was published while this was found out.

use std::collections::HashSet;
use std::path::Path;

use super::inventory::Inventory;
use crate::digest::{Digest, Sha256};
use crate::environment::{self, Environment};
use crate::error::Result;
use crate::store::{Store, list};

/// What is alive so far.
#[derive(Debug, Default)]
pub(crate) struct Live {
    inventory: Inventory,
    /// By the number of the object.
    objects: Vec<bool>,
    trees: HashSet<Digest>,
    layers: HashSet<Sha256>,
    environments: HashSet<Digest>,
}

impl Live {
    /// Marks what the environments in their places hold that were not looked at before, except for the `doomed`.
    pub(crate) fn mark_environments(&mut self, store: &Store, doomed: &HashSet<Digest>) -> Result<()> {
        for signature in environment::own_signatures(store)? {
            if !self.environments.contains(&signature)
                && !doomed.contains(&signature)
                && let Some(environment) = environment::get(store, &signature)?
            {
                self.mark_environment(store, &environment)?;
            }
        }
        Ok(())
    }

    fn mark_environment(&mut self, store: &Store, environment: &Environment) -> Result<()> {
        let holding = self.inventory.read(store, environment)?;
        for number in self.inventory.objects_of(&holding) {
            self.mark_number(number);
        }
        self.trees.extend(&holding.trees);
        self.layers.extend(&holding.layers);
        self.environments.insert(environment.signature);
        Ok(())
    }

    /// Marks the layers that no environment names, but whose files are all alive: bytecode, captured changes, and packages
    /// with nothing of their own. They cost only their lists, and spare the next build the work.
    pub(crate) fn mark_layers_of_the_living(&mut self, store: &Store) -> Result<()> {
        for archive in layers(store)? {
            if !self.layers.contains(&archive) && self.inventory.read_layer(store, &archive)? {
                let objects = &self.inventory.layer(&archive).objects;
                let is_alive = |number: &u32| self.objects.get(*number as usize) == Some(&true);
                if !objects.is_empty() && objects.iter().all(is_alive) {
                    self.layers.insert(archive);
                }
            }
        }
        Ok(())
    }

    /// Marks the objects of all layers that are in their places, and of which `stays` is true.
    pub(crate) fn mark_layers(&mut self, store: &Store, stays: impl Fn(&Path) -> bool) -> Result<()> {
        for archive in layers(store)? {
            if !stays(&store.layer_path(&archive)) {
                continue;
            }
            if self.layers.contains(&archive) || !self.inventory.read_layer(store, &archive)? {
                continue;
            }
            for number in self.inventory.layer(&archive).objects.clone() {
                self.mark_number(number);
            }
            self.layers.insert(archive);
        }
        Ok(())
    }

    pub(crate) fn has_object(&self, digest: &Digest) -> bool {
        let number = self.inventory.number(digest);
        number.is_some_and(|number| self.objects.get(number as usize) == Some(&true))
    }

    pub(crate) fn has_tree(&self, digest: &Digest) -> bool {
        self.trees.contains(digest)
    }

    pub(crate) fn has_layer(&self, archive: &Sha256) -> bool {
        self.layers.contains(archive)
    }

    pub(crate) fn environments(&self) -> &HashSet<Digest> {
        &self.environments
    }

    fn mark_number(&mut self, number: u32) {
        let number = number as usize;
        if self.objects.len() <= number {
            self.objects.resize(self.inventory.len().max(number + 1), false);
        }
        self.objects[number] = true;
    }
}

fn layers(store: &Store) -> Result<Vec<Sha256>> {
    let paths = list(&store.path("layers"))?;
    Ok(paths
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect())
}
