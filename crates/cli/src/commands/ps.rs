//! `envfs ps`: what is mounted, where, since when, and whether anybody serves it.

use std::path::PathBuf;
use std::process::ExitCode;

use envfs_fuse::backend::Backend;
use envfs_fuse::status::{self, State, Status};
use envfs_store::lease::LeaseKind;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "STATE is `serving`; `restarting` where the server was killed and its keeper starts another; `unguarded` where the \
    keeper was killed; or `dead` where nobody answers any more, or where files were linked before the machine was started \
    again: `envfs umount` takes such a mount away, `envfs mount --ensure` replaces it. Mounts that the kernel serves have no \
    process. \
    Mounts of other stores are listed with what the kernel knows of them."
)]
pub(crate) struct PsArgs {}

#[derive(Serialize)]
struct Row {
    /// The whole signature, or as many digits of it as are known; none of what serves all environments.
    signature: Option<String>,
    mount_point: PathBuf,
    kind: Option<LeaseKind>,
    /// How it is served, where that is known.
    backend: Option<&'static str>,
    state: &'static str,
    pid: Option<u32>,
    /// The process that starts another server if that one is killed.
    keeper_pid: Option<u32>,
    uid: Option<u32>,
    since_unix_s: Option<u64>,
}

pub(crate) fn execute(context: &Context, _args: &PsArgs) -> Result<ExitCode, CliError> {
    let rows: Vec<Row> = status::list(&context.store()?)?.into_iter().map(Row::from).collect();
    if context.json {
        context.print_json(&rows)?;
    } else {
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        output::table(
            &[
                "SIGNATURE",
                "KIND",
                "BACKEND",
                "STATE",
                "PID",
                "UID",
                "AGE",
                "MOUNT POINT",
            ],
            &[4, 5, 6],
            &cells,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

impl From<Status> for Row {
    fn from(status: Status) -> Self {
        Self {
            signature: (status.kind != Some(LeaseKind::Serve)).then(|| {
                status
                    .signature
                    .map_or(status.signature_digits, |signature| signature.to_string())
            }),
            mount_point: status.mount_point,
            kind: status.kind,
            backend: status.backend.map(Backend::name),
            state: match status.state {
                State::Serving => "serving",
                State::Restarting => "restarting",
                State::Unguarded => "unguarded",
                State::Dead => "dead",
            },
            pid: status.pid,
            keeper_pid: status.keeper_pid,
            uid: status.uid,
            since_unix_s: status.started_unix_s,
        }
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        fn or_dash(value: Option<impl ToString>) -> String {
            value.map_or_else(|| "-".to_owned(), |value| value.to_string())
        }
        let kind = self.kind.map(|kind| match kind {
            LeaseKind::Mount => "mount",
            LeaseKind::Run => "run",
            LeaseKind::Claim => "claim",
            LeaseKind::Serve => "serve",
        });
        vec![
            or_dash(
                self.signature
                    .as_deref()
                    .map(|digits| digits.chars().take(16).collect::<String>()),
            ),
            or_dash(kind),
            or_dash(self.backend),
            self.state.to_owned(),
            or_dash(self.pid),
            or_dash(self.uid),
            or_dash(self.since_unix_s.map(output::age)),
            self.mount_point.display().to_string(),
        ]
    }
}
