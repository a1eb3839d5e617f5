//! What `<ENV>` stands for: a signature, a lock file or a spec file.

use std::path::Path;
use std::process::{Command, Stdio};

use envfs_solver::{DEFAULT_ENVIRONMENT, Lock, LockedContents, Subdir};
use envfs_store::environment::{self, Environment};

use crate::context::Context;
use crate::error::CliError;

/// A text that stands for an environment.
pub(crate) enum Reference<'a> {
    Signature(&'a str),
    LockFile(&'a Path),
    SpecFile(&'a Path),
}

impl<'a> Reference<'a> {
    /// Tells what `text` stands for. A file that exists is a file, even if it is called like a signature.
    pub(crate) fn parse(text: &'a str) -> Result<Self, CliError> {
        let path = Path::new(text);
        if path.is_file() {
            let content = std::fs::read_to_string(path)
                .map_err(|error| CliError::new(format!("cannot read `{text}`")).because(error.to_string()))?;
            return Ok(if Lock::is_lock(&content) {
                Self::LockFile(path)
            } else {
                Self::SpecFile(path)
            });
        }
        let looks_like_a_file = text.contains(['/', '.']);
        if looks_like_a_file {
            return Err(CliError::new(format!("there is no file `{text}`"))
                .help("an environment is a signature, a lock file or a spec file; `envfs ls` lists what is built"));
        }
        Ok(Self::Signature(text))
    }
}

/// The environment that `text` stands for, built if it is not.
///
/// Building runs in a process of its own, so that this one stays without threads and may fork afterwards.
pub(crate) fn environment(context: &Context, text: &str) -> Result<Environment, CliError> {
    match Reference::parse(text)? {
        Reference::Signature(text) => Ok(environment::find(&context.store()?, text)?),
        Reference::LockFile(_) | Reference::SpecFile(_) => build_in_child(context, &["--".to_owned(), text.to_owned()]),
    }
}

/// What a lock file holds for a platform.
pub(crate) fn locked_contents(path: &Path, name: Option<&str>, subdir: Subdir) -> Result<LockedContents, CliError> {
    contents_of(&Lock::read(path)?, name, subdir)
}

/// What a lock holds for a platform.
pub(crate) fn contents_of(lock: &Lock, name: Option<&str>, subdir: Subdir) -> Result<LockedContents, CliError> {
    let name = name.unwrap_or(DEFAULT_ENVIRONMENT);
    Ok(LockedContents {
        subdir,
        packages: lock.packages(name, subdir)?,
        wheels: lock.wheels(name, subdir)?,
        sources: lock.sources(name, subdir)?,
    })
}

/// What `envfs build` makes of its arguments.
pub(crate) fn build_in_child(context: &Context, arguments: &[String]) -> Result<Environment, CliError> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.arg("--store").arg(context.store_path()?);
    if context.global.offline {
        command.arg("--offline");
    }
    if context.quiet {
        command.arg("--quiet");
    }
    command.args((0..context.global.verbose).map(|_| "--verbose"));
    let output = command
        .arg("build")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        let code = output.status.code().and_then(|code| u8::try_from(code).ok());
        return Err(CliError::silent(code.unwrap_or(1)));
    }
    let signature = String::from_utf8_lossy(&output.stdout);
    Ok(environment::find(&context.store()?, signature.trim())?)
}
