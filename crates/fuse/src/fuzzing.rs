//! Readers that nobody outside reaches, for fuzzing. Nobody else has a use for it.

use crate::kernel::template::Template;
use crate::mountinfo;
use crate::protocol::request::Request;

/// Parses a request, and a list of mounts.
pub fn request(bytes: &[u8]) {
    let _ = Request::parse(bytes);
    let _ = mountinfo::parse(bytes);
}

/// Parses an image without its prefix.
pub fn template(mut bytes: &[u8]) {
    let file_bytes = bytes.len() as u64;
    let _ = Template::parse(&mut bytes, file_bytes);
}
