//! What of a lock has to be built becomes wheels, before anything else is done with it.
//!
//! Only what was never built by this Python is built, one after the other, in an environment of the conda packages.

use std::sync::Arc;

use envfs_store::Store;
use envfs_store::built;
use envfs_store::digest::{Digest, Sha256};
use envfs_store::environment::{Environment, PackageKind};
use envfs_store::workspace::Workspace;

use super::base::Imported;
use super::{BuildError, BuildProgress, BuildRequest, build};
use crate::builder::{self, SourceBuilder, SourceError};
use crate::network::Network;
use crate::package::LockedPackage;
use crate::pypi::LockedWheel;
use crate::subdir::Subdir;

/// The wheels of all sources of `request`.
pub(super) async fn wheels(
    store: &Store,
    network: &Network,
    request: &BuildRequest,
    builder: Option<&SourceBuilder<'_>>,
    progress: &dyn BuildProgress,
) -> Result<Vec<LockedWheel>, BuildError> {
    if let Some(found) = known(store, request)? {
        return Ok(found);
    }
    let first = &request.sources[0];
    let Some(builder) = builder else {
        SourceError::refuse(&request.sources)?;
        return Ok(Vec::new());
    };
    if Subdir::current() != Some(request.subdir) {
        return Err(SourceError::OtherPlatform {
            source_of: first.to_string(),
            from: first.describe(),
            subdir: request.subdir.to_string(),
        }
        .into());
    }
    let host = build_host(store, network, request, progress).await?;
    let python = python_of(store, &host)?.ok_or_else(|| SourceError::MissingPython {
        source_of: first.to_string(),
    })?;
    let workspace = Arc::new(Workspace::create(store)?);
    let mut wheels = Vec::with_capacity(request.sources.len());
    for source in &request.sources {
        let question = builder::question(source, &python)?;
        let key = Digest::of(question.as_bytes());
        let _reservation = store.reserve(&format!("built-{key}"))?;
        let built = match built::find(store, &question)? {
            Some(built) => built,
            None => {
                progress.building(&source.to_string());
                tokio::task::block_in_place(|| builder.build(store, &workspace, &host, source, &question))?
            }
        };
        wheels.push(builder::locked(source, store, &built)?);
    }
    Ok(wheels)
}

/// The wheels, if all of them were built before and the lock says by which Python.
fn known(store: &Store, request: &BuildRequest) -> Result<Option<Vec<LockedWheel>>, BuildError> {
    if request.sources.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let python = request.packages.iter().find(|package| package.name() == "python");
    let Some(python) = python.and_then(LockedPackage::sha256).map(Sha256::from_bytes) else {
        return Ok(None);
    };
    let mut wheels = Vec::with_capacity(request.sources.len());
    for source in &request.sources {
        match built::find(store, &builder::question(source, &python)?)? {
            Some(built) => wheels.push(builder::locked(source, store, &built)?),
            None => return Ok(None),
        }
    }
    Ok(Some(wheels))
}

/// The environment to build in: the base, where that has all the conda packages, or else one of them alone.
///
/// # Errors
/// As [`build`].
pub async fn build_host(
    store: &Store,
    network: &Network,
    request: &BuildRequest,
    progress: &dyn BuildProgress,
) -> Result<Environment, BuildError> {
    if let Some(base) = &request.base {
        let mut packages = request.packages.clone();
        Imported::of(store, Some(base), &packages)?.stand_in(&mut packages);
        let inherited = base.all_packages(store)?;
        let is_inherited = |sha256: Option<[u8; 32]>| {
            let sha256 = sha256.map(Sha256::from_bytes);
            inherited.iter().any(|package| Some(package.sha256) == sha256)
        };
        if packages.iter().all(|package| is_inherited(package.sha256())) {
            return Ok(base.clone());
        }
    }
    let host = BuildRequest {
        wheels: Vec::new(),
        sources: Vec::new(),
        base: None,
        bytecode: false,
        ..request.clone()
    };
    Ok(Box::pin(build(store, network, host, None, progress)).await?.environment)
}

fn python_of(store: &Store, environment: &Environment) -> Result<Option<Sha256>, BuildError> {
    let packages = environment.all_packages(store)?;
    let python = packages
        .iter()
        .find(|package| package.kind == PackageKind::Conda && package.name == "python");
    Ok(python.map(|python| python.sha256))
}
