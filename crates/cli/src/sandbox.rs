//! Where sources are built and asked what they need: by a process of its own, because mounting takes one without threads, which
//! can write to nothing but what is the build's own.
//!
//! That process is this program, called with a command that nobody types.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use envfs_fuse::run::{self, RunError};
use envfs_fuse::sandbox::Sandbox;
use envfs_fuse::writable::State;
use envfs_fuse::{Forgotten, Limits, confine};
use envfs_solver::{BuildSandbox, Confines};
use envfs_store::Digest;
use envfs_store::lease::LeaseKind;
use envfs_store::workspace::Workspace;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::activate;
use crate::context::Context;
use crate::error::CliError;
use crate::serving::service;
use crate::surroundings;

/// The command that nobody types.
pub(crate) const COMMAND: &str = "build-in-sandbox";

/// Runs commands by [`COMMAND`].
pub(crate) struct RunSandbox {
    program: Vec<OsString>,
}

impl RunSandbox {
    pub(crate) fn new(context: &Context) -> Result<Self, CliError> {
        let program = context.this_program()?;
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        Ok(Self {
            program: words.map(ToOwned::to_owned).collect(),
        })
    }
}

impl BuildSandbox for RunSandbox {
    fn enter(&self, confines: &Confines<'_>, command: &Command) -> Command {
        let mut entered = Command::new(&self.program[0]);
        entered.args(&self.program[1..]).args(["--quiet", COMMAND, "--room"]);
        entered.arg(confines.room);
        if let Some(environment) = confines.environment {
            entered.args(["--environment", &environment.signature.to_string()]);
        }
        for directory in &confines.writable {
            entered.arg("--writable").arg(directory);
        }
        for directory in &confines.forgotten {
            entered.arg("--forgotten").arg(directory);
        }
        entered
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            entered.current_dir(directory);
        }
        entered
    }
}

/// What [`Confines`] are as words.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    #[arg(long)]
    environment: Option<Digest>,
    #[arg(long)]
    room: PathBuf,
    #[arg(long)]
    writable: Vec<PathBuf>,
    #[arg(long)]
    forgotten: Vec<PathBuf>,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// In the process of its own: becomes the parent of the command, and ends as it does.
pub(crate) fn execute(context: &Context, args: &BuildArgs) -> Result<ExitCode, CliError> {
    // Whoever waits for it is the only one who wants it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)?;
    let own = Own::create(&args.room)?;
    // Out of its reach: what we do there when it has ended must be what we made there.
    let beside = args.room.parent().unwrap_or(&args.room);
    let kept = args.forgotten.iter().enumerate().map(|(at, directory)| Forgotten {
        directory: directory.clone(),
        kept_in: beside.join(format!("forgotten-{at}")),
    });
    let limits = Limits {
        network: true,
        writable: [std::slice::from_ref(&args.room), &args.writable].concat(),
        forgotten: kept.collect(),
        kept: vec![context.store()?.root().to_owned()],
    };
    // Entered anew: where this process is, is read-only.
    let directory = Some(std::env::current_dir()?);
    let surroundings = own.surroundings(std::env::vars_os());
    let code = match &args.environment {
        None => confine::run(
            &limits,
            &envfs_fuse::Command {
                program: args.command[0].clone(),
                arguments: args.command[1..].to_vec(),
                environment: surroundings,
                directory,
            },
        ),
        Some(signature) => {
            let store = context.store()?;
            let environment = context.claim(&store, signature)?;
            let prefix = envfs_fuse::private_prefix(&store, signature);
            context.claim_at(&store, signature, &prefix)?;
            let service = service(&store, &environment, &prefix, LeaseKind::Run)?;
            let mut command = activate::command(&service.view, &environment.variables, surroundings, &args.command)?;
            command.directory = directory;
            let workspace = Workspace::create(&store)?;
            let sandbox = Sandbox {
                service: &service,
                state: &State::at(&workspace.path().join("scratch")),
                limits: Some(&limits),
                output: None,
            };
            run::run_in(&sandbox, &command).map(|finished| finished.exit_code)
        }
    };
    code.map(ExitCode::from).map_err(explain)
}

fn explain(error: RunError) -> CliError {
    CliError::from(error).help(
        "what sources say is run only where it can write to nothing else, in namespaces of its own: allow them here, or build \
         elsewhere, or ask for versions that have wheels",
    )
}

/// What a build has for itself.
struct Own {
    home: PathBuf,
    temporary: PathBuf,
}

impl Own {
    /// Makes it in `room`. The home shows what is in the user's, which settings and credentials come from, but not what is
    /// cached there; so does cargo's.
    fn create(room: &Path) -> Result<Self, CliError> {
        let this = Self {
            home: room.join("home"),
            temporary: room.join("tmp"),
        };
        let cannot = |error: io::Error| {
            CliError::new(format!("cannot make a home for a build in `{}`", room.display())).because(error.to_string())
        };
        for directory in [this.cache(), this.cargo(), this.temporary.clone()] {
            fs::create_dir_all(&directory).map_err(cannot)?;
        }
        if let Some(home) = surroundings::home() {
            show(&home, &this.home, &[".cache", ".cargo"]).map_err(cannot)?;
        }
        let cargo = surroundings::variable("CARGO_HOME").map(PathBuf::from);
        if let Some(cargo) = cargo.or_else(|| Some(surroundings::home()?.join(".cargo"))) {
            show(
                &cargo,
                &this.cargo(),
                &["registry", "git", ".package-cache", ".global-cache"],
            )
            .map_err(cannot)?;
        }
        Ok(this)
    }

    fn cache(&self) -> PathBuf {
        self.home.join(".cache")
    }

    fn cargo(&self) -> PathBuf {
        self.home.join(".cargo")
    }

    /// The variables of the user, with what is the build's own.
    fn surroundings(&self, variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
        let own = [
            ("HOME", self.home.clone()),
            ("TMPDIR", self.temporary.clone()),
            ("XDG_CACHE_HOME", self.cache()),
            ("CARGO_HOME", self.cargo()),
        ];
        let others = variables.filter(|(name, _)| !own.iter().any(|(own, _)| name == own));
        let others: Vec<_> = others.collect();
        let own = own.into_iter().map(|(name, path)| (name.into(), path.into_os_string()));
        others.into_iter().chain(own).collect()
    }
}

/// Links `to` what is in `directory`, but for some names.
fn show(directory: &Path, to: &Path, hidden: &[&str]) -> io::Result<()> {
    // A home that is not there, or cannot be read, shows nothing.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !hidden.iter().any(|hidden| entry.file_name() == *hidden) {
            symlink(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
