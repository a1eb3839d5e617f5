//! The variables of the process, and the directories they name.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A variable of the process's environment, if it is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variables by which uv is configured: they decide what it finds.
pub(crate) fn uv_settings() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with("UV_"))
        .collect()
}

/// The home directory of the user.
pub(crate) fn home() -> Option<PathBuf> {
    variable("HOME").map(PathBuf::from)
}

/// A directory of the XDG base directory specification.
pub(crate) fn xdg(name: &str, default: &str) -> Option<PathBuf> {
    variable(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(home()?.join(default)))
}

/// Where this program keeps for the user what it can find out again.
pub(crate) fn own_cache() -> PathBuf {
    xdg("XDG_CACHE_HOME", ".cache")
        .unwrap_or_else(std::env::temp_dir)
        .join("envfs")
}
