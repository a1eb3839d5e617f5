//! Groups of processes that may have only so much memory together; the kernel kills one of them when they need more.
//!
//! Version 2 is that of the kernel's `Documentation/admin-guide/cgroup-v2.rst` ("Memory Interface Files"), version 1 that of
//! `Documentation/admin-guide/cgroup-v1/memory.rst`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::data::skip;

/// How the kernel shows groups.
#[derive(Clone, Copy, Debug)]
struct Version {
    /// Where.
    hierarchy: &'static str,
    /// The file that says how many bytes a group may have.
    limit: &'static str,
    /// The file that says, in a line of `oom_kill` and a number, how many of its processes were killed for want of memory.
    events: &'static str,
    /// The file of a group that says which controllers the groups in it have, where they have to be given.
    given: Option<&'static str>,
}

const VERSIONS: [Version; 2] = [
    Version {
        hierarchy: "/sys/fs/cgroup",
        limit: "memory.max",
        events: "memory.events",
        given: Some("cgroup.subtree_control"),
    },
    Version {
        hierarchy: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        events: "memory.oom_control",
        given: None,
    },
];

/// The file to which processes are written that are to be in a group, and that lists those that are; the same in both versions.
const PROCESSES: &str = "cgroup.procs";

/// A group for as long as this lives.
pub struct MemoryGroup {
    path: PathBuf,
    version: Version,
}

impl MemoryGroup {
    /// A group whose processes may have `bytes` of memory together; none, and a loud word, where groups cannot be made.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("envfs-it-{}-{number}", std::process::id());
        let made = VERSIONS
            .into_iter()
            .find_map(|version| Self::make(Path::new(version.hierarchy), &name, version));
        match &made {
            Some(group) => group.limit_to(bytes),
            None => skip("too little memory for a group of processes: no memory cgroup can be made here"),
        }
        made
    }

    /// One in `hierarchy`, if its groups have limits of memory.
    fn make(hierarchy: &Path, name: &str, version: Version) -> Option<Self> {
        // Another version's hierarchies lie in the same place: there is nothing to be given then, and no group to be made.
        let path = hierarchy.join(name);
        if let Some(given) = version.given {
            if !hierarchy.join(given).exists() {
                return None;
            }
            // Whether it was given shows in what the group has.
            let _ = fs::write(hierarchy.join(given), "+memory");
        }
        fs::create_dir(&path).ok()?;
        let group = Self { path, version };
        group.path.join(version.limit).exists().then_some(group)
    }

    /// From now on so many, or as few as the kernel lets it have: the older version does not go below what is used.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn limit_to(&self, bytes: u64) {
        let file = self.path.join(self.version.limit);
        let mut bytes = bytes;
        while let Err(error) = fs::write(&file, bytes.to_string()) {
            assert!(
                error.kind() == std::io::ErrorKind::ResourceBusy,
                "{}: {error}",
                file.display()
            );
            bytes += bytes / 8;
        }
    }

    /// The same command inside.
    #[must_use]
    pub fn holds(&self, command: &Command) -> Command {
        let mut held = Command::new("sh");
        let script = "echo $$ > \"$0\" && exec \"$@\"";
        held.args(["-c", script]).arg(self.path.join(PROCESSES));
        held.arg(command.get_program()).args(command.get_args()).env_clear();
        held.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        held.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
        held
    }

    /// How many processes are inside.
    #[must_use]
    pub fn count(&self) -> usize {
        fs::read_to_string(self.path.join(PROCESSES)).map_or(0, |text| text.lines().count())
    }

    /// How many processes the kernel has killed because the group had not enough.
    ///
    /// # Panics
    /// When it does not say.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(self.version.events)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.unwrap().trim().parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Those who were killed are there until they are gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where no kernel has the newer version's controller: the files and what is written to them are those of its document.
    #[test]
    fn a_group_of_the_newer_version_is_limited_filled_and_asked_as_its_document_says() {
        let directory = tempfile::tempdir().unwrap();
        let hierarchy = directory.path();
        let at = |name: &str| hierarchy.join(name);
        // Not that version's.
        assert!(MemoryGroup::make(hierarchy, "none", VERSIONS[0]).is_none() && !at("none").exists());
        fs::write(at("cgroup.subtree_control"), "").unwrap();
        // That version's, without the controller: what was made is gone again.
        assert!(MemoryGroup::make(hierarchy, "without", VERSIONS[0]).is_none() && !at("without").exists());
        assert_eq!(fs::read_to_string(at("cgroup.subtree_control")).unwrap(), "+memory");

        // What the kernel would put there.
        fs::create_dir(at("group")).unwrap();
        fs::write(at("group/memory.max"), "max\n").unwrap();
        fs::write(
            at("group/memory.events"),
            "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
        )
        .unwrap();
        fs::write(at("group/cgroup.procs"), "").unwrap();
        let group = MemoryGroup {
            path: at("group"),
            version: VERSIONS[0],
        };
        group.limit_to(64 << 20);
        assert_eq!(fs::read_to_string(at("group/memory.max")).unwrap(), "67108864");
        assert_eq!(group.kills(), 2);
        assert_eq!(group.count(), 0);
        let mut echo = Command::new("sh");
        let told = group
            .holds(echo.args(["-c", "echo $$"]).env("PATH", "/usr/bin:/bin"))
            .output()
            .unwrap();
        let inside = fs::read_to_string(at("group/cgroup.procs")).unwrap();
        assert_eq!(String::from_utf8(told.stdout).unwrap(), inside);
        assert_eq!(group.count(), 1);
    }
}
