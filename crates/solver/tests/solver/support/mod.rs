//! What the tests stand on: channels built in code, a small HTTP server, and the optional real data.

pub(crate) mod channel;
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use envfs_solver::{Network, NetworkOptions};

/// A way out with its own cache, and retries that do not slow a test down.
pub(crate) fn network(dir: &Path) -> Network {
    Network::new(options(dir)).unwrap()
}

/// The options of [`network`], to be changed.
pub(crate) fn options(dir: &Path) -> NetworkOptions {
    NetworkOptions {
        first_retry_pause: Duration::from_millis(1),
        ..NetworkOptions::new(dir.join("cache"), dir)
    }
}

/// A file or folder of the optional real data; says loudly when it is not there.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data")
        .join(path);
    if found.exists() {
        return Some(found.canonicalize().unwrap());
    }
    eprintln!("SKIPPED: the optional test data {} is not there", found.display());
    None
}

/// A runtime as the command line has one.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
