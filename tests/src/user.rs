//! Users other than the tester: the tests of ordinary users run as `nobody` where the tester is root.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The user called `nobody`, everywhere.
const NOBODY_ID: u32 = 65_534;

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The tester, root or not.
    Tester,
    /// An ordinary user.
    Ordinary,
}

impl Who {
    /// Makes a command theirs.
    pub fn runs(self, command: &mut Command) -> &mut Command {
        match self {
            Self::Tester => command,
            Self::Ordinary => as_ordinary_user(command),
        }
    }

    /// Makes a directory theirs, with all that is in it.
    ///
    /// # Panics
    /// When it cannot be given.
    pub fn owns(self, path: &Path) {
        if self == Self::Ordinary {
            give_to_ordinary_user(path);
        }
    }
}

/// Whether the tester is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes `command` run as an ordinary user: as `nobody`, or as the tester where that is none but root.
pub fn as_ordinary_user(command: &mut Command) -> &mut Command {
    if is_root() {
        command.uid(NOBODY_ID).gid(NOBODY_ID);
    }
    command
}

/// Gives a directory, and all that is in it, to the ordinary user.
///
/// # Panics
/// When it cannot be given.
pub fn give_to_ordinary_user(path: &Path) {
    if !is_root() {
        return;
    }
    chown(path, Some(NOBODY_ID), Some(NOBODY_ID)).unwrap();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            give_to_ordinary_user(&entry.path());
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(NOBODY_ID), Some(NOBODY_ID)).unwrap();
        }
    }
}

/// Lets everybody pass through a directory.
///
/// # Panics
/// When its mode cannot be changed.
pub fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
