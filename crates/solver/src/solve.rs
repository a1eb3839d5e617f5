//! From what is asked for to exact packages.
//!
//! Reads the index of the channels of a spec, and lets the solver choose. Knows specs, channels and packages; nothing of
//! lock files, downloads or what becomes of the packages.

mod exclude_newer;
mod index;
mod remembered;
mod virtual_packages;

use std::collections::HashSet;

use rattler_conda_types::{
    GenericVirtualPackage, MatchSpec, Matches, NamelessMatchSpec, PackageNameMatcher, RepoDataRecord,
};
use rattler_solve::{CancellationToken, ChannelRepoData, SolverImpl, SolverTask, resolvo};

use crate::channel::{ChannelError, ResolvedChannel};
use crate::network::Network;
use crate::package::{LockedPackage, PackageError};
use crate::spec::{Spec, parse_match_spec};
use crate::subdir::Subdir;

use remembered::Question;

pub use exclude_newer::{ExcludeNewer, ParseExcludeNewerError};
pub use virtual_packages::{VirtualPackageError, VirtualPackages};

/// What is to be solved, and under which rules.
#[derive(Clone, Debug)]
pub struct SolveRequest<'a> {
    /// What is asked for.
    pub spec: &'a Spec,
    /// The platform to solve for.
    pub subdir: Subdir,
    /// Packages of a base: they are part of the solution exactly as they are.
    pub pinned: &'a [LockedPackage],
    /// Packages of an older lock: kept where nothing forbids it, if the channels still have them.
    pub preferred: &'a [LockedPackage],
    /// Leaves out packages that came later.
    pub exclude_newer: Option<ExcludeNewer>,
    /// How channels rank against each other.
    pub channel_priority: ChannelPriority,
    /// What the machine offers that will run it.
    pub virtual_packages: VirtualPackages,
}

impl<'a> SolveRequest<'a> {
    /// A request with nothing pinned, preferred or left out, and strict priority.
    #[must_use]
    pub fn new(spec: &'a Spec, subdir: Subdir, virtual_packages: VirtualPackages) -> Self {
        Self {
            spec,
            subdir,
            pinned: &[],
            preferred: &[],
            exclude_newer: None,
            channel_priority: ChannelPriority::Strict,
            virtual_packages,
        }
    }
}

/// How channels rank against each other, in conda's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelPriority {
    /// A package comes from the first channel that has any build of it.
    #[default]
    Strict,
    /// The order of channels does not matter.
    Disabled,
}

/// An environment for one platform.
#[derive(Clone, Debug)]
pub struct Solution {
    subdir: Subdir,
    channels: Vec<String>,
    packages: Vec<LockedPackage>,
}

impl Solution {
    /// The platform it is for.
    #[must_use]
    pub fn subdir(&self) -> Subdir {
        self.subdir
    }

    /// The addresses of the channels it was solved with, the first having priority.
    #[must_use]
    pub fn channels(&self) -> &[String] {
        &self.channels
    }

    /// All packages, those of a base among them, by name.
    #[must_use]
    pub fn packages(&self) -> &[LockedPackage] {
        &self.packages
    }

    /// All packages, by name.
    #[must_use]
    pub fn into_packages(self) -> Vec<LockedPackage> {
        self.packages
    }
}

/// Solves a request. The future must run on tokio; the search itself runs on a thread of its own and ends when the future
/// is dropped.
///
/// # Errors
/// A channel cannot be read, or no set of packages satisfies the request; then the error holds the solver's
/// explanation.
pub async fn solve(network: &Network, request: &SolveRequest<'_>) -> Result<Solution, SolveError> {
    let mut channels = channels_of(request.spec, network)?;
    let match_specs = match_specs_of(request, &mut channels, network)?;
    if is_settled(&match_specs, request.pinned) {
        let records = request.pinned.iter().map(|package| package.record().clone());
        return solution(records.collect(), &channels, request);
    }
    let records = index::load(network, &channels, request.subdir, &match_specs).await?;

    let known: HashSet<&str> = records
        .iter()
        .flat_map(rattler_repodata_gateway::RepoData::iter)
        .map(|record| record.url.as_str())
        .collect();
    // An older lock is a wish, not a source: what the channels dropped, or another channel had, is no candidate.
    let preferred = request.preferred.iter().filter(|package| known.contains(package.url()));
    let preferred: Vec<RepoDataRecord> = preferred.map(|package| package.record().clone()).collect();
    let pinned: Vec<RepoDataRecord> = request.pinned.iter().map(|package| package.record().clone()).collect();
    let question = |preferred: &[RepoDataRecord]| {
        let question = question(request, &channels, &match_specs, &records, &pinned, preferred);
        question.place(network.cache_dir())
    };
    let remembered = question(&preferred);
    if let Some(chosen) = remembered.recall(&records, &pinned) {
        return solution(chosen, &channels, request);
    }
    let task = Task {
        records: records.clone(),
        match_specs: match_specs.clone(),
        preferred,
        pinned: pinned.clone(),
        virtual_packages: request.virtual_packages.as_conda().to_vec(),
        exclude_newer: request.exclude_newer.map(ExcludeNewer::to_conda),
        channel_priority: match request.channel_priority {
            ChannelPriority::Strict => rattler_solve::ChannelPriority::Strict,
            ChannelPriority::Disabled => rattler_solve::ChannelPriority::Disabled,
        },
        cancellation: CancellationToken::new(),
    };
    let _cancel_when_dropped = CancelWhenDropped(task.cancellation.clone());
    let searched = tokio::task::spawn_blocking(move || task.run()).await;
    let searched = searched.map_err(|error| SolveError::Failed {
        reason: error.to_string(),
    })?;
    let chosen = searched.map_err(|error| explain(error, network, request))?;
    // Whoever prefers just this solution gets it: so asks who locks again over the lock that is written now.
    for place in [&remembered, &question(&chosen)] {
        if let Err(error) = place.keep(&chosen) {
            tracing::debug!("a solution cannot be kept for the next time: {error}");
        }
    }
    solution(chosen, &channels, request)
}

/// The addresses of a request's channels, the first having priority, and its MatchSpecs in the solver's own spelling.
///
/// # Errors
/// A channel or a MatchSpec makes no sense.
pub(crate) fn resolved(
    request: &SolveRequest<'_>,
    network: &Network,
) -> Result<(Vec<String>, Vec<String>), SolveError> {
    let mut channels = channels_of(request.spec, network)?;
    let match_specs = match_specs_of(request, &mut channels, network)?;
    Ok((
        channels.iter().flat_map(ResolvedChannel::urls).collect(),
        match_specs.iter().map(ToString::to_string).collect(),
    ))
}

/// Why there is no solution.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// A channel cannot be used.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// No set of packages satisfies all that is asked for.
    #[error("no set of packages satisfies the request\n{}", explanation.trim_end())]
    Unsatisfiable {
        /// The solver's own words, over several lines.
        explanation: String,
        /// What may help, in this situation.
        help: Vec<String>,
    },
    /// A MatchSpec came through unchecked, or names a channel that makes no sense.
    #[error("'{text}' is not a MatchSpec: {reason}")]
    MatchSpec {
        /// The MatchSpec.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The solution holds a package that cannot be used.
    #[error("the solution holds a package that cannot be used")]
    Package(#[from] PackageError),
    /// The search failed without an answer.
    #[error("solving failed: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

impl SolveError {
    /// Whether the channels could not be asked: an older answer may do.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Channel(error) if error.is_unreachable())
    }
}

/// Whether a base has all that is asked for: then there is nothing to search, and no index to read.
fn is_settled(match_specs: &[MatchSpec], pinned: &[LockedPackage]) -> bool {
    let is_met = |spec: &MatchSpec| pinned.iter().any(|package| spec.matches(package.record()));
    !pinned.is_empty() && match_specs.iter().all(is_met)
}

fn channels_of(spec: &Spec, network: &Network) -> Result<Vec<ResolvedChannel>, ChannelError> {
    let given = match spec.channels() {
        [] => network.default_channels(),
        channels => channels,
    };
    let mut channels = Vec::new();
    for given in given {
        add_channel(&mut channels, ResolvedChannel::resolve(given, network)?);
    }
    Ok(channels)
}

fn add_channel(channels: &mut Vec<ResolvedChannel>, channel: ResolvedChannel) {
    if !channels.iter().any(|known| known.is_same(&channel)) {
        channels.push(channel);
    }
}

/// What the solver must satisfy. A channel that a MatchSpec names (`channel::package`) becomes one of the channels, with
/// the lowest priority.
fn match_specs_of(
    request: &SolveRequest<'_>,
    channels: &mut Vec<ResolvedChannel>,
    network: &Network,
) -> Result<Vec<MatchSpec>, SolveError> {
    let mut match_specs = Vec::new();
    for text in request.spec.match_specs(request.subdir) {
        let mut match_spec = parse_match_spec(text).map_err(|reason| SolveError::MatchSpec {
            text: text.to_owned(),
            reason,
        })?;
        if let Some(channel) = &match_spec.channel {
            // The parser knows neither our alias nor `defaults` nor what paths are relative to: the name is looked up anew.
            let given = match &channel.name {
                Some(name) if !text.contains("://") => name.clone(),
                _ => channel.base_url.as_str().to_owned(),
            };
            let resolved = ResolvedChannel::resolve(&given, network)?;
            match_spec.channel = resolved.main_part().cloned().map(std::sync::Arc::new);
            add_channel(channels, resolved);
        }
        match_specs.push(match_spec);
    }
    // A pin alone only forbids other candidates; asking for it by name brings it, and its constraints, into the solution.
    for package in request.pinned {
        let name = package.record().package_record.name.clone();
        match_specs.push(MatchSpec::from_nameless(
            NamelessMatchSpec::default(),
            PackageNameMatcher::Exact(name),
        ));
    }
    Ok(match_specs)
}

/// Everything that the search's result depends on.
fn question(
    request: &SolveRequest<'_>,
    channels: &[ResolvedChannel],
    match_specs: &[MatchSpec],
    records: &[rattler_repodata_gateway::RepoData],
    pinned: &[RepoDataRecord],
    preferred: &[RepoDataRecord],
) -> Question {
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts.join("\n")
    };
    let urls = |records: &[RepoDataRecord]| sorted(records.iter().map(|record| record.url.to_string()).collect());
    let mut question = Question::new();
    question.add(request.subdir.as_str());
    question.add(&format!("{:?}", request.channel_priority));
    question.add(&request.exclude_newer.map(ExcludeNewer::to_rfc3339).unwrap_or_default());
    question.add(&sorted(request.virtual_packages.to_strings()));
    question.add(&sorted(match_specs.iter().map(ToString::to_string).collect()));
    channels
        .iter()
        .flat_map(ResolvedChannel::urls)
        .for_each(|url| question.add(&url));
    question.add(&urls(pinned));
    question.add(&urls(preferred));
    question.add_index(records);
    question
}

/// What the search needs, apart from the request so that it can move to another thread.
struct Task {
    records: Vec<rattler_repodata_gateway::RepoData>,
    match_specs: Vec<MatchSpec>,
    preferred: Vec<RepoDataRecord>,
    pinned: Vec<RepoDataRecord>,
    virtual_packages: Vec<GenericVirtualPackage>,
    exclude_newer: Option<rattler_solve::ExcludeNewer>,
    channel_priority: rattler_solve::ChannelPriority,
    cancellation: CancellationToken,
}

impl Task {
    fn run(self) -> Result<Vec<RepoDataRecord>, rattler_solve::SolveError> {
        let available = self.records.iter().map(|subdir| ChannelRepoData {
            records: subdir.iter(),
            multi_channel: subdir.multi_channel(),
        });
        let task = SolverTask {
            virtual_packages: self.virtual_packages,
            specs: self.match_specs,
            locked_packages: self.preferred.iter().collect(),
            pinned_packages: self.pinned.iter().collect(),
            exclude_newer: self.exclude_newer,
            channel_priority: self.channel_priority,
            cancellation_token: Some(self.cancellation),
            ..available.collect::<SolverTask<'_, Vec<_>>>()
        };
        resolvo::Solver.solve(task).map(|result| result.records)
    }
}

struct CancelWhenDropped(CancellationToken);

impl Drop for CancelWhenDropped {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn solution(
    chosen: Vec<RepoDataRecord>,
    channels: &[ResolvedChannel],
    request: &SolveRequest<'_>,
) -> Result<Solution, SolveError> {
    let mut packages = Vec::with_capacity(chosen.len());
    for record in chosen {
        // The very records of the base, which may know more or less than the index does today.
        let pinned = request
            .pinned
            .iter()
            .find(|package| package.record().package_record.name == record.package_record.name);
        packages.push(match pinned {
            Some(package) => package.clone(),
            None => LockedPackage::from_record(record)?,
        });
    }
    packages.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(Solution {
        subdir: request.subdir,
        channels: channels.iter().flat_map(ResolvedChannel::urls).collect(),
        packages,
    })
}

fn explain(error: rattler_solve::SolveError, network: &Network, request: &SolveRequest<'_>) -> SolveError {
    let explanation = match error {
        rattler_solve::SolveError::Unsolvable(explanations) => explanations.join("\n"),
        other => {
            return SolveError::Failed {
                reason: other.to_string(),
            };
        }
    };
    let mut help = Vec::new();
    if !request.pinned.is_empty() {
        help.push(format!(
            "the base holds its {} packages as they are; ask for what fits them, or build without a base",
            request.pinned.len()
        ));
    }
    if request.exclude_newer.is_some() {
        help.push("packages newer than the given date were left out".to_owned());
    }
    if network.is_offline() {
        help.push("offline, only what was fetched earlier is known; run once without --offline".to_owned());
    }
    if let Some(name) = missing_virtual_package(&explanation) {
        help.push(format!(
            "{name} is what a machine has: this one, or the platform that is solved for, has none that fits; to solve for a machine \
             that has one, set CONDA_OVERRIDE_{} to its version",
            name.trim_start_matches('_').to_uppercase()
        ));
    } else if explanation.contains("o candidates were found") {
        let channels = match request.spec.channels() {
            [] => network.default_channels(),
            channels => channels,
        };
        help.push(format!(
            "looked for it in {}, for {} and noarch; conda's `defaults` are looked in only where they are named",
            channels.join(", "),
            request.subdir
        ));
    }
    if explanation.contains("strict channel priority") {
        help.push("a package comes from the first channel that has it; change the order of channels, or write channel::package".to_owned());
    }
    SolveError::Unsatisfiable { explanation, help }
}

/// A virtual package that nothing provides (CEP 30: their names begin with two underscores).
fn missing_virtual_package(explanation: &str) -> Option<&str> {
    let lines = explanation
        .lines()
        .filter(|line| line.contains("o candidates were found"));
    let words = lines.flat_map(str::split_whitespace);
    words
        .map(|word| word.trim_matches([',', '.', '`']))
        .find(|word| word.len() > 2 && word.starts_with("__"))
}
