//! The whole product against the world: other installers' results, hostile input, crashes, crowds, and real programs.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bad_input;
mod bytecode;
mod collect;
mod crash;
mod crowd;
mod index;
mod inherit;
mod known;
mod link_scripts;
mod many;
mod mounted;
mod names;
mod oracle;
mod parity;
mod prefix;
mod programs;
mod pypi;
mod reuse;
mod sources;
mod system_store;
mod warm;
mod with;
mod writable;
