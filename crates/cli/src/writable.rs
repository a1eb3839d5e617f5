//! What commands on what was written share: where it is kept, and what is below it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use envfs_fuse::backend::BackendError;
use envfs_fuse::kernel::{self, Attributes};
use envfs_fuse::service::Service;
use envfs_fuse::writable::{self, State, StateRecord, WritableError};
use envfs_store::Store;
use envfs_store::capture::Writable;
use envfs_store::environment::{self, Environment};
use envfs_store::view::View;

use crate::error::CliError;

/// What was written, with what is below it.
pub(crate) struct Opened {
    pub(crate) environment: Environment,
    view: View,
    upper: PathBuf,
}

impl Opened {
    pub(crate) fn open(store: &Store, text: &str) -> Result<Self, CliError> {
        let Found { state, record, .. } = Found::find(store, text)?;
        let environment = environment::load(store, &record.signature)?;
        let tree = Arc::new(store.tree(&environment.tree)?);
        Ok(Self {
            view: View::new(store, tree, &record.mount_point)?,
            upper: state.upper(),
            environment,
        })
    }

    pub(crate) fn as_writable(&self) -> Writable<'_> {
        Writable {
            view: &self.view,
            upper: &self.upper,
        }
    }
}

/// Where what was written is kept.
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) record: StateRecord,
    pub(crate) is_mounted: bool,
}

impl Found {
    /// The state of a writable mount that is, or was, at the path `text`, that is kept in the directory `text`, or of the
    /// writable runs of the environment `text`.
    pub(crate) fn find(store: &Store, text: &str) -> Result<Self, CliError> {
        let Ok(path) = Path::new(text).canonicalize() else {
            return Self::of_runs(store, text);
        };
        match State::of_mount(&path) {
            Ok(state) => {
                return Ok(Self {
                    record: state.record()?,
                    state,
                    is_mounted: true,
                });
            }
            Err(WritableError::NotWritable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Self::first([State::at(&path), default_state(store, &path)])
            .ok_or_else(|| WritableError::NotWritable(path).into())
    }

    fn of_runs(store: &Store, text: &str) -> Result<Self, CliError> {
        if text.contains(['/', '.']) {
            return Err(CliError::new(format!("cannot find `{text}`")));
        }
        let signature = environment::find(store, text)?.signature;
        let place = envfs_fuse::private_prefix(store, &signature);
        Self::first([default_state(store, &place)]).ok_or_else(|| {
            CliError::new(format!("no writable run has written into {text}"))
                .help("`envfs run --writable` keeps what a command writes; what went to a directory of --upper is named by that")
        })
    }

    fn first(states: impl IntoIterator<Item = State>) -> Option<Self> {
        states.into_iter().find_map(|state| {
            Some(Self {
                record: state.record().ok()?,
                state,
                is_mounted: false,
            })
        })
    }
}

/// Where what is written at `mount_point` is kept, unless another place is named.
pub(crate) fn state_at(store: &Store, mount_point: &Path, upper: Option<&Path>) -> Result<State, CliError> {
    let Some(directory) = upper else {
        return Ok(default_state(store, mount_point));
    };
    let cannot = |error: std::io::Error| {
        CliError::new(format!("nothing can be kept in `{}`", directory.display())).because(error.to_string())
    };
    std::fs::create_dir_all(directory).map_err(cannot)?;
    let directory = directory.canonicalize().map_err(cannot)?;
    // What is below is not collected as long as this is there.
    envfs_store::writable::register(store, &directory)?;
    Ok(State::at(&directory))
}

fn default_state(store: &Store, mount_point: &Path) -> State {
    State::at(&envfs_store::writable::place(store, mount_point))
}

/// Refuses a writable mount to whom it is not possible for, before anything is done for it.
pub(crate) fn check_mount() -> Result<(), CliError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(CliError::new("only root can mount an environment so that it is written to").help(
            "`envfs run --writable <ENV> -- <CMD>` lets a command write into it, and keeps what it wrote for the next",
        ));
    }
    Ok(())
}

/// Mounts `service` so that it can be written to.
pub(crate) fn mount(service: &Service, upper: Option<&Path>) -> Result<(), CliError> {
    let state = state_at(&service.store, &service.mount_point, upper)?;
    let record = StateRecord {
        signature: service.signature,
        mount_point: service.mount_point.clone(),
        attributes: Attributes::Trusted,
    };
    let lower = kernel::mount(service).map_err(BackendError::from)?;
    Ok(writable::mount(&lower.mount, &state, &record, service.view.tree())?)
}
