//! The environment that is asked for by a command that needs one: found here if it is known, made by a process of its own if not.

use envfs_store::environment::Environment;

use crate::context::Context;
use crate::error::CliError;
use crate::recipe::{DEFAULT_MAX_AGE, Recipe};
use crate::resolve::{self, Reference};

/// The environment that `text` stands for. What was asked before is found without a network, a solve or another process.
pub(crate) fn environment(context: &Context, text: &str) -> Result<Environment, CliError> {
    if let Reference::LockFile(_) | Reference::SpecFile(_) = Reference::parse(text)? {
        let opened = Recipe::of(text)?.open(context)?;
        let store = context.store()?;
        let kept = opened.kept(&store, DEFAULT_MAX_AGE).filter(|kept| kept.is_fresh);
        if let Some(found) = kept.map(|kept| kept.environment(&store)).transpose()?.flatten() {
            return Ok(found);
        }
    }
    resolve::environment(context, text)
}
