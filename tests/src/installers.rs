//! The installers that people have: uv, and rattler's as py-rattler, in directories as they leave them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::data::{project, skip};
use crate::program::finish;
use crate::pypi;

/// Says where a Python with py-rattler is; set by `cargo xtask test`.
const PY_RATTLER_VARIABLE: &str = "ENVFS_TEST_PY_RATTLER";

/// The script that both the tests and the bench install with.
const SCRIPT: &str = "xtask/bench/rattler_install.py";

/// Installers, with caches of their own.
pub struct Installers {
    uv: PathBuf,
    py_rattler: PathBuf,
    cache: PathBuf,
}

impl Installers {
    /// With empty caches in `directory`; or nothing, said loudly.
    #[must_use]
    pub fn new(directory: &Path) -> Option<Self> {
        let Some(py_rattler) = std::env::var_os(PY_RATTLER_VARIABLE) else {
            skip("installers: there is no py-rattler, which `cargo xtask test` takes from PyPI");
            return None;
        };
        Some(Self {
            uv: pypi::uv()?,
            py_rattler: py_rattler.into(),
            cache: directory.join("installers"),
        })
    }

    /// A conda environment at `prefix`, by py-rattler.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn conda(&self, prefix: &Path, channel: &str, specs: &[&str]) {
        let mut install = self.command(&self.py_rattler);
        install.arg(project().join(SCRIPT)).arg(channel);
        install.arg(self.cache.join("rattler")).arg(prefix).args(specs);
        finish(&mut install).success();
    }

    /// A virtual environment at `prefix` on a Python of the machine, with what `requirements` ask for of the wheels in a directory;
    /// all by uv.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn venv(&self, prefix: &Path, python: &str, wheels: &Path, requirements: &[&str]) {
        finish(self.uv().args(["venv", "--python", python]).arg(prefix)).success();
        let mut install = self.uv();
        install
            .args(["pip", "install", "--no-index", "--find-links"])
            .arg(wheels);
        install
            .arg("--python")
            .arg(prefix.join("bin/python"))
            .args(requirements);
        finish(&mut install).success();
    }

    fn uv(&self) -> Command {
        let mut uv = self.command(&self.uv);
        uv.arg("--cache-dir").arg(self.cache.join("uv"));
        uv.args(["--no-config", "--offline", "--quiet", "--no-python-downloads"]);
        uv
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.cache)
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/");
        command
    }
}
