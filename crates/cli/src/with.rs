//! `--with`: packages on top of an environment for one mount or run, that enter neither its lock nor its name.
//!
//! What they become is an environment like any other, thin on the one below, found by its own signature. Which one it was
//! is remembered for a day, so that the next run resolves nothing.

use envfs_solver::Requirements;
use envfs_store::Store;
use envfs_store::asked;
use envfs_store::environment::{Environment, PackageKind};

use crate::context::Context;
use crate::error::CliError;
use crate::resolve;

/// How long an answer is good: indexes get new versions all the time. Offline it is good for ever.
const ANSWER_LIFE_S: u64 = 24 * 60 * 60;

/// Packages on top.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WithArgs {
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
        let below = resolve::environment(context, text)?;
        if asked.is_empty() {
            return Ok(below);
        }
        let store = context.store()?;
        check_python(&store, &below)?;
        let question = asked.fingerprint().map(|fingerprint| question(&below, &fingerprint));
        if let Some(question) = &question
            && !self.refresh
            && let Some(answer) = asked::recall(&store, question)?
            && (answer.age_s < ANSWER_LIFE_S || context.global.offline)
        {
            return Ok(answer.environment);
        }
        let base = below.signature.to_string();
        let mut arguments = vec!["--base".to_owned(), base];
        arguments.extend(
            self.requirements
                .iter()
                .map(|requirement| format!("--pypi={requirement}")),
        );
        let environment = resolve::build_in_child(context, &arguments)?;
        if let Some(question) = &question {
            asked::keep(&store, question, &environment.signature)?;
        }
        Ok(environment)
    }
}

/// Everything that the answer depends on: uv also looks at variables of its own.
fn question(below: &Environment, fingerprint: &str) -> String {
    let is_setting = |name: &str| name.starts_with("UV_") || name == "ENVFS_NO_PYC";
    let mut settings: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(is_setting))
        .collect();
    settings.sort();
    format!(
        "with 1\nenvironment {}\nsettings {settings:?}\n{fingerprint}",
        below.signature
    )
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
