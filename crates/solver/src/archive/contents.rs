//! What the tars of an archive hold: payload on its way into the store, metadata in memory.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use envfs_store::ingest::{Ingest, Stored};
use envfs_store::path::EnvPath;
use tar::EntryType;

use super::ArchiveError;

/// No metadata file is larger: the `paths.json` of a package with a million files has about 250 MB.
const MAX_INFO_BYTES: u64 = 512 * 1024 * 1024;

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
pub(super) struct Contents {
    archive: String,
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

impl Contents {
    pub(super) fn new(archive: &str) -> Self {
        Self {
            archive: archive.to_owned(),
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
        let mut tar = tar::Archive::new(tar);
        let entries = tar.entries().map_err(|source| self.unreadable(source))?;
        for entry in entries {
            let entry = entry.map_err(|source| self.unreadable(source))?;
            self.read_entry(entry, ingest)?;
        }
        Ok(())
    }

    /// Refuses a file below a symlink of the same archive: writing it would follow the link.
    pub(super) fn check_symlinks(&self) -> Result<(), ArchiveError> {
        for path in self.files.keys() {
            let mut parent = path.parent();
            while let Some(directory) = parent {
                if let Some(Found {
                    kind: FoundKind::Symlink(target),
                    ..
                }) = self.files.get(&directory)
                {
                    let target = String::from_utf8_lossy(target);
                    return Err(self.forbidden(path, format!("lies below `{directory}`, a symlink to `{target}`")));
                }
                parent = directory.parent();
            }
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

    fn read_entry<R: Read>(
        &mut self,
        mut entry: tar::Entry<'_, R>,
        ingest: &mut Ingest<'_>,
    ) -> Result<(), ArchiveError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = entry.path_bytes();
        let name = name.strip_suffix(b"/").unwrap_or(&name);
        if matches!(name, b"" | b".") {
            return Ok(()); // the root of the archive
        }
        let path = EnvPath::parse(name).map_err(|error| ArchiveError::Forbidden {
            archive: self.archive.clone(),
            path: error.path,
            reason: error.reason.to_owned(),
        })?;
        let rounded_s = entry.header().mtime().map_err(|source| self.unreadable(source))?;
        let rounded_s = i64::try_from(rounded_s).unwrap_or(MIN_MTIME_S).max(MIN_MTIME_S);
        if let Some(info) = path.as_bytes().strip_prefix(b"info/") {
            let info = String::from_utf8_lossy(info).into_owned();
            return self.read_info(&mut entry, &info, rounded_s);
        }
        let mtime_s = exact_mtime_s(&mut entry).map_or(rounded_s, |mtime_s| mtime_s.max(MIN_MTIME_S));
        let kind = match kind {
            EntryType::Directory => FoundKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.store(&mut entry, &path, ingest)?
            }
            EntryType::Symlink => FoundKind::Symlink(self.link_target(&entry, &path)?),
            EntryType::Link => self.hardlink(&entry, &path)?,
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
        self.files.insert(path, Found { kind, mtime_s });
        Ok(())
    }

    fn read_info(&mut self, entry: &mut dyn Read, name: &str, mtime_s: i64) -> Result<(), ArchiveError> {
        if !READ_INFO.contains(&name) {
            return Ok(());
        }
        let mut content = Vec::new();
        entry
            .take(MAX_INFO_BYTES + 1)
            .read_to_end(&mut content)
            .map_err(|source| self.unreadable(source))?;
        if content.len() as u64 > MAX_INFO_BYTES {
            return Err(self.malformed(format!("info/{name} is larger than {MAX_INFO_BYTES} bytes")));
        }
        if name == "about.json" {
            self.about_mtime_s = mtime_s;
        }
        self.info.insert(name.to_owned(), content);
        Ok(())
    }

    fn store<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        path: &EnvPath,
        ingest: &mut Ingest<'_>,
    ) -> Result<FoundKind, ArchiveError> {
        let mode = entry.header().mode().map_err(|source| self.unreadable(source))?;
        let source = PathBuf::from(format!("{}: {path}", self.archive));
        let expected = entry.size();
        let stored = ingest.add(&source, entry)?;
        if stored.size_bytes != expected {
            return Err(self.malformed(format!("`{path}` ends after {} of {expected} bytes", stored.size_bytes)));
        }
        Ok(FoundKind::File {
            stored,
            executable: mode & 0o111 != 0,
        })
    }

    fn link_target<R: Read>(&self, entry: &tar::Entry<'_, R>, path: &EnvPath) -> Result<Vec<u8>, ArchiveError> {
        match entry.link_name_bytes() {
            Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target.into_owned()),
            _ => Err(self.malformed(format!("the link `{path}` has no target"))),
        }
    }

    /// A hardlink names an earlier file of the archive, by its path from the archive's root.
    fn hardlink<R: Read>(&self, entry: &tar::Entry<'_, R>, path: &EnvPath) -> Result<FoundKind, ArchiveError> {
        let target = self.link_target(entry, path)?;
        let target = EnvPath::parse(&target)
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

    fn unreadable(&self, source: std::io::Error) -> ArchiveError {
        ArchiveError::Unreadable {
            archive: self.archive.clone(),
            source,
        }
    }
}

/// The whole seconds of the time that a pax header tells, if there is one (pax of POSIX.1-2017, "mtime").
///
/// Writers that know fractions of a second round them in the plain header, as Python's `tarfile` does. Bytecode was
/// compiled against the time before the point: a file that is a second younger makes it stale.
fn exact_mtime_s<R: Read>(entry: &mut tar::Entry<'_, R>) -> Option<i64> {
    let extensions = entry.pax_extensions().ok()??;
    let mtime = extensions
        .filter_map(Result::ok)
        .find(|extension| extension.key_bytes() == b"mtime")?;
    mtime.value().ok()?.split('.').next()?.parse().ok()
}
