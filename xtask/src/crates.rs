//! Programs from crates.io, built once by cargo into a directory of their own.
//!
//! This room does not know what they are for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh;

/// A program of crates.io.
pub(crate) struct Crate {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Only these, instead of the default ones.
    pub(crate) features: Option<&'static str>,
    pub(crate) program: &'static str,
    /// Whether how fast it is matters more than how soon it is built.
    pub(crate) is_measured: bool,
}

impl Crate {
    /// Where it is in `directory`, or would be.
    pub(crate) fn path(&self, directory: &Path) -> PathBuf {
        directory.join("crates").join(self.name).join("bin").join(self.program)
    }

    /// Whether it is there, in this version.
    fn is_there(&self, directory: &Path) -> bool {
        let installed = directory.join("crates").join(self.name).join(".crates.toml");
        let this = format!("\"{} {} (", self.name, self.version);
        self.path(directory).exists() && fs::read_to_string(installed).is_ok_and(|text| text.contains(&this))
    }

    /// Why it can neither be used nor built, where it is not there and crates.io is not reached.
    pub(crate) fn out_of_reach(&self, directory: &Path) -> Option<String> {
        if self.is_there(directory) {
            return None;
        }
        let this = format!("{}@{}", self.name, self.version);
        let outcome = sh::run_quiet(sh::cargo().args(["info", "--quiet", "--registry", "crates-io", &this]));
        Some(format!("{this} cannot be fetched: {}", outcome.err()?))
    }

    /// Builds it with cargo, unless it is there.
    ///
    /// # Errors
    /// When it cannot be fetched or built.
    pub(crate) fn ensure(&self, directory: &Path) -> Result<PathBuf> {
        let path = self.path(directory);
        if self.is_there(directory) {
            return Ok(path);
        }
        sh::say(&format!(
            "building {} {} from crates.io (minutes, once)",
            self.name, self.version
        ));
        let scratch = directory.join("crates/target");
        let mut install = sh::cargo();
        install.args(["install", "--quiet", "--locked", "--version", self.version, self.name]);
        if let Some(features) = self.features {
            install.args(["--no-default-features", "--features", features]);
        }
        if !self.is_measured {
            for (setting, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1")] {
                install.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
            }
        }
        install.arg("--root").arg(directory.join("crates").join(self.name));
        sh::run_quiet(install.arg("--target-dir").arg(&scratch))?;
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot clear {}", scratch.display()))?;
        if !path.exists() {
            bail!("{} has no program {}", self.name, self.program);
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_needs_no_registry_and_what_nobody_has_is_out_of_reach() {
        let directory = tempfile::tempdir().unwrap();
        let mut program = Crate {
            name: "cargo-deny",
            version: "0.0.0",
            features: None,
            program: "cargo-deny",
            is_measured: false,
        };
        let reason = program.out_of_reach(directory.path()).unwrap();
        assert!(reason.contains("cargo-deny@0.0.0 cannot be fetched"), "{reason}");

        let path = program.path(directory.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let installed = "[v1]\n\"cargo-deny 0.0.0 (registry+x)\" = [\"cargo-deny\"]\n";
        fs::write(directory.path().join("crates/cargo-deny/.crates.toml"), installed).unwrap();
        assert_eq!(program.out_of_reach(directory.path()), None);
        assert_eq!(program.ensure(directory.path()).unwrap(), path);
        program.version = "0.0.1";
        assert!(!program.is_there(directory.path()), "another version is built anew");
    }
}
