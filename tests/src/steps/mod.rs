//! The steps of a program: every system call by which it, or a process that it starts, changes files below a directory. Each
//! is seen before it happens, and then happens, fails, is left out, or is the last.
//!
//! The program is the one that ships: it has no switch for this and does not know of it. Nothing that writes can go by unseen, be
//! it a library's or SQLite's own. The kernel stops the process at each such call and asks (seccomp(2), "user notification").

mod calls;
mod listener;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use calls::Kind;
use listener::{Answer, Listener, Stopped};

use crate::program::{Finished, finish_child};

/// Which calls are steps.
#[derive(Clone, Debug)]
pub struct Watched {
    below: PathBuf,
    is_with_mounts: bool,
}

/// A call that is about to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The first has the number 1.
    pub number: usize,
    /// What it does.
    pub kind: Kind,
    /// The file it is about; of a rename and a link the new name. Empty where it names none.
    pub path: PathBuf,
    /// Whether a directory is synced.
    pub is_directory: bool,
    /// The process that does it.
    pub process: Pid,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It happens.
    Happens,
    /// It does not happen, and the program is told that it did.
    IsLeftOut,
    /// It does not happen, and the program is told so.
    Fails(Errno),
    /// It does not happen, because its process is killed before.
    KillsBefore,
}

/// A program that was watched, and has ended.
pub struct Ended {
    /// How it ended, and what it said.
    pub finished: Finished,
    /// What it did, or was about to do.
    pub steps: Vec<Step>,
    /// Answers for what it has left running.
    watcher: JoinHandle<()>,
}

impl Watched {
    /// What changes files below `directory`.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        Self {
            below: directory.to_owned(),
            is_with_mounts: false,
        }
    }

    /// As [`Watched::below`], and what changes mounts or starts processes.
    #[must_use]
    pub fn with_mounts(directory: &Path) -> Self {
        Self {
            is_with_mounts: true,
            ..Self::below(directory)
        }
    }

    /// The step that a stopped process is at, if it is one.
    fn step(&self, stopped: &Stopped) -> Option<Step> {
        let kind = stopped.call.kind;
        let path = stopped.path().unwrap_or_default();
        let is_watched = match kind {
            Kind::Mount | Kind::Start => self.is_with_mounts,
            _ => path.starts_with(&self.below),
        };
        is_watched.then(|| Step {
            number: 0,
            kind,
            // Of what is mounted by the stopped process nothing may be asked: it would have to answer.
            is_directory: kind == Kind::Sync && path.is_dir(),
            path,
            process: process_of(stopped.thread),
        })
    }
}

/// Runs `command` to its end; `judge` says what becomes of each of its steps.
///
/// # Panics
/// When it cannot be started or watched.
pub fn run(command: &mut Command, watched: Watched, judge: impl FnMut(&Step) -> Verdict + Send + 'static) -> Ended {
    let place = listener::watch(command).unwrap();
    let shown = format!("{command:?}");
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let listener = Listener::receive(&place).unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let watcher = std::thread::spawn({
        let steps = Arc::clone(&steps);
        move || watch(&listener, &watched, &steps, judge)
    });
    let finished = finish_child(child, shown);
    let steps = steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ended {
        finished,
        steps,
        watcher,
    }
}

/// Runs `command` up to the step with this number, before which its process is killed. Says what happened, whether it got so far
/// or not.
pub fn run_until(command: &mut Command, watched: Watched, last: usize) -> Ended {
    run(command, watched, move |step| match step.number == last {
        true => Verdict::KillsBefore,
        false => Verdict::Happens,
    })
}

/// Set, it makes [`spread`] leave out no step.
const ALL_STEPS_VARIABLE: &str = "ENVFS_TEST_ALL_STEPS";

/// The numbers of some `at_most` steps of `count`, evenly spread; of all of them where the variable says so.
#[must_use]
pub fn spread(count: usize, at_most: usize) -> Vec<usize> {
    let stride = match std::env::var_os(ALL_STEPS_VARIABLE) {
        Some(_) => 1,
        None => count.div_ceil(at_most).max(1),
    };
    (1..=count).step_by(stride).collect()
}

impl Ended {
    /// Waits for everything that the program has left running.
    ///
    /// # Panics
    /// When watching failed.
    pub fn wait_for_all(self) {
        self.watcher.join().unwrap();
    }
}

fn watch(
    listener: &Listener,
    watched: &Watched,
    steps: &Mutex<Vec<Step>>,
    mut judge: impl FnMut(&Step) -> Verdict + Send,
) {
    let mut count = 0;
    while let Some(stopped) = listener.next().unwrap() {
        let verdict = match watched.step(&stopped) {
            None => Verdict::Happens,
            Some(step) => {
                count += 1;
                let step = Step { number: count, ..step };
                let verdict = judge(&step);
                let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
                steps.push(step);
                verdict
            }
        };
        let answer = match verdict {
            Verdict::Happens => Answer::GoOn,
            Verdict::IsLeftOut => Answer::Pretend,
            Verdict::Fails(errno) => Answer::Fail(errno),
            Verdict::KillsBefore => {
                // Without an answer: one that is given while it dies could let the call happen.
                let _ = kill(process_of(stopped.thread), Signal::SIGKILL);
                continue;
            }
        };
        listener.answer(&stopped, answer).unwrap();
    }
}

/// The process that a thread is of.
fn process_of(thread: u32) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let process = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    Pid::from_raw(process.unwrap_or(thread.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(directory);
        command
    }

    const SCRIPT: &str = "echo a > a; mkdir b; mv a b/c; rm b/c; echo done";

    #[test]
    fn what_a_program_does_is_seen_and_can_be_cut_refused_and_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let watched = || Watched::below(directory.path());
        let whole = run(&mut shell(SCRIPT, directory.path()), watched(), |_| Verdict::Happens);
        assert_eq!(whole.finished.stdout, "done\n", "{}", whole.finished);
        let done: Vec<(Kind, PathBuf)> = whole.steps.iter().map(|step| (step.kind, step.path.clone())).collect();
        let at = |name: &str| directory.path().join(name);
        let expected = [
            (Kind::Create, at("a")),
            (Kind::Write, at("a")),
            (Kind::Directory, at("b")),
            (Kind::Rename, at("b/c")),
            (Kind::Remove, at("b/c")),
        ];
        assert_eq!(done, expected);
        whole.wait_for_all();

        std::fs::remove_dir(at("b")).unwrap();
        let cut = run_until(&mut shell("echo a > a; exec mkdir b", directory.path()), watched(), 3);
        assert!(cut.finished.status.code().is_none(), "{}", cut.finished);
        assert!(at("a").exists() && !at("b").exists());

        let refused = run(&mut shell("mkdir b || echo no", directory.path()), watched(), |_| {
            Verdict::Fails(Errno::ENOSPC)
        });
        assert_eq!(refused.finished.stdout, "no\n", "{}", refused.finished);
        assert!(
            refused.finished.stderr.contains("No space left"),
            "{}",
            refused.finished
        );

        let left_out = run(&mut shell("mkdir b && echo yes", directory.path()), watched(), |_| {
            Verdict::IsLeftOut
        });
        assert_eq!(left_out.finished.stdout, "yes\n", "{}", left_out.finished);
        assert!(!at("b").exists());
    }
}
