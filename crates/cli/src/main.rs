//! What people type. The only crate that prints, reads the environment, or exits; it decides nothing that a library
//! could decide.

mod activate;
mod args;
mod config;
mod context;
mod ensuring;
mod error;
mod known;
mod lazily;
mod limits;
mod link_scripts;
mod machine;
mod machine_python;
mod metadata;
mod naming;
mod output;
mod panics;
mod plan;
mod printable;
mod progress;
mod rebuilding;
mod recipe;
mod resolve;
mod sandbox;
mod sandboxed;
mod serving;
mod shortage;
mod solving;
mod stable;
mod surroundings;
mod units;
mod variants;
mod with;
mod writable;

mod commands;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Arguments, Command};
use crate::context::{Context, Global};
use crate::error::CliError;

fn main() -> ExitCode {
    let arguments = Arguments::typed();
    start_log(&arguments.global);
    panics::tell_of_shortages();
    let context = Context::new(arguments.global);
    match dispatch(&context, &arguments.command) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn dispatch(context: &Context, command: &Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Lock(args) => commands::lock::execute(context, args),
        Command::Build(args) => commands::build::execute(context, args),
        Command::Ensure(args) => commands::ensure::execute(context, args),
        Command::Export(args) => commands::export::execute(context, args),
        Command::Import(args) => commands::import::execute(context, args),
        Command::Migrate(args) => commands::migrate::execute(context, args),
        Command::Mount(args) => commands::mount::execute(context, args),
        Command::Umount(args) => commands::umount::execute(context, args),
        Command::Commit(args) => commands::commit::execute(context, args),
        Command::Discard(args) => commands::discard::execute(context, args),
        Command::Run(args) => commands::run::execute(context, args),
        Command::Kernel(args) => commands::kernel::execute(context, args),
        Command::Warm(args) => commands::warm::execute(context, args),
        Command::Serve(args) => commands::serve::execute(context, args),
        Command::Ls(args) => commands::ls::execute(context, args),
        Command::Ps(args) => commands::ps::execute(context, args),
        Command::Show(args) => commands::show::execute(context, args),
        Command::Diff(args) => commands::diff::execute(context, args),
        Command::Trace(args) => commands::trace::execute(context, args),
        Command::Name(args) => commands::name::execute(context, args),
        Command::Promote(args) => commands::promote::execute(context, args),
        Command::Rollback(args) => commands::rollback::execute(context, args),
        Command::Pin(args) => commands::pin::execute(context, args),
        Command::Owner(args) => commands::owner::execute(context, args),
        Command::Gc(args) => commands::gc::execute(context, args),
        Command::Why(args) => commands::why::execute(context, args),
        Command::Du(args) => commands::du::execute(context, args),
        Command::Config(args) => commands::config::execute(context, args),
        Command::Verify(args) => commands::verify::execute(context, args),
        Command::Store(args) => commands::store::execute(context, args),
        Command::RunInSandbox => sandboxed::execute(),
        Command::BuildInSandbox(args) => sandbox::execute(context, args),
        Command::Variants(args) => commands::variants::execute(context, args),
        Command::Version => commands::version::execute(context),
    }
}

/// What libraries have to tell goes to standard error, where `-v` or `ENVFS_LOG` asks for it.
fn start_log(global: &Global) {
    let level = match global.verbose {
        0 => LevelFilter::ERROR,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(global.verbose > 1)
        .without_time();
    match EnvFilter::try_from_env("ENVFS_LOG") {
        Ok(filter) => log.with_env_filter(filter).init(),
        // The way of nearly all, which costs nothing.
        Err(_) => log.with_max_level(level).init(),
    }
}
