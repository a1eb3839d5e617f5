//! `envfs serve`: every environment below one directory, mounted when somebody comes.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use envfs_fuse::mount;
use envfs_fuse::serve::{self, Bring};
use envfs_store::Digest;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::{output, units};

/// Show every environment below one directory, for those who cannot mount
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs serve /envs                                 until `envfs umount /envs`\n  \
    /envs/3fb1c2d4/bin/python train.py                by a signature\n  \
    /envs/team/proj:current/bin/python train.py       by a name\n  \
    envfs serve /envs --foreground                    until ^C, for service managers\n\n\
    An environment is mounted when somebody first comes to it, and unmounted when nobody has used it for as long as\n\
    --idle says. Root's directory is for all users who may pass to the store, that of another user for them alone.\n\
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
    let bring = bring(context, args.idle)?;
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

/// Mounts by a process of its own, because one with threads cannot fork.
fn bring(context: &Context, idle: Duration) -> Result<Bring, CliError> {
    let program = context.this_program()?;
    let words: Vec<_> = program.get_args().map(ToOwned::to_owned).collect();
    let program = program.get_program().to_owned();
    let idle = format!("--idle={}s", idle.as_secs());
    Ok(Arc::new(move |signature: &Digest| {
        let mut command = Command::new(&program);
        command.args(&words).args(["--quiet", "warm", &idle]);
        command.arg(signature.to_string()).current_dir("/").stdin(Stdio::null());
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }))
}

fn tell(context: &Context, served: &Served) -> Result<(), CliError> {
    if context.json {
        return context.print_json(served);
    }
    context.note(&format!("environments appear below {}", served.mount_point.display()));
    Ok(())
}
