//! Putting back what can be had somewhere: from packs that are damaged, other stores, and what was built again.
//!
//! What comes is checked as it comes, and stands under its name only when it is whole and durable. A pack is written again as
//! it was, byte by byte, where all that was in it can be had.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::aside::Aside;
use super::content;
use super::references::References;
use super::{Finding, Kind};
use crate::digest::{Digest, Sha256};
use crate::durable::{self, Draft};
use crate::environment;
use crate::error::{Error, IoContext, Result};
use crate::ingest::Ingest;
use crate::pack::{self, MIN_WHOLE_BYTES, PackEntry, PackWriter};
use crate::store::{ObjectBytes, Store};
use crate::tree::Tree;
use crate::workspace::Workspace;

/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Puts things back into a store.
pub(super) struct Mender<'a> {
    pub(super) store: &'a Store,
    pub(super) workspace: Workspace,
    pub(super) aside: Aside<'a>,
    /// What packs held that were put aside, and the packs that what was whole of it went to.
    salvaged: BTreeMap<Digest, (Vec<PackEntry>, Option<Digest>)>,
}

impl<'a> Mender<'a> {
    pub(super) fn new(store: &'a Store) -> Result<Self> {
        Ok(Self {
            store,
            workspace: Workspace::create(store)?,
            aside: Aside::new(store),
            salvaged: BTreeMap::new(),
        })
    }

    /// Gives files their names that stand under those of others. Each exchange puts one right, and whoever is killed between two
    /// has lost nothing.
    pub(super) fn rename(&self, findings: &[Finding]) -> Result<()> {
        let mut wrong: BTreeSet<&Path> = findings.iter().map(|finding| finding.path.as_path()).collect();
        let mut alone = None;
        for finding in findings.iter().filter(|finding| !finding.is_missing) {
            let path = finding.path.as_path();
            // What comes here from there is put right in turn.
            while let Some(place) = content::own_place(self.store, finding.kind, path)
                && place != path
                && wrong.remove(place.as_path())
            {
                if alone.is_none() {
                    alone = Some(self.store.exclude()?);
                }
                durable::create_directory(parent(&place))?;
                if !self.exchange(path, &place)? {
                    break;
                }
            }
        }
        if alone.is_some() {
            self.store.forget_packs();
        }
        Ok(())
    }

    /// Gives two files the names of each other; says whether there was one at `place`.
    fn exchange(&self, path: &Path, place: &Path) -> Result<bool> {
        let was_there = match durable::exchange(path, place)? {
            Some(was_there) => was_there,
            None => {
                let aside = self.aside.take(place)?;
                durable::replace(path, place)?;
                if let Some(aside) = &aside {
                    durable::replace(aside, path)?;
                }
                aside.is_some()
            }
        };
        [path, place]
            .map(parent)
            .into_iter()
            .try_for_each(durable::sync_directory)?;
        Ok(was_there)
    }

    /// Brings what `findings` miss, as far as `donors` have it.
    pub(super) fn bring(&self, findings: &[Finding], references: &References, donors: &[Store]) -> Result<()> {
        let of = |kind: Kind| findings.iter().filter(move |finding| finding.kind == kind);
        self.packs(of(Kind::Pack), references, donors)?;
        let lost = of(Kind::Object).filter_map(|finding| finding.name.parse().ok());
        self.objects(
            lost.map(|digest| (digest, references.objects.get(&digest).copied())),
            donors,
        )?;
        for finding in of(Kind::Layer) {
            if let Ok(name) = finding.name.parse() {
                self.layer(&name, donors)?;
            }
        }
        for finding in of(Kind::Tree) {
            if let Ok(name) = finding.name.parse() {
                self.tree(&name, donors)?;
            }
        }
        for finding in of(Kind::Environment) {
            if let Ok(signature) = finding.name.parse() {
                self.environment(&signature, donors)?;
            }
        }
        self.drop_salvage()
    }

    /// Objects of which some are not known to be large or small.
    fn objects(&self, wanted: impl Iterator<Item = (Digest, Option<u64>)>, donors: &[Store]) -> Result<()> {
        let mut ingest = Ingest::new(self.store, &self.workspace)?;
        for (digest, size_bytes) in wanted {
            match size_bytes {
                Some(size_bytes) if size_bytes < MIN_WHOLE_BYTES as u64 => {
                    if let Some(bytes) = small(donors, &digest, size_bytes) {
                        ingest.add_bytes(&bytes)?;
                    }
                }
                _ => drop(self.whole(&digest, donors)?),
            }
        }
        ingest.publish().map(drop)
    }

    /// A whole object.
    fn whole(&self, digest: &Digest, donors: &[Store]) -> Result<bool> {
        let place = self.store.own_object_path(digest);
        for donor in donors {
            let from = donor.object_path(digest);
            if from == place {
                continue;
            }
            if let Some(draft) = self.copy(&from, digest)? {
                let shard = parent(&place);
                durable::create_directory(shard)?;
                self.aside.keep(&place)?;
                draft.sync()?;
                draft.publish(&place)?;
                durable::sync_directory(shard)?;
                durable::sync_directory(parent(shard))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A copy of the file at `from`, if its bytes are those that `digest` names.
    fn copy(&self, from: &Path, digest: &Digest) -> Result<Option<Draft>> {
        let Ok(mut file) = File::open(from) else {
            return Ok(None);
        };
        let mut draft = Draft::create(self.workspace.path())?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let Ok(len) = file.read(&mut buffer) else {
                return Ok(None);
            };
            if len == 0 {
                let is_right = hasher.finalize().as_bytes() == digest.as_bytes();
                return Ok(is_right.then_some(draft));
            }
            hasher.update(&buffer[..len]);
            draft.write_all(&buffer[..len])?;
        }
    }

    /// Packs as they were: those that are damaged, and those that trees or a salvage remember.
    fn packs<'f>(
        &self,
        damaged: impl Iterator<Item = &'f Finding>,
        references: &References,
        donors: &[Store],
    ) -> Result<()> {
        let damaged = damaged.filter_map(|finding| finding.name.parse().ok());
        let is_gone = |id: &&Digest| !self.store.pack_path(id).exists();
        let gone = references.packs.keys().filter(is_gone).copied();
        let ids: BTreeSet<Digest> = damaged.chain(gone).chain(self.salvaged.keys().copied()).collect();
        for id in ids {
            if let Some(entries) = self.entries(&id, references) {
                self.pack(&id, entries, donors)?;
            }
        }
        Ok(())
    }

    /// What the pack holds or held, if that is known whole.
    fn entries(&self, id: &Digest, references: &References) -> Option<Vec<PackEntry>> {
        if let Some((entries, _)) = self.salvaged.get(id) {
            return Some(entries.clone()).filter(|entries| pack::id_of(&mut entries.clone()) == *id);
        }
        let index = pack::read_index(&self.store.own_pack_path(id)).ok();
        let told = references.packs.get(id).cloned();
        let known = index.into_iter().chain(told);
        known
            .into_iter()
            .find(|entries| pack::id_of(&mut entries.clone()) == *id)
    }

    fn pack(&self, id: &Digest, mut entries: Vec<PackEntry>, donors: &[Store]) -> Result<bool> {
        let place = self.store.own_pack_path(id);
        let file = File::open(&place).ok();
        entries.sort_unstable_by_key(|entry| (entry.offset_bytes, entry.size_bytes));
        let mut writer = PackWriter::create(self.workspace.path())?;
        for entry in entries {
            let here = file.as_ref().and_then(|file| pack::read_object(file, &entry));
            let found = here.or_else(|| {
                let size_bytes = u64::from(entry.size_bytes);
                let own = small(std::slice::from_ref(self.store), &entry.digest, size_bytes);
                own.or_else(|| small(donors, &entry.digest, size_bytes))
            });
            match found {
                Some(bytes) => drop(writer.append(entry.digest, &bytes)?),
                None => return Ok(false),
            }
        }
        let sealed = writer.seal()?;
        if sealed.id != *id {
            return Ok(false);
        }
        self.aside.keep(&place)?;
        sealed.draft.publish(&place)?;
        durable::sync_directory(parent(&place))?;
        self.store.forget_packs();
        Ok(true)
    }

    /// A layer, with what it lists.
    fn layer(&self, name: &Sha256, donors: &[Store]) -> Result<()> {
        for donor in donors {
            let Ok(layer) = content::layer(&donor.layer_path(name)) else {
                continue;
            };
            self.missing(layer.objects(), donors)?;
            let place = self.store.layer_path(name);
            self.aside.keep(&place)?;
            match layer.publish(self.store, &self.workspace) {
                // What it lists cannot be had either, from this donor.
                Err(Error::Missing { .. } | Error::Corrupt { .. }) => {}
                result => return result.map(drop),
            }
        }
        Ok(())
    }

    /// A tree, with the one below it and its objects. Says whether it is there.
    fn tree(&self, name: &Digest, donors: &[Store]) -> Result<bool> {
        let place = self.store.path(&format!("trees/{name}"));
        for donor in donors {
            let from = donor.tree_path(name);
            if from == place || content::verify_bytes(&from, name).is_err() {
                continue;
            }
            let Ok(tree) = Tree::open(&from, |base| donor.tree_path(base)) else {
                continue;
            };
            if let Some(base) = tree.base()
                && content::verify_bytes(&self.store.tree_path(&base), &base).is_err()
                && !self.tree(&base, donors)?
            {
                continue;
            }
            let files = tree.files(true).flatten();
            self.missing(files.map(|node| (node.digest(), node.stored_bytes())), donors)?;
            let bytes = fs::read(&from).at("read", &from)?;
            self.aside.keep(&place)?;
            durable::write(self.workspace.path(), &place, &bytes)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The record of an environment, with all that it stands on.
    pub(super) fn environment(&self, signature: &Digest, donors: &[Store]) -> Result<bool> {
        self.environment_below(signature, donors, &mut Vec::new())
    }

    /// `heirs` are waiting for it, and it cannot stand on them.
    fn environment_below(&self, signature: &Digest, donors: &[Store], heirs: &mut Vec<Digest>) -> Result<bool> {
        for donor in donors {
            let Ok(Some(found)) = environment::get(donor, signature) else {
                continue;
            };
            if let Some(base) = &found.base
                && !matches!(environment::get(self.store, base), Ok(Some(_)))
            {
                heirs.push(*signature);
                let is_there = !heirs.contains(base) && self.environment_below(base, donors, heirs)?;
                heirs.pop();
                if !is_there {
                    continue;
                }
            }
            let is_whole = content::verify_bytes(&self.store.tree_path(&found.tree), &found.tree).is_ok();
            match self.store.tree(&found.tree) {
                // What only this record refers to was not missed without it.
                Ok(tree) if is_whole => {
                    let files = tree.files(true).flatten();
                    self.missing(files.map(|node| (node.digest(), node.stored_bytes())), donors)?;
                }
                _ if self.tree(&found.tree, donors)? => {}
                _ => continue,
            }
            for layer in super::references::layers_of(&found) {
                if !self.store.has_layer(&layer) {
                    self.layer(&layer, donors)?;
                }
            }
            self.aside.keep(&environment::own_path(self.store, signature))?;
            match found.publish(self.store, &self.workspace) {
                Err(Error::Missing { .. } | Error::Corrupt { .. }) => {}
                result => return result.map(|_| true),
            }
        }
        Ok(false)
    }

    /// Those of `objects` that are not there.
    fn missing(&self, objects: impl Iterator<Item = (Digest, u64)>, donors: &[Store]) -> Result<()> {
        let is_missing = |digest: &Digest| self.store.require(digest).is_err();
        let missing = objects.filter(|(digest, _)| is_missing(digest));
        self.objects(missing.map(|(digest, size_bytes)| (digest, Some(size_bytes))), donors)
    }

    /// Puts a damaged pack aside, after what is whole in it was written elsewhere. Says where it went.
    pub(super) fn salvage(&mut self, path: &Path, references: &References) -> Result<Option<PathBuf>> {
        let Ok(id) = content::parse_name::<Digest>(path) else {
            return self.take(path);
        };
        let told = references.packs.get(&id).cloned().unwrap_or_default();
        let known = self.entries(&id, references).unwrap_or_else(|| told.clone());
        let mut by_place = pack::read_index(path).unwrap_or(told);
        by_place.sort_unstable_by_key(|entry| (entry.offset_bytes, entry.size_bytes));
        let mut writer = PackWriter::create(self.workspace.path())?;
        if let Ok(file) = File::open(path) {
            for entry in by_place {
                if let Some(bytes) = pack::read_object(&file, &entry) {
                    writer.append(entry.digest, &bytes)?;
                }
            }
        }
        let mut rest = None;
        if !writer.is_empty() {
            let sealed = writer.seal()?;
            let place = self.store.own_pack_path(&sealed.id);
            sealed.draft.publish(&place)?;
            durable::sync_directory(parent(&place))?;
            if sealed.id == id {
                // It could not be read a moment ago, and can be now: it was replaced by itself, and must not go.
                self.store.forget_packs();
                return Ok(Some(path.to_owned()));
            }
            rest = Some(sealed.id);
        }
        let taken = self.take(path)?;
        self.store.forget_packs();
        self.salvaged.insert(id, (known, rest));
        Ok(taken)
    }

    /// Puts a file aside while nobody else can begin to rely on it. Says where it went.
    pub(super) fn take(&self, path: &Path) -> Result<Option<PathBuf>> {
        let _alone = self.store.exclude()?;
        self.aside.take(path)
    }

    /// Removes what was only kept until its pack was whole again.
    fn drop_salvage(&self) -> Result<()> {
        for (id, (_, rest)) in &self.salvaged {
            let Some(rest) = rest.as_ref().filter(|_| self.store.own_pack_path(id).exists()) else {
                continue;
            };
            let _alone = self.store.exclude()?;
            durable::remove(&self.store.own_pack_path(rest))?;
            self.store.forget_packs();
        }
        Ok(())
    }
}

/// The bytes of a small object, from the first of `donors` that has them.
fn small(donors: &[Store], digest: &Digest, size_bytes: u64) -> Option<Vec<u8>> {
    donors.iter().find_map(|donor| {
        let location = donor.locate(digest).ok()??;
        match donor.open_object(digest, size_bytes, location).ok()? {
            ObjectBytes::Small(bytes) => Some(bytes),
            ObjectBytes::Whole(_) => {
                let bytes = fs::read(donor.object_path(digest)).ok()?;
                (Digest::of(&bytes) == *digest).then_some(bytes)
            }
        }
    })
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
