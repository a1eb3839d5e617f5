//! Whether copies still are what they were made of. For who checks a store: whoever uses a copy trusts it for as long as the
//! machine runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::{Cache, PREFIX_FILE, content_path, publish, unpack};
use crate::digest::Digest;
use crate::durable::{self, Draft};
use crate::error::{IoContext as _, Result};
use crate::store::{Location, ObjectBytes, Store, list};
use crate::tree::{NodeId, Tree};
use crate::view::View;
use crate::wire;
use crate::workspace::Workspace;

/// A copy that is there and known.
pub(crate) struct Copy {
    pub(crate) path: PathBuf,
    source: Source,
}

/// What a copy is of.
enum Source {
    /// A small object.
    Object(Digest, u64),
    /// A file as it looks at one prefix.
    Patched(View, NodeId),
    /// A file with this digest.
    Bytes(Digest),
    /// What ends with the digest of all before it.
    Sealed,
}

impl Copy {
    /// Whether it is what it was made of. What cannot be told is.
    pub(crate) fn is_sound(&self, store: &Store) -> bool {
        let Ok(bytes) = fs::read(&self.path) else { return false };
        match &self.source {
            Source::Object(digest, _) | Source::Bytes(digest) => Digest::of(&bytes) == *digest,
            Source::Patched(..) => self.content(store).is_none_or(|content| content == bytes),
            Source::Sealed => wire::without_digest(&bytes).is_some(),
        }
    }

    /// What it should hold, where a store can give that.
    fn content(&self, store: &Store) -> Option<Vec<u8>> {
        match &self.source {
            Source::Patched(view, id) => view.read(view.tree().node(*id).ok()?).ok(),
            Source::Object(digest, size_bytes) => {
                let location = store.locate(digest).ok()??;
                match store.open_object(digest, *size_bytes, location).ok()? {
                    ObjectBytes::Small(bytes) => Some(bytes),
                    ObjectBytes::Whole(_) => None,
                }
            }
            Source::Bytes(_) | Source::Sealed => None,
        }
    }
}

impl Cache {
    /// All copies of which is known what they are of, those of `trees` that are lost among them.
    /// What was written out for the places `linked` is looked for too.
    ///
    /// # Errors
    /// When a directory cannot be listed or a tree is damaged.
    pub(crate) fn copies(&self, trees: &[Arc<Tree>], linked: &[PathBuf]) -> Result<Vec<Copy>> {
        let mut copies = self.small(trees)?;
        let views = self.views(trees, linked)?;
        self.patched(&views, &mut copies)?;
        self.dated_copies(trees, &views, &mut copies)?;
        for path in list(&self.root.join("images"))? {
            let source = Source::Sealed;
            copies.push(Copy { path, source });
        }
        Ok(copies)
    }

    /// Puts into the place of a copy what it should hold. Where that cannot be had, the copy is moved to `aside`, and whoever
    /// mounts finds out that it is missing. Says whether it is right now.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn mend(&self, workspace: &Workspace, copy: &Copy, aside: &Path) -> Result<bool> {
        if let Some(content) = copy.content(&self.store) {
            let mut draft = Draft::create(workspace.path())?;
            draft.write_all(&content)?;
            if let Ok(metadata) = copy.path.metadata() {
                let times = FileTimes::new().set_modified(metadata.modified().unwrap_or(UNIX_EPOCH));
                let dated = draft.file().set_permissions(metadata.permissions());
                dated
                    .and_then(|()| draft.file().set_times(times))
                    .at("date", draft.path())?;
            }
            publish(draft, &copy.path)?;
            return Ok(true);
        }
        if let (Source::Object(..), Some(directory)) = (&copy.source, copy.path.parent()) {
            unpack::set_incomplete(workspace.path(), directory)?;
        }
        durable::move_file(&copy.path, aside)?;
        // They trust that their content is there.
        for image in list(&self.root.join("images"))? {
            durable::remove(&image)?;
        }
        Ok(false)
    }

    fn small(&self, trees: &[Arc<Tree>]) -> Result<Vec<Copy>> {
        let small = self.root.join("small");
        let mut complete: HashMap<String, bool> = HashMap::new();
        let mut copies = BTreeMap::new();
        for tree in trees {
            for node in tree.files(false) {
                let node = node?;
                let Location::Pack(pack, offset) = node.location()? else {
                    continue;
                };
                let directory = unpack::directory(&pack);
                let size_bytes = node.stored_bytes();
                let path = small.join(&directory).join(unpack::name(offset, size_bytes));
                let is_complete = *complete
                    .entry(directory)
                    .or_insert_with_key(|name| small.join(name).exists() && !unpack::is_incomplete(&small.join(name)));
                if is_complete || path.exists() {
                    copies.insert(path, Source::Object(node.digest(), size_bytes));
                }
            }
        }
        Ok(copies.into_iter().map(|(path, source)| Copy { path, source }).collect())
    }

    /// The trees at the prefixes at which files were written out.
    fn views(&self, trees: &[Arc<Tree>], linked: &[PathBuf]) -> Result<Vec<View>> {
        let directories = list(&self.root.join("patched"))?;
        let written = directories
            .iter()
            .filter_map(|directory| fs::read_to_string(directory.join(PREFIX_FILE)).ok());
        let prefixes: BTreeSet<PathBuf> = written.map(PathBuf::from).chain(linked.iter().cloned()).collect();
        let mut views = Vec::new();
        for prefix in prefixes {
            let made = trees
                .iter()
                .map(|tree| View::new(&self.store, Arc::clone(tree), &prefix));
            views.extend(made.flatten());
        }
        Ok(views)
    }

    fn patched(&self, views: &[View], copies: &mut Vec<Copy>) -> Result<()> {
        for view in views {
            let directory = self.patched_directory(view);
            for node in view.tree().files(false) {
                let node = node?;
                if node.has_placeholder() {
                    let path = directory.join(content_path(node)?);
                    if path.exists() {
                        let source = Source::Patched(view.clone(), node.id());
                        copies.push(Copy { path, source });
                    }
                }
            }
        }
        Ok(())
    }

    fn dated_copies(&self, trees: &[Arc<Tree>], views: &[View], copies: &mut Vec<Copy>) -> Result<()> {
        if list(&self.root.join("dated"))?.is_empty() {
            return Ok(());
        }
        let anywhere = |tree: &Arc<Tree>| View::new(&self.store, Arc::clone(tree), Path::new("/")).ok();
        // Most look alike at all prefixes, and are in several trees.
        let mut dated = BTreeMap::new();
        for view in trees.iter().filter_map(anywhere).chain(views.iter().cloned()) {
            for node in view.tree().files(false) {
                let node = node?;
                let path = self.dated_path(&view, node)?;
                if !dated.contains_key(&path) && path.exists() {
                    let source = match node.has_placeholder() {
                        true => Source::Patched(view.clone(), node.id()),
                        false => Source::Bytes(node.digest()),
                    };
                    dated.insert(path, source);
                }
            }
        }
        copies.extend(dated.into_iter().map(|(path, source)| Copy { path, source }));
        Ok(())
    }
}

/// The trees of `store` that can be read.
pub(crate) fn trees(store: &Store) -> Result<Vec<Arc<Tree>>> {
    let paths = list(&store.path("trees"))?;
    let names = paths.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    Ok(names
        .filter_map(|name: Digest| store.tree(&name).ok().map(Arc::new))
        .collect())
}
