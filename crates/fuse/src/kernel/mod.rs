//! Environments served by the kernel alone, for root: no server, no request, nothing that can be killed.
//!
//! An image holds the names and attributes (`erofs`); overlayfs on top of it finds the content of each file among the
//! store's objects and the cache's copies. The image is made once for each tree and prefix, when all content is there,
//! so a mount is a handful of system calls whatever the size of the environment. For an ordinary user, who may not mount
//! images, a server gives the names and overlayfs the content ([`crate::run`]).

pub(crate) mod detached;
mod erofs;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use envfs_store::Store;
use envfs_store::cache::Cache;
use envfs_store::tree::Node;
use envfs_store::view::{self, View};
use envfs_store::workspace::Workspace;
use nix::sys::utsname;

use crate::boot::{self, BootError};
use crate::mountinfo;
use crate::service::Service;

pub use detached::Refused;

/// Part of the name of every image: another layout must have another name.
const IMAGE_SALT: &[u8] = b"erofs 1";

/// The same, of what was made while content was missing: it is not found again by who hopes for all.
const INCOMPLETE_SALT: &[u8] = b"erofs 1, incomplete";

/// What says that all content is there, where there is no image.
const CONTENT_SALT: &[u8] = b"content 1";

/// All that enters the names of what is made for a mount of a tree.
pub const SALTS: [&[u8]; 3] = [IMAGE_SALT, INCOMPLETE_SALT, CONTENT_SALT];

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

/// Lays out all that the kernel needs: small files out of their packs, files with a prefix as they look at this one,
/// and the image, whose path is returned. Quick when it was done before in this boot.
///
/// # Errors
/// When the tree is damaged or the store cannot be written.
pub fn prepare(service: &Service) -> Result<PathBuf, KernelError> {
    let cache = open_cache(&service.store)?;
    let image = cache.image_path(&service.tree, &service.view, IMAGE_SALT);
    if image.exists() {
        return Ok(image);
    }
    // Who comes second waits, and finds it made.
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let _making = service.store.reserve(&format!("image-{name}"))?;
    if image.exists() {
        return Ok(image);
    }
    let workspace = Workspace::create(&service.store)?;
    let image = match fill(&cache, &workspace, &service.view)? {
        0 => image,
        _ => cache.image_path(&service.tree, &service.view, INCOMPLETE_SALT),
    };
    let describe = Describe {
        view: &service.view,
        cache: &cache,
    };
    let started = Instant::now();
    let bytes = erofs::write(service.view.tree(), &describe)?;
    cache.put_image(&workspace, &image, &bytes)?;
    tracing::info!(
        "an image of {} KiB for {} in {} ms",
        bytes.len() / 1024,
        service.view.prefix(),
        started.elapsed().as_millis()
    );
    Ok(image)
}

/// Lays out the content without an image: what overlayfs needs where a server gives the names. Quick when it was done
/// before in this boot.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_content(service: &Service) -> Result<Cache, KernelError> {
    let cache = open_cache(&service.store)?;
    let mark = cache.image_path(&service.tree, &service.view, CONTENT_SALT);
    if !mark.exists() {
        let workspace = Workspace::create(&service.store)?;
        if fill(&cache, &workspace, &service.view)? == 0 {
            cache.put_image(&workspace, &mark, b"")?;
        }
    }
    Ok(cache)
}

/// The environment as a mount that no path leads to yet.
///
/// # Errors
/// When this is not root, the kernel lacks what is needed, or the content cannot be laid out.
pub fn mount(service: &Service) -> Result<OwnedFd, KernelError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(KernelError::NotRoot);
    }
    let image = prepare(service)?;
    let names = detached::image(&image)?;
    let cache = open_cache(&service.store)?;
    Ok(detached::overlay(
        &mountinfo::source(&service.signature),
        names.as_fd(),
        &cache.content_directories(),
        detached::Attributes::Trusted,
    )?)
}

/// Why the kernel cannot serve environments of `store` to all, if it cannot. Mounts next to nothing, and nowhere.
///
/// # Errors
/// The reason.
pub(crate) fn check(store: &Store) -> Result<(), KernelError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(KernelError::NotRoot);
    }
    detached::known("erofs")?;
    check_overlay(store, detached::Attributes::Trusted)
}

/// Why the kernel cannot take content from `store` in the user namespace of this process, if it cannot.
///
/// # Errors
/// The reason.
pub(crate) fn check_as_user(store: &Store) -> Result<(), KernelError> {
    check_overlay(store, detached::Attributes::User)
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
fn check_overlay(store: &Store, attributes: detached::Attributes) -> Result<(), KernelError> {
    let names = detached::directory(&store.mount_root())?;
    let directories = open_cache(store)?.content_directories();
    detached::overlay("envfs-probe", names.as_fd(), &directories, attributes)?;
    Ok(())
}

/// Fills the cache, and says how many files are lost.
fn fill(cache: &Cache, workspace: &Workspace, view: &View) -> Result<usize, KernelError> {
    let started = Instant::now();
    let filled = cache.fill(workspace, view)?;
    if filled.written > 0 {
        tracing::info!(
            "laid out {} files ({} KiB) for the kernel in {} ms",
            filled.written,
            filled.written_bytes / 1024,
            started.elapsed().as_millis()
        );
    }
    for error in &filled.lost {
        tracing::warn!("{error}: reading the file will be an input/output error");
    }
    Ok(filled.lost.len())
}

/// What the image says of each file.
struct Describe<'a> {
    view: &'a View,
    cache: &'a Cache,
}

impl erofs::Describe for Describe<'_> {
    fn attributes(&self, node: Node<'_>) -> envfs_store::Result<view::Attributes> {
        self.view.attributes(node)
    }

    fn redirect(&self, node: Node<'_>, out: &mut Vec<u8>) -> envfs_store::Result<()> {
        out.push(b'/');
        out.extend(self.cache.content_path(self.view, node)?.as_bytes());
        Ok(())
    }
}
