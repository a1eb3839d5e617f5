//! Readers that only the kernel reaches, for fuzzing. Nobody else has a use for it.

use crate::mountinfo;
use crate::protocol::request::Request;

/// Parses a request, and a list of mounts.
pub fn request(bytes: &[u8]) {
    let _ = Request::parse(bytes);
    let _ = mountinfo::parse(bytes);
}
