//! What `<ENV>` stands for: a file that exists, else a signature, else a name.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use envfs_solver::{DEFAULT_ENVIRONMENT, Lock, LockedContents, Subdir};
use envfs_store::environment::{self, Environment};
use envfs_store::name::Name;
use envfs_store::names::{NameError, Names};
use envfs_store::{Digest, Store};

use crate::context::Context;
use crate::error::CliError;

/// A text that stands for an environment.
pub(crate) enum Reference {
    Built(Handle),
    LockFile(PathBuf),
    SpecFile(PathBuf),
}

/// What an environment in the store is called.
pub(crate) enum Handle {
    Signature(String),
    /// The name, and how it was written.
    Name(Name, String),
}

/// What is looked for in a directory, the most exact first.
const PROJECT_FILES: [&str; 9] = [
    "pixi.lock",
    "conda-lock.yml",
    "uv.lock",
    "poetry.lock",
    "pylock.toml",
    "environment.yml",
    "environment.yaml",
    "pyproject.toml",
    "requirements.txt",
];

impl Reference {
    /// Tells what `text` stands for. A file that exists is a file, whatever it is called, and a directory stands for the lock or the
    /// spec in it. Else what has only hexadecimal digits is a signature; no name can look like one.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let path = if is_directory(text) {
            project_file(Path::new(text))?
        } else {
            PathBuf::from(text)
        };
        if path.is_file() {
            let content = std::fs::read_to_string(&path).map_err(|error| {
                CliError::new(format!("cannot read `{}`", path.display())).because(error.to_string())
            })?;
            return Ok(if Lock::is_lock(&content) {
                Self::LockFile(path)
            } else {
                Self::SpecFile(path)
            });
        }
        if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Built(Handle::Signature(text.to_owned())));
        }
        match text.parse() {
            Ok(name) => Ok(Self::Built(Handle::Name(name, text.to_owned()))),
            Err(_) if looks_like_a_file(text) => Err(no_file(text)),
            Err(error) => Err(CliError::from(error).help(KINDS)),
        }
    }
}

impl Handle {
    /// A signature that is written with all its digits: nothing has to be looked for.
    fn whole_signature(&self) -> Option<Digest> {
        match self {
            Self::Signature(text) => text
                .parse()
                .ok()
                .filter(|signature: &Digest| signature.to_string() == *text),
            Self::Name(..) => None,
        }
    }

    /// The environment that is called so.
    pub(crate) fn environment(&self, context: &Context) -> Result<Environment, CliError> {
        let store = context.store()?;
        match self {
            Self::Signature(text) => Ok(environment::find(&store, text)?),
            Self::Name(name, text) => named(&store, name).map_err(|error| match error {
                // Whoever wrote a path is not told of names first.
                NameError::Unknown(_) if looks_like_a_file(text) => no_file(text).because(error.to_string()),
                _ => error.into(),
            }),
        }
    }
}

fn named(store: &Store, name: &Name) -> Result<Environment, NameError> {
    let found = Names::find(store, name)?.ok_or_else(|| NameError::Unknown(name.clone()))?;
    let signature = found.named.current.signature;
    environment::get(store, &signature)?.ok_or(NameError::NotBuilt(signature))
}

const KINDS: &str = "an environment is a signature, a name, a lock file, a spec file or a directory with one of these; `envfs ls` lists \
                     what is built";

fn looks_like_a_file(text: &str) -> bool {
    !text.contains(':') && text.contains(['/', '.'])
}

fn no_file(text: &str) -> CliError {
    CliError::new(format!("there is no file `{text}`")).help(KINDS)
}

/// Whether `text` names a directory, and not something else that may be called so.
pub(crate) fn is_directory(text: &str) -> bool {
    (text.contains('/') || text.starts_with('.')) && Path::new(text).is_dir()
}

fn project_file(directory: &Path) -> Result<PathBuf, CliError> {
    let files = PROJECT_FILES.map(|name| directory.join(name));
    files.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        CliError::new(format!(
            "the directory `{}` holds no lock and no spec",
            directory.display()
        ))
        .help(format!("looked for: {}", PROJECT_FILES.join(", ")))
    })
}

/// The environment that `text` stands for, built if it is not. Nobody collects it until this command ends.
///
/// Building runs in a process of its own, so that this one stays without threads and may fork afterwards.
pub(crate) fn environment(context: &Context, text: &str) -> Result<Environment, CliError> {
    match Reference::parse(text)? {
        Reference::Built(handle) => {
            if let Some(signature) = handle.whole_signature()
                && let Some(environment) = claimed(context, &signature)?
            {
                return Ok(environment);
            }
            let environment = handle.environment(context)?;
            // Collected and made again meanwhile, it may stand on another tree.
            context.claim(&context.store()?, &environment.signature)
        }
        Reference::LockFile(_) | Reference::SpecFile(_) => {
            ensure_in_child(context, &["--".to_owned(), text.to_owned()])
        }
    }
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

/// How often an environment is made again that was collected before it could be claimed.
const MAX_TRIES: u32 = 5;

/// What `envfs ensure` makes of its arguments, in a process of its own, so that this one stays without threads and may fork
/// afterwards. Nobody collects it until this command ends: that process keeps it until this one does.
pub(crate) fn ensure_in_child(context: &Context, arguments: &[String]) -> Result<Environment, CliError> {
    for _ in 0..MAX_TRIES {
        let ensured = Ensured::begin(context, arguments)?;
        if let Some(environment) = claimed(context, &ensured.signature)? {
            ensured.let_go()?;
            return Ok(environment);
        }
        ensured.let_go()?;
    }
    Err(CliError::new("the environment is collected as often as it is made").help("collect with a longer `--grace`"))
}

/// The environment called `signature`, which from here on is not collected; none if it was.
pub(crate) fn claimed(context: &Context, signature: &Digest) -> Result<Option<Environment>, CliError> {
    let store = context.store()?;
    match context.claim(&store, signature) {
        Ok(environment) => Ok(Some(environment)),
        Err(_) if environment::get(&store, signature)?.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

/// An `envfs ensure` that has said what it made, and keeps that until it is let go.
struct Ensured {
    signature: Digest,
    child: Child,
}

impl Ensured {
    fn begin(context: &Context, arguments: &[String]) -> Result<Self, CliError> {
        let mut command = context.this_program()?;
        if context.is_offline()? {
            command.arg("--offline");
        }
        if context.quiet {
            command.arg("--quiet");
        }
        command.args((0..context.global.verbose).map(|_| "--verbose"));
        command.args(["ensure", "--hold"]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        if let Some(output) = &mut child.stdout {
            BufReader::new(output).read_line(&mut said)?;
        }
        match said.trim().parse() {
            Ok(signature) => Ok(Self { signature, child }),
            Err(_) => {
                drop(child.stdin.take());
                check(child.wait()?)?;
                Err(CliError::new(format!(
                    "`envfs ensure` printed {said:?} and no signature"
                )))
            }
        }
    }

    fn let_go(mut self) -> Result<(), CliError> {
        drop(self.child.stdin.take());
        check(self.child.wait()?)
    }
}

/// A process that failed has said why.
fn check(status: ExitStatus) -> Result<(), CliError> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(CliError::silent(code.unwrap_or(1)))
}
