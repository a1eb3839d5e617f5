//! Trees as the store keeps them: found, put back from the trash, and compared with their names before they are opened.

use std::path::PathBuf;

use super::Tree;
use crate::digest::Digest;
use crate::error::Result;
use crate::store::{Secured, Store};
use crate::trash;

/// How often a tree that nothing refers to yet may be moved to the trash just before it is opened: by one collection, and the next.
const MAX_MOVES: u32 = 4;

impl Store {
    /// The tree called `digest`.
    ///
    /// # Errors
    /// When it or its base is missing or damaged.
    pub fn tree(&self, digest: &Digest) -> Result<Tree> {
        for _ in 0..MAX_MOVES {
            match self.open_tree(digest) {
                Err(error) if error.is_gone() => {}
                opened => return opened,
            }
        }
        match self.open_tree(digest) {
            Err(error) if error.is_gone() && !self.tree_path(digest).exists() => {
                Err(self.missing("tree", digest.to_string()))
            }
            opened => opened,
        }
    }

    fn open_tree(&self, digest: &Digest) -> Result<Tree> {
        let path = self.place_of_tree(digest);
        self.check_file(&path, digest)?;
        let tree = Tree::open(&path, |base| self.place_of_tree(base))?;
        if let Some(base) = tree.base() {
            self.check_file(&self.tree_path(&base), &base)?;
        }
        Ok(tree)
    }

    /// Where the tree is, put back if a collection has moved it.
    fn place_of_tree(&self, digest: &Digest) -> PathBuf {
        let path = self.tree_path(digest);
        if !path.exists() {
            trash::restore(self.root(), "trees", &path);
        }
        path
    }

    /// Makes sure that the tree, and the objects of all its own files, are in their places; those that it inherits too,
    /// unless `base_is_secure`.
    pub(crate) fn secure_tree(&self, digest: &Digest, base_is_secure: bool) -> Result<()> {
        let tree = self.tree(digest)?;
        let mut secured = Secured::default();
        tree.files(base_is_secure).try_for_each(|node| {
            node.and_then(|node| self.secure_object(&node.digest(), node.location()?, &mut secured))
        })
    }

    pub(crate) fn tree_path(&self, digest: &Digest) -> PathBuf {
        self.find(&format!("trees/{digest}"))
    }
}
