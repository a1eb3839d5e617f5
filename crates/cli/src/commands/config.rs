//! `envfs config`: what is set, and by whom.

use std::process::ExitCode;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The command line wins over variables, these over `.envfs/config.toml` of the project (here or in a \
    directory above), over `$XDG_CONFIG_HOME/envfs/config.toml`, over `/etc/envfs/config.toml`. In a file:\n\n  \
    [envfs]\n  \
    system-store = \"/srv/envfs\"   # read, and never written: what it holds is not stored again\n  \
    store = \"~/envfs\"\n  \
    max-age = \"7d\"                # how old a solution may be that is used without asking again\n  \
    idle = \"10m\"                  # runs leave their environment mounted for the next one\n  \
    offline = true"
)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every setting, and where its value comes from
    Show,
}

pub(crate) fn execute(context: &Context, args: &ConfigArgs) -> Result<ExitCode, CliError> {
    let ConfigCommand::Show = args.command;
    let shown = context.settings()?.shown();
    if context.json {
        context.print_json(&shown)?;
    } else {
        let cells = shown.into_iter().map(|setting| {
            let value = setting.value.unwrap_or_else(|| "-".to_owned());
            vec![setting.key, value, setting.source]
        });
        output::table(&["KEY", "VALUE", "SOURCE"], &[], &cells.collect::<Vec<_>>())?;
    }
    Ok(ExitCode::SUCCESS)
}
