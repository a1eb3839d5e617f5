//! `envfs why`: what keeps an environment, a package or an object in the store.

use std::collections::BTreeMap;
use std::process::ExitCode;

use envfs_store::gc::reasons::Reason;
use envfs_store::gc::{self};
use envfs_store::{Digest, Store, environment};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::machine::ThisMachine;
use crate::output;
use crate::resolve::{Handle, Reference};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs why 3fb1c2d4          names, pins, owners, mounts, and what inherits from it\n  \
    envfs why numpy             the environments that hold a package, and what keeps these\n  \
    envfs why numpy-2.1.0-py312h1_0\n  \
    envfs why <64 digits>       the same of an object\n\n\
    Without a reason it goes at the next `envfs gc`. The exit code is 1 if nothing keeps it.")]
pub(crate) struct WhyArgs {
    /// A signature or name; the name of a package, or name-version-build; or the digest of an object
    #[arg(value_name = "ENV|PACKAGE|OBJECT")]
    what: String,
    /// Of each name, so many of the last environments count
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_last: usize,
}

#[derive(Serialize)]
struct Row {
    signature: Digest,
    reasons: Vec<Reason>,
}

pub(crate) fn execute(context: &Context, args: &WhyArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let meant = meant(context, &store, &args.what)?;
    let mut kept = gc::kept(&store, args.keep_last, &ThisMachine { store: &store })?;
    if let Some(lower) = store.lower() {
        // What the system's store keeps, it keeps for everybody.
        for (signature, reasons) in gc::kept(lower, args.keep_last, &ThisMachine { store: lower })? {
            kept.entry(signature).or_default().extend(reasons);
        }
    }
    let rows: Vec<Row> = meant
        .into_iter()
        .map(|signature| Row {
            signature,
            reasons: kept.remove(&signature).unwrap_or_default(),
        })
        .collect();
    let is_kept = rows.iter().any(|row| !row.reasons.is_empty());
    if context.json {
        context.print_json(&rows)?;
    } else {
        let cells: Vec<_> = rows.iter().flat_map(Row::cells).collect();
        output::table(&["SIGNATURE", "KEPT BY", ""], &[], &cells)?;
    }
    Ok(if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The environments that `what` stands for, or that hold it.
fn meant(context: &Context, store: &Store, what: &str) -> Result<Vec<Digest>, CliError> {
    let packages = with_package(store, what)?;
    if !packages.is_empty() {
        return Ok(packages);
    }
    let found = match Reference::parse(what)? {
        Reference::Built(handle @ (Handle::Signature(_) | Handle::Name(..))) => handle.environment(context),
        Reference::LockFile(_) | Reference::SpecFile(_) => {
            return Err(CliError::usage("name a signature, a name, a package or an object"));
        }
    };
    match (found, what.parse::<Digest>()) {
        (Ok(environment), _) => Ok(vec![environment.signature]),
        (Err(error), Ok(object)) => match gc::holders(store, &object)? {
            holders if holders.is_empty() => Err(error.help("no environment holds an object that is called so either")),
            holders => Ok(holders),
        },
        (Err(error), Err(_)) => Err(error.help("no environment holds a package that is called so either")),
    }
}

/// The environments that hold a package, themselves or by inheritance.
fn with_package(store: &Store, name: &str) -> Result<Vec<Digest>, CliError> {
    let mut found = BTreeMap::new();
    for environment in environment::list(store)? {
        let environment = environment?;
        let packages = environment.all_packages(store)?;
        if packages
            .iter()
            .any(|package| package.name == name || package.dist_name() == name || package.sha256.to_string() == name)
        {
            found.insert(environment.signature, ());
        }
    }
    Ok(found.into_keys().collect())
}

impl Row {
    fn cells(&self) -> Vec<Vec<String>> {
        let digits = self.signature.to_string()[..16].to_owned();
        if self.reasons.is_empty() {
            return vec![vec![digits, "nothing".into(), String::new()]];
        }
        let described = self.reasons.iter().map(describe);
        described
            .map(|(kind, what)| vec![digits.clone(), kind.to_owned(), what])
            .collect()
    }
}

fn describe(reason: &Reason) -> (&'static str, String) {
    match reason {
        Reason::Name {
            name, current: true, ..
        } => ("name", name.to_string()),
        Reason::Name { name, number, .. } => ("name", format!("{name}, number {number} of its history")),
        Reason::Pin(pin) => {
            let until = pin.until_unix_s.map(|until| {
                let left = output::span(until.saturating_sub(output::now_unix_s()));
                format!(", for {left} more")
            });
            let why = pin.reason.as_ref().map(|reason| format!(": {reason}"));
            (
                "pin",
                format!("by {}{}{}", pin.by, until.unwrap_or_default(), why.unwrap_or_default()),
            )
        }
        Reason::Owner { owner, .. } => ("owner", owner.to_string()),
        Reason::Use { mount_point } => ("use", format!("at {}", mount_point.display())),
        Reason::Linked { mount_point } => ("links", format!("in {}", mount_point.display())),
        Reason::Writable { mount_point } => ("changes", format!("written at {}", mount_point.display())),
        Reason::Base { of } => ("heir", of.to_string()[..16].to_owned()),
    }
}
