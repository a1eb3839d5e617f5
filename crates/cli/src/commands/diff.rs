//! `envfs diff`: what is different between two environments.

use std::collections::BTreeMap;
use std::process::ExitCode;

use envfs_store::Store;
use envfs_store::environment::{Environment, Package};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::resolve;

/// Show which packages differ between two environments
#[derive(Debug, clap::Args)]
#[command(after_help = "The exit code is 0 whether they differ or not.")]
pub(crate) struct DiffArgs {
    /// The one environment
    #[arg(value_name = "A")]
    a: String,
    /// The other environment
    #[arg(value_name = "B")]
    b: String,
}

#[derive(Serialize)]
struct Difference {
    a: String,
    b: String,
    only_in_a: Vec<Package>,
    only_in_b: Vec<Package>,
    changed: Vec<Change>,
}

#[derive(Serialize)]
struct Change {
    name: String,
    a: Package,
    b: Package,
}

pub(crate) fn execute(context: &Context, args: &DiffArgs) -> Result<ExitCode, CliError> {
    let (a, b) = (
        resolve::environment(context, &args.a)?,
        resolve::environment(context, &args.b)?,
    );
    let difference = Difference::of(&context.store()?, &a, &b)?;
    if context.json {
        context.print_json(&difference)?;
    } else {
        difference.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Difference {
    fn of(store: &Store, a: &Environment, b: &Environment) -> Result<Self, CliError> {
        let in_a = by_name(a.all_packages(store)?);
        let mut in_b = by_name(b.all_packages(store)?);
        let (mut only_in_a, mut changed) = (Vec::new(), Vec::new());
        for (name, package) in in_a {
            match in_b.remove(&name) {
                None => only_in_a.push(package),
                Some(other) if other.sha256 != package.sha256 => changed.push(Change {
                    name,
                    a: package,
                    b: other,
                }),
                Some(_) => {}
            }
        }
        Ok(Self {
            a: a.signature.to_string(),
            b: b.signature.to_string(),
            only_in_a,
            only_in_b: in_b.into_values().collect(),
            changed,
        })
    }

    fn print(&self) -> Result<(), CliError> {
        for package in &self.only_in_a {
            output::line(&format!("- {} {} {}", package.name, package.version, package.build))?;
        }
        for change in &self.changed {
            output::line(&format!(
                "~ {} {} {} -> {} {}",
                change.name, change.a.version, change.a.build, change.b.version, change.b.build
            ))?;
        }
        for package in &self.only_in_b {
            output::line(&format!("+ {} {} {}", package.name, package.version, package.build))?;
        }
        Ok(())
    }
}

fn by_name(packages: Vec<Package>) -> BTreeMap<String, Package> {
    packages
        .into_iter()
        .map(|package| (package.name.clone(), package))
        .collect()
}
