//! `cargo xtask channel`: a local conda channel from real software that other registries carry.
//!
//! CPython and its libraries come from Debian, the rest from PyPI's wheels. Steps, one room each: fetch (`debian`,
//! `wheels`), stage (`native`, `python`, `wheels`), compile, pack (`package`, `archive`), check (`install`, `check`).
//! Everything is cached: a complete channel of the same recipe is left alone, and making it again needs no network.

mod archive;
mod check;
mod debian;
mod install;
mod native;
mod package;
mod python;
mod recipe;
mod wheels;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use self::package::{Kind, MTIME_S, Package, files_below};
use crate::sh;

/// The sources that decide what the channel holds: a change of one makes it again.
const RECIPE_SOURCES: [&str; 9] = [
    include_str!("archive.rs"),
    include_str!("debian.rs"),
    include_str!("mod.rs"),
    include_str!("native.rs"),
    include_str!("package.rs"),
    include_str!("python.rs"),
    include_str!("recipe.rs"),
    include_str!("wheels.rs"),
    wheels::METADATA_SCRIPT,
];

/// The file in a channel that says it is complete, and by which recipe.
const STAMP: &str = ".recipe";

/// The command.
///
/// # Errors
/// When something cannot be fetched, made, or used (with `check`).
pub(crate) fn run(out: Option<PathBuf>, check: bool, force: bool) -> Result<()> {
    let channel = match out {
        Some(dir) => std::path::absolute(dir)?,
        None => default_dir(),
    };
    if force && channel.join(STAMP).exists() {
        fs::remove_file(channel.join(STAMP))?;
    }
    ensure(&channel)?;
    println!("{}", channel.display());
    if check {
        check::run(&channel)?;
    }
    Ok(())
}

/// Where the channel is unless something else is asked for.
pub(crate) fn default_dir() -> PathBuf {
    sh::target_dir().join("channel")
}

/// Where the downloaded wheels are, for tools that install wheels themselves.
pub(crate) fn wheels_dir() -> PathBuf {
    sh::target_dir().join("downloads/wheels")
}

/// Makes the channel unless it is complete and of this recipe.
///
/// # Errors
/// When something cannot be fetched or made. What was there before stays.
pub(crate) fn ensure(channel: &Path) -> Result<()> {
    let recipe = recipe_digest();
    fs::create_dir_all(sh::target_dir())?;
    // Two at once would tread on each other: the second waits, and finds the work done.
    let lock = File::create(sh::target_dir().join("channel.lock"))?;
    lock.lock().context("locking the channel")?;
    if fs::read_to_string(channel.join(STAMP)).is_ok_and(|stamp| stamp == recipe) {
        return Ok(());
    }
    sh::say(&format!(
        "making a conda channel in {} (a few minutes, once)",
        channel.display()
    ));
    let start = Instant::now();
    let work = sh::target_dir().join("channel-work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let made = work.join("channel");
    let packages = make(&work, &made)?;
    fs::write(made.join(STAMP), recipe)?;
    if channel.exists() {
        fs::remove_dir_all(channel)?;
    }
    if let Some(parent) = channel.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::rename(&made, channel).is_err() {
        sh::run_quiet(sh::command("cp").arg("-a").arg(&made).arg(channel))?;
    }
    fs::remove_dir_all(&work)?;
    sh::say(&format!(
        "the channel has {packages} packages (made in {:.0} s)",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Makes a channel and returns how many packages it has.
fn make(work: &Path, channel: &Path) -> Result<usize> {
    let downloads = sh::target_dir().join("downloads");
    let mut names: Vec<&str> = recipe::NATIVES.iter().flat_map(|native| native.debs).copied().collect();
    names.extend(recipe::TOOL_DEBS);
    let debs = debian::fetch(&names, &downloads.join("debs"))?;
    for tool in recipe::TOOL_DEBS {
        debs.unpack(tool, &work.join("tools"))?;
    }
    let mut packages = native::stage_all(&debs, &work.join("tools/usr/bin/patchelf"), work)?;
    let python = Interpreter::new(&packages, work)?;
    let pip_wheel = files_below(&work.join("tools/usr/share/python-wheels"))?
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("Debian's python3-pip-whl has no wheel of pip")?;
    let wheels = wheels::fetch(python.command(), &pip_wheel, &downloads.join("wheels"))?;
    packages.extend(wheels::stage_all(python.command(), &wheels, work)?);
    compile(&python, &packages)?;
    let mut index = archive::Index::default();
    for package in &packages {
        index
            .add(package, channel)
            .with_context(|| format!("packing {}", package.name))?;
    }
    index.write(channel)?;
    Ok(index.len())
}

/// The channel's own Python, run from where its packages are staged.
struct Interpreter {
    program: PathBuf,
    library_path: String,
    certificates: PathBuf,
}

impl Interpreter {
    fn new(packages: &[Package], work: &Path) -> Result<Self> {
        let payload = |name: &str| Some(packages.iter().find(|package| package.name == name)?.payload.clone());
        let libraries: Vec<String> = packages
            .iter()
            .map(|package| package.payload.join("lib").display().to_string())
            .collect();
        let system_certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
        let own_certificates = payload("ca-certificates")
            .unwrap_or_else(|| work.to_path_buf())
            .join("ssl/cacert.pem");
        Ok(Self {
            program: payload("python")
                .context("the recipe has no python")?
                .join("bin/python3.11"),
            library_path: libraries.join(":"),
            // The machine's certificates know of proxies that ours do not.
            certificates: if system_certificates.exists() {
                system_certificates.to_path_buf()
            } else {
                own_certificates
            },
        })
    }

    /// A command that runs it and writes no `.pyc` by itself.
    fn command(&self) -> Command {
        let mut command = sh::command(&self.program);
        command
            .args(["-s", "-B"])
            .env("LD_LIBRARY_PATH", &self.library_path)
            .env_remove("PYTHONPATH");
        if std::env::var_os("PIP_CERT").is_none() {
            command.env("PIP_CERT", &self.certificates);
        }
        command
    }
}

/// Compiles the Python files of the packages for linux-64, whose `.pyc` conda packages ship.
///
/// Each `.pyc` records the time of its source, which is the time that the archive gives it. Files that hold the
/// placeholder are left out: installing changes them.
fn compile(python: &Interpreter, packages: &[Package]) -> Result<()> {
    for package in packages {
        set_times(&package.payload)?;
        let library = package.payload.join("lib/python3.11");
        if package.kind != Kind::Arch || !library.exists() {
            continue;
        }
        let mut command = python.command();
        command
            .args(["-m", "compileall", "-q", "-j", "0", "-x", "/_sysconfigdata_", "-s"])
            .arg(&package.payload)
            .arg(&library);
        // Templates and tests for other versions do not compile, nowhere; compileall then ends with 1.
        let output = command
            .env("PYTHONHASHSEED", "0")
            .output()
            .context("cannot start the channel's Python")?;
        if !output.status.success() {
            let printed = String::from_utf8_lossy(&output.stdout);
            sh::say(&format!("some files of {} do not compile:\n{printed}", package.name));
        }
        set_times(&package.payload)?;
    }
    Ok(())
}

/// Gives every file of a payload the channel's one time.
fn set_times(payload: &Path) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(MTIME_S);
    for path in files_below(payload)? {
        if fs::symlink_metadata(&path)?.is_file() {
            let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            file.set_modified(time)
                .with_context(|| format!("cannot set the time of {}", path.display()))?;
        }
    }
    Ok(())
}

fn recipe_digest() -> String {
    let mut digest = Sha256::new();
    for source in RECIPE_SOURCES {
        digest.update(source);
    }
    digest.update(wheels::REQUIREMENTS);
    hex::encode(digest.finalize())
}
