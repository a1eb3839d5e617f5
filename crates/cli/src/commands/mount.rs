//! `envfs mount`: an environment at a directory, for everybody.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use envfs_fuse::mount::{self, MountOptions};
use envfs_fuse::server::{self, Service};
use envfs_store::Store;
use envfs_store::environment::Environment;
use envfs_store::lease::LeaseKind;
use envfs_store::view::View;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::{output, resolve};

/// Mount an environment at a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs mount 3fb1c2d4 /envs/x                there when the command returns; a server goes on in the background\n  \
    envfs mount environment.yml ./env           builds it first, if it is not built\n  \
    envfs mount 3fb1c2d4 /envs/x --foreground   until ^C, for service managers and containers\n\n\
    Nothing is copied: the environment is as good as installed in PATH, and cannot be written to.")]
pub(crate) struct MountArgs {
    /// A signature, a lock file or an environment.yml
    #[arg(value_name = "ENV")]
    environment: String,
    /// An existing empty directory
    path: PathBuf,
    /// Serve from this process until it is interrupted or the directory is unmounted
    #[arg(long)]
    foreground: bool,
    /// Let other users see the files too, as root's mounts do
    #[arg(long)]
    allow_other: bool,
    /// Write what the server in the background has to say to this file
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    log: Option<PathBuf>,
}

#[derive(Serialize)]
struct Mounted<'a> {
    signature: String,
    mount_point: &'a Path,
}

pub(crate) fn execute(context: &Context, args: &MountArgs) -> Result<ExitCode, CliError> {
    // Before anything is built: a directory that cannot be mounted on stays one.
    let mount_point = mount::check_mount_point(&args.path)?;
    let environment = resolve::environment(context, &args.environment)?;
    let service = service(&context.store()?, &environment, &mount_point, LeaseKind::Mount)?;
    let options = MountOptions {
        signature: environment.signature,
        allow_other: args.allow_other,
    };
    let mounted = Mounted {
        signature: environment.signature.to_string(),
        mount_point: &mount_point,
    };
    if args.foreground {
        let mut told = Ok(());
        server::mount_in_foreground(service, &options, || told = tell(context, &mounted))?;
        told?;
    } else {
        server::mount_in_background(service, &options, open_log(args.log.as_deref())?)?;
        tell(context, &mounted)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What serves `environment` as it is seen at `mount_point`.
pub(crate) fn service(
    store: &Store,
    environment: &Environment,
    mount_point: &Path,
    kind: LeaseKind,
) -> Result<Service, CliError> {
    let tree = Arc::new(store.tree(&environment.tree)?);
    Ok(Service {
        view: View::new(store, tree, mount_point)?,
        store: store.clone(),
        signature: environment.signature,
        mount_point: mount_point.to_owned(),
        kind,
    })
}

fn tell(context: &Context, mounted: &Mounted<'_>) -> Result<(), CliError> {
    if context.json {
        return context.print_json(mounted);
    }
    if !context.quiet {
        output::note(&format!(
            "mounted {} at {}",
            &mounted.signature[..16],
            mounted.mount_point.display()
        ));
    }
    Ok(())
}

fn open_log(path: Option<&Path>) -> Result<Option<File>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let file = File::options().create(true).append(true).open(path);
    file.map(Some)
        .map_err(|error| CliError::new(format!("cannot write the log `{}`", path.display())).because(error.to_string()))
}
