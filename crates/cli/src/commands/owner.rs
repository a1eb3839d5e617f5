//! `envfs owner`: which environments a workflow, a service or a person needs.

use std::process::ExitCode;

use clap::Subcommand;
use envfs_store::Digest;
use envfs_store::roots::{Owner, Roots};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::{output, resolve};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs owner add workflow:17 3fb1c2d4 5e77a1c0    keeps both\n  \
    envfs owner rm workflow:17 5e77a1c0              it needs only the first now\n  \
    envfs owner rm workflow:17                       it is gone\n\n\
    What only it needed goes at the next `envfs gc`.")]
pub(crate) struct OwnerArgs {
    #[command(subcommand)]
    command: OwnerCommand,
}

#[derive(Debug, Subcommand)]
enum OwnerCommand {
    /// Note that an owner needs environments
    Add {
        /// Any name for who needs them, such as `workflow:17`
        owner: Owner,
        /// Signatures, names, lock files or specs
        #[arg(value_name = "ENV", required = true)]
        environments: Vec<String>,
    },
    /// Note that an owner needs environments no longer; without any, that it needs none
    Rm {
        /// Who
        owner: Owner,
        /// Signatures or names; whole signatures need not be in the store any more
        #[arg(value_name = "ENV")]
        environments: Vec<String>,
    },
    /// List owners and what they need
    Ls,
}

/// What an owner needs from now on.
#[derive(Serialize)]
struct Added<'a> {
    owner: &'a Owner,
    environments: &'a [Digest],
}

/// How many environments an owner no longer needs.
#[derive(Serialize)]
struct Dropped<'a> {
    owner: &'a Owner,
    dropped: usize,
}

pub(crate) fn execute(context: &Context, args: &OwnerArgs) -> Result<ExitCode, CliError> {
    let roots = Roots::of(&context.store()?);
    match &args.command {
        OwnerCommand::Add { owner, environments } => {
            let signatures = environments
                .iter()
                .map(|text| Ok(resolve::environment(context, text)?.signature))
                .collect::<Result<Vec<_>, CliError>>()?;
            roots.add(owner, &signatures, output::now_unix_s())?;
            if context.json {
                context.print_json(&Added {
                    owner,
                    environments: &signatures,
                })?;
            } else {
                for signature in signatures {
                    output::line(&signature.to_string())?;
                }
            }
        }
        OwnerCommand::Rm { owner, environments } => {
            let signatures = environments
                .iter()
                .map(|text| match text.parse::<Digest>() {
                    Ok(signature) => Ok(signature),
                    Err(_) => Ok(resolve::environment(context, text)?.signature),
                })
                .collect::<Result<Vec<_>, CliError>>()?;
            // An orchestrator that was killed may say it again: what is not needed already is no error.
            let dropped = roots.drop_needs(owner, Some(&*signatures).filter(|some| !some.is_empty()))?;
            if context.json {
                context.print_json(&Dropped { owner, dropped })?;
            } else {
                let count = output::count(dropped as u64, "environment");
                context.note(&format!("{owner} no longer needs {count}"));
            }
        }
        OwnerCommand::Ls => list(context, &roots)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(context: &Context, roots: &Roots) -> Result<(), CliError> {
    let owners = roots.owners()?;
    if context.json {
        return context.print_json(&owners);
    }
    let cells: Vec<_> = owners
        .iter()
        .flat_map(|owned| {
            owned.environments.iter().map(|(signature, since)| {
                vec![
                    owned.owner.to_string(),
                    signature.to_string()[..16].to_owned(),
                    output::age(*since),
                ]
            })
        })
        .collect();
    output::table(&["OWNER", "SIGNATURE", "AGE"], &[2], &cells)
}
