//! A lock becomes an environment in the store: archives are fetched and ingested, many at a time, then linked.
//!
//! Whatever is there already is used, whoever made it; what is being made by another process is waited for. Knows how
//! the rooms below work together, and nothing of what is inside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::environment::{self, Environment, Package};
use envfs_store::ingest::Written;
use envfs_store::layer::Layer;
use envfs_store::signature::Identity;
use envfs_store::tree::Tree;
use envfs_store::tree::merge::Clash;
use envfs_store::workspace::Workspace;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio::task;

use crate::archive::{self, ArchiveError};
use crate::fetch::{FetchError, FetchProgress};
use crate::link::{self, Base, LinkError, Linkage};
use crate::network::Network;
use crate::package::{LockedPackage, PackageError, link_order};
use crate::subdir::Subdir;

/// How many archives are fetched at a time: enough to hide latency, few enough for a server to bear.
const MAX_FETCHES: usize = 8;

/// How many archives are ingested at a time. Each may need 128 MiB for its decompressor.
const MAX_INGESTS: usize = 2;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The packages, in any order.
    pub packages: Vec<LockedPackage>,
    /// The platform.
    pub subdir: Subdir,
    /// Environment variables that activation sets.
    pub variables: BTreeMap<String, String>,
    /// The environment to inherit from: all its packages must be among `packages`.
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
    /// Link scripts that were not run, by their paths in the environment.
    pub link_scripts: Vec<String>,
}

/// Told how a build goes on, from several threads.
pub trait BuildProgress: Send + Sync {
    /// So many packages, together of so many bytes, are not in the store yet.
    fn missing(&self, packages: usize, bytes: u64);
    /// So many bytes more have been fetched, or fewer if they were of no use.
    fn fetched(&self, bytes: i64);
    /// A package is in the store.
    fn ingested(&self, package: &str);
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
    /// The packages contradict each other.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The packages cannot be linked.
    #[error(transparent)]
    Link(#[from] LinkError),
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
    /// A worker stopped.
    #[error("a worker stopped unexpectedly: {0}")]
    Worker(String),
}

/// Builds what `request` asks for, or finds it built.
///
/// # Errors
/// When an archive cannot be fetched or is refused, packages contradict each other, or the store cannot be written. What
/// was ingested before stays, and the next build goes on from there.
pub async fn build(
    store: &Store,
    network: &Network,
    request: BuildRequest,
    progress: &dyn BuildProgress,
) -> Result<Built, BuildError> {
    let _shared = store.share()?;
    if let Some(found) = find_built(store, &request)? {
        return Ok(found);
    }
    let workspace = Arc::new(Workspace::create(store)?);
    let brought = bring_all(store, network, &workspace, &request.packages, progress).await?;
    let written = brought
        .iter()
        .map(|package| package.written)
        .fold(Written::default(), |mut sum, written| {
            sum += written;
            sum
        });
    let new_packages = brought.iter().filter(|package| package.written.inodes > 0).count();
    let store = store.clone();
    blocking(move || {
        let packages = in_link_order(brought)?;
        finish(&store, &workspace, &request, &packages, new_packages, written)
    })
    .await
}

/// A package whose layer is in the store.
struct Brought {
    package: LockedPackage,
    layer: Layer,
    written: Written,
}

/// The environment, if it was built before. Only possible where the lock holds every digest.
fn find_built(store: &Store, request: &BuildRequest) -> Result<Option<Built>, BuildError> {
    if !request
        .packages
        .iter()
        .all(|package| package.is_complete() && package.sha256().is_some())
    {
        return Ok(None);
    }
    let ordered = link_order(request.packages.clone())?;
    let archives = ordered
        .iter()
        .filter_map(|package| package.sha256().map(Sha256::from_bytes))
        .collect();
    let signature = identity(request, archives).signature();
    Ok(environment::get(store, &signature)?.map(reused))
}

fn reused(environment: Environment) -> Built {
    Built {
        environment,
        reused: true,
        new_packages: 0,
        written: Written::default(),
        clashes: Vec::new(),
        link_scripts: Vec::new(),
    }
}

fn identity(request: &BuildRequest, archives: Vec<Sha256>) -> Identity {
    Identity {
        subdir: request.subdir.to_string(),
        options: BTreeMap::new(),
        variables: request.variables.clone(),
        archives,
    }
}

async fn bring_all(
    store: &Store,
    network: &Network,
    workspace: &Arc<Workspace>,
    packages: &[LockedPackage],
    progress: &dyn BuildProgress,
) -> Result<Vec<Brought>, BuildError> {
    let missing: Vec<&LockedPackage> = packages.iter().filter(|package| !is_in_store(store, package)).collect();
    let bytes = missing.iter().filter_map(|package| package.size_bytes()).sum();
    progress.missing(missing.len(), bytes);
    let ingests = Arc::new(Semaphore::new(MAX_INGESTS));
    stream::iter(
        packages
            .iter()
            .map(|package| bring(store, network, workspace, &ingests, package, progress)),
    )
    .buffer_unordered(MAX_FETCHES)
    .try_collect()
    .await
}

fn is_in_store(store: &Store, package: &LockedPackage) -> bool {
    package
        .sha256()
        .is_some_and(|sha256| store.has_layer(&Sha256::from_bytes(sha256)))
}

/// Makes sure that the layer of `package` is in the store.
async fn bring(
    store: &Store,
    network: &Network,
    workspace: &Arc<Workspace>,
    ingests: &Arc<Semaphore>,
    package: &LockedPackage,
    progress: &dyn BuildProgress,
) -> Result<Brought, BuildError> {
    if let Some(found) = existing(store, package).await? {
        return Ok(found);
    }
    let (name, url) = (package.file_name(), package.url().to_owned());
    let reservation = {
        let store = store.clone();
        let key = package.sha256().map_or_else(
            || format!("url-{}", envfs_store::Digest::of(url.as_bytes())),
            |sha256| format!("layer-{}", Sha256::from_bytes(sha256)),
        );
        blocking(move || Ok(store.reserve(&key)?)).await?
    };
    // Somebody else may have made it while we waited.
    if let Some(found) = existing(store, package).await? {
        return Ok(found);
    }
    let archive = network
        .fetch_archive(package, &store.spool(), &Forward::new(progress))
        .await?;
    let permit = Arc::clone(ingests)
        .acquire_owned()
        .await
        .map_err(|error| BuildError::Worker(error.to_string()))?;
    let (store, workspace, locked) = (store.clone(), Arc::clone(workspace), package.clone());
    let brought = blocking(move || {
        let _held = (permit, reservation);
        let sha256 = Sha256::from_bytes(archive.sha256);
        let (layer, written) = match store.layer(&sha256)? {
            Some(layer) => (layer, Written::default()),
            None => archive::ingest(&store, &workspace, archive.file, &name, sha256)?,
        };
        complete(locked, layer, archive.size_bytes, written)
    })
    .await?;
    progress.ingested(package.name());
    Ok(brought)
}

async fn existing(store: &Store, package: &LockedPackage) -> Result<Option<Brought>, BuildError> {
    let Some(sha256) = package.sha256().map(Sha256::from_bytes) else {
        return Ok(None);
    };
    let (store, package) = (store.clone(), package.clone());
    blocking(move || match store.layer(&sha256)? {
        None => Ok(None),
        Some(layer) => {
            let size_bytes = package.size_bytes().unwrap_or_default();
            complete(package, layer, size_bytes, Written::default()).map(Some)
        }
    })
    .await
}

/// Fills in what only the archive says, where the lock says little.
fn complete(package: LockedPackage, layer: Layer, size_bytes: u64, written: Written) -> Result<Brought, BuildError> {
    let sha256 = *layer.archive.as_bytes();
    let package = match layer.info.get("index.json") {
        Some(index) if !package.is_complete() => package.completed_from_index_json(index, sha256, size_bytes)?,
        _ => package.with_sha256(sha256),
    };
    Ok(Brought {
        package,
        layer,
        written,
    })
}

fn in_link_order(brought: Vec<Brought>) -> Result<Vec<(LockedPackage, Layer)>, BuildError> {
    let order = link_order(brought.iter().map(|brought| brought.package.clone()).collect())?;
    let mut layers: BTreeMap<String, Layer> = brought
        .into_iter()
        .map(|brought| (brought.package.name().to_owned(), brought.layer))
        .collect();
    Ok(order
        .into_iter()
        .filter_map(|package| {
            let layer = layers.remove(package.name())?;
            Some((package, layer))
        })
        .collect())
}

/// Links the packages and records the environment, unless somebody else has.
fn finish(
    store: &Store,
    workspace: &Workspace,
    request: &BuildRequest,
    packages: &[(LockedPackage, Layer)],
    new_packages: usize,
    mut written: Written,
) -> Result<Built, BuildError> {
    let archives = packages.iter().map(|(_, layer)| layer.archive).collect();
    let signature = identity(request, archives).signature();
    let _reservation = store.reserve(&format!("environment-{signature}"))?;
    if let Some(environment) = environment::get(store, &signature)? {
        return Ok(Built {
            new_packages,
            written,
            ..reused(environment)
        });
    }
    let base = request
        .base
        .as_ref()
        .map(|base| OpenBase::open(store, base, packages))
        .transpose()?;
    let linkage = Linkage {
        packages,
        subdir: request.subdir,
        variables: &request.variables,
        base: base.as_ref().map(OpenBase::as_base),
    };
    let linked = link::link(store, workspace, &linkage)?;
    written += linked.written;
    written.inodes += 1; // the record itself
    let mut environment = Environment::new(signature, request.subdir.to_string(), linked.tree.digest);
    environment.base = base.as_ref().map(|base| base.environment.signature);
    environment.packages = packages
        .iter()
        .filter(|(_, layer)| base.as_ref().is_none_or(|base| !base.archives.contains(&layer.archive)))
        .map(|(package, layer)| describe(package, layer))
        .collect();
    environment.variables.clone_from(&request.variables);
    environment.added = written;
    environment.publish(store, workspace)?;
    Ok(Built {
        environment,
        reused: false,
        new_packages,
        written,
        clashes: linked.clashes,
        link_scripts: linked.link_scripts,
    })
}

/// A base with its tree mapped.
struct OpenBase<'a> {
    environment: &'a Environment,
    tree: Tree,
    archives: BTreeSet<Sha256>,
}

impl<'a> OpenBase<'a> {
    fn open(
        store: &Store,
        environment: &'a Environment,
        packages: &[(LockedPackage, Layer)],
    ) -> Result<Self, BuildError> {
        let mut archives = BTreeSet::new();
        for package in environment.all_packages(store)? {
            if !packages.iter().any(|(_, layer)| layer.archive == package.sha256) {
                return Err(BuildError::NotABase {
                    base: environment.signature.to_string(),
                    package: package.dist_name(),
                });
            }
            archives.insert(package.sha256);
        }
        Ok(Self {
            environment,
            tree: store.tree(&environment.tree)?,
            archives,
        })
    }

    fn as_base(&self) -> Base<'_> {
        Base {
            environment: self.environment,
            tree: &self.tree,
            archives: &self.archives,
        }
    }
}

fn describe(package: &LockedPackage, layer: &Layer) -> Package {
    Package {
        name: package.name().to_owned(),
        version: package.version(),
        build: package.build().to_owned(),
        subdir: package.subdir().to_owned(),
        url: package.redacted_url(),
        sha256: layer.archive,
        size_bytes: package.size_bytes().unwrap_or_default(),
    }
}

/// Sums up the fetches of a build.
struct Forward<'a> {
    progress: &'a dyn BuildProgress,
    fetched: std::sync::atomic::AtomicI64,
}

impl<'a> Forward<'a> {
    fn new(progress: &'a dyn BuildProgress) -> Self {
        Self {
            progress,
            fetched: std::sync::atomic::AtomicI64::new(0),
        }
    }
}

impl FetchProgress for Forward<'_> {
    fn started(&self, _total_bytes: Option<u64>) {}

    fn advanced(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.fetched.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        self.progress.fetched(bytes);
    }

    fn restarted(&self) {
        self.progress
            .fetched(-self.fetched.swap(0, std::sync::atomic::Ordering::Relaxed));
    }

    fn finished(&self) {}
}

/// Runs what may block beside the asynchronous work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    task::spawn_blocking(work)
        .await
        .map_err(|error| BuildError::Worker(error.to_string()))?
}
