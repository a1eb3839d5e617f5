//! What bytes exist: a content-addressed store of Python environments.
//!
//! Files are kept once, by content, in packs (small files) and objects (large ones). A layer is the sorted
//! list of one package's files, a tree the merged directory index of one environment, and an environment
//! record ties a signature to its tree. This crate knows nothing of networks, package managers or the kernel's
//! file-system protocols, never prints, and never reads the process's surroundings.
//!
//! The rooms, lowest first:
//!
//! | room | what it is |
//! | --- | --- |
//! | [`digest`], [`path`], `wire` | names of content, names of files, bounds-checked bytes |
//! | `durable` | the one seam through which everything is written |
//! | `sealed` | documents that tell whether they are whole |
//! | [`lock`] | who may do what at the same time |
//! | `host` | which kernel this is, where several share a store |
//! | `stamps` | which whole files were read through in this boot |
//! | [`pack`] | many small objects in one immutable file |
//! | [`store`] | the directory itself: layout, format, finding objects |
//! | `checks` | when whole files are compared with their names |
//! | [`clock`] | how old files are, by clocks that may be wrong |
//! | [`workspace`], [`ingest`] | how new bytes enter the store |
//! | `shebang`, [`placeholder`], [`patch`] | prefixes recorded in files, and replaced when they are read |
//! | [`layer`] | the files of one package archive |
//! | [`tree`] | the merged index of one environment, mapped and never parsed |
//! | [`view`] | a tree as it looks at one prefix |
//! | [`cache`] | whole files for the kernel to read by itself: copies, never the truth |
//! | [`signature`], [`environment`], [`lease`] | what an environment is called, what it holds, who uses it |
//! | [`built`] | wheels that were built of sources |
//! | [`trace`] | what the first runs of a tree opened, for the next cold start |
//! | `ledger`, [`name`], [`names`], [`links`], [`roots`] | what people call environments, where that is seen, and what else is kept |
//! | [`answers`] | which environment answered a question, so that it need not be solved again |
//! | [`index`] | when and how often environments were used: a database that may be lost |
//! | [`linked`] | directories into which environments were linked |
//! | [`warm`] | which environments stay mounted though nobody uses them |
//! | [`writable`] | what keeps what is being written into environments |
//! | [`capture`] | what was written into a writable mount, as a layer and a new environment |
//! | [`gc`], `trash` | collection: what nothing keeps goes, and until nobody can rely on it may come back |
//! | `ballast` | room for a collection on a full disk |
//! | `usage` | how much there is |
//! | [`verify`] | whether everything is what its name says, and mending what is not |

pub mod answers;
mod ballast;
pub mod built;
pub mod cache;
pub mod capture;
mod checks;
pub mod clock;
pub mod digest;
mod durable;
pub mod environment;
mod error;
#[cfg(test)]
mod examples;
pub mod gc;
mod host;
pub mod index;
pub mod ingest;
pub mod layer;
pub mod lease;
mod ledger;
pub mod linked;
pub mod links;
pub mod lock;
pub mod name;
pub mod names;
pub mod pack;
pub mod patch;
pub mod path;
pub mod placeholder;
pub mod roots;
mod sealed;
mod shebang;
pub mod signature;
mod stamps;
pub mod store;
pub mod trace;
mod trash;
pub mod tree;
mod usage;
pub mod verify;
pub mod view;
pub mod warm;
mod wire;
pub mod workspace;
pub mod writable;

pub use digest::Digest;
pub use durable::{remove_tree, write_new};
pub use error::{Error, Holder, Result};
pub use stamps::{Checks, UnknownChecks};
pub use store::Store;
pub use usage::Usage;
