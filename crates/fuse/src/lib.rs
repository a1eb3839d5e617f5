//! What the kernel sees: an environment's tree served as a read-only file system.
//!
//! This crate knows trees and bytes only through `envfs_store`, and nothing of packages, channels or solving. It
//! never prints. Behaviour lives in [`fs`], which runs without a kernel; `adapter` only translates.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`service`], `boot` | what is served, and on which boot of the machine |
//! | [`fs`], `cache` | lookups, attributes, listings and reads over a view |
//! | [`errno`], `causes` | the one place where an error becomes a number for the kernel, and the line for the log |
//! | `backing`, `adapter` | the kernel's requests as `fuser` delivers them |
//! | [`mountinfo`] | which mounts there are |
//! | [`mount`], [`unmount`], `holders` | attaching to a directory and detaching again |
//! | [`kernel`] | without a server: an image of the names, and overlayfs |
//! | [`link`] | without a mount: a directory of links and copies |
//! | `namespace`, `private` | a private view of the file systems for one command |
//! | `process`, `keep`, [`server`] | the process that goes on while something is mounted, and the one that answers |
//! | [`backend`], [`explain`] | which of these ways there are, which is taken, and why not another |
//! | [`run`], `exec`, `supervise` | a command inside an environment, from fork to exit code |
//! | [`status`] | which environments are mounted |

mod adapter;
pub mod backend;
mod backing;
mod boot;
mod cache;
mod causes;
pub mod errno;
mod exec;
pub mod explain;
#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
pub mod fs;
mod holders;
mod keep;
pub mod kernel;
pub mod link;
pub mod mount;
pub mod mountinfo;
mod namespace;
mod private;
mod process;
pub mod run;
pub mod server;
pub mod service;
pub mod status;
mod supervise;
pub mod unmount;
pub mod writable;

pub use boot::{BootError, current as current_boot};
pub use exec::Command;
pub use namespace::private_prefix;
pub use process::ProcessError;
