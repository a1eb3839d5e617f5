//! `envfs commit`: what was written into an environment becomes an environment of its own.

use std::process::ExitCode;

use envfs_store::Store;
use envfs_store::capture::{self, LayerName};
use envfs_store::environment::Environment;
use envfs_store::workspace::Workspace;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::writable::Opened;
use crate::{metadata, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs mount --writable 3fb1c2d4 /envs/x\n  \
    /envs/x/bin/pip install some-package\n  \
    envfs diff /envs/x\n  \
    envfs commit /envs/x                        prints the new signature\n\n  \
    envfs run --writable 3fb1c2d4 -- pip install some-package\n  \
    envfs commit 3fb1c2d4                       prints the new signature\n\n\
    What was written goes on as it is. The new environment stands on the old one and costs what was changed; it can be mounted \
    anywhere.")]
pub(crate) struct CommitArgs {
    /// A writable mount, where one was, an environment that was run --writable, or a directory of --upper
    #[arg(value_name = "PATH|ENV")]
    what: String,
}

#[derive(Serialize)]
struct Report {
    signature: String,
    base: Option<String>,
    changed: bool,
    new_objects: u64,
    new_bytes: u64,
}

pub(crate) fn execute(context: &Context, args: &CommitArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let opened = Opened::open(&store, &args.what)?;
    let environment = commit(context, &store, &opened)?;
    metadata::ensured(context, &store, &environment, None);
    let is_changed = environment != opened.environment;
    if context.json {
        let added = if is_changed {
            environment.added
        } else {
            envfs_store::ingest::Written::default()
        };
        context.print_json(&Report {
            signature: environment.signature.to_string(),
            base: environment.base.map(|base| base.to_string()),
            changed: is_changed,
            new_objects: added.objects,
            new_bytes: added.bytes,
        })?;
    } else {
        if !is_changed {
            context.note("nothing was changed");
        }
        output::line(&environment.signature.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The environment with the changes; the same one, if there are none.
fn commit(context: &Context, store: &Store, opened: &Opened) -> Result<Environment, CliError> {
    let workspace = Workspace::create(store)?;
    let captured = opened.as_writable().capture(store, &workspace, LayerName::OfContent)?;
    let Some((layer, written)) = captured else {
        return Ok(opened.environment.clone());
    };
    for path in capture::bound(&layer) {
        context.note(&format!(
            "note: {path} names the place where it was written, and is right only there"
        ));
    }
    let (environment, claim) = capture::commit(store, &workspace, &opened.environment, &layer, written)?;
    context.keep(claim);
    Ok(environment)
}
