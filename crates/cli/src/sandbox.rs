//! Where sources are built: in a run of their environment, by a process of its own, because mounting takes one without threads.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use envfs_solver::BuildSandbox;
use envfs_store::environment::Environment;

use crate::context::Context;
use crate::error::CliError;

/// Runs commands by `envfs run --scratch`.
pub(crate) struct RunSandbox {
    program: PathBuf,
    store: PathBuf,
}

impl RunSandbox {
    pub(crate) fn new(context: &Context) -> Result<Self, CliError> {
        Ok(Self {
            program: std::env::current_exe()?,
            store: context.store_path()?,
        })
    }
}

impl BuildSandbox for RunSandbox {
    fn enter(&self, environment: &Environment, command: &Command) -> Command {
        let mut entered = Command::new(&self.program);
        entered
            .arg("--store")
            .arg(&self.store)
            .args(["--quiet", "run", "--scratch"])
            .args([OsString::from(environment.signature.to_string()), "--".into()])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(std::process::Stdio::null());
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
