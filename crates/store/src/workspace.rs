//! A directory for the drafts of one process, swept by others once it is gone.

use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::{IoContext, Result};
use crate::lock::FileLock;
use crate::store::Store;

/// A directory for the drafts of one process, swept by others once it is gone.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    _lock: FileLock,
}

impl Workspace {
    /// Makes a workspace in `store`, after sweeping those whose processes are gone.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn create(store: &Store) -> Result<Self> {
        let tmp = store.path("tmp");
        sweep(&tmp)?;
        loop {
            let path = tempfile::Builder::new()
                .prefix("work-")
                .tempdir_in(&tmp)
                .at("create a workspace in", &tmp)?
                .keep();
            let lock = path.join("lock");
            // Somebody may sweep it between its creation and its lock: then make another.
            match FileLock::try_exclusive(&lock) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                Ok(None) => {}
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next.
        let _ = durable::remove_tree(&self.path);
    }
}

/// Removes the workspaces whose processes are gone.
fn sweep(tmp: &Path) -> Result<()> {
    for path in crate::store::list(tmp)? {
        let is_workspace = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("work-"));
        if !is_workspace {
            continue;
        }
        if let Ok(Some(_lock)) = FileLock::try_exclusive(&path.join("lock")) {
            durable::remove_tree(&path)?;
        }
    }
    Ok(())
}
