//! How overlayfs notes what was changed (Documentation/filesystems/overlayfs.rst): whiteouts, opaque and renamed directories,
//! files of which only attributes were changed. In `trusted.` for mounts by root, in `user.` for those of ordinary users.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The namespaces of extended attributes that overlayfs writes to.
const NAMESPACES: [&str; 2] = ["trusted", "user"];

/// The longest value that is read: a path of the kernel's.
const MAX_VALUE_BYTES: usize = 4096;

/// Where in the environment below something lies that is seen at another place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Under this path, from the root of the environment.
    Path(Vec<u8>),
    /// Under this name, in the directory below the one that it is in.
    Name(Vec<u8>),
}

/// Whether it says that something was removed: a device with the number 0/0.
pub(super) fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Whether nothing of the directory below is seen in this one.
pub(super) fn is_opaque(directory: &Path) -> bool {
    // A value of `x` only says that there are other marks in the directory.
    attribute(directory, "opaque").is_some_and(|value| value == b"y")
}

/// Where the counterpart in the environment lies, if not at the same place.
pub(super) fn redirect(path: &Path) -> Option<Redirect> {
    let value = attribute(path, "redirect")?;
    Some(match value.strip_prefix(b"/") {
        Some(path) => Redirect::Path(path.to_owned()),
        None => Redirect::Name(value),
    })
}

/// Whether the file has only attributes: its content is that of the counterpart in the environment.
pub(super) fn is_without_content(file: &Path) -> bool {
    attribute(file, "metacopy").is_some()
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    NAMESPACES.into_iter().find_map(|namespace| {
        let mut value = vec![0; MAX_VALUE_BYTES];
        let len = rustix::fs::lgetxattr(path, format!("{namespace}.overlay.{name}"), &mut value).ok()?;
        value.truncate(len);
        Some(value)
    })
}
