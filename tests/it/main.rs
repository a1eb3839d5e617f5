//! The whole product against the world: other installers' results, hostile input, crashes, crowds, and real programs.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bad_input;
mod bytecode;
mod crash;
mod crowd;
mod import;
mod inherit;
mod kernel;
mod known;
mod many;
mod migrate;
mod mounted;
mod names;
mod oracle;
mod parity;
mod prefix;
mod reuse;
mod variants;
mod with;
mod writable;
