//! Channels: from the names people write to the addresses that are asked, and what can be wrong with them.
//!
//! Knows the way out and the layout of a channel; nothing of specs or solving.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rattler_conda_types::{Channel, Subdir as CondaSubdir};
use rattler_repodata_gateway::sparse::SparseRepoData;
use rattler_repodata_gateway::{MultiSource, Source};
use url::Url;

use crate::network::{Network, redact};
use crate::subdir::Subdir;

/// Where conda finds the channels called `pkgs/...`, whatever the alias is.
const PKGS_SERVER: &str = "https://repo.anaconda.com";
/// What conda means by `defaults` on Linux and macOS: one channel, of equal priority, in two parts.
const DEFAULTS: [&str; 2] = ["pkgs/main", "pkgs/r"];

/// A channel as one source of packages; `defaults` has several parts.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedChannel {
    /// As it was written.
    given: String,
    parts: Vec<Channel>,
}

impl ResolvedChannel {
    /// Finds the address of a channel that is given as name, URL or path.
    pub(crate) fn resolve(given: &str, network: &Network) -> Result<Self, ChannelError> {
        let names: Vec<String> = if given == "defaults" {
            DEFAULTS.map(|part| format!("{PKGS_SERVER}/{part}")).to_vec()
        } else if given.starts_with("pkgs/") {
            vec![format!("{PKGS_SERVER}/{given}")]
        } else {
            vec![given.to_owned()]
        };
        let parts = names.iter().map(|name| {
            Channel::from_str(name, network.channel_config()).map_err(|error| ChannelError::Malformed {
                given: given.to_owned(),
                reason: error.to_string(),
            })
        });
        let parts: Vec<Channel> = parts.collect::<Result<_, _>>()?;
        for part in &parts {
            let scheme = part.base_url.url().scheme();
            if !matches!(scheme, "http" | "https" | "file" | "oci") {
                return Err(ChannelError::Malformed {
                    given: given.to_owned(),
                    reason: format!("{scheme}:// is not supported; use https://, http://, oci:// or file://"),
                });
            }
        }
        Ok(Self {
            given: given.to_owned(),
            parts,
        })
    }

    /// The addresses, as a lock file holds them.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.parts
            .iter()
            .map(|part| part.base_url.as_str().to_owned())
            .collect()
    }

    /// The first part: what `channel::package` means.
    pub(crate) fn main_part(&self) -> Option<&Channel> {
        self.parts.first()
    }

    /// Whether it is the same channel, however written.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.urls() == other.urls()
    }

    /// Whether an address is one of this channel, for telling whose index an error speaks of.
    pub(crate) fn holds(&self, url: &str) -> bool {
        self.parts
            .iter()
            .any(|part| url.starts_with(&redact(part.base_url.url())))
    }

    pub(crate) fn given(&self) -> &str {
        &self.given
    }

    /// What the index reader is asked to read. Channels on disk are looked at first, because it would take one that
    /// does not exist for an empty one.
    pub(crate) fn source(&self, subdir: Subdir, network: &Network) -> Result<Source, ChannelError> {
        let mut sources = Vec::new();
        for part in &self.parts {
            sources.push(match part.base_url.url().to_file_path() {
                Ok(folder) if part.base_url.url().scheme() == "file" => {
                    local_source(&self.given, part, &folder, subdir, network.cache_dir())?
                }
                _ => Source::Channel(part.clone()),
            });
        }
        if sources.len() == 1 {
            return Ok(sources.remove(0));
        }
        let group = MultiSource::new(self.given.as_str(), sources).map_err(|error| ChannelError::Malformed {
            given: self.given.clone(),
            reason: error.to_string(),
        })?;
        Ok(Source::Multi(group))
    }

    /// Whether a channel whose `noarch` is missing has at least the subdir; then it exists and is incomplete.
    pub(crate) async fn has_subdir(&self, subdir: Subdir, network: &Network) -> bool {
        let Some(part) = self.main_part() else {
            return false;
        };
        let folder = part.platform_url(subdir.to_conda());
        for index in ["repodata_shards.msgpack.zst", "repodata.json.zst", "repodata.json"] {
            let Ok(url) = folder.join(index) else {
                continue;
            };
            let answer = network.archive_client().head(url).send().await;
            if answer.is_ok_and(|response| response.status().is_success()) {
                return true;
            }
        }
        false
    }
}

/// What is wrong with a channel. URLs hold no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The text names no channel.
    #[error("'{given}' is not a channel: {reason}")]
    Malformed {
        /// What was given.
        given: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no such channel.
    #[error("channel '{given}' does not exist: there is no index at {url}; look for a typo in its name")]
    Unknown {
        /// What was given.
        given: String,
        /// Where it should be.
        url: String,
    },
    /// The channel lacks the one folder that every channel must have.
    #[error(
        "channel '{given}' has no noarch: {url} is missing; every channel needs one, be it empty: `conda index` makes it"
    )]
    NoNoarch {
        /// What was given.
        given: String,
        /// Where it should be.
        url: String,
    },
    /// No answer from the server.
    #[error(
        "channel '{given}' cannot be reached: {reason}; look at the network, or use --offline if its index was fetched before"
    )]
    Unreachable {
        /// What was given.
        given: String,
        /// What happened.
        reason: String,
    },
    /// The server wants credentials.
    #[error(
        "channel '{given}' is refused with HTTP status {status}; store a token for its host with `pixi auth login` or \
         `rattler auth login`, or put it into ~/.netrc"
    )]
    Refused {
        /// What was given.
        given: String,
        /// 401, 403 or 407.
        status: u16,
    },
    /// The server answers with something else.
    #[error("channel '{given}' answers with HTTP status {status}; try again later or use a mirror")]
    Status {
        /// What was given.
        given: String,
        /// What it answered.
        status: u16,
    },
    /// Offline, and the index was never fetched.
    #[error("the index of channel '{given}' is not in the cache; run once without --offline")]
    NotCached {
        /// What was given.
        given: String,
    },
    /// The index cannot be understood.
    #[error("the index of channel '{given}' cannot be read: {reason}")]
    Malindexed {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ChannelError {
    /// Whether the channel could not be asked, for no fault of what was asked for.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NotCached { .. } => true,
            // Too many requests, and what a server or a proxy says of itself (RFC 9110, 15.6).
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

/// A channel in a folder. Its index may be compressed, which the index reader does not expect of a folder.
fn local_source(
    given: &str,
    channel: &Channel,
    folder: &Path,
    subdir: Subdir,
    cache_dir: &Path,
) -> Result<Source, ChannelError> {
    let url = || redact(channel.base_url.url());
    if !folder.is_dir() {
        return Err(ChannelError::Unknown {
            given: given.to_owned(),
            url: url(),
        });
    }
    if index_in(folder, Subdir::NOARCH).is_none() {
        let given = given.to_owned();
        return Err(match index_in(folder, subdir) {
            Some(_) => ChannelError::NoNoarch {
                given,
                url: format!("{}noarch/repodata.json", url()),
            },
            None => ChannelError::Unknown { given, url: url() },
        });
    }
    let subdirs = [subdir, Subdir::NOARCH];
    let is_plain = |subdir: &Subdir| !matches!(index_in(folder, *subdir), Some(Index::Compressed(_)));
    if subdirs.iter().all(is_plain) {
        return Ok(Source::Channel(channel.clone()));
    }
    let mut indexes = Vec::new();
    for subdir in subdirs {
        let Some(index) = index_in(folder, subdir) else {
            continue;
        };
        let read = read_index(&index, channel, subdir.to_conda(), cache_dir);
        indexes.push(Arc::new(read.map_err(|error| ChannelError::Malindexed {
            given: given.to_owned(),
            reason: format!("{}: {error}", index.path().display()),
        })?));
    }
    Ok(Source::SparseRepoData(indexes))
}

enum Index {
    Plain(PathBuf),
    Compressed(PathBuf),
}

impl Index {
    fn path(&self) -> &Path {
        match self {
            Self::Plain(path) | Self::Compressed(path) => path,
        }
    }
}

fn index_in(folder: &Path, subdir: Subdir) -> Option<Index> {
    let plain = folder.join(subdir.as_str()).join("repodata.json");
    if plain.is_file() {
        return Some(Index::Plain(plain));
    }
    let compressed = folder.join(subdir.as_str()).join("repodata.json.zst");
    compressed.is_file().then_some(Index::Compressed(compressed))
}

fn read_index(index: &Index, channel: &Channel, subdir: CondaSubdir, cache_dir: &Path) -> io::Result<SparseRepoData> {
    match index {
        Index::Plain(path) => SparseRepoData::from_file(channel.clone(), subdir.as_str(), path, None),
        Index::Compressed(path) => {
            std::fs::create_dir_all(cache_dir)?;
            let mut unpacked = tempfile::NamedTempFile::new_in(cache_dir)?;
            zstd::stream::copy_decode(File::open(path)?, unpacked.as_file_mut())?;
            // It is mapped into memory, which outlives the file's name.
            SparseRepoData::from_file(channel.clone(), subdir.as_str(), unpacked.path(), None)
        }
    }
}

/// The address without credentials, as far as it is one.
pub(crate) fn redact_text(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), |url| redact(&url))
}
