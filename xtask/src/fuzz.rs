//! `cargo xtask fuzz`: every reader of bytes under libFuzzer, as many at a time as there are processors.
//!
//! Works with the stable toolchain: only the crates of this repository are compiled anew, with counters. What makes a reader panic
//! is kept in `target/fuzz`. This room knows no target but by its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Result, bail};

use crate::{sh, system};

/// The engine is C++.
const NEEDED: [(&str, &str); 1] = [("c++", "g++")];

/// No input is longer: readers that need more are tried by tests.
const MAX_INPUT_BYTES: u32 = 64 * 1024;

/// An input for which a reader takes longer is a finding.
const TIMEOUT_S: u32 = 30;

/// The command: each target, or those that are named, for so many seconds.
///
/// # Errors
/// When a target fails; the message names all that did, and what they printed names the input.
pub(crate) fn run(seconds: u64, only: &[String]) -> Result<()> {
    system::ensure_programs(&NEEDED)?;
    let directory = sh::target_dir().join("fuzz");
    let corpus = directory.join("corpus");
    sh::run_quiet(
        sh::cargo()
            .args(["test", "--locked", "-p", "envfs-fuzz", "--test", "short", "corpus"])
            .env("ENVFS_FUZZ_CORPUS", &corpus),
    )?;
    let wrapper = sh::root().join("fuzz/rustc-with-coverage");
    sh::run(
        sh::cargo()
            .args([
                "build",
                "--locked",
                "-p",
                "envfs-fuzz",
                "--features",
                "libfuzzer",
                "--bins",
            ])
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper),
    )?;
    let names = names(&corpus)?;
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        bail!("there is no target `{unknown}`; there are {}", names.join(", "));
    }
    let wanted = names.into_iter().filter(|name| only.is_empty() || only.contains(name));
    let pending = Mutex::new(wanted.collect::<Vec<_>>());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let Some(name) = pending.lock().ok().and_then(|mut pending| pending.pop()) else {
                        return;
                    };
                    match sh::output(&mut fuzz(&directory, &name, seconds)) {
                        Ok(output) => sh::say(&format!("{name}: {}", last_line(&output.stderr))),
                        Err(error) => {
                            eprintln!("FAILED: {name}: {error:#}");
                            failed
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .push(name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The targets, each with a directory of seeds.
fn names(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn fuzz(directory: &Path, name: &str, seconds: u64) -> Command {
    let program: PathBuf = sh::target_dir().join("debug/envfs-fuzz");
    let mut command = sh::command(program);
    command
        .env("ENVFS_FUZZ_TARGET", name)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-timeout={TIMEOUT_S}"))
        .args(["-rss_limit_mb=1024", "-print_final_stats=0"])
        .arg(format!("-artifact_prefix={}/{name}-", directory.display()))
        .arg(directory.join("corpus").join(name));
    command
}

fn last_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().last().unwrap_or("it said nothing").to_owned()
}
