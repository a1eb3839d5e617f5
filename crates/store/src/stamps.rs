//! Which whole files were found to be what their names say, so that each is read through once in a boot and not at every open.
//! Drawn in `docs/format.md`, "stamps".
//!
//! A stamp is of a file as it was then: one that was written to or replaced since has another time or inode, and is read
//! through again. What goes wrong on the disk without anybody writing is seen in the next boot, or by a check of the store. Every
//! user has stamps of their own: nobody has to believe what others found.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
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

/// The first bytes of every bucket, then the name of the boot, then zeros up to the size of a stamp. Another form of stamps
/// must have others.
const MAGIC: [u8; 8] = *b"envfsst2";

const BOOT_BYTES: usize = STAMP_BYTES - MAGIC.len();

/// So many buckets a file has, of a page each: the first bytes of a digest say in which its stamp would be, so that neither
/// asking nor noting takes longer the more is noted. 64,512 stamps in at most 4 MiB, which exist as far as they are used.
const BUCKETS: u64 = 1024;
const BUCKET_BYTES: usize = 4096;

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
    /// What this process has asked for and found, by digest.
    known: Mutex<HashMap<Digest, Stamp>>,
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
    /// What no file has.
    fn of_nothing(digest: Digest) -> Self {
        Self {
            digest,
            inode: 0.into(),
            size_bytes: 0.into(),
            changed_s: 0.into(),
            changed_ns: 0.into(),
        }
    }

    /// What says of the tree called `name` that all its whole objects were read through. No file has the inode 0.
    fn of_all(name: &Digest) -> Self {
        Self {
            size_bytes: u64::MAX.into(),
            ..Self::of_nothing(Digest::of(&[b"whole objects of ", name.as_bytes().as_slice()].concat()))
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
            known: Mutex::default(),
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

    /// Notes files that were read through and are what they are called, as they were before that.
    pub(crate) fn note(&self, files: impl Iterator<Item = (Digest, Metadata)>) {
        let stamps: Vec<Stamp> = files.map(|(digest, metadata)| Stamp::of(&digest, &metadata)).collect();
        self.add(&stamps);
    }

    /// Notes files that this process wrote just now.
    pub(crate) fn note_written<'p>(&self, files: impl Iterator<Item = (Digest, &'p Path)>) {
        self.note(files.filter_map(|(digest, path)| Some((digest, path.metadata().ok()?))));
    }

    /// Takes back what was noted of files that are wrong.
    pub(crate) fn forget(&self, digests: impl Iterator<Item = Digest>) {
        self.add(&digests.map(Stamp::of_nothing).collect::<Vec<_>>());
    }

    /// Takes back that all whole objects of the trees called `names` were read through.
    pub(crate) fn forget_all_of(&self, names: impl Iterator<Item = Digest>) {
        self.forget(names.map(|name| Stamp::of_all(&name).digest));
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
        if known.get(&stamp.digest) == Some(stamp) {
            return true;
        }
        // Another process may have noted it.
        let file = File::open(&self.path).ok().filter(is_own);
        let bucket = file.and_then(|file| Bucket::read(&file, &stamp.digest).ok().flatten());
        let is_noted = bucket.is_some_and(|bucket| bucket.find(&stamp.digest) == Some(*stamp));
        if is_noted {
            known.insert(stamp.digest, *stamp);
        }
        is_noted
    }

    /// What cannot be noted is checked again by the next process, and nothing fails.
    fn add(&self, stamps: &[Stamp]) {
        if stamps.is_empty() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(stamps.iter().map(|stamp| (stamp.digest, *stamp)));
        let _ = self.write(stamps);
    }

    fn write(&self, stamps: &[Stamp]) -> Result<()> {
        let file = self.open()?;
        for stamp in stamps {
            let start = Bucket::place(&stamp.digest);
            let mut bucket = Bucket::read(&file, &stamp.digest).at("read", &self.path)?;
            let is_new = bucket.is_none();
            let (slot, bytes) = bucket.get_or_insert_with(Bucket::empty).put(stamp);
            match (&bucket, is_new) {
                (Some(bucket), true) => durable::write_at(&file, &self.path, start, &bucket.0)?,
                _ => durable::write_at(&file, &self.path, start + slot, &bytes)?,
            }
        }
        Ok(())
    }

    /// The file to be written to; a new one, if there is none of this user.
    fn open(&self) -> Result<File> {
        let directory = self.path.parent().unwrap_or(&self.path);
        durable::create_directory(directory)?;
        match durable::open_to_write(&self.path) {
            Ok(file) if is_own(&file) => return Ok(file),
            // Of somebody who may write here, and wants to be believed.
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
        durable::remove(&self.path)?;
        durable::create_to_write(&self.path)
    }
}

fn is_own(file: &File) -> bool {
    file.metadata()
        .is_ok_and(|metadata| metadata.uid() == nix::unistd::geteuid().as_raw())
}

/// The stamps whose digests begin alike, behind the head that says of which boot they are. Read and written without a lock: of
/// two that write at once one is lost, or torn, and then it equals no stamp.
struct Bucket([u8; BUCKET_BYTES]);

impl Bucket {
    fn empty() -> Self {
        let mut bytes = [0; BUCKET_BYTES];
        bytes[..STAMP_BYTES].copy_from_slice(&head());
        Self(bytes)
    }

    /// Where in the file the bucket of `digest` is.
    fn place(digest: &Digest) -> u64 {
        let [first, second, ..] = *digest.as_bytes();
        u64::from(u16::from_le_bytes([first, second])) % BUCKETS * BUCKET_BYTES as u64
    }

    /// The bucket of `digest`; none if nothing was noted in it in this boot.
    fn read(file: &File, digest: &Digest) -> io::Result<Option<Self>> {
        let mut bytes = [0; BUCKET_BYTES];
        match file.read_exact_at(&mut bytes, Self::place(digest)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok((bytes[..STAMP_BYTES] == head()).then_some(Self(bytes))),
        }
    }

    fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let stamps = self.0.chunks_exact(STAMP_BYTES).skip(1);
        stamps.filter_map(|bytes| Stamp::read_from_bytes(bytes).ok())
    }

    fn find(&self, digest: &Digest) -> Option<Stamp> {
        self.stamps().find(|stamp| stamp.digest == *digest)
    }

    /// Puts a stamp in the place of the one with its digest, else where there is room, else in that of another. Gives where in
    /// the bucket, and its bytes.
    fn put(&mut self, stamp: &Stamp) -> (u64, [u8; STAMP_BYTES]) {
        let is_free = |found: &Stamp| found.as_bytes() == [0; STAMP_BYTES];
        let last_byte = usize::from(stamp.digest.as_bytes()[31]);
        let slot = self
            .stamps()
            .position(|found| found.digest == stamp.digest)
            .or_else(|| self.stamps().position(|found| is_free(&found)))
            .unwrap_or(last_byte % (BUCKET_BYTES / STAMP_BYTES - 1));
        let at = (slot + 1) * STAMP_BYTES;
        let mut bytes = [0; STAMP_BYTES];
        bytes.copy_from_slice(stamp.as_bytes());
        self.0[at..at + STAMP_BYTES].copy_from_slice(&bytes);
        (at as u64, bytes)
    }
}

/// What a bucket of this boot begins with.
fn head() -> [u8; STAMP_BYTES] {
    let boot = Host::current().boot.as_bytes();
    let boot = &boot[..boot.len().min(BOOT_BYTES)];
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
        stamps.note_written([(digest, path.as_path())].into_iter());
        let stamp = Stamp::of(&digest, &path.metadata().unwrap());
        assert!(Stamps::of(directory.path()).holds(&stamp));
        let mut bytes = fs::read(&stamps.path).unwrap();
        let head = usize::try_from(Bucket::place(&digest)).unwrap();
        assert_eq!(bytes.len(), head + BUCKET_BYTES);
        bytes[head + MAGIC.len()] ^= 1;
        fs::write(&stamps.path, bytes).unwrap();
        assert!(!Stamps::of(directory.path()).holds(&stamp));
        for name in ["always", "first", "never"] {
            assert_eq!(name.parse::<Checks>().unwrap().name(), name);
        }
        assert!("sometimes".parse::<Checks>().is_err());
    }

    #[test]
    fn a_full_bucket_takes_what_is_new_and_the_file_does_not_grow() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = |number: u16| {
            let [low, high] = number.to_le_bytes();
            let mut digest = [0; 32];
            (digest[5], digest[6], digest[31]) = (low, high, low);
            Stamp {
                inode: 7.into(),
                ..Stamp::of_nothing(Digest::from_bytes(digest))
            }
        };
        for number in 0..500 {
            Stamps::of(directory.path()).add(&[stamp(number)]);
            assert!(Stamps::of(directory.path()).holds(&stamp(number)), "{number}");
        }
        let file = Stamps::of(directory.path()).path;
        assert_eq!(file.metadata().unwrap().len(), BUCKET_BYTES as u64);
        let held = (0..500).filter(|&number| Stamps::of(directory.path()).holds(&stamp(number)));
        assert_eq!(held.count(), BUCKET_BYTES / STAMP_BYTES - 1);
        // Whoever made it can write to it, also who is not root.
        assert_eq!(file.metadata().unwrap().mode() & 0o600, 0o600);
    }
}
