//! Where a command may write: into a private view of an environment, and what it is kept to besides.
//!
//! What it writes into the environment is kept in a [`State`], from which `envfs_store::capture` makes a layer; the
//! environment itself never changes. [`crate::run::run_in`] runs it.

use std::fs::File;
use std::time::Duration;

use crate::limits::Limits;
use crate::service::Service;
use crate::writable::State;

/// A private writable view of an environment.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox<'a> {
    /// The environment, and the path at which the command sees it: one that [`crate::private_prefix`] gave, or a directory
    /// that exists.
    pub service: &'a Service,
    /// Where is kept what is written into it.
    pub state: &'a State,
    /// What the command is kept to. Without limits it may do what it could do outside.
    pub limits: Option<&'a Limits>,
    /// Where its output and errors go; its input is then empty. Without it, it has those of this process.
    pub output: Option<&'a File>,
}

/// How a command in a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code; 128 and the signal's number, if a signal ended it.
    pub exit_code: u8,
    /// How long it took, from the moment at which all was prepared.
    pub duration: Duration,
}
