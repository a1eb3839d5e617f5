//! envfs, by each of its backends. A backend that its command refuses does not take part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::directories::{bind, unmount};
use super::{Contender, EVERYTHING, FUSE, KERNEL, LINK, PASS, USER};
use crate::bench::disk;
use crate::bench::rows::Group;
use crate::bench::timing;
use crate::bench::world::{BACKEND_OPTION, SPECS, Subject, World, clear, has_backends};
use crate::envfs::Envfs;
use crate::sh;

pub(super) fn kernel(world: &mut World) -> Result<Box<dyn Contender>> {
    Product::set_up(world, KERNEL, "kernel")
}

pub(super) fn fuse(world: &mut World) -> Result<Box<dyn Contender>> {
    Product::set_up(world, FUSE, "fuse")
}

/// The ordinary user: `nobody` of Debian.
pub(super) fn user(world: &mut World) -> Result<Box<dyn Contender>> {
    if !has_backends(&world.envfs, "run")? {
        bail!("this envfs has one backend, and no choice of it");
    }
    let store = world.directory.join("user-store");
    let stamp = store.join("lock");
    let is_older = |modified: std::time::SystemTime| {
        std::fs::metadata(world.directory.join("store/FORMAT"))
            .and_then(|format| format.modified())
            .is_ok_and(|format| modified < format)
    };
    let is_stale = std::fs::metadata(&stamp)
        .and_then(|metadata| metadata.modified())
        .map_or(true, is_older);
    if is_stale {
        clear(&store)?;
        let unfinished = store.with_extension("part");
        clear(&unfinished)?;
        sh::run_quiet(sh::command("cp").arg("-a").arg(world.envfs.store()).arg(&unfinished))?;
        sh::run_quiet(sh::command("chown").args(["-R", USER_AND_GROUP]).arg(&unfinished))?;
        std::fs::rename(&unfinished, &store)?;
        std::fs::File::create(&stamp)?;
    }
    clear(&store.join("cache"))?;
    crate::system::open_fuse_device()?;
    crate::system::allow_others()?;
    let product = Product {
        name: USER,
        backend: Some("fuse"),
        runs: true,
        as_user: Some(world.envfs.on(store)),
    };
    product.mount_first(world)?;
    Ok(Box::new(product))
}

const USER_AND_GROUP: &str = "65534:65534";
const USER_ID: u32 = 65_534;

pub(super) fn link(world: &mut World) -> Result<Box<dyn Contender>> {
    Product::set_up(world, LINK, LINKED)
}

/// The backend whose directory root can write to: a read-only bind mount hides that where files are measured.
const LINKED: &str = "link";
const LINKED_GROUPS: &[Group] = &[
    Group::Create,
    Group::Run,
    Group::Fresh,
    Group::Warm,
    Group::Files,
    Group::Memory,
    Group::Many,
    Group::Cold,
    Group::Parallel,
];

/// A run is recorded when nothing was opened for some seconds.
const RECORD_LIMIT: Duration = Duration::from_secs(20);
const RECORD_PAUSE: Duration = Duration::from_millis(100);

struct Product {
    name: &'static str,
    /// None where the binary has one backend and no choice.
    backend: Option<&'static str>,
    /// Whether `envfs run` uses it.
    runs: bool,
    /// For an ordinary user: on a store of its own.
    as_user: Option<Envfs>,
}

impl Product {
    fn set_up(world: &mut World, name: &'static str, backend: &'static str) -> Result<Box<dyn Contender>> {
        let chosen = has_backends(&world.envfs, "mount")?;
        if !chosen && backend != "fuse" {
            bail!("this envfs has one backend, fuse: `envfs mount` knows no {BACKEND_OPTION}");
        }
        let product = Self {
            name,
            backend: chosen.then_some(backend),
            runs: if chosen {
                has_backends(&world.envfs, "run")?
            } else {
                backend == "fuse"
            },
            as_user: None,
        };
        product.mount_first(world)?;
        Ok(Box::new(product))
    }

    /// The first mount of all by this backend, which may fill the store's cache for the ones after it.
    fn mount_first(&self, world: &mut World) -> Result<()> {
        let at = world.directory.join("first-mount");
        clear(&at)?;
        std::fs::create_dir_all(&at)?;
        self.claim(&at)?;
        let store = self.disk_roots(world);
        let before = disk::used(&store)?;
        let took = timing::run(&mut self.offer(world, &world.real, &at)?)?;
        let cost = disk::used(&store)?.since(before);
        timing::run(&mut self.retire(world, &at))?;
        clear(&at)?;
        world.note_made_once(self.name, took, cost)
    }

    /// One of the product's commands, by whom it is measured.
    fn envfs(&self, world: &World, name: &str) -> Command {
        let Some(envfs) = &self.as_user else {
            return world.envfs.command([name]);
        };
        let plain = envfs.command([name]);
        let mut command = sh::command("setpriv");
        let id = USER_ID.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
        command.arg(plain.get_program()).args(plain.get_args());
        for variable in ["PYTHONDONTWRITEBYTECODE", "ENVFS_STORE", "HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(variable);
        }
        command
    }

    fn command(&self, world: &World, name: &str) -> Command {
        let mut command = self.envfs(world, name);
        if let Some(backend) = self.backend {
            command.args([BACKEND_OPTION, backend]);
        }
        command
    }
}

impl Contender for Product {
    /// What is linked is no mount, and `envfs run` mounts beside it.
    fn groups(&self) -> &'static [Group] {
        match self.backend {
            Some(LINKED) => LINKED_GROUPS,
            _ => EVERYTHING,
        }
    }

    fn offer(&self, world: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        let mut command = self.command(world, "mount");
        if self.as_user.is_some() {
            command.arg("--allow-other");
        }
        command.arg(&subject.signature).arg(at);
        Ok(vec![command])
    }

    fn retire(&self, world: &World, at: &Path) -> Vec<Command> {
        let mut command = self.envfs(world, "umount");
        command.arg(at);
        vec![command]
    }

    /// Links take time in proportion to the environment.
    fn is_cheap(&self) -> bool {
        self.backend != Some(LINKED)
    }

    fn stand(&self, world: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        let mut commands = self.offer(world, subject, at)?;
        if self.backend == Some(LINKED) {
            commands.extend(bind(at, at)?);
        }
        Ok(commands)
    }

    fn unstand(&self, world: &World, at: &Path) -> Vec<Command> {
        let mut commands = self.retire(world, at);
        if self.backend == Some(LINKED) {
            commands.insert(0, unmount(at));
        }
        commands
    }

    fn disk_roots(&self, world: &World) -> Vec<PathBuf> {
        let envfs = self.as_user.as_ref().unwrap_or(&world.envfs);
        vec![envfs.store().to_path_buf()]
    }

    fn claim(&self, at: &Path) -> Result<()> {
        if self.as_user.is_some() {
            std::os::unix::fs::chown(at, Some(USER_ID), Some(USER_ID))?;
        }
        Ok(())
    }

    fn forget_runs(&self, world: &World) -> Result<bool> {
        if self.backend != Some("kernel") {
            return Ok(false);
        }
        sh::run_quiet(world.envfs.command(["trace", "reset"]).arg(&world.real.signature))?;
        Ok(true)
    }

    fn await_recorded(&self, world: &World) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < RECORD_LIMIT {
            let mut show = world.envfs.command(["trace", "show", "--json"]);
            let shown: Value = serde_json::from_str(&sh::capture(show.arg(&world.real.signature))?)?;
            if shown["runs"].as_u64().unwrap_or_default() > 0 {
                return Ok(());
            }
            std::thread::sleep(RECORD_PAUSE);
        }
        bail!("no run was recorded in {} s", RECORD_LIMIT.as_secs())
    }

    fn server(&self, world: &World, at: &Path) -> Result<Option<u32>> {
        let mut ps = self.envfs(world, "ps");
        let printed = sh::capture(ps.arg("--json"))?;
        let mounts: Vec<Value> =
            serde_json::from_str(&printed).with_context(|| format!("`envfs ps` printed {printed}"))?;
        let mount = mounts
            .iter()
            .find(|mount| mount["mount_point"].as_str().map(Path::new) == Some(at));
        let Some(pid) = mount.and_then(|mount| mount["pid"].as_u64()) else {
            return Ok(None);
        };
        Ok(Some(u32::try_from(pid)?))
    }

    fn run_true(&self, world: &World) -> Option<Command> {
        let mut command = self.command(world, "run");
        command.args([&world.real.signature, "--", "true"]);
        self.runs.then_some(command)
    }

    /// Without a backend: then it runs where it is mounted.
    fn run_again(&self, world: &World, _: &Path) -> Option<Command> {
        let mut command = self.envfs(world, "run");
        command.args([&world.real.signature, "--"]).args(PASS);
        Some(command)
    }

    fn ensure(&self, world: &World) -> Option<Command> {
        let mut command = self.envfs(world, "ensure");
        command.args(SPECS).args(["-c", &world.channel]);
        Some(command)
    }

    fn made_once(&self) -> Option<&'static str> {
        Some(self.name)
    }
}
