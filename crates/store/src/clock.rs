//! How old files are, by clocks that may be or may have been wrong.
//!
//! A clock that was ahead leaves times in the future. Whoever took them for fresh would keep things until that future comes, and
//! whoever took them for old would lose what is in use. So a time in the future is made now by whoever finds it: from then
//! on the file ages as others do.
//!
//! Files may be dated by another machine, that of a network file system. Where it matters, that one is asked what the time is
//! ([`now_in`]): hosts whose clocks differ then agree on what is old.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::durable::{self, Draft};

/// How long ago `path` was modified; none if that cannot be told. What was modified in the future is modified now, also for
/// others if this user may say so.
#[must_use]
pub fn age(path: &Path) -> Option<Duration> {
    age_at(path, SystemTime::now())
}

/// The same where it is `now`.
pub(crate) fn age_at(path: &Path, now: SystemTime) -> Option<Duration> {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified()).ok()?;
    Some(now.duration_since(modified).unwrap_or_else(|_future| {
        // One whose time this user may not set is as new for whoever looks next.
        let _ = durable::touch(path);
        Duration::ZERO
    }))
}

/// Lets what was modified in the future, where it is `now`, age from now on.
pub(crate) fn settle(path: &Path, now: SystemTime) {
    let _ = age_at(path, now);
}

/// What the time is to whoever dates the files in `directory`; to this host where no file can be made there.
pub(crate) fn now_in(directory: &Path) -> SystemTime {
    Draft::create(directory).map_or_else(|_| SystemTime::now(), |draft| dated(draft.path()))
}

/// What `path` is dated by its file system; by this host's clock if that cannot be told.
pub(crate) fn dated(path: &Path) -> SystemTime {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified());
    modified.unwrap_or_else(|_| SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_from_the_future_ages_from_now_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(age(&path), None);
        let file = std::fs::File::create(&path).unwrap();
        let year = Duration::from_secs(365 * 86_400);
        file.set_modified(SystemTime::now() - year).unwrap();
        assert!(age(&path).unwrap() >= year);
        file.set_modified(SystemTime::now() + year).unwrap();
        assert_eq!(age(&path), Some(Duration::ZERO));
        assert!(file.metadata().unwrap().modified().unwrap() <= SystemTime::now());
    }
}
