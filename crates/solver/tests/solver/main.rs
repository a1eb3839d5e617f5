//! The solver crate as its users see it: channels in folders and on a server that misbehaves on request.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

mod fetch;
mod files;
mod index;
mod resolve;
mod solve;
mod support;
