//! What the contenders share: the packages, a filled store, a plain directory to copy from, the tools.
//!
//! Making it is not measured. What cannot be made is kept as a reason, for the columns of those who need it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::{machine, tools};
use crate::envfs::{self, Envfs};
use crate::{channel, sh, system};

/// The environment that everyone makes.
pub(super) const SPECS: [&str; 5] = ["python=3.11", "numpy", "pandas", "scikit-learn", "requests"];

/// What the store's first environment has beyond it, so that it is another one.
const MORE: &str = "tqdm";

/// The script that runs rattler's installer.
const RATTLER_SCRIPT: &str = include_str!("../../bench/rattler_install.py");

/// What is there for everyone.
pub(super) struct World {
    /// Where all of it is.
    pub(super) directory: PathBuf,
    /// The channel's URL.
    pub(super) channel: String,
    pub(super) wheels: PathBuf,
    pub(super) machine: Value,
    envfs: Result<Stores, String>,
    tools: Result<PathBuf, String>,
    reference: Result<PathBuf, String>,
}

/// envfs, with stores in two states.
#[derive(Clone)]
pub(super) struct Stores {
    /// Holds every package, but not the environment: a build has only to make its tree.
    pub(super) packages: Envfs,
    /// Holds the environment too.
    pub(super) built: Envfs,
    pub(super) lock: PathBuf,
    pub(super) signature: String,
}

impl World {
    /// Makes it, or takes what an earlier run left.
    ///
    /// # Errors
    /// When there is no channel to take packages from, or no disk to work on.
    pub(super) fn prepare() -> Result<Self> {
        let directory = sh::target_dir().join("bench");
        fs::create_dir_all(&directory)?;
        channel::ensure(&channel::default_dir())?;
        let mut world = Self {
            channel: format!("file://{}", channel::default_dir().display()),
            wheels: channel::wheels_dir(),
            machine: machine::describe(&directory),
            envfs: Err(String::new()),
            tools: tools::ensure(&directory).map_err(|error| format!("{error:#}")),
            reference: Err(String::new()),
            directory,
        };
        fs::write(world.rattler_script(), RATTLER_SCRIPT)?;
        world.reference = world.make_reference().map_err(|error| format!("{error:#}"));
        world.envfs = world.fill_stores().map_err(|error| format!("{error:#}"));
        Ok(world)
    }

    pub(super) fn envfs(&self) -> Result<&Stores> {
        self.envfs.as_ref().map_err(|reason| anyhow!("{reason}"))
    }

    /// A program of the tools' virtual environment.
    pub(super) fn tool(&self, name: &str) -> Result<PathBuf> {
        let bin = self.tools.as_ref().map_err(|reason| anyhow!("{reason}"))?;
        Ok(bin.join(name))
    }

    /// The environment as a plain directory, made by rattler's installer.
    pub(super) fn reference(&self) -> Result<&Path> {
        self.reference
            .as_deref()
            .map_err(|reason| anyhow!("no directory to copy from: {reason}"))
    }

    pub(super) fn rattler_script(&self) -> PathBuf {
        self.directory.join("rattler_install.py")
    }

    pub(super) fn rattler_cache(&self) -> PathBuf {
        self.directory.join("rattler-cache")
    }

    /// The words that install the environment into a prefix with rattler's installer.
    ///
    /// # Errors
    /// When rattler is not here.
    pub(super) fn rattler(&self, prefix: &Path) -> Result<std::process::Command> {
        let mut command = sh::command(self.tool("python")?);
        command
            .arg(self.rattler_script())
            .arg(&self.channel)
            .arg(self.rattler_cache())
            .arg(prefix)
            .args(SPECS);
        Ok(command)
    }

    fn make_reference(&self) -> Result<PathBuf> {
        let reference = self.directory.join("reference");
        if reference.exists() {
            fs::remove_dir_all(&reference)?;
        }
        // A cache of an earlier channel would hold packages of the same names with other content.
        if self.rattler_cache().exists() {
            fs::remove_dir_all(self.rattler_cache())?;
        }
        sh::run_quiet(&mut self.rattler(&reference)?)?;
        // What is copied is an environment that has been used: with the .pyc that its first run writes.
        sh::run_quiet(super::python(&reference).args(["-c", super::measures::PROGRAMS[2].1]))?;
        Ok(reference)
    }

    fn fill_stores(&self) -> Result<Stores> {
        system::ensure_programs(&[("fusermount3", "fuse3")])?;
        system::require_fuse_device()?;
        let binary = envfs::build_release()?;
        let stores = self.directory.join("stores");
        if stores.exists() {
            fs::remove_dir_all(&stores)?;
        }
        fs::create_dir_all(&stores)?;
        let packages = Envfs::new(binary, stores.join("packages"));
        let lock = stores.join("pixi.lock");
        let from_channel = ["-c", self.channel.as_str()];
        sh::run_quiet(
            packages
                .command(["lock"])
                .args(SPECS)
                .args(from_channel)
                .arg("-o")
                .arg(&lock),
        )?;
        packages.build(SPECS.iter().chain(&[MORE]).chain(&from_channel))?;
        let built = packages.on_store(stores.join("built"));
        copy_store(packages.store(), built.store())?;
        let lock_path = lock.to_str().context("the target directory's path is not UTF-8")?;
        let signature = built.build(["--offline", lock_path])?.signature;
        Ok(Stores {
            packages,
            built,
            lock,
            signature,
        })
    }
}

/// Copies a store: what is written once (`objects`, `packs`) by hard links, so that the copy is as warm; the rest for real.
///
/// # Errors
/// When `cp` fails.
pub(super) fn copy_store(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let written_once = entry.file_name() == "objects" || entry.file_name() == "packs";
        let how = if written_once { "-al" } else { "-a" };
        sh::run_quiet(sh::command("cp").arg(how).arg(entry.path()).arg(to))?;
    }
    Ok(())
}
