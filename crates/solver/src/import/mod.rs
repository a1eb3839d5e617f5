//! An environment that another installer made becomes one of the store: conda's, a venv, pixi's.
//!
//! Its packages are recognised by their records. Those whose archives the store holds (or, if asked for, can be fetched) are linked from
//! there; the files of the others are taken from the prefix as layers of their own, in the form in which an archive would have brought
//! them, so that the result can be seen at any place and shares everything with its like. What the prefix holds besides, or instead,
//! becomes a thin layer on top: the environment that was linked is compared with the prefix, byte by byte, so that no rule in here
//! can lose anything. The prefix is only read.

mod conda;
mod dist;
mod importer;
mod machine;
mod own;
mod prefix;
mod relocate;
mod requested;
mod survey;
mod venv;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use envfs_store::Store;
use envfs_store::capture::Change;
use envfs_store::environment::{Environment, PackageKind};
use envfs_store::ingest::Written;
use envfs_store::lease::Claim;
use envfs_store::path::InvalidPath;
use envfs_store::tree::merge::Clash;
use envfs_store::view::PrefixError;

use crate::build::{self, Archive, BuildError, BuildProgress, Destination, LinkScripts};
use crate::network::Network;
use crate::package::PackageError;
use importer::Importer;
use survey::Surveyed;

pub use machine::MachinePython;
pub use prefix::PrefixKind;
pub use requested::Requested;

/// What is to be imported, and how.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// The environment: a directory with `conda-meta` or `pyvenv.cfg`, or a pixi project.
    pub prefix: PathBuf,
    /// Whether archives of conda packages that the store does not hold are fetched from where they came from. One that cannot be
    /// fetched is taken from the prefix.
    pub fetch: bool,
    /// Whether modules that come without bytecode are compiled.
    pub bytecode: bool,
    /// Who runs the packages' link scripts, so that what they wrote is no change; nobody, if they are to be left out.
    pub link_scripts: Option<Arc<dyn LinkScripts>>,
    /// Whether links and editable installations that lead out of the prefix are kept as they are.
    pub keep_outside: bool,
}

/// What was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The environment.
    pub environment: Environment,
    /// What kind of prefix it was.
    pub kind: PrefixKind,
    /// Whether the store had the environment already.
    pub reused: bool,
    /// Its packages, by kind and name.
    pub packages: Vec<ImportedPackage>,
    /// How the prefix differs from its packages, sorted by path.
    pub changes: Vec<Change>,
    /// What leads out of the prefix and was kept.
    pub outside: Vec<Outside>,
    /// What the files of the prefix hold, in bytes.
    pub prefix_bytes: u64,
    /// What was added to the store.
    pub written: Written,
    /// Paths that more than one package brings.
    pub clashes: Vec<Clash>,
    /// Keeps it from being collected as long as this lives; none where the store cannot be written.
    pub kept: Option<Arc<Claim>>,
}

/// One package of what was imported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct ImportedPackage {
    /// Where it comes from.
    pub kind: PackageKind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its build string or tags.
    pub build: String,
    /// What its files were taken from.
    pub origin: Origin,
}

/// What the files of a package were taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From the archive, whose layer was in the store.
    Store,
    /// From the archive, which was fetched.
    Fetched,
    /// From the prefix.
    Prefix,
}

/// Something that leads out of the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Outside {
    /// The file or link.
    pub path: String,
    /// Where it leads.
    pub target: String,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is no environment.
    #[error("{} is not an environment: it has neither conda-meta nor pyvenv.cfg", path.display())]
    NotAnEnvironment {
        /// What was named.
        path: PathBuf,
    },
    /// Its path cannot be in texts.
    #[error("the path `{}` cannot be imported from: it is not UTF-8, or holds a line break", path.display())]
    Unusable {
        /// What was named.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Files cannot be taken along.
    #[error("{} holds what cannot be imported: {}", prefix.display(), some(files))]
    Unreadable {
        /// The environment.
        prefix: PathBuf,
        /// The files, each with the reason.
        files: Vec<String>,
    },
    /// Something leads out of the prefix, and would be missing elsewhere.
    #[error("{} does not stand alone: {}", prefix.display(), leads(found))]
    Outside {
        /// The environment.
        prefix: PathBuf,
        /// What leads out.
        found: Vec<Outside>,
    },
    /// A record of a package cannot be read.
    #[error("{} is not the record of a package: {reason}", file.display())]
    Record {
        /// The record.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The Python of a venv cannot be taken along.
    #[error("{}: {reason}", file.display())]
    Venv {
        /// The file that names it.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A path that cannot be in an environment.
    #[error(transparent)]
    Path(InvalidPath),
    /// The packages contradict each other.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The environment cannot be linked.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The environment cannot be compared with the prefix.
    #[error(transparent)]
    View(#[from] PrefixError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
    /// A worker stopped.
    #[error("a worker stopped unexpectedly: {0}")]
    Worker(String),
}

impl ImportError {
    fn path(error: InvalidPath) -> Self {
        Self::Path(error)
    }
}

/// Takes an environment that another installer made into the store.
///
/// # Errors
/// When there is none, it does not stand alone, something of it cannot be read, or the store cannot be written. What was taken in
/// until then stays, and nothing refers to it.
pub async fn import(
    store: &Store,
    network: &Network,
    request: ImportRequest,
    progress: &dyn BuildProgress,
) -> Result<Imported, ImportError> {
    let destination = Destination::in_store(store)?;
    let (request, found) = blocking(move || {
        let found = Surveyed::of(&request.prefix, request.keep_outside)?;
        Ok((request, found))
    })
    .await?;
    let mut fetched = BTreeSet::new();
    let mut written = Written::default();
    if request.fetch {
        let archives = found.packages.iter().map(|installed| installed.package.clone());
        let archives = archives
            .filter(|package| package.sha256().is_some())
            .map(|package| Archive::Package(Box::new(package)))
            .collect();
        for brought in build::bring_each(&destination, network, archives, progress).await {
            match brought {
                Ok(brought) if brought.written.inodes > 0 => {
                    written += brought.written;
                    fetched.insert(brought.layer.archive);
                }
                Ok(_) => {}
                Err(error) => tracing::info!("taken from the prefix: {error}"),
            }
        }
    }
    blocking(move || Importer::new(destination, request, found, fetched)?.finish(written)).await
}

/// Runs what may block beside the asynchronous work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, ImportError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ImportError::Worker(error.to_string()))?
}

/// The first few of many.
fn some(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > SHOWN {
        text += &format!("; and {} more", all.len() - SHOWN);
    }
    text
}

fn leads(found: &[Outside]) -> String {
    let all: Vec<String> = found
        .iter()
        .map(|outside| format!("`{}` leads to {}", outside.path, outside.target))
        .collect();
    some(&all)
}
