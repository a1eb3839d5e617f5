//! How the process that becomes the command sees its environment in a view of its own.

use std::os::fd::{AsFd, OwnedFd};

use envfs_store::cache::Cache;

use crate::backend::{self, Backend, Choice};
use crate::kernel::detached::{self, ContentLayer};
use crate::kernel::{self, KernelError, Refused};
use crate::mount::{self, MountOptions};
use crate::mountinfo;
use crate::namespace::{self, NamespaceError};
use crate::service::Service;

/// A way to see an environment privately.
pub(crate) enum Way {
    /// A mount that the kernel serves alone, to be attached.
    Kernel(OwnedFd),
    /// A server gives the names, overlayfs on top of it reads the content from `copies`.
    Names { copies: Cache },
    /// A server gives everything.
    Fuse,
}

/// What the child has when it is in its view.
#[derive(Default)]
pub(crate) struct Entered {
    /// The connection that somebody must serve.
    pub(crate) device: Option<OwnedFd>,
    /// The mount behind that connection, if it is attached nowhere yet.
    names: Option<OwnedFd>,
}

impl Way {
    /// The best way of `choice` for this user. That of [`Way::Names`] is taken only on demand: each name that is seen for
    /// the first time costs four requests instead of one, which a single command hardly earns back (0009 of the decisions).
    ///
    /// # Errors
    /// When the only way that is allowed cannot work.
    pub(crate) fn choose(service: &Service, choice: Choice) -> Result<Self, KernelError> {
        if choice == Some(Backend::Fuse) {
            return Ok(Self::Fuse);
        }
        match kernel::mount(service) {
            Ok(overlay) => {
                kernel::accompany(service, &overlay);
                return Ok(Self::Kernel(overlay));
            }
            Err(KernelError::NotRoot) => {}
            // As root in a container: it may be allowed what a user is.
            Err(error) => backend::pass_over(Backend::Kernel, &error),
        }
        match choice {
            None => Ok(Self::Fuse),
            Some(_) => Ok(Self::Names {
                copies: kernel::prepare_content(service)?,
            }),
        }
    }

    /// In the child: moves into a view of its own and mounts what can be mounted before anybody serves.
    ///
    /// # Errors
    /// When that is not allowed.
    pub(crate) fn enter(&self, service: &Service, options: &MountOptions) -> Result<Entered, NamespaceError> {
        namespace::enter_with_directory(&service.mount_point)?;
        match self {
            Self::Kernel(overlay) => {
                detached::attach(overlay, &service.mount_point)?;
                Ok(Entered::default())
            }
            Self::Names { .. } => {
                let device = mount::open_device()?.into();
                let names = detached::fuse(&mountinfo::source(&service.signature), &device)?;
                Ok(Entered {
                    device: Some(device),
                    names: Some(names),
                })
            }
            Self::Fuse => Ok(Entered {
                device: Some(namespace::mount_fuse(&service.mount_point, options)?),
                names: None,
            }),
        }
    }

    /// In the child, once the connection is served: makes the mount point usable.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn complete(&self, service: &Service, entered: &Entered) -> Result<(), Refused> {
        let (Self::Names { copies }, Some(names)) = (self, &entered.names) else {
            return Ok(());
        };
        // Overlayfs copies the owner and the bits of the root when it is mounted, and FUSE knows them once it was asked.
        let _ = nix::sys::stat::fstat(names);
        let source = mountinfo::source(&service.signature);
        let patched = copies.patched_directory(&service.view);
        let [objects, small] = copies.content_directories();
        let layers = [&objects, &small, &patched].map(|path| ContentLayer::Directory(path));
        let overlay = detached::overlay(&source, names.as_fd(), &layers, detached::Attributes::User)?;
        detached::attach(&overlay, &service.mount_point)
    }

    /// Where overlayfs finds content.
    pub(crate) fn copies(&self) -> Option<Cache> {
        match self {
            Self::Names { copies } => Some(copies.clone()),
            _ => None,
        }
    }
}
