//! From what was typed to packages: specs read, bases pinned, the solver asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use envfs_solver::{
    ExcludeNewer, LockedPackage, Network, Solution, SolveRequest, Spec, Subdir, VirtualPackages, solve,
};
use envfs_store::Store;
use envfs_store::environment::Environment;
use envfs_store::view::View;

use crate::context::{Context, variable};
use crate::error::CliError;
use crate::progress::Bar;
use crate::resolve;

/// What is asked for on the command line, in `lock` and `build`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SpecArgs {
    /// An environment.yml with what is wanted
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A channel: a name, a URL or a directory; the first has priority. Before those of the file
    #[arg(short, long = "channel", value_name = "CHANNEL")]
    pub(crate) channels: Vec<String>,
    /// Inherit this environment: its packages stay as they are, and only what is missing is added
    #[arg(long, value_name = "ENV")]
    pub(crate) base: Option<String>,
    /// Leave out packages that are newer than this date or age (2026-01-31, 7d)
    #[arg(long, value_name = "DATE")]
    pub(crate) exclude_newer: Option<String>,
    /// Take a package from any channel that has it, not only from the first
    #[arg(long)]
    pub(crate) no_channel_priority: bool,
}

/// A spec with the environment that it inherits.
pub(crate) struct Wanted {
    pub(crate) spec: Spec,
    pub(crate) base: Option<Environment>,
}

impl SpecArgs {
    /// Puts the file, MatchSpecs and options together.
    pub(crate) fn wanted(&self, context: &Context, match_specs: &[String]) -> Result<Wanted, CliError> {
        let mut spec = match &self.file {
            Some(file) => {
                let mut spec = Spec::read(file)?;
                spec.add_match_specs(match_specs)?;
                spec.prepend_channels(&self.channels);
                spec
            }
            None => Spec::from_match_specs(match_specs, &self.channels)?,
        };
        if let Some(base) = &self.base {
            spec.set_base(base);
        }
        let base = spec
            .base()
            .map(|base| resolve::environment(context, base))
            .transpose()?;
        Ok(Wanted { spec, base })
    }

    /// Solves for one platform.
    pub(crate) async fn solve(
        &self,
        context: &Context,
        network: &Network,
        wanted: &Wanted,
        subdir: Subdir,
        preferred: &[LockedPackage],
    ) -> Result<Solution, CliError> {
        let pinned = match &wanted.base {
            None => Vec::new(),
            Some(base) => base_packages(&context.store()?, base, subdir)?,
        };
        let now = std::time::SystemTime::now();
        let exclude_newer = self
            .exclude_newer
            .as_deref()
            .map(|text| ExcludeNewer::parse(text, now))
            .transpose()?;
        let request = SolveRequest {
            spec: &wanted.spec,
            subdir,
            pinned: &pinned,
            preferred,
            exclude_newer,
            channel_priority: match self.no_channel_priority {
                true => envfs_solver::ChannelPriority::Disabled,
                false => envfs_solver::ChannelPriority::Strict,
            },
            virtual_packages: VirtualPackages::for_subdir(subdir, &|name| variable(name))?,
        };
        let bar = Bar::waiting(context.quiet, "solving");
        let solution = solve(network, &request).await;
        bar.finish_and_clear();
        Ok(solution?)
    }
}

/// The platform of this machine.
pub(crate) fn current_subdir() -> Result<Subdir, CliError> {
    Subdir::current().ok_or_else(|| {
        CliError::new("conda channels have no packages for this kind of machine").help("say which with `--platform`")
    })
}

/// The packages of a base as the solver needs them, read from its own `conda-meta`.
fn base_packages(store: &Store, base: &Environment, subdir: Subdir) -> Result<Vec<LockedPackage>, CliError> {
    if base.subdir != subdir.to_string() {
        return Err(CliError::new(format!(
            "the base {} is for {}, not for {subdir}",
            base.signature, base.subdir
        )));
    }
    let view = View::new(store, Arc::new(store.tree(&base.tree)?), Path::new("/"))?;
    let mut packages = Vec::new();
    for package in base.all_packages(store)? {
        let path = format!("conda-meta/{}.json", package.dist_name());
        let node = view.tree().find(path.as_bytes())?.ok_or_else(|| {
            CliError::new(format!("the base {} has no `{path}`", base.signature)).help("build it again")
        })?;
        packages.push(LockedPackage::from_prefix_record_json(&view.read(node)?)?);
    }
    Ok(packages)
}
