//! Other people's ways to have a Python environment: uv, rattler's installer, rattler's mount.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use super::directories::{bind, remove, unmount};
use super::{Contender, PASS};
use crate::bench::rows::Group;
use crate::bench::timing;
use crate::bench::world::{SPECS, Subject, World, clear};
use crate::sh;

/// The scripts that run rattler's library.
const INSTALL_SCRIPT: &str = "xtask/bench/rattler_install.py";
const RUN_SCRIPT: &str = "xtask/bench/rattler_run.py";

const DIRECTORY_GROUPS: &[Group] = &[Group::Create, Group::Many, Group::Run, Group::Reuse];

/// The channel of a Miniforge in the project's optional data, which has mamba.
const MINIFORGE: &str = "../shared/data/channels/conda-forge-py312";

/// Fills rattler's package cache once.
pub(super) fn rattler_install(world: &mut World) -> Result<Box<dyn Contender>> {
    let rattler = RattlerInstall {
        python: world.tools.pypi("python")?,
    };
    let cache = rattler.cache(world);
    if !cache.exists() {
        let scratch = world.directory.join("rattler-first");
        clear(&scratch)?;
        let filled = sh::run_quiet(&mut rattler.install(world, &scratch));
        clear(&scratch)?;
        if filled.is_err() {
            clear(&cache)?;
        }
        filled?;
    }
    Ok(Box::new(rattler))
}

/// Fills uv's cache once, and notes the exact versions, so that nothing is left to resolve; keeps an environment to run in.
pub(super) fn uv(world: &mut World) -> Result<Box<dyn Contender>> {
    let directory = world.directory.join("uv");
    let uv = Uv {
        program: world.tools.pypi("uv")?,
        interpreter: world.real.reference.join("bin/python"),
        pins: directory.join("pins.txt"),
        environment: directory.join("env"),
        cache: directory.join("cache"),
    };
    if !uv.pins.exists() {
        clear(&directory)?;
        fs::create_dir_all(&directory)?;
        sh::run_quiet(&mut uv.venv(&uv.environment))?;
        let names = SPECS.iter().filter(|spec| !spec.starts_with("python="));
        sh::run_quiet(uv.install(world, &uv.environment).args(names))?;
        let mut freeze = uv.command();
        let pins = sh::capture(
            freeze
                .args(["pip", "freeze", "--python"])
                .arg(uv.environment.join("bin/python")),
        )?;
        fs::write(&uv.pins, pins)?;
    }
    Ok(Box::new(uv))
}

/// Writes the lock, and mounts once while the channel is served over HTTP, which fills the package cache: it takes no
/// packages from `file:`.
pub(super) fn rattler_mount(world: &mut World) -> Result<Box<dyn Contender>> {
    let mount = RattlerMount {
        program: world.tools.rattler()?,
        lock: world.directory.join("rattler-mount/pixi.lock"),
        cache: world.directory.join("rattler-mount/cache"),
    };
    if !mount.lock.exists() {
        let directory = world.directory.join("rattler-mount");
        clear(&directory)?;
        let at = directory.join("first");
        fs::create_dir_all(&at)?;
        let lock = fs::read_to_string(world.directory.join("pixi.lock"))?;
        let channel = world.channel.trim_start_matches("file://").to_owned();
        let address = format!("http://{HTTP_ADDRESS}:{HTTP_PORT}");
        let unfinished = mount.lock.with_extension("part.lock");
        fs::write(
            &unfinished,
            lock.replace(&world.channel, &address).replace(&channel, &address),
        )?;
        let mut server = sh::command("python3");
        server.args([
            "-m",
            "http.server",
            HTTP_PORT,
            "--bind",
            HTTP_ADDRESS,
            "--directory",
            &channel,
        ]);
        let mut server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(HTTP_START);
        let first = RattlerMount {
            lock: unfinished.clone(),
            ..mount.clone()
        };
        let filled = timing::run(&mut first.offer(world, &world.real, &at)?);
        let ended = timing::run(&mut mount.retire(world, &at));
        server.kill()?;
        server.wait()?;
        filled.and(ended)?;
        fs::rename(&unfinished, &mount.lock)?;
    }
    Ok(Box::new(mount))
}

/// Where the channel is served while rattler's package cache is filled, and how long the server may take to start.
const HTTP_ADDRESS: &str = "127.0.0.1";
const HTTP_PORT: &str = "18763";
const HTTP_START: Duration = Duration::from_secs(1);

/// Asks a process to end, and waits until its mount is gone; after a second both are taken away.
const END_SERVER: &str = "kill $1; for i in $(seq 400); do grep -qF \" $2 \" /proc/self/mountinfo || exit 0; sleep 0.002; done; \
    kill -9 $1; umount --lazy $2";

/// Installs mamba once, from the optional data.
pub(super) fn mamba_run(world: &mut World) -> Result<Box<dyn Contender>> {
    let channel = sh::root().join(MINIFORGE);
    if !channel.exists() {
        bail!("there is no {MINIFORGE}, the optional data");
    }
    let channel = channel.canonicalize()?;
    let mamba = MambaRun {
        prefix: world.directory.join("mamba"),
    };
    if !mamba.prefix.exists() {
        let unfinished = world.directory.join("mamba-cache");
        clear(&unfinished)?;
        let mut install = sh::command(world.tools.pypi("python")?);
        install.arg(INSTALL_SCRIPT).arg(format!("file://{}", channel.display()));
        let installed = sh::run_quiet(install.arg(&unfinished).arg(&mamba.prefix).arg("mamba"));
        clear(&unfinished)?;
        if installed.is_err() {
            clear(&mamba.prefix)?;
        }
        installed?;
    }
    Ok(Box::new(mamba))
}

/// mamba beside a directory that it did not make.
struct MambaRun {
    prefix: PathBuf,
}

impl Contender for MambaRun {
    fn groups(&self) -> &'static [Group] {
        &[Group::Reuse]
    }

    fn offer(&self, _: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        bind(&subject.reference, at)
    }

    fn retire(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![unmount(at)]
    }

    fn has_recorded_files(&self) -> bool {
        false
    }

    fn run_again(&self, _: &World, at: &Path) -> Option<Command> {
        let mut command = sh::command(self.prefix.join("bin/mamba"));
        command.args(["run", "--prefix"]).arg(at).args(PASS);
        Some(command)
    }
}

#[derive(Clone)]
struct RattlerMount {
    program: PathBuf,
    lock: PathBuf,
    cache: PathBuf,
}

impl Contender for RattlerMount {
    fn groups(&self) -> &'static [Group] {
        &[Group::Create, Group::Memory, Group::Fresh, Group::Warm, Group::Parallel]
    }

    fn offer(&self, world: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        let mut command = sh::command(&world.replayer);
        command
            .arg("until")
            .arg(at.join(subject.probe))
            .arg("--")
            .arg(&self.program);
        command.arg("mount").arg(&self.lock).arg("--mount-point").arg(at);
        command.env("RATTLER_CACHE_DIR", &self.cache);
        Ok(vec![command])
    }

    /// Its server ends when it is asked to, and takes the mount along; but not if it is asked before it listens.
    fn retire(&self, world: &World, at: &Path) -> Vec<Command> {
        let pid = self.server(world, at).ok().flatten();
        let pid = pid.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
        let mut command = sh::command("sh");
        command.args(["-c", END_SERVER, "sh", &pid]).arg(at);
        vec![command]
    }

    fn offers_many(&self) -> bool {
        false
    }

    fn has_recorded_files(&self) -> bool {
        false
    }

    fn server(&self, _: &World, at: &Path) -> Result<Option<u32>> {
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            let mut words = line.split(|byte| *byte == 0);
            let is_rattler = words.next() == Some(self.program.as_os_str().as_bytes());
            if is_rattler && words.any(|word| word == at.as_os_str().as_bytes()) {
                return Ok(Some(pid));
            }
        }
        Ok(None)
    }
}

struct RattlerInstall {
    python: PathBuf,
}

impl RattlerInstall {
    fn cache(&self, world: &World) -> PathBuf {
        world.directory.join("rattler-cache")
    }

    fn install(&self, world: &World, prefix: &Path) -> Command {
        let mut command = sh::command(&self.python);
        command
            .arg(INSTALL_SCRIPT)
            .arg(&world.channel)
            .arg(self.cache(world))
            .arg(prefix)
            .args(SPECS);
        command
    }

    fn run(&self, prefix: &Path, words: &[&str]) -> Command {
        let mut command = sh::command(&self.python);
        command.arg(RUN_SCRIPT).arg(prefix).args(words);
        command
    }
}

impl Contender for RattlerInstall {
    fn groups(&self) -> &'static [Group] {
        DIRECTORY_GROUPS
    }

    fn offer(&self, world: &World, _: &Subject, at: &Path) -> Result<Vec<Command>> {
        Ok(vec![self.install(world, at)])
    }

    fn retire(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![remove(at)]
    }

    fn offers_many(&self) -> bool {
        false
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn prints_seconds(&self) -> bool {
        true
    }

    fn disk_roots(&self, world: &World) -> Vec<PathBuf> {
        vec![self.cache(world)]
    }

    fn stand(&self, _: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        bind(&subject.reference, at)
    }

    fn unstand(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![unmount(at)]
    }

    fn run_true(&self, world: &World) -> Option<Command> {
        Some(self.run(&world.real.reference, &["true"]))
    }

    fn run_again(&self, _: &World, at: &Path) -> Option<Command> {
        Some(self.run(at, &PASS))
    }
}

struct Uv {
    program: PathBuf,
    interpreter: PathBuf,
    pins: PathBuf,
    environment: PathBuf,
    cache: PathBuf,
}

impl Uv {
    fn command(&self) -> Command {
        let mut command = sh::command(&self.program);
        command
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(["--no-config", "--offline", "--quiet"]);
        for variable in [
            "VIRTUAL_ENV",
            "UV_FIND_LINKS",
            "UV_INDEX_URL",
            "PYTHONDONTWRITEBYTECODE",
        ] {
            command.env_remove(variable);
        }
        command
    }

    fn venv(&self, prefix: &Path) -> Command {
        let mut command = self.command();
        command.arg("venv").arg("--python").arg(&self.interpreter).arg(prefix);
        command
    }

    fn run(&self, words: &[&str]) -> Command {
        let mut command = self.command();
        command
            .args(["run", "--no-project", "--python"])
            .arg(self.environment.join("bin/python"));
        command.arg("--").args(words);
        command
    }

    fn install(&self, world: &World, prefix: &Path) -> Command {
        let mut command = self.command();
        command
            .args(["pip", "install", "--link-mode=hardlink", "--no-index", "--find-links"])
            .arg(&world.wheels);
        command.arg("--python").arg(prefix.join("bin/python"));
        command
    }
}

impl Contender for Uv {
    fn groups(&self) -> &'static [Group] {
        DIRECTORY_GROUPS
    }

    fn offer(&self, world: &World, _: &Subject, at: &Path) -> Result<Vec<Command>> {
        let mut install = self.install(world, at);
        install.arg("--no-deps").arg("--requirement").arg(&self.pins);
        Ok(vec![self.venv(at), install])
    }

    fn retire(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![remove(at)]
    }

    fn offers_many(&self) -> bool {
        false
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn disk_roots(&self, _: &World) -> Vec<PathBuf> {
        vec![self.cache.clone()]
    }

    /// It runs in the environment that is kept for that; what stands here is to be seen only.
    fn stand(&self, _: &World, _: &Subject, at: &Path) -> Result<Vec<Command>> {
        bind(&self.environment, at)
    }

    fn unstand(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![unmount(at)]
    }

    fn run_true(&self, _: &World) -> Option<Command> {
        Some(self.run(&["true"]))
    }

    fn run_again(&self, _: &World, _: &Path) -> Option<Command> {
        Some(self.run(&PASS))
    }
}
