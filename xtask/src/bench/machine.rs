//! What the machine is on which the figures were taken, for a reader who compares.

use std::path::Path;

use serde_json::{Value, json};

use crate::sh;

/// Processor, memory, kernel, and the file system of a directory.
pub(super) fn describe(directory: &Path) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .map(|rest| rest.trim_matches([' ', ':', '\t']).to_owned())
    };
    let memory_kib: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split(' ').next().and_then(|number| number.parse().ok()))
        .unwrap_or(0);
    let file_system = sh::capture(sh::command("df").arg("--output=fstype").arg(directory));
    json!({
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": format!("{} GiB", memory_kib.div_ceil(1024 * 1024)),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "file_system": file_system.ok().and_then(|printed| printed.lines().last().map(str::to_owned)),
    })
}
