//! Environments where nothing can be mounted: a directory with hard links to, or copies of, all files.
//!
//! It takes time and inodes in proportion to the environment, and whoever may write can change it, but it needs nothing
//! from the kernel. Links lead to copies in the store's cache that hold time and mode, never to the store's objects:
//! what happens to them here cannot damage an environment elsewhere beyond the running boot. Where the file system can
//! share blocks, those copies take none.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use envfs_store::Store;
use envfs_store::cache::{self, Cache};
use envfs_store::linked::{self, LinkedRecord, MARKER};
use envfs_store::tree::{Node, NodeKind};
use envfs_store::view::{PrefixError, View};
use envfs_store::workspace::Workspace;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::boot::{self, BootError};
use crate::service::{Service, unix_now_s};

/// Directories that are linked: nobody is to write into them, except whom no bits keep from it.
const DIRECTORY_MODE: u32 = 0o555;

/// What Python leaves in directories that it may write to; no loss.
const PYTHON_CACHE: &str = "__pycache__";

/// How many changes are named.
const NAMED_CHANGES: usize = 5;

/// An environment cannot be linked, or its directory not removed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The directory holds no environment that was linked.
    #[error("`{0}` is not a linked environment: `envfs ps` lists those that are")]
    NotLinked(PathBuf),
    /// Somebody wrote into it.
    #[error(
        "`{}` was changed: {}; move away what is to be kept, then remove the rest with `--lazy`",
        path.display(), names.join(", ")
    )]
    Changed {
        /// The directory.
        path: PathBuf,
        /// Some of what was changed.
        names: Vec<String>,
    },
    /// The operating system refused something.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The environment does not fit the directory's path any more.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// The store cannot give the files.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
    /// What is linked in this boot cannot be told from what was before.
    #[error(transparent)]
    Boot(#[from] BootError),
}

/// Whether an environment was linked into `path`.
#[must_use]
pub fn is_linked(path: &Path) -> bool {
    LinkedRecord::of(path).is_some()
}

/// Links all files of `service` into its mount point, which is an empty directory.
///
/// # Errors
/// When the store cannot give a file or the directory cannot be written; then it is empty again.
pub(crate) fn link(service: &Service) -> Result<(), LinkError> {
    let path = &service.mount_point;
    let record = LinkedRecord {
        store: service.store.root().to_owned(),
        signature: service.signature,
        tree: service.tree,
        mount_point: path.clone(),
        boot: boot::current()?.id,
        uid: nix::unistd::getuid().as_raw(),
        started_unix_s: unix_now_s(),
    };
    // First, and all of it at once, so that what is half-made is known as ours.
    envfs_store::write_new(&path.join(MARKER), &record.to_json()?)?;
    let linked = Linker::new(service).link_all(path).and_then(|counted| {
        match record.register(&service.store) {
            // Of a store that may only be read, it is listed nowhere.
            Err(error) if !error.is_read_only() => Err(error.into()),
            _ => Ok(counted),
        }
    });
    match linked {
        Ok(counted) => {
            tracing::info!(
                "linked {} files and copied {} into {}",
                counted.links,
                counted.copies,
                path.display()
            );
            Ok(())
        }
        Err(error) => {
            let _ = remove(path, true);
            Err(error)
        }
    }
}

/// Empties a directory into which an environment was linked. Unless `force`d only if nobody has changed it.
///
/// # Errors
/// When it is none, was changed, or cannot be removed.
pub(crate) fn remove(path: &Path, force: bool) -> Result<(), LinkError> {
    let record = LinkedRecord::of(path).ok_or_else(|| LinkError::NotLinked(path.to_owned()))?;
    if !force {
        let names = changes(&record)?;
        if !names.is_empty() {
            return Err(LinkError::Changed {
                path: path.to_owned(),
                names,
            });
        }
    }
    allow_removal(path)?;
    for entry in read_dir(path)? {
        if entry.file_name().is_some_and(|name| name != MARKER) {
            let removed = if is_directory(&entry) {
                fs::remove_dir_all(&entry)
            } else {
                fs::remove_file(&entry)
            };
            removed.map_err(io_error("remove", &entry))?;
        }
    }
    // Last, so that what cannot be removed is still known as ours.
    let marker = path.join(MARKER);
    fs::remove_file(&marker).map_err(io_error("remove", &marker))?;
    if let Ok(store) = open_store(&record) {
        let _ = linked::forget(&store, path);
    }
    Ok(())
}

/// How the files were made.
#[derive(Debug, Default)]
struct Counted {
    links: u64,
    copies: u64,
}

struct Linker<'a> {
    view: &'a View,
    /// Where copies are kept that can be linked, if the store can be written.
    shared: Option<(Cache, Workspace)>,
    counted: Counted,
}

impl<'a> Linker<'a> {
    fn new(service: &'a Service) -> Self {
        let shared = || {
            let cache = Cache::open(&service.store, &boot::current().ok()?).ok()?;
            Some((cache, Workspace::create(&service.store).ok()?))
        };
        Self {
            view: &service.view,
            shared: shared(),
            counted: Counted::default(),
        }
    }

    fn link_all(mut self, path: &Path) -> Result<Counted, LinkError> {
        let tree = self.view.tree();
        let mut pending = vec![(tree.root()?, path.to_owned())];
        let mut made = Vec::new();
        while let Some((directory, path)) = pending.pop() {
            for child in tree.children(directory, 0)? {
                let child = child?;
                let to = path.join(path_of(child.name()?));
                match child.kind()? {
                    NodeKind::Directory => {
                        DirBuilder::new()
                            .mode(0o700)
                            .create(&to)
                            .map_err(io_error("make", &to))?;
                        made.push((child, to.clone()));
                        pending.push((child, to));
                    }
                    NodeKind::Symlink => {
                        let target = path_of(child.symlink_target()?);
                        std::os::unix::fs::symlink(target, &to).map_err(io_error("link", &to))?;
                        set_time(&to, child.mtime_s())?;
                    }
                    NodeKind::File => self.file(child, &to)?,
                }
            }
        }
        // Innermost first: what is made in a directory changes its time.
        for (node, path) in made.into_iter().rev() {
            fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE)).map_err(io_error("protect", &path))?;
            set_time(&path, node.mtime_s())?;
        }
        Ok(self.counted)
    }

    fn file(&mut self, node: Node<'_>, to: &Path) -> Result<(), LinkError> {
        if let Some((cache, workspace)) = &self.shared {
            let from = cache.dated(workspace, self.view, node)?;
            match fs::hard_link(&from, to) {
                Ok(()) => {
                    self.counted.links += 1;
                    return Ok(());
                }
                // On another file system, linked too often, or of another user (fs.protected_hardlinks).
                Err(error) if is_no_link(&error) => {}
                // A collection took the copy away before it had another name: nothing kept it yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io_error("link", to)(source)),
            }
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(to);
        let file = file.map_err(io_error("create", to))?;
        cache::copy_dated(self.view, node, &file).map_err(|error| error.at_path(to))?;
        self.counted.copies += 1;
        Ok(())
    }
}

fn is_no_link(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(
        error.kind(),
        CrossesDevices | PermissionDenied | TooManyLinks | Unsupported
    )
}

/// The store of a directory, which is not made anew if it is gone.
fn open_store(record: &LinkedRecord) -> Result<Store, LinkError> {
    if !record.store.is_dir() {
        return Err(io_error("open the store", &record.store)(
            io::ErrorKind::NotFound.into(),
        ));
    }
    Ok(Store::open(&record.store)?)
}

/// Some of what is in the directory and was not linked into it, or was changed since.
fn changes(record: &LinkedRecord) -> Result<Vec<String>, LinkError> {
    let store = open_store(record)?;
    let tree = std::sync::Arc::new(store.tree(&record.tree)?);
    let view = View::new(&store, tree, &record.mount_point)?;
    let mut names = Vec::new();
    let mut pending = vec![(view.tree().root()?, record.mount_point.clone())];
    while let Some((directory, path)) = pending.pop() {
        for entry in read_dir(&path)? {
            let name = entry.file_name().unwrap_or_default();
            if (name == MARKER && path == record.mount_point) || name == PYTHON_CACHE {
                continue;
            }
            let node = view.tree().lookup(directory, name.as_encoded_bytes())?;
            match node {
                Some(node) if is_as_linked(&view, node, &entry)? => {
                    if node.kind()? == NodeKind::Directory {
                        pending.push((node, entry));
                    }
                }
                _ => names.push(
                    entry
                        .strip_prefix(&record.mount_point)
                        .unwrap_or(&entry)
                        .display()
                        .to_string(),
                ),
            }
            if names.len() == NAMED_CHANGES {
                return Ok(names);
            }
        }
    }
    Ok(names)
}

fn is_as_linked(view: &View, node: Node<'_>, path: &Path) -> Result<bool, LinkError> {
    let metadata = path.symlink_metadata().map_err(io_error("inspect", path))?;
    let attributes = view.attributes(node)?;
    Ok(match attributes.kind {
        NodeKind::Directory => metadata.is_dir(),
        NodeKind::Symlink => {
            metadata.is_symlink()
                && fs::read_link(path).is_ok_and(|target| target == path_of(node.symlink_target().unwrap_or_default()))
        }
        NodeKind::File => {
            // Times that a file system cannot hold are others by now.
            let is_dated = i32::try_from(attributes.mtime_s).is_err() || metadata.mtime() == attributes.mtime_s;
            metadata.is_file() && metadata.len() == attributes.size_bytes && is_dated
        }
    })
}

/// Gives the directories below `path` back the bits that let them be emptied.
fn allow_removal(path: &Path) -> Result<(), LinkError> {
    for entry in read_dir(path)? {
        if is_directory(&entry) {
            fs::set_permissions(&entry, Permissions::from_mode(0o700)).map_err(io_error("open", &entry))?;
            allow_removal(&entry)?;
        }
    }
    Ok(())
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn read_dir(path: &Path) -> Result<Vec<PathBuf>, LinkError> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(io_error("list", path))
}

fn set_time(path: &Path, unix_s: i64) -> Result<(), LinkError> {
    let time = TimeSpec::new(unix_s, 0);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .map_err(|errno| io_error("date", path)(errno.into()))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LinkError {
    move |source| LinkError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
