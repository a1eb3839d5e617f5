//! The contenders: how each offers an environment at a directory, and takes it away.
//!
//! To add one, write its [`Contender`] and give it a line in [`candidates`].

mod directories;
mod images;
mod peers;
mod product;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::rows::Group;
use super::world::{Subject, World};

/// A way to have an environment.
pub(super) trait Contender {
    /// In which groups it takes part.
    fn groups(&self) -> &'static [Group];

    /// The commands after which the environment is at an empty directory.
    fn offer(&self, world: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>>;

    /// The commands that take it away; the empty directory may stay.
    fn retire(&self, world: &World, at: &Path) -> Vec<Command>;

    /// Whether there are files at all.
    fn has_files(&self) -> bool {
        true
    }

    /// Whether the environment with 100,000 files is offered as well.
    fn offers_many(&self) -> bool {
        true
    }

    /// Whether further environments cost so little that a hundred can be made to measure them.
    fn is_cheap(&self) -> bool {
        true
    }

    /// Whether its last command prints the seconds that count, instead of being timed.
    fn prints_seconds(&self) -> bool {
        false
    }

    /// Whether its files are those of the recorded trace.
    fn has_recorded_files(&self) -> bool {
        true
    }

    /// How it is offered where files are measured, if another way than by [`Self::offer`].
    fn stand(&self, world: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        self.offer(world, subject, at)
    }

    /// The opposite of [`Self::stand`].
    fn unstand(&self, world: &World, at: &Path) -> Vec<Command> {
        self.retire(world, at)
    }

    /// The directories whose growth is what an environment costs, beside where it is.
    fn disk_roots(&self, _world: &World) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The process that serves it.
    fn server(&self, _world: &World, _at: &Path) -> Result<Option<u32>> {
        Ok(None)
    }

    /// Forgets what it recorded of earlier runs of the real environment. Says whether it records them.
    fn forget_runs(&self, _world: &World) -> Result<bool> {
        Ok(false)
    }

    /// Waits until a run is recorded.
    fn await_recorded(&self, _world: &World) -> Result<()> {
        Ok(())
    }

    /// Sees to it that it may write to an empty directory.
    fn claim(&self, _at: &Path) -> Result<()> {
        Ok(())
    }

    /// Runs `true` in the real environment.
    fn run_true(&self, _world: &World) -> Option<Command> {
        None
    }

    /// Runs `python -c pass` in the real environment, which stands at `at` by [`Self::stand`].
    fn run_again(&self, _world: &World, _at: &Path) -> Option<Command> {
        None
    }

    /// Asks for the real environment by what is wanted in it.
    fn ensure(&self, _world: &World) -> Option<Command> {
        None
    }

    /// Under which name [`World::made_once`] has what it made before.
    fn made_once(&self) -> Option<&'static str> {
        None
    }
}

/// A contender that may take part.
pub(super) struct Candidate {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) set_up: fn(&mut World) -> Result<Box<dyn Contender>>,
}

/// The names that other rooms know: those to which is compared, and those that have goals.
pub(super) const SPAWN: &str = "/bin/true";
pub(super) const EXT4: &str = "ext4";
pub(super) const KERNEL: &str = "envfs (kernel)";
pub(super) const FUSE: &str = "envfs (fuse)";
pub(super) const LINK: &str = "envfs (link)";
pub(super) const USER: &str = "envfs (fuse, user)";
pub(super) const UV: &str = "uv";
pub(super) const RATTLER_MOUNT: &str = "rattler mount";

/// Who serves files.
const SERVING: &[Group] = &[
    Group::Create,
    Group::Many,
    Group::Memory,
    Group::Fresh,
    Group::Cold,
    Group::Warm,
    Group::Files,
    Group::Parallel,
];

/// What a person runs when an environment is to be used, by the tool that looks after it.
const PASS: [&str; 3] = ["python", "-c", "pass"];

/// Who serves files, and runs commands in an environment.
const EVERYTHING: &[Group] = &Group::ALL;

/// Everyone, in the order of the tables.
pub(super) fn candidates() -> [Candidate; 16] {
    let candidate = |name, about, set_up| Candidate { name, about, set_up };
    [
        candidate(
            SPAWN,
            "Spawning a process that does nothing: the floor of every command.",
            directories::spawn,
        ),
        candidate(
            EXT4,
            "A plain directory, copied out of a mount of envfs. Made by `cp -a`; its files are measured through a read-only bind mount \
             (the same inodes, no other file system), so that Python cannot write .pyc that are missing, here as elsewhere.",
            directories::plain,
        ),
        candidate(
            "ext4, used",
            "The same directory after a first import has written the .pyc that were missing, as it does in an environment that can be \
             written to.",
            directories::used,
        ),
        candidate(
            KERNEL,
            "Root's backend: an EROFS image of the metadata under overlayfs; the files are objects of the store.",
            product::kernel,
        ),
        candidate(
            FUSE,
            "The backend that an ordinary user's mounts have, here mounted by root.",
            product::fuse,
        ),
        candidate(
            USER,
            "What an ordinary user has: mounts by fusermount3 (with `allow_other`, because root measures), runs in namespaces; with a copy of \
             the store that is the user's own. Commands start by setpriv(1), whose own start counts.",
            product::user,
        ),
        candidate(
            LINK,
            "The backend without FUSE and overlayfs: a directory of links into a cache, behind a read-only bind mount where files are measured.",
            product::link,
        ),
        candidate(
            "overlayfs",
            "The kernel's overlayfs over the plain directory, read-only, mounted by mount(8).",
            images::overlay,
        ),
        candidate(
            "composefs",
            "`cfsctl mount` of an image by its digest: EROFS metadata, overlayfs, files as objects by their SHA-256. No fs-verity.",
            images::composefs,
        ),
        candidate(
            "erofs",
            "An EROFS image with the data inside, not compressed, mounted from the file by mount(2).",
            images::erofs,
        ),
        candidate(
            "squashfs",
            "A squashfs image, zstd level 3, mounted by mount(8) through a loop device.",
            images::squashfs,
        ),
        candidate(
            "hardlinks",
            "`cp -al`: a farm of hard links to the plain directory. Its files are those of ext4.",
            directories::hardlinks,
        ),
        candidate(
            UV,
            "`uv venv` and `uv pip install` of the same wheels, cache warm, hard links, nothing to resolve. The interpreter and the \
             native libraries are not in it: it borrows them. Its files are those of ext4.",
            peers::uv,
        ),
        candidate(
            "rattler install",
            "rattler's installer (py-rattler), package cache warm. Only the installer is timed, not Python's start nor the solve. Its files \
             are those of ext4.",
            peers::rattler_install,
        ),
        candidate(
            RATTLER_MOUNT,
            "rattler's own mount (FUSE) of a lock file, package cache warm; until its first file is there. It has no conda-meta, and its server is its command: \
             `until` starts it and asks for the file every 0.1 ms.",
            peers::rattler_mount,
        ),
        candidate(
            "mamba run",
            "`mamba run` of the plain directory, by the mamba of a Miniforge, which activates it. It takes part where the project's optional \
             data is beside it.",
            peers::mamba_run,
        ),
    ]
}
