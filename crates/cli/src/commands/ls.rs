//! `envfs ls`: the environments of the store.

use std::collections::BTreeMap;
use std::process::ExitCode;

use envfs_store::environment::{self, Environment};
use envfs_store::index::Metadata;
use envfs_store::names::Names;
use envfs_store::{Digest, Store};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::{metadata, output};

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
    names: Vec<String>,
    /// What is known of its use; nothing where there is no index.
    #[serde(flatten)]
    metadata: Metadata,
}

pub(crate) fn execute(context: &Context, _args: &LsArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let mut names = names(context, &store)?;
    let known = metadata::open(context, &store).and_then(|index| index.all().ok());
    let mut known = known.unwrap_or_default();
    let mut rows = Vec::new();
    for environment in environment::list(&store)? {
        match environment.and_then(|environment| {
            let packages = environment.all_packages(&store)?.len();
            let metadata = known.remove(&environment.signature).unwrap_or_default();
            let names = names.remove(&environment.signature).unwrap_or_default();
            Ok(row(&environment, packages, names, metadata))
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
                "USES",
                "LAST USE",
                "NAMES",
            ],
            &[2, 4, 5, 6, 7, 8],
            &cells,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(environment: &Environment, packages: usize, names: Vec<String>, metadata: Metadata) -> Row {
    Row {
        signature: environment.signature.to_string(),
        subdir: environment.subdir.clone(),
        base: environment.base.map(|base| base.to_string()),
        packages,
        own_packages: environment.packages.len(),
        added_bytes: environment.added.bytes,
        added_inodes: environment.added.inodes,
        created_unix_s: environment.created_unix_s,
        names,
        metadata,
    }
}

/// The names of each environment that has one.
fn names(context: &Context, store: &Store) -> Result<BTreeMap<Digest, Vec<String>>, CliError> {
    let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for found in Names::list_all(store)? {
        match found {
            Ok(found) => names
                .entry(found.named.current.signature)
                .or_default()
                .push(found.named.name.to_string()),
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
            self.metadata.uses.to_string(),
            self.metadata
                .last_used_unix_s
                .map_or_else(|| "-".to_owned(), output::age),
            self.names.join(" "),
        ]
    }
}
