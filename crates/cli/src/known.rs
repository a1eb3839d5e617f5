//! The environment that is asked for by a command that needs one: found here if it is known, made by a process of its own if not.

use envfs_store::environment::Environment;

use crate::context::Context;
use crate::error::CliError;
use crate::recipe::Recipe;
use crate::resolve::{self, Reference};

/// The environment that `text` stands for. What was asked before is found without a network, a solve or another process.
pub(crate) fn environment(context: &Context, text: &str) -> Result<Environment, CliError> {
    match Reference::parse(text)? {
        Reference::Built(_) => resolve::environment(context, text),
        Reference::LockFile(_) | Reference::SpecFile(_) => ensured(context, &["--".to_owned(), text.to_owned()]),
    }
}

/// The environment that `arguments` of `envfs ensure` ask for.
pub(crate) fn ensured(context: &Context, arguments: &[String]) -> Result<Environment, CliError> {
    let opened = Recipe::of(arguments)?.open(context)?;
    let store = context.store()?;
    let kept = opened
        .kept(&store, context.settings()?.max_age.value)
        .filter(|kept| kept.is_fresh);
    let known = kept.map(|kept| kept.environment(&store)).transpose()?.flatten();
    let claimed = known
        .map(|found| resolve::claimed(context, &found.signature))
        .transpose()?;
    match claimed.flatten() {
        Some(found) => Ok(found),
        None => resolve::ensure_in_child(context, arguments),
    }
}
