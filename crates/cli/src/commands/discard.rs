//! `envfs discard`: forget what was written into a mount.

use std::path::PathBuf;
use std::process::ExitCode;

use envfs_fuse::unmount;

use crate::context::Context;
use crate::error::CliError;
use crate::writable;

/// Unmount a writable mount and forget what was written into it
#[derive(Debug, clap::Args)]
#[command(after_help = "What was not committed is gone. To keep it for later, use `envfs umount`.")]
pub(crate) struct DiscardArgs {
    /// A writable mount, or where one was
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(crate) fn execute(context: &Context, args: &DiscardArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let (state, is_mounted) = writable::find_state(&store, &args.path)?;
    if is_mounted {
        unmount::unmount(&store, &args.path, false)?;
    }
    state.discard()?;
    Ok(ExitCode::SUCCESS)
}
