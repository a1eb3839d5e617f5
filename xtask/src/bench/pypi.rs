//! `cargo xtask bench --only pypi`: the environment of more than a hundred packages from PyPI, beside uv on the same wheels.
//!
//! A world of its own: both take the same wheels from the same directory, so that no network is measured. uv makes virtual
//! environments of the Python that the channel's was made of, with hard links into its cache. Pairs are measured one after the
//! other in an order that alternates, and compared within their round.

mod found;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use super::{machine, tools};
use crate::envfs::{self, DiskUse, Envfs};
use crate::{channel, sh};
use found::{Disk, MEASURES, Table, Who};

/// What is asked for.
const ASKED: [&str; 10] = [
    "numpy",
    "pandas",
    "scikit-learn",
    "matplotlib",
    "fastapi",
    "uvicorn",
    "lightgbm",
    "requests",
    "sqlalchemy",
    "jupyterlab",
];

/// The Python that the channel's is made of.
const PYTHON: &str = "/usr/bin/python3";

/// How often everything is measured: normally, and for a look.
const ROUNDS: [usize; 2] = [5, 1];

/// Numbers of environments: normally, and for a look.
const COUNTS: [&[usize]; 2] = [&[1, 10, 100], &[1, 10]];

/// So many of them have bytecode of their own in the measure of what uv's takes; more say the same, and take long.
const COMPILED_COUNT: usize = 1;

/// Makes wheels of one module: a directory, and how many.
const MAKE_EXTRAS: &str = r#"
import base64, hashlib, sys, zipfile
for number in range(int(sys.argv[2])):
    name = "extra_%03d" % number
    info = name + "-1.0.dist-info/"
    files = {name + ".py": "NUMBER = %d\n" % number, info + "METADATA": "Metadata-Version: 2.1\nName: %s\nVersion: 1.0\n" % name,
             info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    rows = [info + "RECORD,,"]
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        rows.append("%s,sha256=%s,%d" % (path, digest, len(text)))
    files[info + "RECORD"] = "\n".join(rows) + "\n"
    with zipfile.ZipFile("%s/%s-1.0-py3-none-any.whl" % (sys.argv[1], name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
"#;

/// The command.
///
/// # Errors
/// When the packages cannot be fetched, or one of the two fails.
pub(super) fn run(is_quick: bool, binary: Option<&Path>, out: Option<&Path>) -> Result<()> {
    let world = World::prepare(binary)?;
    let mut table = Table::default();
    for round in 0..ROUNDS[usize::from(is_quick)] {
        world.measure(round, &mut table)?;
        sh::say(&format!("pypi: round {} done", round + 1));
    }
    let disk = world.disk(COUNTS[usize::from(is_quick)])?;
    let markdown = found::report(&world.machine, world.packages, &table, &disk);
    println!("{markdown}");
    let default = sh::root().join("docs/benchmarks-pypi.md");
    let out = out.map(|out| sh::root().join(out)).or((!is_quick).then_some(default));
    if let Some(out) = out {
        let json = serde_json::to_string_pretty(&found::json(&world.machine, world.packages, &table, &disk))?;
        fs::write(&out, markdown).with_context(|| format!("cannot write {}", out.display()))?;
        fs::write(out.with_extension("json"), json + "\n")?;
    }
    Ok(())
}

struct World {
    binary: PathBuf,
    uv: PathBuf,
    directory: PathBuf,
    /// A lock of everything, with the wheels in their directory.
    lock: String,
    /// Names and versions, one a line.
    requirements: PathBuf,
    packages: usize,
    machine: serde_json::Value,
}

impl World {
    fn prepare(binary: Option<&Path>) -> Result<Self> {
        channel::ensure(&channel::default_dir())?;
        let binary = match binary {
            Some(binary) => fs::canonicalize(binary).with_context(|| format!("no {}", binary.display()))?,
            None => envfs::build_release()?,
        };
        let directory = sh::target_dir().join("bench/pypi");
        fs::create_dir_all(directory.join("wheels"))?;
        let uv = tools::ensure_pypi(&sh::target_dir().join("bench"))?.join("uv");
        let mut world = Self {
            binary,
            uv,
            lock: String::new(),
            requirements: directory.join("requirements.txt"),
            packages: 0,
            machine: machine::describe(&directory),
            directory,
        };
        world.fetch()?;
        world.lock_wheels()?;
        Ok(world)
    }

    fn wheels(&self) -> PathBuf {
        self.directory.join("wheels")
    }

    fn envfs(&self, store: &str) -> Envfs {
        Envfs::new(self.binary.clone(), self.directory.join(store))
    }

    /// Resolves on the index and fetches the wheels, unless an earlier run did.
    fn fetch(&self) -> Result<()> {
        let (resolved, hashed) = (self.directory.join("resolved.lock"), self.directory.join("hashed.txt"));
        let envfs = self.envfs("resolving");
        if !self.requirements.exists() {
            sh::say("resolving and fetching the packages from PyPI (once)");
            let mut lock = envfs.command(["lock", "--upgrade", "--python", "3", "--channel"]);
            lock.arg(format!("file://{}", channel::default_dir().display()));
            for name in ASKED {
                lock.args(["--pypi", name]);
            }
            sh::run_quiet(lock.arg("--output").arg(&resolved).env("ENVFS_UV", &self.uv))?;
            let mut export = envfs.command(["export", "--format", "requirements", "--output"]);
            sh::run_quiet(export.arg(&hashed).arg(&resolved))?;
            let mut download = sh::command(PYTHON);
            download.args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
            ]);
            sh::run_quiet(
                download
                    .arg("--dest")
                    .arg(self.wheels())
                    .arg("--requirement")
                    .arg(&hashed),
            )?;
            let mut extras = sh::command(PYTHON);
            let most = COUNTS[0].iter().sum::<usize>() + ROUNDS[0] * 2 + COMPILED_COUNT;
            sh::run_quiet(
                extras
                    .args(["-c", MAKE_EXTRAS])
                    .arg(self.wheels())
                    .arg(most.to_string()),
            )?;
            let text = fs::read_to_string(&hashed)?;
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
            let plain = lines
                .iter()
                .map(|line| format!("{}\n", line.trim_end_matches([' ', '\\'])));
            fs::write(&self.requirements, plain.collect::<String>())?;
        }
        Ok(())
    }

    /// A lock of the wheels in their directory.
    fn lock_wheels(&mut self) -> Result<()> {
        let path = self.directory.join("local.lock");
        if !path.exists() {
            let envfs = self.envfs("resolving");
            let mut lock = envfs.command(["lock", "--upgrade", "--python", "3", "--channel"]);
            lock.arg(format!("file://{}", channel::default_dir().display()));
            lock.args(["--pypi", "--no-index", "--pypi"]);
            lock.arg(format!("--find-links {}", self.wheels().display()));
            for line in fs::read_to_string(&self.requirements)?.lines() {
                lock.args(["--pypi", line]);
            }
            sh::run_quiet(lock.arg("--output").arg(&path).env("ENVFS_UV", &self.uv))?;
        }
        self.lock = fs::read_to_string(&path)?;
        self.packages = fs::read_to_string(&self.requirements)?.lines().count();
        Ok(())
    }

    /// The lock with one package more, in a file.
    fn lock_with(&self, extra: usize) -> Result<PathBuf> {
        let wheel = self.wheels().join(format!("extra_{extra:03}-1.0-py3-none-any.whl"));
        let digits = hex::encode(Sha256::digest(fs::read(&wheel)?));
        let at = self.lock.rfind("      - pypi: ").context("the lock has no wheels")?;
        let (before, after) = self.lock.split_at(at);
        let wheel = wheel.display();
        let text = format!(
            "{before}      - pypi: {wheel}\n{after}- pypi: {wheel}\n  name: extra-{extra:03}\n  version: '1.0'\n  sha256: {digits}\n"
        );
        let path = self.directory.join("more.lock");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Builds by envfs.
    fn build(&self, store: &str, lock: &Path, compiled: bool) -> Result<Duration> {
        let mut command = self.envfs(store).command(["--quiet", "build"]);
        if !compiled {
            command.arg("--no-pyc");
        }
        timed([captured(command.arg(lock))])
    }

    /// Makes a virtual environment by uv.
    fn install(&self, cache: &str, at: &Path, extra: Option<usize>, compiled: bool) -> Result<Duration> {
        let uv = || {
            let mut command = sh::command(&self.uv);
            command
                .env("UV_CACHE_DIR", self.directory.join(cache))
                .env_remove("UV_LINK_MODE");
            command
        };
        let mut venv = uv();
        venv.args(["venv", "--quiet", "--clear", "--python", PYTHON]).arg(at);
        let mut install = uv();
        install.args([
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--link-mode",
            "hardlink",
            "--find-links",
        ]);
        install.arg(self.wheels()).arg("--python").arg(at.join("bin/python"));
        install.arg("--requirement").arg(&self.requirements);
        if let Some(extra) = extra {
            install.arg(format!("extra-{extra:03}"));
        }
        if compiled {
            install.arg("--compile-bytecode");
        }
        timed([venv, install])
    }

    fn clear(&self, name: &str) -> Result<()> {
        match fs::remove_dir_all(self.directory.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {name}"))
            }
            _ => Ok(()),
        }
    }

    /// Everything once, each pair one after the other.
    fn measure(&self, round: usize, table: &mut Table) -> Result<()> {
        let local = self.directory.join("local.lock");
        let venv = self.directory.join("venvs/round");
        let order = if round.is_multiple_of(2) {
            [Who::Envfs, Who::Uv]
        } else {
            [Who::Uv, Who::Envfs]
        };
        for compiled in [false, true] {
            let extra = round * 2 + usize::from(compiled);
            for name in ["store", "cache", "venvs"] {
                self.clear(name)?;
            }
            for (measure, _) in MEASURES {
                let more = (measure == "further").then_some(extra);
                for who in order {
                    let took = match who {
                        Who::Envfs => {
                            let lock = more.map_or(Ok(local.clone()), |extra| self.lock_with(extra))?;
                            self.build("store", &lock, compiled)?
                        }
                        Who::Uv => {
                            self.clear("venvs")?;
                            self.install("cache", &venv, more, compiled)?
                        }
                    };
                    table.add(measure, compiled, who, round, took);
                }
            }
        }
        Ok(())
    }

    /// What environments take beside the first, with one package more each, and with the same.
    fn disk(&self, counts: &[usize]) -> Result<Vec<Disk>> {
        let local = self.directory.join("local.lock");
        for name in ["store", "cache", "venvs"] {
            self.clear(name)?;
        }
        let venvs = self.directory.join("venvs");
        self.build("store", &local, true)?;
        self.install("cache", &venvs.join("first"), None, false)?;
        let taken = || -> Result<[DiskUse; 2]> {
            let uv = [self.directory.join("cache"), venvs.clone()];
            Ok([envfs::disk_use(&[self.directory.join("store")])?, envfs::disk_use(&uv)?])
        };
        let mut disk = Vec::new();
        let mut next = ROUNDS[0] * 2;
        let mut measure = |what, count: usize, has_more: bool, compiled: bool| -> Result<()> {
            let before = taken()?;
            for number in 0..count {
                let extra = has_more.then_some(next);
                let lock = extra.map_or(Ok(local.clone()), |extra| self.lock_with(extra))?;
                self.build("store", &lock, true)?;
                self.install(
                    "cache",
                    &venvs.join(format!("{what}-{count}-{number}")),
                    extra,
                    compiled,
                )?;
                next += usize::from(has_more);
            }
            let after = taken()?;
            let [envfs, uv] = [0, 1].map(|index| each(after[index].since(before[index]), count));
            disk.push(Disk { what, count, envfs, uv });
            Ok(())
        };
        for &count in counts {
            measure("one package more", count, true, false)?;
        }
        measure("the same packages", 1, false, false)?;
        measure(
            "one package more, uv with bytecode of its own",
            COMPILED_COUNT,
            true,
            true,
        )?;
        for name in ["store", "cache", "venvs"] {
            self.clear(name)?;
        }
        Ok(disk)
    }
}

/// From starting the first to the end of the last, however long it takes: a hundred packages are compiled here.
fn timed(commands: impl IntoIterator<Item = Command>) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for mut command in commands {
        took += sh::timed(command.stdout(Stdio::null()))?;
    }
    Ok(took)
}

/// A command with the uv of the bench out of its sight: nothing is resolved while the clock runs.
fn captured(command: &mut Command) -> Command {
    let mut own = Command::new(command.get_program());
    own.args(command.get_args()).env("ENVFS_UV", "/nonexistent");
    own.env_remove("PYTHONDONTWRITEBYTECODE")
        .env_remove("ENVFS_STORE")
        .env_remove("ENVFS_NO_PYC");
    own
}

fn each(total: DiskUse, count: usize) -> DiskUse {
    let count = count as u64;
    DiskUse {
        bytes: total.bytes / count,
        inodes: total.inodes / count,
    }
}

/// Whether only this is asked for.
///
/// # Errors
/// When it is asked for together with something else: it has a world of its own.
pub(super) fn is_meant(only: &[String]) -> Result<bool> {
    match only {
        [name] if name == "pypi" => Ok(true),
        names if names.iter().any(|name| name == "pypi") => bail!("`pypi` is measured alone: `--only pypi`"),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_measured_alone() {
        assert!(is_meant(&["pypi".to_owned()]).unwrap());
        assert!(!is_meant(&["warm".to_owned()]).unwrap());
        assert!(is_meant(&["warm".to_owned(), "pypi".to_owned()]).is_err());
    }
}
