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
}

impl Crate {
    /// Where it is in `directory`, or would be.
    pub(crate) fn path(&self, directory: &Path) -> PathBuf {
        directory.join("crates").join(self.name).join("bin").join(self.program)
    }

    /// Builds it with cargo, unless it is there.
    ///
    /// # Errors
    /// When it cannot be fetched or built.
    pub(crate) fn ensure(&self, directory: &Path) -> Result<PathBuf> {
        let path = self.path(directory);
        if path.exists() {
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
        install.arg("--root").arg(directory.join("crates").join(self.name));
        sh::run_quiet(install.arg("--target-dir").arg(&scratch))?;
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot clear {}", scratch.display()))?;
        if !path.exists() {
            bail!("{} has no program {}", self.name, self.program);
        }
        Ok(path)
    }
}
