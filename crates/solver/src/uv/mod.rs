//! uv, the resolver of packages from PyPI, as a program of its own.
//!
//! Finds it where the caller says, among the programs of the machine, or fetches it once (see [`fetch`]). Knows how it is
//! run and what it says when it fails; nothing of requirements, environments or locks. Never prints: what uv says on its
//! standard error becomes the explanation of the error.

mod fetch;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::python::PythonTarget;

/// The first version whose `pip compile` writes `pylock.toml` with wheels, hashes and sizes as they are read here.
const OLDEST_VERSION: (u64, u64) = (0, 7);

/// Where uv may be found.
#[derive(Clone, Debug)]
pub struct UvOptions {
    /// The program to use, and no other.
    pub program: Option<PathBuf>,
    /// Directories with programs, as in the variable `PATH`.
    pub search_path: OsString,
    /// Where a fetched uv is kept. Anything in it may be deleted at any time.
    pub cache_dir: PathBuf,
    /// Never connect to anything, also not from within uv.
    pub is_offline: bool,
    /// Looks up a variable of the surroundings, which addresses of indexes may name.
    pub variable: fn(&str) -> Option<String>,
}

/// A uv that can be run.
#[derive(Clone, Debug)]
pub struct Uv {
    program: PathBuf,
    search_path: OsString,
    is_offline: bool,
    variable: fn(&str) -> Option<String>,
}

impl Uv {
    /// Finds uv: the given program, one on the search path that is new enough, one that was fetched before, or one that is
    /// fetched now, by pinned version and digest, with the pip of a Python on the search path.
    ///
    /// # Errors
    /// The given program cannot be used, or there is none and it cannot be fetched.
    pub fn find(options: &UvOptions) -> Result<Self, UvError> {
        let found = |program: PathBuf| Self {
            program,
            search_path: options.search_path.clone(),
            is_offline: options.is_offline,
            variable: options.variable,
        };
        if let Some(program) = &options.program {
            return match version_of(program)? {
                version if version >= OLDEST_VERSION => Ok(found(program.clone())),
                (major, minor) => Err(UvError::TooOld {
                    program: program.clone(),
                    version: format!("{major}.{minor}"),
                }),
            };
        }
        if let Some(program) = on_search_path("uv", &options.search_path)
            && version_of(&program).is_ok_and(|version| version >= OLDEST_VERSION)
        {
            return Ok(found(program));
        }
        let program = fetch::program(&options.cache_dir);
        if program.is_file() {
            return Ok(found(program));
        }
        if options.is_offline {
            return Err(UvError::Missing {
                reason: "it is not among the programs of this machine, and offline it cannot be fetched".to_owned(),
            });
        }
        fetch::fetch(&options.cache_dir, &options.search_path)?;
        Ok(found(program))
    }

    /// The program's path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether it never connects to anything.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.is_offline
    }

    /// A variable of the surroundings.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    /// A Python of this machine that behaves as that of an environment when packages are asked what they need: one of the same
    /// minor version. None where there is none.
    #[must_use]
    pub fn python_like(&self, target: &PythonTarget) -> Option<PathBuf> {
        // A shim of pyenv is called like every Python, and is one only where it is told to be.
        let directories = std::env::split_paths(&self.search_path).filter(|path| !path.ends_with("shims"));
        let mut command = self.command(Path::new("/"));
        command.env("PATH", std::env::join_paths(directories).ok()?);
        command.args([
            "python",
            "find",
            "--system",
            "--no-managed-python",
            &target.short_version(),
        ]);
        let found = PathBuf::from(self.run(&mut command).ok()?.trim());
        found.is_absolute().then_some(found)
    }

    /// Where it caches what it fetches, made if it is not there. None where there is no such place, or it cannot be made.
    pub(crate) fn cache_directory(&self) -> Option<PathBuf> {
        let mut command = Command::new(&self.program);
        command.args(["cache", "dir"]).stdin(Stdio::null());
        let directory = PathBuf::from(self.run(&mut command).ok()?.trim_end_matches('\n'));
        (directory.is_absolute() && std::fs::create_dir_all(&directory).is_ok()).then_some(directory)
    }

    /// A command that runs in `directory`, with nothing to read from and nobody to talk to.
    pub(crate) fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(directory)
            .env("PATH", &self.search_path)
            .env("NO_COLOR", "1")
            .env("UV_NO_PROGRESS", "1")
            .stdin(Stdio::null())
            .args(["--quiet", "--no-python-downloads"]);
        if self.is_offline {
            command.arg("--offline");
        }
        command
    }

    /// Runs a command to its end and returns what it wrote.
    ///
    /// # Errors
    /// It cannot be started, or fails; then the error holds its own words.
    pub(crate) fn run(&self, command: &mut Command) -> Result<String, UvError> {
        let output = command.output().map_err(|source| UvError::Start {
            program: self.program.clone(),
            source,
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.trim();
        let words = words.strip_prefix("error: ").unwrap_or(words);
        Err(UvError::Failed {
            explanation: if words.is_empty() {
                format!("it ended with {} and said nothing", output.status)
            } else {
                words.to_owned()
            },
        })
    }
}

/// Why uv did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UvError {
    /// There is no uv, and none can be had.
    #[error(
        "packages from PyPI are resolved by the program uv, which cannot be had: {reason}; install uv (`pip install uv`, or \
         the conda package `uv`) or say where it is"
    )]
    Missing {
        /// Why there is none.
        reason: String,
    },
    /// The given uv is too old.
    #[error(
        "{} is uv {version}; it must be 0.7 or newer: update it, or leave the choice to us",
        program.display()
    )]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        version: String,
    },
    /// The program cannot be started.
    #[error("{} cannot be run", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file beside it cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It ran and failed.
    #[error("{explanation}")]
    Failed {
        /// Its own words, over several lines.
        explanation: String,
    },
}

/// The first program called `name` in the directories of a `PATH`.
fn on_search_path(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Major and minor version, from `uv 0.13.9 (...)`.
fn version_of(program: &Path) -> Result<(u64, u64), UvError> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| UvError::Start {
            program: program.to_owned(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| UvError::Start {
        program: program.to_owned(),
        source: io::Error::other(format!("`--version` printed `{}`, which is not uv's", text.trim())),
    })
}

fn parse_version(text: &str) -> Option<(u64, u64)> {
    let version = text.strip_prefix("uv ")?.split_whitespace().next()?;
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("uv");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn options(directory: &Path) -> UvOptions {
        UvOptions {
            program: None,
            search_path: directory.as_os_str().to_owned(),
            cache_dir: directory.join("cache"),
            is_offline: true,
            variable: |_| None,
        }
    }

    #[test]
    fn one_on_the_search_path_is_used_if_it_is_new_enough() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "echo 'uv 0.13.9 (abc)'");
        assert_eq!(Uv::find(&options(directory.path())).unwrap().program(), program);
        script(directory.path(), "echo 'uv 0.6.3'");
        let error = Uv::find(&options(directory.path())).unwrap_err().to_string();
        assert!(error.contains("offline") && error.contains("pip install uv"), "{error}");
    }

    #[test]
    fn a_given_program_is_the_only_one() {
        let directory = tempfile::tempdir().unwrap();
        script(directory.path(), "echo 'uv 0.13.9'");
        let given = |program: &Path| UvOptions {
            program: Some(program.to_owned()),
            ..options(directory.path())
        };
        let error = Uv::find(&given(Path::new("/nowhere/uv"))).unwrap_err();
        assert!(matches!(error, UvError::Start { .. }), "{error}");
        let other = tempfile::tempdir().unwrap();
        let old = script(other.path(), "echo 'uv 0.5.1'");
        assert!(matches!(Uv::find(&given(&old)), Err(UvError::TooOld { .. })));
    }

    #[test]
    fn what_it_says_is_the_error() {
        let directory = tempfile::tempdir().unwrap();
        script(
            directory.path(),
            "case $1 in --version) echo uv 1.0.0;; *) echo 'error: too bad' >&2; exit 2;; esac",
        );
        let uv = Uv::find(&options(directory.path())).unwrap();
        let error = uv.run(&mut uv.command(directory.path())).unwrap_err();
        assert_eq!(error.to_string(), "too bad");
    }
}
