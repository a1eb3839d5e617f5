//! The built `envfs`, run as people run it, in a store and a home of its own.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use envfs_store::Store;
use envfs_store::digest::Digest;
use serde_json::Value;
use tempfile::TempDir;

use crate::user::Who;

/// A temporary directory with a store and a home, and the program to use them.
pub struct Envfs {
    directory: TempDir,
    program: PathBuf,
    settings: Vec<(OsString, OsString)>,
    who: Who,
}

/// What a command printed and how it ended.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    shown: String,
}

/// The program, beside the running test: `target/<profile>/deps/it-...` -> `target/<profile>/envfs`.
///
/// # Panics
/// When it was not built; the message says how to build it.
#[must_use]
pub fn built_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let program = profile.join("envfs");
    assert!(
        program.is_file(),
        "{} is not built: run `cargo build -p envfs-cli` with the profile of this test first",
        program.display()
    );
    program
}

impl Envfs {
    /// An empty store.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory and looks for a program")]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("envfs-it-").tempdir().unwrap();
        std::fs::create_dir(directory.path().join("home")).unwrap();
        Self {
            directory,
            program: built_program(),
            settings: Vec::new(),
            who: Who::Tester,
        }
    }

    /// A directory that is removed with this.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The program that is run.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a copy of the program, or another version of it, from now on.
    pub fn use_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// From now on all of it is theirs, and commands are run by them.
    pub fn give_to(&mut self, who: Who) {
        self.who = who;
        who.owns(self.path());
    }

    /// Sets a variable for all commands to come.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.settings.push((name.into(), value.into()));
    }

    /// Where the store is.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.path().join("store")
    }

    /// The store, opened by this process.
    ///
    /// # Panics
    /// When it cannot be opened.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::open(&self.store_path()).unwrap()
    }

    /// A command of the program, with nothing of the tester's own settings.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path().join("home"))
            .env("ENVFS_STORE", self.store_path())
            .env("LC_ALL", "C.UTF-8")
            // Most packages of tests are not whole; those that are, are compared with installers that compile nothing.
            .env("ENVFS_NO_PYC", "1")
            .envs(self.settings.iter().cloned())
            .current_dir(self.path())
            .stdin(Stdio::null());
        self.who.runs(&mut command);
        command
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        let mut command = self.command();
        command.args(arguments);
        finish(&mut command)
    }

    /// Runs the program to its end, and says how many bytes of memory it had at most.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn measure<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> (Finished, u64) {
        // A process of its own is asked, so that children of other tests do not count.
        let script = "import resource, subprocess, sys\nended = subprocess.run(sys.argv[2:]).returncode\n\
                      open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))\nsys.exit(ended)";
        let program = self.command();
        let peak = self.path().join("peak");
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&peak).arg(program.get_program());
        python.args(arguments).env_clear().current_dir(self.path());
        python.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let finished = finish(&mut python);
        let peak_kib: u64 = std::fs::read_to_string(&peak).unwrap().parse().unwrap();
        (finished, peak_kib << 10)
    }

    /// Runs the program, which must succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        self.try_run(arguments).success()
    }

    /// Runs the program with `--json`, which must succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it fails or prints something else.
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        let mut command = self.command();
        command.arg("--json").args(arguments);
        serde_json::from_str(&finish(&mut command).success()).unwrap()
    }

    /// Builds, which must succeed, and returns the signature.
    ///
    /// # Panics
    /// When it fails.
    pub fn build<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Digest {
        let mut command = self.command();
        command.arg("build").args(arguments);
        finish(&mut command).success().trim().parse().unwrap()
    }

    /// Writes a file beside the store.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Everything in the store is what its name says, and no draft is left of builds that have ended.
    ///
    /// # Panics
    /// When something is damaged or left over.
    pub fn assert_sound(&self) {
        let verified = self.json(["store", "verify"]);
        assert_eq!(verified["damaged"], serde_json::json!([]));
        let left = files_below(&self.store_path().join("tmp"));
        assert!(left.is_empty(), "left in tmp: {left:?}");
    }

    /// Nothing was built: no environment is listed, no layer published, and the rest is sound.
    ///
    /// # Panics
    /// When there is something.
    pub fn assert_nothing_built(&self) {
        assert_eq!(self.json(["ls"]), serde_json::json!([]));
        assert_eq!(files_below(&self.store_path().join("layers")), Vec::<PathBuf>::new());
        self.assert_sound();
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    finished(&output, format!("{command:?}"))
}

/// Waits for a process that was started with its outputs piped; `shown` is how its command is shown.
///
/// # Panics
/// When it cannot be waited for.
#[must_use]
pub fn finish_child(child: Child, shown: String) -> Finished {
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    finished(&output, shown)
}

fn finished(output: &Output, shown: String) -> Finished {
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        shown,
    }
}

impl Finished {
    /// What it printed.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    #[allow(clippy::must_use_candidate, reason = "some only want to know that it succeeded")]
    pub fn success(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// The message of a refusal.
    ///
    /// # Panics
    /// When it did not end with `code`, printed a result, or does not say all of `parts` after `error: `.
    #[track_caller]
    pub fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self}");
        assert!(self.stderr.contains("error: "), "{self}");
        assert_eq!(self.stdout, "", "{self}");
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing: {self}");
        }
        assert!(!self.stderr.contains("panicked"), "{self}");
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n{}\nstdout:\n{}\nstderr:\n{}",
            self.shown, self.status, self.stdout, self.stderr
        )
    }
}

/// Files and directories in `directory`; none where there is no directory.
#[must_use]
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The first line that a program says whose output is piped.
///
/// # Panics
/// When it says nothing.
#[must_use]
pub fn first_line(child: &mut Child) -> String {
    let mut told = String::new();
    let output = child.stdout.as_mut().unwrap();
    BufReader::new(output).read_line(&mut told).unwrap();
    told.trim().to_owned()
}
