//! Moving what is not alive to the trash, and unlinking it there.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Collected, Live, Machine, Options, repack};
use crate::answers;
use crate::built;
use crate::cache::{Cache, Keep};
use crate::clock;
use crate::digest::Digest;
use crate::environment;
use crate::error::Result;
use crate::lease;
use crate::pack;
use crate::store::{Store, list};
use crate::trace;
use crate::trash::{self, Generation};
use crate::workspace::{self, Workspace};

/// How much is moved while nobody else may begin to rely on anything: some milliseconds of work.
const BATCH_FILES: usize = 256;

/// A collection on its way.
pub(super) struct Sweep<'a> {
    store: &'a Store,
    workspace: &'a Workspace,
    /// When the collection began.
    started: SystemTime,
    /// What was written since is left alone.
    young_since: SystemTime,
    /// How much may be left.
    max_bytes: Option<u64>,
    dry_run: bool,
    /// In a dry run, the environments that would go and are still in their places. In another one they are gone, and what is
    /// in its place again was built meanwhile.
    doomed: HashSet<Digest>,
    live: Live,
    /// Where to; begun with the first thing that goes.
    generation: Option<Generation>,
    /// In a dry run, what the objects, packs, layers and trees take that would go.
    swept_bytes: u64,
    collected: Collected,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(store: &'a Store, workspace: &'a Workspace, started: SystemTime, options: &Options) -> Self {
        Self {
            store,
            workspace,
            started,
            young_since: started - options.grace,
            max_bytes: options.max_bytes,
            dry_run: options.dry_run,
            doomed: HashSet::new(),
            live: Live::default(),
            generation: None,
            swept_bytes: 0,
            collected: Collected::default(),
        }
    }

    /// Moves the records of `chosen`, those of them that `confirm` gives back while nobody can begin to use one.
    pub(super) fn environments(
        &mut self,
        chosen: HashSet<Digest>,
        confirm: impl FnOnce(HashSet<Digest>) -> Result<HashSet<Digest>>,
    ) -> Result<()> {
        if chosen.is_empty() {
            return Ok(());
        }
        let _alone = self.store.exclude()?;
        let confirmed = confirm(chosen)?;
        if confirmed.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            self.doomed.clone_from(&confirmed);
        } else {
            self.note_writers()?;
        }
        // What inherits goes before what it inherits from: each record that stays has its base.
        let mut signatures: Vec<_> = confirmed.into_iter().collect();
        signatures.sort_by_cached_key(|signature| {
            let environment = environment::get(self.store, signature).ok().flatten();
            let depth = environment.map_or(0, |environment| environment.bases(self.store).count());
            (std::cmp::Reverse(depth), *signature)
        });
        for signature in signatures {
            self.take("environments", &environment::own_path(self.store, &signature))?;
            self.collected.environments.push(signature);
        }
        self.sync(&["environments"])
    }

    /// Finds out what is alive.
    pub(super) fn mark(&mut self) -> Result<()> {
        self.live.mark_environments(self.store, &self.doomed)?;
        self.live.mark_layers_of_the_living(self.store)
    }

    /// Moves layers and trees that no environment holds.
    pub(super) fn layers_and_trees(&mut self) -> Result<()> {
        let layers = list(&self.store.path("layers"))?;
        self.collected.layers = self.batches("layers", layers, |live, path| {
            name_of(path).is_some_and(|name| !live.has_layer(&name))
        })?;
        let trees = list(&self.store.path("trees"))?;
        self.collected.trees = self.batches("trees", trees, |live, path| {
            name_of(path).is_some_and(|name| !live.has_tree(&name))
        })?;
        self.sync(&["layers", "trees"])
    }

    /// Moves objects that nothing holds, and packs in which there is nothing else; packs in which there is little else are
    /// written anew first.
    pub(super) fn packs_and_objects(&mut self) -> Result<()> {
        self.mark_layers_that_stay()?;
        for shard in list(&self.store.path("objects"))? {
            self.collected.objects += self.batches("objects", list(&shard)?, |live, path| {
                name_of(path).is_some_and(|name| !live.has_object(&name))
            })?;
        }
        let packs = list(&self.store.path("packs"))?;
        let is_dead = |live: &Live, path: &Path| {
            pack::read_index(path).is_ok_and(|entries| entries.iter().all(|entry| !live.has_object(&entry.digest)))
        };
        self.collected.packs = self.batches("packs", packs, is_dead)?;
        self.rewrite_packs()
    }

    fn rewrite_packs(&mut self) -> Result<()> {
        let packs = list(&self.store.path("packs"))?.into_iter();
        let old: Vec<PathBuf> = packs.filter(|path| self.is_old(path)).collect();
        let mut elsewhere = HashSet::new();
        let excess_bytes = match self.max_bytes {
            Some(max_bytes) => self.left_bytes()?.saturating_sub(max_bytes),
            None => 0,
        };
        let sparse = repack::sparse(&old, &self.live, excess_bytes, &mut elsewhere)?;
        if sparse.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            self.collected.rewritten_packs = sparse.len() as u64;
            let dead_bytes = sparse.iter().map(repack::Sparse::dead_bytes).sum::<u64>();
            self.collected.freed_bytes += dead_bytes;
            self.swept_bytes += dead_bytes;
            return Ok(());
        }
        let rewritten = repack::rewrite(self.store, self.workspace, &sparse)?;
        self.collected.freed_bytes = self.collected.freed_bytes.saturating_sub(rewritten.bytes);
        let paths = sparse.into_iter().map(|pack| pack.path).collect();
        let is_kept = |digest: &Digest| rewritten.objects.contains(digest) || elsewhere.contains(digest);
        self.collected.rewritten_packs = self.batches("packs", paths, |live, path| {
            // What came to life while the pack was written anew is only in the old one.
            pack::read_index(path).is_ok_and(|entries| {
                entries
                    .iter()
                    .all(|entry| !live.has_object(&entry.digest) || is_kept(&entry.digest))
            })
        })?;
        Ok(())
    }

    /// Removes copies from the cache that nothing needs: of packs that no tree names, and of files at places where nothing is
    /// mounted.
    pub(super) fn cache(&mut self, machine: &dyn Machine) -> Result<()> {
        let Some(boot) = machine.boot() else { return Ok(()) };
        let Some(cache) = Cache::existing(self.store, &boot) else {
            return Ok(());
        };
        let uses = machine.uses()?;
        // Whoever begins to mount is known by its claim.
        let _alone = self.store.exclude()?;
        self.live.mark_environments(self.store, &self.doomed)?;
        let mut keep = Keep::default();
        for signature in self.live.environments() {
            keep.add_prefix(&machine.usual_place(signature));
            if let Some(environment) = environment::get(self.store, signature)? {
                keep.add_tree(&self.store.tree(&environment.tree)?)?;
            }
        }
        uses.iter().for_each(|used| keep.add_prefix(&used.mount_point));
        for lease in lease::list(self.store)? {
            keep.is_linking |= lease.kind == lease::LeaseKind::Claim;
            keep.add_prefix(&lease.mount_point);
        }
        // What is put aside is removed with the workspace.
        let evicted = cache.evict(&keep, self.workspace, self.dry_run)?;
        self.collected.cached += evicted.files;
        self.collected.freed_bytes += evicted.bytes;
        Ok(())
    }

    /// Removes what is made again when it is missed: answers that nobody asks for, traces of trees and wheels of layers that are
    /// gone.
    pub(super) fn remade(&mut self) -> Result<()> {
        self.collected.freed_bytes += answers::sweep(self.store, self.started, self.dry_run)?;
        // Whoever writes may be about to read a wheel that it was told of.
        if self.dry_run || !self.living_writers()?.is_empty() {
            return Ok(());
        }
        let _alone = self.store.exclude()?;
        trace::sweep(self.store)?;
        self.collected.freed_bytes += built::sweep(self.store, |path| !self.is_old(path))?;
        Ok(())
    }

    /// Unlinks what is in the trash, and on which nobody can rely any more.
    pub(super) fn unlink(&mut self) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        for generation in Generation::all(self.store.root())? {
            let living = self.living_writers()?;
            if generation.waits().iter().any(|name| living.contains(name)) {
                for kind in trash::KINDS {
                    self.collected.waiting_bytes += generation
                        .contents(kind)?
                        .iter()
                        .map(|path| disk_bytes(path))
                        .sum::<u64>();
                }
                continue;
            }
            let alone = self.store.exclude()?;
            self.put_back_the_living(&generation)?;
            generation.seal()?;
            drop(alone);
        }
        trash::unlink_sealed(self.store.root())
    }

    pub(super) fn finish(mut self) -> Result<Collected> {
        self.collected.left_bytes = self.left_bytes()?;
        Ok(self.collected)
    }

    /// What is left of objects, packs, layers and trees: what lies in their places, and in a dry run what would.
    fn left_bytes(&self) -> Result<u64> {
        let mut paths = Vec::new();
        for kind in ["packs", "layers", "trees"] {
            paths.extend(list(&self.store.path(kind))?);
        }
        for shard in list(&self.store.path("objects"))? {
            paths.extend(list(&shard)?);
        }
        let bytes: u64 = paths.iter().map(|path| disk_bytes(path)).sum();
        let would_go = if self.dry_run { self.swept_bytes } else { 0 };
        Ok(bytes.saturating_sub(would_go))
    }

    /// What is alive is not in the trash. Should it be, whatever the reason, it is not unlinked.
    fn put_back_the_living(&mut self, generation: &Generation) -> Result<()> {
        self.live.mark_environments(self.store, &self.doomed)?;
        let root = self.store.root();
        for aside in generation.contents("objects")? {
            if let Some(name) = name_of::<Digest>(&aside)
                && self.live.has_object(&name)
                && !self.store.object_path(&name).exists()
            {
                trash::restore(root, "objects", &self.store.object_path(&name));
            }
        }
        self.store.reload()?;
        for aside in generation.contents("packs")? {
            let entries = pack::read_index(&aside).unwrap_or_default();
            let is_missed = |digest: &Digest| {
                self.live.has_object(digest) && self.store.locate(digest).is_ok_and(|found| found.is_none())
            };
            if entries.iter().any(|entry| is_missed(&entry.digest))
                && let Some(name) = aside.file_name()
            {
                trash::restore(root, "packs", &self.store.path("packs").join(name));
            }
        }
        for aside in generation.contents("trees")? {
            if let Some(name) = name_of::<Digest>(&aside)
                && self.live.has_tree(&name)
            {
                trash::restore(root, "trees", &self.store.tree_path(&name));
            }
        }
        Ok(())
    }

    /// Moves those of `paths` that are dead and not young, and says how many. `is_dead` is asked again when nobody else can
    /// begin to rely on them.
    fn batches(&mut self, kind: &str, paths: Vec<PathBuf>, is_dead: impl Fn(&Live, &Path) -> bool) -> Result<u64> {
        let dead: Vec<PathBuf> = paths
            .into_iter()
            .filter(|path| self.is_old(path) && is_dead(&self.live, path))
            .collect();
        let mut moved = 0;
        for batch in dead.chunks(BATCH_FILES) {
            let _alone = self.store.exclude()?;
            self.begin_batch()?;
            if matches!(kind, "packs" | "objects") {
                self.mark_layers_that_stay()?;
            }
            for path in batch {
                if self.is_old(path) && is_dead(&self.live, path) {
                    self.take(kind, path)?;
                    moved += 1;
                }
            }
        }
        Ok(moved)
    }

    fn take(&mut self, kind: &str, path: &Path) -> Result<()> {
        let bytes = disk_bytes(path);
        self.collected.freed_bytes += bytes;
        if self.dry_run {
            // Records are not counted as what may be too much.
            self.swept_bytes += if kind == "environments" { 0 } else { bytes };
            return Ok(());
        }
        match &self.generation {
            Some(generation) => generation.take(kind, path),
            None => Ok(()), // begun with the batch
        }
    }

    /// While nobody can begin to rely on anything: marks what was published since the last time, and notes who was writing.
    fn begin_batch(&mut self) -> Result<()> {
        self.live.mark_environments(self.store, &self.doomed)?;
        if self.dry_run { Ok(()) } else { self.note_writers() }
    }

    /// What is moved from here on waits for all who write now.
    fn note_writers(&mut self) -> Result<()> {
        let living = self.living_writers()?;
        let generation = match &mut self.generation {
            Some(generation) => generation,
            None => self.generation.insert(Generation::create(self.store.root())?),
        };
        generation.wait_for(&living)
    }

    /// Layers that are in their places now keep their objects, in use or not; in a dry run, those that would stay.
    fn mark_layers_that_stay(&mut self) -> Result<()> {
        let (dry_run, young_since) = (self.dry_run, self.young_since);
        self.live
            .mark_layers(self.store, |path| !dry_run || !is_older(path, young_since))
    }

    fn living_writers(&self) -> Result<Vec<String>> {
        let own = self
            .workspace
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut living = workspace::living(&self.store.path("tmp"))?;
        living.retain(|name| *name != own);
        Ok(living)
    }

    fn sync(&self, kinds: &[&str]) -> Result<()> {
        match &self.generation {
            Some(generation) => generation.sync(self.store.root(), kinds),
            None => Ok(()),
        }
    }

    fn is_old(&self, path: &Path) -> bool {
        let is_old = is_older(path, self.young_since);
        if !is_old && !self.dry_run {
            // What a wrong clock has dated into the future is young from now on, and not until then.
            clock::settle(path, self.started);
        }
        is_old
    }
}

/// Whether the file is there and was written before `since`.
fn is_older(path: &Path, since: SystemTime) -> bool {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified <= since)
}

fn name_of<T: std::str::FromStr>(path: &Path) -> Option<T> {
    path.file_name()?.to_str()?.parse().ok()
}

fn disk_bytes(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512)
}
