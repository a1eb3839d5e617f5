//! `envfs diff`: what is different between two environments, or in one that was written to.

use std::collections::BTreeMap;
use std::process::ExitCode;

use envfs_store::Store;
use envfs_store::capture::ChangeKind;
use envfs_store::environment::{Environment, Package};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::known;
use crate::output;
use crate::writable::Opened;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs diff 3fb1c2d4 a90be120    packages: - only in the first, + only in the second, ~ changed\n  \
    envfs diff /envs/x              files of a writable mount: - removed, + added, ~ modified\n  \
    envfs diff 3fb1c2d4             the same of what `envfs run --writable` has kept\n\n\
    The exit code is 0 whether they differ or not.")]
pub(crate) struct DiffArgs {
    /// The one environment; alone, one that was run --writable, a writable mount, or a directory of --upper
    #[arg(value_name = "A|PATH")]
    a: String,
    /// The other environment
    #[arg(value_name = "B")]
    b: Option<String>,
}

#[derive(Serialize)]
struct WrittenFile {
    path: String,
    kind: ChangeKind,
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
    let Some(b) = &args.b else {
        return diff_written(context, &args.a);
    };
    let (a, b) = (known::environment(context, &args.a)?, known::environment(context, b)?);
    let difference = Difference::of(&context.store()?, &a, &b)?;
    if context.json {
        context.print_json(&difference)?;
    } else {
        difference.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn diff_written(context: &Context, what: &str) -> Result<ExitCode, CliError> {
    let opened = Opened::open(&context.store()?, what)?;
    let changes = opened.as_writable().changes()?;
    if context.json {
        let files = changes.iter().map(|change| WrittenFile {
            path: change.path.to_string(),
            kind: change.kind,
        });
        context.print_json(&files.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in changes {
        let sign = match change.kind {
            ChangeKind::Added => '+',
            ChangeKind::Modified => '~',
            ChangeKind::Removed => '-',
        };
        output::line(&format!("{sign} {}", change.path))?;
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
