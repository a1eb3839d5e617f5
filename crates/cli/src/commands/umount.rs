//! `envfs umount`: a mounted environment goes, and so does its server.

use std::path::PathBuf;
use std::process::ExitCode;

use envfs_fuse::unmount;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs umount /envs/x          returns when the mount is gone and its server has ended\n  \
    envfs umount /envs/x --lazy   takes it away from new users at once; who uses it may finish\n\n\
    Of an environment that was linked (`--backend link`) the files are removed, unless somebody has changed them; \
    with --lazy also then.")]
pub(crate) struct UmountArgs {
    /// Where it is mounted
    path: PathBuf,
    /// Detach it even while it is used; its server ends with the last user
    #[arg(short = 'z', long)]
    lazy: bool,
}

#[derive(Serialize)]
struct Unmounted {
    mount_point: PathBuf,
}

pub(crate) fn execute(context: &Context, args: &UmountArgs) -> Result<ExitCode, CliError> {
    unmount::unmount(&context.store()?, &args.path, args.lazy)?;
    if context.json {
        // It can be looked at again.
        let mount_point = args.path.canonicalize().unwrap_or_else(|_| args.path.clone());
        context.print_json(&Unmounted { mount_point })?;
    }
    Ok(ExitCode::SUCCESS)
}
