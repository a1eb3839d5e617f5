//! Which packages, and how they arrive: specs, channels, solving, lock files and downloads.
//!
//! The only crate that knows rattler. Everything public here is our own, so that a new version of rattler is a change
//! in this crate alone. Must not know FUSE, print, or read the environment.

mod archive;
mod build;
mod channel;
mod fetch;
mod link;
mod lock;
mod network;
mod package;
mod retry;
mod solve;
mod spec;
mod subdir;

pub use archive::ArchiveError;
pub use build::{BuildError, BuildProgress, BuildRequest, Built, build};
pub use channel::ChannelError;
pub use fetch::{FetchError, FetchProgress, FetchedArchive, NoProgress};
pub use link::LinkError;
pub use lock::{DEFAULT_ENVIRONMENT, Lock, LockError, LockFormat};
pub use network::{Network, NetworkError, NetworkOptions};
pub use package::{LockedPackage, PackageError, link_order};
pub use solve::{
    ChannelPriority, ExcludeNewer, ParseExcludeNewerError, Solution, SolveError, SolveRequest, VirtualPackageError,
    VirtualPackages, solve,
};
pub use spec::{Spec, SpecError};
pub use subdir::{Subdir, UnknownSubdir};
