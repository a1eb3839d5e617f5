//! A lock becomes an environment in the store: archives are fetched and ingested, many at a time, then linked.
//!
//! Knows how the rooms below work together, and nothing of what is inside them.

mod again;
mod base;
mod bring;
mod scripts;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envfs_store::digest::Sha256;
use envfs_store::environment::{Environment, Package, PackageKind};
use envfs_store::ingest::Written;
use envfs_store::layer::Layer;
use envfs_store::lease::Claim;
use envfs_store::signature::Identity;
use envfs_store::tree::merge::Clash;
use envfs_store::view::PrefixError;
use envfs_store::{Digest, Store};
use tokio::task;

use crate::archive::ArchiveError;
use crate::builder::{SourceBuilder, SourceError};
use crate::bytecode::{self, Bytecode, BytecodeError};
use crate::fetch::FetchError;
use crate::link::{self, LinkError, Linkage};
use crate::network::Network;
use crate::options::BuildOptions;
use crate::package::{LockedPackage, PackageError, link_order};
use crate::pypi::{LockedWheel, wheel_order};
use crate::source::LockedSource;
use crate::subdir::Subdir;
use crate::wheel::WheelError;
pub use again::build_again;
use base::{Imported, OpenBase};
pub(crate) use bring::{Archive, Brought, Destination, bring_each};
use bring::{bring_all, written_for};
pub use sources::build_host;

pub use scripts::{LinkScript, LinkScriptError, LinkScripts, ScriptOutput, ScriptSite, ScriptsRun};

/// What is to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The conda packages, in any order.
    pub packages: Vec<LockedPackage>,
    /// The wheels, in any order. They are for the Python among the packages.
    pub wheels: Vec<LockedWheel>,
    /// What has to be built to become wheels.
    pub sources: Vec<LockedSource>,
    /// The platform.
    pub subdir: Subdir,
    /// Environment variables that activation sets.
    pub variables: BTreeMap<String, String>,
    /// Whether modules of noarch packages and wheels are compiled, by the Python among the packages.
    pub bytecode: bool,
    /// Who runs the packages' link scripts; nobody, if they are to be left out.
    pub link_scripts: Option<Arc<dyn LinkScripts>>,
    /// The environment to inherit from: all its packages must be among `packages` and `wheels`.
    pub base: Option<Environment>,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The environment.
    pub environment: Environment,
    /// Whether it was there before.
    pub reused: bool,
    /// How many of its packages had to be brought into the store.
    pub new_packages: usize,
    /// What was added to the store.
    pub written: Written,
    /// Paths that more than one package brings.
    pub clashes: Vec<Clash>,
    /// What link scripts said that were run now.
    pub script_outputs: Vec<ScriptOutput>,
    /// Files that link scripts wrote and that are right only where private runs see the environment.
    pub bound: Vec<String>,
    /// Link scripts that were not run, by their paths in the environment.
    pub skipped_scripts: Vec<String>,
    /// Keeps it from being collected as long as this lives; none where the store cannot be written.
    pub kept: Option<Arc<Claim>>,
}

/// Told how a build goes on, from several threads.
pub trait BuildProgress: Send + Sync {
    /// So many packages, together of so many bytes, are not in the store yet.
    fn missing(&self, packages: usize, bytes: u64);
    /// So many bytes more have been fetched, or fewer if they were of no use.
    fn fetched(&self, bytes: i64);
    /// A package is in the store.
    fn ingested(&self, package: &str);
    /// A package is being built from source.
    fn building(&self, _package: &str) {}
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An archive did not arrive.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// An archive was refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A wheel was refused.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// The packages contradict each other.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The packages cannot be linked.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Something cannot be built from source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A link script fails.
    #[error(transparent)]
    LinkScript(#[from] LinkScriptError),
    /// Modules cannot be compiled.
    #[error(transparent)]
    Bytecode(#[from] BytecodeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
    /// The base has what the environment has not.
    #[error("the base {base} holds {package}, which the lock does not: lock again with `--base {base}`")]
    NotABase {
        /// The signature of the base.
        base: String,
        /// The package.
        package: String,
    },
    /// What an environment is said to be made of makes another one.
    #[error("what is known of the environment {signature} makes another one: build it again from its lock")]
    NotTheSame {
        /// Its signature.
        signature: String,
    },
    /// A base cannot be looked into.
    #[error(transparent)]
    View(#[from] PrefixError),
    /// A worker stopped.
    #[error("a worker stopped unexpectedly: {0}")]
    Worker(String),
}

/// Builds what `request` asks for, or finds it built. Without a builder nothing is built from source. The future must run on
/// a tokio of several threads.
///
/// # Errors
/// When an archive cannot be fetched or is refused, something cannot be built from source, packages contradict each other, or the store cannot be written. What
/// was ingested before stays, and the next build goes on from there.
pub async fn build(
    store: &Store,
    network: &Network,
    mut request: BuildRequest,
    builder: Option<&SourceBuilder<'_>>,
    progress: &dyn BuildProgress,
) -> Result<Built, BuildError> {
    let imported = Imported::of(store, request.base.as_ref(), &request.packages)?;
    imported.stand_in(&mut request.packages);
    let made = sources::wheels(store, network, &request, builder, progress).await?;
    request.wheels.extend(made);
    request.sources.clear();
    if let Some(found) = find_built(store, &request)? {
        return Ok(found);
    }
    let destination = Destination::in_store(store)?;
    let archives = Archive::all(&request.packages, &request.wheels);
    let mut brought = bring_all(&destination, network, archives, progress).await?;
    imported.stand_back(&mut brought);
    let written = written_for(&brought);
    let new_packages = brought.iter().filter(|archive| archive.written.inodes > 0).count();
    blocking(move || {
        let contents = Contents::in_link_order(brought)?;
        finish(&destination, &request, &contents, new_packages, written)
    })
    .await
}

/// The environment, if it was built before. Only possible where the lock holds every digest.
fn find_built(store: &Store, request: &BuildRequest) -> Result<Option<Built>, BuildError> {
    let Some(signature) = known_signature(store, request)? else {
        return Ok(None);
    };
    claimed(store, &signature)
}

/// The environment, if it is there, and from now on kept.
fn claimed(store: &Store, signature: &Digest) -> Result<Option<Built>, BuildError> {
    match Claim::take(store, signature) {
        Ok((environment, kept)) => Ok(Some(reused(environment, kept))),
        Err(envfs_store::Error::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The signature of what is asked for; none where the lock does not hold every digest.
///
/// # Errors
/// The packages contradict each other, or the record of a base is damaged.
pub fn known_signature(store: &Store, request: &BuildRequest) -> Result<Option<Digest>, BuildError> {
    let is_known = |package: &LockedPackage| package.is_complete() && package.sha256().is_some();
    if !request.packages.iter().all(is_known) || request.wheels.iter().any(|wheel| wheel.sha256().is_none()) {
        return Ok(None);
    }
    let mut packages = request.packages.clone();
    Imported::of(store, request.base.as_ref(), &packages)?.stand_in(&mut packages);
    let packages = link_order(packages)?;
    let wheels = wheel_order(request.wheels.clone())?;
    let signature = identity(
        store,
        request,
        packages
            .iter()
            .filter_map(LockedPackage::sha256)
            .map(Sha256::from_bytes)
            .collect(),
        wheels
            .iter()
            .filter_map(LockedWheel::sha256)
            .map(Sha256::from_bytes)
            .collect(),
    )?;
    Ok(Some(signature))
}

fn reused(environment: Environment, kept: Option<Claim>) -> Built {
    Built {
        environment,
        reused: true,
        new_packages: 0,
        written: Written::default(),
        clashes: Vec::new(),
        script_outputs: Vec::new(),
        bound: Vec::new(),
        skipped_scripts: Vec::new(),
        kept: kept.map(Arc::new),
    }
}

fn identity(
    store: &Store,
    request: &BuildRequest,
    mut archives: Vec<Sha256>,
    mut wheels: Vec<Sha256>,
) -> Result<Digest, BuildError> {
    let mut environment = None;
    if let Some(base) = &request.base
        && base.is_changed(store)?
    {
        let inherited: BTreeSet<Sha256> = base.all_packages(store)?.iter().map(|package| package.sha256).collect();
        archives.retain(|archive| !inherited.contains(archive));
        wheels.retain(|wheel| !inherited.contains(wheel));
        environment = Some(base.signature);
        if archives.is_empty() && wheels.is_empty() && request.variables == base.variables {
            return Ok(base.signature);
        }
    }
    let options = BuildOptions {
        bytecode: request.bytecode,
        link_scripts: request.link_scripts.is_some(),
    };
    let identity = Identity {
        environment,
        subdir: request.subdir.to_string(),
        options: options.off().map(|name| (name.to_owned(), "off".to_owned())).collect(),
        variables: request.variables.clone(),
        archives,
        wheels,
    };
    Ok(identity.signature())
}

/// What an environment is made of, in link order, with its layers.
#[derive(Default)]
pub(crate) struct Contents {
    packages: Vec<(LockedPackage, Layer)>,
    wheels: Vec<(LockedWheel, Layer)>,
}

impl Contents {
    fn in_link_order(brought: Vec<Brought>) -> Result<Self, BuildError> {
        let (mut packages, mut wheels) = (Vec::new(), Vec::new());
        for Brought { archive, layer, .. } in brought {
            match archive {
                Archive::Package(package) => packages.push((*package, layer)),
                Archive::Wheel(wheel) => wheels.push((*wheel, layer)),
            }
        }
        let mut contents = Self::default();
        contents.set_packages(packages)?;
        contents.set_wheels(wheels)?;
        Ok(contents)
    }

    /// Its conda packages, in any order.
    pub(crate) fn set_packages(&mut self, packages: Vec<(LockedPackage, Layer)>) -> Result<(), PackageError> {
        let order = link_order(packages.iter().map(|(package, _)| package.clone()).collect())?;
        let mut layers: BTreeMap<String, Layer> = packages
            .into_iter()
            .map(|(package, layer)| (package.name().to_owned(), layer))
            .collect();
        let linked = order.into_iter();
        self.packages = linked
            .filter_map(|package| layers.remove(package.name()).map(|layer| (package, layer)))
            .collect();
        Ok(())
    }

    /// Its wheels, in any order.
    pub(crate) fn set_wheels(&mut self, wheels: Vec<(LockedWheel, Layer)>) -> Result<(), PackageError> {
        let order = wheel_order(wheels.iter().map(|(wheel, _)| wheel.clone()).collect())?;
        let mut layers: BTreeMap<String, Layer> = wheels
            .into_iter()
            .map(|(wheel, layer)| (wheel.name().to_owned(), layer))
            .collect();
        let linked = order.into_iter();
        self.wheels = linked
            .filter_map(|wheel| layers.remove(wheel.name()).map(|layer| (wheel, layer)))
            .collect();
        Ok(())
    }

    fn signature(&self, store: &Store, request: &BuildRequest) -> Result<Digest, BuildError> {
        let archives = self.packages.iter().map(|(_, layer)| layer.archive).collect();
        let wheels = self.wheels.iter().map(|(_, layer)| layer.archive).collect();
        identity(store, request, archives, wheels)
    }

    /// The layers whose modules may come without bytecode.
    fn sources(&self) -> Vec<&Layer> {
        let packages = self.packages.iter().map(|(_, layer)| layer);
        packages.chain(self.wheels.iter().map(|(_, layer)| layer)).collect()
    }

    /// What an environment's record says of them.
    fn described(&self) -> Vec<Package> {
        let packages = self
            .packages
            .iter()
            .map(|(package, layer)| describe_package(package, layer));
        packages
            .chain(self.wheels.iter().map(|(wheel, layer)| describe_wheel(wheel, layer)))
            .collect()
    }
}

/// Links the packages and records the environment, unless somebody else has.
pub(crate) fn finish(
    destination: &Destination,
    request: &BuildRequest,
    contents: &Contents,
    new_packages: usize,
    written: Written,
) -> Result<Built, BuildError> {
    let store = &destination.store;
    let signature = contents.signature(store, request)?;
    let _reservation = store.reserve(&format!("environment-{signature}"))?;
    if let Some(found) = claimed(store, &signature)? {
        return Ok(Built {
            new_packages,
            written,
            ..found
        });
    }
    let linked = link_and_record(destination, request, contents, signature, written)?;
    Ok(Built { new_packages, ..linked })
}

/// Links the packages and records the environment, called `signature`.
fn link_and_record(
    Destination { store, workspace }: &Destination,
    request: &BuildRequest,
    contents: &Contents,
    signature: Digest,
    mut written: Written,
) -> Result<Built, BuildError> {
    let (bytecode, compiled) = match request.bytecode {
        true => bytecode::bring(store, workspace, &contents.packages, &contents.sources())?,
        false => (Bytecode::new(), Written::default()),
    };
    written += compiled;
    let mut described = contents.described();
    let base = request
        .base
        .as_ref()
        .map(|base| OpenBase::open(store, base, &described))
        .transpose()?;
    let inherited = match (&request.link_scripts, &request.base) {
        (Some(_), Some(base)) => scripts::layers_of(store, base)?,
        _ => Vec::new(),
    };
    let linkage = Linkage {
        packages: &contents.packages,
        wheels: &contents.wheels,
        bytecode: &bytecode,
        subdir: request.subdir,
        variables: &request.variables,
        base: base.as_ref().map(OpenBase::as_base),
        // What was changed later in a base that was written to is in its tree, and counts.
        changes: match &base {
            Some(base) if base.is_changed => &[],
            _ => &inherited,
        },
    };
    let linked = link::link(store, workspace, &linkage)?;
    written += linked.written;
    let site = ScriptSite {
        store,
        workspace,
        signature,
        tree: linked.tree.digest,
        variables: &request.variables,
    };
    let settled = scripts::settle(&site, request, &contents.packages, &inherited)?;
    written += settled.written;
    written.inodes += 1; // the record itself
    let mut environment = Environment::new(signature, request.subdir.to_string(), settled.tree);
    environment.base = base.as_ref().map(|base| base.environment.signature);
    described.retain(|package| {
        base.as_ref()
            .is_none_or(|base| !base.archives.contains(&package.sha256))
    });
    environment.packages = described;
    environment.link_scripts = settled.layer;
    environment.variables.clone_from(&request.variables);
    environment.added = written;
    let (environment, kept) = {
        // Nobody collects it between its publication and the claim.
        let _shared = store.share()?;
        environment.publish(store, workspace)?;
        Claim::take(store, &signature)?
    };
    Ok(Built {
        environment,
        kept: kept.map(Arc::new),
        reused: false,
        new_packages: 0,
        written,
        clashes: linked.clashes,
        script_outputs: settled.outputs,
        bound: settled.bound,
        skipped_scripts: linked
            .link_scripts
            .into_iter()
            .filter(|script| request.link_scripts.is_none() || script.is_always_skipped())
            .map(|script| script.path)
            .collect(),
    })
}

fn describe_package(package: &LockedPackage, layer: &Layer) -> Package {
    Package {
        kind: PackageKind::Conda,
        name: package.name().to_owned(),
        version: package.version(),
        build: package.build().to_owned(),
        subdir: package.subdir().to_owned(),
        url: package.redacted_url(),
        sha256: layer.archive,
        size_bytes: package.size_bytes().unwrap_or_default(),
    }
}

fn describe_wheel(wheel: &LockedWheel, layer: &Layer) -> Package {
    Package {
        kind: PackageKind::Pypi,
        name: wheel.name().to_owned(),
        version: wheel.version().to_owned(),
        build: wheel.file_name().tag(),
        subdir: String::new(),
        url: wheel.redacted_url(),
        sha256: layer.archive,
        size_bytes: wheel.size_bytes().unwrap_or_default(),
    }
}

/// Runs what may block beside the asynchronous work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    task::spawn_blocking(work)
        .await
        .map_err(|error| BuildError::Worker(error.to_string()))?
}
