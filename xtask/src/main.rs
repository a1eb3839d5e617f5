//! `cargo xtask <command>`: everything that is done *to* this repository, as one program.
//!
//! This room only dispatches. Each command has its own file. Nothing here links a crate of the product: the commands
//! drive `cargo`, the `envfs` binary and the system's own tools, as a person would.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner talks to the person who runs it"
)]

mod bench;
mod channel;
mod crates;
mod demo;
mod envfs;
mod fuzz;
mod long;
mod posix;
mod power_cuts;
mod sh;
mod soak;
mod specs;
mod supply;
mod system;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the envfs repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build envfs and show its main job on real packages: two environments, one inheriting the other, mounted and used.
    Demo {
        /// Use the channel made by `cargo xtask channel` even where a public channel can be reached.
        #[arg(long)]
        local_channel: bool,
    },
    /// Run every check: formatting, lints, tidy, and the tests of the whole workspace.
    Test,
    /// Cut the power under a store again and again, and look that nothing is lost (root).
    PowerCuts(power_cuts::Options),
    /// Run tests in their long form, which takes from minutes to hours.
    Long(long::Options),
    /// Build, mount, run, collect, kill and damage for long, and look that nothing is missing, wrong or left over (root).
    Soak(soak::Options),
    /// Check the rules of this house that no other tool checks.
    Tidy,
    /// Look at the licenses and sources of the crates that are used, and at what is known to be wrong with them.
    Supply(supply::Options),
    /// Read and lock the specifications of well-known projects, and write a table of what became of each.
    Specs {
        /// Where to write it.
        #[arg(long, value_name = "FILE", default_value = "docs/specs.md")]
        out: PathBuf,
        /// The envfs to use [default: this repository's, built now].
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// Make a local conda channel from Debian's CPython and PyPI's wheels.
    Channel {
        /// Where to put it [default: target/channel].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Install everything into a throw-away prefix afterwards, and use it.
        #[arg(long)]
        check: bool,
        /// Make it again even if it is complete and up to date (downloads stay cached).
        #[arg(long)]
        force: bool,
    },
    /// Try what pjdfstest and fsx try in environments that are written to.
    Posix(posix::Options),
    /// Try every reader of bytes with libFuzzer.
    Fuzz(fuzz::Options),
    /// Measure envfs beside the tools people use today, and write the tables.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo { local_channel } => demo::run(local_channel),
        Task::Test => test::run(),
        Task::PowerCuts(options) => power_cuts::run(&options),
        Task::Long(options) => long::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Tidy => tidy::run(),
        Task::Supply(options) => supply::run(&options),
        Task::Specs { out, program } => specs::run(&out, program),
        Task::Channel { out, check, force } => channel::run(out, check, force),
        Task::Posix(options) => posix::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
