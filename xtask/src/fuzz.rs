//! `cargo xtask fuzz`: every reader of bytes under libFuzzer, as many at a time as there are processors.
//!
//! Works with the stable toolchain: only the crates of this repository are compiled anew, with counters. What makes a reader panic
//! is kept in `target/fuzz`; inputs that lead far are in `fuzz/corpus`. This room knows no target but by its name.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::{sh, system};

/// The engine is C++.
const NEEDED: [(&str, &str); 1] = [("c++", "g++")];

/// No input is longer: readers that need more are tried by tests.
const MAX_INPUT_BYTES: u32 = 64 * 1024;

/// An input for which a reader takes longer is a finding.
const TIMEOUT_S: u32 = 30;

/// What is kept in the repository is what leads on quickly: no input of it is longer, and of each target there are about as many
/// bytes at most.
const MAX_KEPT_INPUT_BYTES: u32 = 4 * 1024;
const KEPT_BYTES: u64 = 16 * 1024;

/// What is kept in the repository.
const KEPT: &str = "fuzz/corpus";

/// Which readers, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where chance begins [default: by chance].
    #[arg(long)]
    seed: Option<u32>,
    /// Keep of all that was found what runs other code, as few and as short inputs as do, in fuzz/corpus.
    #[arg(long)]
    keep: bool,
    /// Which ones [default: all].
    targets: Vec<String>,
}

impl Options {
    /// What every run of the checks does: the same each time, so that what it finds is due to what was changed.
    pub(crate) const SHORT: Self = Self {
        seconds: 60,
        seed: Some(1),
        keep: false,
        targets: Vec::new(),
    };
}

/// The program of all targets, and where their inputs are.
struct Engine {
    program: PathBuf,
    /// Below it `seeds`, made anew, and `corpus`, what was found in this and earlier runs; findings lie in it.
    directory: PathBuf,
}

/// The command: each target, or those that are named.
///
/// # Errors
/// When a target fails; the message names all that did, and what they printed names the input.
pub(crate) fn run(options: &Options) -> Result<()> {
    let engine = Engine::build()?;
    let mut targets = engine.targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !targets.contains(name)) {
        bail!("there is no target `{unknown}`; there are {}", targets.join(", "));
    }
    targets.retain(|name| options.targets.is_empty() || options.targets.contains(name));
    for_each(&targets, |name| {
        let output = sh::output(&mut engine.fuzz(name, options)?)?;
        sh::say(&format!("{name}: {}", last_line(&output.stderr)));
        Ok(())
    })?;
    match options.keep {
        true => for_each(&targets, |name| engine.keep(name)),
        false => Ok(()),
    }
}

/// Does something with each target, as many at a time as there are processors.
fn for_each(targets: &[String], work: impl Fn(&str) -> Result<()> + Sync) -> Result<()> {
    let pending = Mutex::new(targets.iter());
    let failed = Mutex::new(Vec::new());
    let next = || pending.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(name) = next() {
                    if let Err(error) = work(name) {
                        eprintln!("FAILED: {name}: {error:#}");
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(name.as_str());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

impl Engine {
    fn build() -> Result<Self> {
        system::ensure_programs(&NEEDED)?;
        let this = Self {
            program: sh::target_dir().join("debug/envfs-fuzz"),
            directory: sh::target_dir().join("fuzz"),
        };
        let seeds = this.directory.join("seeds");
        if seeds.exists() {
            fs::remove_dir_all(&seeds).with_context(|| format!("cannot clear {}", seeds.display()))?;
        }
        let mut seeding = sh::cargo();
        seeding.args(["test", "--locked", "-p", "envfs-fuzz", "--test", "short", "corpus"]);
        sh::run_quiet(seeding.env("ENVFS_FUZZ_CORPUS", &seeds))?;
        let mut build = sh::cargo();
        build.args([
            "build",
            "--locked",
            "-p",
            "envfs-fuzz",
            "--features",
            "libfuzzer",
            "--bins",
        ]);
        sh::run(build.env("RUSTC_WORKSPACE_WRAPPER", sh::root().join("fuzz/rustc-with-coverage")))?;
        Ok(this)
    }

    /// The targets, each with a directory of seeds.
    fn targets(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.directory.join("seeds"))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn fuzz(&self, name: &str, options: &Options) -> Result<Command> {
        let [found, seeds, kept] = self.inputs(name);
        fs::create_dir_all(&found)?;
        let mut command = self.command(name);
        command
            .arg(format!("-max_total_time={}", options.seconds))
            .args(options.seed.map(|seed| format!("-seed={seed}")))
            .arg(format!("-max_len={MAX_INPUT_BYTES}"))
            .arg(format!("-artifact_prefix={}/{name}-", self.directory.display()));
        command
            .args([found, seeds])
            .args(Some(kept).filter(|kept| kept.exists()));
        Ok(command)
    }

    /// Makes the inputs of the repository anew, of these and of all that was found.
    fn keep(&self, name: &str) -> Result<()> {
        let fresh = tempfile::tempdir_in(&self.directory)?;
        let mut command = self.command(name);
        command
            .arg("-set_cover_merge=1")
            .arg(format!("-max_len={MAX_KEPT_INPUT_BYTES}"));
        let [found, _, kept] = self.inputs(name);
        fs::create_dir_all(&kept)?;
        sh::run_quiet(command.arg(fresh.path()).args([&found, &kept]))?;
        fs::remove_dir_all(&kept)?;
        fs::create_dir(&kept)?;
        let mut inputs = Vec::new();
        for entry in fs::read_dir(fresh.path())? {
            let entry = entry?;
            inputs.push((entry.metadata()?.len(), entry.file_name()));
        }
        // Short ones lead to the first lines of a reader, long ones to the last: some of all.
        inputs.sort();
        let bytes: u64 = inputs.iter().map(|(len, _)| len).sum();
        let step = usize::try_from(bytes.div_ceil(KEPT_BYTES))?.max(1);
        for (_, name) in inputs.into_iter().step_by(step) {
            fs::copy(fresh.path().join(&name), kept.join(&name))?;
        }
        Ok(())
    }

    /// What was found, what there is to start from, and what is kept in the repository.
    fn inputs(&self, name: &str) -> [PathBuf; 3] {
        [
            self.directory.join("corpus"),
            self.directory.join("seeds"),
            sh::root().join(KEPT),
        ]
        .map(|place| place.join(name))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = sh::command(&self.program);
        command
            .env("ENVFS_FUZZ_TARGET", name)
            .arg(format!("-timeout={TIMEOUT_S}"));
        command.args(["-rss_limit_mb=1024", "-print_final_stats=0"]);
        command
    }
}

fn last_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().last().unwrap_or("it said nothing").to_owned()
}
