//! As much of an environment's Python as it takes to compile, written into a directory: there is no mount yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use envfs_store::Store;
use envfs_store::ingest::{Ingest, Stored};
use envfs_store::layer::{Entry, EntryKind, FileEntry, Layer};
use envfs_store::patch::Plan;
use envfs_store::placeholder::Placeholder;
use envfs_store::workspace::Workspace;
use rattler::install::PythonInfo;
use rattler_conda_types::Subdir;

use super::at_home;
use crate::package::LockedPackage;

/// Directories of the standard library that a compiler does not import, and that are large.
const LEFT_OUT: [&[u8]; 9] = [
    b"site-packages",
    b"test",
    b"idlelib",
    b"tkinter",
    b"turtledemo",
    b"ensurepip",
    b"lib2to3",
    b"pydoc_data",
    b"unittest",
];

/// A Python in a directory that goes with it.
pub(super) struct Runtime {
    directory: tempfile::TempDir,
    program: PathBuf,
}

/// Why there is none.
pub(super) enum RuntimeError {
    Store(envfs_store::Error),
    Other(String),
}

impl Runtime {
    /// Writes the interpreter, its standard library, and the shared libraries of what it depends on.
    pub(super) fn write_out(
        store: &Store,
        workspace: &Workspace,
        packages: &[(LockedPackage, Layer)],
        python: &LockedPackage,
    ) -> Result<Self, RuntimeError> {
        let info = PythonInfo::from_python_record(&python.record().package_record, Subdir::NoArch)
            .map_err(|error| RuntimeError::Other(error.to_string()))?;
        let library = info.site_packages_path.parent().unwrap_or(Path::new("lib"));
        let directory = tempfile::Builder::new()
            .prefix("python-")
            .tempdir_in(workspace.path())
            .map_err(|error| RuntimeError::Other(error.to_string()))?;
        let mut writer = Writer {
            ingest: Ingest::new(store, workspace)?,
            root: directory.path(),
        };
        let needed = dependencies(packages, python);
        for (_, layer) in packages.iter().filter(|(package, _)| needed.contains(package.name())) {
            for entry in layer.entries.iter().filter(|entry| is_needed(entry, library)) {
                writer.write(entry)?;
            }
        }
        Ok(Self {
            program: directory.path().join(info.path()),
            directory,
        })
    }

    /// A program that stands in for a Python.
    #[cfg(test)]
    pub(super) fn with_program(directory: tempfile::TempDir, program: PathBuf) -> Self {
        Self { directory, program }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl From<envfs_store::Error> for RuntimeError {
    fn from(error: envfs_store::Error) -> Self {
        Self::Store(error)
    }
}

/// The names of what a package needs, and what that needs, and its own.
fn dependencies<'a>(packages: &'a [(LockedPackage, Layer)], of: &'a LockedPackage) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut pending = vec![of.name()];
    while let Some(name) = pending.pop() {
        if !found.insert(name) {
            continue;
        }
        let depends = packages
            .iter()
            .filter(|(package, _)| package.name() == name)
            .flat_map(|(package, _)| package.depends());
        pending.extend(depends.filter_map(|spec| spec.split([' ', '=', '<', '>', '!', '~', '[']).next()));
    }
    found
}

/// Whether it takes this file to start the interpreter.
fn is_needed(entry: &Entry, library: &Path) -> bool {
    let path = at_home(entry.path.as_bytes());
    if let Some(inside) = path
        .strip_prefix(library.as_os_str().as_bytes())
        .and_then(|rest| rest.strip_prefix(b"/"))
    {
        let top = inside.split(|&byte| byte == b'/').next().unwrap_or_default();
        return !LEFT_OUT.contains(&top) && !top.starts_with(b"config-");
    }
    let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    match names.as_slice() {
        [b"pyvenv.cfg"] => true,
        [b"bin", name] => name.starts_with(b"python"),
        [b"lib" | b"lib64", name] => name.windows(3).any(|part| part == b".so"),
        _ => false,
    }
}

struct Writer<'a, 'b> {
    ingest: Ingest<'b>,
    root: &'a Path,
}

impl Writer<'_, '_> {
    fn write(&mut self, entry: &Entry) -> Result<(), RuntimeError> {
        let target = self.root.join(std::ffi::OsStr::from_bytes(entry.path.as_bytes()));
        let failed = |error: io::Error| RuntimeError::Other(format!("cannot write {}: {error}", target.display()));
        match &entry.kind {
            EntryKind::Directory => fs::create_dir_all(&target).map_err(failed),
            kind => {
                let parent = target.parent().unwrap_or(self.root);
                fs::create_dir_all(parent).map_err(failed)?;
                match kind {
                    EntryKind::File(file) => {
                        let content = self.content(file)?;
                        write_file(&target, &content, file.executable, entry.mtime_s).map_err(failed)
                    }
                    EntryKind::Symlink(to) => symlink(std::ffi::OsStr::from_bytes(to), &target).map_err(failed),
                    EntryKind::Directory => Ok(()),
                }
            }
        }
    }

    /// The bytes of a file as they are in this directory.
    fn content(&mut self, file: &FileEntry) -> Result<Vec<u8>, RuntimeError> {
        let stored = self.ingest.content(&Stored {
            digest: file.digest,
            // Only the digest and the size are looked at.
            sha256: file.sha256.unwrap_or(envfs_store::digest::Sha256::from_bytes([0; 32])),
            size_bytes: file.size_bytes,
        })?;
        let Some(placeholder) = file
            .placeholder
            .as_ref()
            .filter(|placeholder| Placeholder::changes_content(placeholder))
        else {
            return Ok(stored.to_vec());
        };
        let prefix = self.root.to_string_lossy();
        let unfit = || {
            RuntimeError::Other(format!(
                "the path {prefix} does not fit into its files: use another store"
            ))
        };
        let plan = Plan::new(placeholder, file.size_bytes, &prefix).map_err(|_| unfit())?;
        let mut content = vec![0; usize::try_from(plan.size_bytes()).map_err(|_| unfit())?];
        let read = plan.read(0, &mut content, |offset, into: &mut [u8]| {
            let start = usize::try_from(offset).map_err(|_| ())?;
            into.copy_from_slice(stored.get(start..start + into.len()).ok_or(())?);
            Ok::<_, ()>(())
        });
        read.map_err(|_| unfit())?;
        Ok(content)
    }
}

fn write_file(target: &Path, content: &[u8], executable: bool, mtime_s: i64) -> io::Result<()> {
    let mut file = File::create(target)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    // So that the bytecode that comes with the standard library is used.
    file.set_modified(UNIX_EPOCH + Duration::from_secs(u64::try_from(mtime_s).unwrap_or_default()))
}
