//! `envfs import`: an environment that another installer made becomes one of the store.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use envfs_solver::{ImportRequest, Imported, ImportedPackage, Origin, Outside, PrefixKind, import};
use envfs_store::capture::{Change, ChangeKind};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::link_scripts;
use crate::output;
use crate::progress::Bar;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs import ~/miniforge3/envs/science         prints the signature\n  \
    envfs import .venv                             with the Python that it was made with\n  \
    envfs import ~/project                         a pixi project: its .pixi/envs/default\n  \
    envfs import --fetch /opt/envs/old             take packages from their channels, not from the directory\n\n\
    The directory is only read, and can be deleted afterwards. Packages are recognised by their records; what was \
    changed, added or removed by hand is kept as a thin layer on top, and listed.")]
pub(crate) struct ImportArgs {
    /// The environment's directory
    #[arg(value_name = "PREFIX")]
    prefix: PathBuf,
    /// Fetch conda packages that are not in the store from where they came from; one that is gone is taken from the directory
    #[arg(long)]
    fetch: bool,
    /// Keep links and editable installations that lead out of the directory, as they are
    #[arg(long)]
    keep_outside: bool,
    /// Do not compile the modules that packages bring without bytecode; Python then does so at each start
    #[arg(long, env = "ENVFS_NO_PYC", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    no_pyc: bool,
    /// Do not run the packages' link scripts; what they wrote in the directory is a change then
    #[arg(long)]
    no_link_scripts: bool,
}

/// What an import found, as `--json` prints it.
#[derive(Serialize)]
pub(crate) struct ImportReport {
    pub(crate) signature: String,
    kind: PrefixKind,
    reused: bool,
    pub(crate) packages: Vec<ImportedPackage>,
    pub(crate) changes: Vec<ReportedChange>,
    pub(crate) outside: Vec<Outside>,
    pub(crate) prefix_bytes: u64,
    pub(crate) new_objects: u64,
    pub(crate) new_bytes: u64,
    new_inodes: u64,
}

/// A path that differs from what its package brought.
#[derive(Serialize)]
pub(crate) struct ReportedChange {
    path: String,
    change: ChangeKind,
}

impl ImportReport {
    pub(crate) fn of(imported: Imported) -> Self {
        let reported = |Change { path, kind }: Change| ReportedChange {
            path: path.to_string(),
            change: kind,
        };
        Self {
            signature: imported.environment.signature.to_string(),
            kind: imported.kind,
            reused: imported.reused,
            packages: imported.packages,
            changes: imported.changes.into_iter().map(reported).collect(),
            outside: imported.outside,
            prefix_bytes: imported.prefix_bytes,
            new_objects: imported.written.objects,
            new_bytes: imported.written.bytes,
            new_inodes: imported.written.inodes,
        }
    }

    /// How many packages were taken from there.
    pub(crate) fn count(&self, origin: Origin) -> usize {
        self.packages.iter().filter(|package| package.origin == origin).count()
    }

    /// How many paths differ in that way.
    pub(crate) fn count_changes(&self, kind: ChangeKind) -> usize {
        self.changes.iter().filter(|change| change.change == kind).count()
    }
}

pub(crate) fn execute(context: &Context, args: &ImportArgs) -> Result<ExitCode, CliError> {
    let request = ImportRequest {
        prefix: args.prefix.clone(),
        fetch: args.fetch,
        bytecode: !args.no_pyc,
        link_scripts: (!args.no_link_scripts).then(|| Arc::new(link_scripts::Sandboxed) as _),
        keep_outside: args.keep_outside,
    };
    let bar = Bar::new(context.quiet || context.json);
    let (store, network) = (context.store()?, context.network()?);
    let imported = context.block_on(import(&store, &network, request, &bar))??;
    drop(bar);
    for clash in &imported.clashes {
        tracing::info!("{}: that of {} hides that of {}", clash.path, clash.winner, clash.loser);
    }
    let report = ImportReport::of(imported);
    if context.json {
        context.print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !context.quiet {
        describe(context, &report);
    }
    output::line(&report.signature)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(context: &Context, report: &ImportReport) {
    let packages = output::count(report.packages.len() as u64, "package");
    context.note(&format!(
        "{packages}: {} from the store, {} fetched, {} from the directory",
        report.count(Origin::Store),
        report.count(Origin::Fetched),
        report.count(Origin::Prefix)
    ));
    for change in &report.changes {
        let mark = match change.change {
            ChangeKind::Added => '+',
            ChangeKind::Modified => '~',
            ChangeKind::Removed => '-',
        };
        context.note(&format!("{mark} {}", change.path));
    }
    if !report.changes.is_empty() {
        let count = |kind| report.count_changes(kind);
        context.note(&format!(
            "{} added, {} modified, {} removed by hand",
            count(ChangeKind::Added),
            count(ChangeKind::Modified),
            count(ChangeKind::Removed)
        ));
    }
    for outside in &report.outside {
        context.note(&format!("leads out: {} to {}", outside.path, outside.target));
    }
    context.note(&format!(
        "{} in the directory, {} new in the store",
        output::bytes(report.prefix_bytes),
        output::bytes(report.new_bytes)
    ));
}
