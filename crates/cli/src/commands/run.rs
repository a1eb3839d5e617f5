//! `envfs run`: a command in an activated environment that is mounted for it alone.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use envfs_fuse::backend::Choice;
use envfs_fuse::mount::{self, MountOptions};
use envfs_fuse::run::{self, Place, RunError};
use envfs_store::Store;
use envfs_store::environment::Environment;
use envfs_store::lease::LeaseKind;

use crate::activate;
use crate::commands::mount::{BackendArgs, service};
use crate::context::{Context, variable};
use crate::error::CliError;
use crate::with::WithArgs;

/// What a shell exits with when there is no such program, and when it cannot be executed (POSIX.1-2017, Shell
/// Command Language, 2.8.2).
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Run a command in an environment
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs run 3fb1c2d4 -- python train.py\n  \
    envfs run environment.yml -- python -c 'import numpy'    builds it first, if it is not built\n  \
    envfs run 3fb1c2d4 --with 'httpx>=0.27' -- python        with a package on top, this time only\n  \
    envfs run 3fb1c2d4 --mount-at /envs/x -- jupyter lab      where other programs see it too\n\n\
    The environment is activated as conda does it, and mounted where only the command and what it starts\n\
    can see it. The exit code is the command's; 128 + n if signal n ended it, 127 if there is no such\n\
    program. Nothing stays behind.")]
pub(crate) struct RunArgs {
    /// A signature, a name, a lock file or an environment.yml
    #[arg(value_name = "ENV")]
    environment: String,
    /// Mount at this empty directory, for everybody, while the command runs
    #[arg(long, value_name = "PATH")]
    mount_at: Option<PathBuf>,
    #[command(flatten)]
    with: WithArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// The command and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

pub(crate) fn execute(context: &Context, args: &RunArgs) -> Result<ExitCode, CliError> {
    let mount_at = args.mount_at.as_deref().map(mount::check_mount_point).transpose()?;
    let environment = args.with.environment(context, &args.environment)?;
    let store = context.store()?;
    let runner = Runner {
        store: &store,
        environment: &environment,
        command: &args.command,
        choice: args.backend.choice(),
    };
    let result = match mount_at {
        Some(path) => runner.run(&path, Place::Public)?,
        None => runner.run_privately()?,
    };
    match result {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            let code = match error {
                RunError::NotFound { .. } => NOT_FOUND,
                RunError::NotExecutable { .. } => NOT_EXECUTABLE,
                error => return Err(error.into()),
            };
            CliError::from(error).report();
            Ok(ExitCode::from(code))
        }
    }
}

struct Runner<'a> {
    store: &'a Store,
    environment: &'a Environment,
    command: &'a [OsString],
    choice: Choice,
}

impl Runner<'_> {
    /// Runs the command where only it sees the environment; where that is not allowed, in a directory that others
    /// see but only for as long as it runs.
    fn run_privately(&self) -> Result<Result<u8, RunError>, CliError> {
        let prefix = envfs_fuse::private_prefix(self.store, &self.environment.signature);
        let reason = match self.run(&prefix, Place::Private)? {
            Err(RunError::PrivateRefused(reason)) => reason,
            result => return Ok(result),
        };
        tracing::info!("{reason}; mounting where others see it instead");
        let directory = temporary_directory()?;
        let result = self.run(&directory, Place::PublicTemporary)?;
        // The server removes it, unless it never started.
        let _ = fs::remove_dir(&directory);
        match result {
            Err(error @ RunError::Backend(_)) => Err(CliError::from(error).because(reason)),
            result => Ok(result),
        }
    }

    /// Runs the command with the environment seen at `prefix`.
    fn run(&self, prefix: &Path, place: Place) -> Result<Result<u8, RunError>, CliError> {
        let service = service(self.store, self.environment, prefix, LeaseKind::Run)?;
        let command = activate::command(
            &service.view,
            &self.environment.variables,
            std::env::vars_os(),
            self.command,
        )?;
        let options = MountOptions {
            signature: self.environment.signature,
            allow_other: false,
        };
        Ok(run::run(&service, &options, place, self.choice, &command))
    }
}

/// A directory of this user alone, for a mount that is gone when the command has ended.
fn temporary_directory() -> Result<PathBuf, CliError> {
    let parent = variable("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = parent.join(format!("envfs-run-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
        CliError::new(format!("cannot make the directory `{}`", path.display()))
            .because(error.to_string())
            .help("name an empty directory with `--mount-at`")
    })?;
    path.canonicalize().map_err(CliError::from)
}
