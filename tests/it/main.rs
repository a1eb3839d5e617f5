//! The whole product against the world: other installers' results, hostile input, crashes, crowds, and real programs.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bad_input;
mod bad_pypi;
mod bytecode;
mod clocks;
mod collect;
mod corruption;
mod crash;
mod crowd;
mod cuts;
mod disks;
mod ensured;
mod full;
mod hostile;
mod import;
mod index;
mod inherit;
mod kernel;
mod known;
mod link_scripts;
mod machine_python;
mod many;
mod migrate;
mod model;
mod mount_kills;
mod mounted;
mod names;
mod oracle;
mod orchestrator;
mod parity;
mod power_cuts;
mod prefix;
mod programs;
mod pypi;
mod repair_kills;
mod reuse;
mod serve;
mod soak;
mod sources;
mod system_store;
mod tools;
mod variants;
mod warm;
mod with;
mod writable;
