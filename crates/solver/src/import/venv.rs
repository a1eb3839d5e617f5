//! The Python of a venv (PEP 405): what `pyvenv.cfg` refers to is taken along, so that the environment stands alone.
//!
//! It goes into a directory of the environment of its own, and the environment stays a venv of it: `sys.prefix` and
//! `sys.base_prefix` differ as they did, and a Python that treats venvs in another way than itself (Debian's has its own
//! directories for packages) goes on doing so. It is a package of the environment, called `python`, and the same for all
//! venvs that were made with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use envfs_store::Store;
use envfs_store::ingest::Written;
use envfs_store::layer::{EntryKind, Layer};
use envfs_store::path::EnvPath;
use envfs_store::tree::merge::DIRECTORY_MTIME_S;
use envfs_store::workspace::Workspace;

use super::ImportError;
use super::conda::{self, Installed};
use super::own::{Expected, OwnLayer};
use super::prefix::{Found, FoundKind, Prefix, inspect, read};
use super::relocate::{self, PLACEHOLDER};
use crate::bytecode::NESTED;
use crate::package::LockedPackage;
use crate::subdir::Subdir;

/// Where the Python lies in the environment.
const INSIDE: &str = "/.python";

/// Where a machine's own programs lie. Of such a Python only its own files are taken.
const SYSTEM: [&str; 3] = ["/usr", "/usr/local", "/"];

/// Directories of a Python's library that are another's packages.
const OTHERS: [&str; 2] = ["site-packages", "dist-packages"];

/// The Python of a venv.
pub(super) struct VenvPython {
    /// `3.12`
    short_version: String,
    version: String,
    /// The directory in which its `bin` and `lib` lie.
    base: PathBuf,
    program: PathBuf,
}

impl VenvPython {
    /// Reads `pyvenv.cfg`.
    pub(super) fn of(prefix: &Prefix) -> Result<Self, ImportError> {
        let file = prefix.root.join("pyvenv.cfg");
        let text = prefix.read("pyvenv.cfg")?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once('='));
            fields
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        let invalid = |reason: String| ImportError::Venv {
            file: file.clone(),
            reason,
        };
        if field("include-system-site-packages").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            let reason = "include-system-site-packages is true: it sees packages that are not its own. Make a venv without \
                          them, with what it needs installed in it";
            return Err(invalid(reason.to_owned()));
        }
        let Some(home) = field("home") else {
            return Err(invalid("it has no `home`".to_owned()));
        };
        let short_version = short_version(prefix, field("version").or_else(|| field("version_info")))
            .ok_or_else(|| invalid("neither it nor `lib` says which Python it is of".to_owned()))?;
        let program = Path::new(&home).join(format!("python{short_version}"));
        let version = field("version").or_else(|| field("version_info")).unwrap_or_default();
        let version: Vec<&str> = version.split('.').take(3).collect();
        let version = match version.len() {
            3 => version.join("."),
            _ => short_version.clone(),
        };
        Self::at(&program, short_version, version, &invalid)
    }

    /// A Python that no venv was made with yet.
    pub(super) fn of_program(program: &Path, version: &str) -> Result<Self, ImportError> {
        let invalid = |reason: String| ImportError::Venv {
            file: program.to_owned(),
            reason,
        };
        let mut numbers = version.split('.');
        let short_version = match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => format!("{major}.{minor}"),
            _ => return Err(invalid(format!("`{version}` is no version"))),
        };
        Self::at(program, short_version, version.to_owned(), &invalid)
    }

    fn at(
        program: &Path,
        short_version: String,
        version: String,
        invalid: &dyn Fn(String) -> ImportError,
    ) -> Result<Self, ImportError> {
        let gone = |_| {
            invalid(format!(
                "its Python is gone: there is no {}. Install that Python again, or resolve the environment anew",
                program.display()
            ))
        };
        let program = program.canonicalize().map_err(gone)?;
        let base = program
            .parent()
            .and_then(Path::parent)
            .unwrap_or(Path::new("/"))
            .to_owned();
        if !base.join(format!("lib/python{short_version}/os.py")).is_file() {
            return Err(invalid(format!(
                "its Python has no library: there is no {}/lib/python{short_version}/os.py",
                base.display()
            )));
        }
        Ok(Self {
            short_version,
            version,
            base,
            program,
        })
    }

    /// Paths of the prefix that are not its own: they are made anew.
    pub(super) fn replaces(&self) -> BTreeSet<EnvPath> {
        let versioned = format!("bin/python{}", self.short_version);
        let names = ["pyvenv.cfg", "bin/python", "bin/python3", &versioned, ".lock"];
        names.into_iter().filter_map(|name| EnvPath::parse(name).ok()).collect()
    }

    /// What it is called as a package.
    pub(super) fn package(&self, subdir: Subdir) -> Result<LockedPackage, ImportError> {
        let url = format!("imported:///{subdir}/python-{}-venv.conda", self.version);
        let url = url.parse().ok();
        url.and_then(|url| LockedPackage::from_archive_url(&url, None, None).ok())
            .ok_or_else(|| ImportError::Venv {
                file: self.program.clone(),
                reason: format!("`{}` is no version", self.version),
            })
    }

    /// It as a package, with its layer.
    pub(super) fn take(
        &self,
        subdir: Subdir,
        store: &Store,
        workspace: &Workspace,
    ) -> Result<(LockedPackage, Layer, Written), ImportError> {
        let package = self.package(subdir)?;
        let base = Prefix::bare(&self.base)?;
        let mut layer = OwnLayer::nested(&base, INSIDE, self.named(), store, workspace)?;
        for (path, found, expected) in self.files()? {
            let target =
                EnvPath::parse([NESTED.as_bytes(), b"/", path.as_bytes()].concat()).map_err(ImportError::path)?;
            let program = match is_program(&path) {
                true => relocate::run_path(&read(&base.place(&path))?, &base.text),
                false => None,
            };
            match program {
                Some(program) => layer.add_file(target, found.mtime_s, &program, true)?,
                None => drop(layer.take(&path, &found, target, expected)?),
            }
        }
        let program = format!("python{}", self.short_version);
        let inside = format!("{NESTED}/bin/{program}");
        if self.program.file_name().is_none_or(|name| name != program.as_str()) {
            let name = self.program.file_name().unwrap_or_default().as_bytes();
            let path = EnvPath::parse(&inside).map_err(ImportError::path)?;
            layer.add(path, DIRECTORY_MTIME_S, EntryKind::Symlink(name.to_owned()));
        }
        for (name, target) in [
            (format!("bin/{program}"), format!("../{inside}")),
            ("bin/python3".to_owned(), program.clone()),
            ("bin/python".to_owned(), program.clone()),
        ] {
            let path = EnvPath::parse(name).map_err(ImportError::path)?;
            layer.add(path, DIRECTORY_MTIME_S, EntryKind::Symlink(target.into_bytes()));
        }
        let settings = format!(
            "home = {PLACEHOLDER}/{NESTED}/bin\ninclude-system-site-packages = false\nversion = {}\nexecutable = \
             {PLACEHOLDER}/{inside}\n",
            self.version
        );
        let path = EnvPath::parse("pyvenv.cfg").map_err(ImportError::path)?;
        layer.add_file(path, DIRECTORY_MTIME_S, settings.as_bytes(), false)?;
        let index = serde_json::json!({
            "name": "python", "version": self.version, "build": "venv", "build_number": 0, "subdir": subdir.to_string(),
            "depends": [],
        });
        let info = BTreeMap::from([("index.json".to_owned(), index.to_string().into_bytes())]);
        let (layer, written) = layer.publish(info)?;
        Ok((package, layer, written))
    }

    /// Whether it lies among the machine's own programs.
    fn is_of_the_system(&self) -> bool {
        SYSTEM.iter().any(|system| Path::new(system) == self.base)
    }

    /// Directories that are its alone, wherever it lies.
    fn own_directories(&self) -> [String; 2] {
        ["lib", "include"].map(|directory| format!("{directory}/python{}", self.short_version))
    }

    /// What its files may name as its own, in the words of [`OwnLayer`]. `/usr/share/zoneinfo` stays that of the machine.
    fn named(&self) -> Vec<String> {
        if !self.is_of_the_system() {
            return vec![String::new()];
        }
        let programs = [format!("bin/python{}", self.short_version)];
        let paths = self.own_directories().into_iter().chain(programs);
        paths.map(|path| format!("/{path}")).collect()
    }

    /// The files that it consists of, by their paths in its own prefix.
    fn files(&self) -> Result<Vec<(EnvPath, Found, Expected)>, ImportError> {
        if self.base.join("conda-meta").is_dir() {
            return conda_files(&self.base);
        }
        let is_system = self.is_of_the_system();
        let tops = match is_system {
            true => self.own_directories().to_vec(),
            false => vec!["lib".to_owned(), "include".to_owned(), "share/terminfo".to_owned()],
        };
        let mut files = Vec::new();
        for top in tops {
            walk(&self.base, &PathBuf::from(top), &mut files)?;
        }
        for name in [
            format!("libpython{}.so.1.0", self.short_version),
            "libpython3.so".to_owned(),
        ] {
            if is_system {
                walk(&self.base, &Path::new("lib").join(name), &mut files)?;
            }
        }
        walk(
            &self.base,
            Path::new("bin")
                .join(self.program.file_name().unwrap_or_default())
                .as_path(),
            &mut files,
        )?;
        Ok(files
            .into_iter()
            .map(|(path, found)| (path, found, Expected::default()))
            .collect())
    }
}

/// Of a conda environment, the package `python` and what that needs.
fn conda_files(base: &Path) -> Result<Vec<(EnvPath, Found, Expected)>, ImportError> {
    let base = Prefix::scan(base)?;
    let packages = conda::packages(&base)?;
    let mut wanted = vec!["python".to_owned()];
    let mut taken: BTreeMap<&str, &Installed> = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        let Some(found) = packages.iter().find(|found| found.package.name() == name) else {
            continue;
        };
        if taken.insert(found.package.name(), found).is_none() {
            let names = found
                .package
                .depends()
                .iter()
                .filter_map(|spec| spec.split([' ', '=', '<', '>']).next());
            wanted.extend(names.map(str::to_owned));
        }
    }
    let files = taken.into_values().flat_map(|installed| installed.files(&base));
    // They come to lie elsewhere than where their records say, and are other files there.
    let nested = files.map(|(path, found, expected)| {
        let expected = Expected {
            placeholder: expected.placeholder,
            ..Expected::default()
        };
        (path.clone(), found.clone(), expected)
    });
    Ok(nested.collect())
}

fn is_program(path: &EnvPath) -> bool {
    path.as_bytes().starts_with(b"bin/python")
}

fn short_version(prefix: &Prefix, version: Option<String>) -> Option<String> {
    let of_library = || {
        let mut names = prefix
            .children("lib")
            .filter_map(|(_, name)| name.strip_prefix("python"));
        names.find(|name| name.contains('.')).map(str::to_owned)
    };
    let version = version.or_else(of_library)?;
    let mut parts = version.split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    let is_number = |part: &str| part.parse::<u16>().is_ok();
    (is_number(major) && is_number(minor)).then(|| format!("{major}.{minor}"))
}

/// Everything at and below a path, but for the packages of others.
fn walk(root: &Path, path: &Path, files: &mut Vec<(EnvPath, Found)>) -> Result<(), ImportError> {
    let place = root.join(path);
    let failed = |source| ImportError::Io {
        path: place.clone(),
        source,
    };
    let metadata = match fs::symlink_metadata(&place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(failed)?,
    };
    let kind = inspect(&place, &metadata).map_err(failed)?;
    if matches!(kind, FoundKind::Directory) {
        for entry in fs::read_dir(&place).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // Nobody links an environment's Python into a program of another.
            let is_archive = name.as_bytes().ends_with(b".a");
            // Bytecode names the place that it was compiled in, and is made anew.
            let is_bytecode = name == "__pycache__";
            if !is_archive && !is_bytecode && !OTHERS.iter().any(|other| name == *other) {
                walk(root, &path.join(name), files)?;
            }
        }
        return Ok(());
    }
    let mtime_s = metadata.mtime();
    let path = EnvPath::parse(path.as_os_str().as_bytes()).map_err(ImportError::path)?;
    files.push((path, Found { kind, mtime_s }));
    Ok(())
}
