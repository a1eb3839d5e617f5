//! Which mounts there are: `/proc/self/mountinfo`, parsed apart from reading it.
//!
//! The format is that of proc_pid_mountinfo(5): fields separated by spaces, with space, tab, newline and
//! backslash inside a field written as a backslash and three octal digits.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use envfs_store::Digest;

/// The type of our mounts that a server answers for, as the kernel shows it.
pub const FILE_SYSTEM_TYPE: &str = "fuse.envfs";

/// The type of our mounts that the kernel serves by itself.
pub const KERNEL_FILE_SYSTEM_TYPE: &str = "overlay";

/// What stands before the first digits of the signature in the source of our mounts.
pub const SOURCE_PREFIX: &str = "envfs#";

/// How many digits of the signature the source of our mounts shows.
pub const SOURCE_DIGITS: usize = 16;

/// Most tables are not larger.
const TABLE_BYTES: usize = 16 * 1024;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is.
    pub mount_point: PathBuf,
    /// Its type, such as `ext4` or `fuse.envfs`.
    pub file_system_type: String,
    /// What was mounted.
    pub source: String,
    /// The options of its file system.
    pub super_options: String,
}

impl MountEntry {
    /// Whether it is one of ours.
    #[must_use]
    pub fn is_envfs(&self) -> bool {
        self.file_system_type == FILE_SYSTEM_TYPE || self.is_kernel()
    }

    /// Whether it is one of ours without a server.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.file_system_type == KERNEL_FILE_SYSTEM_TYPE && self.source.starts_with(SOURCE_PREFIX)
    }

    /// Whether it is one of ours without a server, and takes its content from the directory `objects`, or may: one that
    /// can be written to stands on another that is not listed.
    #[must_use]
    pub fn may_take_content_from(&self, objects: &Path) -> bool {
        let mut sources = self
            .super_options
            .split(',')
            .filter_map(|option| option.strip_prefix("datadir+="))
            .peekable();
        // Overlayfs escapes what separates options, mountinfo escapes that again: both are undone, once each.
        self.is_kernel()
            && (sources.peek().is_none()
                || sources.any(|source| unescape(source.as_bytes()) == objects.as_os_str().as_bytes()))
    }

    /// The first digits of the signature of the environment that is mounted.
    #[must_use]
    pub fn signature_digits(&self) -> Option<&str> {
        self.source.strip_prefix(SOURCE_PREFIX).filter(|_| self.is_envfs())
    }

    /// The user for whom it was mounted.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        if self.is_kernel() {
            // Only root makes them.
            return Some(0);
        }
        self.super_options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }
}

/// What the mount table shows as the source of the environment `signature`.
pub(crate) fn source(signature: &Digest) -> String {
    format!("{SOURCE_PREFIX}{}", &signature.to_string()[..SOURCE_DIGITS])
}

/// The mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// When `/proc/self/mountinfo` cannot be read.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&read_table(Path::new("/proc/self/mountinfo"))?))
}

/// A table of mounts as the kernel writes it. It has no size, and is made anew for each piece that is read.
fn read_table(path: &Path) -> io::Result<Vec<u8>> {
    let mut table = Vec::with_capacity(TABLE_BYTES);
    File::open(path)?.read_to_end(&mut table)?;
    Ok(table)
}

/// The mounts of each mount namespace in which a process lives that this one may look at, its own among them. Paths are
/// as those processes see them.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn read_all_namespaces() -> io::Result<Vec<Vec<MountEntry>>> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        let process = process?.path();
        // What is no process has none; what is not to be looked at gives none.
        if let Ok(namespace) = std::fs::read_link(process.join("ns/mnt"))
            && !seen.contains(&namespace)
            && let Ok(text) = read_table(&process.join("mountinfo"))
        {
            seen.insert(namespace);
            all.push(parse(&text));
        }
    }
    Ok(all)
}

/// What is mounted at exactly `path`: the last mount there covers those before it.
#[must_use]
pub fn at<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    mounts.iter().rev().find(|mount| mount.mount_point == path)
}

/// What the mount point `path` may be called in the table: as it is written, beside its parent, and where it leads. Only who asks for
/// the last looks at the mount itself, whose server may be gone.
///
/// # Errors
/// When `path` is relative and there is no current directory.
pub(crate) fn names_of(path: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let absolute = std::path::absolute(path)?;
    let beside = match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute.clone(),
    };
    let followed = move || path.canonicalize().ok();
    let names = [Some(absolute), Some(beside)].into_iter();
    Ok(names.chain(std::iter::once_with(followed)).flatten())
}

/// The mounts that `text` lists. Lines of another shape are left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    // Mount id, parent id, device, root; then the mount point, its options, and any number of optional fields
    // up to a hyphen.
    let mount_point = fields.nth(4)?;
    fields.find(|field| *field == b"-")?;
    let file_system_type = fields.next()?;
    let source = fields.next()?;
    let super_options = fields.next()?;
    Some(MountEntry {
        mount_point: OsString::from_vec(unescape(mount_point)).into(),
        file_system_type: text(file_system_type),
        source: text(source),
        super_options: text(super_options),
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = br"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
90 27 0:50 / /home/a\040b\134c ro,nosuid,nodev shared:7 master:3 - fuse.envfs envfs#0123456789abcdef ro,user_id=1000,group_id=100
91 90 0:51 / /home/a\040b\134c rw - tmpfs envfs rw
cut off - here
";

    #[test]
    fn escapes_and_optional_fields_are_understood() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 4);
        let ours = &mounts[2];
        assert_eq!(ours.mount_point, Path::new(r"/home/a b\c"));
        assert_eq!(ours.signature_digits(), Some("0123456789abcdef"));
        assert_eq!(ours.uid(), Some(1000));
        assert_eq!(mounts[1].signature_digits(), None);
        assert_eq!(mounts[1].uid(), None);
    }

    #[test]
    fn the_topmost_mount_counts() {
        let mounts = parse(SAMPLE);
        assert_eq!(
            at(&mounts, Path::new(r"/home/a b\c")).unwrap().file_system_type,
            "tmpfs"
        );
        assert_eq!(at(&mounts, Path::new("/home")), None);
    }

    #[test]
    fn the_mount_table_shows_the_environment() {
        assert_eq!(source(&Digest::of(b"")), "envfs#af1349b9f5f9a1a6");
    }

    #[test]
    fn a_lone_backslash_stays() {
        assert_eq!(unescape(br"a\04b\"), br"a\04b\");
        assert_eq!(unescape(br"\777"), br"\777");
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(at(&read().unwrap(), Path::new("/")).is_some());
    }
}
