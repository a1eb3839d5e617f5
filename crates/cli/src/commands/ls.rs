//! `envfs ls`: the environments of the store.

use std::collections::BTreeMap;
use std::process::ExitCode;

use envfs_store::environment::{self, Environment};
use envfs_store::names::Names;
use envfs_store::{Digest, Store};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;

/// List the environments of the store
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {}

#[derive(Serialize)]
struct Row {
    signature: String,
    subdir: String,
    base: Option<String>,
    packages: usize,
    own_packages: usize,
    added_bytes: u64,
    added_inodes: u64,
    created_unix_s: u64,
    last_used_unix_s: u64,
    names: Vec<String>,
}

pub(crate) fn execute(context: &Context, _args: &LsArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let names = names(context, &store)?;
    let mut rows = Vec::new();
    for environment in environment::list(&store)? {
        match environment.and_then(|environment| {
            let packages = environment.all_packages(&store)?.len();
            let last_used_unix_s = environment::last_used_unix_s(&store, &environment.signature)?;
            Ok(Row {
                last_used_unix_s,
                names: names.get(&environment.signature).cloned().unwrap_or_default(),
                ..row(&environment, packages)
            })
        }) {
            Ok(row) => rows.push(row),
            // One damaged record must not hide the others.
            Err(error) => context.note(&format!("warning: {error}")),
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.created_unix_s));
    if context.json {
        context.print_json(&rows)?;
    } else {
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        output::table(
            &[
                "SIGNATURE",
                "PLATFORM",
                "PACKAGES",
                "BASE",
                "ADDED",
                "INODES",
                "AGE",
                "USED",
                "NAMES",
            ],
            &[2, 4, 5, 6, 7],
            &cells,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(environment: &Environment, packages: usize) -> Row {
    Row {
        signature: environment.signature.to_string(),
        subdir: environment.subdir.clone(),
        base: environment.base.map(|base| base.to_string()),
        packages,
        own_packages: environment.packages.len(),
        added_bytes: environment.added.bytes,
        added_inodes: environment.added.inodes,
        created_unix_s: environment.created_unix_s,
        last_used_unix_s: environment.created_unix_s,
        names: Vec::new(),
    }
}

/// The names of each environment that has one.
fn names(context: &Context, store: &Store) -> Result<BTreeMap<Digest, Vec<String>>, CliError> {
    let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for named in Names::of(store).list()? {
        match named {
            Ok(named) => names
                .entry(named.current.signature)
                .or_default()
                .push(named.name.to_string()),
            Err(error) => context.note(&format!("warning: {error}")),
        }
    }
    Ok(names)
}

impl Row {
    fn cells(&self) -> Vec<String> {
        vec![
            self.signature[..16].to_owned(),
            self.subdir.clone(),
            self.packages.to_string(),
            self.base
                .as_ref()
                .map_or_else(|| "-".to_owned(), |base| base[..16].to_owned()),
            output::bytes(self.added_bytes),
            self.added_inodes.to_string(),
            output::age(self.created_unix_s),
            output::age(self.last_used_unix_s),
            self.names.join(" "),
        ]
    }
}
