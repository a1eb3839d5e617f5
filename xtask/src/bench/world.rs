//! What the contenders share: two environments in a store, the same as plain directories, traces, tools.
//!
//! Making it is not measured. It is kept between runs, and made again when the channel or the product's binary changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tools::Tools;
use super::{disk, machine, synthetic, timing, traces};
use crate::envfs::{self, Envfs};
use crate::{channel, sh, system};

/// The real environment.
pub(super) const SPECS: [&str; 5] = ["python=3.11", "numpy", "pandas", "scikit-learn", "requests"];

/// What the store's first environment has beyond it, so that it is another one.
const MORE: &str = "tqdm";

/// The package of the program that replays traces.
const REPLAYER: &str = "envfs-bench-replay";

/// What is there for everyone.
pub(super) struct World {
    /// Where all of it is.
    pub(super) directory: PathBuf,
    pub(super) channel: String,
    pub(super) wheels: PathBuf,
    pub(super) machine: Value,
    pub(super) tools: Tools,
    /// The product, on the store that has both environments.
    pub(super) envfs: Envfs,
    /// Python and the packages of the import.
    pub(super) real: Subject,
    /// 100,000 small files and a large one.
    pub(super) many: Subject,
    pub(super) replayer: PathBuf,
    /// What had to be made once, by contender.
    pub(super) made_once: BTreeMap<String, MadeOnce>,
}

/// An environment.
#[derive(Clone)]
pub(super) struct Subject {
    /// In paths.
    pub(super) name: &'static str,
    pub(super) signature: String,
    /// The same as a plain directory.
    pub(super) reference: PathBuf,
    /// A file that is there when it is usable.
    pub(super) probe: &'static str,
}

/// What a contender made once, before it could offer the real environment.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(super) struct MadeOnce {
    pub(super) took_ms: f64,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl World {
    /// Makes it, or takes what an earlier run left; `binary` is the product, built if it is not given.
    ///
    /// # Errors
    /// When there is no channel to take packages from, or the product cannot build and mount.
    pub(super) fn prepare(binary: Option<&Path>, with_slow_builds: bool) -> Result<Self> {
        let directory = sh::target_dir().join("bench");
        fs::create_dir_all(&directory)?;
        timing::unmount_below(&directory)?;
        system::require_fuse_device()?;
        channel::ensure(&channel::default_dir())?;
        let binary = match binary {
            Some(binary) => fs::canonicalize(binary).with_context(|| format!("no {}", binary.display()))?,
            None => envfs::build_release()?,
        };
        let binary = own_copy(&binary, &directory.join("envfs"))?;
        sh::run(sh::cargo().args(["build", "--quiet", "--locked", "--release", "--package", REPLAYER]))?;
        let tools = Tools::ensure(&directory, with_slow_builds)?;
        let mut world = Self {
            channel: format!("file://{}", channel::default_dir().display()),
            wheels: channel::wheels_dir(),
            machine: machine::describe(&directory),
            tools,
            envfs: Envfs::new(binary.clone(), directory.join("store")),
            real: Subject::new("real", "bin/python", &directory),
            many: Subject::new("many", synthetic::LARGE_FILE, &directory),
            replayer: sh::target_dir().join("release").join(REPLAYER),
            made_once: BTreeMap::new(),
            directory,
        };
        let stamp = stamp(&binary)?;
        let kept = fs::read_to_string(world.kept()).unwrap_or_default();
        let kept: Value = serde_json::from_str(&kept).unwrap_or_default();
        if kept["stamp"] == stamp {
            world.real.signature = kept["real"].as_str().unwrap_or_default().to_owned();
            world.many.signature = kept["many"].as_str().unwrap_or_default().to_owned();
            world.made_once = serde_json::from_value(kept["made_once"].clone())?;
        } else {
            world.make()?;
        }
        // What earlier runs left in the store's evictable cache, such as files for their mount points, would be found again.
        clear(&world.envfs.store().join("cache"))?;
        world.keep(&stamp)?;
        Ok(world)
    }

    /// Notes what is there, for the next run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn keep(&self, stamp: &str) -> Result<()> {
        let kept = serde_json::json!({
            "stamp": stamp, "real": self.real.signature, "many": self.many.signature, "made_once": self.made_once,
        });
        Ok(fs::write(self.kept(), serde_json::to_vec_pretty(&kept)?)?)
    }

    /// Makes something once that a contender needs: kept until the world is made again.
    ///
    /// # Errors
    /// When `make` fails; it is then tried again the next time.
    pub(super) fn make_once(&mut self, name: &str, at: &Path, make: impl FnOnce() -> Result<Duration>) -> Result<()> {
        if self.made_once.contains_key(name) && at.exists() {
            return Ok(());
        }
        clear(at)?;
        sh::say(&format!("making what {name} needs (once)"));
        let took = make()?;
        let cost = disk::used(&[at.to_path_buf()])?;
        self.note_made_once(name, took, cost)
    }

    /// Notes what making something once took.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(super) fn note_made_once(&mut self, name: &str, took: Duration, cost: disk::Use) -> Result<()> {
        let made = MadeOnce {
            took_ms: took.as_secs_f64() * 1e3,
            bytes: cost.bytes,
            inodes: cost.inodes,
        };
        self.made_once.insert(name.to_owned(), made);
        let kept: Value = serde_json::from_str(&fs::read_to_string(self.kept())?)?;
        self.keep(kept["stamp"].as_str().unwrap_or_default())
    }

    /// The path of a trace.
    pub(super) fn trace(&self, name: &str) -> PathBuf {
        self.directory.join("traces").join(name)
    }

    pub(super) fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    fn kept(&self) -> PathBuf {
        self.directory.join("world.json")
    }

    fn make(&mut self) -> Result<()> {
        sh::say("making the environments to measure on (minutes, once for each build of envfs)");
        for name in [
            "store",
            "real",
            "many",
            "images",
            "traces",
            "many-channel",
            "rattler-cache",
            "rattler-mount",
            "uv",
            "used",
        ] {
            clear(&self.directory.join(name))?;
        }
        fs::create_dir_all(self.images())?;
        self.build_real()?;
        let many_channel = self.directory.join("many-channel");
        synthetic::write(&many_channel)?;
        let url = format!("file://{}", many_channel.display());
        self.many.signature = self
            .envfs
            .build(synthetic::SPECS.iter().copied().chain(["-c", url.as_str()]))?
            .signature;
        for subject in [&self.real, &self.many] {
            materialise(&self.envfs, subject)?;
        }
        traces::write(&self.directory.join("traces"), &self.replayer, &self.real.reference)
    }

    /// Fills the store with the packages, then measures what the environment itself costs.
    fn build_real(&mut self) -> Result<()> {
        let from_channel = ["-c", self.channel.as_str()];
        let lock = self.directory.join("pixi.lock");
        sh::run_quiet(
            self.envfs
                .command(["lock"])
                .args(SPECS)
                .args(from_channel)
                .arg("-o")
                .arg(&lock),
        )?;
        self.envfs.build(SPECS.iter().chain(&[MORE]).chain(&from_channel))?;
        let store = [self.envfs.store().to_path_buf()];
        let before = disk::used(&store)?;
        let start = Instant::now();
        let built = self.envfs.build([Path::new("--offline"), &lock])?;
        let took = start.elapsed();
        let cost = disk::used(&store)?.since(before);
        self.real.signature = built.signature;
        let made = MadeOnce {
            took_ms: took.as_secs_f64() * 1e3,
            bytes: cost.bytes,
            inodes: cost.inodes,
        };
        self.made_once = BTreeMap::from([("envfs".to_owned(), made)]);
        Ok(())
    }
}

impl Subject {
    fn new(name: &'static str, probe: &'static str, directory: &Path) -> Self {
        Self {
            name,
            signature: String::new(),
            reference: directory.join(name),
            probe,
        }
    }
}

/// Copies an environment out of a mount, so that everyone serves the same files; the prefix in them is the copy's path.
fn materialise(envfs: &Envfs, subject: &Subject) -> Result<()> {
    let copy = subject.reference.with_extension("copy");
    clear(&copy)?;
    fs::create_dir_all(&subject.reference)?;
    let mut mount = envfs.command(["mount"]);
    if has_backends(envfs, "mount")? {
        // The one that leaves nothing in the store which a later first mount would have had to make.
        mount.args([BACKEND_OPTION, "fuse"]);
    }
    sh::run_quiet(mount.arg(&subject.signature).arg(&subject.reference))?;
    let copied = sh::run_quiet(sh::command("cp").arg("-a").arg(&subject.reference).arg(&copy));
    sh::run_quiet(envfs.command(["umount"]).arg(&subject.reference))?;
    copied?;
    fs::remove_dir(&subject.reference)?;
    fs::rename(&copy, &subject.reference)?;
    if !subject.reference.join(subject.probe).exists() {
        bail!("{} has no {}", subject.reference.display(), subject.probe);
    }
    Ok(())
}

/// How a backend is chosen.
pub(super) const BACKEND_OPTION: &str = "--backend";

/// Whether one of the product's commands lets choose its backend.
///
/// # Errors
/// When it cannot be asked.
pub(super) fn has_backends(envfs: &Envfs, command: &str) -> Result<bool> {
    Ok(sh::capture(&mut envfs.command([command, "--help"]))?.contains(BACKEND_OPTION))
}

/// A copy that nobody builds anew while it is measured.
fn own_copy(binary: &Path, copy: &Path) -> Result<PathBuf> {
    clear(copy)?;
    fs::copy(binary, copy).with_context(|| format!("cannot copy {}", binary.display()))?;
    Ok(copy.to_path_buf())
}

/// What the kept world depends on.
fn stamp(binary: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?);
    digest.update(fs::read(channel::default_dir().join("linux-64/repodata.json"))?);
    Ok(format!("{} {}", hex::encode(digest.finalize()), synthetic::VERSION))
}

/// Removes what is at a path, if anything is.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn clear(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        sh::run_quiet(sh::command("rm").args(["-rf", "--one-file-system"]).arg(path))?;
    }
    Ok(())
}
