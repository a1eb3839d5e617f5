//! Which processes use a mount: what `/proc` tells of their directories, programs, open files and maps.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

/// Some of the other processes that use the mount at `mount_point`, at most `limit`. Those of other users may be
/// invisible.
pub(crate) fn holders(mount_point: &Path, limit: usize) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid = entry
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .filter(|&pid| pid != std::process::id())?;
            let process = entry.path();
            uses(&process, mount_point).then(|| Holder {
                pid,
                name: fs::read_to_string(process.join("comm")).map_or_else(|_| "?".into(), |name| name.trim().into()),
            })
        })
        .take(limit)
        .collect()
}

fn uses(process: &Path, mount_point: &Path) -> bool {
    let is_below = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(mount_point));
    if ["cwd", "exe", "root"].iter().any(|name| is_below(&process.join(name))) {
        return true;
    }
    let opens = fs::read_dir(process.join("fd"))
        .is_ok_and(|mut links| links.any(|link| link.is_ok_and(|link| is_below(&link.path()))));
    opens || fs::read(process.join("maps")).is_ok_and(|maps| maps_mention(&maps, mount_point))
}

/// The sixth field of a line of `maps` is the path, which may hold spaces.
fn maps_mention(maps: &[u8], mount_point: &Path) -> bool {
    let prefix = [b" ", mount_point.as_os_str().as_bytes(), b"/"].concat();
    maps.windows(prefix.len()).any(|window| window == prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_in_a_directory_uses_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        assert_eq!(holders(&path, usize::MAX), []);
        let mut user = std::process::Command::new("sleep")
            .arg("100")
            .current_dir(&path)
            .spawn()
            .unwrap();
        let found = holders(&path, usize::MAX);
        user.kill().unwrap();
        user.wait().unwrap();
        assert_eq!(
            found,
            [Holder {
                pid: user.id(),
                name: "sleep".into()
            }]
        );
    }

    #[test]
    fn a_mapped_file_counts_by_its_whole_path() {
        let maps = b"7f00-7f01 r-xp 00000000 00:32 7   /envs/x y/lib/libz.so\n";
        assert!(maps_mention(maps, Path::new("/envs/x y")));
        assert!(!maps_mention(maps, Path::new("/envs/x")));
        assert!(!maps_mention(maps, Path::new("/lib")));
    }
}
