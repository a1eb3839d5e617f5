//! What `<ENV>` stands for: a file that exists, else a signature, else a name.

use std::path::Path;
use std::process::{Command, Stdio};

use envfs_solver::{DEFAULT_ENVIRONMENT, Lock, LockedContents, Subdir};
use envfs_store::environment::{self, Environment};
use envfs_store::name::Name;
use envfs_store::names::{NameError, Names};

use crate::context::Context;
use crate::error::CliError;

/// A text that stands for an environment.
pub(crate) enum Reference<'a> {
    Built(Handle<'a>),
    LockFile(&'a Path),
    SpecFile(&'a Path),
}

/// What an environment in the store is called.
pub(crate) enum Handle<'a> {
    Signature(&'a str),
    Name(Name),
}

impl<'a> Reference<'a> {
    /// Tells what `text` stands for. A file that exists is a file, whatever it is called. Else what has only hexadecimal
    /// digits is a signature; no name can look like one.
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
        if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Built(Handle::Signature(text)));
        }
        match text.parse() {
            Ok(name) => Ok(Self::Built(Handle::Name(name))),
            Err(_) if looks_like_a_file(text) => Err(no_file(text)),
            Err(error) => Err(CliError::from(error).help(KINDS)),
        }
    }
}

impl Handle<'_> {
    /// The environment that is called so.
    pub(crate) fn environment(&self, context: &Context) -> Result<Environment, CliError> {
        let store = context.store()?;
        match self {
            Self::Signature(text) => Ok(environment::find(&store, text)?),
            Self::Name(name) => {
                let signature = Names::of(&store).load(name)?.current.signature;
                environment::get(&store, &signature)?.ok_or_else(|| NameError::NotBuilt(signature).into())
            }
        }
    }
}

const KINDS: &str = "an environment is a signature, a name, a lock file or a spec file; `envfs ls` lists what is built";

fn looks_like_a_file(text: &str) -> bool {
    !text.contains(':') && text.contains(['/', '.'])
}

fn no_file(text: &str) -> CliError {
    CliError::new(format!("there is no file `{text}`")).help(KINDS)
}

/// The environment that `text` stands for, built if it is not. Nobody collects it until this command ends.
///
/// Building runs in a process of its own, so that this one stays without threads and may fork afterwards.
pub(crate) fn environment(context: &Context, text: &str) -> Result<Environment, CliError> {
    let environment = match Reference::parse(text)? {
        Reference::Built(handle) => handle.environment(context).map_err(|error| match handle {
            // Whoever wrote a path is not told of names first.
            Handle::Name(_) if looks_like_a_file(text) => no_file(text).because(error.message()),
            _ => error,
        })?,
        Reference::LockFile(_) | Reference::SpecFile(_) => {
            let signature = build_in_child(context, text)?;
            environment::find(&context.store()?, &signature)?
        }
    };
    context.claim(&context.store()?, &environment.signature, Path::new("/"))?;
    Ok(environment)
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
    })
}

fn build_in_child(context: &Context, text: &str) -> Result<String, CliError> {
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
        .arg("--")
        .arg(text)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        let code = output.status.code().and_then(|code| u8::try_from(code).ok());
        return Err(CliError::silent(code.unwrap_or(1)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
