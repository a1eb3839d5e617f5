//! `cargo xtask supply`: the crates that are used: their licenses, where they come from, and what is known to be wrong with them.
//!
//! cargo-deny looks, by the rules of deny.toml; what it reads about vulnerabilities is the database that `cargo audit` reads. Where that
//! is out of reach and no earlier copy is there, this part is skipped, and said to be. This room knows no crate.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::crates::Crate;
use crate::sh;

const CARGO_DENY: Crate = Crate {
    name: "cargo-deny",
    version: "0.20.2",
    features: None,
    program: "cargo-deny",
    is_measured: false,
};

/// Where the database is kept upstream.
const DATABASE: &str = "https://github.com/rustsec/advisory-db";

/// How cargo-deny calls its copy of it: in the `db-path` of deny.toml, with a digest of where it is upstream.
const COPY: &str = "target/tools/advisory-dbs/advisory-db-3157b0e258782691";

/// A connection that tells nothing for so long is none.
const FETCH_LIMIT_S: &str = "120";

/// From where the database comes.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// A git repository, by its place or URL, with the RustSec advisory database [default: $ENVFS_ADVISORIES, or the one upstream]
    #[arg(long, value_name = "REPOSITORY")]
    advisories: Option<PathBuf>,
}

/// Why nothing can be looked at here.
pub(crate) fn out_of_reach() -> Option<String> {
    CARGO_DENY.out_of_reach(&tools())
}

/// The command.
///
/// # Errors
/// When a crate breaks a rule, or is known to be vulnerable; what cargo-deny prints says which.
pub(crate) fn run(options: &Options) -> Result<()> {
    let cargo_deny = CARGO_DENY.ensure(&tools())?;
    sh::run(check(&cargo_deny).args(["check", "bans", "licenses", "sources"]))?;
    let copy = sh::root().join(COPY);
    let named = options
        .advisories
        .clone()
        .or_else(|| std::env::var_os("ENVFS_ADVISORIES").map(PathBuf::from));
    let source = named.as_deref().map_or(OsStr::new(DATABASE), Path::as_os_str);
    match bring(source, &copy) {
        Ok(()) => {}
        Err(error) if named.is_some() => return Err(error),
        Err(error) => match date(&copy) {
            Ok(date) => sh::say(&format!("the advisories are those of {date}: {error:#}")),
            Err(_) => {
                eprintln!(
                    "SKIPPED: advisories about crates: no copy of the database (ENVFS_ADVISORIES names one), and {error:#}"
                );
                return Ok(());
            }
        },
    }
    sh::run(check(&cargo_deny).args(["--offline", "check", "advisories"]))
}

fn tools() -> PathBuf {
    sh::target_dir().join("tools")
}

fn check(cargo_deny: &Path) -> Command {
    let mut command = sh::command(cargo_deny);
    command.args(["--locked", "--log-level", "error"]);
    command
}

/// Makes the copy what the source is now.
fn bring(source: &OsStr, copy: &Path) -> Result<()> {
    sh::run_quiet(sh::command("git").args(["init", "--quiet"]).arg(copy))?;
    let mut fetch = sh::command("timeout");
    fetch.arg(FETCH_LIMIT_S).args(["git", "-C"]).arg(copy);
    fetch.args(["fetch", "--quiet", "--depth", "1"]).arg(source).arg("HEAD");
    sh::run_quiet(fetch.env("GIT_TERMINAL_PROMPT", "0"))?;
    sh::run_quiet(git(copy).args(["reset", "--quiet", "--hard", "FETCH_HEAD"]))
}

/// The day of the copy, if there is one.
fn date(copy: &Path) -> Result<String> {
    sh::capture(git(copy).args(["show", "--no-patch", "--format=%cs", "HEAD"]))
}

fn git(directory: &Path) -> Command {
    let mut command = sh::command("git");
    command.arg("-C").arg(directory);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_its_source_and_outlives_it() {
        let directory = tempfile::tempdir().unwrap();
        let [source, copy] = ["source", "copy"].map(|name| directory.path().join(name));
        let commit = |text: &str, day: &str| {
            std::fs::write(source.join("a.md"), text).unwrap();
            sh::run_quiet(git(&source).args(["add", "a.md"])).unwrap();
            let mut commit = git(&source);
            commit.args([
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "commit",
                "--quiet",
                "-m",
                "a",
            ]);
            sh::run_quiet(commit.env("GIT_COMMITTER_DATE", format!("{day}T12:00:00Z"))).unwrap();
        };
        assert!(date(&copy).is_err());
        sh::run_quiet(sh::command("git").args(["init", "--quiet"]).arg(&source)).unwrap();
        commit("one", "2026-01-01");
        bring(source.as_os_str(), &copy).unwrap();
        commit("two", "2026-01-02");
        bring(source.as_os_str(), &copy).unwrap();
        assert_eq!(std::fs::read_to_string(copy.join("a.md")).unwrap(), "two");
        assert_eq!(date(&copy).unwrap(), "2026-01-02");
        assert!(bring(OsStr::new("/nowhere/at/all"), &copy).is_err());
        assert_eq!(date(&copy).unwrap(), "2026-01-02", "what was there stays");
    }
}
