//! How the process that becomes the command sees its environment in a view of its own.

use std::os::fd::{AsFd, OwnedFd};

use envfs_store::cache::Cache;

use crate::backend::{self, Backend, Choice};
use crate::kernel::detached::{self, ContentLayer};
use crate::kernel::{self, Attributes, Companion, KernelError, Refused};
use crate::mount::{self, MountOptions};
use crate::mountinfo;
use crate::namespace::{self, NamespaceError};
use crate::service::Service;
use crate::writable::State;

/// A way to see an environment privately.
pub(crate) enum Way {
    /// A mount that the kernel serves alone, to be attached, and who goes along with what runs on it.
    Kernel(OwnedFd, Option<Companion>),
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
                let companion = kernel::accompany_run(service, &overlay);
                return Ok(Self::Kernel(overlay.mount, companion));
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

    /// Who goes along with the run, if somebody does.
    pub(crate) fn into_companion(self) -> Option<Companion> {
        match self {
            Self::Kernel(_, companion) => companion,
            Self::Names { .. } | Self::Fuse => None,
        }
    }

    /// Whose attributes an overlay has that is written to.
    pub(crate) fn attributes(&self) -> Attributes {
        match self {
            Self::Kernel(..) => Attributes::Trusted,
            Self::Names { .. } | Self::Fuse => Attributes::User,
        }
    }

    /// In the child: moves into a view of its own and mounts what can be mounted before anybody serves. Where something is to
    /// stand on the mount, it is not attached yet.
    ///
    /// # Errors
    /// When that is not allowed.
    pub(crate) fn enter(
        &self,
        service: &Service,
        options: &MountOptions,
        is_below: bool,
    ) -> Result<Entered, NamespaceError> {
        namespace::enter_with_directory(&service.mount_point)?;
        match self {
            Self::Kernel(overlay, _) => {
                if !is_below {
                    detached::attach(overlay, &service.mount_point)?;
                }
                Ok(Entered::default())
            }
            Self::Fuse if !is_below => Ok(Entered {
                device: Some(namespace::mount_fuse(&service.mount_point, options)?),
                names: None,
            }),
            Self::Names { .. } | Self::Fuse => {
                let device = mount::open_device()?.into();
                let names = detached::fuse(&mountinfo::source(&service.signature), &device)?;
                Ok(Entered {
                    device: Some(device),
                    names: Some(names),
                })
            }
        }
    }

    /// In the child, once the connection is served: makes the mount point usable, and lets it be written to if `state` is
    /// given.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn complete(
        &self,
        service: &Service,
        entered: &Entered,
        state: Option<(&State, Attributes)>,
    ) -> Result<(), Refused> {
        if let Some(names) = &entered.names {
            // Overlayfs copies the owner and the bits of the root when it is mounted, and FUSE knows them once it was asked.
            let _ = nix::sys::stat::fstat(names);
        }
        let stacked = match (self, &entered.names) {
            (Self::Names { copies }, Some(names)) => {
                let source = mountinfo::source(&service.signature);
                let patched = copies.patched_directory(&service.view);
                let directories = copies.content_directories();
                let directories = directories.iter().chain([&patched]);
                let layers: Vec<_> = directories.map(|path| ContentLayer::Directory(path)).collect();
                Some(detached::overlay(&source, names.as_fd(), &layers, Attributes::User)?)
            }
            _ => None,
        };
        let lower = match self {
            Self::Kernel(overlay, _) => Some(overlay),
            Self::Names { .. } | Self::Fuse => stacked.as_ref().or(entered.names.as_ref()),
        };
        match (state, lower) {
            (Some((state, attributes)), Some(lower)) => {
                let overlay = state.overlay(lower, &service.signature, attributes)?;
                detached::attach(&overlay, &service.mount_point)
            }
            _ => stacked.map_or(Ok(()), |overlay| detached::attach(&overlay, &service.mount_point)),
        }
    }

    /// Where overlayfs finds content.
    pub(crate) fn copies(&self) -> Option<Cache> {
        match self {
            Self::Names { copies } => Some(copies.clone()),
            _ => None,
        }
    }
}
