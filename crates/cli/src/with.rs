//! What one mount or run is of: an environment, one of several in a lock, and with `--with` packages on top, that enter neither its
//! lock nor its name.
//!
//! What these become is an environment like any other, thin on the one below, found by its own signature. Which one it was
//! is remembered as for every other question, so that the next run resolves nothing.

use envfs_solver::Requirements;
use envfs_store::Store;
use envfs_store::environment::{Environment, PackageKind};

use crate::context::Context;
use crate::error::CliError;
use crate::resolve::Reference;
use crate::{known, resolve};

/// Which variant, and packages on top.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WithArgs {
    /// Which environment of a lock file that holds several: a variant of its project
    #[arg(long = "environment", value_name = "NAME")]
    variant: Option<String>,
    /// Add a package from PyPI for this time alone ('httpx>=0.27'); what the environment has stays as it is
    #[arg(long = "with", value_name = "REQUIREMENT", allow_hyphen_values = true)]
    requirements: Vec<String>,
    /// Resolve what is added by --with again, even if that was done in the last 24 hours
    #[arg(long, requires = "requirements")]
    refresh: bool,
}

impl WithArgs {
    /// The environment that `text` stands for, with what is asked for on top.
    pub(crate) fn environment(&self, context: &Context, text: &str) -> Result<Environment, CliError> {
        let mut asked = Requirements::default();
        asked.add(&self.requirements, &std::env::current_dir()?)?;
        asked.check(true)?;
        let below = self.below(context, text)?;
        if asked.is_empty() {
            return Ok(below);
        }
        check_python(&context.store()?, &below)?;
        let base = format!("--base={}", below.signature);
        let added = self
            .requirements
            .iter()
            .map(|requirement| format!("--pypi={requirement}"));
        let mut arguments: Vec<String> = std::iter::once(base).chain(added).collect();
        if !self.refresh {
            return known::ensured(context, &arguments);
        }
        arguments.push("--refresh".to_owned());
        resolve::ensure_in_child(context, &arguments)
    }

    /// The environment that `text` stands for, or that of its variants which is named.
    fn below(&self, context: &Context, text: &str) -> Result<Environment, CliError> {
        let Some(variant) = &self.variant else {
            return known::environment(context, text);
        };
        match Reference::parse(text)? {
            Reference::LockFile(_) => {
                let of = format!("--environment={variant}");
                known::ensured(context, &[of, "--".to_owned(), text.to_owned()])
            }
            Reference::SpecFile(_) => Err(CliError::usage(format!(
                "`{text}` is not locked, and --environment is for what a lock holds"
            ))
            .help(format!("lock its variants first: envfs lock -f {text}"))),
            Reference::Built(_) => Err(CliError::usage(format!(
                "`{text}` is one environment already, and --environment is for a lock file that holds several"
            ))),
        }
    }
}

fn check_python(store: &Store, below: &Environment) -> Result<(), CliError> {
    let packages = below.all_packages(store)?;
    let is_python = |kind: PackageKind, name: &str| kind.is_conda() && name == "python";
    if packages.iter().any(|package| is_python(package.kind, &package.name)) {
        return Ok(());
    }
    Err(CliError::new(format!(
        "nothing can be added to {} by --with: it has no Python",
        below.signature
    ))
    .help("name an environment with a Python, or use `envfs build --base`"))
}
