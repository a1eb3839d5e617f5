//! What all integration tests share: the built program, packages and channels made by hand, the optional real data, and the
//! installer that we must agree with. Knows the command line and the store's reader; nothing of how packages are solved.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::print_stderr, reason = "a test that skips says so loudly")]

pub mod cases;
pub mod cgroup;
pub mod chance;
pub mod changes;
pub mod channel;
pub mod clock;
pub mod damage;
pub mod data;
pub mod differ;
pub mod disk;
pub mod hostile;
pub mod installers;
pub mod large;
pub mod load;
pub mod mounted;
pub mod package;
pub mod power;
pub mod program;
pub mod pypi;
pub mod reference;
pub mod seen;
pub mod server;
pub mod sound;
pub mod steps;
pub mod user;
pub mod volume;
