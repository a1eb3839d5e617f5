//! What commands on writable mounts share: where their state is, and what is below them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use envfs_fuse::backend::BackendError;
use envfs_fuse::kernel::{self, Attributes};
use envfs_fuse::service::Service;
use envfs_fuse::writable::{self, State, StateRecord, WritableError};
use envfs_store::capture::Writable;
use envfs_store::environment::{self, Environment};
use envfs_store::view::View;
use envfs_store::{Digest, Store};

use crate::error::CliError;

/// A writable mount with what is below it.
pub(crate) struct Opened {
    pub(crate) environment: Environment,
    record: StateRecord,
    view: View,
    upper: PathBuf,
}

impl Opened {
    pub(crate) fn open(store: &Store, path: &Path) -> Result<Self, CliError> {
        let mount_point = resolve(path)?;
        let state = State::of_mount(&mount_point)?;
        let record = state.record()?;
        let environment = environment::load(store, &record.signature)?;
        let tree = Arc::new(store.tree(&environment.tree)?);
        Ok(Self {
            view: View::new(store, tree, &record.mount_point)?,
            upper: state.upper(),
            environment,
            record,
        })
    }

    pub(crate) fn as_writable(&self) -> Writable<'_> {
        Writable {
            view: &self.view,
            merged: &self.record.mount_point,
            upper: &self.upper,
        }
    }
}

/// Where a writable mount at `mount_point` keeps what is written, unless another place is named.
pub(crate) fn default_state(store: &Store, mount_point: &Path) -> State {
    let name = Digest::of(mount_point.as_os_str().as_encoded_bytes()).to_string();
    State::at(&store.root().join("writable").join(&name[..32]))
}

/// Mounts `service` so that it can be written to.
pub(crate) fn mount(service: &Service, upper: Option<&Path>) -> Result<(), CliError> {
    let state = match upper {
        None => default_state(&service.store, &service.mount_point),
        Some(directory) => State::at(&std::path::absolute(directory)?),
    };
    let record = StateRecord {
        signature: service.signature,
        mount_point: service.mount_point.clone(),
        attributes: Attributes::default(),
    };
    let lower = kernel::mount(service).map_err(BackendError::from)?;
    Ok(writable::mount(&lower, &state, &record, service.view.tree())?)
}

/// The state of a mount that is, or was, at `path`; and whether it is mounted.
pub(crate) fn find_state(store: &Store, path: &Path) -> Result<(State, bool), CliError> {
    let mount_point = resolve(path)?;
    match State::of_mount(&mount_point) {
        Ok(state) => Ok((state, true)),
        Err(WritableError::NotWritable(_)) => {
            let state = default_state(store, &mount_point);
            match state.record() {
                Ok(_) => Ok((state, false)),
                Err(_) => Err(WritableError::NotWritable(mount_point).into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn resolve(path: &Path) -> Result<PathBuf, CliError> {
    path.canonicalize()
        .map_err(|error| CliError::new(format!("cannot find `{}`", path.display())).because(error.to_string()))
}
