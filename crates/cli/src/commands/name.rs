//! `envfs name`: what people call environments.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use envfs_store::Store;
use envfs_store::links::{Link, Links};
use envfs_store::name::Name;
use envfs_store::names::{Change, Found, NameError, Named, Names};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::naming::{self, ChangeArgs, ExpectedArgs};
use crate::{output, resolve, stable};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs name set proj:qa 3fb1c2d4 -m 'numpy 2'    from now on <ENV> may be proj:qa\n  \
    envfs promote proj:qa proj:current              what was tried becomes what is used\n  \
    envfs rollback proj:current                     and goes back\n  \
    envfs name history proj                         who, when, why; proj is proj:current\n  \
    envfs name link proj /envs/current/proj         for cron jobs and kernels: always what proj stands for\n\n\
    Who reads a name sees it before or after a change; processes that run keep what they have. A name keeps its \
    environment, and the last ones before it, from `envfs gc`. Who may write to the directory `refs` of the store may change \
    names.")]
pub(crate) struct NameArgs {
    #[command(subcommand)]
    command: NameCommand,
}

#[derive(Debug, Subcommand)]
enum NameCommand {
    /// Let a name stand for an environment
    Set {
        /// The name: `project:tag` or `team/project:tag`; without a tag it is `current`
        name: Name,
        /// What it is to stand for: a signature, another name, a lock file or a spec file
        #[arg(value_name = "ENV")]
        environment: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List names and what they stand for
    Ls {
        /// Only this name, or all that start with it
        prefix: Option<String>,
    },
    /// Say what a name stands for
    Show {
        /// The name
        name: Name,
    },
    /// List the changes of a name, the latest first
    History {
        /// The name
        name: Name,
    },
    /// Let a path follow a name: it always shows what the name stands for; what runs keeps what it has
    Link {
        /// The name
        name: Name,
        /// A path that does not exist, in a directory that does
        path: PathBuf,
    },
    /// Take away a path that follows a name
    Unlink {
        /// The path
        path: PathBuf,
    },
    /// List the paths of this machine that follow names
    Links,
    /// Mount again what the paths that follow names show, as after a start of the machine
    Mount,
    /// Forget a name and its history; the environment stays until `envfs gc`
    Rm {
        /// The name
        name: Name,
        #[command(flatten)]
        expected: ExpectedArgs,
    },
}

#[derive(Serialize)]
struct LinkRow {
    name: Name,
    path: PathBuf,
    /// The first digits of the signature of what is seen there.
    shown: Option<String>,
}

#[derive(Serialize)]
struct Row {
    name: Name,
    /// Whether it is a name of the system's store.
    system: bool,
    #[serde(flatten)]
    current: Change,
}

pub(crate) fn execute(context: &Context, args: &NameArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        NameCommand::Set {
            name,
            environment,
            change,
        } => {
            let signature = resolve::environment(context, environment)?.signature;
            naming::change(context, name, change, |names, author, expected| {
                names.set(name, &signature, author, expected)
            })?;
        }
        NameCommand::Ls { prefix } => list(context, prefix.as_deref().unwrap_or_default())?,
        NameCommand::Show { name } => show(context, name)?,
        NameCommand::History { name } => history(context, &find(&context.store()?, name)?.named)?,
        NameCommand::Link { name, path } => {
            let link = stable::add(context, name, path)?;
            if context.json {
                context.print_json(&LinkRow::from(link))?;
            } else {
                context.note(&format!("{} follows {name}", link.path.display()));
            }
        }
        NameCommand::Unlink { path } => {
            let link = stable::remove(context, path)?;
            if context.json {
                context.print_json(&LinkRow::from(link))?;
            }
        }
        NameCommand::Links => links(context)?,
        NameCommand::Mount => {
            let links = stable::follow(context, None)?;
            if context.json {
                context.print_json(&links.into_iter().map(LinkRow::from).collect::<Vec<_>>())?;
            }
        }
        NameCommand::Rm { name, expected } => {
            let store = context.store()?;
            let expected = expected.expected(&store)?;
            let removed = Names::of(&store).remove(name, expected.as_ref());
            let removed = removed.map_err(|error| naming::who_may(error, &store))?;
            if context.json {
                context.print_json(&Row {
                    name: removed.name,
                    system: false,
                    current: removed.current,
                })?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(context: &Context, prefix: &str) -> Result<(), CliError> {
    let store = context.store()?;
    let mut rows = Vec::new();
    for found in Names::list_all(&store)? {
        match found {
            Ok(found) if found.named.name.to_string().starts_with(prefix) => rows.push(Row::from(found)),
            Ok(_) => {}
            // One damaged file must not hide the others.
            Err(error) => context.note(&format!("warning: {error}")),
        }
    }
    if context.json {
        return context.print_json(&rows);
    }
    // Where there is one store, nobody needs to be told which.
    let store_cell = |row: &Row| {
        let word = if row.system { "system" } else { "own" };
        store.lower().map(|_| word.to_owned())
    };
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let first = std::iter::once(row.name.to_string()).chain(store_cell(row));
            first.chain(cells(&row.current)).collect()
        })
        .collect();
    if store.lower().is_some() {
        let headings = ["NAME", "STORE", "SIGNATURE", "NUMBER", "AGE", "BY", "MESSAGE"];
        return output::table(&headings, &[3, 4], &cells);
    }
    output::table(
        &["NAME", "SIGNATURE", "NUMBER", "AGE", "BY", "MESSAGE"],
        &[2, 3],
        &cells,
    )
}

/// The name here, or that of the system's store.
fn find(store: &Store, name: &Name) -> Result<Found, NameError> {
    Names::find(store, name)?.ok_or_else(|| NameError::Unknown(name.clone()))
}

fn show(context: &Context, name: &Name) -> Result<(), CliError> {
    let found = find(&context.store()?, name)?;
    if context.json {
        return context.print_json(&Row::from(found));
    }
    output::line(&found.named.current.signature.to_string())
}

fn history(context: &Context, named: &Named) -> Result<(), CliError> {
    if context.json {
        return context.print_json(&named.changes().collect::<Vec<_>>());
    }
    let cells: Vec<_> = named.changes().map(cells).collect();
    output::table(&["SIGNATURE", "NUMBER", "AGE", "BY", "MESSAGE"], &[1, 2], &cells)
}

fn links(context: &Context) -> Result<(), CliError> {
    let links = Links::of(&context.store()?).on(&stable::machine()?)?;
    let rows: Vec<_> = links.into_iter().map(LinkRow::from).collect();
    if context.json {
        return context.print_json(&rows);
    }
    let cells: Vec<_> = rows
        .into_iter()
        .map(|row| {
            vec![
                row.name.to_string(),
                row.shown.unwrap_or_else(|| "-".to_owned()),
                row.path.display().to_string(),
            ]
        })
        .collect();
    output::table(&["NAME", "SHOWS", "PATH"], &[], &cells)
}

impl From<Link> for LinkRow {
    fn from(link: Link) -> Self {
        Self {
            shown: stable::shown(&link),
            name: link.name,
            path: link.path,
        }
    }
}

impl From<Found> for Row {
    fn from(found: Found) -> Self {
        Self {
            name: found.named.name,
            system: found.is_lower,
            current: found.named.current,
        }
    }
}

fn cells(change: &Change) -> Vec<String> {
    let origin = match (&change.promoted_from, change.restores) {
        (Some(name), _) => format!("from {name}"),
        (None, Some(number)) => format!("back to {number}"),
        (None, None) => String::new(),
    };
    let message = change.message.clone().unwrap_or_default();
    vec![
        change.signature.to_string()[..16].to_owned(),
        change.number.to_string(),
        output::age(change.at_unix_s),
        change.by.clone(),
        match (origin.is_empty(), message.is_empty()) {
            (false, false) => format!("{origin}: {message}"),
            _ => origin + &message,
        },
    ]
}
