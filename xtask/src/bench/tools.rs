//! The tools of today, from PyPI, in a virtual environment of the bench's own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{sh, system};

/// Which versions are compared.
const TOOLS: [&str; 2] = ["py-rattler==0.28.0", "uv==0.13.9"];

/// Sees to it that the tools are there, and returns the directory of their programs.
///
/// # Errors
/// When the virtual environment cannot be made, or PyPI not be reached.
pub(super) fn ensure(directory: &Path) -> Result<PathBuf> {
    let venv = directory.join("venv");
    let stamp = venv.join("tools.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == TOOLS.join("\n")) {
        return Ok(venv.join("bin"));
    }
    system::ensure_programs(&[("python3", "python3")])?;
    // The modules are there only if another package is: no program tells.
    if sh::run_quiet(sh::command("python3").args(["-c", "import ensurepip, venv"])).is_err() {
        system::install(&["python3-venv"])?;
    }
    sh::say(&format!(
        "installing {} from PyPI into {}",
        TOOLS.join(" "),
        venv.display()
    ));
    sh::run_quiet(sh::command("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = sh::command(venv.join("bin/python"));
    sh::run_quiet(
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:"])
            .args(TOOLS),
    )?;
    std::fs::write(&stamp, TOOLS.join("\n")).context("noting the tools' versions")?;
    Ok(venv.join("bin"))
}
