//! `envfs gc`: what nothing keeps goes.

use std::process::ExitCode;
use std::time::Duration;

use envfs_store::gc::{self, Collected, Options};

use crate::context::Context;
use crate::error::CliError;
use crate::machine::ThisMachine;
use crate::{metadata, output, stable, units};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs gc --dry-run                         say what would go\n  \
    envfs gc                                   all that nothing keeps and that was not used for 10 minutes\n  \
    envfs gc --max-age 30d                     only what was not used for a month\n  \
    envfs gc --max-size 40GB                   the least recently used first, until the rest fits\n\n\
    An environment is kept by a name (also the last ones before it), a pin, an owner, a mount, a run, a directory it was \
    linked into, what was written into it, and by another one that inherits from it: `envfs why <ENV>` says what. \
    Builds, mounts and runs go on meanwhile and lose nothing. Killed at any moment, the next one goes on.")]
pub(crate) struct GcArgs {
    /// Remove only as much as it takes for the rest to take no more than this, such as 40GB; without its cache
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    max_size: Option<u64>,
    /// Remove only what was not used for so long, such as 30d
    #[arg(long, value_name = "SPAN", value_parser = units::span)]
    max_age: Option<Duration>,
    /// Of each name, keep so many of the last environments
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_last: usize,
    /// Leave alone what was made or used within this time
    #[arg(long, value_name = "SPAN", value_parser = units::span, default_value = "10m")]
    grace: Duration,
    /// Remove nothing, and say what would go
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn execute(context: &Context, args: &GcArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let options = Options {
        keep_last: args.keep_last,
        grace: args.grace,
        max_age: args.max_age,
        max_bytes: args.max_size,
        dry_run: args.dry_run,
    };
    if !args.dry_run {
        stable::retire(&store)?;
    }
    let collected = gc::collect(&store, &options, &ThisMachine { store: &store })?;
    if !collected.environments.is_empty() && !args.dry_run {
        metadata::collected(context, &store);
    }
    if context.json {
        context.print_json(&collected)?;
    } else {
        print(context, &collected, args)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(context: &Context, collected: &Collected, args: &GcArgs) -> Result<(), CliError> {
    for signature in &collected.environments {
        output::line(&signature.to_string())?;
    }
    let counts: Vec<String> = [
        (collected.environments.len() as u64, "environment"),
        (collected.layers, "package"),
        (collected.trees, "tree"),
        (collected.packs, "pack"),
        (collected.objects, "whole file"),
        (collected.cached, "cached file"),
        (collected.rewritten_packs, "rewritten pack"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, noun)| output::count(count, noun))
    .collect();
    let verb = if args.dry_run { "would free" } else { "freed" };
    let of = if counts.is_empty() {
        String::new()
    } else {
        format!(": {}", counts.join(", "))
    };
    context.note(&format!("{verb} {}{of}", output::bytes(collected.freed_bytes)));
    if args.max_size.is_some_and(|max_bytes| collected.left_bytes > max_bytes) {
        context.note(&format!(
            "what is left takes {}: it is kept, or was used within {}; `envfs du` and `envfs why` tell more",
            output::bytes(collected.left_bytes),
            output::span(args.grace.as_secs())
        ));
    }
    if collected.waiting_bytes > 0 {
        context.note(&format!(
            "{} of the trash wait for builds that go on: the next `envfs gc` removes them",
            output::bytes(collected.waiting_bytes)
        ));
    }
    Ok(())
}
