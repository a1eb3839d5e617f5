//! `envfs lock`: solve once, write what was found.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use envfs_solver::{DEFAULT_ENVIRONMENT, Lock, LockedContents, Project, Subdir, complete_wheels};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::resolve;
use crate::solving::{SpecArgs, current_subdir, empty};
use crate::variants;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs lock                                     the project of this directory, or its environment.yml\n  \
    envfs lock -f environment.yml\n  \
    envfs lock -c conda-forge 'python=3.12' 'numpy>=2' -o numpy.lock\n  \
    envfs lock -f environment.yml --platform linux-64 --platform osx-arm64\n  \
    envfs lock -f pyproject.toml --extra gui --group test\n  \
    envfs lock --python 3.12 --pypi 'httpx>=0.27'\n  \
    envfs lock --base 3fb1c2d4 tqdm\n  \
    envfs lock -f envfs.toml                       all variants of a project, agreeing on what they share\n  \
    envfs lock --check                             does the lock still say what the project asks for?\n\n\
    `--check` solves nothing and connects to nothing; it ends with 1 where they disagree.")]
pub(crate) struct LockArgs {
    /// What is wanted, as MatchSpecs
    #[arg(value_name = "MATCHSPEC")]
    match_specs: Vec<String>,
    #[command(flatten)]
    spec: SpecArgs,
    /// Lock for this platform; may be repeated [default: those of the file, or this machine's]
    #[arg(long = "platform", value_name = "SUBDIR")]
    platforms: Vec<Subdir>,
    /// Where to write the lock; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "pixi.lock")]
    output: PathBuf,
    /// Take the newest of everything, and do not keep to what an older lock file holds
    #[arg(long)]
    upgrade: bool,
    /// Lock every variant of the project: what is in `envfs.toml` or `[tool.envfs]`, pixi's environments, or the extras and groups
    #[arg(long)]
    variants: bool,
    /// Write nothing, and say whether the lock agrees with the file, or with the project in this directory
    #[arg(long, conflicts_with = "upgrade")]
    check: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    path: &'a Path,
    channels: &'a [String],
    platforms: Vec<Platform>,
}

#[derive(Serialize)]
struct Platform {
    platform: String,
    packages: Vec<Package>,
}

#[derive(Serialize)]
struct Package {
    kind: &'static str,
    name: String,
    version: String,
    build: String,
    url: String,
}

pub(crate) fn execute(context: &Context, args: &LockArgs) -> Result<ExitCode, CliError> {
    if args.check {
        return check(context, args);
    }
    let args = &args.of_this_directory();
    if let Some(project) = args.project()? {
        return lock_variants(context, args, &project);
    }
    if args.match_specs.is_empty() && args.spec.is_empty() {
        return Err(CliError::usage(
            "nothing to lock, and no project in this directory: name an environment.yml, a requirements file or a project with \
             `-f`, or give MatchSpecs",
        ));
    }
    let network = context.network()?;
    let wanted = args.spec.wanted(context, &args.match_specs)?;
    let subdirs = match (args.platforms.as_slice(), wanted.spec.platforms()) {
        ([], []) => vec![current_subdir()?],
        ([], named) | (named, _) => named.to_vec(),
    };
    let older = args.older_lock();
    let mut channels = Vec::new();
    let mut solutions = Vec::new();
    for subdir in subdirs {
        let older = older
            .as_ref()
            .and_then(|lock| resolve::contents_of(lock, None, subdir).ok());
        let preferred = older.unwrap_or_else(|| empty(subdir));
        let mut solved = context.block_on(args.spec.solve(context, &network, &wanted, subdir, &preferred))??;
        solved.contents.wheels = context.block_on(complete_wheels(&network, solved.contents.wheels))?;
        channels = solved.channels;
        solutions.push(solved.contents);
    }
    let lock = Lock::from_solutions(DEFAULT_ENVIRONMENT, &channels, &solutions)?;
    if args.is_to_stdout() {
        output::line(lock.render()?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    lock.write(&args.output)?;
    if context.json {
        context.print_json(&Written {
            path: &args.output,
            channels: &channels,
            platforms: solutions.iter().map(describe).collect(),
        })?;
    } else {
        for contents in &solutions {
            let count = output::count(contents.len() as u64, "package");
            context.note(&format!("{}: {count} for {}", args.output.display(), contents.subdir));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Locks all variants of a project.
fn lock_variants(context: &Context, args: &LockArgs, project: &Project) -> Result<ExitCode, CliError> {
    if !args.match_specs.is_empty() {
        return Err(CliError::usage(
            "MatchSpecs would belong to no variant: write them into the project",
        ));
    }
    let older = args.older_lock();
    let locked = variants::lock(context, project, &args.spec, &args.platforms, older.as_ref())?;
    if args.is_to_stdout() {
        output::line(locked.render()?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    locked.write(&args.output)?;
    let listed = variants::list(context, &locked, None)?;
    if context.json {
        context.print_json(&listed)?;
    } else {
        for variant in &listed {
            let count = output::count(variant.packages as u64, "package");
            context.note(&format!("{}: {}: {count}", args.output.display(), variant.name));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says whether lock and file agree.
fn check(context: &Context, args: &LockArgs) -> Result<ExitCode, CliError> {
    let found = match &args.spec.file {
        Some(file) => file.clone(),
        None => project_here()
            .ok_or_else(|| CliError::usage("there is no project in this directory: name its file with `-f`"))?,
    };
    let lock = Lock::read(&args.output)?;
    let spec = SpecArgs {
        file: Some(found.clone()),
        ..args.spec.clone()
    };
    let project = match args.variants || Project::is_explicit(&found) {
        true => Some(Project::read(&found)?),
        false => None,
    };
    let disagreements = variants::disagreements(context, &lock, project.as_ref(), &spec, &args.match_specs)?;
    if context.json {
        context.print_json(&disagreements)?;
    } else {
        for disagreement in &disagreements {
            output::line(&disagreement.to_string())?;
        }
    }
    if disagreements.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!(
        "{} does not say what {} asks for",
        args.output.display(),
        found.display()
    );
    Err(CliError::new(message).help(format!("lock again: envfs lock -f {}", found.display())))
}

/// The project of this directory.
fn project_here() -> Option<PathBuf> {
    let environment = || Some(PathBuf::from("environment.yml")).filter(|path| path.is_file());
    Project::find(Path::new(".")).or_else(environment)
}

impl LockArgs {
    /// Where nothing is named, the project of this directory is meant.
    fn of_this_directory(&self) -> Self {
        let mut args = self.clone();
        if args.match_specs.is_empty() && args.spec.is_empty() {
            args.spec.file = project_here();
        }
        args
    }

    /// The project, if all of its variants are to be locked.
    fn project(&self) -> Result<Option<Project>, CliError> {
        let Some(file) = &self.spec.file else {
            if self.variants {
                return Err(CliError::usage("--variants are those of a project: name it with `-f`"));
            }
            return Ok(None);
        };
        let has_parts = !(self.spec.extras.is_empty() && self.spec.groups.is_empty());
        let is_wanted = self.variants || (Project::is_explicit(file) && !has_parts);
        Ok(is_wanted.then(|| Project::read(file)).transpose()?)
    }

    fn is_to_stdout(&self) -> bool {
        output::is_stdout(&self.output)
    }

    /// The lock that is about to be replaced: what it holds is kept where nothing forbids it.
    fn older_lock(&self) -> Option<Lock> {
        // A pipe would be waited for.
        (!self.upgrade && self.output.is_file())
            .then(|| Lock::read(&self.output).ok())
            .flatten()
    }
}

fn describe(contents: &LockedContents) -> Platform {
    let packages = contents.packages.iter().map(|package| Package {
        kind: "conda",
        name: package.name().to_owned(),
        version: package.version(),
        build: package.build().to_owned(),
        url: package.redacted_url(),
    });
    let wheels = contents.wheels.iter().map(|wheel| Package {
        kind: "pypi",
        name: wheel.name().to_owned(),
        version: wheel.version().to_owned(),
        build: wheel.file_name().tag(),
        url: wheel.redacted_url(),
    });
    let sources = contents.sources.iter().map(|source| Package {
        kind: "pypi",
        name: source.name().to_owned(),
        version: source.version().unwrap_or_default().to_owned(),
        build: "source".to_owned(),
        url: source.place().redacted_url(),
    });
    Platform {
        platform: contents.subdir.to_string(),
        packages: packages.chain(wheels).chain(sources).collect(),
    }
}
