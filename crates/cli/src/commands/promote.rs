//! `envfs promote`: a name gets what another has.

use std::process::ExitCode;

use envfs_store::name::Name;

use crate::context::Context;
use crate::error::CliError;
use crate::naming::{self, ChangeArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs promote proj:qa proj:current -m 'passed'\n  \
    envfs promote proj:qa proj --expect 3fb1c2d4    only if nobody else has changed it meanwhile\n\n\
    `envfs rollback` goes back.")]
pub(crate) struct PromoteArgs {
    /// What is promoted
    from: Name,
    /// What it becomes
    to: Name,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) fn execute(context: &Context, args: &PromoteArgs) -> Result<ExitCode, CliError> {
    naming::change(context, &args.to, &args.change, |names, author, expected| {
        names.promote(&args.from, &args.to, author, expected)
    })?;
    Ok(ExitCode::SUCCESS)
}
