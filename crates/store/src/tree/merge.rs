//! Layers become one tree: who wins where two bring the same path, and what is inherited from a base.
//!
//! Packages are added in link order, and the later one wins: its file replaces an earlier file, or a whole earlier
//! directory; its directory replaces an earlier file. A symlink counts as a file and is never followed, so nothing
//! can be written through it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::Result;
use crate::path::EnvPath;
use crate::store::Store;
use crate::tree::draft::{Child, Directory, OwnedLeaf};
pub use crate::tree::draft::{DIRECTORY_MTIME_S, Leaf};
use crate::tree::writer::{self, WrittenTree};
use crate::tree::{Node, NodeKind, Tree};
use crate::workspace::Workspace;

/// A path that more than one package brought.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Clash {
    /// The path.
    pub path: String,
    /// The package whose file is seen.
    pub winner: String,
    /// The package whose file is not.
    pub loser: String,
}

/// A tree that is being put together.
#[derive(Default)]
pub struct Merge {
    root: Directory,
    packages: Vec<Arc<str>>,
    clashes: Vec<Clash>,
}

impl Merge {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree that starts with everything in `tree`.
    ///
    /// # Errors
    /// When `tree` is damaged.
    pub fn from_tree(tree: &Tree) -> Result<Self> {
        let mut merge = Self::new();
        let mut packages = HashMap::new();
        let root = tree.root()?;
        let mut filled = std::mem::take(&mut merge.root);
        fill(&mut filled, tree, root, &mut |name: &str| match packages.get(name) {
            Some(&index) => index,
            None => {
                let PackageIndex(index) = merge.package(name);
                packages.insert(name.to_owned(), index);
                index
            }
        })?;
        merge.root = filled;
        Ok(merge)
    }

    /// Takes out what is at `path`, with everything below it.
    pub fn remove(&mut self, path: &EnvPath) {
        let mut directory = &mut self.root;
        for name in path.parent().iter().flat_map(EnvPath::names) {
            match directory.children.get_mut(name) {
                Some(Child::Directory(below)) => directory = below,
                _ => return,
            }
        }
        directory.children.remove(path.names().last().unwrap_or_default());
    }

    /// Starts the next package in link order, and returns what its files are added with.
    pub fn package(&mut self, dist_name: &str) -> PackageIndex {
        self.packages.push(dist_name.into());
        PackageIndex(u32::try_from(self.packages.len() - 1).expect("fewer packages than nodes"))
    }

    /// Puts a file or symlink at `path`. `package` is none for what the environment itself brings.
    pub fn add(&mut self, package: Option<PackageIndex>, path: &EnvPath, leaf: Leaf) {
        let package = package.map(|index| index.0);
        let parent = path.parent();
        let name = path.names().last().unwrap_or_default();
        let directory = self.directory(package, parent.as_ref());
        let old = directory
            .children
            .insert(name.into(), Child::Leaf(OwnedLeaf { leaf, package }));
        if let Some(old) = old {
            self.note_clash(path, package, &old);
        }
    }

    /// Makes sure that there is a directory at `path`.
    pub fn add_directory(&mut self, package: Option<PackageIndex>, path: &EnvPath) {
        self.directory(package.map(|index| index.0), Some(path));
    }

    /// The file or symlink that is at `path` by now.
    #[must_use]
    pub fn get(&self, path: &EnvPath) -> Option<&Leaf> {
        let mut directory = &self.root;
        for name in path.parent().iter().flat_map(EnvPath::names) {
            match directory.children.get(name)? {
                Child::Directory(below) => directory = below,
                Child::Leaf(_) | Child::Inherited(_) => return None,
            }
        }
        match directory.children.get(path.names().last()?)? {
            Child::Leaf(found) => Some(&found.leaf),
            Child::Directory(_) | Child::Inherited(_) => None,
        }
    }

    /// The paths that more than one package brought, in the order in which they were met.
    #[must_use]
    pub fn clashes(&self) -> &[Clash] {
        &self.clashes
    }

    /// Writes the tree durably and returns its name. Everything that is the same in `base` is inherited; where
    /// all is, the tree is the base itself. All objects must be in the store.
    ///
    /// # Errors
    /// When an object is missing, the base is damaged, or the store cannot be written.
    pub fn write(mut self, store: &Store, workspace: &Workspace, base: Option<(Digest, &Tree)>) -> Result<WrittenTree> {
        let base = match base {
            None => None,
            Some((digest, tree)) => match tree.base() {
                None => Some((digest, Flat::Borrowed(tree))),
                // A thin base stands on a flat one: the new tree stands on that too, so that chains stay short.
                Some(flat) => Some((flat, Flat::Owned(Box::new(store.tree(&flat)?)))),
            },
        };
        let base = base.as_ref().map(|(digest, tree)| (*digest, tree.tree()));
        if let Some((digest, tree)) = base
            && self.inherit_all(tree)?
        {
            return Ok(WrittenTree::existing(digest, tree));
        }
        writer::write(&self.root, &self.packages, store, workspace, base)
    }

    /// Replaces by references what `base` holds as well. Returns whether that is everything.
    fn inherit_all(&mut self, base: &Tree) -> Result<bool> {
        let packages = std::mem::take(&mut self.packages);
        let all = inherit_directory(&mut self.root, base, base.root()?, &packages);
        self.packages = packages;
        all
    }

    /// The directory at `path`, made where it is missing, in place of files where there are some.
    fn directory(&mut self, package: Option<u32>, path: Option<&EnvPath>) -> &mut Directory {
        let mut clashes = Vec::new();
        let mut directory = &mut self.root;
        let mut depth = 0;
        for name in path.into_iter().flat_map(EnvPath::names) {
            depth += 1;
            let child = directory
                .children
                .entry(name.into())
                .or_insert_with(|| Child::Directory(Directory::default()));
            if let Child::Leaf(leaf) = child {
                clashes.push((depth, leaf.package));
                *child = Child::Directory(Directory::default());
            }
            directory = match child {
                Child::Directory(directory) => directory,
                Child::Leaf(_) | Child::Inherited(_) => {
                    unreachable!("leaves were replaced, and inherited ones come last")
                }
            };
        }
        for (depth, loser) in clashes {
            let names: Vec<_> = path.into_iter().flat_map(EnvPath::names).take(depth).collect();
            let (winner, loser) = (name_of(&self.packages, package), name_of(&self.packages, loser));
            let path = String::from_utf8_lossy(&names.join(&b'/')).into_owned();
            self.clashes.push(Clash { path, winner, loser });
        }
        directory
    }

    fn note_clash(&mut self, path: &EnvPath, winner: Option<u32>, old: &Child) {
        let loser = match old {
            Child::Leaf(leaf) => leaf.package,
            Child::Directory(directory) => first_package(directory),
            Child::Inherited(_) => None,
        };
        self.clashes.push(Clash {
            path: path.to_string(),
            winner: name_of(&self.packages, winner),
            loser: name_of(&self.packages, loser),
        });
    }
}

/// A package whose files are being added.
#[derive(Debug, Clone, Copy)]
pub struct PackageIndex(u32);

enum Flat<'a> {
    Borrowed(&'a Tree),
    Owned(Box<Tree>),
}

impl Flat<'_> {
    fn tree(&self) -> &Tree {
        match self {
            Self::Borrowed(tree) => tree,
            Self::Owned(tree) => tree,
        }
    }
}

/// Copies what is below `node` into `directory`; `package` gives numbers to the names of packages.
fn fill(directory: &mut Directory, tree: &Tree, node: Node<'_>, package: &mut dyn FnMut(&str) -> u32) -> Result<()> {
    for child in tree.children(node, 0)? {
        let child = child?;
        let filled = match child.kind()? {
            NodeKind::Directory => {
                let mut below = Directory::default();
                fill(&mut below, tree, child, package)?;
                Child::Directory(below)
            }
            kind => Child::Leaf(OwnedLeaf {
                leaf: if kind == NodeKind::Symlink {
                    Leaf::Symlink {
                        target: child.symlink_target()?.to_owned(),
                        mtime_s: child.mtime_s(),
                    }
                } else {
                    Leaf::File {
                        digest: child.digest(),
                        size_bytes: child.stored_bytes(),
                        mtime_s: child.mtime_s(),
                        executable: child.is_executable(),
                        placeholder: child.placeholder()?,
                    }
                },
                package: child.package()?.map(&mut *package),
            }),
        };
        directory.children.insert(child.name()?.into(), filled);
    }
    Ok(())
}

fn name_of(packages: &[Arc<str>], index: Option<u32>) -> String {
    index
        .and_then(|index| packages.get(index as usize))
        .map_or_else(|| "the environment".to_owned(), ToString::to_string)
}

fn first_package(directory: &Directory) -> Option<u32> {
    directory.children.values().find_map(|child| match child {
        Child::Leaf(leaf) => leaf.package,
        Child::Directory(directory) => first_package(directory),
        Child::Inherited(_) => None,
    })
}

fn inherit_directory(directory: &mut Directory, base: &Tree, node: Node<'_>, packages: &[Arc<str>]) -> Result<bool> {
    let mut all = directory.children.len() == node.child_count() as usize;
    for (name, child) in &mut directory.children {
        let Some(other) = base.lookup(node, name)? else {
            all = false;
            continue;
        };
        let same = match child {
            Child::Inherited(id) => *id == other.id(),
            Child::Leaf(leaf) => same_leaf(leaf, other, packages)?,
            Child::Directory(below) => {
                other.kind()? == NodeKind::Directory && inherit_directory(below, base, other, packages)?
            }
        };
        if same {
            *child = Child::Inherited(other.id());
        }
        all &= same;
    }
    Ok(all)
}

fn same_leaf(own: &OwnedLeaf, other: Node<'_>, packages: &[Arc<str>]) -> Result<bool> {
    let package = own
        .package
        .and_then(|index| packages.get(index as usize))
        .map(|name| &**name);
    if other.package()? != package {
        return Ok(false);
    }
    Ok(match (&own.leaf, other.kind()?) {
        (
            Leaf::File {
                digest,
                size_bytes,
                mtime_s,
                executable,
                placeholder,
            },
            NodeKind::File,
        ) => {
            *digest == other.digest()
                && *size_bytes == other.stored_bytes()
                && *mtime_s == other.mtime_s()
                && *executable == other.is_executable()
                && *placeholder == other.placeholder()?
        }
        (Leaf::Symlink { target, mtime_s }, NodeKind::Symlink) => {
            target == other.symlink_target()? && *mtime_s == other.mtime_s()
        }
        _ => false,
    })
}
