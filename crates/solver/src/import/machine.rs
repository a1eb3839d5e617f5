//! A Python of the machine becomes an environment of its own: what packages from PyPI can be put on where no channel has a Python.
//!
//! It lies there as it does below an imported venv, in a directory of its own, and the environment is a venv of it in which
//! nothing is installed. Neither its name nor its files say where it came from: the same Python of two places is the same
//! environment. Candidates are asked what they are by running them; which there are is the caller's to say.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use envfs_store::Store;
use envfs_store::answers::{self, Answer};
use envfs_store::digest::Digest;
use envfs_store::environment::Environment;
use envfs_store::lease::Claim;

use super::ImportError;
use super::venv::VenvPython;
use crate::build::{self, BuildRequest, Built, Contents, Destination};
use crate::subdir::Subdir;

/// What a Python says of itself, in lines. A venv answers for the Python that it was made with, one without a global lock is
/// called otherwise, and a version that is no release has a letter in it.
const ASK: &str = "import sys, platform; print(sys.implementation.name + ('t' if 't' in sys.abiflags else ''), \
                   platform.python_version(), sys.base_prefix, sep='\\n')";

/// A CPython of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePython {
    program: PathBuf,
    version: String,
}

impl MachinePython {
    /// The first of `candidates` that is a CPython of `version`, of which the first numbers are enough: `3.11`. Without a version any
    /// Python 3 does. What cannot be run is none.
    pub fn find(candidates: impl IntoIterator<Item = PathBuf>, version: Option<&str>) -> Option<Self> {
        let mut found = candidates.into_iter().filter_map(|program| Self::of(&program));
        found.find(|python| is_version(&python.version, version.unwrap_or("3")))
    }

    /// What the program is: a released CPython with its global lock. None where it is something else.
    #[must_use]
    pub fn of(program: &Path) -> Option<Self> {
        let output = Command::new(program)
            .args(["-I", "-S", "-B", "-c", ASK])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut lines = text.lines();
        let (implementation, version, base) = (lines.next()?, lines.next()?, lines.next()?);
        let mut numbers = version.split('.');
        let (major, minor) = (numbers.next()?, numbers.next()?);
        let is_release = version
            .split('.')
            .all(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        (implementation == "cpython" && is_release && version.split('.').count() == 3).then(|| Self {
            program: Path::new(base).join(format!("bin/python{major}.{minor}")),
            version: version.to_owned(),
        })
    }

    /// The program, where it is installed.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its version: three numbers.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The environment that it becomes, not collected as long as the claim lives. It is taken into the store once, and found there
    /// until its program changes.
    ///
    /// # Errors
    /// When its files cannot be read, its modules not be compiled (if `bytecode` is wanted), or the store not be written.
    pub fn environment(&self, store: &Store, bytecode: bool) -> Result<(Environment, Option<Arc<Claim>>), ImportError> {
        let question = self.question(bytecode)?;
        if let Some(known) = answers::find(store, &question)
            && let Some(built) = build::claimed(store, &known.signature)?
            && store.tree(&built.environment.tree).is_ok()
        {
            return Ok((built.environment, built.kept));
        }
        let built = self.take(store, bytecode)?;
        if let Err(error) = Answer::new(built.environment.signature, None, None).keep(store, &question) {
            tracing::debug!("this Python will be read again the next time: {error}");
        }
        Ok((built.environment, built.kept))
    }

    fn take(&self, store: &Store, bytecode: bool) -> Result<Built, ImportError> {
        let destination = Destination::in_store(store)?;
        let subdir = Subdir::current().unwrap_or(Subdir::NOARCH);
        let python = VenvPython::of_program(&self.program, &self.version)?;
        let (package, layer, written) = python.take(subdir, store, &destination.workspace)?;
        let mut contents = Contents::default();
        contents.set_packages(vec![(package, layer)])?;
        let request = BuildRequest {
            packages: Vec::new(),
            wheels: Vec::new(),
            sources: Vec::new(),
            subdir,
            variables: BTreeMap::new(),
            bytecode,
            link_scripts: None,
            base: None,
        };
        Ok(build::finish(&destination, &request, &contents, 1, written)?)
    }

    /// Where it is and what its program is like: as long as that stays, so does the environment.
    fn question(&self, bytecode: bool) -> Result<Digest, ImportError> {
        let metadata = std::fs::metadata(&self.program).map_err(|source| ImportError::Io {
            path: self.program.clone(),
            source,
        })?;
        let text = format!(
            "Python of the machine 1\n{}\n{}\n{} {} {}\n{bytecode}\n",
            self.program.display(),
            self.version,
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        Ok(Digest::of(text.as_bytes()))
    }
}

/// Whether a version starts with the numbers of another, which may end in `.*`.
fn is_version(version: &str, wanted: &str) -> bool {
    let wanted = wanted.strip_suffix(".*").unwrap_or(wanted);
    version
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_given_by_its_first_numbers() {
        for wanted in ["3", "3.11", "3.11.*", "3.11.2"] {
            assert!(is_version("3.11.2", wanted), "{wanted}");
        }
        for wanted in ["3.1", "3.12", "3.11.20", ">=3.11", "3.11.2.1"] {
            assert!(!is_version("3.11.2", wanted), "{wanted}");
        }
    }

    #[test]
    fn what_is_no_python_is_passed_over() {
        let candidates = ["/nowhere/python3", "/bin/true", "/bin/echo"].map(PathBuf::from);
        assert_eq!(MachinePython::find(candidates, None), None);
    }
}
