//! Which boot of which machine this is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use envfs_store::cache::Boot;

/// What names this boot (proc(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What names the boot could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{path}`")]
pub struct BootError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The running boot of this machine, asked once.
///
/// # Errors
/// When `/proc` does not tell it.
pub fn current() -> Result<Boot, BootError> {
    static CURRENT: OnceLock<Boot> = OnceLock::new();
    if let Some(boot) = CURRENT.get() {
        return Ok(boot.clone());
    }
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|source| BootError {
                path: path.to_owned(),
                source,
            })
    };
    let boot = Boot {
        id: read(Path::new(BOOT_ID))?,
        machine: read(Path::new("/proc/sys/kernel/hostname"))?,
    };
    Ok(CURRENT.get_or_init(|| boot).clone())
}
