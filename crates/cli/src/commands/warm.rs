//! `envfs warm`: environments that are there before they are asked for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envfs_fuse::serve::Bring;
use envfs_fuse::warm::{self as mounts, Primed, WarmError};
use envfs_store::environment::{self, Environment};
use envfs_store::lease::LeaseKind;
use envfs_store::warm::{self, Until, WarmRecord};
use envfs_store::{Digest, Store};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::serving::service;
use crate::{known, metadata, output, units};

/// How often what is idle and what was used lately are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// What the servers of idle mounts may take together. Those that the kernel serves take nothing.
const IDLE_MEMORY_BYTES: u64 = 512 << 20;

/// Of how many bytes of an environment's files the kernel is asked to have them in memory.
const DEFAULT_MEMORY_MIB: u64 = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs warm 3fb1c2d4                    until `envfs warm --stop 3fb1c2d4`\n  \
    envfs warm --queue 10                  the 10 that were used last, in the background\n  \
    envfs warm --queue 10 --foreground     the same for a service manager (dist/envfs-warm.service)\n  \
    envfs warm                             list them\n  \
    envfs warm --stop                      all of them, and what looks after them\n\n\
    A warm environment is seen by all who may see mounts of this user. It is read-only like any other, and is not \
    taken away while a command uses it.")]
pub(crate) struct WarmArgs {
    /// Signatures, names, lock files or specs
    #[arg(value_name = "ENV")]
    environments: Vec<String>,
    /// Keep so many of those that were used last
    #[arg(long, value_name = "N", conflicts_with_all = ["environments", "stop"])]
    queue: Option<usize>,
    /// Stay, and look after the queue
    #[arg(long, requires = "queue")]
    foreground: bool,
    /// Unmount the environments that are named, or all, unless they are in use
    #[arg(long)]
    stop: bool,
    /// Bring so many MiB of files of each environment into memory
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_MEMORY_MIB)]
    memory: u64,
    /// Look after what is mounted until nothing is left: started by `envfs run --idle`
    #[arg(long, hide = true)]
    tend: bool,
    /// Only mount, until nobody has used it for so long: started by `envfs serve` and `envfs run --idle`
    #[arg(long, hide = true, value_name = "SPAN", value_parser = units::span, requires = "environments")]
    idle: Option<Duration>,
}

#[derive(Serialize)]
struct Row {
    signature: Digest,
    mount_point: PathBuf,
    mounted: bool,
    #[serde(flatten)]
    until: Until,
    /// Since when nobody has used it.
    idle_seconds: u64,
}

#[derive(Serialize)]
struct Warmed {
    signature: Digest,
    mount_point: PathBuf,
    /// What serves it; none if it was mounted before.
    backend: Option<&'static str>,
    names: u64,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn execute(context: &Context, args: &WarmArgs) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    if args.stop {
        return stop(context, &store, &args.environments);
    }
    if let Some(count) = args.queue {
        return match args.foreground {
            true => tend(context, &store, Some(count), args.memory),
            false => start_tending(
                context,
                &["--queue", &count.to_string(), "--memory", &args.memory.to_string()],
            ),
        };
    }
    if args.tend {
        return tend(context, &store, None, args.memory);
    }
    if args.environments.is_empty() {
        return list(context, &store);
    }
    if let Some(idle) = args.idle {
        return leave_mounted(context, &store, &args.environments, idle);
    }
    let mut warmed = Vec::new();
    for text in &args.environments {
        let environment = known::environment(context, text)?;
        warmed.push(keep(&store, &environment, Until::Stopped, args.memory)?);
    }
    if context.json {
        context.print_json(&warmed)?;
    } else {
        for one in &warmed {
            context.note(&format!(
                "{} is at {}: {} and {} of files in memory in {:.2} s",
                &one.signature.to_string()[..16],
                one.mount_point.display(),
                output::count(one.names, "name"),
                output::bytes(one.bytes),
                one.seconds,
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts a process that looks after mounts, unless one does already. It outlives this one.
fn start_tending(context: &Context, arguments: &[&str]) -> Result<ExitCode, CliError> {
    let store = context.store()?;
    let uid = nix::unistd::getuid().as_raw();
    let is_queue = arguments.contains(&"--queue");
    if let Some(pid) = warm::tender_pid(&store, uid) {
        if !is_queue {
            return Ok(ExitCode::SUCCESS);
        }
        // A queue of another length takes its place.
        end(pid);
    }
    let mut command = context.this_program()?;
    command.arg("--quiet").arg("warm").args(arguments);
    command.arg(if is_queue { "--foreground" } else { "--tend" });
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(ExitCode::SUCCESS)
}

/// Mounts an environment at its place, keeps it, and brings it into memory.
fn keep(store: &Store, environment: &Environment, until: Until, memory_mib: u64) -> Result<Warmed, CliError> {
    let started = Instant::now();
    let place = envfs_fuse::private_prefix(store, &environment.signature);
    let service = service(store, environment, &place, LeaseKind::Mount)?;
    let (found, backend) = mounts::keep(&service, until)?;
    let Primed { names, bytes } = mounts::prime(&found.mount_point, memory_mib << 20)?;
    Ok(Warmed {
        signature: environment.signature,
        mount_point: found.mount_point,
        backend: backend.map(envfs_fuse::backend::Backend::name),
        names,
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Mounts environments at their places, until nobody has used them for so long.
fn leave_mounted(context: &Context, store: &Store, named: &[String], idle: Duration) -> Result<ExitCode, CliError> {
    for text in named {
        let environment = known::environment(context, text)?;
        metadata::used(store, &environment);
        let place = envfs_fuse::private_prefix(store, &environment.signature);
        let service = service(store, &environment, &place, LeaseKind::Mount)?;
        mounts::keep(&service, Until::Idle { idle_s: idle.as_secs() })?;
    }
    start_tending(context, &[])
}

/// Mounts an environment until nobody has used it for so long, by a process of its own: whoever becomes a command must have no children
/// that it does not know of, and who has threads cannot fork.
pub(crate) fn leave_mounted_by_child(context: &Context, idle: Duration) -> Result<Bring, CliError> {
    let program = context.this_program()?;
    let words: Vec<_> = program.get_args().map(ToOwned::to_owned).collect();
    let program = program.get_program().to_owned();
    let idle = format!("--idle={}s", idle.as_secs());
    Ok(Arc::new(move |signature: &Digest| {
        let mut command = Command::new(&program);
        command.args(&words).args(["--quiet", "warm", &idle]);
        command.arg(signature.to_string()).current_dir("/").stdin(Stdio::null());
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }))
}

/// Looks after mounts: those of the queue come and go with what was used last, idle ones go. Without a queue it ends with the
/// last mount.
fn tend(context: &Context, store: &Store, queue: Option<usize>, memory_mib: u64) -> Result<ExitCode, CliError> {
    // The terminal that started this may be closed, and whoever waits for a pipe or a lock of theirs must not wait for this.
    let _ = nix::unistd::setsid();
    // A server that was started in the place of a killed one holds signals back, and so does what it starts: `--stop` ends this by one.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    envfs_fuse::close_inherited_descriptors()?;
    let uid = nix::unistd::getuid().as_raw();
    let Some(_tender) = wait_for_turn(store, uid, queue.is_some())? else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut idle = mounts::Idle::default();
    loop {
        if let Some(count) = queue {
            follow(context, store, uid, count, memory_mib)?;
        }
        let left = mounts::tidy(store, IDLE_MEMORY_BYTES, &mut idle)?;
        if left == 0 && queue.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The right to look after the mounts. A queue waits until the process whose place it takes has ended.
fn wait_for_turn(store: &Store, uid: u32, is_queue: bool) -> Result<Option<envfs_store::lock::FileLock>, CliError> {
    for _ in 0..100 {
        if let Some(tender) = warm::tender(store, uid)? {
            return Ok(Some(tender));
        }
        if !is_queue {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(tended().help("`envfs warm --stop` ends it"))
}

/// Ends whoever looks after the mounts, also one that begins when another ends: then nothing is mounted behind our back.
fn end_tenders(store: &Store, uid: u32) -> Result<(), CliError> {
    if warm::tender_pid(store, uid).is_none() {
        return Ok(());
    }
    for _ in 0..100 {
        // Whoever takes the turn of one that has ended removes its file.
        if warm::tender(store, uid)?.is_some() {
            return Ok(());
        }
        if let Some(pid) = warm::tender_pid(store, uid) {
            end(pid);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(tended().help("it does not end: `envfs ps` shows what is mounted"))
}

fn tended() -> CliError {
    CliError::new("another process looks after the warm environments of this user")
}

/// Mounts what was used lately, and takes away what others have outrun.
fn follow(context: &Context, store: &Store, uid: u32, count: usize, memory_mib: u64) -> Result<(), CliError> {
    let Some(index) = metadata::open(context, store) else {
        return Err(CliError::new("the store has no index, which tells what was used last")
            .help("name the environments instead: `envfs warm <ENV>...`"));
    };
    let wanted: HashSet<Digest> = index.latest(count)?.into_iter().collect();
    let kept = warm::list(store, uid)?;
    for record in kept.iter().filter(|record| record.until == Until::Outrun) {
        if !wanted.contains(&record.signature)
            && let Err(error) = mounts::stop(store, record)
        {
            tracing::info!("{error}");
        }
    }
    for signature in wanted {
        let is_kept = |record: &WarmRecord| record.signature == signature && mounts::is_mounted(&record.mount_point);
        let is_pinned = |record: &WarmRecord| matches!(record.until, Until::Stopped | Until::Outrun);
        if kept.iter().any(|record| is_kept(record) && is_pinned(record)) {
            continue;
        }
        // It may have been collected.
        let Some(environment) = environment::get(store, &signature)? else {
            continue;
        };
        // One that cannot be mounted must not keep the others cold.
        if let Err(error) = keep(store, &environment, Until::Outrun, memory_mib) {
            tracing::warn!("{signature} cannot be kept warm: {}", error.message());
        }
    }
    Ok(())
}

fn list(context: &Context, store: &Store) -> Result<ExitCode, CliError> {
    let records = warm::list(store, nix::unistd::getuid().as_raw())?;
    let rows: Vec<Row> = records
        .into_iter()
        .map(|record| Row {
            signature: record.signature,
            mounted: mounts::is_mounted(&record.mount_point),
            idle_seconds: record.idle(store).as_secs(),
            until: record.until,
            mount_point: record.mount_point,
        })
        .collect();
    if context.json {
        context.print_json(&rows)?;
    } else {
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        output::table(
            &["SIGNATURE", "UNTIL", "IDLE S", "MOUNTED", "MOUNT POINT"],
            &[2],
            &cells,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let until = match self.until {
            Until::Stopped => "stopped".to_owned(),
            Until::Outrun => "outrun".to_owned(),
            Until::Idle { idle_s } => format!("idle for {idle_s} s"),
        };
        vec![
            self.signature.to_string()[..16].to_owned(),
            until,
            self.idle_seconds.to_string(),
            if self.mounted { "yes" } else { "no" }.to_owned(),
            self.mount_point.display().to_string(),
        ]
    }
}

fn stop(context: &Context, store: &Store, named: &[String]) -> Result<ExitCode, CliError> {
    let uid = nix::unistd::getuid().as_raw();
    let mut chosen = HashSet::new();
    for text in named {
        chosen.insert(known::environment(context, text)?.signature);
    }
    if named.is_empty() {
        end_tenders(store, uid)?;
    }
    let mut stopped = Vec::new();
    let mut busy: Option<WarmError> = None;
    for record in warm::list(store, uid)? {
        if !named.is_empty() && !chosen.contains(&record.signature) {
            continue;
        }
        match mounts::stop(store, &record) {
            Ok(()) => stopped.push(record.mount_point),
            Err(error) => busy = Some(error),
        }
    }
    if context.json {
        context.print_json(&stopped)?;
    } else {
        stopped.iter().for_each(|path: &PathBuf| context.note(&unmounted(path)));
    }
    busy.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

fn unmounted(path: &Path) -> String {
    format!("unmounted {}", path.display())
}

fn end(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
}
