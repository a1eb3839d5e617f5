//! What the machine is on which the figures were taken, for a reader who compares; nothing that tells it from another.

use std::path::Path;

use serde_json::{Value, json};

use crate::sh;

/// Processor, memory, kernel, the file system of a directory, and how busy the machine was before.
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
    // `6.18.44-vendor-1`: what follows the numbers is a name that somebody gave.
    let release = read("/proc/sys/kernel/osrelease");
    let kernel = release.trim().split('-').next().unwrap_or_default().to_owned();
    json!({
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": format!("{} GiB", memory_kib.div_ceil(1024 * 1024)),
        "kernel": kernel,
        "file_system": file_system.ok().and_then(|printed| printed.lines().last().map(str::to_owned)),
        "virtual": field(&read("/proc/cpuinfo"), "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        "load_before": read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}
