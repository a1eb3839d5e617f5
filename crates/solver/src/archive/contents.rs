//! What the tars of an archive hold: payload on its way into the store, metadata in memory.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use envfs_store::ingest::{Ingest, Stored};
use envfs_store::path::EnvPath;
use tar::EntryType;

use super::ArchiveError;
use super::members::{Member, Members, TarError};
use crate::limits::Meter;

/// The longest target of a symlink (`PATH_MAX` of Linux, with the NUL behind it).
const MAX_TARGET_BYTES: usize = 4095;

/// Metadata files that are read; the rest of `info/` is passed over.
const READ_INFO: [&str; 8] = [
    "paths.json",
    "index.json",
    "link.json",
    "about.json",
    "files",
    "has_prefix",
    "no_link",
    "no_softlink",
];

/// The first second that zip and FAT can hold; older times become this one, as the installers do it.
const MIN_MTIME_S: i64 = 315_532_800;

/// Files of an archive by their path. Where a tar brings a path twice the later one counts.
pub(super) struct Contents<'a> {
    archive: String,
    meter: &'a Meter,
    files: BTreeMap<EnvPath, Found>,
    info: BTreeMap<String, Vec<u8>>,
    about_mtime_s: i64,
}

/// One file of the payload.
pub(super) struct Found {
    pub(super) kind: FoundKind,
    pub(super) mtime_s: i64,
}

pub(super) enum FoundKind {
    Directory,
    File { stored: Stored, executable: bool },
    Symlink(Vec<u8>),
}

impl<'a> Contents<'a> {
    /// Of the archive with this name, whose contents `meter` counts.
    pub(super) fn new(archive: &str, meter: &'a Meter) -> Self {
        Self {
            archive: archive.to_owned(),
            meter,
            files: BTreeMap::new(),
            info: BTreeMap::new(),
            about_mtime_s: MIN_MTIME_S,
        }
    }

    pub(super) fn archive(&self) -> &str {
        &self.archive
    }

    pub(super) fn file(&self, path: &EnvPath) -> Option<&Found> {
        self.files.get(path)
    }

    /// A metadata file, by its name below `info/`.
    pub(super) fn info(&self, name: &str) -> Option<&[u8]> {
        self.info.get(name).map(Vec::as_slice)
    }

    /// When the package was built, as `info/about.json` is dated.
    pub(super) fn about_mtime_s(&self) -> i64 {
        self.about_mtime_s
    }

    /// Takes in everything in one tar.
    pub(super) fn read(&mut self, tar: &mut dyn Read, ingest: &mut Ingest<'_>) -> Result<(), ArchiveError> {
        let mut members = Members::new(tar);
        while let Some(member) = members.next().map_err(|error| self.unreadable_tar(error))? {
            self.read_member(&member, &mut members, ingest)?;
        }
        Ok(())
    }

    /// Refuses what lies below a symlink or a file of the same archive: writing it would follow the link, or fail.
    pub(super) fn check_parents(&self) -> Result<(), ArchiveError> {
        let mut last: Option<(&EnvPath, &FoundKind)> = None;
        // Sorted by names, so that what lies below a path comes right behind it.
        for (path, found) in &self.files {
            if let Some((parent, kind)) = last.filter(|(parent, _)| path.is_below(parent)) {
                let what = match kind {
                    FoundKind::Symlink(target) => format!("a symlink to `{}`", String::from_utf8_lossy(target)),
                    _ => "a file".to_owned(),
                };
                return Err(self.forbidden(path, format!("lies below `{parent}`, {what}")));
            }
            last = (!matches!(found.kind, FoundKind::Directory)).then_some((path, &found.kind));
        }
        Ok(())
    }

    pub(super) fn forbidden(&self, path: &EnvPath, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Forbidden {
            archive: self.archive.clone(),
            path: path.to_string(),
            reason: reason.into(),
        }
    }

    pub(super) fn malformed(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Malformed {
            archive: self.archive.clone(),
            what: what.into(),
        }
    }

    fn read_member(
        &mut self,
        member: &Member,
        content: &mut dyn Read,
        ingest: &mut Ingest<'_>,
    ) -> Result<(), ArchiveError> {
        if matches!(member.path.as_slice(), b"" | b".") {
            return Ok(()); // the root of the archive
        }
        let counted = self.meter.files(1).and_then(|()| self.meter.path(&member.path));
        counted.map_err(|limit| ArchiveError::of_limit(&self.archive, limit))?;
        let path = EnvPath::parse(&member.path).map_err(|error| ArchiveError::Forbidden {
            archive: self.archive.clone(),
            path: error.path,
            reason: error.reason.to_owned(),
        })?;
        let rounded_s = i64::try_from(member.rounded_mtime_s)
            .unwrap_or(MIN_MTIME_S)
            .max(MIN_MTIME_S);
        if let Some(info) = path.as_bytes().strip_prefix(b"info/") {
            let info = String::from_utf8_lossy(info).into_owned();
            return self.read_info(member, content, &info, rounded_s);
        }
        let kind = match member.kind {
            EntryType::Directory => FoundKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.store(member, content, &path, ingest)?
            }
            EntryType::Symlink => FoundKind::Symlink(self.link_target(member, &path)?.to_owned()),
            EntryType::Link => self.hardlink(member, &path)?,
            EntryType::Block | EntryType::Char | EntryType::Fifo => {
                return Err(self.forbidden(
                    &path,
                    "is a device node or a pipe; packages hold files, directories and links",
                ));
            }
            other => {
                return Err(self.forbidden(
                    &path,
                    format!("is a tar entry of the unknown type {:?}", other.as_byte()),
                ));
            }
        };
        let mtime_s = member
            .exact_mtime_s
            .map_or(rounded_s, |mtime_s| mtime_s.max(MIN_MTIME_S));
        self.files.insert(path, Found { kind, mtime_s });
        Ok(())
    }

    fn read_info(
        &mut self,
        member: &Member,
        content: &mut dyn Read,
        name: &str,
        mtime_s: i64,
    ) -> Result<(), ArchiveError> {
        if !READ_INFO.contains(&name) {
            return Ok(());
        }
        if !matches!(member.kind, EntryType::Regular | EntryType::Continuous) {
            return Err(self.malformed(format!("info/{name} is not a plain file")));
        }
        self.meter
            .metadata(member.size_bytes)
            .map_err(|limit| ArchiveError::of_limit(&self.archive, limit))?;
        let mut bytes = Vec::new();
        content
            .read_to_end(&mut bytes)
            .map_err(|source| ArchiveError::of_io(&self.archive, source))?;
        if name == "about.json" {
            self.about_mtime_s = mtime_s;
        }
        self.info.insert(name.to_owned(), bytes);
        Ok(())
    }

    fn store(
        &self,
        member: &Member,
        content: &mut dyn Read,
        path: &EnvPath,
        ingest: &mut Ingest<'_>,
    ) -> Result<FoundKind, ArchiveError> {
        self.meter
            .unpacked(member.hole_bytes)
            .map_err(|limit| ArchiveError::of_limit(&self.archive, limit))?;
        let source = PathBuf::from(format!("{}: {path}", self.archive));
        let stored = ingest
            .add(&source, content)
            .map_err(|error| self.unreadable_file(&source, error))?;
        if stored.size_bytes != member.size_bytes {
            return Err(self.malformed(format!(
                "`{path}` ends after {} of {} bytes",
                stored.size_bytes, member.size_bytes
            )));
        }
        Ok(FoundKind::File {
            stored,
            executable: member.mode & 0o111 != 0,
        })
    }

    fn link_target<'m>(&self, member: &'m Member, path: &EnvPath) -> Result<&'m [u8], ArchiveError> {
        let target = member.link.as_slice();
        if target.is_empty() || target.contains(&0) {
            return Err(self.malformed(format!("the link `{path}` has no target")));
        }
        if target.len() > MAX_TARGET_BYTES {
            return Err(self.forbidden(
                path,
                format!("is a link whose target is longer than {MAX_TARGET_BYTES} bytes"),
            ));
        }
        Ok(target)
    }

    /// A hardlink names an earlier file of the archive, by its path from the archive's root.
    fn hardlink(&self, member: &Member, path: &EnvPath) -> Result<FoundKind, ArchiveError> {
        let target = EnvPath::parse(self.link_target(member, path)?)
            .map_err(|error| self.forbidden(path, format!("is a hardlink whose target {}", error.reason)))?;
        match self.files.get(&target).map(|found| &found.kind) {
            Some(FoundKind::File { stored, executable }) => Ok(FoundKind::File {
                stored: *stored,
                executable: *executable,
            }),
            Some(FoundKind::Symlink(to)) => Ok(FoundKind::Symlink(to.clone())),
            _ => Err(self.forbidden(
                path,
                format!("is a hardlink to `{target}`, which is no earlier file of the archive"),
            )),
        }
    }

    fn unreadable_tar(&self, error: TarError) -> ArchiveError {
        match error {
            TarError::Unreadable(source) => ArchiveError::of_io(&self.archive, source),
            TarError::Malformed(what) => self.malformed(format!("its tar {what}")),
        }
    }

    /// Whether the archive ended too early, or the store failed.
    fn unreadable_file(&self, source: &Path, error: envfs_store::Error) -> ArchiveError {
        match error {
            envfs_store::Error::Io {
                path, source: cause, ..
            } if path == source => ArchiveError::of_io(&self.archive, cause),
            error => error.into(),
        }
    }
}
