//! `envfs verify`: whether everything in the store is what its name says, and mending what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use envfs_store::verify::{Finding, Mended, Remedy, Repair};
use envfs_store::{Digest, Store};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::rebuilding::Rebuilder;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs verify                               read all of the store, and say what is damaged or lost\n  \
    envfs verify --repair                      and mend it: from the system store, the archives of packages, or by building again\n  \
    envfs verify --repair --from /mnt/backup   take from another store first\n  \
    envfs verify --repair --offline            only from what is here\n\n\
    What cannot be mended goes to `quarantine/` in the store, and the environments that miss it are named. Nothing is deleted. \
    Mounts, runs and builds go on meanwhile. The exit code is 1 if something is damaged, with --repair if something is lost.")]
pub(crate) struct VerifyArgs {
    /// Mend what is damaged or lost
    #[arg(long)]
    repair: bool,
    /// Another store to take from; it is only read
    #[arg(long, value_name = "STORE", requires = "repair")]
    from: Vec<PathBuf>,
}

/// What a check prints as JSON.
#[derive(Serialize)]
struct Verified<'a> {
    checked: u64,
    damaged: &'a [Finding],
    environments: BTreeMap<Digest, BTreeSet<String>>,
}

/// What a repair prints as JSON.
#[derive(Serialize)]
struct Repaired<'a> {
    checked: u64,
    damaged: &'a [Mended],
    environments: &'a BTreeMap<Digest, BTreeSet<String>>,
}

pub(crate) fn execute(context: &Context, args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    if args.repair {
        return repair(context, &store, &args.from);
    }
    let checked = store.verify()?;
    let environments = store.concerned(&checked.findings)?;
    if context.json {
        context.print_json(&Verified {
            checked: checked.count,
            damaged: &checked.findings,
            environments,
        })?;
    } else {
        for finding in &checked.findings {
            output::line(&finding.to_string())?;
        }
        print_environments(&environments)?;
        context.note(&format!(
            "{}, {} damaged or lost",
            output::count(checked.count, "file"),
            checked.findings.len()
        ));
    }
    Ok(code(checked.findings.is_empty()))
}

fn repair(context: &Context, store: &Store, from: &[PathBuf]) -> Result<ExitCode, CliError> {
    let mut donors = Vec::new();
    for path in from {
        donors.push(Store::open_existing(path)?);
    }
    donors.extend(store.lower().cloned());
    let rebuilder = Rebuilder::new(context);
    let repaired = store.repair(&Repair {
        donors: &donors,
        rebuild: Some(&rebuilder),
    })?;
    if context.json {
        context.print_json(&Repaired {
            checked: repaired.count,
            damaged: &repaired.mended,
            environments: &repaired.environments,
        })?;
    } else {
        for mended in &repaired.mended {
            output::line(&described(mended))?;
        }
        print_environments(&repaired.environments)?;
        let count = |remedy| repaired.mended.iter().filter(|mended| mended.remedy == remedy).count();
        context.note(&format!(
            "{}, {} damaged or lost: {} repaired, {} dropped, {} in quarantine, {} lost",
            output::count(repaired.count, "file"),
            repaired.mended.len(),
            count(Remedy::Repaired),
            count(Remedy::Dropped),
            count(Remedy::Quarantined),
            count(Remedy::Lost),
        ));
        for problem in rebuilder.problems().iter() {
            context.note(&format!("not built again: {problem}"));
        }
    }
    Ok(code(repaired.is_whole()))
}

/// One thing that was wrong, and what became of it.
fn described(mended: &Mended) -> String {
    let became = match mended.remedy {
        Remedy::Repaired => "repaired",
        Remedy::Dropped => "dropped, and made again when it is missed",
        Remedy::Quarantined => "in quarantine; nothing misses it",
        Remedy::Lost => "not to be had",
    };
    let at = mended.quarantine.as_ref();
    let at = at.map(|path| format!(" (now `{}`)", path.display()));
    format!("{}: {became}{}", mended.finding, at.unwrap_or_default())
}

/// The environments that miss something, and some of what they miss.
fn print_environments(environments: &BTreeMap<Digest, BTreeSet<String>>) -> Result<(), CliError> {
    /// No more is named for one.
    const NAMED: usize = 5;
    for (signature, missed) in environments {
        let named: Vec<&str> = missed.iter().take(NAMED).map(String::as_str).collect();
        let more = missed.len().saturating_sub(NAMED);
        let more = if more == 0 {
            String::new()
        } else {
            format!(" and {more} more")
        };
        output::line(&format!("environment {signature}: {}{more}", named.join(", ")))?;
    }
    Ok(())
}

fn code(is_sound: bool) -> ExitCode {
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
