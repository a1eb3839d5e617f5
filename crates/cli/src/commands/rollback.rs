//! `envfs rollback`: a name stands again for what it stood for.

use std::process::ExitCode;

use envfs_store::name::Name;

use crate::context::Context;
use crate::error::CliError;
use crate::naming::{self, ChangeArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs rollback proj                  the last other environment; once more goes back further\n  \
    envfs rollback proj:current --to 3   as after the change number 3 of `envfs name history`")]
pub(crate) struct RollbackArgs {
    /// The name
    name: Name,
    /// The number of a change: what the name stood for after it
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) fn execute(context: &Context, args: &RollbackArgs) -> Result<ExitCode, CliError> {
    naming::change(context, &args.name, &args.change, |names, author, expected| {
        names.rollback(&args.name, args.to, author, expected)
    })?;
    Ok(ExitCode::SUCCESS)
}
