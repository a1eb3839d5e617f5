//! Sources become wheels: uv builds them, in the environment that they belong to.
//!
//! Whoever calls says how a program runs in an environment ([`BuildSandbox`]); here stands what runs. What was built once is
//! found by what it was built of and by which Python. Knows nothing of how environments are mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use envfs_store::Store;
use envfs_store::built::{self, BuiltWheel};
use envfs_store::digest::Sha256;
use envfs_store::environment::Environment;
use envfs_store::workspace::Workspace;

use crate::pypi::LockedWheel;
use crate::repack::repack;
use crate::source::{LockedSource, SourcePlace};
use crate::uv::{Uv, UvError};

/// So many lines of what a failed build said are shown; all of them are kept.
const SHOWN_LINES: usize = 25;

/// What archives are dated in wheels that are built, for backends that ask (`SOURCE_DATE_EPOCH`): 1980, the first day of zip.
const SOURCE_DATE_S: &str = "315532800";

/// Runs programs that strangers have written, where they can do no harm to what is not theirs.
pub trait BuildSandbox: Send + Sync {
    /// A command that does what `command` does, and is kept to `confines`. It has the network, a home of its own, which shows
    /// what is in the user's, and temporary files of its own.
    fn enter(&self, confines: &Confines<'_>, command: &Command) -> Command;
}

/// What a build is kept to. All else it can read and not write to.
#[derive(Clone, Debug)]
pub struct Confines<'a> {
    /// The environment that it runs in, mounted for it alone and activated; what it writes there is forgotten. None: it has
    /// only the programs of the machine.
    pub environment: Option<&'a Environment>,
    /// A directory of its own, in one that holds nothing else. What lies beside it the build cannot write to. Both go when it has
    /// ended; until then what is found in it may be anything, and is neither followed nor written to.
    pub room: &'a Path,
    /// Directories that it may write to.
    pub writable: Vec<PathBuf>,
    /// Directories in which it seems to write: what it writes there is forgotten.
    pub forgotten: Vec<PathBuf>,
}

/// uv's `command`, which runs what sources say, confined. What uv caches meanwhile nobody else sees: those sources could have
/// written it.
pub(crate) fn confined(
    uv: &Uv,
    sandbox: &dyn BuildSandbox,
    environment: Option<&Environment>,
    mut command: Command,
    room: &Path,
    writable: Vec<PathBuf>,
) -> Command {
    let cache = uv.cache_directory();
    command.env("UV_CACHE_DIR", cache.clone().unwrap_or_else(|| room.join("uv-cache")));
    // From one file system to another nothing can be linked.
    command.env("UV_LINK_MODE", "copy");
    let confines = Confines {
        environment,
        room,
        writable,
        forgotten: cache.into_iter().collect(),
    };
    sandbox.enter(&confines, &command)
}

/// What it takes to build from source.
#[derive(Clone, Copy)]
pub struct SourceBuilder<'a> {
    /// What builds.
    pub uv: &'a Uv,
    /// Where it runs.
    pub sandbox: &'a dyn BuildSandbox,
}

/// Why sources did not become a wheel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing may be built.
    #[error(
        "{source_of} has to be built from source ({from}){}, which is switched off; allow it, or ask for a version that has a \
         wheel, or for the conda package",
        and_others(*others)
    )]
    Refused {
        /// The distribution.
        source_of: String,
        /// What would be built.
        from: String,
        /// How many more there are.
        others: usize,
    },
    /// Nobody can run the environment here.
    #[error(
        "{source_of} has to be built from source ({from}), and that is done only on the platform that it is for, {subdir}: \
         build it there, or ask for a version that has a wheel"
    )]
    OtherPlatform {
        /// The distribution.
        source_of: String,
        /// What would be built.
        from: String,
        /// The platform of the environment.
        subdir: String,
    },
    /// There is no Python to build with.
    #[error(
        "{source_of} has to be built from source, and the environment has no Python: add `python` to its dependencies"
    )]
    MissingPython {
        /// The distribution.
        source_of: String,
    },
    /// The sources cannot be read.
    #[error("{from} cannot be read: bring it there, or lock again")]
    Unreadable {
        /// What would be built.
        from: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The build failed.
    #[error("{source_of} cannot be built from {from}\n{explanation}")]
    Failed {
        /// The distribution.
        source_of: String,
        /// What was built.
        from: String,
        /// The end of what was said.
        explanation: String,
        /// Where all of it is kept.
        log: PathBuf,
        /// What may help, in this situation.
        help: Vec<String>,
    },
    /// What was built is no wheel.
    #[error("{source_of} was built from {from}, but not into a wheel: {reason}; tell its maintainers")]
    NoWheel {
        /// The distribution.
        source_of: String,
        /// What was built.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
    /// uv cannot be run.
    #[error(transparent)]
    Uv(UvError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

impl SourceError {
    /// Some of `sources` would have to be built, and may not be.
    ///
    /// # Errors
    /// There are any.
    pub fn refuse(sources: &[LockedSource]) -> Result<(), Self> {
        match sources {
            [] => Ok(()),
            [source, others @ ..] => Err(Self::Refused {
                source_of: source.to_string(),
                from: source.describe(),
                others: others.len(),
            }),
        }
    }
}

/// What names the wheel of a source that a certain Python builds.
///
/// # Errors
/// The sources cannot be read.
pub(crate) fn question(source: &LockedSource, python: &Sha256) -> Result<String, SourceError> {
    let identity = source.identity().map_err(|error| SourceError::Unreadable {
        from: source.describe(),
        source: error,
    })?;
    Ok(format!(
        "wheel 1\nname {}\npython sha256:{python}\n{identity}",
        source.name()
    ))
}

/// The wheel that was built, as one of a lock.
///
/// # Errors
/// What was built is called otherwise than wheels are.
pub(crate) fn locked(source: &LockedSource, store: &Store, built: &BuiltWheel) -> Result<LockedWheel, SourceError> {
    let path = built.path(store).display().to_string();
    let wheel = LockedWheel::new(&path).map_err(|error| no_wheel(source, &error))?;
    if wheel.name() != source.name() {
        return Err(no_wheel(source, &format!("it is one of {}", wheel.name())));
    }
    Ok(wheel
        .with_sha256(*built.sha256.as_bytes())
        .with_size_bytes(built.size_bytes)
        .with_requirements(
            source.requires_dist().to_vec(),
            source.requires_python().map(str::to_owned),
        )
        .with_requested(source.is_requested())
        .with_direct_url(source.direct_url()))
}

impl SourceBuilder<'_> {
    /// Builds a source in `environment` and keeps the wheel as the answer to `question`.
    ///
    /// # Errors
    /// The build fails; then its log is kept.
    pub(crate) fn build(
        &self,
        store: &Store,
        workspace: &Workspace,
        environment: &Environment,
        source: &LockedSource,
        question: &str,
    ) -> Result<BuiltWheel, SourceError> {
        let place = tempfile::Builder::new()
            .prefix("build-")
            .tempdir_in(workspace.path())
            .map_err(|error| no_wheel(source, &error))?;
        let room = place.path().join("room");
        let prefix = room.join("prefix");
        fs::create_dir_all(&prefix).map_err(|error| no_wheel(source, &error))?;
        let mut command = self.uv.command(&room);
        command
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_S)
            .args(["pip", "install", "--no-deps", "--python", "python"])
            // Whether something must be built anew is decided here, by all of its sources.
            .args(["--refresh-package", source.name(), "--prefix"])
            .arg(&prefix);
        match source.place() {
            SourcePlace::Directory {
                path,
                is_editable: true,
            } => command.arg("--editable").arg(path),
            _ => command.arg(source.requirement()),
        };
        let mut writable = Vec::new();
        if let SourcePlace::Directory { path, .. } = source.place() {
            // Backends write beside the sources, and the modules of an editable project are built there.
            writable.push(path.clone());
        }
        let mut command = confined(self.uv, self.sandbox, Some(environment), command, &room, writable);
        if let Err(error) = self.uv.run(&mut command) {
            return Err(self.explain(store, workspace, source, error));
        }
        let wheel = repack(&prefix, place.path()).map_err(|error| no_wheel(source, &error))?;
        let file_name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(built::keep(store, workspace, question, &wheel, &file_name)?)
    }

    fn explain(&self, store: &Store, workspace: &Workspace, source: &LockedSource, error: UvError) -> SourceError {
        let log = match error {
            UvError::Failed { explanation } => explanation,
            other => return SourceError::Uv(other),
        };
        let path = match built::keep_log(store, workspace, source.name(), &log) {
            Ok(path) => path,
            Err(error) => return error.into(),
        };
        let lines: Vec<&str> = log.lines().collect();
        let (shown, left_out) = match lines.len().checked_sub(SHOWN_LINES) {
            // The first line says what failed, the last ones why.
            Some(more) if more > 0 => (&lines[more..], format!("{}\n... {more} lines ...\n", lines[0])),
            _ => (&lines[..], String::new()),
        };
        SourceError::Failed {
            source_of: source.to_string(),
            from: source.describe(),
            explanation: format!("{left_out}{}", shown.join("\n")),
            help: help(&log, self.uv.is_offline()),
            log: path,
        }
    }
}

/// What may help against frequent reasons.
fn help(log: &str, is_offline: bool) -> Vec<String> {
    let says = |words: &[&str]| words.iter().any(|word| log.contains(word));
    let mut help = Vec::new();
    if says(&["Git executable not found"]) {
        help.push("install git: this package comes from a repository".to_owned());
    }
    let compilers = [
        "gcc", "g++", "cc", "c++", "clang", "gfortran", "rustc", "cargo", "cmake",
    ];
    let is_missing = |program: &&&str| {
        says(&[
            &format!("'{program}': No such file"),
            &format!("command '{program}' failed: No such file"),
            &format!("{program}: command not found"),
            &format!("{program}: not found"),
        ])
    };
    if let Some(program) = compilers.iter().find(is_missing) {
        help.push(format!(
            "the build needs {program}: add a compiler to the environment's dependencies (conda: compilers, rust, cmake), or \
             install one on this machine"
        ));
    }
    if is_offline || says(&["network was disabled"]) {
        help.push("offline, only what was fetched earlier can be built; run once without --offline".to_owned());
    }
    help
}

fn no_wheel(source: &LockedSource, reason: &dyn std::fmt::Display) -> SourceError {
    SourceError::NoWheel {
        source_of: source.to_string(),
        from: source.describe(),
        reason: reason.to_string(),
    }
}

fn and_others(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!(", and {count} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_reasons_have_an_answer() {
        let about = |log: &str| help(log, false).join("\n");
        assert!(about("error: [Errno 2] No such file or directory: 'gcc'").is_empty());
        assert!(about("error: command 'gcc' failed: No such file or directory").contains("gcc"));
        assert!(about("sh: 1: cmake: not found").contains("cmake"));
        assert!(about("cause: Git executable not found. Ensure").contains("install git"));
        assert_eq!(about("SyntaxError"), "");
        assert!(help("x", true)[0].contains("--offline"));
    }

    #[test]
    fn what_may_not_be_built_is_named() {
        let place = SourcePlace::of_directory("/p".as_ref(), "/".as_ref(), false);
        let source = LockedSource::new("x", None, place);
        assert!(SourceError::refuse(&[]).is_ok());
        let message = SourceError::refuse(&[source.clone(), source]).unwrap_err().to_string();
        assert!(
            message.contains("x has") && message.contains("project in /p") && message.contains("1 more"),
            "{message}"
        );
    }
}
