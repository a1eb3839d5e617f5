//! `envfs version`: which envfs this is, and which formats it writes.

use std::process::ExitCode;

use crate::context::Context;
use crate::error::CliError;
use crate::output;

pub(crate) fn execute(context: &Context) -> Result<ExitCode, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    if context.json {
        context.print_json(
            &serde_json::json!({ "version": version, "store_format": envfs_store::store::FORMAT_VERSION }),
        )?;
    } else {
        output::line(&format!("envfs {version}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
