//! Readers that nobody outside reaches, for fuzzing. Nobody else has a use for it.

use crate::kernel::template::Template;
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

/// Parses an image without its prefix.
pub fn template(mut bytes: &[u8]) {
    let file_bytes = bytes.len() as u64;
    let _ = Template::parse(&mut bytes, file_bytes);
}
