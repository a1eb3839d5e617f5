//! Settings: what is said on the command line, by variables, and in files, the nearest to the person winning.
//!
//! Files are TOML; what is ours stands in their table `[envfs]`, beside the keys that pixi and rattler share. In order of
//! precedence: the command line, variables, the project (`.envfs/config.toml` here or in a directory above), the user
//! (`$XDG_CONFIG_HOME/envfs/config.toml`), the system (`/etc/envfs/config.toml`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use envfs_solver::{ArchiveLimits, LimitKind};
use envfs_store::{Checks, UnknownChecks};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::limits::{self, Limit};
use crate::surroundings::{home, xdg};
use crate::units;

/// How old an answer may be that is taken without asking again.
pub(crate) const DEFAULT_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Where the settings of the system are.
const SYSTEM_FILE: &str = "/etc/envfs/config.toml";

/// A setting, and who says so.
#[derive(Debug, Clone)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    source: Source,
}

/// Who says something.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    CommandLine,
    Variable(&'static str),
    File(PathBuf),
    Default,
}

/// All settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) store: Option<Setting<PathBuf>>,
    pub(crate) system_store: Option<Setting<PathBuf>>,
    pub(crate) max_age: Setting<Duration>,
    pub(crate) offline: Setting<bool>,
    /// When large files are compared with their digests.
    pub(crate) verify: Setting<Checks>,
    /// For how long a run leaves its environment mounted when nobody uses it.
    pub(crate) idle: Setting<Option<Duration>>,
    /// How much an archive may be, in the order of [`LimitKind::ALL`].
    limits: [Setting<u64>; LimitKind::ALL.len()],
}

/// What came with the command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) store: Option<&'a PathBuf>,
    pub(crate) system_store: Option<&'a PathBuf>,
    pub(crate) is_offline: bool,
    pub(crate) verify: Option<Checks>,
    pub(crate) limits: &'a [Limit],
}

/// A setting as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    /// `command line`, the name of a variable, the path of a file, or `default`.
    pub(crate) source: String,
}

/// One file.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    envfs: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    store: Option<PathBuf>,
    system_store: Option<PathBuf>,
    max_age: Option<String>,
    idle: Option<String>,
    offline: Option<bool>,
    verify: Option<String>,
    #[serde(default)]
    limits: BTreeMap<String, Amount>,
}

/// A number, or one with a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(u64),
    Text(String),
}

impl Settings {
    /// Reads the files and puts everything in its order.
    pub(crate) fn read(asked: &Given<'_>) -> Result<Self, CliError> {
        let mut settings = Self::of_command(asked);
        // The first that says something wins.
        for path in files() {
            settings.add(&path)?;
        }
        if settings.store.is_none() {
            let usual = xdg("XDG_DATA_HOME", ".local/share").map(|data| data.join("envfs/store"));
            settings.store = usual.map(Setting::of_default);
        }
        Ok(settings)
    }

    /// What came with the command, before any file is read.
    fn of_command(asked: &Given<'_>) -> Self {
        let mut settings = Self {
            store: given(asked.store, "ENVFS_STORE"),
            system_store: given(asked.system_store, "ENVFS_SYSTEM_STORE"),
            max_age: Setting::of_default(DEFAULT_MAX_AGE),
            offline: Setting {
                value: asked.is_offline,
                source: if asked.is_offline {
                    Source::CommandLine
                } else {
                    Source::Default
                },
            },
            verify: asked.verify.map_or_else(
                || Setting::of_default(Checks::default()),
                |value| Setting {
                    value,
                    source: Source::CommandLine,
                },
            ),
            idle: Setting::of_default(None),
            limits: LimitKind::ALL.map(|kind| Setting::of_default(ArchiveLimits::default().get(kind))),
        };
        for &limit in asked.limits {
            settings.set_limit(limit, Source::CommandLine);
        }
        settings
    }

    fn add(&mut self, path: &Path) -> Result<(), CliError> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|error| unusable(path, error.to_string()))?,
        };
        let file: File =
            toml::from_str(&text).map_err(|error| unusable(path, error.to_string().trim_end().to_owned()))?;
        let source = || Source::File(path.to_owned());
        let directory = path.parent().unwrap_or(Path::new("/"));
        let place = |value: Option<PathBuf>| {
            value.map(|value| Setting {
                value: absolute(directory, &value),
                source: source(),
            })
        };
        if self.store.is_none() {
            self.store = place(file.envfs.store);
        }
        if self.system_store.is_none() {
            self.system_store = place(file.envfs.system_store);
        }
        if let (Some(text), Source::Default) = (&file.envfs.max_age, &self.max_age.source) {
            let value = units::span(text).map_err(|reason| unusable(path, format!("max-age: {reason}")))?;
            self.max_age = Setting {
                value,
                source: source(),
            };
        }
        if let (Some(text), Source::Default) = (&file.envfs.idle, &self.idle.source) {
            let value = units::span(text).map_err(|reason| unusable(path, format!("idle: {reason}")))?;
            self.idle = Setting {
                value: Some(value),
                source: source(),
            };
        }
        if let (Some(text), Source::Default) = (&file.envfs.verify, &self.verify.source) {
            let value = text
                .parse()
                .map_err(|error: UnknownChecks| unusable(path, format!("verify: {error}")))?;
            self.verify = Setting {
                value,
                source: source(),
            };
        }
        if let (Some(value), Source::Default) = (file.envfs.offline, &self.offline.source) {
            self.offline = Setting {
                value,
                source: source(),
            };
        }
        for (name, amount) in &file.envfs.limits {
            let amount = match amount {
                Amount::Number(number) => number.to_string(),
                Amount::Text(text) => text.clone(),
            };
            let limit = limits::of(name, &amount).map_err(|reason| unusable(path, format!("limits: {reason}")))?;
            if self.limits[limit.0 as usize].source == Source::Default {
                self.set_limit(limit, source());
            }
        }
        Ok(())
    }

    fn set_limit(&mut self, (kind, value): Limit, source: Source) {
        self.limits[kind as usize] = Setting { value, source };
    }

    /// How much an archive may be.
    pub(crate) fn archive_limits(&self) -> ArchiveLimits {
        let mut limits = ArchiveLimits::default();
        for (kind, setting) in LimitKind::ALL.into_iter().zip(&self.limits) {
            *limits.get_mut(kind) = setting.value;
        }
        limits
    }

    /// The limits that somebody has set.
    pub(crate) fn limits_said(&self) -> impl Iterator<Item = Limit> {
        let all = LimitKind::ALL.into_iter().zip(&self.limits);
        let said = all.filter(|(_, setting)| setting.source != Source::Default);
        said.map(|(kind, setting)| (kind, setting.value))
    }

    /// Every setting with its value and who says so.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let path = |key: &str, setting: &Option<Setting<PathBuf>>| Shown {
            key: key.to_owned(),
            value: setting.as_ref().map(|setting| setting.value.display().to_string()),
            source: setting
                .as_ref()
                .map_or(&Source::Default, |setting| &setting.source)
                .to_string(),
        };
        let limits = LimitKind::ALL
            .into_iter()
            .zip(&self.limits)
            .map(|(kind, setting)| Shown {
                key: format!("limits.{}", kind.name()),
                value: Some(setting.value.to_string()),
                source: setting.source.to_string(),
            });
        let mut shown = vec![
            path("store", &self.store),
            path("system-store", &self.system_store),
            Shown {
                key: "max-age".to_owned(),
                value: Some(format!("{}s", self.max_age.value.as_secs())),
                source: self.max_age.source.to_string(),
            },
            Shown {
                key: "idle".to_owned(),
                value: self.idle.value.map(|idle| format!("{}s", idle.as_secs())),
                source: self.idle.source.to_string(),
            },
            Shown {
                key: "verify".to_owned(),
                value: Some(self.verify.value.name().to_owned()),
                source: self.verify.source.to_string(),
            },
            Shown {
                key: "offline".to_owned(),
                value: Some(self.offline.value.to_string()),
                source: self.offline.source.to_string(),
            },
        ];
        shown.extend(limits);
        shown
    }
}

impl<T> Setting<T> {
    fn of_default(value: T) -> Self {
        Self {
            value,
            source: Source::Default,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The file of the project around this directory, if there is one.
pub(crate) fn project_file() -> Option<PathBuf> {
    let directory = std::env::current_dir().ok()?;
    let files = directory
        .ancestors()
        .map(|directory| directory.join(".envfs/config.toml"));
    files.into_iter().find(|file| file.is_file())
}

/// The file of the user.
pub(crate) fn user_file() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config").map(|config| config.join("envfs/config.toml"))
}

/// The files that are read, the one that wins first.
fn files() -> Vec<PathBuf> {
    let system = Some(PathBuf::from(SYSTEM_FILE));
    [project_file(), user_file(), system].into_iter().flatten().collect()
}

/// What came with the command: by its line, or by a variable that says the same.
fn given(value: Option<&PathBuf>, name: &'static str) -> Option<Setting<PathBuf>> {
    // A variable that is set to nothing is not set.
    let value = value.filter(|value| !value.as_os_str().is_empty())?.clone();
    let is_variable = std::env::var_os(name).is_some_and(|variable| variable == value);
    let source = if is_variable {
        Source::Variable(name)
    } else {
        Source::CommandLine
    };
    Some(Setting { value, source })
}

/// What a path in a file of `directory` means; `~/` is the home of the user.
fn absolute(directory: &Path, path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => directory.join(path),
    }
}

fn unusable(path: &Path, reason: String) -> CliError {
    CliError::new(format!("the configuration file `{}` cannot be used", path.display()))
        .because(reason)
        .help("keys of `[envfs]` are store, system-store, max-age, idle, verify, offline and the table limits; `envfs config show` says where each value comes from")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOTHING: Given<'_> = Given {
        store: None,
        system_store: None,
        is_offline: false,
        verify: None,
        limits: &[],
    };

    fn read(text: &str) -> Result<Settings, CliError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::of_command(&NOTHING);
        settings.add(file.path()).map(|()| settings)
    }

    #[test]
    fn a_file_says_what_nobody_has_said() {
        let text = "[envfs]\nmax-age = \"2d\"\nverify = \"never\"\n[envfs.limits]\nfiles = 5\n";
        let settings = read(text).unwrap();
        assert_eq!(settings.max_age.value.as_secs(), 2 * 24 * 3600);
        assert_eq!(settings.verify.value, Checks::Never);
        assert_eq!(settings.archive_limits().files, 5);
        for wrong in [
            "[envfs]\nnobody = 1\n",
            "[envfs]\nmax-age = \"2 moons\"\n",
            "[envfs.limits]\nfiles = -1\n",
            "[envfs",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(
            lines in prop::collection::vec((
                "(store|system-store|max-age|idle|offline|verify|files|unpacked|ratio|\\[envfs\\]|\\[envfs.limits\\])",
                "( = )?(\"?[0-9]{0,22}[a-zGMB~/.]{0,4}\"?|true|first|\\PC{0,6})",
            ), 0..8)
        ) {
            let lines: Vec<String> = lines.into_iter().map(|(key, value)| format!("{key}{value}\n")).collect();
            let _ = read(&format!("[envfs]\n{}", lines.concat()));
        }
    }
}
