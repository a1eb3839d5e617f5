//! `envfs lock`: solve once, write what was found.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use envfs_solver::{DEFAULT_ENVIRONMENT, Lock, LockedPackage, Subdir};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::solving::{SpecArgs, current_subdir};

/// Solve a specification and write a lock file (pixi.lock, version 7)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs lock -f environment.yml\n  \
    envfs lock -c conda-forge 'python=3.12' 'numpy>=2' -o numpy.lock\n  \
    envfs lock -f environment.yml --platform linux-64 --platform osx-arm64\n  \
    envfs lock --base 3fb1c2d4 tqdm")]
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
    name: String,
    version: String,
    build: String,
    url: String,
}

pub(crate) fn execute(context: &Context, args: &LockArgs) -> Result<ExitCode, CliError> {
    if args.match_specs.is_empty() && args.spec.file.is_none() {
        return Err(CliError::usage(
            "nothing to lock: name an environment.yml with `-f`, or give MatchSpecs",
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
        let preferred = older
            .as_ref()
            .and_then(|lock| lock.packages(DEFAULT_ENVIRONMENT, subdir).ok());
        let preferred = preferred.unwrap_or_default();
        let solution = context.block_on(args.spec.solve(context, &network, &wanted, subdir, &preferred))??;
        channels = solution.channels().to_vec();
        solutions.push((subdir, solution.into_packages()));
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
            platforms: solutions
                .iter()
                .map(|(subdir, packages)| describe(*subdir, packages))
                .collect(),
        })?;
    } else {
        for (subdir, packages) in &solutions {
            let count = output::count(packages.len() as u64, "package");
            context.note(&format!("{}: {count} for {subdir}", args.output.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl LockArgs {
    fn is_to_stdout(&self) -> bool {
        self.output.as_os_str() == "-"
    }

    /// The lock that is about to be replaced: what it holds is kept where nothing forbids it.
    fn older_lock(&self) -> Option<Lock> {
        (!self.upgrade && !self.is_to_stdout())
            .then(|| Lock::read(&self.output).ok())
            .flatten()
    }
}

fn describe(subdir: Subdir, packages: &[LockedPackage]) -> Platform {
    Platform {
        platform: subdir.to_string(),
        packages: packages
            .iter()
            .map(|package| Package {
                name: package.name().to_owned(),
                version: package.version(),
                build: package.build().to_owned(),
                url: package.redacted_url(),
            })
            .collect(),
    }
}
