//! The command line: what can be typed, and what `--help` says.

use std::ffi::OsString;

use clap::{Args as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands;
use crate::context::Global;
use crate::lazily::Lazily;

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

impl Arguments {
    /// What the words of the process say. Where they make no sense, or ask for help, this ends the process with what clap says.
    pub(crate) fn typed() -> Self {
        let words: Vec<_> = std::env::args_os().collect();
        Self::among_typed(&words).unwrap_or_else(|| Self::parse_from(words))
    }

    /// The same by a parser that knows no other commands than those whose names are among the words: to describe them all
    /// takes longer than to do what most of them do. None where all have to be known, to say what is wrong or to help.
    fn among_typed(words: &[OsString]) -> Option<Self> {
        let all = Command::augment_subcommands(clap::Command::new("envfs"));
        let typed = all
            .get_subcommands()
            .filter(|command| words.iter().any(|word| word == command.get_name()));
        let parser = Global::augment_args(clap::Command::new("envfs")).subcommands(typed.cloned());
        let mut matches = parser.try_get_matches_from(words).ok()?;
        Self::from_arg_matches_mut(&mut matches).ok()
    }
}

/// One thing to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Solve a specification and write a lock file (pixi.lock, version 7)
    Lock(Lazily<commands::lock::LockArgs>),
    /// Build an environment into the store and print its signature
    Build(Lazily<commands::build::BuildArgs>),
    /// Print the signature of an environment, and make what is missing of it
    Ensure(Lazily<commands::ensure::EnsureArgs>),
    /// Write what an environment holds as a file of another tool
    Export(Lazily<commands::export::ExportArgs>),
    /// Take an existing conda environment, venv or pixi environment into the store
    Import(Lazily<commands::import::ImportArgs>),
    /// Bring many environments into the store by a plan, and report on each
    Migrate(Lazily<commands::migrate::MigrateArgs>),
    /// Mount an environment at a directory
    Mount(Lazily<commands::mount::MountArgs>),
    /// Unmount an environment and end its server
    Umount(Lazily<commands::umount::UmountArgs>),
    /// Turn what was written into an environment into a new one
    Commit(Lazily<commands::commit::CommitArgs>),
    /// Forget what was written into an environment
    Discard(Lazily<commands::discard::DiscardArgs>),
    /// Run a command in an environment
    Run(Lazily<commands::run::RunArgs>),
    /// Register environments as Jupyter kernels
    Kernel(Lazily<commands::kernel::KernelArgs>),
    /// Keep environments mounted and in memory, so that `envfs run` starts at once
    Warm(Lazily<commands::warm::WarmArgs>),
    /// Show every environment below one directory, for those who cannot mount
    Serve(Lazily<commands::serve::ServeArgs>),
    /// List the environments of the store
    Ls(Lazily<commands::ls::LsArgs>),
    /// List the mounted environments and running commands
    Ps(Lazily<commands::ps::PsArgs>),
    /// Show the packages of an environment, what it inherits and what it cost
    Show(Lazily<commands::show::ShowArgs>),
    /// Show which packages differ between two environments, or what was written into one
    Diff(Lazily<commands::diff::DiffArgs>),
    /// Look at what the first runs of an environment opened
    Trace(Lazily<commands::trace::TraceArgs>),
    /// Give names to environments, and see what they stand for
    Name(Lazily<commands::name::NameArgs>),
    /// Let a name stand for what another name stands for
    Promote(Lazily<commands::promote::PromoteArgs>),
    /// Let a name stand again for what it stood for before
    Rollback(Lazily<commands::rollback::RollbackArgs>),
    /// Keep environments from being collected
    Pin(Lazily<commands::pin::PinArgs>),
    /// Say which environments a workflow, a service or a person needs
    Owner(Lazily<commands::owner::OwnerArgs>),
    /// Remove environments that nothing keeps, and what only they held
    Gc(Lazily<commands::gc::GcArgs>),
    /// Say what keeps an environment, a package or an object from being collected
    Why(Lazily<commands::why::WhyArgs>),
    /// Say what each environment takes, and what it would take as a directory
    Du(Lazily<commands::du::DuArgs>),
    /// Check everything in the store against its digests, and mend what is damaged
    Verify(Lazily<commands::verify::VerifyArgs>),
    /// Look at the store itself
    Store(Lazily<commands::store::StoreArgs>),
    /// Look at the settings
    Config(Lazily<commands::config::ConfigArgs>),
    /// What this program calls itself with, to run a command in a sandbox
    #[command(hide = true, name = crate::sandboxed::COMMAND)]
    RunInSandbox,
    /// What this program calls itself with, to build from source
    #[command(hide = true, name = crate::sandbox::COMMAND)]
    BuildInSandbox(Lazily<crate::sandbox::BuildArgs>),
    /// List the variants of a project with their signatures, or say which of them have moved
    Variants(Lazily<commands::variants::VariantsArgs>),
    /// Print the version
    Version,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_command_is_described_alike_in_the_list_and_by_itself() {
        let listed = Arguments::command();
        let mut by_itself = Arguments::command();
        by_itself.build();
        for command in listed.get_subcommands() {
            let found = by_itself.find_subcommand(command.get_name()).unwrap();
            assert_eq!(found.get_about(), command.get_about(), "{}", command.get_name());
        }
    }

    #[test]
    fn what_is_parsed_among_the_typed_commands_is_what_is_parsed_among_all() {
        let lines = [
            "version",
            "-q --store /s run 3fb1c2d4 -- ls -la",
            "--store ls mount --backend fuse 3fb1c2d4 /x --json",
            "name set a/b:c 3fb1c2d4",
            "ensure python=3.11 numpy -c conda-forge -vv",
            "gc --max-size 40GB --dry-run --limit files=10",
        ];
        let words = |line: &str| -> Vec<OsString> {
            let words = ["envfs"].into_iter().chain(line.split(' '));
            words.map(Into::into).collect()
        };
        for line in lines {
            let narrow = Arguments::among_typed(&words(line)).unwrap();
            let whole = Arguments::try_parse_from(words(line)).unwrap();
            assert_eq!(format!("{narrow:?}"), format!("{whole:?}"), "{line}");
        }
        for line in [
            "",
            "mout x /y",
            "mount --help",
            "--version",
            "help run",
            "mount --bakend fuse x /y",
        ] {
            assert!(Arguments::among_typed(&words(line)).is_none(), "{line}");
            assert!(Arguments::try_parse_from(words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn every_command_says_what_it_does_and_has_its_arguments_when_it_is_asked() {
        let mut command = Arguments::command();
        command.build();
        command.clone().debug_assert();
        for command in command.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
        let mount = command.find_subcommand("mount").unwrap();
        assert!(mount.get_positionals().any(|argument| argument.get_id() == "path"));
    }
}
