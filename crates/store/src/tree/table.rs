//! One mapped tree file: its tables, read with their bounds checked.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use zerocopy::FromBytes;

use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::tree::format::{self, RawHeader, RawNode, RawPackage};

/// One tree file.
pub(super) struct Table {
    pub(super) path: PathBuf,
    pub(super) map: Mmap,
    pub(super) header: RawHeader,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.path).finish()
    }
}

impl Table {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).at("open", path)?;
        #[expect(unsafe_code, reason = "mapping a file is unsafe: someone could truncate it")]
        // SAFETY: files of the store are written once, renamed into place with mode 0444 and never changed or
        // truncated; they are only unlinked, which leaves the mapping alone.
        let map = unsafe { Mmap::map(&file) }.at("map", path)?;
        #[cfg(target_os = "linux")]
        // What is mapped counts as memory of a server: of a huge page, 2 MiB for one name. Where that is refused it only counts more.
        let _ = map.advise(memmap2::Advice::NoHugePage);
        let (header, _) = RawHeader::read_from_prefix(&map).map_err(|_| Error::corrupt(path, "it is cut off"))?;
        let table = Self {
            path: path.to_owned(),
            map,
            header,
        };
        table.check_header()?;
        Ok(table)
    }

    pub(super) fn unload(&self) {
        #[expect(unsafe_code, reason = "this advice makes memory that was written to lose it")]
        // SAFETY: nothing is written to this map; what is touched again is read from the same file.
        let advised = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
        // Only advice.
        let _ = advised;
    }

    fn check_header(&self) -> Result<()> {
        let header = &self.header;
        if header.magic != format::MAGIC {
            return Err(self.corrupt("it does not start as a tree does"));
        }
        if header.version.get() != format::VERSION {
            return Err(Error::NewerFormat {
                path: self.path.clone(),
                what: format!("tree version {}", header.version),
            });
        }
        let len = self.map.len() as u64;
        let tables = [
            (header.nodes_offset, header.node_count, size_of::<RawNode>()),
            (header.children_offset, header.child_count, 4),
            (header.packs_offset, header.pack_count, 32),
            (header.packages_offset, header.package_count, size_of::<RawPackage>()),
        ];
        let tables_fit = tables
            .iter()
            .all(|(offset, count, size)| offset.get().saturating_add(u64::from(count.get()) * *size as u64) <= len);
        if !tables_fit || header.heap_offset.get().saturating_add(header.heap_bytes.get()) > len {
            return Err(self.corrupt("its tables leave the file"));
        }
        if header
            .node_count
            .get()
            .checked_add(header.base_node_count.get())
            .is_none()
        {
            return Err(self.corrupt("it counts more nodes than there are numbers"));
        }
        Ok(())
    }

    pub(super) fn node(&self, index: u32) -> Result<&RawNode> {
        if index >= self.header.node_count.get() {
            return Err(self.corrupt(format!("there is no node {index}")));
        }
        let offset = self.header.nodes_offset.get() + u64::from(index) * size_of::<RawNode>() as u64;
        let bytes = self.bytes(offset, size_of::<RawNode>() as u64)?;
        RawNode::ref_from_bytes(bytes).map_err(|_| self.corrupt("its node table"))
    }

    pub(super) fn pack(&self, index: u32) -> Result<Digest> {
        if index >= self.header.pack_count.get() {
            return Err(self.corrupt(format!("there is no pack {index}")));
        }
        let bytes = self.bytes(self.header.packs_offset.get() + u64::from(index) * 32, 32)?;
        Digest::read_from_bytes(bytes).map_err(|_| self.corrupt("its pack table"))
    }

    pub(super) fn package(&self, index: u32) -> Result<&str> {
        if index >= self.header.package_count.get() {
            return Err(self.corrupt(format!("there is no package {index}")));
        }
        let size = size_of::<RawPackage>() as u64;
        let bytes = self.bytes(self.header.packages_offset.get() + u64::from(index) * size, size)?;
        let raw = RawPackage::ref_from_bytes(bytes).map_err(|_| self.corrupt("its package table"))?;
        let name = self.heap(raw.name_offset.get().into(), raw.name_bytes.get().into())?;
        std::str::from_utf8(name).map_err(|_| self.corrupt("the name of a package is not UTF-8"))
    }

    pub(super) fn heap(&self, offset: u64, len: u64) -> Result<&[u8]> {
        if offset.saturating_add(len) > self.header.heap_bytes.get() {
            return Err(self.corrupt("something leaves its heap"));
        }
        self.bytes(self.header.heap_offset.get() + offset, len)
    }

    pub(super) fn heap_from(&self, offset: u64) -> Result<&[u8]> {
        let len = self.header.heap_bytes.get().checked_sub(offset);
        self.heap(offset, len.ok_or_else(|| self.corrupt("something leaves its heap"))?)
    }

    pub(super) fn bytes(&self, offset: u64, len: u64) -> Result<&[u8]> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        range
            .and_then(|(offset, len)| self.map.get(offset..offset.checked_add(len)?))
            .ok_or_else(|| self.corrupt("it is cut off"))
    }

    pub(super) fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(&self.path, what)
    }
}
