//! `cargo xtask long`: tests in the long form of which `cargo xtask test` runs a short one.
//!
//! This room knows how they are called and what makes them long, and nothing of what they try.

use anyhow::{Result, bail};

use crate::{bench, envfs, sh, system, test};

/// The long form of some tests.
struct Form {
    name: &'static str,
    package: &'static [&'static str],
    tests: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
}

const IN_STORE: &[&str] = &["--package", "envfs-store", "--lib"];
const INTEGRATION: &[&str] = &["--package", "envfs-tests", "--test", "it"];

const FORMS: [Form; 8] = [
    Form {
        name: "steps",
        package: INTEGRATION,
        tests: &[
            "cuts::a_command",
            "cuts::a_disk",
            "cuts::a_migration",
            "mount_kills::",
            "repair_kills::",
        ],
        variables: &[("ENVFS_TEST_ALL_STEPS", "1")],
    },
    Form {
        name: "damage",
        package: IN_STORE,
        tests: &["verify::"],
        variables: &[("ENVFS_TEST_MORE_DAMAGE", "1")],
    },
    Form {
        name: "corruption",
        package: INTEGRATION,
        tests: &["corruption::what_is_damaged"],
        variables: &[("ENVFS_TEST_CORRUPTIONS", "150")],
    },
    Form {
        name: "model",
        package: INTEGRATION,
        tests: &["model::"],
        variables: &[("ENVFS_TEST_MODEL_CASES", "1500"), ("ENVFS_TEST_MODEL_SEED", "7")],
    },
    Form {
        name: "collections",
        package: INTEGRATION,
        tests: &["collect::collections_beside"],
        variables: &[("ENVFS_TEST_GC_SECONDS", "600")],
    },
    Form {
        name: "clocks",
        package: INTEGRATION,
        tests: &["clocks::"],
        variables: &[("ENVFS_TEST_CLOCK_ROUNDS", "60")],
    },
    Form {
        name: "large",
        package: INTEGRATION,
        tests: &["crash::"],
        variables: &[("ENVFS_TEST_LARGE_BYTES", "2147483648")],
    },
    Form {
        name: "migration",
        package: INTEGRATION,
        tests: &["migrate::"],
        variables: &[("ENVFS_MIGRATED", "60")],
    },
];

/// Which ones.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// steps: every command killed before each of its steps, and each step failing; damage, corruption: files of a store damaged in
    /// every way, and at random; model: writable environments beside ext4; collections: beside everything else for ten minutes;
    /// clocks: under clocks that jump; large: packages of 2 GiB; migration: sixty environments [default: all]
    #[arg(value_name = "FORM")]
    forms: Vec<String>,
}

/// Runs them, one after the other.
///
/// # Errors
/// When one fails, or there is none that is called so.
pub(crate) fn run(options: &Options) -> Result<()> {
    let names = FORMS.map(|form| form.name);
    if let Some(unknown) = options.forms.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no `{unknown}`; there are {}", names.join(", "));
    }
    system::ensure_programs(&test::NEEDED)?;
    envfs::build_debug()?;
    let is_wanted = |form: &&Form| options.forms.is_empty() || options.forms.iter().any(|name| name == form.name);
    for form in FORMS.iter().filter(is_wanted) {
        sh::say(&format!("{}, at length", form.name));
        let mut command = sh::cargo();
        command
            .args(["test", "--locked"])
            .args(form.package)
            .arg("--")
            .args(form.tests);
        command
            .args(["--nocapture", "--test-threads=1"])
            .envs(form.variables.iter().copied());
        test::lend_installers(&mut command, bench::installers().ok().as_ref());
        sh::run(&mut command)?;
    }
    Ok(())
}
