//! Activation: what of a process's surroundings changes when a command runs inside an environment.
//!
//! The rules are conda's ("Activate/deactivate", conda developer guide, deep dives; `conda activate` without
//! `--stack`): `bin` on `PATH` in place of an active environment's, the `CONDA_*` variables, the packages'
//! variables (`etc/conda/env_vars.d/*.json`, by name), over them those of the environment (`conda-meta/state`),
//! and then the packages' scripts (`etc/conda/activate.d/*.sh`, by name). What is read is read from the tree: nothing
//! needs to be mounted, and without scripts no shell is started.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use envfs_fuse::Command;
use envfs_store::tree::NodeKind;
use envfs_store::view::View;

use crate::error::CliError;

/// In `conda-meta/state`, the value of a variable that is to be removed (`CONDA_ENV_VARS_UNSET_VAR` of conda).
const UNSET: &str = "***unset***";

/// Where programs are searched if nobody says (environ(7)).
pub(crate) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Sources the files before `--`, then becomes the command after it. A function, so that a script that sets
/// positional parameters sets its own; conda sources scripts in one too.
const SOURCE_AND_EXEC: &str =
    r#"envfs_source() { . "$1"; }; while [ "$1" != -- ]; do envfs_source "$1"; shift; done; shift; exec "$@""#;

/// The variables of a process.
struct Variables(BTreeMap<OsString, OsString>);

/// `words` as a command in the environment of `view`, started from `surroundings`. `own` are the variables that the
/// environment's specification sets.
pub(crate) fn command(
    view: &View,
    own: &BTreeMap<String, String>,
    surroundings: impl IntoIterator<Item = (OsString, OsString)>,
    words: &[OsString],
) -> Result<Command, CliError> {
    let prefix = Path::new(view.prefix());
    let mut variables = Variables(surroundings.into_iter().collect());
    variables.enter(prefix);
    variables.set_all(package_variables(view)?);
    variables.set_all(state_variables(view)?);
    variables.set_all(own.iter().map(|(name, value)| (name.clone(), value.clone())));
    // It would make the environment's Python look for its library somewhere else.
    variables.0.remove(OsStr::new("PYTHONHOME"));

    let scripts = scripts(view, prefix)?;
    let (program, arguments) = if scripts.is_empty() {
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| CliError::usage("no command was given"))?;
        (program.clone(), arguments.to_vec())
    } else {
        let shell = shell(view, variables.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH)))?;
        let arguments = ["-c", SOURCE_AND_EXEC, "envfs"].into_iter().map(OsString::from);
        let scripts = scripts.into_iter().map(PathBuf::into_os_string);
        (
            shell,
            arguments
                .chain(scripts)
                .chain(["--".into()])
                .chain(words.iter().cloned())
                .collect(),
        )
    };
    Ok(Command {
        program,
        arguments,
        environment: variables.0.into_iter().collect(),
        directory: None,
    })
}

impl Variables {
    fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.insert(name.into(), value.into());
    }

    fn set_all(&mut self, values: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in values {
            if value == UNSET {
                self.0.remove(OsStr::new(&name));
            } else {
                self.set(&name, value);
            }
        }
    }

    /// What `conda activate` sets before any package has a say.
    fn enter(&mut self, prefix: &Path) {
        let level: u32 = self
            .get("CONDA_SHLVL")
            .and_then(|level| level.to_str()?.trim().parse().ok())
            .unwrap_or(0);
        let outer = self.get("CONDA_PREFIX").filter(|_| level > 0).map(PathBuf::from);
        self.set(
            "PATH",
            path_with(
                self.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH)),
                prefix,
                outer.as_deref(),
            ),
        );
        // An environment that is active already is only activated again.
        if outer.as_deref() != Some(prefix) {
            if let Some(outer) = &outer {
                self.set(&format!("CONDA_PREFIX_{level}"), outer);
            }
            self.set(
                "CONDA_SHLVL",
                (if outer.is_some() { level.saturating_add(1) } else { 1 }).to_string(),
            );
        }
        let name = default_name(prefix);
        let mut prompt = OsString::from("(");
        prompt.push(&name);
        prompt.push(") ");
        self.set("CONDA_PREFIX", prefix);
        self.set("CONDA_DEFAULT_ENV", name);
        self.set("CONDA_PROMPT_MODIFIER", prompt);
    }
}

/// What conda calls an environment: the directory's name below a directory `envs`, else the whole path.
fn default_name(prefix: &Path) -> OsString {
    let is_below_envs = prefix.parent().and_then(Path::file_name) == Some(OsStr::new("envs"));
    match prefix.file_name() {
        Some(name) if is_below_envs => name.to_owned(),
        _ => prefix.into(),
    }
}

/// `path` with the programs of `prefix` first, and without those of the environment that was active before.
fn path_with(path: &OsStr, prefix: &Path, outer: Option<&Path>) -> OsString {
    let bin = prefix.join("bin");
    let outer = outer.map(|outer| outer.join("bin"));
    let kept = path
        .as_bytes()
        .split(|&byte| byte == b':')
        .map(OsStr::from_bytes)
        .filter(|entry| *entry != bin && outer.as_ref().is_none_or(|outer| *entry != outer));
    let mut new = bin.clone().into_os_string();
    for entry in kept {
        new.push(":");
        new.push(entry);
    }
    new
}

/// The variables that packages set.
fn package_variables(view: &View) -> Result<BTreeMap<String, String>, CliError> {
    let mut variables = BTreeMap::new();
    for name in file_names(view, "etc/conda/env_vars.d", ".json")? {
        let path = format!("etc/conda/env_vars.d/{name}");
        variables.extend(text_values(&path, &parse_json(view, &path)?)?);
    }
    Ok(variables)
}

/// The variables that belong to the environment itself.
fn state_variables(view: &View) -> Result<BTreeMap<String, String>, CliError> {
    let path = "conda-meta/state";
    if view.tree().find(path.as_bytes())?.is_none() {
        return Ok(BTreeMap::new());
    }
    match parse_json(view, path)?.get("env_vars") {
        Some(variables) => text_values(path, variables),
        None => Ok(BTreeMap::new()),
    }
}

/// The scripts to be sourced, as they will be seen.
fn scripts(view: &View, prefix: &Path) -> Result<Vec<PathBuf>, CliError> {
    let directory = "etc/conda/activate.d";
    Ok(file_names(view, directory, ".sh")?
        .into_iter()
        .map(|name| prefix.join(directory).join(name))
        .collect())
}

/// The names in `directory` that end in `ending`, sorted; none where there is no such directory.
fn file_names(view: &View, directory: &str, ending: &str) -> Result<Vec<String>, CliError> {
    let tree = view.tree();
    let mut names = Vec::new();
    if let Some(node) = tree.find(directory.as_bytes())?
        && node.kind()? == NodeKind::Directory
    {
        for child in tree.children(node, 0)? {
            let child = child?;
            let name = String::from_utf8_lossy(child.name()?).into_owned();
            if name.ends_with(ending) && child.kind()? != NodeKind::Directory {
                names.push(name);
            }
        }
    }
    Ok(names)
}

fn parse_json(view: &View, path: &str) -> Result<serde_json::Value, CliError> {
    let refuse = |why: &str| CliError::new(format!("the environment cannot be activated: `{path}` {why}"));
    match view.tree().find(path.as_bytes())? {
        Some(node) if node.kind()? == NodeKind::File => serde_json::from_slice(&view.read(node)?)
            .map_err(|error| refuse("is not valid JSON").because(error.to_string())),
        _ => Err(refuse("is not a file")),
    }
}

fn text_values(path: &str, object: &serde_json::Value) -> Result<BTreeMap<String, String>, CliError> {
    use serde_json::Value;
    let refuse = |what: &str| CliError::new(format!("the environment cannot be activated: {what} in `{path}`"));
    let object = object
        .as_object()
        .ok_or_else(|| refuse("there is no object of variables"))?;
    object
        .iter()
        .map(|(name, value)| {
            let is_usable = !name.is_empty() && !name.contains(['=', '\0']);
            match value {
                _ if !is_usable => Err(refuse(&format!("`{name}` is not the name of a variable"))),
                Value::String(text) if text.contains('\0') => Err(refuse(&format!("`{name}` holds a NUL"))),
                Value::String(text) => Ok((name.clone(), text.clone())),
                Value::Number(_) | Value::Bool(_) => Ok((name.clone(), value.to_string())),
                _ => Err(refuse(&format!("`{name}` is not a text"))),
            }
        })
        .collect()
}

/// The shell for scripts, most of which are written for bash: the environment's, the machine's, or else `sh`.
pub(crate) fn shell(view: &View, path: &OsStr) -> Result<OsString, CliError> {
    if view.tree().find(b"bin/bash")?.is_some() {
        return Ok(Path::new(view.prefix()).join("bin/bash").into());
    }
    let is_there = std::env::split_paths(path).any(|directory| directory.join("bash").is_file());
    Ok(if is_there { "bash" } else { "sh" }.into())
}

#[cfg(test)]
mod tests;
