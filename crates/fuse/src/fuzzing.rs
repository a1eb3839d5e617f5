//! Readers that only the kernel reaches, for fuzzing. Nobody else has a use for it.

use crate::mountinfo;
use crate::protocol::patience;
use crate::protocol::request::Request;

/// Parses a request.
pub fn request(bytes: &[u8]) {
    let _ = Request::parse(bytes);
}

/// Parses a list of mounts, and the load.
pub fn machine(bytes: &[u8]) {
    let _ = mountinfo::parse(bytes);
    let _ = patience::running(bytes);
}
