//! `envfs pin`: keep an environment whatever else becomes of it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use envfs_store::Digest;
use envfs_store::roots::{Pin, Roots};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::{naming, output, resolve, units};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs pin add 3fb1c2d4 --reason 'paper 12'      until somebody removes the pin\n  \
    envfs pin add proj:qa --for 7d                  what proj:qa stands for now, for a week\n  \
    envfs pin rm 3fb1c2d4")]
pub(crate) struct PinArgs {
    #[command(subcommand)]
    command: PinCommand,
}

#[derive(Debug, Subcommand)]
enum PinCommand {
    /// Keep an environment; a pin of yours with the same reason is replaced
    Add {
        /// A signature, a name, a lock file or an environment.yml
        #[arg(value_name = "ENV")]
        environment: String,
        /// For how long, such as 12h, 7d or 4w [default: for ever]
        #[arg(long = "for", value_name = "SPAN", value_parser = units::span)]
        span: Option<Duration>,
        /// Until when, in seconds since 1970-01-01 UTC, as `date -d tomorrow +%s` prints them
        #[arg(long, value_name = "UNIX_TIME", conflicts_with = "span")]
        until: Option<u64>,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// List pins
    Ls,
    /// Remove the pins of an environment
    Rm {
        /// A signature, a name, a lock file or an environment.yml
        #[arg(value_name = "ENV")]
        environment: String,
        /// Only those with this reason
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Serialize)]
struct Row {
    signature: String,
    expired: bool,
    #[serde(flatten)]
    pin: Pin,
}

/// How many pins of an environment are gone.
#[derive(Serialize)]
struct Removed {
    signature: Digest,
    removed: usize,
}

impl Row {
    fn of(signature: &Digest, pin: Pin, now_unix_s: u64) -> Self {
        Self {
            signature: signature.to_string(),
            expired: !pin.holds(now_unix_s),
            pin,
        }
    }
}

pub(crate) fn execute(context: &Context, args: &PinArgs) -> Result<ExitCode, CliError> {
    let roots = Roots::of(&context.store()?);
    match &args.command {
        PinCommand::Add {
            environment,
            span,
            until,
            reason,
        } => {
            let now = output::now_unix_s();
            let pin = Pin {
                until_unix_s: until.or(span.map(|span| now.saturating_add(span.as_secs()))),
                reason: reason.clone(),
                by: naming::user(),
                at_unix_s: now,
            };
            if !pin.holds(now) {
                return Err(CliError::usage("a pin that ends before it begins keeps nothing"));
            }
            let signature = resolve::environment(context, environment)?.signature;
            roots.pin(&signature, pin.clone())?;
            if context.json {
                context.print_json(&Row::of(&signature, pin, now))?;
            } else {
                output::line(&signature.to_string())?;
            }
        }
        PinCommand::Ls => list(context, &roots)?,
        PinCommand::Rm { environment, reason } => {
            let signature = resolve::environment(context, environment)?.signature;
            let is_meant = |pin: &Pin| reason.is_none() || pin.reason == *reason;
            let removed = roots.unpin(&signature, is_meant)?;
            if removed == 0 {
                let digits = &signature.to_string()[..16];
                return Err(CliError::new(format!("no such pin keeps {digits}")).help("`envfs pin ls` lists pins"));
            }
            if context.json {
                context.print_json(&Removed { signature, removed })?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(context: &Context, roots: &Roots) -> Result<(), CliError> {
    let now = output::now_unix_s();
    let pins = roots.pins()?.into_iter();
    let rows: Vec<_> = pins
        .flat_map(|(signature, pins)| pins.into_iter().map(move |pin| Row::of(&signature, pin, now)))
        .collect();
    if context.json {
        return context.print_json(&rows);
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            vec![
                row.signature[..16].to_owned(),
                match row.pin.until_unix_s {
                    None => "-".to_owned(),
                    Some(_) if row.expired => "expired".to_owned(),
                    Some(until) => output::span(until.saturating_sub(now)),
                },
                output::age(row.pin.at_unix_s),
                row.pin.by.clone(),
                row.pin.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output::table(&["SIGNATURE", "EXPIRES IN", "AGE", "BY", "REASON"], &[1, 2], &cells)
}
