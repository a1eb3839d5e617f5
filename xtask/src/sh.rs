//! Running other programs, and the paths of this repository.
//!
//! Every failure names the command as a person would type it, its exit status and what it printed. This room knows no
//! particular program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_path_buf()
}

/// The target directory that cargo uses here.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// Says on stderr what is about to happen.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// A command that runs in the workspace's root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command whose output the person sees.
///
/// # Errors
/// When it cannot be started or ends with another status than 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` ended with {}", shown(command), ended(status));
    }
    Ok(())
}

/// Runs a command whose output matters only if it fails.
///
/// # Errors
/// As [`run`], with what it printed.
pub(crate) fn run_quiet(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command and returns its stdout as text, without the newline at the end.
///
/// # Errors
/// As [`run`], with what it printed.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let text = String::from_utf8(output.stdout).with_context(|| format!("`{}` did not print UTF-8", shown(command)))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Runs a command and returns both of its outputs.
///
/// # Errors
/// As [`run`], with what it printed.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let printed = [tail(&stdout), tail(&stderr)].join("\n");
        bail!(
            "`{}` ended with {}:\n{}",
            shown(command),
            ended(output.status),
            printed.trim()
        );
    }
    Ok(output)
}

/// Runs a command quietly and returns how long it took.
///
/// # Errors
/// As [`run_quiet`].
pub(crate) fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    run_quiet(command)?;
    Ok(start.elapsed())
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// One word, quoted for a shell where it needs to be.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@%<>[]*!~".contains(c);
    let safe = |c: char| plain(c) && !"<>*!~[]".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The full path of a program on PATH (and in the places where system programs are that are not on a user's PATH).
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", shown(command))
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// The last lines of what a program printed.
fn tail(text: &str) -> String {
    const SHOWN_LINES: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_its_code_and_its_words() {
        let error = run_quiet(command("sh").args(["-c", "echo too bad >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c 'echo too bad >&2; exit 3'"), "{error}");
        assert!(error.contains("exit code 3") && error.contains("\ntoo bad"), "{error}");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("python=3.11"), "python=3.11");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
