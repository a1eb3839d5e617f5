//! `envfs serve`: every environment below one directory, mounted when somebody comes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use envfs_fuse::mount;
use envfs_fuse::serve;
use serde::Serialize;

use crate::commands::warm::leave_mounted_by_child;
use crate::context::Context;
use crate::error::CliError;
use crate::{output, units};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs serve /envs                                 until `envfs umount /envs`\n  \
    /envs/3fb1c2d4/bin/python train.py                by a signature\n  \
    /envs/team/proj:current/bin/python train.py       by a name\n  \
    envfs serve /envs --foreground                    until ^C, for service managers\n\n\
    An environment is mounted when somebody first comes to it, and unmounted when nobody has used it for as long as \
    --idle says. Root's directory is for all users who may pass to the store, that of another user for them alone. \
    Nothing is built: what is not in the store does not exist.")]
pub(crate) struct ServeArgs {
    /// An existing empty directory
    path: PathBuf,
    /// How long an environment stays mounted that nobody uses: 30s, 10m, 1h
    #[arg(long, value_name = "SPAN", value_parser = units::span, default_value = "10m")]
    idle: Duration,
    /// Stay until interrupted or the directory is unmounted
    #[arg(long)]
    foreground: bool,
    /// Write what the server in the background has to say to this file
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    log: Option<PathBuf>,
}

#[derive(Serialize)]
struct Served {
    mount_point: PathBuf,
}

pub(crate) fn execute(context: &Context, args: &ServeArgs) -> Result<ExitCode, CliError> {
    let mount_point = mount::check_mount_point(&args.path)?;
    let store = context.store()?;
    let bring = leave_mounted_by_child(context, args.idle)?;
    let served = Served {
        mount_point: mount_point.clone(),
    };
    if args.foreground {
        let mut told = Ok(());
        serve::in_foreground(&store, &mount_point, &bring, || told = tell(context, &served))?;
        told?;
    } else {
        let log = output::open_log(args.log.as_deref())?;
        serve::in_background(&store, &mount_point, log.as_ref(), &bring)?;
        tell(context, &served)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(context: &Context, served: &Served) -> Result<(), CliError> {
    if context.json {
        return context.print_json(served);
    }
    context.note(&format!("environments appear below {}", served.mount_point.display()));
    Ok(())
}
