//! The contenders: how each makes an environment, offers it and retires it.
//!
//! To add one, write its `Contender` and give it a line in [`candidates`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::measures::Measure;
use super::world::{SPECS, World, copy_store};
use crate::envfs::{Envfs, Mount};
use crate::sh;

/// How long each step of making an environment took.
pub(super) type Steps = Vec<(Measure, Duration)>;

/// A way to have an environment.
pub(super) trait Contender {
    /// What must be there before a round, unmeasured.
    fn prepare(&mut self, _world: &World, _place: &Path) -> Result<()> {
        Ok(())
    }

    /// Makes an environment, ready to be used.
    fn create(&mut self, world: &World, place: &Path) -> Result<Steps>;

    /// Where it is.
    fn prefix(&self, place: &Path) -> PathBuf {
        place.join("env")
    }

    /// The directories whose growth is what the environment costs.
    fn disk_roots(&self, world: &World, place: &Path) -> Vec<PathBuf>;

    /// Takes it away.
    fn retire(&mut self, _world: &World, place: &Path) -> Result<Duration> {
        sh::timed(sh::command("rm").arg("-rf").arg(self.prefix(place)))
    }

    /// What a person types to repeat it.
    fn commands(&self, world: &World) -> Vec<(Measure, String)>;
}

/// The name of the column to which the others are compared.
pub(super) const PRODUCT: &str = "envfs";

/// A contender that may take part.
pub(super) struct Candidate {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) set_up: fn(&World) -> Result<Box<dyn Contender>>,
}

/// Everyone, in the order of the table's columns.
pub(super) fn candidates() -> [Candidate; 6] {
    [
        Candidate {
            name: PRODUCT,
            about: "A new environment: its packages are in the store, it is not. `build` makes its tree, `mount` mounts it.",
            set_up: |world| {
                Ok(Box::new(NewEnvfs {
                    envfs: world.envfs()?.packages.clone(),
                    mount: None,
                }))
            },
        },
        Candidate {
            name: "envfs-built",
            about: "An environment that was built before: only `mount`.",
            set_up: |world| {
                world.envfs()?;
                Ok(Box::new(BuiltEnvfs { mount: None }))
            },
        },
        Candidate {
            name: "hardlinks",
            about: "A farm of hard links to an installed environment. Its prefix is not rewritten: scripts still name the original.",
            set_up: |world| Copy::set_up(world, "-al"),
        },
        Candidate {
            name: "cp",
            about: "A full copy of an installed environment. Its prefix is not rewritten either.",
            set_up: |world| Copy::set_up(world, "-a"),
        },
        Candidate {
            name: "rattler",
            about: "rattler's installer (py-rattler), package cache warm. Only the installer is timed, not Python's start nor the solve.",
            set_up: |world| {
                world.tool("python")?;
                Ok(Box::new(Rattler))
            },
        },
        Candidate {
            name: "uv",
            about: "`uv venv` and `uv pip install` of the same wheels, cache warm, hard links, nothing to resolve. The interpreter and the native libraries are not in it: it borrows them.",
            set_up: Uv::set_up,
        },
    ]
}

/// envfs, environment not built.
struct NewEnvfs {
    envfs: Envfs,
    mount: Option<Mount>,
}

impl NewEnvfs {
    fn on_copy(&self, place: &Path) -> Envfs {
        self.envfs.on_store(place.join("store"))
    }
}

impl Contender for NewEnvfs {
    fn prepare(&mut self, _: &World, place: &Path) -> Result<()> {
        fs::create_dir_all(self.prefix(place))?;
        copy_store(self.envfs.store(), &place.join("store"))
    }

    fn create(&mut self, world: &World, place: &Path) -> Result<Steps> {
        let stores = world.envfs()?;
        let envfs = self.on_copy(place);
        let build = sh::timed(envfs.command(["build", "--offline"]).arg(&stores.lock))?;
        let mount = envfs.mount(&stores.signature, &self.prefix(place))?;
        let steps = vec![(Measure::Create, build), (Measure::Mount, mount.took)];
        self.mount = Some(mount);
        Ok(steps)
    }

    fn disk_roots(&self, _: &World, place: &Path) -> Vec<PathBuf> {
        vec![place.join("store")]
    }

    fn retire(&mut self, _: &World, _: &Path) -> Result<Duration> {
        self.mount.take().context("nothing is mounted")?.unmount()
    }

    fn commands(&self, _: &World) -> Vec<(Measure, String)> {
        vec![
            (
                Measure::Create,
                format!("envfs build --offline pixi.lock  # of: {}", SPECS.join(" ")),
            ),
            (Measure::Mount, "envfs mount SIGNATURE DIR/env".to_owned()),
            (Measure::Retire, "envfs umount DIR/env".to_owned()),
        ]
    }
}

/// envfs, environment built.
struct BuiltEnvfs {
    mount: Option<Mount>,
}

impl Contender for BuiltEnvfs {
    fn prepare(&mut self, _: &World, place: &Path) -> Result<()> {
        Ok(fs::create_dir_all(self.prefix(place))?)
    }

    fn create(&mut self, world: &World, place: &Path) -> Result<Steps> {
        let stores = world.envfs()?;
        let mount = stores.built.mount(&stores.signature, &self.prefix(place))?;
        let steps = vec![(Measure::Mount, mount.took)];
        self.mount = Some(mount);
        Ok(steps)
    }

    fn disk_roots(&self, world: &World, _: &Path) -> Vec<PathBuf> {
        world
            .envfs()
            .map(|stores| stores.built.store().to_path_buf())
            .into_iter()
            .collect()
    }

    fn retire(&mut self, _: &World, _: &Path) -> Result<Duration> {
        self.mount.take().context("nothing is mounted")?.unmount()
    }

    fn commands(&self, _: &World) -> Vec<(Measure, String)> {
        vec![
            (Measure::Mount, "envfs mount SIGNATURE DIR/env".to_owned()),
            (Measure::Retire, "envfs umount DIR/env".to_owned()),
        ]
    }
}

/// `cp` with links or for real.
struct Copy {
    how: &'static str,
    reference: PathBuf,
}

impl Copy {
    fn set_up(world: &World, how: &'static str) -> Result<Box<dyn Contender>> {
        Ok(Box::new(Self {
            how,
            reference: world.reference()?.to_path_buf(),
        }))
    }
}

impl Contender for Copy {
    fn create(&mut self, _: &World, place: &Path) -> Result<Steps> {
        let took = sh::timed(
            sh::command("cp")
                .arg(self.how)
                .arg(&self.reference)
                .arg(self.prefix(place)),
        )?;
        Ok(vec![(Measure::Create, took)])
    }

    fn disk_roots(&self, _: &World, place: &Path) -> Vec<PathBuf> {
        vec![self.reference.clone(), self.prefix(place)]
    }

    fn commands(&self, _: &World) -> Vec<(Measure, String)> {
        vec![
            (Measure::Create, format!("cp {} REFERENCE DIR/env", self.how)),
            (Measure::Retire, "rm -rf DIR/env".to_owned()),
        ]
    }
}

/// rattler's installer.
struct Rattler;

impl Contender for Rattler {
    fn create(&mut self, world: &World, place: &Path) -> Result<Steps> {
        let printed = sh::capture(&mut world.rattler(&self.prefix(place))?)?;
        let seconds: f64 = printed
            .trim()
            .parse()
            .with_context(|| format!("rattler_install.py printed {printed}"))?;
        Ok(vec![(Measure::Create, Duration::try_from_secs_f64(seconds)?)])
    }

    fn disk_roots(&self, world: &World, place: &Path) -> Vec<PathBuf> {
        vec![world.rattler_cache(), self.prefix(place)]
    }

    fn commands(&self, _: &World) -> Vec<(Measure, String)> {
        let specs = SPECS.join(" ");
        vec![
            (
                Measure::Create,
                format!("python xtask/bench/rattler_install.py CHANNEL CACHE DIR/env {specs}"),
            ),
            (Measure::Retire, "rm -rf DIR/env".to_owned()),
        ]
    }
}

/// uv.
struct Uv {
    program: PathBuf,
    interpreter: PathBuf,
    pins: PathBuf,
}

impl Uv {
    /// Fills uv's cache once, and notes the exact versions, so that nothing is left to resolve.
    fn set_up(world: &World) -> Result<Box<dyn Contender>> {
        let uv = Self {
            program: world.tool("uv")?,
            interpreter: world.reference()?.join("bin/python"),
            pins: world.directory.join("uv-pins.txt"),
        };
        let scratch = world.directory.join("uv-first");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        sh::run_quiet(&mut uv.venv(world, &scratch))?;
        let names = SPECS.iter().filter(|spec| !spec.starts_with("python="));
        sh::run_quiet(uv.install(world, &scratch).args(names))?;
        let pins = sh::capture(
            uv.command(world)
                .args(["pip", "freeze", "--python"])
                .arg(scratch.join("bin/python")),
        )?;
        fs::write(&uv.pins, pins)?;
        fs::remove_dir_all(&scratch)?;
        Ok(Box::new(uv))
    }

    fn command(&self, world: &World) -> Command {
        let mut command = sh::command(&self.program);
        command
            .env("UV_CACHE_DIR", world.directory.join("uv-cache"))
            .env("UV_NO_CONFIG", "1");
        command.args(["--offline", "--quiet"]);
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

    fn venv(&self, world: &World, prefix: &Path) -> Command {
        let mut command = self.command(world);
        command.arg("venv").arg("--python").arg(&self.interpreter).arg(prefix);
        command
    }

    fn install(&self, world: &World, prefix: &Path) -> Command {
        let mut command = self.command(world);
        command
            .args(["pip", "install", "--link-mode=hardlink", "--no-index", "--find-links"])
            .arg(&world.wheels);
        command.arg("--python").arg(prefix.join("bin/python"));
        command
    }
}

impl Contender for Uv {
    fn create(&mut self, world: &World, place: &Path) -> Result<Steps> {
        let prefix = self.prefix(place);
        let venv = sh::timed(&mut self.venv(world, &prefix))?;
        let install = sh::timed(
            self.install(world, &prefix)
                .arg("--no-deps")
                .arg("--requirement")
                .arg(&self.pins),
        )?;
        Ok(vec![(Measure::Create, venv + install)])
    }

    fn disk_roots(&self, world: &World, place: &Path) -> Vec<PathBuf> {
        vec![world.directory.join("uv-cache"), self.prefix(place)]
    }

    fn commands(&self, _: &World) -> Vec<(Measure, String)> {
        vec![
            (
                Measure::Create,
                "uv --offline venv --python PYTHON DIR/env; uv --offline pip install --link-mode=hardlink --no-index \
                 --find-links WHEELS --python DIR/env/bin/python --no-deps --requirement PINS"
                    .to_owned(),
            ),
            (Measure::Retire, "rm -rf DIR/env".to_owned()),
        ]
    }
}
