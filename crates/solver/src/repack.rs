//! What uv installed into an empty prefix, as the wheel that it came from.
//!
//! uv builds, and installs what it built; it hands out no wheel of an editable project. So a wheel is put together again:
//! every scheme has a directory of its own in a prefix, and what installers add is known (PEP 376, 427, 610). The bytes depend
//! on the files alone, so that the same sources give the same wheel. Knows nothing of how anything is built.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use envfs_store::digest::Sha256;
use sha2::Digest as _;
use zip::write::SimpleFileOptions;

use crate::wheel::entry_points;
use crate::wheel::record::write_row;

/// What installers add to a `.dist-info` directory; `uv_*.json` are uv's own.
const ADDED: [&str; 6] = [
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
    "uv_cache.json",
    "uv_build.json",
];

/// Writes the wheel into `directory` and returns its path.
///
/// # Errors
/// The prefix holds not exactly one distribution, or something cannot be read or written. The error says which.
pub(crate) fn repack(prefix: &Path, directory: &Path) -> io::Result<PathBuf> {
    let installed = Installed::open(prefix)?;
    // First: nothing is read that is no file.
    let files = files(prefix)?;
    let name = installed.file_name()?;
    let path = directory.join(&name);
    let mut members = installed.members(files)?;
    let mut record = String::new();
    for (name, member) in &members {
        let digest = Sha256::from_bytes(sha2::Sha256::digest(&member.content).into());
        write_row(&mut record, name, Some((&digest, member.content.len() as u64)));
    }
    let record_name = format!("{}/RECORD", installed.info_name);
    write_row(&mut record, &record_name, None);
    let record = Member {
        content: record.into_bytes(),
        is_executable: false,
    };
    members.insert(record_name, record);
    let mut zip = zip::ZipWriter::new(File::create(&path)?);
    for (name, member) in &members {
        let mode = if member.is_executable { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::default()
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(mode);
        zip.start_file(name, options)?;
        zip.write_all(&member.content)?;
    }
    zip.finish()?;
    Ok(path)
}

struct Member {
    content: Vec<u8>,
    is_executable: bool,
}

/// A prefix with one distribution.
struct Installed<'a> {
    prefix: &'a Path,
    site_packages: PathBuf,
    info: PathBuf,
    /// The name of its `.dist-info` directory.
    info_name: String,
}

impl<'a> Installed<'a> {
    fn open(prefix: &'a Path) -> io::Result<Self> {
        let mut found = Vec::new();
        for python in list(&prefix.join("lib"))? {
            let site_packages = python.join("site-packages");
            if site_packages.is_dir() {
                let directories = list(&site_packages)?.into_iter();
                found.extend(
                    directories
                        .filter(|path| path.extension().is_some_and(|extension| extension == "dist-info"))
                        .map(|info| (site_packages.clone(), info)),
                );
            }
        }
        let [(site_packages, info)] = &found[..] else {
            return Err(io::Error::other(format!(
                "it made {} distributions, and not one",
                found.len()
            )));
        };
        Ok(Self {
            prefix,
            site_packages: site_packages.clone(),
            info: info.clone(),
            info_name: name_of(info),
        })
    }

    /// `name-version(-build)?-python-abi-platform.whl`, from `WHEEL`.
    fn file_name(&self) -> io::Result<String> {
        let text = fs::read_to_string(self.info.join("WHEEL"))?;
        let field = |name: &'static str| {
            let values = text
                .lines()
                .filter_map(move |line| line.strip_prefix(name)?.strip_prefix(':'));
            values.map(str::trim)
        };
        let mut parts: [Vec<&str>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for tag in field("Tag") {
            for (known, part) in parts.iter_mut().zip(tag.split('-')) {
                if !known.contains(&part) {
                    known.push(part);
                }
            }
        }
        if parts.iter().any(Vec::is_empty) {
            return Err(io::Error::other("its WHEEL has no tag"));
        }
        let build = field("Build")
            .next()
            .map_or_else(String::new, |build| format!("{build}-"));
        let stem = self.info_name.trim_end_matches(".dist-info");
        let name = format!("{stem}-{build}{}.whl", parts.map(|part| part.join(".")).join("-"));
        match name.contains('/') {
            true => Err(io::Error::other(format!("`{name}` cannot be the name of a wheel"))),
            false => Ok(name),
        }
    }

    fn members(&self, files: Vec<PathBuf>) -> io::Result<BTreeMap<String, Member>> {
        let commands = match fs::read_to_string(self.info.join("entry_points.txt")) {
            Ok(text) => entry_points::scripts(&text).map_err(io::Error::other)?,
            Err(_) => Vec::new(),
        };
        let data = format!("{}.data", self.info_name.trim_end_matches(".dist-info"));
        let mut members = BTreeMap::new();
        for file in files {
            let Some(inside) = file.strip_prefix(self.prefix).ok().and_then(Path::to_str) else {
                return Err(io::Error::other(format!("the name {} is not UTF-8", file.display())));
            };
            if inside == ".lock" || inside.contains("__pycache__/") {
                continue;
            }
            if file.parent() == Some(&self.info) && ADDED.contains(&name_of(&file).as_str()) {
                continue;
            }
            let mut content = fs::read(&file)?;
            let name = if let Ok(inside) = file.strip_prefix(&self.site_packages) {
                inside.display().to_string()
            } else if let Some(command) = inside.strip_prefix("bin/") {
                if commands.iter().any(|known| known.name == command) {
                    continue;
                }
                content = generic(content);
                format!("{data}/scripts/{command}")
            } else if let Some(header) = header(inside) {
                format!("{data}/headers/{header}")
            } else {
                format!("{data}/data/{inside}")
            };
            let is_executable = fs::metadata(&file)?.permissions().mode() & 0o111 != 0;
            members.insert(name, Member { content, is_executable });
        }
        Ok(members)
    }
}

/// `include/site/python3.12/name/x.h` -> `x.h`
fn header(inside: &str) -> Option<&str> {
    let inside = inside.strip_prefix("include/site/python")?;
    let (_version, inside) = inside.split_once('/')?;
    Some(inside.split_once('/')?.1)
}

/// A script that starts a certain Python starts `python`, as in the wheel (PEP 427), which is what installers replace. A long
/// path stands in three lines: `#!/bin/sh`, `'''exec' "/path/python" "$0" "$@"`, `' '''`.
fn generic(script: Vec<u8>) -> Vec<u8> {
    const LONG: &[u8] = b"#!/bin/sh\n'''exec' ";
    let lines = |count: usize| {
        let mut ends = script.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        ends.nth(count - 1).map_or(script.len(), |(at, _)| at)
    };
    let is_python = |line: &[u8]| line.windows(6).any(|part| part == b"python");
    let end = if script.starts_with(LONG) {
        lines(3)
    } else if script.starts_with(b"#!/") && is_python(&script[..lines(1)]) {
        lines(1)
    } else {
        return script;
    };
    [b"#!python", &script[end..]].concat()
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// All files below a directory. uv copies: what is else was put there by what was built.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in list(directory)? {
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            found.extend(files(&path)?);
        } else if kind.is_file() {
            found.push(path);
        } else {
            let name = name_of(&path);
            return Err(io::Error::other(format!("{name} is neither a file nor a directory")));
        }
    }
    Ok(found)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn prefix(files: &[(&str, &str)]) -> tempfile::TempDir {
        let prefix = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = prefix.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        prefix
    }

    #[test]
    fn every_scheme_is_found_again_and_what_installers_add_is_left_out() {
        let site = "lib/python3.12/site-packages";
        let info = format!("{site}/x-1.dist-info");
        let installed = prefix(&[
            (".lock", ""),
            (&format!("{site}/x.py"), "code"),
            (
                &format!("{info}/WHEEL"),
                "Wheel-Version: 1.0\nTag: py2-none-any\nTag: py3-none-any\n",
            ),
            (&format!("{info}/METADATA"), "Name: x\nVersion: 1\n"),
            (
                &format!("{info}/entry_points.txt"),
                "[console_scripts]\nmade = x:main\n",
            ),
            (&format!("{info}/RECORD"), "old"),
            (&format!("{info}/INSTALLER"), "uv"),
            (&format!("{info}/direct_url.json"), "{}"),
            ("bin/made", "#!/p/bin/python\n"),
            ("bin/own", "#!/p/bin/python3.12\nprint()\n"),
            (
                "bin/long",
                "#!/bin/sh\n'''exec' \"/p/bin/python\" \"$0\" \"$@\"\n' '''\nprint()\n",
            ),
            ("bin/shell", "#!/bin/sh\nexit\n"),
            ("share/x/data", "1"),
            ("include/site/python3.12/x/x.h", "h"),
        ]);
        let directory = tempfile::tempdir().unwrap();
        let wheel = repack(installed.path(), directory.path()).unwrap();
        assert_eq!(name_of(&wheel), "x-1-py2.py3-none-any.whl");
        let mut zip = zip::ZipArchive::new(File::open(&wheel).unwrap()).unwrap();
        let names: Vec<_> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
        let expected = [
            "x-1.data/data/share/x/data",
            "x-1.data/headers/x.h",
            "x-1.data/scripts/long",
            "x-1.data/scripts/own",
            "x-1.data/scripts/shell",
            "x-1.dist-info/METADATA",
            "x-1.dist-info/RECORD",
            "x-1.dist-info/WHEEL",
            "x-1.dist-info/entry_points.txt",
            "x.py",
        ];
        assert_eq!(names, expected);
        let mut read = |name: &str| {
            let mut text = String::new();
            zip.by_name(name).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(read("x-1.data/scripts/own"), "#!python\nprint()\n");
        assert_eq!(read("x-1.data/scripts/long"), "#!python\nprint()\n");
        assert_eq!(read("x-1.data/scripts/shell"), "#!/bin/sh\nexit\n");
        assert!(read("x-1.dist-info/RECORD").contains("x.py,sha256="));
        let other = tempfile::tempdir().unwrap();
        let again = repack(installed.path(), other.path()).unwrap();
        assert_eq!(
            fs::read(wheel).unwrap(),
            fs::read(again).unwrap(),
            "the same files are the same wheel"
        );
    }

    /// Whoever builds could have put anything there.
    #[test]
    fn what_no_installer_leaves_is_refused() {
        let site = "lib/python3.12/site-packages";
        let wheel = format!("{site}/x-1.dist-info/WHEEL");
        let directory = tempfile::tempdir().unwrap();
        let refused =
            |installed: &tempfile::TempDir| repack(installed.path(), directory.path()).unwrap_err().to_string();
        for text in ["Tag: py3-none-any/../../x\n", "Tag: py3-none-any\nBuild: 1/..\n"] {
            let error = refused(&prefix(&[(&wheel, text)]));
            assert!(error.contains("cannot be the name of a wheel"), "{error}");
        }
        let linked = prefix(&[(&wheel, "Tag: py3-none-any\n")]);
        std::os::unix::fs::symlink("/etc/passwd", linked.path().join(site).join("x.py")).unwrap();
        assert!(refused(&linked).contains("x.py is neither a file nor a directory"));
        let piped = prefix(&[(&wheel, "Tag: py3-none-any\n")]);
        let _socket = std::os::unix::net::UnixListener::bind(piped.path().join(site).join("pipe")).unwrap();
        assert!(refused(&piped).contains("pipe is neither"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_and_several_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = repack(prefix(&[("bin/x", "")]).path(), directory.path()).unwrap_err();
        assert!(error.to_string().contains("0 distributions"), "{error}");
    }
}
