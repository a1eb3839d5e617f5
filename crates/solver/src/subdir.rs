//! The subdir of a channel: the platform that a package or an environment is for.
//!
//! A name and its checks. This room knows nothing of channels, packages or networks.

use std::fmt;
use std::str::FromStr;

use rattler_conda_types::Subdir as CondaSubdir;

/// A platform as channels spell it: `linux-64`, `osx-arm64`, `noarch`, ...
///
/// Only the names of [CEP 26](https://github.com/conda/ceps/blob/main/cep-0026.md) that exist can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subdir(CondaSubdir);

impl Subdir {
    /// The subdir of packages that fit every platform.
    pub const NOARCH: Self = Self(CondaSubdir::NoArch);

    /// The subdir of the machine this binary was compiled for, if conda has a name for it.
    #[must_use]
    pub fn current() -> Option<Self> {
        CondaSubdir::current().map(Self)
    }

    /// The name, as in a channel's URL.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.0.as_str()
    }

    /// Whether programs of this subdir are for Linux.
    #[must_use]
    pub fn is_linux(&self) -> bool {
        self.0.is_linux()
    }

    /// Whether programs of this subdir are for macOS.
    #[must_use]
    pub fn is_osx(&self) -> bool {
        self.0.is_osx()
    }

    /// Whether programs of this subdir are for Windows.
    #[must_use]
    pub fn is_windows(&self) -> bool {
        self.0.is_windows()
    }

    pub(crate) fn to_conda(self) -> CondaSubdir {
        self.0
    }

    pub(crate) fn from_conda(subdir: CondaSubdir) -> Self {
        Self(subdir)
    }
}

impl fmt::Display for Subdir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a subdir.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not a platform; use a conda subdir such as linux-64, linux-aarch64, osx-arm64, win-64 or noarch")]
pub struct UnknownSubdir {
    /// What was given.
    pub given: String,
}

impl FromStr for Subdir {
    type Err = UnknownSubdir;

    fn from_str(text: &str) -> Result<Self, UnknownSubdir> {
        CondaSubdir::from_str(text)
            .map(Self)
            .map_err(|_| UnknownSubdir { given: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for name in ["linux-64", "linux-aarch64", "osx-arm64", "win-64", "noarch"] {
            assert_eq!(name.parse::<Subdir>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_examples() {
        let error = "linux64".parse::<Subdir>().unwrap_err();
        assert!(error.to_string().contains("'linux64'"));
        assert!(error.to_string().contains("linux-64"));
    }

    #[test]
    fn a_linux_machine_has_a_subdir() {
        let current = Subdir::current().unwrap();
        assert_eq!(current.is_linux(), cfg!(target_os = "linux"));
    }
}
