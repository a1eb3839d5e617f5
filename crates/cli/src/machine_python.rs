//! The Python of this machine, for environments of packages from PyPI alone: where it is looked for, and how it becomes a base.

use std::path::{Path, PathBuf};

use envfs_solver::MachinePython;
use envfs_store::environment::Environment;

use crate::context::Context;
use crate::error::CliError;
use crate::surroundings::{home, variable, xdg};

/// The environment of a Python of this machine, if there is one of the version; which one is taken is said.
pub(crate) fn environment(
    context: &Context,
    program: Option<&Path>,
    version: Option<&str>,
    bytecode: bool,
) -> Result<Option<Environment>, CliError> {
    let candidates = match program {
        Some(program) => vec![program.to_owned()],
        None => candidates(version),
    };
    let Some(python) = MachinePython::find(candidates, version) else {
        return Ok(None);
    };
    context.note(&format!(
        "Python {} is this machine's own: {}",
        python.version(),
        python.program().display()
    ));
    // Until this command claims it itself.
    let (environment, _kept) = python.environment(&context.store()?, bytecode)?;
    context.claim(&context.store()?, &environment.signature).map(Some)
}

/// There is none.
pub(crate) fn missing(program: Option<&Path>, version: Option<&str>) -> CliError {
    let wanted = version.map_or_else(|| "Python 3".to_owned(), |version| format!("Python {version}"));
    let message = match program {
        Some(program) => format!("{} is no {wanted}, as CPython releases it", program.display()),
        None => format!("this machine has no {wanted}, as CPython releases it"),
    };
    CliError::new(message)
        .help("install it, name its program with `--machine-python=PROGRAM`, or a channel that has it with `-c`")
}

/// What may be a Python: on the search path, and where pyenv and uv install theirs, the newest first.
fn candidates(version: Option<&str>) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A shim of pyenv is called like every Python, and is one only where it is told to be.
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute() && !directory.ends_with("shims"))
        .collect();
    let pyenv = variable("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(home()?.join(".pyenv")));
    let uv = variable("UV_PYTHON_INSTALL_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(xdg("XDG_DATA_HOME", ".local/share")?.join("uv/python")));
    for installed in [pyenv.map(|root| root.join("versions")), uv].into_iter().flatten() {
        directories.extend(newest_first(&installed).into_iter().map(|path| path.join("bin")));
    }
    let mut numbers = version.unwrap_or_default().split('.');
    let versioned = match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => Some(format!("python{major}.{minor}")),
        _ => None,
    };
    let names: Vec<String> = versioned.into_iter().chain(["python3".to_owned()]).collect();
    let programs = directories
        .iter()
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    programs.filter(|program| program.is_file()).collect()
}

/// The directories in a directory, by the numbers in their names.
fn newest_first(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<(Vec<u64>, PathBuf)> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let numbers = name.split(|c: char| !c.is_ascii_digit());
            (numbers.filter_map(|number| number.parse().ok()).collect(), entry.path())
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}
