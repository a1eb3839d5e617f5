//! Environments served by the kernel alone, for root: no server, no request, nothing that can be killed.
//!
//! An image holds the names and attributes (`erofs`); overlayfs on top of it finds the content of each file among the
//! store's objects and the cache's copies. The image is made once for each tree and length of prefix, when all content is
//! there, so a mount is a handful of system calls whatever the size of the environment. The few files that look different
//! at each prefix come from a second, small image that is made in memory at each mount (`patched`), by filling the prefix into one that
//! is kept (`template`). For an ordinary user, who may not mount
//! images, a server gives the names and overlayfs the content ([`crate::run`]).

mod ahead;
mod behind;
mod company;
pub(crate) mod detached;
mod erofs;
mod patched;
pub(crate) mod template;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use envfs_store::cache::{self, Cache, Filled, LaidOut};
use envfs_store::lease::LeaseKind;
use envfs_store::tree::{Node, NodeId};
use envfs_store::view::{self, View};
use envfs_store::workspace::Workspace;
use envfs_store::{Digest, Store};
use nix::sys::utsname;

use self::detached::ContentLayer;
use self::patched::Patched;
use crate::boot::{self, BootError};
use crate::causes::with_causes;
use crate::mountinfo;
use crate::service::Service;

pub(crate) use company::{Companion, accompany_mount, accompany_run};
pub use detached::{Attributes, Refused};

/// Part of the name of every image: another layout must have another name.
const IMAGE_SALT: &[u8] = b"erofs 2";

/// The same, of what was made while content was missing: it is not found again by who hopes for all.
const INCOMPLETE_SALT: &[u8] = b"erofs 2, incomplete";

/// The kernel cannot serve an environment by itself.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Only root mounts images.
    #[error("only root can mount an environment for everybody without a server; `envfs run` can for one command")]
    NotRoot,
    /// A file system is missing from the kernel, is too old, or does not take the store.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The content could not be laid out.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
    /// The cache cannot be told from that of another boot.
    #[error(transparent)]
    Boot(#[from] BootError),
}

/// All that the kernel needs to serve an environment.
struct Prepared {
    /// The image of the names.
    image: PathBuf,
    has_lost: bool,
    cache: Cache,
    /// The files that look different at each prefix.
    patched: Vec<NodeId>,
}

/// Lays out all that the kernel needs: small files out of their packs, the image of the names, and for runs the files with
/// their prefix. Quick when it was done before in this boot.
///
/// # Errors
/// When the tree is damaged or the store cannot be written.
pub fn prepare(service: &Service) -> Result<(), KernelError> {
    let prepared = prepare_names(service)?;
    if service.kind == LeaseKind::Run {
        patched::write(&prepared.cache, service, &prepared.patched)?;
    }
    Ok(())
}

/// The image of the names and what it points to.
fn prepare_names(service: &Service) -> Result<Prepared, KernelError> {
    let cache = open_cache(&service.store)?;
    if let Some(patched) = cache.laid_out(&service.tree) {
        let image = cache.image_path(&service.tree, &shape(&service.view, &patched, IMAGE_SALT)?);
        if image.exists() {
            return Ok(Prepared {
                image,
                has_lost: false,
                cache,
                patched,
            });
        }
    }
    // Who comes second waits, and finds it made.
    let _making = service.store.reserve(&format!("image-{}", service.tree))?;
    let laid = lay_out(&cache, service)?;
    let salt = match laid.filled.lost.is_empty() {
        true => IMAGE_SALT,
        false => INCOMPLETE_SALT,
    };
    let image = cache.image_path(&service.tree, &shape(&service.view, &laid.patched, salt)?);
    if laid.filled.lost.is_empty() && image.exists() {
        return Ok(Prepared {
            image,
            has_lost: false,
            cache,
            patched: laid.patched,
        });
    }
    let describe = Describe {
        view: &service.view,
        lost: &laid.filled.lost,
    };
    let started = Instant::now();
    let written = erofs::write(service.view.tree(), &describe)?;
    let workspace = Workspace::create(&service.store)?;
    cache.put_image(&workspace, &image, &written.bytes)?;
    tracing::info!(
        "an image of {} KiB in {} ms",
        written.bytes.len() / 1024,
        started.elapsed().as_millis()
    );
    Ok(Prepared {
        image,
        has_lost: written.has_lost,
        cache,
        patched: laid.patched,
    })
}

/// Lays out the content without an image: what overlayfs needs where a server gives the names. Quick when it was done
/// before in this boot.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_content(service: &Service) -> Result<Cache, KernelError> {
    let cache = open_cache(&service.store)?;
    let patched = match cache.laid_out(&service.tree) {
        Some(patched) => patched,
        None => {
            let _making = service.store.reserve(&format!("image-{}", service.tree))?;
            lay_out(&cache, service)?.patched
        }
    };
    patched::write(&cache, service, &patched)?;
    behind::read_through(service, &[]);
    Ok(cache)
}

/// An environment as a mount that no path leads to yet.
#[derive(Debug)]
pub struct Overlay {
    /// The mount.
    pub mount: OwnedFd,
    /// The image of its names.
    image: PathBuf,
    /// Where its content is.
    cache: Cache,
}

/// The environment as a mount that no path leads to yet.
///
/// # Errors
/// When this is not root, the kernel lacks what is needed, or the content cannot be laid out.
pub fn mount(service: &Service) -> Result<Overlay, KernelError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(KernelError::NotRoot);
    }
    let (prepared, names) = mount_names(service)?;
    behind::read_through(service, &[names.as_fd()]);
    let directories = prepared.cache.content_directories();
    let mut layers: Vec<_> = directories.iter().map(|path| ContentLayer::Directory(path)).collect();
    let patched = patched::layer(service, &prepared)?;
    layers.extend(patched.iter().map(|patched| match patched {
        Patched::Directory(path) => ContentLayer::Directory(path),
        Patched::Image(image) => ContentLayer::Mount(image.as_fd()),
    }));
    let source = mountinfo::source(&service.signature);
    let mount = detached::overlay(&source, names.as_fd(), &layers, Attributes::Trusted)?;
    Ok(Overlay {
        mount,
        image: prepared.image,
        cache: prepared.cache,
    })
}

/// The image of the names, mounted. A collection may put images aside at any moment, also between the making and the mounting.
fn mount_names(service: &Service) -> Result<(Prepared, OwnedFd), KernelError> {
    let mut tries = 0;
    loop {
        let prepared = prepare_names(service)?;
        let unreadable = prepared.has_lost.then_some(erofs::UNREADABLE);
        match detached::image(&prepared.image, unreadable.as_slice()) {
            Err(error) if tries < MAX_TRIES && !prepared.image.exists() => {
                tracing::debug!("the image was collected: {}", with_causes(&error));
                tries += 1;
            }
            names => return Ok((prepared, names?)),
        }
    }
}

/// How often an image is made again that was collected before it could be mounted.
const MAX_TRIES: u32 = 20;

/// Why the kernel cannot serve environments of `store` to all, if it cannot. Mounts next to nothing, and nowhere.
///
/// # Errors
/// The reason.
pub(crate) fn check(store: &Store) -> Result<(), KernelError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(KernelError::NotRoot);
    }
    detached::known("erofs")?;
    check_overlay(store, Attributes::Trusted)
}

/// Why the kernel cannot take content from `store` in the user namespace of this process, if it cannot.
///
/// # Errors
/// The reason.
pub(crate) fn check_as_user(store: &Store) -> Result<(), KernelError> {
    check_overlay(store, Attributes::User)
}

/// What the kernel calls its version, such as `6.18.44`.
#[must_use]
pub fn release() -> String {
    utsname::uname().map_or_else(|_| "?".into(), |name| name.release().to_string_lossy().into_owned())
}

pub(crate) fn open_cache(store: &Store) -> Result<Cache, KernelError> {
    Ok(Cache::open(store, &boot::current()?)?)
}

/// An overlay without names, over the store's own directories.
fn check_overlay(store: &Store, attributes: Attributes) -> Result<(), KernelError> {
    let names = detached::directory(&store.mount_root())?;
    let directories = open_cache(store)?.content_directories();
    let layers: Vec<_> = directories.iter().map(|path| ContentLayer::Directory(path)).collect();
    detached::overlay("envfs-probe", names.as_fd(), &layers, attributes)?;
    Ok(())
}

/// What an image depends on beside its tree: the sizes of the files that look different at each prefix. They follow from
/// the length of the prefix, so nearly all mount points of a machine share a few images.
fn shape(view: &View, patched: &[NodeId], salt: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut shape = salt.to_owned();
    for &id in patched {
        let attributes = view.attributes(view.tree().node(id)?)?;
        shape.extend(attributes.size_bytes.to_le_bytes());
    }
    Ok(shape)
}

fn lay_out(cache: &Cache, service: &Service) -> Result<LaidOut, KernelError> {
    let started = Instant::now();
    let workspace = Workspace::create(&service.store)?;
    let laid = cache.lay_out(&workspace, &service.tree, service.view.tree())?;
    tell(&laid.filled, started);
    Ok(laid)
}

/// Says what was copied, and what is lost.
fn tell(filled: &Filled, started: Instant) {
    if filled.written > 0 {
        tracing::info!(
            "laid out {} files ({} KiB) for the kernel in {} ms",
            filled.written,
            filled.written_bytes / 1024,
            started.elapsed().as_millis()
        );
    }
    for error in filled.lost.values() {
        tracing::warn!("{error}: reading the file will be an input/output error");
    }
}

/// What the image says of each file.
struct Describe<'a> {
    view: &'a View,
    lost: &'a BTreeMap<Digest, envfs_store::Error>,
}

impl erofs::Describe for Describe<'_> {
    fn attributes(&self, node: Node<'_>) -> envfs_store::Result<view::Attributes> {
        self.view.attributes(node)
    }

    fn redirect(&self, node: Node<'_>, out: &mut Vec<u8>) -> envfs_store::Result<()> {
        out.push(b'/');
        out.extend(cache::content_path(node)?.as_bytes());
        Ok(())
    }

    fn is_lost(&self, node: Node<'_>) -> bool {
        !self.lost.is_empty() && self.lost.contains_key(&node.digest())
    }
}
