//! From requirements to exact wheels, for one environment.
//!
//! uv searches; what conda packages provide is fixed for it by stub wheels ([`provided`]), so that a contradiction between
//! the two worlds is explained and not discovered when something is imported. Which of a version's wheels is taken is decided
//! here, by its tags. Knows nothing of how wheels are fetched or of lock files that people write.

mod explain;
mod indexes;
mod provided;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use envfs_store::Store;
use envfs_store::environment::Environment;
use envfs_store::view::View;

use crate::builder::{self, BuildSandbox};
use crate::package::LockedPackage;
use crate::pylock::{Choice, Pylock, PylockError};
use crate::pypi::LockedWheel;
use crate::python::PythonTarget;
use crate::requirements::{Requirement, RequirementError, Requirements};
use crate::solve::ExcludeNewer;
use crate::source::{Distribution, Distributions};
use crate::uv::{Uv, UvError};
use indexes::Indexes;
use provided::Provided;

/// What is to be resolved, and against what.
#[derive(Clone, Copy)]
pub struct WheelRequest<'a> {
    /// What is asked for.
    pub requirements: &'a Requirements,
    /// The Python that will use it.
    pub target: &'a PythonTarget,
    /// The conda packages of the environment. What they provide stays as it is.
    pub packages: &'a [LockedPackage],
    /// A base: its packages and wheels are part of the environment exactly as they are.
    pub base: Option<InheritedBase<'a>>,
    /// Wheels of an older lock: their versions are kept where nothing forbids it.
    pub preferred: &'a [LockedWheel],
    /// Leaves out what came later.
    pub exclude_newer: Option<ExcludeNewer>,
    /// Takes only what is asked for, and not what it needs: for requirements that are a lock already.
    pub is_complete: bool,
    /// What may be built to find out what sources need.
    pub builds: Builds<'a>,
    /// A store that may hold the conda packages: there they say themselves what they provide, otherwise their records do.
    pub store: Option<&'a Store>,
}

/// The environment that another inherits, as packages from PyPI see it.
#[derive(Clone, Copy)]
pub struct InheritedBase<'a> {
    /// What is in it, also what somebody installed there by hand.
    pub view: &'a View,
    /// Its conda packages.
    pub packages: &'a [LockedPackage],
    /// Its wheels.
    pub wheels: &'a [LockedWheel],
}

/// What may be built while resolving: sources often say only then what they need.
#[derive(Clone, Copy)]
pub enum Builds<'a> {
    /// Nothing: building is switched off.
    No,
    /// Nothing so far: wheels are looked for first. Where building would help, [`WheelsError::is_for_want_of_builds`].
    NotYet,
    /// By any Python that uv finds, for an environment that cannot run here.
    Anywhere(&'a dyn BuildSandbox),
    /// By this Python of the machine: one like that of the environment.
    By(&'a dyn BuildSandbox, &'a Path),
    /// By the Python of this environment, which has the conda packages.
    In(&'a dyn BuildSandbox, &'a Environment),
}

/// Resolves a request: wheels and sources by name, the wheels of a base among them.
///
/// # Errors
/// Something would have to be built and may not be, nothing satisfies the request (then the error explains why), no wheel fits
/// the platform, a digest is not the one that the requirements allow, or an index cannot be reached.
pub fn resolve_wheels(uv: &Uv, request: &WheelRequest<'_>) -> Result<Distributions, WheelsError> {
    request.requirements.check(true)?;
    let pinned = request.base.map_or(&[][..], |base| base.wheels);
    if request.requirements.is_empty() {
        return Ok(Distributions {
            wheels: pinned.to_vec(),
            sources: Vec::new(),
        });
    }
    if matches!(request.builds, Builds::No | Builds::NotYet) && request.requirements.need_builds() {
        request.requirements.check(false)?;
        return Err(WheelsError::MustBuild);
    }
    let provided = provided::all(request.packages, request.base, request.store)?;
    let directory = tempfile::tempdir().map_err(|source| WheelsError::Io {
        path: std::env::temp_dir(),
        source,
    })?;
    let indexes = Indexes::of(&request.requirements.sources, uv)?;
    let room = directory.path().join("room");
    fs::create_dir(&room).map_err(|source| WheelsError::Io {
        path: room.clone(),
        source,
    })?;
    let text = compile(uv, request, &provided, &indexes, &room)?;
    let pylock = Pylock::parse(&text, &room.join(OUTPUT))?;

    let mut chosen: Vec<_> = pinned.iter().cloned().map(Distribution::Wheel).collect();
    for package in pylock.packages() {
        if provided.iter().any(|provided| provided.name == package.name()) {
            continue;
        }
        let asked: Vec<_> = asked_for(request.requirements, package.name()).collect();
        let allowed: Vec<[u8; 32]> = asked
            .iter()
            .flat_map(|requirement| requirement.sha256.clone())
            .collect();
        let choice = Choice {
            allowed: &allowed,
            is_built: request.requirements.is_built(package.name()),
        };
        chosen.push(indexes.authorized(package.choose(request.target, &choice)?));
    }
    Ok(Distributions::sorted(chosen))
}

/// Why there are no wheels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WheelsError {
    /// A requirement cannot be met by anybody.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// `--no-binary` asks for what may not be done.
    #[error("`--no-binary` asks for a build from source, and that is switched off: allow it, or take the option out")]
    MustBuild,
    /// The address of an index names a variable that nobody has set.
    #[error(
        "the address of a package index names the variable {name}, which is not set: set it, or write what it stands for"
    )]
    Unset {
        /// The variable.
        name: String,
    },
    /// uv cannot be run.
    #[error(transparent)]
    Uv(UvError),
    /// uv found nothing.
    #[error("{summary}\n{explanation}")]
    Failed {
        /// What happened, in one line.
        summary: &'static str,
        /// uv's own words, over several lines.
        explanation: String,
        /// What may help, in this situation.
        help: Vec<String>,
        /// Whether it was only looked for wheels, and some version has none.
        is_for_want_of_builds: bool,
    },
    /// What was found cannot be used.
    #[error(transparent)]
    Pylock(#[from] PylockError),
    /// A temporary file cannot be written or read.
    #[error("cannot write or read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

impl WheelsError {
    /// Whether it may be otherwise where something is built from source.
    #[must_use]
    pub fn is_for_want_of_builds(&self) -> bool {
        match self {
            Self::Failed {
                is_for_want_of_builds, ..
            } => *is_for_want_of_builds,
            Self::Requirement(RequirementError::MustBeBuilt { .. }) | Self::MustBuild => true,
            _ => false,
        }
    }

    const UNREACHABLE: &str = "a package index cannot be reached";

    /// Whether an index could not be asked: an older answer may do.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Failed { summary, explanation, .. }
            if *summary == Self::UNREACHABLE || explanation.contains("network was disabled"))
    }
}

const INPUT: &str = "requirements.in";
const CONSTRAINTS: &str = "constraints.txt";
const STUBS: &str = "provided";
const OUTPUT: &str = "pylock.toml";

/// Lets uv resolve in an empty directory and returns the `pylock.toml` that it writes.
fn compile(
    uv: &Uv,
    request: &WheelRequest<'_>,
    provided: &[Provided],
    indexes: &Indexes,
    directory: &Path,
) -> Result<String, WheelsError> {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).map_err(|source| WheelsError::Io { path, source })
    };
    let lines = |requirements: &[Requirement]| {
        requirements.iter().fold(String::new(), |mut text, requirement| {
            let _ = writeln!(text, "{}", requirement.line());
            text
        })
    };
    let pins: String = provided.iter().map(Provided::constraint).collect();
    write(INPUT, &lines(&request.requirements.wanted))?;
    write(
        CONSTRAINTS,
        &format!("{}{pins}", lines(&request.requirements.constraints)),
    )?;
    if !request.preferred.is_empty() {
        write(OUTPUT, &preferences(request.preferred))?;
    }
    let stubs = directory.join(STUBS);
    provided::write_stubs(&stubs, provided).map_err(|source| WheelsError::Io { path: stubs, source })?;

    let mut command = uv.command(directory);
    command
        .args([
            "pip",
            "compile",
            INPUT,
            "--constraints",
            CONSTRAINTS,
            "--find-links",
            STUBS,
        ])
        .args(["--format", "pylock.toml", "--output-file", OUTPUT, "--no-header"])
        .arg("--generate-hashes");
    add_target(&mut command, request.target);
    add_sources(&mut command, request.requirements, indexes);
    if request.is_complete {
        command.arg("--no-deps");
    }
    if let Some(moment) = request.exclude_newer {
        command.args(["--exclude-newer", &moment.to_rfc3339()]);
    }
    let (sandbox, environment) = match request.builds {
        Builds::No | Builds::NotYet => {
            command.args(["--only-binary", ":all:"]);
            (None, None)
        }
        Builds::Anywhere(sandbox) => (Some(sandbox), None),
        Builds::By(sandbox, python) => {
            command.arg("--python").arg(python);
            (Some(sandbox), None)
        }
        Builds::In(sandbox, environment) => {
            command.args(["--python", "python"]);
            (Some(sandbox), Some(environment))
        }
    };
    if let Some(sandbox) = sandbox {
        let projects = request.requirements.projects();
        command = builder::confined(uv, sandbox, environment, command, directory, projects);
    }
    uv.run(&mut command)
        .map_err(|error| explain::explain(error, request, provided))?;
    let path = directory.join(OUTPUT);
    let is_file = || Ok(fs::symlink_metadata(&path)?.is_file());
    let text = is_file().and_then(|is_file| match is_file {
        true => fs::read_to_string(&path),
        // What ran there may have put anything in its place.
        false => Err(io::Error::other("it is no file")),
    });
    text.map_err(|source| WheelsError::Io { path, source })
}

fn add_target(command: &mut Command, target: &PythonTarget) {
    command.args(["--python-version", &target.version()]);
    if let Some(platform) = target.uv_platform() {
        command.args(["--python-platform", &platform]);
    }
    if let Some(version) = target.macos_version() {
        command.env("MACOSX_DEPLOYMENT_TARGET", version);
    }
}

fn add_sources(command: &mut Command, requirements: &Requirements, indexes: &Indexes) {
    let sources = &requirements.sources;
    indexes.add_to(command);
    if !sources.extra_index_urls.is_empty() && !sources.is_first_index_only {
        command.args(["--index-strategy", "unsafe-best-match"]);
    }
    if sources.no_index {
        command.arg("--no-index");
    }
    for name in &sources.no_binary {
        command.args(["--no-binary", name]);
    }
    if sources.allow_prereleases {
        command.args(["--prerelease", "allow"]);
    }
}

/// What uv takes for its own earlier output: versions that it keeps where it can.
fn preferences(wheels: &[LockedWheel]) -> String {
    let mut text = "lock-version = \"1.0\"\ncreated-by = \"envfs\"\n".to_owned();
    for wheel in wheels {
        let _ = write!(
            text,
            "[[packages]]\nname = \"{}\"\nversion = \"{}\"\n",
            wheel.name(),
            wheel.version()
        );
    }
    text
}

fn asked_for<'a>(requirements: &'a Requirements, name: &'a str) -> impl Iterator<Item = &'a Requirement> {
    let all = requirements.wanted.iter().chain(&requirements.constraints);
    all.filter(move |requirement| requirement.name().as_deref() == Some(name))
}
