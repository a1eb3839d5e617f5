//! `cargo xtask test`: every check there is, in one command.
//!
//! All of them run even if one fails, so that one run shows all there is to mend; the tests come last, so that their
//! closing lines are the last that is printed. This room knows no test.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{bench, channel, envfs, fuzz, posix, sh, soak, supply, system, tidy};

/// The programs that tests use, and the Debian packages that have them.
pub(crate) const NEEDED: [(&str, &str); 13] = [
    ("fusermount3", "fuse3"),
    ("mount", "mount"),
    ("python3", "python3"),
    ("git", "git"),
    ("dpkg-deb", "dpkg"),
    ("setpriv", "util-linux"),
    ("strace", "strace"),
    ("faketime", "faketime"),
    ("rsync", "rsync"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("bindfs", "bindfs"),
];

/// Optional data beside the repository; tests that use it say loudly when they skip.
const OPTIONAL_DATA: &str = "../shared/data";

/// How a test says that it did nothing, and why.
const SKIP_MARK: &str = "SKIPPED";

/// The command.
///
/// # Errors
/// When a check failed; the message names all that did.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    let mut failed = Vec::new();
    let mut check = |name: &'static str, outcome: Result<()>| {
        if let Err(error) = outcome {
            eprintln!("FAILED: {name}: {error:#}");
            failed.push(name);
        }
    };
    check("programs", system::ensure_programs(&NEEDED));
    if let Err(error) = system::open_fuse_device() {
        eprintln!("SKIPPED: tests that mount: {error}");
    }
    if !sh::root().join(OPTIONAL_DATA).exists() {
        eprintln!("SKIPPED: tests on {OPTIONAL_DATA}, which is not here");
    }
    step("formatting");
    check("formatting", sh::run(sh::cargo().args(["fmt", "--all", "--check"])));
    step("tidy");
    check("tidy", tidy::run());
    step("lints");
    check(
        "lints",
        sh::run(sh::cargo().args([
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])),
    );
    step("supply chain");
    match supply::out_of_reach() {
        Some(reason) => eprintln!("SKIPPED: licenses, sources and advisories of crates: {reason}"),
        None => check("supply chain", supply::run(&supply::Options::default())),
    }
    step("channel");
    check("channel", channel::ensure(&channel::default_dir()));
    step("build");
    check("build", envfs::build_debug().map(drop));
    let installers = bench::installers()
        .inspect_err(|error| eprintln!("SKIPPED: tests beside uv and py-rattler: {error:#}"))
        .ok();
    step("posix");
    match posix::out_of_reach() {
        _ if !system::is_root() => eprintln!("SKIPPED: pjdfstest and fsx: only root can mount writable"),
        Some(reason) => eprintln!("SKIPPED: pjdfstest and fsx: {reason}"),
        None => check("posix", posix::run(&posix::Options::SHORT)),
    }
    step("fuzzing");
    check("fuzzing", fuzz::run(&fuzz::Options::SHORT));
    step("soak");
    match system::is_root() {
        true => check("soak", soak::run(&soak::Options::SHORT)),
        false => eprintln!("SKIPPED: a soak: only root can be two users"),
    }
    step("tests");
    check("tests", run_tests(installers.as_ref()));
    eprintln!("xtask: all checks took {:.0} s", start.elapsed().as_secs_f64());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs `cargo test`, and lets the lines through with which tests say that they skip, which it otherwise hides.
fn run_tests(installers: Option<&[PathBuf; 2]>) -> Result<()> {
    let mut tests = sh::cargo();
    tests.args([
        "test",
        "--locked",
        "--workspace",
        "--no-fail-fast",
        "--",
        "--show-output",
    ]);
    lend_installers(&mut tests, installers);
    let name = sh::shown(&tests);
    let mut child = tests
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    let stdout = child.stdout.take().context("no pipe")?;
    let mut filter = OutputFilter::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if filter.shows(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{name}` ended with {status}");
    }
    Ok(())
}

/// Lets tests use the installers of others, if they are here.
pub(crate) fn lend_installers(tests: &mut Command, installers: Option<&[PathBuf; 2]>) {
    if let Some([uv, py_rattler]) = installers {
        tests.env("ENVFS_UV", uv).env("ENVFS_TEST_PY_RATTLER", py_rattler);
    }
}

/// Hides what passing tests printed, but for the skips.
#[derive(Default)]
struct OutputFilter {
    in_successes: bool,
}

impl OutputFilter {
    fn shows(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.in_successes = true;
        } else if line == "failures:" || line.starts_with("test result:") {
            self.in_successes = false;
        }
        !self.in_successes || line.contains(SKIP_MARK)
    }
}

fn step(name: &str) {
    eprintln!("== {name}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_skips_of_passing_tests_show() {
        let printed = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nchatter\nSKIPPED: no data\n\nsuccesses:\n    a\n\nfailures:\nb broke\ntest result: ok.";
        let mut filter = OutputFilter::default();
        let shown: Vec<&str> = printed.lines().filter(|line| filter.shows(line)).collect();
        assert_eq!(
            shown,
            [
                "test a ... ok",
                "",
                "SKIPPED: no data",
                "failures:",
                "b broke",
                "test result: ok."
            ]
        );
    }
}
