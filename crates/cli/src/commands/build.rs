//! `envfs build`: bring everything into the store and say what it is called.

use std::process::ExitCode;
use std::time::Instant;

use envfs_fuse::backend::{self, BackendError};
use envfs_solver::{Built, ScriptOutput};
use envfs_store::Store;
use envfs_store::digest::Digest;
use envfs_store::environment::Environment;
use envfs_store::lease::LeaseKind;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::recipe::Recipe;
use crate::serving;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs build pixi.lock\n  \
    envfs build -f environment.yml\n  \
    envfs build -c conda-forge 'python=3.12' numpy\n  \
    envfs build --python 3.12 --pypi 'httpx>=0.27'\n  \
    envfs build uv.lock --group dev\n  \
    envfs build --base 3fb1c2d4 tqdm\n\n\
    Building twice is cheap: what is in the store is used, and an environment that is there is only named.")]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    recipe: Recipe,
    /// Lay out now what the first `envfs run` would have to, as copies in the store's cache
    #[arg(long)]
    prepare: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    signature: Digest,
    tree: Digest,
    base: Option<Digest>,
    reused: bool,
    packages: usize,
    new_packages: usize,
    new_objects: u64,
    new_bytes: u64,
    new_inodes: u64,
    clashes: usize,
    link_scripts: &'a [ScriptOutput],
    seconds: f64,
    #[serde(flatten)]
    origin: Option<&'a Origin>,
}

/// Where the lock of an environment comes from, for who did not ask for a new one.
#[derive(Serialize)]
pub(crate) struct Origin {
    /// Whether it was found without solving.
    pub(crate) known: bool,
    /// When it was solved.
    pub(crate) solved_unix_s: Option<u64>,
    /// Why an answer was taken that is older than allowed, if one was.
    pub(crate) stale: Option<String>,
}

pub(crate) fn execute(context: &Context, args: &BuildArgs) -> Result<ExitCode, CliError> {
    let started = Instant::now();
    let built = args.recipe.open(context)?.build(context)?;
    if args.prepare {
        prepare(&context.store()?, &built.environment)?;
    }
    report(context, &built, started.elapsed().as_secs_f64(), None)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn prepare(store: &Store, environment: &Environment) -> Result<(), CliError> {
    let place = envfs_fuse::private_prefix(store, &environment.signature);
    let service = serving::service(store, environment, &place, LeaseKind::Run)?;
    Ok(backend::prepare(&service).map_err(BackendError::from)?)
}

fn report_scripts(context: &Context, built: &Built) {
    for output in &built.script_outputs {
        context.note(&format!("{}:\n  {}", output.script, output.text.replace('\n', "\n  ")));
    }
    for path in &built.bound {
        context.note(&format!(
            "note: a link script wrote {path}, which names the place of private runs and is right only there"
        ));
    }
    if !built.skipped_scripts.is_empty() {
        context.note(&format!(
            "note: link scripts are not run: {}",
            built.skipped_scripts.join(", ")
        ));
    }
}

/// Says what was built, and what it is called.
pub(crate) fn report(context: &Context, built: &Built, seconds: f64, origin: Option<&Origin>) -> Result<(), CliError> {
    let environment = &built.environment;
    let packages = environment.all_packages(&context.store()?)?.len();
    for clash in &built.clashes {
        tracing::info!("{}: that of {} hides that of {}", clash.path, clash.winner, clash.loser);
    }
    report_scripts(context, built);
    if context.json {
        return context.print_json(&Report {
            signature: environment.signature,
            tree: environment.tree,
            base: environment.base,
            reused: built.reused,
            packages,
            new_packages: built.new_packages,
            new_objects: built.written.objects,
            new_bytes: built.written.bytes,
            new_inodes: built.written.inodes,
            clashes: built.clashes.len(),
            link_scripts: &built.script_outputs,
            seconds,
            origin,
        });
    }
    let count = output::count(packages as u64, "package");
    context.note(&if built.reused {
        format!("{count}, built before")
    } else {
        format!(
            "{count}, {} new: {} in {} in {seconds:.2} s",
            built.new_packages,
            output::bytes(built.written.bytes),
            output::count(built.written.inodes, "inode"),
        )
    });
    output::line(&environment.signature.to_string())
}
