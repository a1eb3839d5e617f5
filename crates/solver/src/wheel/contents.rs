//! The members of a wheel's zip, on their way into the store.
//!
//! Two readers must see one wheel: what the central directory and the local headers tell differently, members that overlap,
//! that occur twice or that no directory lists, are refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::PathBuf;

use envfs_store::ingest::{Ingest, Stored};
use envfs_store::layer::{Entry, EntryKind, FileEntry};
use envfs_store::path::EnvPath;
use sha2::Digest;
use zip::ZipArchive;

use super::places::{Place, place};
use super::record::{self, Record, Row, RowDigest};
use super::{MTIME_S, WheelError};
use crate::limits::Meter;
use crate::pypi::WheelFileName;
use crate::zip_end;

/// Buffer between the file and the decompressor. A seek empties it, so that a large one would be read in vain for each of many
/// small members.
const BUFFER_BYTES: usize = 16 * 1024;

/// The kinds of files in the permissions of Unix (inode(7)).
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

/// An open wheel.
pub(super) struct Contents<'a> {
    wheel: String,
    meter: &'a Meter,
    zip: ZipArchive<BufReader<File>>,
    members: BTreeMap<EnvPath, Member>,
    directories: Vec<EnvPath>,
}

#[derive(Clone, Copy)]
struct Member {
    index: usize,
    size_bytes: u64,
    executable: bool,
}

impl<'a> Contents<'a> {
    /// Reads the directory of a wheel and checks every name in it. What is in it is counted by `meter`.
    pub(super) fn open(mut file: File, name: &WheelFileName, meter: &'a Meter) -> Result<Self, WheelError> {
        let wheel = name.to_string();
        let unreadable = |source| WheelError::of_io(&wheel, source);
        file.rewind().map_err(unreadable)?;
        let members = zip_end::members(&file).map_err(unreadable)?;
        let members = members.map_err(|what| WheelError::Malformed {
            wheel: wheel.clone(),
            what,
        })?;
        // The directory is read into memory as a whole.
        meter
            .files(members)
            .map_err(|limit| WheelError::of_limit(&wheel, limit))?;
        let broken = |error: zip::result::ZipError| match error {
            zip::result::ZipError::Io(source) => unreadable(source),
            error => WheelError::Malformed {
                wheel: wheel.clone(),
                what: format!("its zip directory: {error}"),
            },
        };
        let mut zip = ZipArchive::new(BufReader::with_capacity(BUFFER_BYTES, file)).map_err(broken)?;
        zip.validate_header_consistency().map_err(broken)?;
        let mut contents = Self {
            wheel: wheel.clone(),
            meter,
            zip,
            members: BTreeMap::new(),
            directories: Vec::new(),
        };
        for index in 0..contents.zip.len() {
            contents.list(index)?;
        }
        Ok(contents)
    }

    /// The paths of all files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &EnvPath> {
        self.members.keys()
    }

    /// A file of the `.dist-info` directory, if it is there.
    pub(super) fn metadata_file(&mut self, dist_info: &str, name: &str) -> Result<Option<Vec<u8>>, WheelError> {
        let found = EnvPath::parse(format!("{dist_info}/{name}"))
            .ok()
            .and_then(|path| self.members.get(&path).copied());
        let Some(member) = found else { return Ok(None) };
        self.meter
            .metadata(member.size_bytes)
            .map_err(|limit| WheelError::of_limit(&self.wheel, limit))?;
        let mut content = Vec::new();
        self.zip
            .by_index(member.index)
            .map_err(io::Error::from)
            .and_then(|found| {
                found
                    .take(member.size_bytes.saturating_add(1))
                    .read_to_end(&mut content)
            })
            .map_err(|source| WheelError::of_io(&self.wheel, source))?;
        match content.len() as u64 == member.size_bytes {
            true => Ok(Some(content)),
            false => Err(self.malformed(format!("its {name} is not as large as its zip says"))),
        }
    }

    /// What `RECORD` says. It must list the files that there are, and no others.
    pub(super) fn record(&mut self, dist_info: &str) -> Result<Record, WheelError> {
        let Some(text) = self.metadata_file(dist_info, "RECORD")? else {
            return Err(self.malformed("it has no RECORD in its .dist-info directory"));
        };
        let text = String::from_utf8(text).map_err(|error| self.malformed(format!("its RECORD: {error}")))?;
        let record = record::parse(&text).map_err(|what| self.malformed(what))?;
        match record.keys().find(|path| !self.members.contains_key(path)) {
            Some(path) => Err(self.lie(path, "is listed in its RECORD, and is not there")),
            None => Ok(record),
        }
    }

    /// Puts all files into the store and says where they lie in the layer.
    pub(super) fn take_in(
        &mut self,
        dist_info: &str,
        record: &Record,
        ingest: &mut Ingest<'_>,
    ) -> Result<BTreeMap<EnvPath, Entry>, WheelError> {
        let mut members: Vec<(EnvPath, Member)> = self
            .members
            .iter()
            .map(|(path, member)| (path.clone(), *member))
            .collect();
        members.sort_by_key(|(_, member)| member.index);
        let mut entries = BTreeMap::new();
        for (path, member) in members {
            let placed = match place(&path, dist_info).map_err(|reason| self.forbidden(&path, reason))? {
                Place::At(placed) => placed,
                Place::LeftOut => continue,
            };
            let row = record
                .get(&path)
                .ok_or_else(|| self.lie(&path, "is not listed in its RECORD"))?;
            let stored = self.store(&path, member, row, ingest)?;
            let kind = EntryKind::File(FileEntry {
                digest: stored.digest,
                sha256: Some(stored.sha256),
                size_bytes: stored.size_bytes,
                executable: member.executable || placed.as_bytes().starts_with(super::SCRIPTS.as_bytes()),
                placeholder: None,
            });
            if entries.insert(placed.clone(), entry(placed, kind)).is_some() {
                return Err(self.forbidden(&path, "goes where another file of the wheel goes".to_owned()));
            }
        }
        self.add_directories(dist_info, &mut entries)?;
        Ok(entries)
    }

    pub(super) fn malformed(&self, what: impl Into<String>) -> WheelError {
        WheelError::Malformed {
            wheel: self.wheel.clone(),
            what: what.into(),
        }
    }

    /// Notes one member of the zip.
    fn list(&mut self, index: usize) -> Result<(), WheelError> {
        let member = self
            .zip
            .by_index_data(index)
            .map_err(|error| self.malformed(format!("its zip directory: {error}")))?;
        let name = member
            .name()
            .map_err(|error| self.malformed(format!("a name in its zip directory: {error}")))?;
        let refuse = |reason: &str| WheelError::Forbidden {
            wheel: self.wheel.clone(),
            path: name.to_string(),
            reason: reason.to_owned(),
        };
        if name.contains('\\') {
            return Err(refuse(
                "has a backslash, which means a directory to some and a letter to others",
            ));
        }
        self.meter
            .path(name.as_bytes())
            .map_err(|limit| WheelError::of_limit(&self.wheel, limit))?;
        let path = EnvPath::parse(name.strip_suffix('/').unwrap_or(&name)).map_err(|error| refuse(error.reason))?;
        if member.is_symlink() {
            return Err(refuse("is a symlink; wheels hold regular files only"));
        }
        let kind = member.unix_mode().unwrap_or_default() & S_IFMT;
        if ![0, S_IFREG, S_IFDIR].contains(&kind) {
            return Err(refuse("is no regular file, as wheels hold them only"));
        }
        if member.encrypted() {
            return Err(refuse("is encrypted"));
        }
        let found = Member {
            index,
            size_bytes: member.size(),
            executable: member.unix_mode().is_some_and(|mode| mode & 0o111 != 0),
        };
        let is_twice = if member.is_dir() {
            self.directories.push(path);
            false
        } else {
            self.members.insert(path, found).is_some()
        };
        match is_twice {
            true => Err(self.malformed(format!("its member {index} has the name of an earlier one"))),
            false => Ok(()),
        }
    }

    fn store(
        &mut self,
        path: &EnvPath,
        member: Member,
        row: &Row,
        ingest: &mut Ingest<'_>,
    ) -> Result<Stored, WheelError> {
        let Some(expected) = &row.digest else {
            return Err(self.lie(path, "has no digest in its RECORD"));
        };
        let source = PathBuf::from(format!("{}: {path}", self.wheel));
        let content = self.zip.by_index(member.index).map_err(|error| WheelError::Malformed {
            wheel: self.wheel.clone(),
            what: format!("its member `{path}`: {error}"),
        })?;
        let content = self.meter.metered(content.take(member.size_bytes.saturating_add(1)));
        let mut content = Hashing::new(content, expected);
        let stored = ingest.add(&source, &mut content).map_err(|error| match error {
            envfs_store::Error::Io {
                path, source: cause, ..
            } if path == source => WheelError::of_io(&self.wheel, cause).at(&path),
            error => error.into(),
        })?;
        let actual = content.finish().unwrap_or_else(|| stored.sha256.as_bytes().to_vec());
        if stored.size_bytes != member.size_bytes {
            let what = format!(
                "`{path}` has {} bytes, and its zip says {}",
                stored.size_bytes, member.size_bytes
            );
            return Err(self.malformed(what));
        }
        if let Some(size_bytes) = row.size_bytes.filter(|&size_bytes| size_bytes != stored.size_bytes) {
            return Err(self.lie(
                path,
                format!("has {} bytes, but its RECORD says {size_bytes}", stored.size_bytes),
            ));
        }
        if actual != expected.bytes() {
            let (algorithm, said) = (expected.algorithm(), record::base64url(expected.bytes()));
            let what = format!(
                "has the {algorithm} {}, but its RECORD says {said}",
                record::base64url(&actual)
            );
            return Err(self.lie(path, what));
        }
        Ok(stored)
    }

    /// Directories count where nothing is in them. A file where another has a directory is refused.
    fn add_directories(&self, dist_info: &str, entries: &mut BTreeMap<EnvPath, Entry>) -> Result<(), WheelError> {
        for path in &self.directories {
            let data = format!("{}.data", dist_info.trim_end_matches(".dist-info"));
            let is_scheme = path.as_bytes().starts_with(data.as_bytes()) && path.names().count() < 3;
            if is_scheme {
                continue;
            }
            if let Place::At(placed) = place(path, dist_info).map_err(|reason| self.forbidden(path, reason))? {
                entries
                    .entry(placed.clone())
                    .or_insert_with(|| entry(placed, EntryKind::Directory));
            }
        }
        let mut parents = std::collections::BTreeSet::new();
        for path in entries.keys() {
            parents.extend(std::iter::successors(path.parent(), EnvPath::parent));
        }
        if let Some((path, _)) = entries
            .iter()
            .find(|(path, entry)| parents.contains(path) && entry.kind != EntryKind::Directory)
        {
            return Err(self.forbidden(path, "is a file, and a directory to other files".to_owned()));
        }
        entries.retain(|path, entry| entry.kind != EntryKind::Directory || !parents.contains(path));
        Ok(())
    }

    fn forbidden(&self, path: &EnvPath, reason: String) -> WheelError {
        WheelError::Forbidden {
            wheel: self.wheel.clone(),
            path: path.to_string(),
            reason,
        }
    }

    fn lie(&self, path: &EnvPath, what: impl Into<String>) -> WheelError {
        WheelError::Record {
            wheel: self.wheel.clone(),
            path: path.to_string(),
            what: what.into(),
        }
    }
}

/// Computes what the store does not: the longer digests.
struct Hashing<R> {
    content: R,
    longer: Longer,
}

enum Longer {
    None,
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl<R> Hashing<R> {
    fn new(content: R, expected: &RowDigest) -> Self {
        let longer = match expected {
            RowDigest::Sha256(_) => Longer::None,
            RowDigest::Sha384(_) => Longer::Sha384(sha2::Sha384::new()),
            RowDigest::Sha512(_) => Longer::Sha512(sha2::Sha512::new()),
        };
        Self { content, longer }
    }

    fn finish(self) -> Option<Vec<u8>> {
        match self.longer {
            Longer::None => None,
            Longer::Sha384(hasher) => Some(hasher.finalize().to_vec()),
            Longer::Sha512(hasher) => Some(hasher.finalize().to_vec()),
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.content.read(into)?;
        match &mut self.longer {
            Longer::None => {}
            Longer::Sha384(hasher) => hasher.update(&into[..len]),
            Longer::Sha512(hasher) => hasher.update(&into[..len]),
        }
        Ok(len)
    }
}

fn entry(path: EnvPath, kind: EntryKind) -> Entry {
    Entry {
        path,
        mtime_s: MTIME_S,
        kind,
    }
}
