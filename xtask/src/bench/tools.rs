//! The tools of today: from PyPI, crates.io and Debian, in a directory of the bench's own. It says what it installs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::crates::Crate;
use crate::{sh, system};

/// Which versions from PyPI are compared.
const PYPI: [&str; 2] = ["py-rattler==0.28.0", "uv==0.13.9"];

/// composefs's command: Debian 12 has none.
const COMPOSEFS: Crate = Crate {
    name: "composefs-ctl",
    version: "0.9.4",
    features: Some("pre-6.15"),
    program: "cfsctl",
    is_measured: true,
};

/// rattler's command, for its mount.
const RATTLER: Crate = Crate {
    name: "rattler-bin",
    version: "0.5.14",
    features: Some("rustls,mount"),
    program: "rattler",
    is_measured: true,
};

/// The Debian packages of the programs that the bench itself runs.
const PROGRAMS: [(&str, &str); 5] = [
    ("strace", "strace"),
    ("mkfs.erofs", "erofs-utils"),
    ("mksquashfs", "squashfs-tools"),
    ("fusermount3", "fuse3"),
    ("mount", "mount"),
];

/// Where the tools are, or why they are not.
pub(super) struct Tools {
    pypi: Result<PathBuf, String>,
    composefs: Result<PathBuf, String>,
    rattler: Result<PathBuf, String>,
    /// What is compared, for the report.
    pub(super) versions: Vec<String>,
}

impl Tools {
    /// Sees to it that they are there; `with_slow_builds` also those that take many minutes to build.
    ///
    /// # Errors
    /// When a program of Debian's, without which nothing can be measured, cannot be installed.
    pub(super) fn ensure(directory: &Path, with_slow_builds: bool) -> Result<Self> {
        system::ensure_programs(&PROGRAMS)?;
        let rattler = if RATTLER.path(directory).exists() || with_slow_builds {
            system::ensure_programs(&[("cmake", "cmake")]).and_then(|()| RATTLER.ensure(directory))
        } else {
            Err(anyhow!(
                "not built here, its build takes many minutes: `cargo xtask bench --all` does it"
            ))
        };
        let said = |outcome: Result<PathBuf>| outcome.map_err(|error| format!("{error:#}"));
        let mut versions: Vec<String> = PYPI.map(|pin| pin.replace("==", " ")).into();
        versions.push(format!("{} {}", COMPOSEFS.name, COMPOSEFS.version));
        versions.push(format!("{} {}", RATTLER.name, RATTLER.version));
        for (program, _) in &PROGRAMS[1..3] {
            versions.extend(version_of(program));
        }
        Ok(Self {
            pypi: said(ensure_pypi(directory)),
            composefs: said(COMPOSEFS.ensure(directory)),
            rattler: said(rattler),
            versions,
        })
    }

    /// A program of the tools from PyPI.
    pub(super) fn pypi(&self, program: &str) -> Result<PathBuf> {
        Ok(given(&self.pypi)?.join(program))
    }

    pub(super) fn composefs(&self) -> Result<PathBuf> {
        given(&self.composefs)
    }

    pub(super) fn rattler(&self) -> Result<PathBuf> {
        given(&self.rattler)
    }
}

fn given(outcome: &Result<PathBuf, String>) -> Result<PathBuf> {
    outcome.clone().map_err(|reason| anyhow!("{reason}"))
}

/// A virtual environment with the tools from PyPI; the directory of its programs.
///
/// # Errors
/// When it cannot be made.
pub(super) fn ensure_pypi(directory: &Path) -> Result<PathBuf> {
    let venv = directory.join("venv");
    let stamp = venv.join("tools.txt");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == PYPI.join("\n")) {
        return Ok(venv.join("bin"));
    }
    system::ensure_programs(&[("python3", "python3")])?;
    // The modules are there only if another package is: no program tells.
    if sh::run_quiet(sh::command("python3").args(["-c", "import ensurepip, venv"])).is_err() {
        system::install(&["python3-venv"])?;
    }
    sh::say(&format!(
        "installing {} from PyPI into {}",
        PYPI.join(" "),
        venv.display()
    ));
    sh::run_quiet(sh::command("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = sh::command(venv.join("bin/python"));
    sh::run_quiet(
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:"])
            .args(PYPI),
    )?;
    fs::write(&stamp, PYPI.join("\n")).context("noting the tools' versions")?;
    Ok(venv.join("bin"))
}

/// The version that a program of Debian's says, if it says one.
fn version_of(program: &str) -> Option<String> {
    let flag = if program == "mksquashfs" { "-version" } else { "-V" };
    let output = sh::command(program).arg(flag).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let first = String::from_utf8_lossy(&said).lines().next()?.trim().to_owned();
    let version = first
        .split(' ')
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(format!("{program} {version}"))
}
