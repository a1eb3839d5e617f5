//! Turns a merged tree into the bytes of a tree file.

use std::collections::HashMap;
use std::sync::Arc;

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, Result};
use crate::store::{Location, Store};
use crate::tree::Tree;
use crate::tree::draft::{Child, DIRECTORY_MTIME_S, Directory, Leaf, OwnedLeaf};
use crate::tree::format::{self, NONE, RawHeader, RawNode, RawPackage};
use crate::wire::Writer;
use crate::workspace::Workspace;

/// A tree that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenTree {
    /// Its name.
    pub digest: Digest,
    /// How many bytes were written: 0 when it was there already.
    pub new_bytes: u64,
    /// How many of its nodes are its own.
    pub own_nodes: u32,
    /// Whether it stands on a base.
    pub base: Option<Digest>,
}

impl WrittenTree {
    pub(super) fn existing(digest: Digest, tree: &Tree) -> Self {
        Self {
            digest,
            new_bytes: 0,
            own_nodes: tree.own_count(),
            base: tree.base(),
        }
    }
}

/// Writes `root` on `base`.
pub(super) fn write(
    root: &Directory,
    packages: &[Arc<str>],
    store: &Store,
    workspace: &Workspace,
    base: Option<(Digest, &Tree)>,
) -> Result<WrittenTree> {
    // A base of which nothing is used would only keep it alive.
    let base = base.filter(|_| has_inherited(root));
    let mut tables = Tables::new(store, packages, base);
    tables.add_all(root)?;
    let own_nodes = tables.count(tables.nodes.len(), "files")?;
    let bytes = tables.finish(own_nodes)?;
    let digest = Digest::of(&bytes);
    let path = store.tree_path(&digest);
    let new_bytes = if path.exists() {
        0
    } else {
        durable::write(workspace.path(), &path, &bytes)?;
        store.stamps().note_written([(digest, path.as_path())].into_iter());
        bytes.len() as u64
    };
    Ok(WrittenTree {
        digest,
        new_bytes,
        own_nodes,
        base: base.map(|(digest, _)| digest),
    })
}

fn has_inherited(directory: &Directory) -> bool {
    directory.children.values().any(|child| match child {
        Child::Inherited(_) => true,
        Child::Directory(below) => has_inherited(below),
        Child::Leaf(_) => false,
    })
}

struct Tables<'a> {
    store: &'a Store,
    packages: &'a [Arc<str>],
    base: Option<(Digest, &'a Tree)>,
    nodes: Vec<RawNode>,
    /// Numbers of nodes; those of the base are marked and moved behind the own ones at the end.
    children: Vec<ChildRef>,
    packs: Vec<Digest>,
    pack_numbers: HashMap<Digest, u32>,
    package_numbers: HashMap<u32, u32>,
    package_table: Vec<RawPackage>,
    heap: Vec<u8>,
    max_prefix: Option<(u32, ChildRef)>,
}

#[derive(Clone, Copy)]
enum ChildRef {
    Own(u32),
    Base(u32),
}

impl<'a> Tables<'a> {
    fn new(store: &'a Store, packages: &'a [Arc<str>], base: Option<(Digest, &'a Tree)>) -> Self {
        let max_prefix = base.and_then(|(_, tree)| {
            let (bytes, node) = tree.max_prefix()?;
            Some((u32::try_from(bytes).ok()?, ChildRef::Base(node.0)))
        });
        Self {
            store,
            packages,
            base,
            nodes: Vec::new(),
            children: Vec::new(),
            packs: Vec::new(),
            pack_numbers: HashMap::new(),
            package_numbers: HashMap::new(),
            package_table: Vec::new(),
            heap: Vec::new(),
            max_prefix,
        }
    }

    /// Numbers the nodes level by level, so that the entries of a directory are neighbours.
    fn add_all(&mut self, root: &Directory) -> Result<()> {
        let root_node = self.directory_node(b"", 0)?;
        self.nodes.push(root_node);
        let mut level = vec![(0, root)];
        while !level.is_empty() {
            let mut next = Vec::new();
            for (number, directory) in level {
                self.add_children(number, directory, &mut next)?;
            }
            level = next;
        }
        Ok(())
    }

    fn add_children<'d>(
        &mut self,
        number: u32,
        directory: &'d Directory,
        next: &mut Vec<(u32, &'d Directory)>,
    ) -> Result<()> {
        let first_child = self.children.len() as u64;
        let mut subdirectories = 0;
        for (name, child) in &directory.children {
            let own = self.count(self.nodes.len(), "files")?;
            match child {
                Child::Inherited(id) => {
                    self.children.push(ChildRef::Base(id.0));
                    let (_, base) = self.base.expect("something was inherited");
                    subdirectories += u32::from(base.node(*id)?.kind()? == crate::tree::NodeKind::Directory);
                    continue;
                }
                Child::Directory(below) => {
                    let node = self.directory_node(name, number)?;
                    self.nodes.push(node);
                    next.push((own, below));
                    subdirectories += 1;
                }
                Child::Leaf(leaf) => {
                    let node = self.leaf_node(name, number, own, leaf)?;
                    self.nodes.push(node);
                }
            }
            self.children.push(ChildRef::Own(own));
        }
        let node = &mut self.nodes[number as usize];
        node.location.set(first_child);
        node.extent = U32::new(u32::try_from(directory.children.len()).unwrap_or(NONE));
        node.detail.set(subdirectories);
        Ok(())
    }

    fn directory_node(&mut self, name: &[u8], parent: u32) -> Result<RawNode> {
        let mut node = self.named_node(name, parent)?;
        node.kind = format::DIRECTORY;
        node.mtime_s.set(DIRECTORY_MTIME_S);
        Ok(node)
    }

    fn leaf_node(&mut self, name: &[u8], parent: u32, own: u32, leaf: &OwnedLeaf) -> Result<RawNode> {
        let mut node = self.named_node(name, parent)?;
        node.package.set(match leaf.package {
            Some(index) => self.package_number(index)?,
            None => NONE,
        });
        match &leaf.leaf {
            Leaf::Symlink { target, mtime_s } => {
                node.kind = format::SYMLINK;
                node.mtime_s.set(*mtime_s);
                node.size_bytes.set(target.len() as u64);
                node.location.set(self.append_to_heap(target)?.into());
            }
            Leaf::File {
                digest,
                size_bytes,
                mtime_s,
                executable,
                placeholder,
            } => {
                node.kind = format::FILE;
                node.flags = if *executable { format::EXECUTABLE } else { 0 };
                node.digest = *digest;
                node.size_bytes.set(*size_bytes);
                node.mtime_s.set(*mtime_s);
                match self.store.require(digest)? {
                    Location::Object => node.extent.set(NONE),
                    Location::Pack(pack, offset) => {
                        node.extent.set(self.pack_number(pack)?);
                        node.location.set(offset);
                    }
                }
                node.detail.set(NONE);
                if let Some(placeholder) = placeholder {
                    let mut record = Writer::default();
                    placeholder.write(&mut record);
                    node.detail.set(self.append_to_heap(&record.finish())?);
                    self.limit_prefix(placeholder.max_prefix_bytes(), own);
                }
            }
        }
        Ok(node)
    }

    fn named_node(&mut self, name: &[u8], parent: u32) -> Result<RawNode> {
        let mut node = RawNode::new_zeroed();
        node.name_offset.set(self.append_to_heap(name)?);
        node.name_bytes
            .set(u16::try_from(name.len()).map_err(|_| too_large(self.store, "bytes in a name"))?);
        node.parent.set(parent);
        node.package.set(NONE);
        Ok(node)
    }

    fn limit_prefix(&mut self, max_bytes: Option<usize>, own: u32) {
        let Some(max_bytes) = max_bytes.and_then(|max| u32::try_from(max).ok()) else {
            return;
        };
        if self.max_prefix.is_none_or(|(old, _)| max_bytes < old) {
            self.max_prefix = Some((max_bytes, ChildRef::Own(own)));
        }
    }

    fn pack_number(&mut self, pack: Digest) -> Result<u32> {
        if let Some(&number) = self.pack_numbers.get(&pack) {
            return Ok(number);
        }
        let number = self.count(self.packs.len(), "packs")?;
        self.packs.push(pack);
        self.pack_numbers.insert(pack, number);
        Ok(number)
    }

    /// Only packages that own something here stand in the table.
    fn package_number(&mut self, index: u32) -> Result<u32> {
        if let Some(&number) = self.package_numbers.get(&index) {
            return Ok(number);
        }
        let number = self.count(self.package_table.len(), "packages")?;
        let name = Arc::clone(&self.packages[index as usize]);
        let name_offset = U32::new(self.append_to_heap(name.as_bytes())?);
        let name_bytes = U32::new(self.count(name.len(), "bytes in a name")?);
        self.package_table.push(RawPackage {
            name_offset,
            name_bytes,
        });
        self.package_numbers.insert(index, number);
        Ok(number)
    }

    fn append_to_heap(&mut self, bytes: &[u8]) -> Result<u32> {
        let offset = self.count(self.heap.len(), "bytes of names")?;
        self.heap.extend(bytes);
        Ok(offset)
    }

    fn count(&self, len: usize, what: &str) -> Result<u32> {
        u32::try_from(len)
            .ok()
            .filter(|&len| len < NONE)
            .ok_or_else(|| too_large(self.store, what))
    }

    fn finish(self, own_nodes: u32) -> Result<Vec<u8>> {
        let number = |child| match child {
            ChildRef::Own(number) => number,
            ChildRef::Base(number) => number + own_nodes,
        };
        let base_nodes = self.base.map_or(0, |(_, tree)| tree.own_count());
        if own_nodes.checked_add(base_nodes).is_none() {
            return Err(too_large(self.store, "files"));
        }
        let children: Vec<U32> = self.children.iter().map(|&child| U32::new(number(child))).collect();
        let mut header = RawHeader::new_zeroed();
        header.magic = format::MAGIC;
        header.version.set(format::VERSION);
        header.node_count.set(own_nodes);
        header.child_count.set(self.count(children.len(), "files")?);
        header.pack_count.set(self.count(self.packs.len(), "packs")?);
        header
            .package_count
            .set(self.count(self.package_table.len(), "packages")?);
        header.base_node_count.set(base_nodes);
        header.base = self.base.map_or(Digest::from_bytes([0; 32]), |(digest, _)| digest);
        header
            .max_prefix_bytes
            .set(self.max_prefix.map_or(NONE, |(bytes, _)| bytes));
        header
            .max_prefix_node
            .set(self.max_prefix.map_or(NONE, |(_, child)| number(child)));

        let mut bytes = vec![0; size_of::<RawHeader>()];
        let mut section = |table: &[u8]| {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let offset = bytes.len() as u64;
            bytes.extend(table);
            offset
        };
        header.nodes_offset.set(section(self.nodes.as_bytes()));
        header.children_offset.set(section(children.as_bytes()));
        header.packs_offset.set(section(self.packs.as_bytes()));
        header.packages_offset.set(section(self.package_table.as_bytes()));
        header.heap_offset.set(section(&self.heap));
        header.heap_bytes.set(self.heap.len() as u64);
        bytes[..size_of::<RawHeader>()].copy_from_slice(header.as_bytes());
        Ok(bytes)
    }
}

/// The environment does not fit into the fields of a tree.
fn too_large(store: &Store, what: &str) -> Error {
    Error::corrupt(store.root(), format!("an environment has too many {what} for one tree"))
}
