//! Commands in a sandbox, from a process that may have threads: each is run by a process of its own, because only one
//! without threads may fork.
//!
//! That process is this program, called with a command that nobody types: what is to be run goes into its input as JSON, how
//! it ended comes out. It dies with the process that started it, and takes the command along.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use envfs_fuse::Limits;
use envfs_fuse::run;
use envfs_fuse::sandbox::Sandbox;
use envfs_fuse::service::Service;
use envfs_fuse::writable::State;
use envfs_store::lease::LeaseKind;
use envfs_store::view::View;
use envfs_store::workspace::Workspace;
use envfs_store::{Digest, Store};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::activate::DEFAULT_PATH;
use crate::error::CliError;
use crate::output;

/// The command that nobody types.
pub(crate) const COMMAND: &str = "run-in-sandbox";

/// A command and the sandbox that it runs in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The store of the environment.
    pub(crate) store: PathBuf,
    /// The store below that one, if there is one.
    pub(crate) system_store: Option<PathBuf>,
    /// What the environment is called, or will be.
    pub(crate) signature: Digest,
    /// Its tree.
    pub(crate) tree: Digest,
    /// Where it is seen: what `envfs_fuse::private_prefix` gave.
    pub(crate) prefix: PathBuf,
    /// Where is kept what is written into it (`envfs_fuse::writable::State`).
    pub(crate) state: PathBuf,
    /// Whether the network may be used.
    pub(crate) network: bool,
    /// What else may be written to.
    pub(crate) writable: Vec<PathBuf>,
    /// Where output and errors are appended.
    pub(crate) output: PathBuf,
    /// The program.
    pub(crate) program: OsString,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// All its variables.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub(crate) directory: PathBuf,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Its exit code; 128 and the signal's number, if a signal ended it.
    pub(crate) exit_code: u8,
    /// How long it took.
    pub(crate) duration: Duration,
}

/// What a sandbox needs of the disk: it goes when this is dropped, or is swept by the next process if this one is killed.
pub(crate) struct Scratch {
    pub(crate) workspace: Workspace,
}

impl Scratch {
    /// Makes the directories.
    pub(crate) fn create(store: &Store) -> Result<Self, CliError> {
        let this = Self {
            workspace: Workspace::create(store)?,
        };
        for directory in [this.home(), this.temporary()] {
            output::make_directory(&directory)?;
        }
        Ok(this)
    }

    /// What the command may write to besides its environment.
    pub(crate) fn directory(&self) -> PathBuf {
        self.workspace.path().join("scratch")
    }

    /// Its home.
    pub(crate) fn home(&self) -> PathBuf {
        self.directory().join("home")
    }

    /// Its temporary files.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.directory().join("tmp")
    }

    /// What it writes into the environment.
    pub(crate) fn state(&self) -> PathBuf {
        self.workspace.path().join("state")
    }

    /// What it prints.
    pub(crate) fn output(&self) -> PathBuf {
        self.workspace.path().join("output")
    }

    /// The variables of a command that is to do the same on every machine and for every user.
    pub(crate) fn surroundings(&self) -> Vec<(OsString, OsString)> {
        [
            ("PATH", OsString::from(DEFAULT_PATH)),
            ("HOME", self.home().into()),
            ("TMPDIR", self.temporary().into()),
            ("LC_ALL", "C.UTF-8".into()),
        ]
        .map(|(name, value)| (OsString::from(name), value))
        .into()
    }
}

impl Request {
    /// Runs the command in a process of its own, to its end.
    pub(crate) fn run(&self) -> Result<Ended, CliError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let request = serde_json::to_vec(self).map_err(std::io::Error::from)?;
        // If it has ended already, its errors say why.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&request));
        let output = child.wait_with_output()?;
        match serde_json::from_slice(&output.stdout) {
            Ok(ended) if output.status.success() => Ok(ended),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.trim().trim_start_matches("error: ");
                Err(CliError::new("a command cannot be run in a private view of its environment").because(said))
            }
        }
    }
}

/// In the process of its own: runs what the input says, and says how it ended.
pub(crate) fn execute() -> Result<ExitCode, CliError> {
    // Whoever waits for it is the only one who wants it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)?;
    let request: Request = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|error| CliError::usage("this command is not to be typed").because(error.to_string()))?;
    let store = match &request.system_store {
        Some(system) => Store::open_over(&request.store, system)?,
        None => Store::open(&request.store)?,
    };
    let tree = Arc::new(store.tree(&request.tree)?);
    let service = Service {
        view: View::new(&store, tree, &request.prefix)?,
        store,
        tree: request.tree,
        signature: request.signature,
        mount_point: request.prefix,
        kind: LeaseKind::Run,
    };
    let limits = Limits {
        network: request.network,
        writable: request.writable,
        ..Limits::default()
    };
    let sandbox = Sandbox {
        service: &service,
        state: &State::at(&request.state),
        limits: Some(&limits),
        output: Some(&append(&request.output)?),
    };
    let command = envfs_fuse::Command {
        program: request.program,
        arguments: request.arguments,
        environment: request.environment,
        directory: Some(request.directory),
    };
    let finished = run::run_in(&sandbox, &command)?;
    output::json(&Ended {
        exit_code: finished.exit_code,
        duration: finished.duration,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn append(path: &Path) -> Result<File, CliError> {
    let file = File::options().create(true).append(true).open(path);
    file.map_err(|error| CliError::new(format!("cannot write `{}`", path.display())).because(error.to_string()))
}
