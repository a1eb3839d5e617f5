//! `envfs export`: what an environment holds, for other tools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use envfs_solver::{
    Asked, DEFAULT_ENVIRONMENT, Export, ExportFormat, Lock, LockedContents, Subdir, export, installed_distributions,
    is_built_here,
};
use envfs_store::environment::Environment;
use envfs_store::view::View;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::resolve::{self, Reference};
use crate::solving::{SpecArgs, current_subdir, empty, environment_contents};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs export 3fb1c2d4 --format environment --no-builds\n  \
    envfs export pixi.lock --format conda-lock -o conda-lock.yml\n  \
    envfs export environment.yml --format requirements")]
pub(crate) struct ExportArgs {
    /// A signature, a name, a lock file or a spec file
    #[arg(value_name = "ENV")]
    environment: String,
    /// environment, explicit, conda-lock, pixi, pylock or requirements
    #[arg(long, value_name = "FORMAT", value_parser = clap::value_parser!(ExportFormat))]
    format: ExportFormat,
    /// Leave out build strings (environment)
    #[arg(long)]
    no_builds: bool,
    /// Only what was asked for, as far as that is known: what nothing else needs, where it is not (environment, requirements)
    #[arg(long)]
    from_history: bool,
    /// The platform [default: this machine's; of a lock file, all that it holds where the format can]
    #[arg(long, value_name = "SUBDIR")]
    platform: Option<Subdir>,
    /// Which environment of a lock file that holds several
    #[arg(long = "environment", id = "environment-name", value_name = "NAME")]
    name: Option<String>,
    /// Where to write it; `-` is standard output, the default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What was found behind the name.
#[derive(Default)]
struct Found {
    name: Option<String>,
    channels: Vec<String>,
    contents: Vec<LockedContents>,
    variables: BTreeMap<String, String>,
    asked: Option<Asked>,
}

pub(crate) fn execute(context: &Context, args: &ExportArgs) -> Result<ExitCode, CliError> {
    let found = match Reference::parse(&args.environment)? {
        Reference::Built(handle) => args.of_environment(context, &handle.environment(context)?)?,
        Reference::LockFile(path) => args.of_lock(&path)?,
        Reference::SpecFile(path) => args.of_spec(context, &path)?,
    };
    let asked = args.from_history.then(|| {
        let guess = || found.contents.first().map(Asked::guess);
        found.asked.clone().or_else(guess).unwrap_or_default()
    });
    let text = export(
        &Export {
            name: found.name.as_deref(),
            channels: &found.channels,
            contents: &found.contents,
            variables: &found.variables,
            no_builds: args.no_builds,
            asked,
        },
        args.format,
    )?;
    match &args.output {
        Some(path) if !output::is_stdout(path) => output::write_whole(path, text.as_bytes())?,
        _ => output::line(text.trim_end())?,
    }
    note_left_out(context, args.format, &found.contents);
    note_built_here(context, args.format, &found.contents);
    Ok(ExitCode::SUCCESS)
}

impl ExportArgs {
    fn subdir(&self) -> Result<Subdir, CliError> {
        self.platform.map_or_else(current_subdir, Ok)
    }

    fn of_environment(&self, context: &Context, environment: &Environment) -> Result<Found, CliError> {
        let subdir: Subdir = environment.subdir.parse()?;
        let store = context.store()?;
        let mut contents = environment_contents(&store, environment, subdir)?;
        let view = View::new(&store, Arc::new(store.tree(&environment.tree)?), Path::new("/"))?;
        let known = installed_distributions(&view, contents.wheels)?;
        (contents.wheels, contents.sources) = (known.wheels, known.sources);
        // Nothing in an environment says which channels it was solved with: those of its packages, in any order.
        let mut channels = Vec::new();
        for channel in contents.packages.iter().filter_map(|package| package.channel()) {
            if !channels.iter().any(|known| known == channel) {
                channels.push(channel.to_owned());
            }
        }
        Ok(Found {
            channels,
            contents: vec![contents],
            variables: environment.variables.clone(),
            ..Found::default()
        })
    }

    fn of_lock(&self, path: &Path) -> Result<Found, CliError> {
        let lock = Lock::read(path)?;
        let subdirs = match self.platform {
            None if self.format.holds_platforms() => lock.subdirs(DEFAULT_ENVIRONMENT)?,
            _ => vec![self.subdir()?],
        };
        let contents = subdirs
            .into_iter()
            .map(|subdir| resolve::contents_of(&lock, None, subdir));
        Ok(Found {
            channels: lock.channels(DEFAULT_ENVIRONMENT)?.to_vec(),
            contents: contents.collect::<Result<_, _>>()?,
            ..Found::default()
        })
    }

    fn of_spec(&self, context: &Context, path: &Path) -> Result<Found, CliError> {
        let spec_args = SpecArgs {
            file: Some(path.to_owned()),
            ..SpecArgs::default()
        };
        let subdir = self.subdir()?;
        let wanted = spec_args.wanted(context, &[])?;
        let network = context.network()?;
        let solved = context.block_on(spec_args.solve(context, &network, &wanted, subdir, &empty(subdir)))??;
        let match_specs = wanted.spec.match_specs(subdir);
        Ok(Found {
            name: wanted.spec.name().map(str::to_owned),
            channels: solved.channels,
            contents: vec![solved.contents],
            variables: wanted.spec.variables().clone(),
            asked: Some(Asked {
                match_specs: match_specs.into_iter().map(str::to_owned).collect(),
                requirements: wanted.spec.requirements().lines(),
            }),
        })
    }
}

/// Says which wheels nobody else has.
fn note_built_here(context: &Context, format: ExportFormat, contents: &[LockedContents]) {
    // The others name a version, of which everybody builds a wheel.
    if !matches!(
        format,
        ExportFormat::CondaLock | ExportFormat::Pixi | ExportFormat::Pylock
    ) {
        return;
    }
    for wheel in contents.iter().flat_map(|contents| &contents.wheels) {
        if is_built_here(wheel) {
            context.note(&format!(
                "note: {wheel} was built here of a source distribution, and the wheel that is named is in this store alone: export the \
                 lock that the environment was built from, which names the sources"
            ));
        }
    }
}

/// Says what the format has no place for.
fn note_left_out(context: &Context, format: ExportFormat, contents: &[LockedContents]) {
    let Some(first) = contents.first() else { return };
    let left_out = match format.left_out(first) {
        (0, 0) => return,
        (packages, 0) => format!("{} of conda", output::count(packages as u64, "package")),
        (_, wheels) => format!("{} from PyPI", output::count(wheels as u64, "package")),
    };
    context.note(&format!(
        "note: {left_out} left out: the format {format} has no place for them"
    ));
}
