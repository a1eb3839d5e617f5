//! `envfs ensure`: the environment of a question, found if it was asked before, and made if not.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use envfs_solver::Built;

use crate::commands::build::{self, Origin};
use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::recipe::{Kept, Opened, Recipe};
use crate::{resolve, units};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs ensure environment.yml                   solves at most once a day\n  \
    envfs ensure .                                 the lock or the spec in this directory\n  \
    envfs ensure -c conda-forge 'python=3.12' numpy\n  \
    envfs ensure environment.yml --max-age 7d\n  \
    envfs ensure environment.yml --refresh         ask the channels again\n\n\
    What was asked before is found without solving and without a network, however it is spelled. When the \
    channels cannot be reached, an older lock is used, with a warning.")]
pub(crate) struct EnsureArgs {
    #[command(flatten)]
    recipe: Recipe,
    /// How old a solution may be that is used without asking again: 90s, 30m, 12h, 7d [default: `max-age` of the configuration, or 24h]
    #[arg(long, value_name = "AGE", value_parser = units::span)]
    max_age: Option<Duration>,
    /// Solve again, whatever is known
    #[arg(long, conflicts_with = "max_age")]
    refresh: bool,
    /// Lay out now what the first `envfs run` would have to, as copies in the store's cache
    #[arg(long)]
    prepare: bool,
    /// Keep it from being collected until the standard input ends: for commands that ask for an environment and then use it
    #[arg(long, hide = true)]
    hold: bool,
}

pub(crate) fn execute(context: &Context, args: &EnsureArgs) -> Result<ExitCode, CliError> {
    let started = Instant::now();
    let max_age = if args.refresh {
        None
    } else {
        Some(args.max_age.unwrap_or(context.settings()?.max_age.value))
    };
    let (built, origin) = ensure(context, &args.recipe.open(context)?, max_age)?;
    if args.prepare {
        build::prepare(&context.store()?, &built.environment)?;
    }
    if let Some(reason) = &origin.stale {
        let age = origin.solved_unix_s.map_or_else(String::new, output::age);
        // Said even to who wants no notes: the result is not what was asked for.
        output::note(&format!(
            "warning: a solution that is {age} old is used, because the channels cannot be asked: {reason}"
        ));
    }
    if args.hold {
        // What was named by its signature may be gone: whoever asked sees that, and asks again.
        drop(resolve::claimed(context, &built.environment.signature)?);
    }
    build::report(context, &built, started.elapsed().as_secs_f64(), Some(&origin))?;
    if args.hold {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds an answer that is no older than `max_age`, or makes one; without an age it is always made.
fn ensure(context: &Context, opened: &Opened, max_age: Option<Duration>) -> Result<(Built, Origin), CliError> {
    let kept = opened.kept(&context.store()?, max_age.unwrap_or_default());
    if let Some(kept) = kept.as_ref().filter(|kept| kept.is_fresh && max_age.is_some())
        && let Some(built) = opened.build_kept(context, kept)?
    {
        return Ok((built, origin(kept, None)));
    }
    match (opened.build(context), kept) {
        (Ok(built), _) => Ok((
            built,
            Origin {
                known: false,
                solved_unix_s: None,
                stale: None,
            },
        )),
        (Err(error), Some(kept)) if error.is_unreachable() => match opened.build_kept(context, &kept)? {
            Some(built) => Ok((built, origin(&kept, Some(error.message().to_owned())))),
            None => Err(error),
        },
        (Err(error), _) => Err(error),
    }
}

fn origin(kept: &Kept, stale: Option<String>) -> Origin {
    Origin {
        known: true,
        solved_unix_s: Some(kept.solved_unix_s()),
        stale,
    }
}
