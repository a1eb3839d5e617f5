//! The way out: one HTTP client stack and one index reader for everything this crate asks of channels.
//!
//! Assembles what the conda ecosystem already agrees on (mirrors, OCI registries, credentials, proxies) from files and
//! options that the caller names. Reads no environment variable of its own, except those the HTTP library looks up
//! for itself (`HTTPS_PROXY` and its kin, `SSL_CERT_FILE`). Knows nothing of specs, packages or solving.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rattler_config::config::{CommonConfig, ConfigBase, NoExtension};
use rattler_networking::authentication_storage::backends::file::FileStorage;
use rattler_networking::authentication_storage::backends::netrc::NetRcStorage;
use rattler_networking::{
    AuthenticationMiddleware, AuthenticationStorage, LazyClient, MirrorMiddleware, OciMiddleware, OfflineMiddleware,
};
use rattler_redaction::Redact;
use rattler_repodata_gateway::fetch::CacheAction;
use rattler_repodata_gateway::{ChannelConfig as IndexConfig, Gateway, SourceConfig};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::sync::Semaphore;
use url::Url;

use crate::limits::ArchiveLimits;
use crate::retry::{RetryMiddleware, RetryRule};

/// Time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time without a single byte after which a connection counts as dead.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that decides how channels are reached. Paths are given by the caller; missing optional files are fine.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Never connect to anything: the index comes from the cache or from `file://` channels, archives from `file://`.
    pub is_offline: bool,
    /// Where indexes are kept between runs. Anything in it may be deleted at any time.
    pub cache_dir: PathBuf,
    /// What relative channel paths are relative to.
    pub root_dir: PathBuf,
    /// Credential files in rattler's JSON format (`~/.rattler/credentials.json`), the first that knows a host wins.
    pub credential_files: Vec<PathBuf>,
    /// A `.netrc`, asked after the credential files.
    pub netrc: Option<PathBuf>,
    /// Configuration files with the keys pixi and rattler share (`mirrors`, `proxy-config`, `default-channels`, ...);
    /// later ones win.
    pub config_files: Vec<PathBuf>,
    /// What a bare channel name is appended to; none: the ecosystem's public server.
    pub channel_alias: Option<String>,
    /// Channels of a spec that names none; empty: the configuration's `default-channels`, else conda-forge.
    pub default_channels: Vec<String>,
    /// The pause before the first retry of a failed request; it doubles with each further one.
    pub first_retry_pause: Duration,
    /// How much an archive may be that comes this way.
    pub limits: ArchiveLimits,
}

impl NetworkOptions {
    /// Options with nothing but the two directories that are always needed.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>, root_dir: impl Into<PathBuf>) -> Self {
        Self {
            is_offline: false,
            cache_dir: cache_dir.into(),
            root_dir: root_dir.into(),
            credential_files: Vec::new(),
            netrc: None,
            config_files: Vec::new(),
            channel_alias: None,
            default_channels: Vec::new(),
            first_retry_pause: Duration::from_millis(300),
            limits: ArchiveLimits::default(),
        }
    }
}

/// A client for channels, shared by all solves and downloads of a process.
///
/// Cheap until the first request: certificates are loaded only when something is asked of a server.
pub struct Network {
    options: NetworkOptions,
    channel_config: rattler_conda_types::ChannelConfig,
    default_channels: Vec<String>,
    index_client: LazyClient,
    archive_client: LazyClient,
    gateway: OnceLock<Gateway>,
    index_config: IndexConfig,
    downloads: Semaphore,
}

impl Network {
    /// Reads the configuration and credential files and prepares the clients. Connects to nothing.
    ///
    /// # Errors
    /// A file that was named and exists cannot be read, or says something that makes no sense.
    pub fn new(options: NetworkOptions) -> Result<Self, NetworkError> {
        let config = read_config(&options.config_files)?;
        let credentials = read_credentials(&options, &config)?;
        let mut channel_config = rattler_conda_types::ChannelConfig::default_with_root_dir(options.root_dir.clone());
        if let Some(alias) = &options.channel_alias {
            channel_config.channel_alias = parse_alias(alias)?;
        }
        let default_channels = default_channels(&options, &config);
        let index_config = index_config(&options, &config);
        let downloads = Semaphore::new(config.concurrency.downloads.max(1));

        let recipe = Arc::new(ClientRecipe {
            is_offline: options.is_offline,
            user_agent: concat!("envfs/", env!("CARGO_PKG_VERSION")),
            proxies: rattler_networking::proxy::proxies_from_config(&config.proxy_config)
                .map_err(NetworkError::Proxy)?,
            accept_invalid_certificates: config.tls_no_verify.unwrap_or(false),
            credentials,
            config,
        });
        let rule = RetryRule::new(options.first_retry_pause);
        let bare = OnceLock::new();
        let bare = Arc::new(bare);
        Ok(Self {
            index_client: recipe.lazy_client(&bare, Some(rule)),
            archive_client: recipe.lazy_client(&bare, None),
            gateway: OnceLock::new(),
            channel_config,
            default_channels,
            index_config,
            downloads,
            options,
        })
    }

    /// Whether connecting is forbidden.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.options.is_offline
    }

    pub(crate) fn limits(&self) -> &ArchiveLimits {
        &self.options.limits
    }

    /// The channels of a spec that names none.
    #[must_use]
    pub fn default_channels(&self) -> &[String] {
        &self.default_channels
    }

    pub(crate) fn channel_config(&self) -> &rattler_conda_types::ChannelConfig {
        &self.channel_config
    }

    pub(crate) fn cache_dir(&self) -> &Path {
        &self.options.cache_dir
    }

    /// The reader of channel indexes. What it has read once it keeps in memory.
    pub(crate) fn gateway(&self) -> &Gateway {
        self.gateway.get_or_init(|| {
            Gateway::builder()
                .with_client(self.index_client.clone())
                .with_cache_dir(self.options.cache_dir.join("repodata"))
                .with_channel_config(self.index_config.clone())
                .with_max_concurrent_requests(MAX_INDEX_REQUESTS)
                .finish()
        })
    }

    /// The client for archives: no retries of its own, because only the download knows how to go on.
    pub(crate) fn archive_client(&self) -> &ClientWithMiddleware {
        self.archive_client.client()
    }

    pub(crate) fn retry_rule(&self) -> RetryRule {
        RetryRule::new(self.options.first_retry_pause)
    }

    /// Bounds how many archives are downloaded at once.
    pub(crate) fn downloads(&self) -> &Semaphore {
        &self.downloads
    }
}

/// Sharded indexes ask for thousands of small files; more at once than this gains nothing and trips rate limits.
const MAX_INDEX_REQUESTS: usize = 50;

/// Why the way out could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// A configuration file cannot be used.
    #[error("configuration file {} cannot be used: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the parser's words.
        reason: String,
    },
    /// A credential file cannot be used.
    #[error("credential file {} cannot be used: {reason}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong; never holds a secret.
        reason: String,
    },
    /// The channel alias is not a URL.
    #[error("channel alias '{alias}' is not a URL; it must read like https://host/path")]
    ChannelAlias {
        /// What was given.
        alias: String,
        /// Why it is none.
        #[source]
        source: url::ParseError,
    },
    /// A proxy of the configuration is not usable.
    #[error("a proxy of the configuration cannot be used")]
    Proxy(#[source] reqwest::Error),
}

/// The URL without password, access token and signature: fit to be shown.
pub(crate) fn redact(url: &Url) -> String {
    url.clone().redact().to_string()
}

/// The URL without user, password and access token: fit to be written into a file that others read.
pub(crate) fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // Neither fails: a URL that can have no user has none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let path = url.path().to_owned();
    let token_and_rest = path.strip_prefix("/t/").and_then(|rest| rest.split_once('/'));
    if let Some((_token, rest)) = token_and_rest.filter(|_| url.has_host()) {
        url.set_path(&format!("/{rest}"));
    }
    url
}

/// Gives a URL the user and password of another.
pub(crate) fn take_user(url: &mut Url, other: &Url) {
    // Neither fails: a URL that can have no user keeps none.
    let _ = url.set_username(other.username());
    let _ = url.set_password(other.password());
}

fn read_config(files: &[PathBuf]) -> Result<CommonConfig, NetworkError> {
    let mut config = ConfigBase::<NoExtension>::default();
    for path in files.iter().filter(|path| path.exists()) {
        let unusable = |reason: String| NetworkError::Config {
            path: path.clone(),
            reason,
        };
        use rattler_config::config::Config as _;
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let (file, unknown_keys) =
            ConfigBase::<NoExtension>::from_toml_str(&text).map_err(|error| unusable(error.to_string()))?;
        for key in unknown_keys {
            tracing::debug!(path = %path.display(), key, "configuration key of another tool");
        }
        config = config
            .merge_config(&file)
            .map_err(|error| unusable(error.to_string()))?;
        config.validate().map_err(|error| unusable(error.to_string()))?;
    }
    Ok(config.common)
}

fn read_credentials(options: &NetworkOptions, config: &CommonConfig) -> Result<AuthenticationStorage, NetworkError> {
    let mut storage = AuthenticationStorage::empty();
    let files = config
        .authentication_override_file
        .iter()
        .chain(&options.credential_files);
    for path in files.filter(|path| path.exists()) {
        let file = FileStorage::from_path(path.clone()).map_err(|error| NetworkError::Credentials {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        storage.add_backend(Arc::new(file));
    }
    if let Some(path) = options.netrc.as_ref().filter(|path| path.exists()) {
        let netrc = NetRcStorage::from_path(path).map_err(|error| NetworkError::Credentials {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        storage.add_backend(Arc::new(netrc));
    }
    Ok(storage)
}

fn parse_alias(alias: &str) -> Result<Url, NetworkError> {
    // Names are joined to the alias: without the slash its last part would be replaced.
    Url::parse(&format!("{}/", alias.trim_end_matches('/'))).map_err(|source| NetworkError::ChannelAlias {
        alias: alias.to_owned(),
        source,
    })
}

fn default_channels(options: &NetworkOptions, config: &CommonConfig) -> Vec<String> {
    if !options.default_channels.is_empty() {
        return options.default_channels.clone();
    }
    match &config.default_channels {
        Some(channels) if !channels.is_empty() => channels.iter().map(ToString::to_string).collect(),
        _ => vec!["conda-forge".to_owned()],
    }
}

fn index_config(options: &NetworkOptions, config: &CommonConfig) -> IndexConfig {
    let source = |repodata: &rattler_config::config::repodata_config::RepodataChannelConfig| SourceConfig {
        zstd_enabled: !repodata.disable_zstd.unwrap_or(false),
        bz2_enabled: !repodata.disable_bzip2.unwrap_or(false),
        sharded_enabled: !repodata.disable_sharded.unwrap_or(false),
        cache_action: if options.is_offline {
            CacheAction::ForceCacheOnly
        } else {
            CacheAction::CacheOrFetch
        },
        // Offline, what was never fetched counts as not there: a solve with what is known beats none.
        missing_shards_are_empty: options.is_offline,
    };
    let defaults = &config.repodata_config.default;
    IndexConfig {
        default: source(defaults),
        per_channel: config
            .repodata_config
            .per_channel
            .iter()
            .map(|(url, channel)| (url.clone(), source(&channel.merge(defaults.clone()))))
            .collect(),
    }
}

/// What a client is made of, kept until the first request needs one.
struct ClientRecipe {
    is_offline: bool,
    user_agent: &'static str,
    proxies: Vec<reqwest::Proxy>,
    accept_invalid_certificates: bool,
    credentials: AuthenticationStorage,
    config: CommonConfig,
}

impl ClientRecipe {
    /// A client that is built on first use, on top of a connection pool that all clients of a recipe share.
    fn lazy_client(self: &Arc<Self>, pool: &Arc<OnceLock<reqwest::Client>>, retry: Option<RetryRule>) -> LazyClient {
        let (recipe, pool) = (Arc::clone(self), Arc::clone(pool));
        LazyClient::new(move || recipe.client(pool.get_or_init(|| recipe.pool()).clone(), retry))
    }

    fn pool(&self) -> reqwest::Client {
        let mut builder = reqwest::Client::builder()
            .user_agent(self.user_agent)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_max_idle_per_host(20);
        for proxy in &self.proxies {
            builder = builder.proxy(proxy.clone());
        }
        if self.accept_invalid_certificates {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        builder.build().unwrap_or_else(|error| {
            tracing::warn!("the HTTP client is built with defaults: {error}");
            reqwest::Client::new()
        })
    }

    /// The order matters: nothing may pass the first when offline; addresses are rewritten before credentials are
    /// looked up for them; a retry repeats the finished request.
    fn client(&self, pool: reqwest::Client, retry: Option<RetryRule>) -> ClientWithMiddleware {
        let mut builder = ClientBuilder::new(pool.clone());
        if self.is_offline {
            builder = builder.with(OfflineMiddleware);
        }
        builder = builder
            .with(MirrorMiddleware::from_config(&self.config))
            .with(OciMiddleware::new(pool).with_authentication_storage(self.credentials.clone()))
            .with(AuthenticationMiddleware::from_auth_storage(self.credentials.clone()));
        if let Some(rule) = retry {
            builder = builder.with(RetryMiddleware::new(rule));
        }
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_or_removed() {
        let url: Url = "https://me:secret@host/t/secret/chan/noarch/".parse().unwrap();
        assert!(!redact(&url).contains("secret"));
        assert_eq!(without_credentials(&url).as_str(), "https://host/chan/noarch/");
        let plain: Url = "file:///t/x/chan/".parse().unwrap();
        assert_eq!(without_credentials(&plain), plain);
    }

    #[test]
    fn an_alias_keeps_its_last_part() {
        assert_eq!(
            parse_alias("https://host/a").unwrap().join("b/").unwrap().as_str(),
            "https://host/a/b/"
        );
        assert!(parse_alias("host").is_err());
    }
}
