//! `envfs discard`: forget what was written into an environment.

use std::path::PathBuf;
use std::process::ExitCode;

use envfs_fuse::unmount;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::writable::Found;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs discard /envs/x     unmounts it first, if it is mounted\n  \
    envfs discard 3fb1c2d4    what `envfs run --writable` has kept\n\n\
    What was not committed is gone. To keep it for later, use `envfs umount`.")]
pub(crate) struct DiscardArgs {
    /// A writable mount, where one was, an environment that was run --writable, or a directory of --upper
    #[arg(value_name = "PATH|ENV")]
    what: String,
}

/// As `envfs mount` tells of it.
#[derive(Serialize)]
struct Discarded {
    signature: String,
    mount_point: PathBuf,
}

pub(crate) fn execute(context: &Context, args: &DiscardArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let found = Found::find(&store, &args.what)?;
    if found.is_mounted {
        unmount::unmount(&store, &found.record.mount_point, false)?;
    }
    found.state.discard()?;
    envfs_store::writable::forget(&store, found.state.root())?;
    if context.json {
        context.print_json(&Discarded {
            signature: found.record.signature.to_string(),
            mount_point: found.record.mount_point,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}
