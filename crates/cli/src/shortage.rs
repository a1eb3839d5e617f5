//! What the machine has run out of, when an error says so, and what to do about it.

use std::error::Error;
use std::io;
use std::path::Path;

use nix::errno::Errno;

/// What to do about the shortage that caused `error`, if one did.
pub(crate) fn remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut number = None;
    let mut place = None;
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(envfs_store::Error::Io { path, .. }) = error.downcast_ref() {
            place = Some(path.as_path());
        }
        let system = error.downcast_ref::<io::Error>().and_then(number_of);
        let known = system.or_else(|| error.downcast_ref().copied());
        // Libraries that hand on no source hand on its words.
        number = known.or_else(|| number_in(&error.to_string(), "(os error ")).or(number);
        at = error.source();
    }
    remedy_of(number?, place)
}

/// Errors that others have wrapped know only their kind.
fn number_of(error: &io::Error) -> Option<Errno> {
    match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => Some(Errno::from_raw(number)),
        (None, io::ErrorKind::StorageFull) => Some(Errno::ENOSPC),
        (None, io::ErrorKind::QuotaExceeded) => Some(Errno::EDQUOT),
        _ => None,
    }
}

/// What to do about the shortage that made a library give up with these words, if one did.
pub(crate) fn remedy_of_panic(told: &str) -> Option<&'static str> {
    let number = number_in(told, "(os error ").or_else(|| number_in(told, "Os { code: "))?;
    remedy_of(number, None)
}

/// The number of an error as Rust shows it behind `mark`.
fn number_in(text: &str, mark: &str) -> Option<Errno> {
    let after = text.split_once(mark)?.1;
    let digits = after.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok().map(Errno::from_raw)
}

fn remedy_of(number: Errno, place: Option<&Path>) -> Option<&'static str> {
    Some(match number {
        Errno::ENOSPC if place.is_some_and(has_no_inodes) => {
            "the disk has room, but no inodes: remove files from it, with `envfs gc` or otherwise, or use a store on another disk with \
             `--store DIR`; nothing is half-written"
        }
        Errno::ENOSPC => {
            "free some space, with `envfs gc` or otherwise, or use a store on another disk with `--store DIR`; \
             nothing is half-written"
        }
        Errno::EDQUOT => {
            "your quota is used up: free some space, with `envfs gc` or otherwise, ask for more, or use a store on \
             another disk with `--store DIR`; nothing is half-written"
        }
        Errno::EMFILE => {
            "this process may have no more files open: allow more (`ulimit -Hn`, `LimitNOFILE=`); nothing is half-written"
        }
        Errno::ENFILE => "the whole machine has too many files open (`fs.file-max`): end some programs",
        Errno::EAGAIN => {
            "no more processes or threads may be started here: end some, or allow more (`ulimit -u`, `TasksMax=`)"
        }
        Errno::ENOMEM => "no more memory may be had here: end some programs, or allow more (`ulimit -v`, `MemoryMax=`)",
        Errno::EIO => "the disk does not answer as it should: see the kernel's log (`dmesg`), then `envfs verify`",
        _ => return None,
    })
}

/// So few inodes are none: what was begun has been taken back before anybody looks.
const FEW_INODES: u64 = 64;

/// Whether the file system of `path` has a twentieth of its room, and no inodes. Some make inodes as they need them, and count
/// none.
fn has_no_inodes(path: &Path) -> bool {
    let existing = path.ancestors().find_map(|path| nix::sys::statvfs::statvfs(path).ok());
    existing.is_some_and(|room| {
        room.files() > 0 && room.files_available() < FEW_INODES && room.blocks_available() >= room.blocks() / 20
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_found_however_deep_it_lies() {
        let full = envfs_store::Error::Io {
            action: "write",
            path: "/".into(),
            source: io::Error::from_raw_os_error(nix::libc::EDQUOT),
        };
        assert!(remedy(&full).unwrap().contains("quota"));
        assert!(
            remedy(&io::Error::from_raw_os_error(nix::libc::EMFILE))
                .unwrap()
                .contains("ulimit -Hn")
        );
        assert_eq!(remedy(&io::Error::from_raw_os_error(nix::libc::ENOENT)), None);
        let wrapped = io::Error::new(io::ErrorKind::StorageFull, "no room at path `x`");
        assert!(remedy(&wrapped).unwrap().contains("free some space"));
        let panic =
            "failed to create UnixStream: Os { code: 24, kind: Uncategorized, message: \"Too many open files\" }";
        assert_eq!(
            remedy_of_panic(panic),
            remedy(&io::Error::from_raw_os_error(nix::libc::EMFILE))
        );
        assert_eq!(
            number_in("cannot start (os error 11)", "(os error "),
            Some(Errno::EAGAIN)
        );
        assert_eq!(number_in("index out of bounds", "(os error "), None);
    }
}
