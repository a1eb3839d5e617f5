//! Directories on the disk, made by `cp`; and the process that does nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Contender, EVERYTHING, PASS};
use crate::bench::rows::Group;
use crate::bench::timing::python;
use crate::bench::traces::IMPORT;
use crate::bench::world::{Subject, World, clear};
use crate::sh;

pub(super) fn spawn(_: &mut World) -> Result<Box<dyn Contender>> {
    Ok(Box::new(Spawn))
}

pub(super) fn plain(_: &mut World) -> Result<Box<dyn Contender>> {
    Ok(Box::new(Plain))
}

pub(super) fn hardlinks(_: &mut World) -> Result<Box<dyn Contender>> {
    Ok(Box::new(Hardlinks))
}

/// Copies the directories, not the files, so that both share one page cache; then imports once.
pub(super) fn used(world: &mut World) -> Result<Box<dyn Contender>> {
    let directory = world.directory.join("used");
    if !directory.exists() {
        let copy = directory.with_extension("copy");
        clear(&copy)?;
        sh::run_quiet(sh::command("cp").arg("-al").arg(&world.real.reference).arg(&copy))?;
        sh::run_quiet(python(&copy).args(["-c", IMPORT]))?;
        std::fs::rename(&copy, &directory)?;
    }
    Ok(Box::new(Used { directory }))
}

/// Nothing at all.
struct Spawn;

impl Contender for Spawn {
    fn groups(&self) -> &'static [Group] {
        &[Group::Create, Group::Run, Group::Cold, Group::Reuse]
    }

    fn offer(&self, _: &World, _: &Subject, _: &Path) -> Result<Vec<Command>> {
        Ok(vec![sh::command("/bin/true")])
    }

    fn retire(&self, _: &World, _: &Path) -> Vec<Command> {
        vec![sh::command("/bin/true")]
    }

    fn has_files(&self) -> bool {
        false
    }

    fn run_true(&self, _: &World) -> Option<Command> {
        Some(sh::command("/bin/true"))
    }

    fn ensure(&self, _: &World) -> Option<Command> {
        Some(sh::command("/bin/true"))
    }
}

/// The directory to which all are compared.
struct Plain;

impl Contender for Plain {
    fn groups(&self) -> &'static [Group] {
        EVERYTHING
    }

    fn offer(&self, _: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        Ok(vec![copy("-a", &subject.reference, at)])
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

    fn run_again(&self, _: &World, at: &Path) -> Option<Command> {
        let mut command = python(at);
        command.args(&PASS[1..]);
        Some(command)
    }

    fn stand(&self, _: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        bind(&subject.reference, at)
    }

    fn unstand(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![unmount(at)]
    }
}

/// The directory with what a first run writes.
struct Used {
    directory: PathBuf,
}

impl Contender for Used {
    fn groups(&self) -> &'static [Group] {
        &[Group::Warm]
    }

    fn offer(&self, _: &World, _: &Subject, at: &Path) -> Result<Vec<Command>> {
        bind(&self.directory, at)
    }

    fn has_recorded_files(&self) -> bool {
        false
    }

    fn retire(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![unmount(at)]
    }

    fn is_cheap(&self) -> bool {
        false
    }
}

/// Hard links.
struct Hardlinks;

impl Contender for Hardlinks {
    fn groups(&self) -> &'static [Group] {
        &[Group::Create, Group::Many]
    }

    fn offer(&self, _: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        Ok(vec![copy("-al", &subject.reference, at)])
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

    fn disk_roots(&self, world: &World) -> Vec<PathBuf> {
        vec![world.real.reference.clone()]
    }
}

/// `cp` into a directory that is there.
fn copy(how: &str, from: &Path, to: &Path) -> Command {
    let mut command = sh::command("cp");
    command.arg(how).arg("--no-target-directory").arg(from).arg(to);
    command
}

/// A read-only bind mount.
pub(super) fn bind(from: &Path, to: &Path) -> Result<Vec<Command>> {
    let mut command = sh::command("mount");
    command.args(["-o", "bind,ro"]).arg(from).arg(to);
    Ok(vec![command])
}

/// `rm -rf`.
pub(super) fn remove(at: &Path) -> Command {
    let mut command = sh::command("rm");
    command.arg("-rf").arg(at);
    command
}

/// `umount`.
pub(super) fn unmount(at: &Path) -> Command {
    let mut command = sh::command("umount");
    command.arg(at);
    command
}
