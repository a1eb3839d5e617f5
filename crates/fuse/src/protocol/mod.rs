//! The FUSE protocol as far as a read-only file system speaks it: messages as the kernel lays them out, and the connection
//! over which they come and go. Knows nothing of environments, and of file systems only their words.
//!
//! | room | what it is |
//! | --- | --- |
//! | `wire` | the kernel's structures, by its names (include/uapi/linux/fuse.h) |
//! | `request` | what the kernel asks, parsed with every length checked |
//! | `reply` | answers with more than one structure: listings |
//! | `init` | the first message: what both sides can do |
//! | `connection` | `/dev/fuse`: receiving, answering, telling, and files that the kernel reads itself |
//! | `patience` | waiting for the next request without going to sleep too early |
//!
//! Everything that is sent is taken from memory of this process that is there already: if the process is killed while the
//! kernel copies an answer out of a page that it must fetch first, the program that asked sees an input/output error.

pub(crate) mod connection;
pub(crate) mod init;
pub(crate) mod patience;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod wire;
