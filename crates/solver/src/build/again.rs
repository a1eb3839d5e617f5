//! An environment built again though its record is there, because something of it was lost.

use std::sync::Arc;

use envfs_store::Store;
use envfs_store::environment::Environment;

use super::bring::{Archive, Destination, bring_all, written_for};
use super::{BuildError, BuildProgress, BuildRequest, Built, Contents, LinkScripts, blocking, link_and_record};
use crate::lock::LockedContents;
use crate::network::Network;

/// Builds `environment` again, of `contents`, on `base`. What is in the store is used, its own record is not: the result may have
/// another tree, if less is known of the packages than before.
///
/// # Errors
/// As [`super::build`]; and when this is not what the environment was made of.
pub async fn build_again(
    store: &Store,
    network: &Network,
    environment: &Environment,
    contents: LockedContents,
    base: Option<Environment>,
    link_scripts: Arc<dyn LinkScripts>,
    progress: &dyn BuildProgress,
) -> Result<Built, BuildError> {
    let destination = Destination::in_store(store)?;
    let archives = Archive::all(&contents.packages, &contents.wheels);
    let brought = bring_all(&destination, network, archives, progress).await?;
    let mut request = BuildRequest {
        packages: Vec::new(),
        wheels: Vec::new(),
        sources: Vec::new(),
        subdir: contents.subdir,
        variables: environment.variables.clone(),
        bytecode: true,
        link_scripts: Some(link_scripts),
        base,
    };
    let signature = environment.signature;
    blocking(move || {
        let written = written_for(&brought);
        let contents = Contents::in_link_order(brought)?;
        // A record does not say with which options it was built; its signature does.
        let runner = request.link_scripts.clone();
        for (bytecode, runs_scripts) in [(true, true), (false, true), (true, false), (false, false)] {
            request.bytecode = bytecode;
            request.link_scripts = runner.clone().filter(|_| runs_scripts);
            if contents.signature(&destination.store, &request)? == signature {
                return link_and_record(&destination, &request, &contents, signature, written);
            }
        }
        Err(BuildError::NotTheSame {
            signature: signature.to_string(),
        })
    })
    .await
}
