//! Which whole files were found to be what their names say, so that each is read through once in a boot and not at every open.
//! Drawn in `docs/format.md`, "stamps".
//!
//! A stamp is of a file as it was then: one that was written to or replaced since has another time or inode, and is read
//! through again. What goes wrong on the disk without anybody writing is seen in the next boot, or by a check of the store. Every
//! user has stamps of their own: nobody has to believe what others found.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use zerocopy::little_endian::{I64, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::host::Host;

/// When whole files are compared with their names before they are read. Small ones always are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checks {
    /// At every open.
    Always,
    /// At the first open in a boot, and after it was written to.
    #[default]
    First,
    /// Never.
    Never,
}

/// The text says no such thing.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` does not say when to check: it is `always`, `first` or `never`")]
pub struct UnknownChecks(String);

impl Checks {
    const ALL: [Self; 3] = [Self::First, Self::Always, Self::Never];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::First => "first",
            Self::Never => "never",
        }
    }
}

impl FromStr for Checks {
    type Err = UnknownChecks;

    fn from_str(text: &str) -> Result<Self, UnknownChecks> {
        let found = Self::ALL.into_iter().find(|checks| checks.name() == text);
        found.ok_or_else(|| UnknownChecks(text.to_owned()))
    }
}

/// No more is noted: half a million files.
const MAX_BYTES: u64 = 32 << 20;

/// The first bytes of the file, then the name of the boot, then zeros up to the size of a stamp. Another form of stamps must
/// have others.
const MAGIC: [u8; 8] = *b"envfsst1";

const BOOT_BYTES: usize = STAMP_BYTES - MAGIC.len();

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// One file that was right.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stamp {
    digest: Digest,
    inode: U64,
    size_bytes: U64,
    /// When it was last written to, renamed or linked.
    changed_s: I64,
    changed_ns: I64,
}

const STAMP_BYTES: usize = size_of::<Stamp>();

/// The stamps of this user in this boot.
#[derive(Debug)]
pub(crate) struct Stamps {
    path: PathBuf,
    checks: AtomicU8,
    known: Mutex<Option<HashMap<Digest, Stamp>>>,
}

impl std::fmt::Debug for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stamp").field(&self.digest).finish()
    }
}

impl Stamp {
    fn of(digest: &Digest, metadata: &Metadata) -> Self {
        Self {
            digest: *digest,
            inode: metadata.ino().into(),
            size_bytes: metadata.len().into(),
            changed_s: metadata.ctime().into(),
            changed_ns: metadata.ctime_nsec().into(),
        }
    }
}

impl Stamp {
    /// What says of the tree called `name` that all its whole objects were read through. No file has the inode 0.
    fn of_all(name: &Digest) -> Self {
        Self {
            digest: Digest::of(&[b"whole objects of ", name.as_bytes().as_slice()].concat()),
            inode: 0.into(),
            size_bytes: u64::MAX.into(),
            changed_s: 0.into(),
            changed_ns: 0.into(),
        }
    }
}

impl Stamps {
    /// Those that are kept in the store at `root`.
    pub(crate) fn of(root: &Path) -> Self {
        let uid = nix::unistd::geteuid();
        Self {
            path: root.join("cache").join(format!("checked-{uid}")),
            checks: AtomicU8::new(Checks::First as u8),
            known: Mutex::new(None),
        }
    }

    pub(crate) fn set(&self, checks: Checks) {
        self.checks.store(checks as u8, Ordering::Relaxed);
    }

    pub(crate) fn checks(&self) -> Checks {
        let set = self.checks.load(Ordering::Relaxed);
        let found = Checks::ALL.into_iter().find(|checks| *checks as u8 == set);
        found.unwrap_or_default()
    }

    /// Makes sure that the open `file` at `path` is what `digest` names, as far as that is to be checked.
    pub(crate) fn check(&self, path: &Path, file: &File, digest: &Digest) -> Result<()> {
        let checks = self.checks();
        if checks == Checks::Never {
            return Ok(());
        }
        let metadata = file.metadata().at("inspect", path)?;
        let stamp = Stamp::of(digest, &metadata);
        if checks == Checks::First && self.holds(&stamp) {
            return Ok(());
        }
        let found = read_through(path, file)?;
        if found != *digest {
            return Err(Error::corrupt(path, format!("its bytes have the digest {found}")));
        }
        self.add(&[stamp]);
        Ok(())
    }

    /// Notes files that were written or read through just now, and are what they are called.
    pub(crate) fn note<'p>(&self, files: impl Iterator<Item = (Digest, &'p Path)>) {
        let stamps: Vec<Stamp> = files
            .filter_map(|(digest, path)| Some(Stamp::of(&digest, &path.metadata().ok()?)))
            .collect();
        self.add(&stamps);
    }

    /// Takes back what was noted of files that are wrong.
    pub(crate) fn forget(&self, digests: impl Iterator<Item = Digest>) {
        let nothing = |digest| Stamp {
            digest,
            inode: 0.into(),
            size_bytes: 0.into(),
            changed_s: 0.into(),
            changed_ns: 0.into(),
        };
        self.add(&digests.map(nothing).collect::<Vec<_>>());
    }

    /// Whether the file at `path` need not be read through now to be taken for what `digest` names.
    pub(crate) fn trusts(&self, path: &Path, digest: &Digest) -> bool {
        match self.checks() {
            Checks::Never => true,
            Checks::Always => false,
            Checks::First => path
                .metadata()
                .is_ok_and(|metadata| self.holds(&Stamp::of(digest, &metadata))),
        }
    }

    /// Whether all whole objects of the tree called `name` were read through.
    pub(crate) fn holds_all_of(&self, name: &Digest) -> bool {
        self.holds(&Stamp::of_all(name))
    }

    /// Notes that they were.
    pub(crate) fn note_all_of(&self, name: &Digest) {
        self.add(&[Stamp::of_all(name)]);
    }

    fn holds(&self, stamp: &Stamp) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref()
            && known.get(&stamp.digest) == Some(stamp)
        {
            return true;
        }
        // Another process may have noted it.
        let loaded = known.insert(self.load().unwrap_or_default());
        loaded.get(&stamp.digest) == Some(stamp)
    }

    /// What cannot be noted is checked again by the next process, and nothing fails.
    fn add(&self, stamps: &[Stamp]) {
        if stamps.is_empty() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(|| self.load().unwrap_or_default());
        let is_new = |stamp: &&Stamp| known.get(&stamp.digest) != Some(stamp);
        let new: Vec<Stamp> = stamps.iter().filter(is_new).copied().collect();
        known.extend(new.iter().map(|stamp| (stamp.digest, *stamp)));
        if !new.is_empty() {
            let _ = self.append(&new);
        }
    }

    fn append(&self, stamps: &[Stamp]) -> Result<()> {
        if self.load().is_none() {
            let directory = self.path.parent().unwrap_or(&self.path);
            durable::create_directory(directory)?;
            durable::write_evictable(directory, &self.path, &head())?;
        }
        durable::append_evictable(&self.path, stamps.as_bytes(), MAX_BYTES)
    }

    /// The stamps in the file; none if there is none of this user in this boot.
    fn load(&self) -> Option<HashMap<Digest, Stamp>> {
        let mut file = File::open(&self.path).ok()?;
        let is_own = file.metadata().ok()?.uid() == nix::unistd::geteuid().as_raw();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (first, rest) = bytes.split_first_chunk::<STAMP_BYTES>()?;
        if !is_own || *first != head() {
            return None;
        }
        let stamps = rest.chunks_exact(STAMP_BYTES);
        let stamps = stamps.filter_map(|bytes| Stamp::read_from_bytes(bytes).ok());
        Some(stamps.map(|stamp| (stamp.digest, stamp)).collect())
    }
}

/// What the file of this boot begins with.
fn head() -> [u8; STAMP_BYTES] {
    let boot = Host::current().boot.clone();
    let boot = &boot.as_bytes()[..boot.len().min(BOOT_BYTES)];
    let mut head = [0; STAMP_BYTES];
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[MAGIC.len()..MAGIC.len() + boot.len()].copy_from_slice(boot);
    head
}

/// The digest of all bytes of a file, whose own position stays.
fn read_through(path: &Path, file: &File) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    loop {
        let len = file.read_at(&mut buffer, offset).at("read", path)?;
        if len == 0 {
            return Ok(Digest::from_bytes(*hasher.finalize().as_bytes()));
        }
        hasher.update(&buffer[..len]);
        offset += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_through_once_and_again_when_it_was_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object");
        fs::write(&path, "right").unwrap();
        let digest = Digest::of(b"right");
        let check = |stamps: &Stamps| stamps.check(&path, &File::open(&path).unwrap(), &digest);
        let stamps = Stamps::of(directory.path());
        check(&stamps).unwrap();
        // Another process knows it too.
        let other = Stamps::of(directory.path());
        assert!(other.holds(&Stamp::of(&digest, &path.metadata().unwrap())));
        fs::write(&path, "wrong").unwrap();
        for stamps in [&stamps, &other] {
            let message = check(stamps).unwrap_err().to_string();
            assert!(message.contains("its bytes have the digest"), "{message}");
        }
        stamps.set(Checks::Never);
        check(&stamps).unwrap();
        fs::write(&path, "right").unwrap();
        other.set(Checks::Always);
        check(&other).unwrap();
        // What was noted is taken back.
        let stamp = Stamp::of(&digest, &path.metadata().unwrap());
        assert!(other.holds(&stamp));
        other.forget([digest].into_iter());
        assert!(!other.holds(&stamp) && !Stamps::of(directory.path()).holds(&stamp));
    }

    #[test]
    fn stamps_of_another_boot_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object");
        fs::write(&path, "right").unwrap();
        let digest = Digest::of(b"right");
        let stamps = Stamps::of(directory.path());
        stamps.note([(digest, path.as_path())].into_iter());
        let mut bytes = fs::read(&stamps.path).unwrap();
        assert_eq!(bytes.len(), 2 * STAMP_BYTES);
        bytes[MAGIC.len()] ^= 1;
        fs::remove_file(&stamps.path).unwrap();
        fs::write(&stamps.path, bytes).unwrap();
        assert!(Stamps::of(directory.path()).load().is_none());
        for name in ["always", "first", "never"] {
            assert_eq!(name.parse::<Checks>().unwrap().name(), name);
        }
        assert!("sometimes".parse::<Checks>().is_err());
    }
}
