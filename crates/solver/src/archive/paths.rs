//! Joins what an archive holds with what its `info/paths.json` announces (CEP 34): which files are linked, what they must
//! be, and where the prefix placeholder stands in them.

use std::collections::{BTreeMap, btree_map};
use std::convert::Infallible;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use envfs_store::digest::Sha256;
use envfs_store::ingest::{Ingest, Stored};
use envfs_store::layer::{Entry, EntryKind, FileEntry};
use envfs_store::path::EnvPath;
use envfs_store::placeholder::{CString, Encoding, Occurrences, Placeholder, TextOccurrence};
use memchr::memmem;
use rattler::install::link::{find_cstring_occurrences, find_text_occurrences};
use rattler_conda_types::package::{
    FileMode, Files, HasPrefix, NoLink, NoSoftlink, OffsetEncoding, PackageFile, PathType, PathsEntry, PathsJson,
};

use super::ArchiveError;
use super::contents::{Contents, Found, FoundKind};

/// No file names its prefix more often: a place takes some 20 bytes in each tree.
const MAX_OCCURRENCES: usize = 1_000_000;

/// The entries of the layer, sorted by path.
pub(super) fn entries(contents: &Contents<'_>, ingest: &mut Ingest<'_>) -> Result<Vec<Entry>, ArchiveError> {
    let mut entries = BTreeMap::new();
    for listed in announced(contents)?.paths {
        let path = parse_path(contents, &listed.relative_path)?;
        let entry = entry(contents, ingest, path, listed)?;
        match entries.entry(entry.path.clone()) {
            btree_map::Entry::Vacant(place) => drop(place.insert(entry)),
            btree_map::Entry::Occupied(earlier) if *earlier.get() == entry => {}
            btree_map::Entry::Occupied(earlier) => {
                let what = format!("info/paths.json lists `{}` twice, and not alike", earlier.key());
                return Err(contents.malformed(what));
            }
        }
    }
    Ok(entries.into_values().collect())
}

fn entry(
    contents: &Contents<'_>,
    ingest: &mut Ingest<'_>,
    path: EnvPath,
    listed: PathsEntry,
) -> Result<Entry, ArchiveError> {
    if path.names().next() == Some(b"conda-meta") {
        return Err(contents.forbidden(&path, "lies in conda-meta, which belongs to the installer"));
    }
    let Some(Found { kind, mtime_s }) = contents.file(&path) else {
        if listed.path_type == PathType::Directory {
            // Tars need not list directories.
            return Ok(Entry {
                path,
                mtime_s: 0,
                kind: EntryKind::Directory,
            });
        }
        let list = if contents.info("paths.json").is_some() {
            "paths.json"
        } else {
            "files"
        };
        return Err(contents.malformed(format!("info/{list} lists `{path}`, which it does not hold")));
    };
    let kind = match kind {
        FoundKind::Directory => EntryKind::Directory,
        FoundKind::Symlink(target) => EntryKind::Symlink(target.clone()),
        FoundKind::File { stored, executable } => {
            let sha256 = check_sha256(contents, &path, &listed, stored)?;
            check_size(contents, &path, &listed, stored)?;
            EntryKind::File(FileEntry {
                digest: stored.digest,
                sha256,
                size_bytes: stored.size_bytes,
                executable: *executable,
                placeholder: match listed.prefix_placeholder {
                    None => None,
                    Some(announced) => {
                        let found = ingest.content(stored)?.scan(|content| {
                            check_placeholder(&announced.placeholder, content)?;
                            Ok(find_placeholder(announced.placeholder, announced.file_mode, content))
                        });
                        Some(found.map_err(|reason: String| contents.forbidden(&path, reason))?)
                    }
                },
            })
        }
    };
    Ok(Entry {
        path,
        mtime_s: *mtime_s,
        kind,
    })
}

fn check_sha256(
    contents: &Contents<'_>,
    path: &EnvPath,
    listed: &PathsEntry,
    stored: &Stored,
) -> Result<Option<Sha256>, ArchiveError> {
    let Some(sha256) = listed.sha256 else { return Ok(None) };
    let expected = Sha256::from_bytes(sha256.into());
    // For what the builder saw as a link, the digest is that of the file behind it.
    if listed.path_type == PathType::HardLink && expected != stored.sha256 {
        return Err(ArchiveError::WrongFile {
            archive: contents.archive().to_owned(),
            path: path.to_string(),
            expected,
            actual: stored.sha256,
        });
    }
    Ok(Some(expected))
}

fn check_size(
    contents: &Contents<'_>,
    path: &EnvPath,
    listed: &PathsEntry,
    stored: &Stored,
) -> Result<(), ArchiveError> {
    match listed.size_in_bytes {
        Some(said) if listed.path_type == PathType::HardLink && said != stored.size_bytes => {
            Err(contents.malformed(format!(
                "`{path}` has {} bytes, but its info/paths.json says {said}",
                stored.size_bytes
            )))
        }
        _ => Ok(()),
    }
}

/// Refuses a placeholder that stands for nothing, or so often that the places would fill the memory.
fn check_placeholder(placeholder: &str, content: &[u8]) -> Result<(), String> {
    if placeholder.is_empty() || placeholder.contains('\0') {
        return Err("has a prefix placeholder in info/paths.json that no file can hold".to_owned());
    }
    // Where they would overlap they cannot be so many: real files need no search.
    if content.len() / placeholder.len() < MAX_OCCURRENCES {
        return Ok(());
    }
    let count = |encoding: Encoding| {
        memmem::find_iter(content, &encoding.encode(placeholder))
            .take(MAX_OCCURRENCES)
            .count()
    };
    match Encoding::ALL.into_iter().map(count).sum::<usize>() < MAX_OCCURRENCES {
        true => Ok(()),
        false => Err(format!(
            "holds its prefix placeholder `{placeholder}` more than {MAX_OCCURRENCES} times"
        )),
    }
}

/// Every place where a file names the placeholder that its metadata announces.
pub(crate) fn find_placeholder(prefix: String, mode: FileMode, content: &[u8]) -> Placeholder {
    let occurrences = match mode {
        FileMode::Text => {
            let shebang_bytes = match content.starts_with(b"#!") {
                true => content
                    .iter()
                    .position(|&byte| byte == b'\n')
                    .map_or(content.len(), |newline| newline + 1),
                false => 0,
            };
            let found = find_text_occurrences(content, shebang_bytes, &prefix);
            Occurrences::Text {
                shebang: content[..shebang_bytes].to_owned(),
                occurrences: found
                    .into_iter()
                    .map(|found| TextOccurrence {
                        offset_bytes: found.offset as u64,
                        encoding: encoding(found.encoding),
                    })
                    .collect(),
            }
        }
        FileMode::Binary => Occurrences::Binary {
            strings: find_cstring_occurrences(content, &prefix)
                .into_iter()
                .map(|found| CString {
                    encoding: encoding(found.encoding),
                    offsets_bytes: found.offsets.into_iter().map(|offset| offset as u64).collect(),
                    end_bytes: found.nul_pos as u64,
                })
                .collect(),
        },
    };
    Placeholder { prefix, occurrences }
}

fn encoding(encoding: OffsetEncoding) -> Encoding {
    match encoding {
        OffsetEncoding::Utf8 => Encoding::Utf8,
        OffsetEncoding::Utf16Le => Encoding::Utf16Le,
        OffsetEncoding::Utf16Be => Encoding::Utf16Be,
        OffsetEncoding::Utf32Le => Encoding::Utf32Le,
        OffsetEncoding::Utf32Be => Encoding::Utf32Be,
    }
}

/// `info/paths.json`, or what older packages have in its place.
fn announced(contents: &Contents<'_>) -> Result<PathsJson, ArchiveError> {
    if let Some(json) = contents.info("paths.json") {
        return serde_json::from_slice(json).map_err(|error| contents.malformed(format!("info/paths.json: {error}")));
    }
    let Some(files) = contents.info("files") else {
        return Err(contents.malformed("it has neither info/paths.json nor info/files"));
    };
    let files = old_file::<Files>(contents, "files", files)?;
    let has_prefix = optional::<HasPrefix>(contents, "has_prefix")?;
    let no_link = optional::<NoLink>(contents, "no_link")?;
    let no_softlink = optional::<NoSoftlink>(contents, "no_softlink")?;
    let kind_of = |path: &Path| {
        let found = EnvPath::parse(path.as_os_str().as_bytes())
            .ok()
            .and_then(|path| contents.file(&path));
        Ok::<_, Infallible>(match found.map(|found| &found.kind) {
            Some(FoundKind::Symlink(_)) => PathType::SoftLink,
            Some(FoundKind::Directory) => PathType::Directory,
            _ => PathType::HardLink,
        })
    };
    let Ok(paths) = PathsJson::from_deprecated(files, has_prefix, no_link, no_softlink, kind_of);
    Ok(paths)
}

fn optional<T: PackageFile>(contents: &Contents<'_>, name: &str) -> Result<Option<T>, ArchiveError> {
    contents
        .info(name)
        .map(|text| old_file(contents, name, text))
        .transpose()
}

fn old_file<T: PackageFile>(contents: &Contents<'_>, name: &str, text: &[u8]) -> Result<T, ArchiveError> {
    T::from_slice(text).map_err(|error| contents.malformed(format!("info/{name}: {error}")))
}

fn parse_path(contents: &Contents<'_>, path: &Path) -> Result<EnvPath, ArchiveError> {
    EnvPath::parse(path.as_os_str().as_bytes()).map_err(|error| ArchiveError::Forbidden {
        archive: contents.archive().to_owned(),
        path: error.path,
        reason: format!("{} (in info/paths.json)", error.reason),
    })
}
