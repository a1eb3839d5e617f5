//! Running commands against the clock, dropping caches, and cleaning up after runs that were interrupted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::sh;

/// Where the kernel is told to forget what it cached (proc_sys_vm(5)).
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Runs commands one after the other; from starting the first to the end of the last.
///
/// Their outputs go to nowhere and to a file, so that a server that one of them leaves behind keeps nobody waiting.
///
/// # Errors
/// When one cannot be started or fails, with what it said.
pub(super) fn run(commands: &mut [Command]) -> Result<Duration> {
    let complaints = sh::target_dir().join("bench/stderr.txt");
    let mut took = Duration::ZERO;
    for command in commands {
        command.stdout(Stdio::null()).stderr(File::create(&complaints)?);
        let start = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", sh::shown(command)))?;
        let guard = watchdog::watch(child.id());
        let status = child.wait()?;
        took += start.elapsed();
        drop(guard);
        if !status.success() {
            let said = fs::read_to_string(&complaints).unwrap_or_default();
            let said: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).take(3).collect();
            bail!("`{}` ended with {status}: {}", spoken(command), said.join("; "));
        }
    }
    Ok(took)
}

/// Runs a command that prints how many seconds of it count.
///
/// # Errors
/// When it fails or prints something else.
pub(super) fn printed_seconds(command: &mut Command) -> Result<Duration> {
    let printed = sh::capture(command)?;
    let seconds: f64 = printed
        .trim()
        .parse()
        .with_context(|| format!("`{}` printed {printed}", spoken(command)))?;
    Ok(Duration::try_from_secs_f64(seconds)?)
}

/// Runs the same command several times at once; from starting the first to the end of the last.
///
/// # Errors
/// When one cannot be started or fails.
pub(super) fn at_once(count: usize, command: impl Fn() -> Command) -> Result<Duration> {
    let start = Instant::now();
    let children: Vec<_> = (0..count)
        .map(|_| command().stdout(Stdio::null()).stderr(Stdio::null()).spawn())
        .collect::<Result<_, _>>()
        .context("cannot start a program")?;
    for child in children {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("`{}` ended with {}", spoken(&command()), output.status);
        }
    }
    Ok(start.elapsed())
}

/// An environment's interpreter, as a person starts it.
pub(super) fn python(prefix: &Path) -> Command {
    let mut command = sh::command(prefix.join("bin/python"));
    for variable in ["PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"] {
        command.env_remove(variable);
    }
    command
}

/// Replays a trace of file-system calls below a prefix.
///
/// # Errors
/// When the replayer fails, or the files are not those of the trace.
pub(super) fn replay(replayer: &Path, trace: &Path, prefix: &Path) -> Result<Duration> {
    let mut command = sh::command(replayer);
    command.arg("replay").arg(trace).arg(prefix);
    let printed: Value = serde_json::from_str(&sh::capture(&mut command)?)?;
    let surprises = printed["surprises"].as_u64().context("no count of surprises")?;
    if surprises > 0 {
        bail!(
            "`{}`: {surprises} calls had another outcome than when recorded",
            spoken(&command)
        );
    }
    Ok(Duration::from_nanos(
        printed["nanoseconds"].as_u64().context("no nanoseconds")?,
    ))
}

/// Writes everything to disk and makes the kernel forget what it cached.
///
/// # Errors
/// When we are not root.
pub(super) fn drop_caches() -> Result<()> {
    sh::run_quiet(&mut sh::command("sync"))?;
    fs::write(DROP_CACHES, "3").with_context(|| format!("cannot write to {DROP_CACHES}: only root can"))
}

/// Unmounts everything below a directory, the last mounted first.
///
/// # Errors
/// When the list of mounts cannot be read, or something stays mounted.
pub(super) fn unmount_below(directory: &Path) -> Result<()> {
    for mount_point in mounts_below(directory)?.iter().rev() {
        sh::run_quiet(sh::command("umount").arg("--lazy").arg(mount_point))?;
    }
    Ok(())
}

/// Ends commands that would never end by themselves: a bench must.
mod watchdog {
    use std::sync::{Mutex, Once, PoisonError};
    use std::thread;
    use std::time::{Duration, Instant};

    use crate::sh;

    /// Longer than any command that is measured.
    const LONGEST: Duration = Duration::from_secs(90);
    const PAUSE: Duration = Duration::from_secs(1);

    /// The process that runs, and when it is ended.
    static WATCHED: Mutex<Option<(u32, Instant)>> = Mutex::new(None);
    static STARTED: Once = Once::new();

    /// Watches a process as long as this value lives.
    pub(super) struct Guard;

    pub(super) fn watch(pid: u32) -> Guard {
        STARTED.call_once(|| drop(thread::spawn(run)));
        *WATCHED.lock().unwrap_or_else(PoisonError::into_inner) = Some((pid, Instant::now() + LONGEST));
        Guard
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            *WATCHED.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn run() {
        loop {
            thread::sleep(PAUSE);
            let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((pid, end)) = *watched
                && Instant::now() > end
            {
                sh::say(&format!(
                    "ending process {pid}, which has run for {} s",
                    LONGEST.as_secs()
                ));
                let _ = sh::run_quiet(sh::command("kill").args(["-9", &pid.to_string()]));
            }
        }
    }
}

/// A command as a person would type it in the root of the repository.
pub(super) fn spoken(command: &Command) -> String {
    spoken_text(&sh::shown(command))
}

/// A text without the paths of this machine.
pub(super) fn spoken_text(text: &str) -> String {
    let root = format!("{}/", sh::root().display());
    text.replace(&root, "").replace(&*sh::root().to_string_lossy(), ".")
}

fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    // The fifth word is the mount point, with spaces as octal (proc_pid_mountinfo(5)).
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(directory))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_the_command_and_its_words() {
        fs::create_dir_all(sh::target_dir().join("bench")).unwrap();
        let mut failing = sh::command("sh");
        failing.args(["-c", "echo oh no >&2; exit 4"]);
        let error = run(&mut [failing]).unwrap_err().to_string();
        assert!(error.contains("oh no") && error.contains("sh -c"), "{error}");
    }

    #[test]
    fn paths_are_said_from_the_root_of_the_repository() {
        let mut command = sh::command(sh::root().join("target/x"));
        command.arg(format!("--in={}", sh::root().join("a").display()));
        assert_eq!(spoken(&command), "target/x --in=a");
    }
}
