//! What every command needs: where the store is, what was asked of all of them, and the surroundings of the process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use envfs_solver::{Network, NetworkOptions, Uv, UvOptions};
use envfs_store::environment::{self, Environment};
use envfs_store::lease::Claim;
use envfs_store::{Checks, Digest, Store};
use serde::Serialize;

use crate::config::{self, Given, Settings};
use crate::error::CliError;
use crate::limits::{self, Limit};
use crate::output;
use crate::surroundings::{home, own_cache, variable, xdg};

/// What holds for every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The store [default: $XDG_DATA_HOME/envfs/store]
    #[arg(
        long,
        global = true,
        env = "ENVFS_STORE",
        value_name = "DIR",
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    pub(crate) store: Option<PathBuf>,
    /// A store to find things in before anything is fetched; it is never written to
    #[arg(
        long,
        global = true,
        env = "ENVFS_SYSTEM_STORE",
        value_name = "DIR",
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        hide_env_values = true
    )]
    pub(crate) system_store: Option<PathBuf>,
    /// When large files are compared with their digests before they are read: always, first (in a boot) or never [default: first]
    #[arg(long, global = true, value_name = "WHEN", value_parser = clap::value_parser!(Checks))]
    pub(crate) verify: Option<Checks>,
    /// Use only what is here: the store, cached indexes and file:// channels
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Raise or lower a limit on archives: archive, unpacked, metadata, path (bytes), files, ratio
    #[arg(long, global = true, value_name = "NAME=AMOUNT", value_parser = limits::parse)]
    pub(crate) limit: Vec<Limit>,
    /// Print JSON where something is listed or returned
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Tell more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The surroundings of a command.
pub(crate) struct Context {
    pub(crate) global: Global,
    /// Whether results are printed as JSON.
    pub(crate) json: bool,
    /// Whether only results and errors are printed.
    pub(crate) quiet: bool,
    /// What this command works with, and what therefore is not collected until it ends.
    claims: Mutex<Vec<Claim>>,
    settings: OnceLock<Settings>,
    store: OnceLock<Store>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
            claims: Mutex::default(),
            global,
            settings: OnceLock::new(),
            store: OnceLock::new(),
        }
    }

    /// What is set, by whomever. Read once.
    pub(crate) fn settings(&self) -> Result<&Settings, CliError> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::read(&Given {
            store: self.global.store.as_ref(),
            system_store: self.global.system_store.as_ref(),
            is_offline: self.global.offline,
            verify: self.global.verify,
            limits: &self.global.limit,
        })?;
        Ok(self.settings.get_or_init(|| settings))
    }

    /// Where the store is.
    pub(crate) fn store_path(&self) -> Result<PathBuf, CliError> {
        let store = self.settings()?.store.as_ref();
        store.map(|store| store.value.clone()).ok_or_else(|| {
            CliError::new("there is no place for the store: neither XDG_DATA_HOME nor HOME is set")
                .help("say where it is with `--store DIR` or ENVFS_STORE")
        })
    }

    /// The store, made where there is none, over that of the system, if one is set. Opened once.
    pub(crate) fn store(&self) -> Result<Store, CliError> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let path = self.store_path()?;
        let store = match &self.settings()?.system_store {
            Some(system) => Store::open_over(&path, &system.value)?,
            None => Store::open(&path)?,
        };
        store.set_checks(self.settings()?.verify.value);
        Ok(self.store.get_or_init(|| store).clone())
    }

    /// Whether nothing may be connected to.
    pub(crate) fn is_offline(&self) -> Result<bool, CliError> {
        Ok(self.settings()?.offline.value)
    }

    /// The environment called `signature`, kept from being collected until this command ends.
    pub(crate) fn claim(&self, store: &Store, signature: &Digest) -> Result<Environment, CliError> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.iter().any(|claim| claim.signature() == signature) {
            return Ok(environment::load(store, signature)?);
        }
        let (environment, claim) = Claim::take(store, signature)?;
        claims.extend(claim);
        Ok(environment)
    }

    /// Keeps it, and what is laid out for where it is about to be seen.
    pub(crate) fn claim_at(&self, store: &Store, signature: &Digest, place: &Path) -> Result<(), CliError> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let held = claims
            .iter_mut()
            .find(|claim| claim.signature() == signature && !claim.is_elsewhere(place));
        if let Some(claim) = held {
            claim.place(place)?;
        } else if let (_, Some(mut claim)) = Claim::take(store, signature)? {
            claim.place(place)?;
            claims.push(claim);
        }
        Ok(())
    }

    /// This program, to be started again on the same stores, in any directory.
    pub(crate) fn this_program(&self) -> Result<Command, CliError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--store").arg(std::path::absolute(self.store_path()?)?);
        let settings = self.settings()?;
        if let Some(system) = &settings.system_store {
            command.arg("--system-store").arg(std::path::absolute(&system.value)?);
        }
        // What a file of the project says is not found from everywhere.
        command.args(["--verify", settings.verify.value.name()]);
        for (kind, value) in settings.limits_said() {
            command.arg("--limit").arg(format!("{}={value}", kind.name()));
        }
        Ok(command)
    }

    /// The way to channels: configured by the files that pixi, rattler and conda share.
    pub(crate) fn network(&self) -> Result<Network, CliError> {
        let root = std::env::current_dir()
            .map_err(|error| CliError::new("the current directory cannot be found").because(error.to_string()))?;
        let mut options = NetworkOptions::new(own_cache(), root);
        options.is_offline = self.is_offline()?;
        options.credential_files = credential_files();
        options.netrc = variable("NETRC")
            .map(PathBuf::from)
            .or_else(|| Some(home()?.join(".netrc")));
        options.config_files = config_files();
        options.channel_alias = variable("CONDA_CHANNEL_ALIAS");
        options.first_retry_pause = Duration::from_millis(500);
        options.limits = self.settings()?.archive_limits();
        Ok(Network::new(options)?)
    }

    /// The program that resolves packages from PyPI, fetched into the store's cache where the machine has none.
    pub(crate) fn uv(&self) -> Result<Uv, CliError> {
        Ok(Uv::find(&UvOptions {
            program: variable("ENVFS_UV").map(PathBuf::from),
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            cache_dir: self.store_path()?.join("cache"),
            is_offline: self.is_offline()?,
            variable,
        })?)
    }

    /// Runs asynchronous work to its end; its threads end with it.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(runtime.block_on(work))
    }

    /// Prints a result as JSON.
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Result<(), CliError> {
        output::json(value)
    }

    /// Tells the person at the terminal something that is no result.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            output::note(text);
        }
    }
}

/// Where the ecosystem's tools keep credentials, the first to be asked first.
fn credential_files() -> Vec<PathBuf> {
    let named = variable("RATTLER_AUTH_FILE").map(PathBuf::from);
    let usual = home().map(|home| home.join(".rattler/credentials.json"));
    named.into_iter().chain(usual).collect()
}

/// The configuration files that are read, the more specific ones later.
fn config_files() -> Vec<PathBuf> {
    let mut files = vec![
        PathBuf::from("/etc/pixi/config.toml"),
        PathBuf::from("/etc/envfs/config.toml"),
    ];
    files.extend(home().map(|home| home.join(".pixi/config.toml")));
    if let Some(config) = xdg("XDG_CONFIG_HOME", ".config") {
        files.push(config.join("pixi/config.toml"));
    }
    files.extend(config::user_file());
    files.extend(config::project_file());
    files
}
