//! `envfs migrate`: many environments come into the store by a plan, each by itself, with a report.
//!
//! Every environment is the work of processes of their own, so that none can take others down. What became of it is written
//! when it is done, in one step: whoever starts again after a kill does what is not done.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use envfs_solver::Requested;
use envfs_store::Digest;
use envfs_store::environment::{self, PackageKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::plan::{self, How, Planned, word};

/// How much of what a failed command said is kept: its last lines say why.
const MAX_REASON_BYTES: usize = 4096;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs migrate plan.toml\n  \
    envfs migrate plan.toml --jobs 4 --report /srv/report\n\n\
    A plan:\n  \
    tag = \"qa\"                                       # names are NAME:qa\n  \
    [environments.science]\n  \
    how = \"import\"                                   # from its directory, as it is\n  \
    prefix = \"/opt/conda/envs/science\"\n  \
    smoke = [\"python\", \"-c\", \"import numpy\"]         # must succeed in it\n  \
    [environments.web]\n  \
    how = \"replicate\"                                # from a lock\n  \
    lock = \"web/pixi.lock\"\n  \
    [environments.old]\n  \
    how = \"resolve\"                                  # again, without builds: from `spec`, or as `prefix` was asked for\n  \
    prefix = \"/opt/conda/envs/old\"\n  \
    [environments.rest]\n  \
    how = \"export\"                                   # only write down what it asks for\n  \
    prefix = \"/opt/conda/envs/rest\"\n\n\
    Nothing becomes `current`: look at the report, then `envfs promote science:qa science:current`. Started again, it does what is \
    not done or has failed. The exit code is 1 if something failed.")]
pub(crate) struct MigrateArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Where report.md, report.json and what became of each environment are written [default: PLAN without .toml, and -report]
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// How many environments at a time
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
}

/// What became of an environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    name: String,
    how: How,
    /// The digest of its part of the plan: another plan is another task.
    task: String,
    succeeded: bool,
    reason: Option<String>,
    /// The name that stands for it.
    tagged: Option<String>,
    signature: Option<String>,
    /// How it differs from the environment that it was, in lines.
    differs: Vec<String>,
    /// What it held as a directory, if that was looked at, in bytes.
    prefix_bytes: Option<u64>,
    /// What it added to the store.
    new_bytes: u64,
    /// Whether its smoke command succeeded; none: it has none.
    smoke: Option<bool>,
    seconds: f64,
}

pub(crate) fn execute(context: &Context, args: &MigrateArgs) -> Result<ExitCode, CliError> {
    let planned = plan::read(&args.plan)?;
    let directory = match &args.report {
        Some(directory) => directory.clone(),
        None => {
            let stem = args.plan.file_stem().unwrap_or_default().to_string_lossy();
            args.plan.with_file_name(format!("{stem}-report"))
        }
    };
    let migration = Migration { context, directory };
    output::make_directory(&migration.directory.join("environments"))?;
    let next = AtomicUsize::new(0);
    let failed = std::thread::scope(|scope| {
        let work = || -> Result<(), CliError> {
            while let Some(planned) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
                migration.advance(planned)?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..args.jobs).map(|_| scope.spawn(work)).collect();
        let mut failed = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(_) => failed = failed.or_else(|| Some(CliError::new("a worker stopped unexpectedly"))),
            }
        }
        failed
    });
    if let Some(error) = failed {
        return Err(error);
    }
    migration.report(&planned)
}

struct Migration<'a> {
    context: &'a Context,
    directory: PathBuf,
}

impl Migration<'_> {
    /// Does what is not done.
    fn advance(&self, planned: &Planned) -> Result<(), CliError> {
        if self.outcome(planned).is_some_and(|outcome| self.is_done(&outcome)) {
            return Ok(());
        }
        let started = Instant::now();
        let mut outcome = Outcome {
            name: planned.name.clone(),
            how: planned.entry.how,
            task: task(planned)?,
            succeeded: false,
            reason: None,
            tagged: None,
            signature: None,
            differs: Vec::new(),
            prefix_bytes: None,
            new_bytes: 0,
            smoke: None,
            seconds: 0.0,
        };
        match self.migrate(planned, &mut outcome) {
            Ok(()) => outcome.succeeded = true,
            Err(Failure::Environment(reason)) => outcome.reason = Some(reason),
            Err(Failure::Migration(error)) => return Err(error),
        }
        outcome.seconds = started.elapsed().as_secs_f64();
        let text = serde_json::to_vec_pretty(&outcome).map_err(std::io::Error::from)?;
        output::write_whole(&self.outcome_path(&planned.name), &text)?;
        let mark = if outcome.succeeded { "done" } else { "failed" };
        self.context.note(&format!("{mark}: {}", planned.name));
        Ok(())
    }

    fn migrate(&self, planned: &Planned, outcome: &mut Outcome) -> Result<(), Failure> {
        let entry = &planned.entry;
        let path = |place: &Option<PathBuf>| {
            place
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default()
        };
        let report = match entry.how {
            How::Export => return self.export(planned),
            How::Import => {
                let mut arguments = vec!["import".to_owned()];
                arguments.extend(entry.fetch.then(|| "--fetch".to_owned()));
                arguments.extend(entry.keep_outside.then(|| "--keep-outside".to_owned()));
                arguments.extend(["--".to_owned(), path(&entry.prefix)]);
                self.envfs(&arguments)?
            }
            How::Replicate => self.envfs(&["build".to_owned(), "--".to_owned(), path(&entry.lock)])?,
            How::Resolve => {
                let spec = match &entry.spec {
                    Some(spec) => spec.clone(),
                    None => self.written_spec(planned)?,
                };
                self.envfs(&["build".to_owned(), "--".to_owned(), spec.display().to_string()])?
            }
        };
        let signature = report["signature"].as_str().unwrap_or_default().to_owned();
        outcome.new_bytes = report["new_bytes"].as_u64().unwrap_or_default();
        outcome.prefix_bytes = report["prefix_bytes"].as_u64();
        outcome.differs = self.differences(planned, &report, &signature)?;
        outcome.signature = Some(signature.clone());
        if !entry.smoke.is_empty() {
            let mut arguments = vec!["run".to_owned(), signature.clone(), "--".to_owned()];
            arguments.extend(entry.smoke.iter().cloned());
            let passed = self.run(&arguments, false);
            outcome.smoke = Some(passed.is_ok());
            passed.map_err(|reason| reason.prefixed("its smoke command failed: "))?;
        }
        if let Some(tagged) = &planned.tagged {
            let arguments = ["name", "set", "-m", "migrated", &tagged.to_string(), &signature].map(str::to_owned);
            self.run(&arguments, false)?;
            outcome.tagged = Some(tagged.to_string());
        }
        Ok(())
    }

    /// How the environment is not what it was.
    fn differences(&self, planned: &Planned, report: &Value, signature: &str) -> Result<Vec<String>, Failure> {
        if planned.entry.how == How::Import {
            let changes = report["changes"].as_array().into_iter().flatten();
            let outside = report["outside"].as_array().into_iter().flatten();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let changed = changes.map(|change| format!("{} {}", text(&change["change"]), text(&change["path"])));
            let leads =
                outside.map(|found| format!("leads out {} to {}", text(&found["path"]), text(&found["target"])));
            return Ok(changed.chain(leads).collect());
        }
        let Some(prefix) = &planned.entry.prefix else {
            return Ok(Vec::new());
        };
        let before = Requested::of(prefix)?.installed;
        let store = self.context.store()?;
        let found = environment::find(&store, signature).map_err(CliError::from)?;
        let packages = found.all_packages(&store).map_err(CliError::from)?;
        let after: BTreeSet<(PackageKind, String, String)> = packages
            .into_iter()
            .map(|package| (package.kind, package.name, package.version))
            .collect();
        let gone = before
            .difference(&after)
            .map(|(_, name, version)| format!("- {name} {version}"));
        let new = after
            .difference(&before)
            .map(|(_, name, version)| format!("+ {name} {version}"));
        Ok(gone.chain(new).collect())
    }

    /// What a prefix was asked for, as a spec beside the report.
    fn written_spec(&self, planned: &Planned) -> Result<PathBuf, Failure> {
        let prefix = planned.entry.prefix.clone().unwrap_or_default();
        let requested = Requested::of(&prefix)?;
        let directory = self.of_environment(&planned.name)?;
        let path = directory.join("environment.yml");
        output::write_whole(&path, requested.environment_yml().as_bytes())?;
        output::write_whole(&directory.join("explicit.txt"), requested.explicit().as_bytes())?;
        Ok(path)
    }

    fn export(&self, planned: &Planned) -> Result<(), Failure> {
        self.written_spec(planned).map(drop)
    }

    /// A directory for what belongs to an environment.
    fn of_environment(&self, name: &str) -> Result<PathBuf, CliError> {
        let directory = self.directory.join("environments").join(file_name(name));
        output::make_directory(&directory)?;
        Ok(directory)
    }

    fn outcome_path(&self, name: &str) -> PathBuf {
        self.directory
            .join("environments")
            .join(format!("{}.json", file_name(name)))
    }

    /// What became of it in an earlier run of the same plan.
    fn outcome(&self, planned: &Planned) -> Option<Outcome> {
        let bytes = fs::read(self.outcome_path(&planned.name)).ok()?;
        let outcome: Outcome = serde_json::from_slice(&bytes).ok()?;
        (outcome.task == task(planned).ok()?).then_some(outcome)
    }

    fn is_done(&self, outcome: &Outcome) -> bool {
        let Some(signature) = &outcome.signature else {
            return outcome.succeeded;
        };
        let store = self.context.store().ok();
        let signature: Option<Digest> = signature.parse().ok();
        let is_there = store.zip(signature).is_some_and(|(store, signature)| {
            environment::get(&store, &signature).is_ok_and(|environment| environment.is_some())
        });
        outcome.succeeded && is_there
    }

    /// What a command of ours reports.
    fn envfs(&self, arguments: &[String]) -> Result<Value, Failure> {
        let text = self.run(arguments, true)?;
        serde_json::from_str(&text).map_err(|error| Failure::Environment(format!("its report cannot be read: {error}")))
    }

    fn run(&self, arguments: &[String], json: bool) -> Result<String, Failure> {
        let mut command = Command::new(std::env::current_exe().map_err(CliError::from)?);
        command.arg("--quiet").arg("--store").arg(self.context.store_path()?);
        if self.context.global.offline {
            command.arg("--offline");
        }
        if json {
            command.arg("--json");
        }
        let output = command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(CliError::from)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut start = said.len().saturating_sub(MAX_REASON_BYTES);
        while !said.is_char_boundary(start) {
            start += 1;
        }
        let reason = said[start..].trim();
        Err(Failure::Environment(match reason {
            "" => format!("`envfs {}` ended with {}", arguments.join(" "), output.status),
            reason => reason.strip_prefix("error: ").unwrap_or(reason).to_owned(),
        }))
    }

    fn report(&self, planned: &[Planned]) -> Result<ExitCode, CliError> {
        let outcomes: Vec<Outcome> = planned.iter().filter_map(|planned| self.outcome(planned)).collect();
        let text = serde_json::to_vec_pretty(&outcomes).map_err(std::io::Error::from)?;
        output::write_whole(&self.directory.join("report.json"), &text)?;
        output::write_whole(&self.directory.join("report.md"), markdown(&outcomes).as_bytes())?;
        let failed = outcomes.iter().filter(|outcome| !outcome.succeeded).count();
        if self.context.json {
            self.context.print_json(&outcomes)?;
        } else {
            output::line(&self.directory.join("report.md").display().to_string())?;
        }
        if failed == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let message = format!(
            "{failed} of {} failed",
            output::count(outcomes.len() as u64, "environment")
        );
        Err(CliError::new(message).help(format!(
            "{} says why; started again, only these are done",
            self.directory.join("report.md").display()
        )))
    }
}

/// Why an environment, or the whole, does not go on.
enum Failure {
    Environment(String),
    Migration(CliError),
}

impl Failure {
    fn prefixed(self, with: &str) -> Self {
        match self {
            Self::Environment(reason) => Self::Environment(format!("{with}{reason}")),
            other => other,
        }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::Migration(error)
    }
}

impl From<envfs_solver::ImportError> for Failure {
    fn from(error: envfs_solver::ImportError) -> Self {
        Self::Environment(error.to_string())
    }
}

/// What identifies a task of a plan.
fn task(planned: &Planned) -> Result<String, CliError> {
    let text = serde_json::to_vec(planned).map_err(std::io::Error::from)?;
    Ok(Digest::of(&text).to_string())
}

/// A name as one component of a path.
fn file_name(name: &str) -> String {
    name.replace('/', "__")
}

fn markdown(outcomes: &[Outcome]) -> String {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.succeeded).collect();
    let new_bytes = outcomes.iter().map(|outcome| outcome.new_bytes).sum();
    let mut text = format!(
        "# Migration\n\n{} of {} succeeded; {} new in the store.\n\n",
        outcomes.len() - failed.len(),
        output::count(outcomes.len() as u64, "environment"),
        output::bytes(new_bytes)
    );
    text += "| environment | how | | name | signature | smoke | differs | as a directory | new | seconds |\n";
    text += "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for outcome in outcomes {
        let smoke = outcome
            .smoke
            .map_or("-", |passed| if passed { "passed" } else { "failed" });
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {smoke} | {} | {} | {} | {:.1} |",
            outcome.name,
            word(outcome.how),
            if outcome.succeeded { "succeeded" } else { "failed" },
            outcome.tagged.as_deref().unwrap_or("-"),
            outcome.signature.as_ref().map_or("-", |signature| &signature[..16]),
            outcome.differs.len(),
            outcome.prefix_bytes.map_or_else(|| "-".to_owned(), output::bytes),
            output::bytes(outcome.new_bytes),
            outcome.seconds,
        );
    }
    for outcome in &failed {
        let reason = outcome.reason.as_deref().unwrap_or_default();
        let _ = write!(text, "\n## {}: failed\n\n```\n{reason}\n```\n", outcome.name);
    }
    for outcome in outcomes
        .iter()
        .filter(|outcome| outcome.succeeded && !outcome.differs.is_empty())
    {
        let _ = write!(
            text,
            "\n## {}: differs\n\n```\n{}\n```\n",
            outcome.name,
            outcome.differs.join("\n")
        );
    }
    text
}
