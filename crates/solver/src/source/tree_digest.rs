//! What is in a directory of sources, as one digest: names, execute bits and bytes.
//!
//! What tools leave behind when they build and test is none of it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use envfs_store::Digest;

/// Directories that hold no sources, wherever they are.
const LEFT_OUT: [&str; 12] = [
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "venv",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "__pycache__",
    "node_modules",
];

/// Directories that hold no sources if they are at the root of a project.
const LEFT_OUT_AT_ROOT: [&str; 2] = ["build", "dist"];

/// Files that say how a project is built.
const BUILD_FILES: [&str; 3] = ["pyproject.toml", "setup.py", "setup.cfg"];

/// The digest of a project.
///
/// # Errors
/// Something in it cannot be read.
pub(super) fn of_tree(root: &Path) -> io::Result<Digest> {
    let mut text = Vec::new();
    add_directory(root, root, &mut text)?;
    Ok(Digest::of(&text))
}

/// The digest of what says how a project is built.
///
/// # Errors
/// A file cannot be read.
pub(super) fn of_build_files(root: &Path) -> io::Result<Digest> {
    let mut text = Vec::new();
    for name in BUILD_FILES {
        match fs::read(root.join(name)) {
            Ok(content) => add(&mut text, name.as_bytes(), b"file", &content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Digest::of(&text))
}

fn add_directory(root: &Path, directory: &Path, text: &mut Vec<u8>) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let inside = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_encoded_bytes();
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            add(
                text,
                inside,
                b"link",
                fs::read_link(&path)?.as_os_str().as_encoded_bytes(),
            );
        } else if kind.is_dir() {
            let is_left_out = LEFT_OUT.contains(&&*name)
                || name.ends_with(".egg-info")
                || (directory == root && LEFT_OUT_AT_ROOT.contains(&&*name));
            if !is_left_out {
                add_directory(root, &path, text)?;
            }
        } else if kind.is_file() && !name.ends_with(".pyc") {
            let is_executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            let kind: &[u8] = if is_executable { b"program" } else { b"file" };
            add(text, inside, kind, &fs::read(&path)?);
        }
    }
    Ok(())
}

fn add(text: &mut Vec<u8>, path: &[u8], kind: &[u8], content: &[u8]) {
    text.extend_from_slice(kind);
    text.push(b' ');
    text.extend_from_slice(path);
    text.push(0);
    text.extend_from_slice(Digest::of(content).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_count_and_what_builds_leave_behind_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("pyproject.toml", "[project]");
        write("src/build/x.py", "1");
        let before = of_tree(directory.path()).unwrap();
        write("build/lib/x.py", "1");
        write("src/x.egg-info/PKG-INFO", "1");
        write("src/__pycache__/x.pyc", "1");
        write(".git/HEAD", "1");
        assert_eq!(of_tree(directory.path()).unwrap(), before);
        let build_files = of_build_files(directory.path()).unwrap();
        write("src/build/x.py", "2");
        assert_ne!(of_tree(directory.path()).unwrap(), before);
        assert_eq!(of_build_files(directory.path()).unwrap(), build_files);
        write("pyproject.toml", "[project]\n");
        assert_ne!(of_build_files(directory.path()).unwrap(), build_files);
    }
}
