//! `cargo xtask posix`: what others have written to try file systems, on environments that are written to.
//!
//! pjdfstest asks for what POSIX promises, as root in a mount and as an ordinary user in a run; fsx writes, maps, truncates and reads
//! a file at random. What fails must be what is listed here with its reason, no more and no less.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::crates::Crate;
use crate::envfs::{self, Envfs};
use crate::{channel, sh, system};

const PJDFSTEST: Crate = Crate {
    name: "pjdfstest",
    version: "0.2.2",
    features: None,
    program: "pjdfstest",
    is_measured: false,
};

const FSX: Crate = Crate {
    name: "fsx",
    version: "0.3.2",
    features: None,
    program: "fsx",
    is_measured: false,
};

/// Some users that every Debian has, and what Linux has of that which is not in POSIX. Two times that differ lie so many
/// seconds apart.
const PJDFSTEST_CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
[settings]
naptime = 0.05
"#;

/// Everything that fsx can do, about as often as programs do it.
const FSX_CONFIGURATION: &str = "[weights]\nclose_open = 1\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ninvalidate = 1\n\
    truncate = 5\nfsync = 1\nfdatasync = 1\nposix_fallocate = 5\n";

/// How the tests are called that fail in a mount: they make a character device with the number 0/0, which is how overlayfs notes
/// that something was removed, and so forbids (overlayfs.rst, "whiteouts and opaque directories").
const KNOWN: &str = "::char";
const KNOWN_COUNT: usize = 41;

/// What is skipped in a mount, of what is not in a plain directory: it asks how many links a file may have, which the C library
/// knows of some file systems by their kind (pathconf(3), `_PC_LINK_MAX`), and not of overlayfs.
const SKIPPED_IN_A_MOUNT: &str = "link::link_count_max";

/// The user called `nobody`.
const NOBODY_ID: u32 = 65_534;

/// How many operations fsx does, and from how many seeds.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many operations fsx does from each seed
    #[arg(long, default_value_t = 20_000)]
    operations: u32,
    /// From how many seeds
    #[arg(long, default_value_t = 5)]
    seeds: u32,
}

impl Options {
    /// What takes some seconds.
    pub(crate) const SHORT: Self = Self {
        operations: 2000,
        seeds: 2,
    };
}

/// The programs, their settings, and a place to work in.
struct Suite {
    directory: PathBuf,
    pjdfstest: PathBuf,
    fsx: PathBuf,
    binary: PathBuf,
}

/// The command.
///
/// # Errors
/// When something fails that is not known to, or does not fail any more; the message names it.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !system::is_root() {
        bail!("only root can mount writable, and be other users: run it as root");
    }
    let tools = tools();
    let channel = channel::default_dir();
    channel::ensure(&channel)?;
    // Short: the path of a socket has at most 107 bytes (unix(7)).
    let work = tempfile::Builder::new().prefix("px-").tempdir()?;
    let directory = work.path().to_path_buf();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    let suite = Suite {
        pjdfstest: PJDFSTEST.ensure(&tools)?,
        fsx: FSX.ensure(&tools)?,
        binary: envfs::build_debug()?,
        directory,
    };
    fs::write(suite.settings("pjdfstest"), PJDFSTEST_CONFIGURATION)?;
    fs::write(suite.settings("fsx"), FSX_CONFIGURATION)?;
    let url = format!("file://{}", channel.display());
    suite.in_a_mount(&url, options)?;
    suite.in_a_run_of_an_ordinary_user(&url, options)
}

/// Why none of it can be tried, where a program is not there and crates.io is not reached.
pub(crate) fn out_of_reach() -> Option<String> {
    [PJDFSTEST, FSX]
        .iter()
        .find_map(|program| program.out_of_reach(&tools()))
}

fn tools() -> PathBuf {
    sh::target_dir().join("posix")
}

impl Suite {
    fn settings(&self, program: &str) -> PathBuf {
        self.directory.join(format!("{program}.toml"))
    }

    /// Root's mount, beside a plain directory, which must fail nothing.
    fn in_a_mount(&self, channel: &str, options: &Options) -> Result<()> {
        let envfs = Envfs::new(self.binary.clone(), self.directory.join("store"));
        let signature = envfs.build(["--channel", channel, "bzip2"])?.signature;
        let [place, plain] = ["place", "plain"].map(|name| self.directory.join(name));
        fs::create_dir(&place)?;
        fs::create_dir(&plain)?;
        let words = ["mount", "--writable", &signature].map(str::to_owned);
        sh::run_quiet(envfs.command(words).arg(&place))?;
        let outcome = self.in_directories(&place.join("posix"), &plain, options);
        sh::run_quiet(envfs.command(["discard"]).arg(&place))?;
        outcome
    }

    fn in_directories(&self, inside: &Path, plain: &Path, options: &Options) -> Result<()> {
        fs::create_dir(inside)?;
        let expected = self.posix(&mut self.pjdfstest(plain))?;
        if !expected.failed.is_empty() {
            bail!("a plain directory fails too: {}", expected.failed.join(", "));
        }
        let found = self.posix(&mut self.pjdfstest(inside))?;
        let (known, unknown): (Vec<_>, Vec<_>) = found.failed.iter().partition(|name| name.ends_with(KNOWN));
        if !unknown.is_empty() || known.len() != KNOWN_COUNT {
            bail!(
                "pjdfstest in a writable mount: failed are {unknown:?}, and of {KNOWN_COUNT} known to fail {}",
                known.len()
            );
        }
        let only_here: Vec<_> = found
            .skipped
            .iter()
            .filter(|name| !expected.skipped.contains(name))
            .collect();
        if only_here.iter().any(|name| *name != SKIPPED_IN_A_MOUNT) {
            bail!("pjdfstest in a writable mount: skipped are {only_here:?}, and not in a plain directory");
        }
        sh::say(&format!(
            "pjdfstest in a writable mount: {} pass, {} fail as known (character devices 0/0), {} are skipped; in a plain \
             directory {} pass, {} are skipped",
            found.passed,
            known.len(),
            found.skipped.len(),
            expected.passed,
            expected.skipped.len()
        ));
        for seed in 0..options.seeds {
            sh::run_quiet(&mut self.fsx(inside, options.operations, seed))?;
        }
        sh::say(&format!(
            "fsx in a writable mount: {} x {} operations",
            options.seeds, options.operations
        ));
        Ok(())
    }

    /// What needs no root, where `nobody` writes.
    fn in_a_run_of_an_ordinary_user(&self, channel: &str, options: &Options) -> Result<()> {
        let home = self.directory.join("u");
        fs::create_dir(&home)?;
        chown(&home, Some(NOBODY_ID), Some(NOBODY_ID))?;
        let envfs = |words: &[&str]| {
            let mut command = sh::command("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
            command.arg(&self.binary).args(words);
            command
                .env("HOME", &home)
                .env("ENVFS_STORE", home.join("s"))
                .current_dir(&home);
            command
        };
        let signature = sh::capture(&mut envfs(&["build", "--quiet", "--channel", channel, "bzip2"]))?;
        let within = |program: &Command| {
            let mut command = envfs(&["run", "--writable", &signature, "--", "sh", "-c"]);
            let words: Vec<String> = std::iter::once(program.get_program())
                .chain(program.get_args())
                .map(|word| sh::quoted(&word.to_string_lossy()).replace("INSIDE", "\"$CONDA_PREFIX/p\""))
                .collect();
            command.arg(format!("mkdir -p \"$CONDA_PREFIX/p\" && exec {}", words.join(" ")));
            command
        };
        let found = self.posix(&mut within(&self.pjdfstest(Path::new("INSIDE"))))?;
        if !found.failed.is_empty() {
            bail!(
                "pjdfstest in a run of an ordinary user: failed are {}",
                found.failed.join(", ")
            );
        }
        sh::say(&format!(
            "pjdfstest in a writable run of an ordinary user: {} pass, the rest needs root",
            found.passed
        ));
        for seed in 0..options.seeds {
            sh::run_quiet(&mut within(&self.fsx(Path::new("INSIDE"), options.operations, seed)))?;
        }
        sh::say(&format!(
            "fsx in a run of an ordinary user: {} x {} operations",
            options.seeds, options.operations
        ));
        Ok(())
    }

    fn pjdfstest(&self, inside: &Path) -> Command {
        let mut command = sh::command(&self.pjdfstest);
        command.arg("-c").arg(self.settings("pjdfstest")).arg("-p").arg(inside);
        command
    }

    fn fsx(&self, inside: &Path, operations: u32, seed: u32) -> Command {
        let mut command = sh::command(&self.fsx);
        command
            .arg("-f")
            .arg(self.settings("fsx"))
            .args(["-N", &operations.to_string(), "-S", &seed.to_string()]);
        command.arg(inside.join(format!("fsx-{seed}")));
        command
    }

    fn posix(&self, command: &mut Command) -> Result<Outcomes> {
        let output = command
            .output()
            .with_context(|| format!("cannot start `{}`", sh::shown(command)))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let outcomes = Outcomes::parse(&printed);
        if outcomes.passed == 0 || !outcomes.is_complete() {
            bail!(
                "`{}` did not try everything to the end:\n{printed}{}",
                sh::shown(command),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(outcomes)
    }
}

/// What became of the tests of pjdfstest.
#[derive(Debug, Default, PartialEq)]
struct Outcomes {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    /// What it says at its end: how many failed, were skipped, passed.
    summary: Option<[usize; 3]>,
}

impl Outcomes {
    /// Lines such as `chmod::change_perm::fifo   ok`, with more below those that failed.
    fn parse(printed: &str) -> Self {
        let mut this = Self::default();
        for line in printed.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [name, "ok"] if name.contains("::") => this.passed += 1,
                [name, "FAILED"] if name.contains("::") => this.failed.push((*name).to_owned()),
                [name, "skipped"] if name.contains("::") => this.skipped.push((*name).to_owned()),
                ["Summary:", failed, "failed,", skipped, "skipped,", passed, ..] => {
                    let numbers = [failed, skipped, passed].map(|number| number.parse().ok());
                    this.summary = numbers
                        .into_iter()
                        .collect::<Option<Vec<_>>>()
                        .and_then(|all| all.try_into().ok());
                }
                _ => {}
            }
        }
        this
    }

    /// Whether it came to its end, and nothing that it printed was missed.
    fn is_complete(&self) -> bool {
        let counts = [self.failed.len(), self.skipped.len(), self.passed];
        self.summary.is_some_and(|said| said == counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_from_what_passed() {
        let printed = "chmod::a::fifo     ok\nunlink::b::char   FAILED\n\tcalled `Result::unwrap()`\n  6: x::y\nlink::c   skipped\n\
            Summary: 1 failed, 1 skipped, 1 passed";
        let expected = Outcomes {
            passed: 1,
            failed: vec!["unlink::b::char".to_owned()],
            skipped: vec!["link::c".to_owned()],
            summary: Some([1, 1, 1]),
        };
        assert_eq!(Outcomes::parse(printed), expected);
        assert!(expected.is_complete());
        let cut_off = Outcomes::parse(printed.split_once("Summary").unwrap().0);
        assert!(!cut_off.is_complete());
    }
}
