//! `envfs store`: the store itself.

use std::process::ExitCode;

use clap::Subcommand;
use envfs_store::Usage;
use envfs_store::index::Index;
use serde::Serialize;

use crate::commands::verify::{self, VerifyArgs};
use crate::context::Context;
use crate::error::CliError;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Say what the store holds and how much room it takes
    Info,
    /// Print where the store is
    Path,
    /// The same as `envfs verify`
    Verify(VerifyArgs),
    /// Make the index of environments, their sizes and their uses anew from the files of the store
    Reindex,
}

#[derive(Serialize)]
struct Info {
    path: std::path::PathBuf,
    #[serde(flatten)]
    usage: Usage,
}

pub(crate) fn execute(context: &Context, args: &StoreArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        StoreCommand::Info => info(context),
        StoreCommand::Path => path(context),
        StoreCommand::Verify(args) => verify::execute(context, args),
        StoreCommand::Reindex => reindex(context),
    }
}

fn info(context: &Context) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let usage = store.usage()?;
    if context.json {
        context.print_json(&Info {
            path: store.root().to_owned(),
            usage,
        })?;
    } else {
        output::line(&format!("path          {}", store.root().display()))?;
        output::line(&format!("environments  {}", usage.environments))?;
        output::line(&format!("packages      {}", usage.layers))?;
        output::line(&format!(
            "files         {} in {} packs, {} whole",
            usage.packed_objects, usage.packs, usage.objects
        ))?;
        output::line(&format!(
            "disk          {} in {} inodes",
            output::bytes(usage.disk_bytes),
            usage.inodes
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn path(context: &Context) -> Result<ExitCode, CliError> {
    let path = context.store_path()?;
    if context.json {
        context.print_json(&serde_json::json!({ "path": path }))?;
    } else {
        output::line(&path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn reindex(context: &Context) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let mut index = Index::open(&store)?;
    if let Some(reason) = index.take_warning() {
        context.note(&format!("warning: the old index was put aside, because {reason}"));
    }
    let environments = index.rebuild(&store)?;
    let path = envfs_store::index::path(&store);
    if context.json {
        context.print_json(&serde_json::json!({ "path": path, "environments": environments }))?;
    } else {
        let count = output::count(environments as u64, "environment");
        context.note(&format!("{}: {count}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
