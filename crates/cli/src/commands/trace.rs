//! `envfs trace`: what the first runs of an environment opened, by which its next cold start is read ahead.

use std::process::ExitCode;

use clap::Subcommand;
use envfs_store::trace::{self, Trace, TracedFile};
use envfs_store::tree::Tree;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::{output, resolve};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs trace show 3fb1c2d4           the files that its first runs opened, in order\n  \
    envfs trace show 3fb1c2d4 --json\n  \
    envfs trace reset 3fb1c2d4          forget them: the next runs are recorded\n\n\
    The first three runs of an environment are recorded. A mount whose files are not in memory reads them ahead of the \
    program, in the background. Nothing else depends on it.")]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// List the files that the first runs opened, in order
    Show {
        /// A signature, a lock file or an environment.yml
        #[arg(value_name = "ENV")]
        environment: String,
    },
    /// Forget what was recorded
    Reset {
        /// A signature, a lock file or an environment.yml
        #[arg(value_name = "ENV")]
        environment: String,
    },
}

#[derive(Serialize)]
struct Shown {
    signature: String,
    /// How many runs are recorded.
    runs: u32,
    /// Whether further ones will be.
    recording: bool,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: String,
    size_bytes: u64,
    /// How much of it is read ahead.
    read_bytes: u64,
    /// In how many runs it was opened.
    runs: u32,
}

pub(crate) fn execute(context: &Context, args: &TraceArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        TraceCommand::Show { environment } => show(context, environment)?,
        TraceCommand::Reset { environment } => reset(context, environment)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(context: &Context, environment: &str) -> Result<(), CliError> {
    let environment = resolve::environment(context, environment)?;
    let store = context.store()?;
    let trace = Trace::load(&store, &environment.tree).unwrap_or_default();
    let tree = store.tree(&environment.tree)?;
    let files: Vec<File> = trace
        .files
        .iter()
        .map(|traced| file(&tree, traced))
        .collect::<Result<_, _>>()?;
    let recording = trace.wants_more();
    if context.json {
        return context.print_json(&Shown {
            signature: environment.signature.to_string(),
            runs: trace.runs,
            recording,
            files,
        });
    }
    let cells: Vec<_> = files
        .iter()
        .map(|file| vec![file.runs.to_string(), output::bytes(file.read_bytes), file.path.clone()])
        .collect();
    output::table(&["RUNS", "READ", "PATH"], &[0, 1], &cells)?;
    let total = files.iter().map(|file| file.read_bytes).sum();
    context.note(&format!(
        "{} of {} in {}{}",
        output::count(files.len() as u64, "file"),
        output::bytes(total),
        output::count(trace.runs.into(), "run"),
        if recording { "; the next is recorded" } else { "" }
    ));
    Ok(())
}

fn file(tree: &Tree, traced: &TracedFile) -> Result<File, CliError> {
    let node = tree.node(traced.node)?;
    let size_bytes = node.stored_bytes();
    let pieces: u64 = traced
        .pieces
        .iter()
        .map(|piece| piece.end.saturating_sub(piece.start))
        .sum();
    Ok(File {
        path: String::from_utf8_lossy(&tree.path(node)?).into_owned(),
        size_bytes,
        read_bytes: if traced.pieces.is_empty() { size_bytes } else { pieces },
        runs: traced.runs,
    })
}

fn reset(context: &Context, environment: &str) -> Result<(), CliError> {
    let environment = resolve::environment(context, environment)?;
    let was_there = trace::reset(&context.store()?, &environment.tree)?;
    if context.json {
        return context.print_json(&serde_json::json!({ "forgotten": was_there }));
    }
    context.note(if was_there {
        "forgotten: the next runs are recorded"
    } else {
        "nothing was recorded"
    });
    Ok(())
}
