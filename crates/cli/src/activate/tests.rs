//! Activation over small trees, without a mount.

use std::sync::Arc;

use envfs_store::Store;
use envfs_store::ingest::Ingest;
use envfs_store::path::EnvPath;
use envfs_store::tree::merge::{Leaf, Merge};
use envfs_store::workspace::Workspace;

use super::*;

struct Sample {
    _directory: tempfile::TempDir,
    view: View,
}

fn sample(files: &[(&str, &str)]) -> Sample {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let mut ingest = Ingest::new(&store, &workspace).unwrap();
    let mut merge = Merge::new();
    for (path, content) in files {
        let stored = ingest.add_bytes(content.as_bytes()).unwrap();
        let leaf = Leaf::File {
            digest: stored.digest,
            size_bytes: stored.size_bytes,
            mtime_s: 0,
            executable: false,
            placeholder: None,
        };
        merge.add(None, &EnvPath::parse(path).unwrap(), leaf);
    }
    ingest.publish().unwrap();
    let written = merge.write(&store, &workspace, None).unwrap();
    let tree = Arc::new(store.tree(&written.digest).unwrap());
    let view = View::new(&store, tree, Path::new("/envs/x")).unwrap();
    Sample {
        _directory: directory,
        view,
    }
}

impl Sample {
    fn command(&self, surroundings: &[(&str, &str)], own: &[(&str, &str)]) -> Result<Command, CliError> {
        let own = own
            .iter()
            .map(|(name, value)| (String::from(*name), String::from(*value)))
            .collect();
        let surroundings = surroundings
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        command(&self.view, &own, surroundings, &["python".into(), "-V".into()])
    }

    fn variables(&self, surroundings: &[(&str, &str)]) -> BTreeMap<String, String> {
        variables(self.command(surroundings, &[]).unwrap())
    }
}

fn variables(command: Command) -> BTreeMap<String, String> {
    let text = |text: OsString| text.into_string().unwrap();
    command
        .environment
        .into_iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

#[test]
fn outside_of_any_environment() {
    let sample = sample(&[("bin/python", "")]);
    let surroundings = [
        ("PATH", "/usr/bin:/bin"),
        ("PYTHONHOME", "/usr"),
        ("PYTHONPATH", "/mine"),
        ("HOME", "/root"),
    ];
    let command = sample.command(&surroundings, &[("SPEC", "set")]).unwrap();
    assert_eq!(
        (command.program.to_str(), command.arguments.as_slice()),
        (Some("python"), &["-V".into()][..])
    );
    let expected = [
        ("CONDA_DEFAULT_ENV", "x"),
        ("CONDA_PREFIX", "/envs/x"),
        ("CONDA_PROMPT_MODIFIER", "(x) "),
        ("CONDA_SHLVL", "1"),
        ("HOME", "/root"),
        ("PATH", "/envs/x/bin:/usr/bin:/bin"),
        ("PYTHONPATH", "/mine"),
        ("SPEC", "set"),
    ];
    assert_eq!(
        variables(command),
        expected.map(|(name, value)| (name.into(), value.into())).into()
    );
}

#[test]
fn inside_of_another_environment() {
    let sample = sample(&[("bin/python", "")]);
    let inner = sample.variables(&[
        ("PATH", "/home/u/bin:/opt/conda/bin:/usr/bin"),
        ("CONDA_PREFIX", "/opt/conda"),
        ("CONDA_SHLVL", "1"),
        ("CONDA_DEFAULT_ENV", "base"),
    ]);
    assert_eq!(inner["PATH"], "/envs/x/bin:/home/u/bin:/usr/bin");
    assert_eq!(
        (&*inner["CONDA_PREFIX"], &*inner["CONDA_PREFIX_1"]),
        ("/envs/x", "/opt/conda")
    );
    assert_eq!((&*inner["CONDA_SHLVL"], &*inner["CONDA_DEFAULT_ENV"]), ("2", "x"));
    // Left-overs of a deactivated environment are not one.
    let fresh = sample.variables(&[("CONDA_PREFIX", "/opt/conda"), ("CONDA_SHLVL", "0"), ("PATH", "/bin")]);
    assert_eq!(fresh["CONDA_SHLVL"], "1");
    assert!(!fresh.contains_key("CONDA_PREFIX_0"));
}

#[test]
fn the_same_environment_again() {
    let sample = sample(&[("bin/python", "")]);
    let again = sample.variables(&[
        ("PATH", "/mine:/envs/x/bin:/usr/bin"),
        ("CONDA_PREFIX", "/envs/x"),
        ("CONDA_SHLVL", "3"),
        ("CONDA_PREFIX_2", "/opt/conda"),
    ]);
    assert_eq!(
        (&*again["PATH"], &*again["CONDA_SHLVL"]),
        ("/envs/x/bin:/mine:/usr/bin", "3")
    );
    assert!(!again.contains_key("CONDA_PREFIX_3"));
}

#[test]
fn variables_of_packages_and_of_the_environment() {
    let sample = sample(&[
        ("etc/conda/env_vars.d/a.json", r#"{"FROM": "a", "A": "1"}"#),
        ("etc/conda/env_vars.d/b.json", r#"{"FROM": "b", "B": 2}"#),
        ("etc/conda/env_vars.d/notes.txt", "not JSON"),
        (
            "conda-meta/state",
            r#"{"version": 1, "env_vars": {"A": "state", "GONE": "***unset***"}}"#,
        ),
    ]);
    let command = sample.command(&[("GONE", "was here")], &[("B", "spec")]).unwrap();
    let variables = variables(command);
    let get = |name: &str| variables.get(name).map(String::as_str);
    assert_eq!(
        (get("FROM"), get("A"), get("B"), get("GONE")),
        (Some("b"), Some("state"), Some("spec"), None)
    );
}

#[test]
fn what_cannot_be_understood_is_named() {
    for content in [
        "{",
        "[]",
        r#"{"A": null}"#,
        r#"{"A=B": "x"}"#,
        r#"{"": "x"}"#,
        r#"{"A": "\u0000"}"#,
    ] {
        let sample = sample(&[("etc/conda/env_vars.d/bad.json", content)]);
        let message = format!("{:?}", sample.command(&[], &[]).unwrap_err());
        assert!(
            message.contains("etc/conda/env_vars.d/bad.json"),
            "{content}: {message}"
        );
    }
}

#[test]
fn scripts_are_sourced_in_order_before_the_command() {
    let sample = sample(&[
        ("bin/bash", ""),
        ("etc/conda/activate.d/b.sh", ""),
        ("etc/conda/activate.d/a.sh", ""),
        ("etc/conda/activate.d/a.fish", ""),
    ]);
    let command = sample.command(&[], &[]).unwrap();
    assert_eq!(command.program, "/envs/x/bin/bash");
    let arguments: Vec<_> = command
        .arguments
        .iter()
        .map(|argument| argument.to_str().unwrap())
        .collect();
    assert_eq!(
        arguments[2..],
        [
            "envfs",
            "/envs/x/etc/conda/activate.d/a.sh",
            "/envs/x/etc/conda/activate.d/b.sh",
            "--",
            "python",
            "-V"
        ]
    );
}

#[test]
fn scripts_change_what_the_command_sees() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("it's a script.sh");
    std::fs::write(&script, "export SEEN=\"$1|$#\"\nset -- 1 2 3\n").unwrap();
    for shell in ["sh", "bash"] {
        let output = std::process::Command::new(shell)
            .args(["-c", SOURCE_AND_EXEC, "envfs"])
            .args([&script, &script])
            .args([
                "--",
                "sh",
                "-c",
                "printf '%s,' \"$SEEN\" \"$@\"; exit 7",
                "zero",
                "one two",
                "--",
            ])
            .output()
            .unwrap();
        let seen = format!("{}|1,one two,--,", script.display());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), seen, "{shell}");
        assert_eq!(output.status.code(), Some(7));
    }
}
