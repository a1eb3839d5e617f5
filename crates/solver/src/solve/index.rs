//! The records of channels that may matter for a request, and whose fault it is when they cannot be had.

use rattler_conda_types::{MatchSpec, Subdir as CondaSubdir};
use rattler_networking::OfflineError;
use rattler_repodata_gateway::fetch::FetchRepoDataError;
use rattler_repodata_gateway::{GatewayError, RepoData};

use crate::channel::{ChannelError, ResolvedChannel, redact_text};
use crate::network::Network;
use crate::subdir::Subdir;

/// The records of all packages that the MatchSpecs name, and of everything those may depend on.
pub(super) async fn load(
    network: &Network,
    channels: &[ResolvedChannel],
    subdir: Subdir,
    match_specs: &[MatchSpec],
) -> Result<Vec<RepoData>, ChannelError> {
    let mut sources = Vec::with_capacity(channels.len());
    for channel in channels {
        sources.push(channel.source(subdir, network)?);
    }
    let mut subdirs = vec![subdir.to_conda()];
    if subdir != Subdir::NOARCH {
        subdirs.push(CondaSubdir::NoArch);
    }
    let query = network
        .gateway()
        .query(sources, subdirs, match_specs.iter().cloned())
        .recursive(true);
    match query.execute().await {
        Ok(output) => {
            for warning in &output.warnings {
                tracing::warn!("{warning}");
            }
            Ok(output.repodata)
        }
        Err(error) => Err(blame(error, network, channels, subdir).await),
    }
}

/// Says in our words which channel is at fault and why.
async fn blame(error: GatewayError, network: &Network, channels: &[ResolvedChannel], subdir: Subdir) -> ChannelError {
    match error {
        GatewayError::SubdirNotFoundError(missing) => {
            let address = missing.channel.base_url.as_str();
            let url = format!("{}{}/repodata.json", redact_text(address), missing.subdir);
            let Some(channel) = channels
                .iter()
                .find(|channel| channel.urls().iter().any(|own| own == address))
            else {
                return ChannelError::Unknown {
                    given: redact_text(address),
                    url,
                };
            };
            let given = channel.given().to_owned();
            if channel.has_subdir(subdir, network).await {
                return ChannelError::NoNoarch { given, url };
            }
            ChannelError::Unknown { given, url }
        }
        GatewayError::ReqwestError(error) => of_request(&error, channels),
        GatewayError::ReqwestMiddlewareError(error) if error.is::<OfflineError>() => {
            ChannelError::NotCached { given: all(channels) }
        }
        GatewayError::FetchRepoDataError(error) => of_fetch(&error, channels),
        GatewayError::ShardedIndexNotCached(url) => ChannelError::NotCached {
            given: whose(url.as_str(), channels),
        },
        other => ChannelError::Malindexed {
            given: all(channels),
            reason: with_causes(&other),
        },
    }
}

fn of_fetch(error: &FetchRepoDataError, channels: &[ResolvedChannel]) -> ChannelError {
    match error {
        FetchRepoDataError::HttpError(reqwest_middleware::Error::Reqwest(error)) => of_request(error, channels),
        FetchRepoDataError::HttpError(reqwest_middleware::Error::Middleware(error)) if error.is::<OfflineError>() => {
            ChannelError::NotCached { given: all(channels) }
        }
        FetchRepoDataError::NoCacheAvailable(url) => ChannelError::NotCached {
            given: whose(url.as_str(), channels),
        },
        FetchRepoDataError::FailedToDownload(url, error) => ChannelError::Unreachable {
            given: whose(url.as_str(), channels),
            reason: with_causes(error),
        },
        other => ChannelError::Malindexed {
            given: all(channels),
            reason: with_causes(other),
        },
    }
}

fn of_request(error: &reqwest::Error, channels: &[ResolvedChannel]) -> ChannelError {
    let given = error
        .url()
        .map_or_else(|| all(channels), |url| whose(url.as_str(), channels));
    match error.status().map(|status| status.as_u16()) {
        Some(status @ (401 | 403 | 407)) => ChannelError::Refused { given, status },
        Some(status) => ChannelError::Status { given, status },
        None => ChannelError::Unreachable {
            given,
            reason: innermost(error),
        },
    }
}

/// The channel an address belongs to, as it was written; a mirror's address belongs to none.
fn whose(url: &str, channels: &[ResolvedChannel]) -> String {
    let url = redact_text(url);
    channels.iter().find(|channel| channel.holds(&url)).map_or_else(
        || format!("{} (by way of {url})", all(channels)),
        |channel| channel.given().to_owned(),
    )
}

fn all(channels: &[ResolvedChannel]) -> String {
    channels
        .iter()
        .map(ResolvedChannel::given)
        .collect::<Vec<_>>()
        .join(", ")
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
