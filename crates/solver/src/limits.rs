//! How much an archive may be: bounds on what strangers can make this machine do, far above what real packages need.
//!
//! A [`Meter`] counts while an archive is read, and ends the reading where a limit is passed. The largest packages that
//! are known have 3 GB, unpack to 10 GB and hold 100,000 files. Knows nothing of formats.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

/// Below so many unpacked bytes the ratio does not count: small files of zeros compress a thousandfold, and do no harm.
const MIN_RATIO_BYTES: u64 = 1 << 30;

/// What one archive may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Bytes of the archive itself.
    pub archive_bytes: u64,
    /// Bytes of all that is in it, unpacked.
    pub unpacked_bytes: u64,
    /// Unpacked bytes for each byte of the archive, once they are more than 1 GiB.
    pub ratio: u64,
    /// Files, links and directories.
    pub files: u64,
    /// Bytes of a path in it; more than [`envfs_store::path::MAX_PATH_BYTES`] are refused in any case.
    pub path_bytes: u64,
    /// Bytes of its metadata, which is read into memory.
    pub metadata_bytes: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self {
            archive_bytes: 32 << 30,
            unpacked_bytes: 128 << 30,
            ratio: 1000,
            files: 1_000_000,
            path_bytes: envfs_store::path::MAX_PATH_BYTES as u64,
            metadata_bytes: 128 << 20,
        }
    }
}

/// The name of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// [`ArchiveLimits::archive_bytes`].
    Archive,
    /// [`ArchiveLimits::unpacked_bytes`].
    Unpacked,
    /// [`ArchiveLimits::ratio`].
    Ratio,
    /// [`ArchiveLimits::files`].
    Files,
    /// [`ArchiveLimits::path_bytes`].
    Path,
    /// [`ArchiveLimits::metadata_bytes`].
    Metadata,
}

/// No limit has this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no limit `{0}`; there are archive, unpacked, ratio, files, path and metadata")]
pub struct UnknownLimit(String);

impl LimitKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Archive,
        Self::Unpacked,
        Self::Ratio,
        Self::Files,
        Self::Path,
        Self::Metadata,
    ];

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Unpacked => "unpacked",
            Self::Ratio => "ratio",
            Self::Files => "files",
            Self::Path => "path",
            Self::Metadata => "metadata",
        }
    }

    /// Whether it is a number of bytes.
    #[must_use]
    pub fn is_bytes(self) -> bool {
        !matches!(self, Self::Ratio | Self::Files)
    }
}

impl FromStr for LimitKind {
    type Err = UnknownLimit;

    fn from_str(text: &str) -> Result<Self, UnknownLimit> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| UnknownLimit(text.to_owned()))
    }
}

impl ArchiveLimits {
    /// One of them.
    #[must_use]
    pub fn get(&self, kind: LimitKind) -> u64 {
        let mut limits = *self;
        *limits.get_mut(kind)
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, kind: LimitKind) -> &mut u64 {
        match kind {
            LimitKind::Archive => &mut self.archive_bytes,
            LimitKind::Unpacked => &mut self.unpacked_bytes,
            LimitKind::Ratio => &mut self.ratio,
            LimitKind::Files => &mut self.files,
            LimitKind::Path => &mut self.path_bytes,
            LimitKind::Metadata => &mut self.metadata_bytes,
        }
    }

    /// Checks the size of an archive, or of what is here of it.
    ///
    /// # Errors
    /// It is larger than it may be.
    pub(crate) fn check_archive(&self, bytes: u64) -> Result<(), Exceeded> {
        self.check(LimitKind::Archive, bytes)
    }

    fn check(&self, kind: LimitKind, value: u64) -> Result<(), Exceeded> {
        let limit = self.get(kind);
        if value > limit {
            return Err(Exceeded { kind, limit });
        }
        Ok(())
    }
}

/// A limit that an archive passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Exceeded {
    /// Which one.
    pub kind: LimitKind,
    /// What it is set to.
    pub limit: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, limit } = self;
        match kind {
            LimitKind::Archive => write!(f, "it is larger than {limit} bytes"),
            LimitKind::Unpacked => write!(f, "it unpacks to more than {limit} bytes"),
            LimitKind::Ratio => write!(f, "it unpacks to more than {limit} times its size, as bombs do"),
            LimitKind::Files => write!(f, "it holds more than {limit} files"),
            LimitKind::Path => write!(f, "a path in it has more than {limit} bytes"),
            LimitKind::Metadata => write!(f, "its metadata has more than {limit} bytes"),
        }?;
        write!(f, " (the limit `{}`)", kind.name())
    }
}

impl Exceeded {
    /// The limit whose passing ended a reading.
    pub(crate) fn in_error(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// Counts what one archive brings.
#[derive(Debug)]
pub(crate) struct Meter {
    limits: ArchiveLimits,
    archive_bytes: u64,
    unpacked_bytes: Cell<u64>,
    files: Cell<u64>,
    metadata_bytes: Cell<u64>,
}

impl Meter {
    /// For an archive of so many bytes.
    ///
    /// # Errors
    /// These are too many.
    pub(crate) fn new(limits: ArchiveLimits, archive_bytes: u64) -> Result<Self, Exceeded> {
        limits.check_archive(archive_bytes)?;
        Ok(Self {
            limits,
            archive_bytes,
            unpacked_bytes: Cell::new(0),
            files: Cell::new(0),
            metadata_bytes: Cell::new(0),
        })
    }

    /// So many bytes more were unpacked.
    pub(crate) fn unpacked(&self, bytes: u64) -> Result<(), Exceeded> {
        let bytes = self.unpacked_bytes.get().saturating_add(bytes);
        self.unpacked_bytes.set(bytes);
        self.limits.check(LimitKind::Unpacked, bytes)?;
        if bytes > MIN_RATIO_BYTES {
            self.limits.check(LimitKind::Ratio, bytes / self.archive_bytes.max(1))?;
        }
        Ok(())
    }

    /// So many files more are in it.
    pub(crate) fn files(&self, files: u64) -> Result<(), Exceeded> {
        self.files.set(self.files.get().saturating_add(files));
        self.limits.check(LimitKind::Files, self.files.get())
    }

    /// This path is in it.
    pub(crate) fn path(&self, path: &[u8]) -> Result<(), Exceeded> {
        self.limits.check(LimitKind::Path, path.len() as u64)
    }

    /// So many bytes more of metadata are to be read.
    pub(crate) fn metadata(&self, bytes: u64) -> Result<(), Exceeded> {
        self.metadata_bytes.set(self.metadata_bytes.get().saturating_add(bytes));
        self.limits.check(LimitKind::Metadata, self.metadata_bytes.get())
    }

    /// What `content` gives is counted, and ends with [`Exceeded`] where it is too much.
    pub(crate) fn metered<R: Read>(&self, content: R) -> Metered<'_, R> {
        Metered { content, meter: self }
    }
}

/// Unpacked bytes on their way through a [`Meter`].
pub(crate) struct Metered<'a, R> {
    content: R,
    meter: &'a Meter,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.content.read(into)?;
        self.meter.unpacked(len as u64).map_err(io::Error::other)?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_passed_by_more_than_it() {
        let limits = ArchiveLimits {
            files: 2,
            unpacked_bytes: 10,
            ..ArchiveLimits::default()
        };
        let meter = Meter::new(limits, 1).unwrap();
        meter.files(2).unwrap();
        assert_eq!(
            meter.files(1).unwrap_err().to_string(),
            "it holds more than 2 files (the limit `files`)"
        );
        let mut read = Vec::new();
        let error = meter.metered([7; 11].as_slice()).read_to_end(&mut read).unwrap_err();
        assert_eq!(Exceeded::in_error(&error).unwrap().kind, LimitKind::Unpacked);
        assert!(
            Meter::new(
                ArchiveLimits {
                    archive_bytes: 5,
                    ..limits
                },
                6
            )
            .is_err()
        );
    }

    #[test]
    fn the_ratio_counts_only_where_there_is_much() {
        let meter = Meter::new(ArchiveLimits::default(), 1000).unwrap();
        meter.unpacked(MIN_RATIO_BYTES).unwrap();
        assert_eq!(meter.unpacked(1).unwrap_err().kind, LimitKind::Ratio);
    }

    #[test]
    fn every_limit_is_found_by_its_name() {
        for kind in LimitKind::ALL {
            assert_eq!(kind.name().parse::<LimitKind>().unwrap(), kind);
        }
        assert!(
            "inodes"
                .parse::<LimitKind>()
                .unwrap_err()
                .to_string()
                .contains("unpacked, ratio")
        );
    }
}
