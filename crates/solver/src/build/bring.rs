//! Archives of a lock become layers of the store: whatever is missing is fetched and ingested, many at a time.
//!
//! What is there already is used, whoever made it; what is being made by another process is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::ingest::Written;
use envfs_store::layer::Layer;
use envfs_store::workspace::Workspace;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::{BuildError, BuildProgress, blocking};
use crate::archive;
use crate::fetch::{FetchError, FetchProgress, FetchedArchive};
use crate::limits::ArchiveLimits;
use crate::network::Network;
use crate::package::LockedPackage;
use crate::pypi::LockedWheel;
use crate::wheel;

/// How many archives are fetched at a time: enough to hide latency, few enough for a server to bear.
const MAX_FETCHES: usize = 8;

/// How many archives are ingested at a time. Each may need 128 MiB for its decompressor.
const MAX_INGESTS: usize = 2;

/// An archive of a lock.
#[derive(Clone)]
pub(crate) enum Archive {
    Package(Box<LockedPackage>),
    Wheel(Box<LockedWheel>),
}

/// An archive whose layer is in the store.
pub(crate) struct Brought {
    pub(crate) archive: Archive,
    pub(crate) layer: Layer,
    pub(crate) written: Written,
}

/// Where archives go.
#[derive(Clone)]
pub(crate) struct Destination {
    pub(crate) store: Store,
    pub(crate) workspace: Arc<Workspace>,
}

impl Destination {
    /// In the store, by way of a workspace of its own. While it lives, nothing is unlinked that is found in the store from here on.
    pub(crate) fn in_store(store: &Store) -> Result<Self, envfs_store::Error> {
        Ok(Self {
            store: store.clone(),
            workspace: Arc::new(Workspace::create(store)?),
        })
    }
}

/// What was written for all of them.
pub(super) fn written_for(brought: &[Brought]) -> Written {
    let mut written = Written::default();
    for archive in brought {
        written += archive.written;
    }
    written
}

/// Makes sure that the layers of all `archives` are in the store.
pub(super) async fn bring_all(
    destination: &Destination,
    network: &Network,
    archives: Vec<Archive>,
    progress: &dyn BuildProgress,
) -> Result<Vec<Brought>, BuildError> {
    bringing(destination, network, archives, progress).try_collect().await
}

fn bringing<'a>(
    destination: &'a Destination,
    network: &'a Network,
    archives: Vec<Archive>,
    progress: &'a dyn BuildProgress,
) -> impl Stream<Item = Result<Brought, BuildError>> + 'a {
    let missing: Vec<&Archive> = archives
        .iter()
        .filter(|archive| !archive.is_in(&destination.store))
        .collect();
    let bytes = missing.iter().filter_map(|archive| archive.size_bytes()).sum();
    progress.missing(missing.len(), bytes);
    let ingests = Arc::new(Semaphore::new(MAX_INGESTS));
    stream::iter(
        archives
            .into_iter()
            .map(move |archive| bring(destination, network, Arc::clone(&ingests), archive, progress)),
    )
    .buffer_unordered(MAX_FETCHES)
}

/// As [`bring_all`], but one that cannot be had does not keep the others from being brought.
pub(crate) async fn bring_each(
    destination: &Destination,
    network: &Network,
    archives: Vec<Archive>,
    progress: &dyn BuildProgress,
) -> Vec<Result<Brought, BuildError>> {
    bringing(destination, network, archives, progress).collect().await
}

impl Archive {
    /// Those of packages, and then those of wheels.
    pub(super) fn all(packages: &[LockedPackage], wheels: &[LockedWheel]) -> Vec<Self> {
        let packages = packages.iter().cloned().map(Box::new).map(Self::Package);
        packages
            .chain(wheels.iter().cloned().map(Box::new).map(Self::Wheel))
            .collect()
    }

    fn name(&self) -> &str {
        match self {
            Self::Package(package) => package.name(),
            Self::Wheel(wheel) => wheel.name(),
        }
    }

    fn url(&self) -> &str {
        match self {
            Self::Package(package) => package.url(),
            Self::Wheel(wheel) => wheel.url(),
        }
    }

    fn sha256(&self) -> Option<Sha256> {
        let sha256 = match self {
            Self::Package(package) => package.sha256(),
            Self::Wheel(wheel) => wheel.sha256(),
        };
        sha256.map(Sha256::from_bytes)
    }

    fn size_bytes(&self) -> Option<u64> {
        match self {
            Self::Package(package) => package.size_bytes(),
            Self::Wheel(wheel) => wheel.size_bytes(),
        }
    }

    fn is_in(&self, store: &Store) -> bool {
        self.sha256().is_some_and(|sha256| store.has_layer(&sha256))
    }

    /// What two processes that make the same layer agree upon.
    fn reservation(&self) -> String {
        self.sha256().map_or_else(
            || format!("url-{}", envfs_store::Digest::of(self.url().as_bytes())),
            |sha256| format!("layer-{sha256}"),
        )
    }

    async fn fetch(
        &self,
        network: &Network,
        store: &Store,
        progress: &dyn BuildProgress,
    ) -> Result<FetchedArchive, FetchError> {
        let progress = Forward::new(progress);
        match self {
            Self::Package(package) => network.fetch_archive(package, &store.spool(), &progress).await,
            Self::Wheel(wheel) => network.fetch_wheel(wheel, &store.spool(), &progress).await,
        }
    }

    fn ingest(
        &self,
        destination: &Destination,
        fetched: FetchedArchive,
        limits: &ArchiveLimits,
    ) -> Result<(Layer, Written), BuildError> {
        let Destination { store, workspace } = destination;
        let sha256 = Sha256::from_bytes(fetched.sha256);
        if let Some(layer) = store.layer(&sha256)? {
            return Ok((layer, Written::default()));
        }
        Ok(match self {
            Self::Package(package) => {
                archive::ingest(store, workspace, fetched.file, &package.file_name(), sha256, limits)?
            }
            Self::Wheel(wheel) => wheel::ingest(store, workspace, fetched.file, wheel.file_name(), sha256, limits)?,
        })
    }

    /// Fills in what only the archive says, where the lock says little.
    fn complete(self, layer: Layer, size_bytes: u64, written: Written) -> Result<Brought, BuildError> {
        let sha256 = *layer.archive.as_bytes();
        let archive = match self {
            Self::Package(package) => Self::Package(Box::new(match layer.info.get("index.json") {
                Some(index) if !package.is_complete() => {
                    package.completed_from_index_json(index, sha256, size_bytes)?
                }
                _ => package.with_sha256(sha256),
            })),
            Self::Wheel(locked) => {
                wheel::check(&layer, locked.file_name())?;
                Self::Wheel(Box::new(locked.with_sha256(sha256).with_size_bytes(size_bytes)))
            }
        };
        Ok(Brought {
            archive,
            layer,
            written,
        })
    }
}

async fn bring(
    destination: &Destination,
    network: &Network,
    ingests: Arc<Semaphore>,
    archive: Archive,
    progress: &dyn BuildProgress,
) -> Result<Brought, BuildError> {
    if let Some(found) = existing(destination, &archive).await? {
        return Ok(found);
    }
    let reservation = {
        let (store, key) = (destination.store.clone(), archive.reservation());
        blocking(move || Ok(store.reserve(&key)?)).await?
    };
    // Somebody else may have made it while we waited.
    if let Some(found) = existing(destination, &archive).await? {
        return Ok(found);
    }
    let fetched = archive.fetch(network, &destination.store, progress).await?;
    let permit = ingests
        .acquire_owned()
        .await
        .map_err(|error| BuildError::Worker(error.to_string()))?;
    let name = archive.name().to_owned();
    let (destination, limits) = (destination.clone(), *network.limits());
    let brought = blocking(move || {
        let _held = (permit, reservation);
        let size_bytes = fetched.size_bytes;
        let (layer, written) = archive.ingest(&destination, fetched, &limits)?;
        archive.complete(layer, size_bytes, written)
    })
    .await?;
    progress.ingested(&name);
    Ok(brought)
}

async fn existing(destination: &Destination, archive: &Archive) -> Result<Option<Brought>, BuildError> {
    let Some(sha256) = archive.sha256() else {
        return Ok(None);
    };
    let (store, archive) = (destination.store.clone(), archive.clone());
    blocking(move || match store.layer(&sha256)? {
        None => Ok(None),
        Some(layer) => {
            let size_bytes = archive.size_bytes().unwrap_or_default();
            archive.complete(layer, size_bytes, Written::default()).map(Some)
        }
    })
    .await
}

/// Sums up the fetches of a build.
struct Forward<'a> {
    progress: &'a dyn BuildProgress,
    fetched: AtomicI64,
}

impl<'a> Forward<'a> {
    fn new(progress: &'a dyn BuildProgress) -> Self {
        Self {
            progress,
            fetched: AtomicI64::new(0),
        }
    }
}

impl FetchProgress for Forward<'_> {
    fn started(&self, _total_bytes: Option<u64>) {}

    fn advanced(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.progress.fetched(bytes);
    }

    fn restarted(&self) {
        self.progress.fetched(-self.fetched.swap(0, Ordering::Relaxed));
    }

    fn finished(&self) {}
}
