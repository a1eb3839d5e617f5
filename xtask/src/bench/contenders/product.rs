//! envfs, by each of its backends. A backend that its command refuses does not take part.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::directories::{bind, unmount};
use super::{Contender, EVERYTHING, FUSE, KERNEL, LINK};
use crate::bench::disk;
use crate::bench::rows::Group;
use crate::bench::timing;
use crate::bench::world::{BACKEND_OPTION, Subject, World, clear, has_backends};
use crate::sh;

pub(super) fn kernel(world: &mut World) -> Result<Box<dyn Contender>> {
    Product::set_up(world, KERNEL, "kernel")
}

pub(super) fn fuse(world: &mut World) -> Result<Box<dyn Contender>> {
    Product::set_up(world, FUSE, "fuse")
}

pub(super) fn link(world: &mut World) -> Result<Box<dyn Contender>> {
    Product::set_up(world, LINK, LINKED)
}

/// The backend whose directory root can write to: a read-only bind mount hides that where files are measured.
const LINKED: &str = "link";

struct Product {
    name: &'static str,
    /// None where the binary has one backend and no choice.
    backend: Option<&'static str>,
    /// Whether `envfs run` uses it.
    runs: bool,
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
        };
        product.mount_first(world)?;
        Ok(Box::new(product))
    }

    /// The first mount of all by this backend, which may fill the store's cache for the ones after it.
    fn mount_first(&self, world: &mut World) -> Result<()> {
        let at = world.directory.join("first-mount");
        clear(&at)?;
        std::fs::create_dir_all(&at)?;
        let store = [world.envfs.store().to_path_buf()];
        let before = disk::used(&store)?;
        let took = timing::run(&mut self.offer(world, &world.real, &at)?)?;
        let cost = disk::used(&store)?.since(before);
        timing::run(&mut self.retire(world, &at))?;
        clear(&at)?;
        world.note_made_once(self.name, took, cost)
    }

    fn command(&self, world: &World, name: &str) -> Command {
        let mut command = world.envfs.command([name]);
        if let Some(backend) = self.backend {
            command.args([BACKEND_OPTION, backend]);
        }
        command
    }
}

impl Contender for Product {
    fn groups(&self) -> &'static [Group] {
        EVERYTHING
    }

    fn offer(&self, world: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        let mut command = self.command(world, "mount");
        command.arg(&subject.signature).arg(at);
        Ok(vec![command])
    }

    fn retire(&self, world: &World, at: &Path) -> Vec<Command> {
        let mut command = world.envfs.command(["umount"]);
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
        vec![world.envfs.store().to_path_buf()]
    }

    fn server(&self, world: &World, at: &Path) -> Result<Option<u32>> {
        let printed = sh::capture(&mut world.envfs.command(["ps", "--json"]))?;
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

    fn made_once(&self) -> Option<&'static str> {
        Some(self.name)
    }
}
