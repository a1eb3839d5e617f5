//! `envfs-bench-replay`: the file-system calls of a program, without the program.
//!
//! Whole-process times hide what a file system costs behind an interpreter that runs for a second. This makes the calls of a
//! recorded run again, against any prefix, and prints how long they took. It knows no contender and no crate of the
//! product.
#![expect(clippy::print_stdout, reason = "its figures go to whoever runs it")]

mod play;
mod record;
mod trace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use rustix::mount::MountFlags;
use serde_json::json;

use self::trace::Trace;

/// Replays a trace of file-system calls against a prefix.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make the calls of a trace below a prefix; prints `{"nanoseconds", "operations", "surprises"}`.
    Replay {
        /// The trace.
        trace: PathBuf,
        /// The prefix to which its paths are relative.
        prefix: PathBuf,
    },
    /// Print the trace that a log of `strace -y` holds.
    Record {
        /// The log.
        log: PathBuf,
        /// The prefix below which calls count.
        prefix: PathBuf,
    },
    /// Start a server and return when a file is there; the server goes on.
    Until {
        /// The file.
        file: PathBuf,
        /// The server's command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Mount by mount(2), read-only: mount(8) takes a loop device where the kernel needs none.
    Mount {
        /// The file system.
        file_system: String,
        /// The image.
        source: PathBuf,
        /// The directory.
        target: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Replay { trace, prefix } => replay(&trace, &prefix),
        Task::Record { log, prefix } => {
            let log_text = read(&log)?;
            let prefix = prefix.to_str().context("the prefix is not UTF-8")?;
            print!("{}", record::trace(&log_text, prefix));
            Ok(())
        }
        Task::Until { file, command } => until(&file, &command),
        Task::Mount {
            file_system,
            source,
            target,
        } => rustix::mount::mount(&source, &target, &file_system, MountFlags::RDONLY, None)
            .with_context(|| format!("cannot mount {} at {}", source.display(), target.display())),
    }
}

fn replay(trace: &Path, prefix: &Path) -> Result<()> {
    let trace = Trace::parse(&read(trace)?, prefix).with_context(|| format!("in {}", trace.display()))?;
    let played = play::play(&trace);
    println!(
        "{}",
        json!({
            "nanoseconds": u64::try_from(played.took.as_nanos())?,
            "operations": trace.operations.len(),
            "surprises": played.surprises,
        })
    );
    Ok(())
}

/// How often it is asked for, and how long.
const PAUSE: Duration = Duration::from_micros(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

fn until(file: &Path, command: &[OsString]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut server = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let start = Instant::now();
    while std::fs::metadata(file).is_err() {
        if let Some(status) = server.try_wait()? {
            bail!("{} ended with {status}", program.display());
        }
        if start.elapsed() > LONGEST_WAIT {
            server.kill()?;
            bail!("{} is not there after {} s", file.display(), LONGEST_WAIT.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A text that may have other bytes in it: a program's reads stand in its log.
fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
