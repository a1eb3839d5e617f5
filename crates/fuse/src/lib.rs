//! What the kernel sees: an environment's tree served as a read-only file system.
//!
//! This crate knows trees and bytes only through `envfs_store`, and nothing of packages, channels or solving. It
//! never prints. Behaviour lives in [`fs`], which runs without a kernel; `adapter` only translates what `protocol` speaks.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`service`], `boot` | what is served, and on which boot of the machine |
//! | [`fs`], `cache` | lookups, attributes, listings and reads over a view |
//! | [`errno`], `causes` | the one place where an error becomes a number for the kernel, and the line for the log |
//! | `protocol` | FUSE's messages, and the connection over which they come |
//! | `backing`, `adapter` | the kernel's requests, answered |
//! | [`mountinfo`] | which mounts there are |
//! | [`mount`], [`unmount`], `holders` | attaching to a directory and detaching again |
//! | [`kernel`] | without a server: an image of the names, and overlayfs |
//! | [`link`] | without a mount: a directory of links and copies |
//! | `namespace`, `private` | a private view of the file systems for one command |
//! | `residency` | what is in memory, and bringing it there |
//! | `process`, `keep` | the process that goes on while something is mounted |
//! | [`server`], `readers`, `keeper`, `memory` | the process that answers, and the one that starts another if that one dies |
//! | [`backend`], [`explain`] | which of these ways there are, which is taken, and why not another |
//! | [`writable`], [`sandbox`], `limits` | where a command may write, and what it is kept to |
//! | [`run`], [`confine`], `exec`, `supervise` | a command inside an environment, or only kept to limits, from fork to exit code |
//! | [`warm`] | mounts that are there already: found, used in place, and taken away when nobody uses them |
//! | `entrances`, [`serve`] | one mount through which all environments of a store are found |
//! | [`status`] | which environments are mounted |

mod adapter;
pub mod backend;
mod backing;
mod boot;
mod cache;
mod causes;
pub mod confine;
mod entrances;
pub mod errno;
mod exec;
pub mod explain;
#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
pub mod fs;
#[doc(hidden)]
pub mod fuzzing;
mod holders;
mod journal;
mod keep;
mod keeper;
pub mod kernel;
mod limits;
pub mod link;
mod memory;
pub mod mount;
pub mod mountinfo;
mod namespace;
mod private;
mod process;
mod protocol;
mod readers;
mod residency;
pub mod run;
pub mod sandbox;
pub mod serve;
pub mod server;
pub mod service;
pub mod status;
mod supervise;
pub mod unmount;
pub mod warm;
pub mod writable;

pub use boot::{BootError, current as current_boot};
pub use exec::Command;
pub use limits::{Forgotten, Limits};
pub use namespace::private_prefix;
pub use process::{ProcessError, close_inherited_descriptors};
