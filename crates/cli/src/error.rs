//! What a person is told when something cannot be done: what, why, and what to do about it.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use envfs_fuse::backend::BackendError;
use envfs_fuse::run::RunError;
use envfs_fuse::warm::WarmError;
use envfs_solver::{
    ArchiveError, BuildError, ChannelError, FetchError, ImportError, LinkScriptError, SolveError, SourceError, UvError,
    WheelError, WheelsError,
};
use envfs_store::environment::FindError;
use envfs_store::name::InvalidName;
use envfs_store::names::NameError;
use envfs_store::view::PrefixError;

use crate::limits;
use crate::printable::printable;
use crate::shortage;

/// A failure, in words.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    causes: Vec<String>,
    help: Vec<String>,
    exit_code: u8,
    is_silent: bool,
    is_unreachable: bool,
}

impl CliError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            causes: Vec::new(),
            help: Vec::new(),
            exit_code: 1,
            is_silent: false,
            is_unreachable: false,
        }
    }

    /// Whether somebody out there could not be asked, so that an older answer may do.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.is_unreachable
    }

    /// The request itself makes no sense: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            exit_code: 2,
            ..Self::new(message)
        }
    }

    /// Everything was said already, by a process that this one started.
    pub(crate) fn silent(exit_code: u8) -> Self {
        Self {
            exit_code,
            is_silent: true,
            ..Self::new("")
        }
    }

    /// What could not be done with a file, and what to do about it.
    pub(crate) fn at(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let cause = Self::of(error);
        Self {
            causes: vec![cause.message],
            help: cause.help,
            ..Self::new(format!("cannot {action} `{}`", path.display()))
        }
    }

    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Another failure is the cause, and what helps there helps here.
    pub(crate) fn because_of(mut self, what: &str, cause: Self) -> Self {
        self.causes.push(format!("{what}: {}", cause.in_one_line()));
        self.help.extend(cause.help);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// What went wrong, without why.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The error with its causes, to be the cause of another one.
    pub(crate) fn in_one_line(&self) -> String {
        let parts = [&self.message].into_iter().chain(&self.causes);
        parts.map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    /// Prints the error and says how to exit.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.is_silent {
            // Nobody is left to be told that standard error is closed.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.text().as_bytes());
        }
        ExitCode::from(self.exit_code)
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", printable(&self.message));
        let mut line = |head: &str, body: &str| {
            let _ = writeln!(text, "  {head}: {}", printable(body).replace('\n', "\n    "));
        };
        for cause in &self.causes {
            line("because", cause);
        }
        for help in &self.help {
            line("help", help);
        }
        text
    }

    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut this = Self::new(error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            this.causes.push(cause.to_string());
            source = cause.source();
        }
        match shortage::remedy(error) {
            Some(remedy) => this.help(remedy),
            None => this,
        }
    }
}

macro_rules! from_errors {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::of(&error)
            }
        })+
    };
}

from_errors!(
    InvalidName,
    envfs_fuse::writable::WritableError,
    ChannelError,
    envfs_fuse::mount::MountError,
    envfs_fuse::server::ServerError,
    envfs_fuse::unmount::UnmountError,
    envfs_solver::ExportError,
    envfs_solver::LockError,
    envfs_solver::NetworkError,
    envfs_solver::PackageError,
    envfs_solver::ProjectError,
    envfs_solver::ParseExcludeNewerError,
    envfs_solver::PythonError,
    envfs_solver::PythonLockError,
    envfs_solver::RequirementError,
    envfs_solver::SpecError,
    envfs_solver::UnknownSubdir,
    envfs_store::index::IndexError,
    envfs_solver::VirtualPackageError,
);

impl From<envfs_store::Error> for CliError {
    fn from(error: envfs_store::Error) -> Self {
        let this = Self::of(&error);
        match &error {
            envfs_store::Error::Missing {
                kind: "environment", ..
            } => this.help("`envfs ls` lists the environments of the store"),
            envfs_store::Error::NewerFormat { .. } => {
                this.help("update envfs, or use another store with `--store DIR`")
            }
            envfs_store::Error::Occupied { .. } => {
                this.help("name a directory that is empty, or not there yet, with `--store DIR` or ENVFS_STORE")
            }
            envfs_store::Error::NoStore(path) => this.help(format!(
                "is the path right? `envfs config show` says who names a system store; `envfs --store {} ls` makes an empty one",
                path.display()
            )),
            _ => this,
        }
    }
}

impl From<FindError> for CliError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Store(error) => error.into(),
            FindError::NotASignature(_) => Self::of(&error).help("`envfs ls` lists the environments of the store"),
            other => Self::of(&other),
        }
    }
}

impl From<NameError> for CliError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Store(error) => error.into(),
            other => Self::of(&other),
        }
    }
}

impl From<BackendError> for CliError {
    fn from(error: BackendError) -> Self {
        let this = Self::of(&error);
        match error.remedy() {
            Some(remedy) => this.help(remedy),
            None => this,
        }
    }
}

impl From<WarmError> for CliError {
    fn from(error: WarmError) -> Self {
        match error {
            WarmError::Backend(error) => error.into(),
            WarmError::Store(error) => error.into(),
            other => Self::of(&other),
        }
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Backend(error) => error.into(),
            RunError::Kernel(error) => BackendError::from(error).into(),
            other => Self::of(&other),
        }
    }
}

impl From<PrefixError> for CliError {
    fn from(error: PrefixError) -> Self {
        match error {
            PrefixError::Store(error) => error.into(),
            other => Self::of(&other),
        }
    }
}

impl From<BuildError> for CliError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Store(error) => error.into(),
            BuildError::Archive(ArchiveError::Store(error)) | BuildError::Wheel(WheelError::Store(error)) => {
                error.into()
            }
            BuildError::Archive(ArchiveError::Limit { limit, .. })
            | BuildError::Wheel(WheelError::Limit { limit, .. })
            | BuildError::Fetch(FetchError::Limit { limit, .. }) => Self::of(&error).help(limits::help(&limit)),
            BuildError::Source(SourceError::Uv(error)) => error.into(),
            BuildError::Source(SourceError::Store(error)) => error.into(),
            BuildError::Source(SourceError::Failed { ref help, ref log, .. }) => Self {
                help: help.clone(),
                ..Self::of(&error)
            }
            .help(format!("all that it said is in {}", log.display())),
            BuildError::Link(envfs_solver::LinkError::Store(error))
            | BuildError::LinkScript(LinkScriptError::Store(error)) => error.into(),
            BuildError::LinkScript(error) => {
                let this = Self::of(&error);
                let this = match error {
                    LinkScriptError::Failed { output, .. } if output.is_empty() => this.because("it printed nothing"),
                    LinkScriptError::Failed { output, .. } => this.because(format!("it printed:\n{output}")),
                    _ => this,
                };
                this.help(
                    "ask for another build of the package, or leave all link scripts out with `--no-link-scripts`",
                )
            }
            other => Self::of(&other),
        }
    }
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => error.into(),
            ImportError::Build(error) => error.into(),
            ImportError::View(error) => error.into(),
            ImportError::NotAnEnvironment { .. } => Self::of(&error)
                .help("name the directory of a conda environment or a venv, or a pixi project with `.pixi/envs/default`"),
            ImportError::Unreadable { .. } => {
                Self::of(&error).help("import it as a user who may read all of it, and remove what is no file")
            }
            ImportError::Outside { .. } => Self::of(&error).help(
                "copy what they lead to into the environment, or install it there; `--keep-outside` keeps them as they are, \
                 to work for as long as what they lead to is there",
            ),
            other => Self::of(&other),
        }
    }
}

impl From<SolveError> for CliError {
    fn from(error: SolveError) -> Self {
        let mut this = Self::of(&error);
        this.is_unreachable = error.is_unreachable();
        if let SolveError::Unsatisfiable { help, .. } = error {
            this.help = help;
        }
        this
    }
}

impl From<UvError> for CliError {
    fn from(error: UvError) -> Self {
        let this = Self::of(&error);
        match error {
            UvError::Missing { .. } | UvError::TooOld { .. } | UvError::Start { .. } => {
                this.help("ENVFS_UV names the uv to use")
            }
            _ => this,
        }
    }
}

impl From<WheelsError> for CliError {
    fn from(error: WheelsError) -> Self {
        match error {
            WheelsError::Uv(error) => error.into(),
            WheelsError::Store(error) => error.into(),
            WheelsError::Failed { ref help, .. } => Self {
                help: help.clone(),
                is_unreachable: error.is_unreachable(),
                ..Self::of(&error)
            },
            other => Self::of(&other),
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::of(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_cannot_steer_the_terminal() {
        let error = CliError::new("`a\u{1b}]0;b\r\u{7}\tc` is refused");
        assert_eq!(error.text(), "error: `a\\u{1b}]0;b\\r\\u{7}\tc` is refused\n");
    }

    #[test]
    fn lines_below_the_first_are_indented() {
        let error = CliError::new("no solution")
            .because("a needs b\nb needs c")
            .help("ask for less");
        assert_eq!(
            error.text(),
            "error: no solution\n  because: a needs b\n    b needs c\n  help: ask for less\n"
        );
    }
}
