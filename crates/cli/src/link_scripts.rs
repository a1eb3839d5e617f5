//! Link scripts, run as conda runs them: sourced by a shell in the activated environment (`run_script` of conda's
//! `core/link.py`). Each has a sandbox without a network, in which nothing but the environment can be written to.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use envfs_fuse::writable::State;
use envfs_solver::{LinkScript, LinkScriptError, LinkScripts, ScriptOutput, ScriptSite, ScriptsRun};
use envfs_store::capture::{LayerName, Writable};
use envfs_store::view::View;
use envfs_store::{Digest, Store};

use crate::activate;
use crate::error::CliError;
use crate::sandboxed::{Ended, Request, Scratch};

/// Where a script leaves what people are to read, in the environment. It is shown and removed, as by conda.
const MESSAGES: &str = ".messages.txt";

/// Sources the script: some end with `return`.
const SOURCE: &str = r#". "$1""#;

/// Runs link scripts in sandboxes.
#[derive(Debug)]
pub(crate) struct Sandboxed;

/// What all scripts of an environment share.
struct Room<'a> {
    site: &'a ScriptSite<'a>,
    prefix: PathBuf,
    view: View,
    scratch: Scratch,
}

impl LinkScripts for Sandboxed {
    fn prefix(&self, store: &Store, signature: &Digest) -> PathBuf {
        envfs_fuse::private_prefix(store, signature)
    }

    fn run(
        &self,
        site: &ScriptSite<'_>,
        scripts: &[LinkScript],
        name: LayerName,
    ) -> Result<ScriptsRun, LinkScriptError> {
        // No environment names the tree yet: a collection waits until one does.
        let _shared = site.store.share()?;
        let impossible = |error: CliError| LinkScriptError::Impossible(error.in_one_line());
        let room = Room::open(site, self.prefix(site.store, &site.signature)).map_err(impossible)?;
        let mut outputs = Vec::new();
        for script in scripts {
            let ended = room.run(script).map_err(impossible)?;
            let text = room.take_output().map_err(impossible)?;
            if ended.exit_code != 0 {
                return Err(LinkScriptError::Failed {
                    script: script.path.clone(),
                    package: script.package(),
                    exit_code: ended.exit_code,
                    output: text,
                });
            }
            tracing::info!("{} ran in {} ms", script.path, ended.duration.as_millis());
            if !text.is_empty() {
                outputs.push(ScriptOutput {
                    script: script.path.clone(),
                    text,
                });
            }
        }
        let upper = room.state().upper();
        let written = Writable {
            view: &room.view,
            upper: &upper,
        };
        let captured = written.capture(site.store, site.workspace, name)?;
        let (layer, written) =
            captured.ok_or_else(|| LinkScriptError::Impossible("nothing was captured".to_owned()))?;
        Ok(ScriptsRun {
            layer,
            written,
            outputs,
        })
    }
}

impl<'a> Room<'a> {
    fn open(site: &'a ScriptSite<'a>, prefix: PathBuf) -> Result<Self, CliError> {
        Ok(Self {
            view: View::new(site.store, Arc::new(site.store.tree(&site.tree)?), &prefix)?,
            scratch: Scratch::create(site.store)?,
            site,
            prefix,
        })
    }

    fn state(&self) -> State {
        State::at(&self.scratch.state())
    }

    fn run(&self, script: &LinkScript) -> Result<Ended, CliError> {
        let words = [
            activate::shell(&self.view, Path::new(activate::DEFAULT_PATH).as_os_str())?,
            "-c".into(),
            SOURCE.into(),
            "envfs".into(),
            self.prefix.join(&script.path).into(),
        ];
        let command = activate::command(&self.view, self.site.variables, self.surroundings(script), &words)?;
        let request = Request {
            store: self.site.store.root().to_owned(),
            system_store: self.site.store.lower().map(|lower| lower.root().to_owned()),
            signature: self.site.signature,
            tree: self.site.tree,
            prefix: self.prefix.clone(),
            state: self.scratch.state(),
            network: false,
            writable: vec![self.scratch.directory()],
            output: self.scratch.output(),
            program: command.program,
            arguments: command.arguments,
            environment: command.environment,
            directory: self.prefix.join("bin"),
        };
        request.run()
    }

    /// What a script finds set: what conda sets, and otherwise the same everywhere.
    fn surroundings(&self, script: &LinkScript) -> Vec<(OsString, OsString)> {
        let mut variables = self.scratch.surroundings();
        let prefix = self.prefix.as_os_str();
        variables.extend(
            [
                ("PREFIX", prefix.to_owned()),
                // There is no other installation that could be the root of this one.
                ("ROOT_PREFIX", prefix.to_owned()),
                ("PKG_NAME", script.name.clone().into()),
                ("PKG_VERSION", script.version.clone().into()),
                ("PKG_BUILDNUM", script.build_number.to_string().into()),
                // Bytecode is made by the build.
                ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ]
            .map(|(name, value)| (OsString::from(name), value)),
        );
        variables
    }

    /// What the last script printed and left to be read, which is removed.
    fn take_output(&self) -> Result<String, CliError> {
        let mut text = String::new();
        for path in [self.state().upper().join(MESSAGES), self.scratch.output()] {
            // A link or a directory of that name is not followed: it could lead anywhere.
            if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                let said = fs::read(&path)?;
                fs::remove_file(&path)?;
                text.push_str(String::from_utf8_lossy(&said).trim_end());
                text.push('\n');
            }
        }
        Ok(text.trim().to_owned())
    }
}
