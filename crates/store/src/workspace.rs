//! A directory for the drafts of one process, swept by others once it is gone.
//!
//! It is also what a collection knows of those who write: while a workspace lives, nothing is unlinked that was in its
//! place when the workspace was made, so that who finds something "already there" may rely on it.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock;
use crate::durable;
use crate::error::Result;
use crate::lock::FileLock;
use crate::store::Store;

/// A draft outside of every workspace is that of the format file, which takes one sync: an older one is abandoned.
const DRAFT_LIFE: Duration = Duration::from_secs(60);

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
        // A collection either knows this workspace, or had moved things aside before anything was looked for.
        let _shared = store.share()?;
        store.forget_removed_packs()?;
        loop {
            let path = durable::create_own_directory(&tmp, "work-")?;
            let lock = path.join("lock");
            // Somebody may sweep it between its creation and its lock: then make another.
            match FileLock::try_exclusive(&lock) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                Ok(None) => {}
                Err(_) if !path.exists() => {}
                Err(error) => {
                    let _ = durable::remove_tree(&path);
                    return Err(error);
                }
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

/// The names of the workspaces whose processes live, in `tmp`.
pub(crate) fn living(tmp: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in crate::store::list(tmp)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("work-") && is_alive(&path) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether the process of a workspace lives. What cannot be told is taken to live.
pub(crate) fn is_alive(path: &Path) -> bool {
    let lock = path.join("lock");
    path.is_dir() && (!lock.exists() || !matches!(FileLock::try_exclusive(&lock), Ok(Some(_))))
}

/// Removes what processes that are gone have left: workspaces, lock files that nobody holds or awaits, and drafts of the
/// format file.
fn sweep(tmp: &Path) -> Result<()> {
    // A host whose clock is ahead must not take for forgotten what another one is writing.
    let now = LazyCell::new(|| clock::now_in(tmp));
    for path in crate::store::list(tmp)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("work-") {
            if let Ok(Some(_lock)) = FileLock::try_exclusive(&path.join("lock")) {
                // It may be one that is being made, not locked yet: whoever makes it must not find half of it.
                let dead = tmp.join(format!("dead-{name}"));
                if durable::move_file(&path, &dead)? {
                    let _ = durable::remove_tree(&dead);
                }
            }
        } else if name.starts_with("dead-") {
            // What another one is removing is not there any more, or soon.
            let _ = durable::remove_tree(&path);
        } else if name.ends_with(".lock") {
            // Who takes such a lock removes its file in the end.
            drop(FileLock::try_transient(&path));
        } else if name.starts_with("draft-") && clock::age_at(&path, *now).is_some_and(|age| age > DRAFT_LIFE) {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_leave_is_swept_and_what_the_living_hold_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let tmp = store.path("tmp");
        let living = Workspace::create(&store).unwrap();
        let held = store.reserve("held").unwrap();
        std::fs::create_dir(tmp.join("work-dead")).unwrap();
        for abandoned in ["work-dead/lock", "work-dead/draft-1-1", "layer-00.lock", "draft-1-2"] {
            std::fs::write(tmp.join(abandoned), "").unwrap();
        }
        let fresh = std::fs::File::create(tmp.join("draft-1-3")).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * DRAFT_LIFE;
        std::fs::File::open(tmp.join("draft-1-2"))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        drop(Workspace::create(&store).unwrap());
        let mut left: Vec<_> = crate::store::list(&tmp).unwrap();
        left.retain(|path| path != living.path());
        assert_eq!(left, [tmp.join("draft-1-3"), tmp.join("held.lock")]);
        drop((fresh, held));
    }
}
