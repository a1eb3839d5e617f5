//! What `envfs serve` shows: an entrance to every environment of a store, by signature and by name, as it is now.
//!
//! ```text
//! <signature>/            also by its first digits, which are not listed
//! science:current/        also by `science`
//! team/proj:qa/
//!   lib -> <place>/lib    what lies in the environment, at the place where it is mounted
//!   bin/
//!     python -> <place>/bin/python
//! ```
//!
//! An entrance is of one environment: whoever has walked through it stays there when the name moves on. Programs are reached by
//! links, which Python follows when it looks for its library (getpath of CPython), so that no process depends on the name.
//! Knows nothing of mounting, nor of FUSE's messages.

use std::collections::{BTreeMap, HashMap};
use std::io;

use envfs_store::environment;
use envfs_store::name::Name;
use envfs_store::names::{Named, Names};
use envfs_store::path::MAX_NAME_BYTES;
use envfs_store::tree::{NodeId, NodeKind, Tree};
use envfs_store::{Digest, Store};
use serde::{Deserialize, Serialize};

use crate::fs::{FsError, ROOT_INODE};
use crate::journal::Journal;

/// The directory whose files are linked one by one.
const PROGRAMS: &[u8] = b"bin";

/// An inode number is the number of a place, and below it that of a node of its tree, from 1 on.
const NODE_BITS: u32 = 32;

/// The entrances of a store.
#[derive(Debug)]
pub(crate) struct Entrances {
    store: Store,
    /// Numbers are given once: nothing is ever taken away.
    places: Vec<Place>,
    numbers: HashMap<Place, u64>,
    /// Where a number is written down before anybody hears of it.
    journal: Journal,
}

/// What has a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Place {
    /// The root, or a directory of names: what they have in common, with a slash at its end.
    Names(String),
    /// An environment, by what it was called when it was found.
    Environment { called: String, signature: Digest },
}

/// Something that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) inode: u64,
    pub(crate) is_directory: bool,
}

/// Where a link leads: to `path` in an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) signature: Digest,
    pub(crate) path: Vec<u8>,
}

impl Entrances {
    /// Those of `store`, with the numbers that are in the `journal` of servers before this one.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(crate) fn of(store: &Store, journal: Journal) -> io::Result<Self> {
        let known: Vec<Place> = journal.lines()?;
        let places: Vec<Place> = std::iter::once(Place::Names(String::new())).chain(known).collect();
        Ok(Self {
            store: store.clone(),
            numbers: places.iter().cloned().zip(0..).collect(),
            places,
            journal,
        })
    }

    /// What `parent` shows as `name`, if it shows it.
    ///
    /// # Errors
    /// When `parent` is no directory, or the store is damaged.
    pub(crate) fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<Option<Item>, FsError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(FsError::NameTooLong(name.len()));
        }
        match self.place(parent)?.clone() {
            Place::Names(above) => match std::str::from_utf8(name) {
                Ok(name) => self.lookup_name(&above, name),
                Err(_) => Ok(None),
            },
            Place::Environment { signature, .. } => {
                let tree = self.tree(parent, &signature)?;
                let directory = tree.node(node_of(parent)?)?;
                if !is_entered(&tree, directory.id())? {
                    return Err(FsError::NotADirectory(parent));
                }
                let found = tree.lookup(directory, name)?;
                found.map(|node| below(parent, &tree, node.id())).transpose()
            }
        }
    }

    /// Whether `inode` is still there, and what it is.
    ///
    /// # Errors
    /// When it is not, or the store is damaged.
    pub(crate) fn item(&self, inode: u64) -> Result<Item, FsError> {
        match self.place(inode)? {
            Place::Names(_) => Ok(Item {
                inode,
                is_directory: true,
            }),
            Place::Environment { signature, .. } => {
                let tree = self.tree(inode, signature)?;
                below(inode, &tree, node_of(inode)?)
            }
        }
    }

    /// What the directory `inode` shows, sorted by name.
    ///
    /// # Errors
    /// When it is none, or the store is damaged.
    pub(crate) fn list(&mut self, inode: u64) -> Result<Vec<(Vec<u8>, Item)>, FsError> {
        let (above, signature) = match self.place(inode)? {
            Place::Names(above) => (above.clone(), None),
            Place::Environment { signature, .. } => (String::new(), Some(*signature)),
        };
        let Some(signature) = signature else {
            return self.list_names(&above);
        };
        let tree = self.tree(inode, &signature)?;
        let directory = tree.node(node_of(inode)?)?;
        if !is_entered(&tree, directory.id())? {
            return Err(FsError::NotADirectory(inode));
        }
        let mut items = Vec::new();
        for node in tree.children(directory, 0)? {
            let node = node?;
            items.push((node.name()?.to_vec(), below(inode, &tree, node.id())?));
        }
        Ok(items)
    }

    /// Where the link `inode` leads.
    ///
    /// # Errors
    /// When it is none, or the environment is not there any more.
    pub(crate) fn target(&self, inode: u64) -> Result<Target, FsError> {
        let Place::Environment { signature, .. } = self.place(inode)? else {
            return Err(FsError::WrongKind(inode));
        };
        let tree = self.tree(inode, signature)?;
        let node = tree.node(node_of(inode)?)?;
        if is_entered(&tree, node.id())? {
            return Err(FsError::WrongKind(inode));
        }
        Ok(Target {
            signature: *signature,
            path: tree.path(node)?,
        })
    }

    fn lookup_name(&mut self, above: &str, name: &str) -> Result<Option<Item>, FsError> {
        if above.is_empty()
            && let Ok(found) = environment::find(&self.store, name)
        {
            return Ok(Some(self.entrance(name.to_owned(), found.signature)?));
        }
        let called = format!("{above}{name}");
        let common = format!("{called}/");
        if !name.contains(':') && self.names()?.keys().any(|name| name.to_string().starts_with(&common)) {
            return Ok(Some(self.directory(common)?));
        }
        let Ok(name) = called.parse::<Name>() else {
            return Ok(None);
        };
        let Some(found) = Names::find(&self.store, &name)? else {
            return Ok(None);
        };
        let signature = found.named.current.signature;
        let is_built = environment::get(&self.store, &signature)?.is_some();
        is_built.then(|| self.entrance(called, signature)).transpose()
    }

    fn list_names(&mut self, above: &str) -> Result<Vec<(Vec<u8>, Item)>, FsError> {
        let mut items = BTreeMap::new();
        for (name, named) in self.names()? {
            let called = name.to_string();
            let Some(rest) = called.strip_prefix(above) else {
                continue;
            };
            let signature = named.current.signature;
            if let Some((first, _)) = rest.split_once('/') {
                items.insert(first.to_owned(), self.directory(format!("{above}{first}/"))?);
            } else if environment::get(&self.store, &signature)?.is_some() {
                items.insert(rest.to_owned(), self.entrance(called.clone(), signature)?);
            }
        }
        if above.is_empty() {
            // One whose record is damaged cannot be entered.
            for found in environment::list(&self.store)?.into_iter().flatten() {
                let called = found.signature.to_string();
                items.insert(called.clone(), self.entrance(called, found.signature)?);
            }
        } else if items.is_empty() {
            // Its last name was removed.
            return Err(FsError::NoSuchInode(ROOT_INODE));
        }
        Ok(items
            .into_iter()
            .map(|(name, item)| (name.into_bytes(), item))
            .collect())
    }

    /// All names here and in the store below. One whose file is damaged is found by nobody.
    fn names(&self) -> Result<BTreeMap<Name, Named>, FsError> {
        let found = Names::list_all(&self.store)?.into_iter().flatten();
        Ok(found.map(|found| (found.named.name.clone(), found.named)).collect())
    }

    fn place(&self, inode: u64) -> Result<&Place, FsError> {
        let index = usize::try_from(inode >> NODE_BITS).ok();
        let place = index.and_then(|index| self.places.get(index));
        place.ok_or(FsError::NoSuchInode(inode))
    }

    fn tree(&self, inode: u64, signature: &Digest) -> Result<Tree, FsError> {
        match environment::get(&self.store, signature)? {
            Some(environment) => Ok(self.store.tree(&environment.tree)?),
            None => Err(FsError::NoSuchInode(inode)),
        }
    }

    fn entrance(&mut self, called: String, signature: Digest) -> Result<Item, FsError> {
        self.numbered(Place::Environment { called, signature })
    }

    fn directory(&mut self, common: String) -> Result<Item, FsError> {
        self.numbered(Place::Names(common))
    }

    fn numbered(&mut self, place: Place) -> Result<Item, FsError> {
        let number = match self.numbers.get(&place) {
            Some(number) => *number,
            None => {
                self.journal.add(&place).map_err(FsError::Journal)?;
                let number = self.places.len() as u64;
                self.places.push(place.clone());
                self.numbers.insert(place, number);
                number
            }
        };
        Ok(Item {
            inode: (number << NODE_BITS) + ROOT_INODE,
            is_directory: true,
        })
    }
}

/// The node of `tree` as it is shown below the place of `inode`.
fn below(inode: u64, tree: &Tree, node: NodeId) -> Result<Item, FsError> {
    Ok(Item {
        inode: (inode >> NODE_BITS << NODE_BITS) + u64::from(node.0) + ROOT_INODE,
        is_directory: is_entered(tree, node)?,
    })
}

/// Whether a node is shown as a directory, and not as a link: the root, and that of the programs.
fn is_entered(tree: &Tree, node: NodeId) -> Result<bool, FsError> {
    let (root, node) = (tree.root()?, tree.node(node)?);
    if node.id() == root.id() {
        return Ok(true);
    }
    Ok(node.kind()? == NodeKind::Directory && node.name()? == PROGRAMS && tree.parent(node)?.id() == root.id())
}

fn node_of(inode: u64) -> Result<NodeId, FsError> {
    let number = (inode & u64::from(u32::MAX)).checked_sub(ROOT_INODE);
    let number = number.and_then(|number| u32::try_from(number).ok());
    number.map(NodeId).ok_or(FsError::NoSuchInode(inode))
}
