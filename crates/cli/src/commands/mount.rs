//! `envfs mount`: an environment at a directory, for everybody.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use envfs_fuse::backend::{self, Backend, Choice, UnknownBackend};
use envfs_fuse::explain::{self, Purpose, Verdict};
use envfs_fuse::mount::{self, MountOptions};
use envfs_fuse::service::Service;
use envfs_store::lease::LeaseKind;
use serde::Serialize;

use crate::context::Context;
use crate::ensuring::{self, Present};
use crate::error::CliError;
use crate::serving::service;
use crate::with::WithArgs;
use crate::{metadata, output, writable};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs mount 3fb1c2d4 /envs/x                there when the command returns\n  \
    envfs mount environment.yml ./env           builds it first, if it is not built\n  \
    envfs mount pixi.lock /envs/ml --environment ml   a variant of a project\n  \
    envfs mount 3fb1c2d4 /envs/x --with httpx   with packages on top that enter no lock\n  \
    envfs mount 3fb1c2d4 /envs/x --foreground   until ^C, for service managers and containers\n  \
    envfs mount 3fb1c2d4 /envs/x --writable     pip and conda work in it; see `envfs commit` and `envfs discard`\n  \
    envfs mount 3fb1c2d4 /envs/x --ensure       goes on if it is there, mends it if it is dead, and replaces another\n  \
    envfs mount --explain                       how it would be done here, and why not otherwise\n\n\
    Nothing is copied: the environment is as good as installed in PATH. It cannot be written to, unless --writable. \
    Only the backend `link`, for where nothing can be mounted, makes files.")]
pub(crate) struct MountArgs {
    /// A signature, a name, a lock file or an environment.yml
    #[arg(value_name = "ENV", required_unless_present = "explain")]
    environment: Option<String>,
    /// An existing empty directory
    #[arg(required_unless_present = "explain")]
    path: Option<PathBuf>,
    #[command(flatten)]
    with: WithArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Only see to it that it is there: a mount that serves it stays, one that is dead or shows another environment is replaced
    #[arg(long, conflicts_with_all = ["foreground", "writable"])]
    ensure: bool,
    /// Say which backend would be taken by `mount` and `run`, and why not the others
    #[arg(long)]
    explain: bool,
    /// Let it be written to: changes are kept apart, and the environment itself stays as it is (root only)
    #[arg(long, conflicts_with_all = ["foreground", "backend"])]
    writable: bool,
    /// Keep what is written in this directory [default: in the store]
    #[arg(long, value_name = "DIR", requires = "writable")]
    upper: Option<PathBuf>,
    /// Stay until interrupted or the directory is unmounted
    #[arg(long)]
    foreground: bool,
    /// Let other users see the files too, as root's mounts do
    #[arg(long)]
    allow_other: bool,
    /// Write what the server in the background, if there is one, has to say to this file
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    log: Option<PathBuf>,
}

/// How to serve an environment.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct BackendArgs {
    /// Serve it this way: `kernel`, `fuse`, `link`, or `auto` for the best that works
    #[arg(
        long,
        value_name = "auto|kernel|fuse|link",
        default_value = "auto",
        hide_default_value = true,
        value_parser = parse_choice
    )]
    backend: Chosen,
}

/// A choice as an argument.
#[derive(Debug, Clone, Copy)]
struct Chosen(Choice);

impl BackendArgs {
    pub(crate) fn choice(self) -> Choice {
        self.backend.0
    }
}

fn parse_choice(text: &str) -> Result<Chosen, UnknownBackend> {
    match text {
        "auto" => Ok(Chosen(None)),
        backend => Ok(Chosen(Some(backend.parse()?))),
    }
}

#[derive(Serialize)]
struct Mounted<'a> {
    signature: String,
    mount_point: &'a Path,
    backend: &'static str,
    /// Whether it was not there before.
    changed: bool,
}

#[derive(Serialize)]
struct Explained {
    mount: Vec<ExplainedBackend>,
    run: Vec<ExplainedBackend>,
}

#[derive(Serialize)]
struct ExplainedBackend {
    backend: &'static str,
    taken: bool,
    obstacle: Option<String>,
}

pub(crate) fn execute(context: &Context, args: &MountArgs) -> Result<ExitCode, CliError> {
    let (Some(environment), Some(path)) = (&args.environment, &args.path) else {
        return explain(context);
    };
    if args.explain {
        return explain(context);
    }
    // Before anything is built: a directory that cannot be mounted on stays one.
    if args.writable {
        writable::check_mount()?;
    }
    let choice = args.backend.choice();
    let (mut alone, present) = match args.ensure {
        true => {
            let store = context.store()?;
            (ensuring::alone_at(&store, path)?, Present::find(&store, path)?)
        }
        false => (None, None),
    };
    let mount_point = match &present {
        Some(present) => present.mount_point().to_owned(),
        None => mount::check_mount_point(path)?,
    };
    let environment = args.with.environment(context, environment)?;
    let store = context.store()?;
    context.claim_at(&store, &environment.signature, &mount_point)?;
    metadata::used(&store, &environment);
    let service = service(&store, &environment, &mount_point, LeaseKind::Mount)?;
    if let Some(present) = present {
        // Not before whatever can fail of the new one has succeeded.
        if let Some(backend) = present.stay_or_go(context, (&store, &environment.signature), choice)? {
            tell(context, &service, backend, false)?;
            return Ok(ExitCode::SUCCESS);
        }
        mount::check_mount_point(&mount_point)?;
    }
    let options = MountOptions {
        signature: environment.signature,
        allow_other: args.allow_other,
    };
    if args.writable {
        writable::mount(&service, args.upper.as_deref())?;
        tell(context, &service, Backend::Kernel, true)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.foreground {
        let mut told = Ok(());
        let ready = |backend| {
            drop(alone.take());
            told = tell(context, &service, backend, true);
        };
        backend::mount_in_foreground(&service, &options, choice, ready)?;
        told?;
    } else {
        let log = output::open_log(args.log.as_deref())?;
        let backend = backend::mount_in_background(&service, &options, choice, log.as_ref())?;
        tell(context, &service, backend, true)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(context: &Context, service: &Service, backend: Backend, is_changed: bool) -> Result<(), CliError> {
    let signature = service.signature.to_string();
    if context.json {
        return context.print_json(&Mounted {
            signature,
            mount_point: &service.mount_point,
            backend: backend.name(),
            changed: is_changed,
        });
    }
    if !context.quiet {
        output::note(&format!(
            "{} {} at {} ({backend})",
            if is_changed { "mounted" } else { "already mounted:" },
            &signature[..16],
            service.mount_point.display()
        ));
    }
    Ok(())
}

fn explain(context: &Context) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let explained = [("mount", Purpose::Mount), ("run", Purpose::Run)]
        .map(|(command, purpose)| (command, explain::explain(&store, purpose)));
    if context.json {
        let [mount, run] = explained.map(|(_, verdicts)| verdicts.into_iter().map(ExplainedBackend::from).collect());
        context.print_json(&Explained { mount, run })?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = explained
        .iter()
        .flat_map(|(command, verdicts)| verdicts.iter().map(|verdict| row(command, verdict)))
        .collect();
    output::table(&["COMMAND", "BACKEND", "VERDICT"], &[], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(command: &str, verdict: &Verdict) -> Vec<String> {
    let words = match &verdict.obstacle {
        Some(obstacle) => format!("cannot: {obstacle}"),
        None if verdict.is_taken => "taken".to_owned(),
        None => "could".to_owned(),
    };
    vec![command.to_owned(), verdict.backend.to_string(), words]
}

impl From<Verdict> for ExplainedBackend {
    fn from(verdict: Verdict) -> Self {
        Self {
            backend: verdict.backend.name(),
            taken: verdict.is_taken,
            obstacle: verdict.obstacle,
        }
    }
}
