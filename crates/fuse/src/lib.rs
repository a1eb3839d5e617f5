//! What the kernel sees: an environment's tree served as a read-only file system.
//!
//! This crate knows trees and bytes only through `envfs_store`, and nothing of packages, channels or solving. It
//! never prints. Behaviour lives in [`fs`], which runs without a kernel; `adapter` only translates.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`fs`], `cache` | lookups, attributes, listings and reads over a view |
//! | [`errno`], `causes` | the one place where an error becomes a number for the kernel, and the line for the log |
//! | `backing`, `adapter` | the kernel's requests as `fuser` delivers them |
//! | [`mountinfo`] | which mounts there are |
//! | [`mount`], `fusermount`, [`unmount`], `holders` | attaching to a directory and detaching again |
//! | `namespace` | a private view of the file systems for one command |
//! | `process`, [`server`] | the process that answers the kernel |
//! | [`run`], `supervise` | a command inside an environment, from fork to exit code |
//! | [`status`] | which environments are mounted |
//!
//! Another way to serve an environment (without a server, or with files linked into a directory) stands beside
//! [`server::Service`]: it needs a view and a mount point, and what callers see is that the mount point is usable.

mod adapter;
mod backing;
mod cache;
mod causes;
pub mod errno;
pub mod fs;
mod fusermount;
mod holders;
pub mod mount;
pub mod mountinfo;
mod namespace;
mod process;
pub mod run;
pub mod server;
pub mod status;
mod supervise;
pub mod unmount;

pub use namespace::private_prefix;
pub use process::ProcessError;
