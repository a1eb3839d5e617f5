//! An environment as it is to be served at a place.

use std::path::Path;
use std::sync::Arc;

use envfs_fuse::service::Service;
use envfs_store::Store;
use envfs_store::environment::Environment;
use envfs_store::lease::LeaseKind;
use envfs_store::view::View;

use crate::error::CliError;

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
        tree: environment.tree,
        signature: environment.signature,
        mount_point: mount_point.to_owned(),
        kind,
    })
}
