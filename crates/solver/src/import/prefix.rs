//! A directory that another installer made, as it lies there: its kind, its files, and what of it cannot be taken along.
//!
//! Everything is looked at before anything is taken in, so that a refusal names all its reasons. Knows nothing of packages.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use envfs_store::path::EnvPath;

use super::ImportError;

/// Metadata that installers write is far smaller; a larger file is none.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// What made a directory an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixKind {
    /// `conda-meta` is there: made by conda, mamba, pixi or the like.
    Conda,
    /// `pyvenv.cfg` is there (PEP 405): made by venv, virtualenv or uv.
    Venv,
}

/// The directory.
pub(super) struct Prefix {
    /// Where it is: absolute, and spelled as its files spell it.
    pub(super) root: PathBuf,
    /// The same as text.
    pub(super) text: String,
    pub(super) kind: PrefixKind,
    pub(super) files: BTreeMap<EnvPath, Found>,
    /// What all its files hold, each inode counted once.
    pub(super) size_bytes: u64,
}

/// One path in it.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) kind: FoundKind,
    pub(super) mtime_s: i64,
}

#[derive(Clone)]
pub(super) enum FoundKind {
    Directory,
    File {
        executable: bool,
        size_bytes: u64,
    },
    /// With its target, byte for byte.
    Symlink(Vec<u8>),
}

impl Prefix {
    /// Looks at everything in `path`: an environment, or a pixi project with one.
    pub(super) fn scan(path: &Path) -> Result<Self, ImportError> {
        let (root, kind) = find(path)?;
        let text = match root.to_str() {
            Some(text) if !text.contains('\n') => text.to_owned(),
            _ => return Err(ImportError::Unusable { path: root }),
        };
        let mut prefix = Self {
            root,
            text,
            kind,
            files: BTreeMap::new(),
            size_bytes: 0,
        };
        let mut unreadable = Vec::new();
        let mut seen = std::collections::HashSet::new();
        prefix.list(&[], &mut unreadable, &mut seen);
        if unreadable.is_empty() {
            return Ok(prefix);
        }
        unreadable.sort();
        Err(ImportError::Unreadable {
            prefix: prefix.root,
            files: unreadable,
        })
    }

    /// A directory of which nothing is looked at.
    pub(super) fn bare(root: &Path) -> Result<Self, ImportError> {
        let text = root
            .to_str()
            .ok_or_else(|| ImportError::Unusable { path: root.to_owned() })?;
        Ok(Self {
            root: root.to_owned(),
            text: text.to_owned(),
            kind: PrefixKind::Conda,
            files: BTreeMap::new(),
            size_bytes: 0,
        })
    }

    pub(super) fn get(&self, path: &EnvPath) -> Option<&Found> {
        self.files.get(path)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        EnvPath::parse(path).is_ok_and(|path| self.files.contains_key(&path))
    }

    /// Whether there is nothing in a directory.
    pub(super) fn is_empty(&self, directory: &EnvPath) -> bool {
        let inside = (Bound::Excluded(directory), Bound::Unbounded);
        let next = self.files.range::<EnvPath, _>(inside).next();
        next.is_none_or(|(path, _)| path.parent().as_ref() != Some(directory))
    }

    /// Where a file of it lies.
    pub(super) fn place(&self, path: &EnvPath) -> PathBuf {
        self.root.join(OsStr::from_bytes(path.as_bytes()))
    }

    /// The files directly in a directory, by name.
    pub(super) fn children<'a>(&'a self, directory: &str) -> impl Iterator<Item = (&'a EnvPath, &'a str)> {
        let head = format!("{directory}/");
        self.files.keys().filter_map(move |path| {
            let name = std::str::from_utf8(path.as_bytes()).ok()?.strip_prefix(&head)?;
            (!name.contains('/')).then_some((path, name))
        })
    }

    /// A file of metadata; nothing where there is none.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let place = self.root.join(path);
        match read(&place) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ImportError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(
        &mut self,
        directory: &[u8],
        unreadable: &mut Vec<String>,
        seen: &mut std::collections::HashSet<(u64, u64)>,
    ) {
        let place = self.root.join(OsStr::from_bytes(directory));
        let entries = match fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(error) => return unreadable.push(format!("{}: {error}", place.display())),
        };
        for entry in entries {
            let found = entry.and_then(|entry| Ok((entry.path(), entry.file_name(), entry.metadata()?)));
            let (place, name, metadata) = match found {
                Ok(found) => found,
                Err(error) => {
                    unreadable.push(format!("{}: {error}", place.display()));
                    continue;
                }
            };
            let path = [directory, name.as_bytes()].join(&b"/"[..usize::from(!directory.is_empty())]);
            let (path, kind) = match (EnvPath::parse(&path), inspect(&place, &metadata)) {
                (Ok(path), Ok(kind)) => (path, kind),
                (Err(error), _) => {
                    unreadable.push(error.to_string());
                    continue;
                }
                (_, Err(error)) => {
                    unreadable.push(format!("{}: {error}", place.display()));
                    continue;
                }
            };
            if let FoundKind::File { size_bytes, .. } = kind
                && seen.insert((metadata.dev(), metadata.ino()))
            {
                self.size_bytes += size_bytes;
            }
            let is_directory = matches!(kind, FoundKind::Directory);
            let mtime_s = metadata.mtime();
            self.files.insert(path.clone(), Found { kind, mtime_s });
            if is_directory {
                self.list(path.as_bytes(), unreadable, seen);
            }
        }
    }
}

/// At most [`MAX_TEXT_BYTES`] of a file.
pub(super) fn read(place: &Path) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    let read = File::open(place).and_then(|file| file.take(MAX_TEXT_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(ImportError::Io {
            path: place.to_owned(),
            source,
        }),
    }
}

/// What is at a place; an error where it could not be read later.
pub(super) fn inspect(place: &Path, metadata: &Metadata) -> io::Result<FoundKind> {
    if metadata.is_dir() {
        Ok(FoundKind::Directory)
    } else if metadata.is_symlink() {
        Ok(FoundKind::Symlink(fs::read_link(place)?.into_os_string().into_vec()))
    } else if metadata.is_file() {
        File::open(place)?;
        Ok(FoundKind::File {
            executable: metadata.mode() & 0o111 != 0,
            size_bytes: metadata.len(),
        })
    } else {
        Err(io::Error::other("it is a device, a pipe or a socket"))
    }
}

fn find(path: &Path) -> Result<(PathBuf, PrefixKind), ImportError> {
    let failed = |source| ImportError::Io {
        path: path.to_owned(),
        source,
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    // Tools write the path without what `.` and `/` at its end add.
    let absolute: PathBuf = absolute.components().collect();
    fs::read_dir(&absolute).map_err(failed)?;
    for root in [absolute.clone(), absolute.join(".pixi/envs/default")] {
        if root.join("conda-meta").is_dir() {
            return Ok((root, PrefixKind::Conda));
        }
        if root.join("pyvenv.cfg").is_file() {
            return Ok((root, PrefixKind::Venv));
        }
    }
    Err(ImportError::NotAnEnvironment { path: absolute })
}
