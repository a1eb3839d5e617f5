//! `cargo xtask power-cuts`: many power cuts under a store. It is a test of which `cargo xtask test` runs a short form.
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
}

/// Runs the tests in their long form.
///
/// # Errors
/// When one fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    system::ensure_programs(&test::NEEDED)?;
    envfs::build_debug()?;
    let mut command = sh::cargo();
    command.args([
        "test",
        "--locked",
        "--package",
        "envfs-tests",
        "--test",
        "it",
        "power_cuts::",
    ]);
    command.args(["--", "--nocapture", "--test-threads=1"]);
    sh::run(command.env("ENVFS_TEST_POWER_CUTS", options.cuts.to_string()))
}
