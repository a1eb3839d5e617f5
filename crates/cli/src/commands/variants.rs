//! `envfs variants`: the environments of a project with their signatures, and which of them have moved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use envfs_solver::{Lock, Subdir};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::solving::current_subdir;
use crate::variants::{self, Listed};

/// Some signature is not what it was.
const MOVED: u8 = 3;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs variants                                  what pixi.lock in this directory holds\n  \
    envfs variants --changed-since main             beside the lock of a git revision\n  \
    envfs variants --changed-since old.lock --json\n  \
    envfs build pixi.lock --environment ml\n\n\
    Variants are written in envfs.toml or [tool.envfs], as pixi's environments, or as extras and groups of a \
    pyproject.toml, and locked by `envfs lock -f FILE`. With --changed-since the exit code is 0 if no signature \
    has moved and 3 if some has.")]
pub(crate) struct VariantsArgs {
    /// The directory of the project, or a lock file
    #[arg(value_name = "PROJECT", default_value = ".")]
    project: PathBuf,
    /// Compare with the lock of a git revision, or with another lock file
    #[arg(long, value_name = "REV|LOCK")]
    changed_since: Option<String>,
    /// The platform [default: this machine's; `all` for every one]
    #[arg(long, value_name = "SUBDIR")]
    platform: Option<String>,
}

/// A variant beside what it was.
#[derive(Serialize)]
struct Moved {
    name: String,
    platform: String,
    change: &'static str,
    before: Option<String>,
    after: Option<String>,
}

pub(crate) fn execute(context: &Context, args: &VariantsArgs) -> Result<ExitCode, CliError> {
    let path = match args.project.is_dir() {
        true => args.project.join("pixi.lock"),
        false => args.project.clone(),
    };
    let platform = match args.platform.as_deref() {
        Some("all") => None,
        Some(named) => Some(named.parse::<Subdir>()?),
        None => Some(current_subdir()?),
    };
    let listed = variants::list(context, &Lock::read(&path)?, platform)?;
    let Some(since) = &args.changed_since else {
        return show(context, &listed);
    };
    let before = variants::list(context, &earlier(&path, since)?, platform)?;
    compare(context, before, listed)
}

fn show(context: &Context, listed: &[Listed]) -> Result<ExitCode, CliError> {
    if context.json {
        context.print_json(&listed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|variant| {
            vec![
                variant.name.clone(),
                variant.platform.clone(),
                variant.packages.to_string(),
                shown(variant.signature.as_ref()),
            ]
        })
        .collect();
    output::table(&["VARIANT", "PLATFORM", "PACKAGES", "SIGNATURE"], &[2], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn compare(context: &Context, before: Vec<Listed>, after: Vec<Listed>) -> Result<ExitCode, CliError> {
    let mut pairs: BTreeMap<(String, String), [Option<Listed>; 2]> = BTreeMap::new();
    for (index, listed) in [before, after].into_iter().enumerate() {
        for variant in listed {
            let key = (variant.name.clone(), variant.platform.clone());
            pairs.entry(key).or_default()[index] = Some(variant);
        }
    }
    let compared = pairs.into_iter().map(|((name, platform), [before, after])| Moved {
        name,
        platform,
        change: match (&before, &after) {
            (None, _) => "added",
            (_, None) => "removed",
            // Where a digest is missing nobody can say that nothing has moved.
            (Some(before), Some(after)) if before.signature.is_some() && before == after => "same",
            _ => "changed",
        },
        before: before.and_then(|variant| variant.signature),
        after: after.and_then(|variant| variant.signature),
    });
    let compared: Vec<Moved> = compared.collect();
    if context.json {
        context.print_json(&compared)?;
    } else {
        let moved = compared.iter().filter(|variant| variant.change != "same");
        let rows: Vec<Vec<String>> = moved
            .map(|variant| {
                vec![
                    variant.name.clone(),
                    variant.platform.clone(),
                    variant.change.to_owned(),
                    shown(variant.before.as_ref()),
                    shown(variant.after.as_ref()),
                ]
            })
            .collect();
        output::table(&["VARIANT", "PLATFORM", "CHANGE", "BEFORE", "AFTER"], &[], &rows)?;
    }
    let has_moved = compared.iter().any(|variant| variant.change != "same");
    Ok(ExitCode::from(if has_moved { MOVED } else { 0 }))
}

/// The lock as it was: a file, or that of a revision.
fn earlier(path: &Path, since: &str) -> Result<Lock, CliError> {
    if Path::new(since).is_file() {
        return Ok(Lock::read(Path::new(since))?);
    }
    if since.starts_with('-') {
        return Err(CliError::usage(format!("`{since}` is no revision")));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let shown = Command::new("git")
        .arg("-C")
        .arg(directory.unwrap_or(Path::new(".")))
        .args(["show", &format!("{since}:./{name}")])
        .output()
        .map_err(|error| CliError::new("git cannot be run").because(error.to_string()))?;
    if !shown.status.success() {
        let reason = String::from_utf8_lossy(&shown.stderr).trim().to_owned();
        let message = format!("`{since}` is neither a lock file nor a revision that has {name}");
        return Err(CliError::new(message).because(reason));
    }
    Ok(Lock::parse(&String::from_utf8_lossy(&shown.stdout), path)?)
}

fn shown(signature: Option<&String>) -> String {
    signature.map_or_else(|| "-".to_owned(), |signature| signature[..16].to_owned())
}
