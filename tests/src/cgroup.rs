//! Groups of processes that may have only so much memory together (cgroups(7)); the kernel kills one of them when they need more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::data::skip;

/// Where the kernel shows the groups, and the files that say how much memory one may have, by version.
const HIERARCHIES: [(&str, &str); 2] = [
    ("/sys/fs/cgroup", "memory.max"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// A group for as long as this lives.
pub struct MemoryGroup {
    path: PathBuf,
    limit: &'static str,
}

impl MemoryGroup {
    /// A group whose processes may have `bytes` of memory together; none, and a loud word, where groups cannot be made.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        for (hierarchy, limit) in HIERARCHIES {
            let path = Path::new(hierarchy).join(format!("envfs-it-{}-{number}", std::process::id()));
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self { path, limit };
            if group.path.join(limit).exists() {
                group.limit_to(bytes);
                return Some(group);
            }
        }
        skip("too little memory for a group of processes: no memory cgroup can be made here");
        None
    }

    /// From now on so many, or as few as the kernel lets it have: the older version does not go below what is used.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn limit_to(&self, bytes: u64) {
        let file = self.path.join(self.limit);
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
        held.args(["-c", script]).arg(self.path.join("cgroup.procs"));
        held.arg(command.get_program()).args(command.get_args()).env_clear();
        held.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        held.current_dir(command.get_current_dir().unwrap());
        held
    }

    /// How many processes are inside.
    #[must_use]
    pub fn count(&self) -> usize {
        fs::read_to_string(self.path.join("cgroup.procs")).map_or(0, |text| text.lines().count())
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
