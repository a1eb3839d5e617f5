//! Which kernel this is: locks and process numbers mean something only to processes of the same one.

use std::fs;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// A running kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// What the machine is called in all its boots.
    #[serde(default)]
    pub(crate) host: String,
    /// What names this boot and no other (proc(5), `random/boot_id`).
    #[serde(default)]
    pub(crate) boot: String,
}

impl Host {
    /// The one that runs this process, asked once. What cannot be told is empty.
    pub(crate) fn current() -> &'static Self {
        static CURRENT: OnceLock<Host> = OnceLock::new();
        let read = |path| fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned());
        CURRENT.get_or_init(|| Self {
            host: read("/proc/sys/kernel/hostname"),
            boot: read("/proc/sys/kernel/random/boot_id"),
        })
    }

    /// Whether `other` is a kernel that may run beside this one: neither this one nor an earlier boot of its machine. Containers
    /// with names of their own share the boot.
    pub(crate) fn is_apart_from(&self, other: &Self) -> bool {
        !other.boot.is_empty() && self.boot != other.boot && self.host != other.host
    }
}
