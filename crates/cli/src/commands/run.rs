//! `envfs run`: a command in an activated environment that is mounted for it alone.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use envfs_fuse::Command;
use envfs_fuse::backend::Choice;
use envfs_fuse::mount::{self, MountOptions};
use envfs_fuse::run::{self, Place, RunError};
use envfs_fuse::sandbox::Sandbox;
use envfs_fuse::service::Service;
use envfs_fuse::warm::{self, Found};
use envfs_fuse::writable::State;
use envfs_store::Store;
use envfs_store::environment::Environment;
use envfs_store::lease::LeaseKind;
use envfs_store::workspace::Workspace;

use crate::activate;
use crate::commands::mount::BackendArgs;
use crate::commands::warm::leave_mounted_by_child;
use crate::context::Context;
use crate::error::CliError;
use crate::serving::service;
use crate::surroundings::variable;
use crate::with::WithArgs;
use crate::{metadata, units, writable};

/// What a shell exits with when there is no such program, and when it cannot be executed (POSIX.1-2017, Shell
/// Command Language, 2.8.2).
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs run 3fb1c2d4 -- python train.py\n  \
    envfs run environment.yml -- python -c 'import numpy'    builds it first, if it is not built\n  \
    envfs run . --environment ml -- python train.py          a variant of the project that is locked here\n  \
    envfs run 3fb1c2d4 --with 'httpx>=0.27' -- python        with a package on top, this time only\n  \
    envfs run 3fb1c2d4 --idle -- python -c pass               the next run finds it mounted\n  \
    envfs run 3fb1c2d4 --mount-at /envs/x -- jupyter lab      where other programs see it too\n  \
    envfs run --writable 3fb1c2d4 -- pip install x            kept for the next such run; see `envfs commit`\n\n\
    The environment is activated as conda does it, and mounted where only the command and what it starts \
    can see it. Where it is mounted already, by `envfs warm`, `envfs mount` or a run before, the command runs \
    there. The exit code is the command's; 128 + n if signal n ended it, 127 if there is no such program. \
    Nothing stays behind but, with --idle, the mount and, with --writable, what was written: `envfs diff`, \
    `envfs commit` and `envfs discard` with the same <ENV> show it, make an environment of it, and forget it.")]
pub(crate) struct RunArgs {
    /// A signature, a name, a lock file or an environment.yml
    #[arg(value_name = "ENV")]
    environment: String,
    /// Mount at this empty directory, for everybody, while the command runs
    #[arg(long, value_name = "PATH")]
    mount_at: Option<PathBuf>,
    /// Leave it mounted for the next run, until nobody has used it for so long: 30s, 10m, 1h [without a value: 10m]
    #[arg(
        long,
        value_name = "AGE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10m",
        value_parser = units::span,
        conflicts_with_all = ["mount_at", "fresh", "writable", "scratch"]
    )]
    idle: Option<Duration>,
    /// Mount it anew for this command alone, even where it is mounted
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    with: WithArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Let it be written to: changes are kept apart, and the environment itself stays as it is
    #[arg(long, conflicts_with_all = ["mount_at", "backend"])]
    writable: bool,
    /// Let it be written to, and forget what is written when the command has ended
    #[arg(long, conflicts_with_all = ["mount_at", "backend", "writable"])]
    scratch: bool,
    /// Keep what is written in this directory [default: in the store]
    #[arg(long, value_name = "DIR", requires = "writable")]
    upper: Option<PathBuf>,
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
    metadata::used(&store, &environment);
    let runner = Runner {
        context,
        store: &store,
        environment: &environment,
        command: &args.command,
        choice: args.backend.choice(),
    };
    // Who chooses how it is served, or where, gets a mount of its own.
    let may_be_anywhere = mount_at.is_none() && !args.fresh && !args.writable && !args.scratch;
    if may_be_anywhere && args.backend.choice().is_none() {
        let idle = args
            .idle
            .or(context.settings()?.idle.value)
            .filter(|idle| !idle.is_zero());
        if let Some(refused) = runner.run_where_it_is(context, idle)? {
            return conclude(refused);
        }
    }
    let result = match mount_at {
        Some(path) => runner.run(&path, Place::Public)?,
        None if args.writable => runner.run_writable(args.upper.as_deref())?,
        None if args.scratch => runner.run_in_scratch()?,
        None => runner.run_privately()?,
    };
    match result {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => conclude(error),
    }
}

/// What a shell exits with when it cannot run a command.
fn conclude(error: RunError) -> Result<ExitCode, CliError> {
    let code = match error {
        RunError::NotFound { .. } => NOT_FOUND,
        RunError::NotExecutable { .. } => NOT_EXECUTABLE,
        error => return Err(error.into()),
    };
    CliError::from(error).report();
    Ok(ExitCode::from(code))
}

struct Runner<'a> {
    context: &'a Context,
    store: &'a Store,
    environment: &'a Environment,
    command: &'a [OsString],
    choice: Choice,
}

impl Runner<'_> {
    /// Becomes the command where the environment is mounted already; where it is not, and it may be left `idle`, it is mounted
    /// so. Returns if there is no such place, or with what the command is refused for.
    fn run_where_it_is(&self, context: &Context, idle: Option<Duration>) -> Result<Option<RunError>, CliError> {
        let found = match (warm::find(self.store, &self.environment.signature), idle) {
            (Some(found), _) => found,
            (None, None) => return Ok(None),
            (None, Some(idle)) => match self.leave_mounted(context, idle)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let (service, command) = self.prepare(&found.mount_point)?;
        Ok(Some(found.become_command(&service, &command)))
    }

    /// Has the environment mounted so that it stays for a while. Where that does not work here, nothing is found.
    fn leave_mounted(&self, context: &Context, idle: Duration) -> Result<Option<Found>, CliError> {
        let signature = &self.environment.signature;
        if let Err(reason) = leave_mounted_by_child(context, idle)?(signature) {
            tracing::info!("it cannot be left mounted: {reason}");
        }
        Ok(warm::find(self.store, signature))
    }

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

    /// Runs the command where only it sees the environment, and can write to it.
    fn run_writable(&self, upper: Option<&Path>) -> Result<Result<u8, RunError>, CliError> {
        let prefix = envfs_fuse::private_prefix(self.store, &self.environment.signature);
        self.run_in(&prefix, &writable::state_at(self.store, &prefix, upper)?)
    }

    /// As [`Self::run_writable`], but what it writes is forgotten.
    fn run_in_scratch(&self) -> Result<Result<u8, RunError>, CliError> {
        let prefix = envfs_fuse::private_prefix(self.store, &self.environment.signature);
        let workspace = Workspace::create(self.store)?;
        self.run_in(&prefix, &State::at(&workspace.path().join("scratch")))
    }

    fn run_in(&self, prefix: &Path, state: &State) -> Result<Result<u8, RunError>, CliError> {
        let (service, command) = self.prepare(prefix)?;
        let sandbox = Sandbox {
            service: &service,
            state,
            limits: None,
            output: None,
        };
        Ok(run::run_in(&sandbox, &command).map(|finished| finished.exit_code))
    }

    /// What serves the environment at `prefix`, and the command in it.
    fn prepare(&self, prefix: &Path) -> Result<(Service, Command), CliError> {
        self.context.claim_at(self.store, &self.environment.signature, prefix)?;
        let service = service(self.store, self.environment, prefix, LeaseKind::Run)?;
        let command = activate::command(
            &service.view,
            &self.environment.variables,
            std::env::vars_os(),
            self.command,
        )?;
        Ok((service, command))
    }

    /// Runs the command with the environment seen at `prefix`.
    fn run(&self, prefix: &Path, place: Place) -> Result<Result<u8, RunError>, CliError> {
        let (service, command) = self.prepare(prefix)?;
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
