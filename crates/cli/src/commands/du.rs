//! `envfs du`: what each environment takes, alone and together with others.

mod treemap;

use std::path::PathBuf;
use std::process::ExitCode;

use envfs_store::gc::shares::{self, Share};

use crate::context::Context;
use crate::error::CliError;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs du                   OWN is what removing it would free\n  \
    envfs du --svg du.svg      a picture: what each has of its own, and what is shared\n\n\
    Reads the list of every environment and package, so it takes a while in a large store.")]
pub(crate) struct DuArgs {
    /// Write a treemap to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) fn execute(context: &Context, args: &DuArgs) -> Result<ExitCode, CliError> {
    let shares = shares::shares(&context.store()?)?;
    if let Some(path) = &args.svg {
        let own: u64 = shares.environments.iter().map(|share| share.unique_bytes).sum();
        let mut areas: Vec<(String, u64)> = shares
            .environments
            .iter()
            .map(|share| (share.signature.to_string()[..16].to_owned(), share.unique_bytes))
            .collect();
        areas.insert(0, ("shared".to_owned(), shares.total_bytes.saturating_sub(own)));
        output::write_whole(path, treemap::draw(&areas).as_bytes())?;
    }
    if context.json {
        context.print_json(&shares)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells: Vec<_> = shares.environments.iter().map(cells).collect();
    output::table(
        &["SIGNATURE", "OWN", "SHARED", "AS A DIRECTORY", "INODES"],
        &[1, 2, 3, 4],
        &cells,
    )?;
    context.note(&format!(
        "{} in {}; as directories {}",
        output::count(shares.environments.len() as u64, "environment"),
        output::bytes(shares.total_bytes),
        output::bytes(shares.directory_bytes)
    ));
    Ok(ExitCode::SUCCESS)
}

fn cells(share: &Share) -> Vec<String> {
    vec![
        share.signature.to_string()[..16].to_owned(),
        output::bytes(share.unique_bytes),
        output::bytes(share.shared_bytes),
        output::bytes(share.directory_bytes),
        share.directory_inodes.to_string(),
    ]
}
