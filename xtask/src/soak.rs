//! `cargo xtask soak`: everything that envfs does at once, for as long as is asked, with processes killed and files damaged. It is
//! a test of which `cargo xtask test` runs two minutes.
//!
//! This room knows how it is called and what makes it long.

use anyhow::Result;
use clap::Args;

use crate::{envfs, sh};

/// How much is tried.
#[derive(Args)]
pub(crate) struct Options {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u64,
    /// Where chance begins, to repeat what has failed [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Options {
    /// What every check includes; the same each time.
    pub(crate) const SHORT: Self = Self {
        minutes: 2,
        seed: Some(1),
    };
}

/// Runs the test in its long form.
///
/// # Errors
/// When something is missing, wrong or left over.
pub(crate) fn run(options: &Options) -> Result<()> {
    envfs::build_debug()?;
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().map(|age| age.as_secs());
    let seed = match options.seed {
        Some(seed) => seed,
        None => now()?,
    };
    let mut command = sh::cargo();
    command.args(["test", "--locked", "--package", "envfs-tests", "--test", "it", "soak::"]);
    command.args(["--", "--nocapture"]);
    command.env("ENVFS_TEST_SOAK_SECONDS", (options.minutes * 60).to_string());
    sh::run(command.env("ENVFS_TEST_SOAK_SEED", seed.to_string()))
}
