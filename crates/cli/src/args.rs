//! The command line: what can be typed, and what `--help` says.

use clap::{Parser, Subcommand};

use crate::commands;
use crate::context::Global;

/// Python environments that appear in milliseconds, cost no disk, and cannot break each other.
#[derive(Debug, Parser)]
#[command(
    name = "envfs",
    version,
    max_term_width = 100,
    after_help = "An environment (<ENV>) is a signature (its 64 hexadecimal digits, or the first 8 or more of them), \
                  a name (`team/project:tag`; without a tag it is `current`), the path of a lock file (pixi.lock, conda-lock.yml, @EXPLICIT, pylock.toml, poetry.lock, uv.lock), or the \
                  path of a spec (environment.yml, requirements.txt, pyproject.toml).\n\n\
                  Examples:\n  \
                  envfs lock -f environment.yml                solve once, write pixi.lock\n  \
                  envfs build pixi.lock                        fetch and store; prints the signature\n  \
                  envfs mount 3fb1c2d4 /envs/x                 there in milliseconds\n  \
                  envfs run 3fb1c2d4 -- python train.py        the same, activated, gone afterwards\n  \
                  envfs build --base 3fb1c2d4 tqdm             inherit, and pay only for what is added"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One thing to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lock(commands::lock::LockArgs),
    Build(commands::build::BuildArgs),
    Ensure(commands::ensure::EnsureArgs),
    Export(commands::export::ExportArgs),
    Import(commands::import::ImportArgs),
    Migrate(commands::migrate::MigrateArgs),
    Mount(commands::mount::MountArgs),
    Umount(commands::umount::UmountArgs),
    Commit(commands::commit::CommitArgs),
    Discard(commands::discard::DiscardArgs),
    Run(commands::run::RunArgs),
    Kernel(commands::kernel::KernelArgs),
    Warm(commands::warm::WarmArgs),
    Serve(commands::serve::ServeArgs),
    Ls(commands::ls::LsArgs),
    Ps(commands::ps::PsArgs),
    Show(commands::show::ShowArgs),
    Diff(commands::diff::DiffArgs),
    Trace(commands::trace::TraceArgs),
    Name(commands::name::NameArgs),
    Promote(commands::promote::PromoteArgs),
    Rollback(commands::rollback::RollbackArgs),
    Pin(commands::pin::PinArgs),
    Owner(commands::owner::OwnerArgs),
    Gc(commands::gc::GcArgs),
    Why(commands::why::WhyArgs),
    Du(commands::du::DuArgs),
    Verify(commands::verify::VerifyArgs),
    Store(commands::store::StoreArgs),
    Config(commands::config::ConfigArgs),
    /// What this program calls itself with, to run a command in a sandbox
    #[command(hide = true, name = crate::sandboxed::COMMAND)]
    RunInSandbox,
    Variants(commands::variants::VariantsArgs),
    /// Print the version
    Version,
}
