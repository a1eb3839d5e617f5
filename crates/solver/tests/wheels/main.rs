//! Environments with wheels as their users see them: what is where, what replaces what, and what other installers write.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

mod environments;
mod parity;
mod programs;
mod support;
