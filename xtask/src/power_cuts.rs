//! `cargo xtask power-cuts`: many power cuts under a store, and every step of every command that changes it. Both are tests of which
//! `cargo xtask test` runs a short form.
//!
//! This room knows how they are called and what makes them long, and nothing of disks.

use anyhow::Result;
use clap::Args;

use crate::{envfs, sh, system, test};

/// How much is tried.
#[derive(Args)]
pub(crate) struct Options {
    /// How often the power is cut: half of them at steps of commands, half at random
    #[arg(long, value_name = "N", default_value_t = 1000)]
    cuts: u32,
    /// Also kill each command before each of its steps, and let each of them fail
    #[arg(long)]
    every_step: bool,
}

/// Runs the tests in their long form.
///
/// # Errors
/// When one fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    system::ensure_programs(&test::NEEDED)?;
    envfs::build_debug()?;
    let tests = |name: &str| {
        let mut command = sh::cargo();
        command.args(["test", "--locked", "--package", "envfs-tests", "--test", "it", name]);
        command.args(["--", "--nocapture", "--test-threads=1"]);
        command
    };
    sh::run(tests("power_cuts::").env("ENVFS_TEST_POWER_CUTS", options.cuts.to_string()))?;
    if options.every_step {
        for name in ["cuts::a_command", "cuts::a_disk", "mount_kills::", "repair_kills::"] {
            sh::run(tests(name).env("ENVFS_TEST_ALL_STEPS", "1"))?;
        }
    }
    Ok(())
}
