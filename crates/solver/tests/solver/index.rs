//! Indexes in every form, from folders and servers, and channels that are wrong in every way.

use std::fs;
use std::path::Path;

use envfs_solver::{ChannelError, Network, NetworkOptions, SolveError};

use crate::support::channel::{ChannelBuilder, Form};
use crate::support::server::{Behaviour, Server};
use crate::support::{network, options};

const FORMS: [Form; 3] = [Form::Json, Form::Zst, Form::Shards];

fn small_channel() -> ChannelBuilder {
    ChannelBuilder::new()
        .package("python 3.12.1 0", &[])
        .package("numpy 1.26.0 py312_0", &["python >=3.12"])
        .package("numpy 2.0.0 py312_0", &["python >=3.13"])
        .package_with(
            "tqdm 4.66 pyhd_0",
            &["python"],
            &serde_json::json!({"subdir": "noarch", "noarch": "python"}),
        )
}

/// Solves for names, versions of what comes out, or the error.
fn solve(network: &Network, channel: &str, match_specs: &[&str]) -> Result<Vec<String>, SolveError> {
    crate::solve::solve_for(network, &[channel], match_specs).map(|solution| {
        solution
            .packages()
            .iter()
            .map(|package| format!("{}-{}", package.name(), package.version()))
            .collect()
    })
}

fn channel_error(result: Result<Vec<String>, SolveError>) -> ChannelError {
    match result {
        Err(SolveError::Channel(error)) => error,
        other => panic!("expected a channel error, got {other:?}"),
    }
}

fn offline(dir: &Path) -> Network {
    Network::new(NetworkOptions {
        is_offline: true,
        ..options(dir)
    })
    .unwrap()
}

#[test]
fn an_index_in_a_folder_is_read_plain_and_compressed() {
    for form in [Form::Json, Form::Zst] {
        let dir = tempfile::tempdir().unwrap();
        let channel = small_channel().write(&dir.path().join("chan"), form);
        let wanted = ["numpy-1.26.0", "python-3.12.1", "tqdm-4.66"];
        // By URL, by absolute and by relative path; a folder needs no network.
        for given in [
            format!("file://{}", channel.display()),
            channel.display().to_string(),
            "./chan".to_owned(),
        ] {
            assert_eq!(
                solve(&offline(dir.path()), &given, &["numpy", "tqdm"]).unwrap(),
                wanted,
                "{form:?} {given}"
            );
        }
    }
}

#[test]
fn an_index_on_a_server_is_read_in_every_form_and_cached() {
    for form in FORMS {
        let dir = tempfile::tempdir().unwrap();
        small_channel().write(&dir.path().join("www/chan"), form);
        let server = Server::start(dir.path().join("www"));
        let url = server.url("chan");
        let wanted = ["numpy-1.26.0", "python-3.12.1", "tqdm-4.66"];
        assert_eq!(
            solve(&network(dir.path()), &url, &["numpy", "tqdm"]).unwrap(),
            wanted,
            "{form:?}"
        );

        let before = server.requests("").len();
        assert_eq!(
            solve(&offline(dir.path()), &url, &["numpy", "tqdm"]).unwrap(),
            wanted,
            "{form:?} offline"
        );
        assert_eq!(server.requests("").len(), before, "offline asked the server");
    }
}

#[test]
fn offline_an_index_that_was_never_fetched_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = channel_error(solve(&offline(dir.path()), "http://127.0.0.1:1/chan", &["numpy"]));
    assert!(matches!(error, ChannelError::NotCached { .. }), "{error:?}");
    assert!(
        error.to_string().contains("127.0.0.1:1/chan") && error.to_string().contains("--offline"),
        "{error}"
    );
}

#[test]
fn offline_a_package_that_was_never_asked_for_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    small_channel().write(&dir.path().join("www/chan"), Form::Shards);
    let server = Server::start(dir.path().join("www"));
    solve(&network(dir.path()), &server.url("chan"), &["numpy"]).unwrap();
    let error = solve(&offline(dir.path()), &server.url("chan"), &["tqdm"]).unwrap_err();
    let SolveError::Unsatisfiable { help, .. } = error else {
        panic!("{error:?}")
    };
    assert!(help.iter().any(|line| line.contains("--offline")), "{help:?}");
}

#[test]
fn a_passing_failure_of_the_server_is_not_noticed() {
    for form in FORMS {
        let dir = tempfile::tempdir().unwrap();
        small_channel().write(&dir.path().join("www/chan"), form);
        let server = Server::start(dir.path().join("www"));
        server.rule("", Behaviour::Status(503), 3);
        let found = solve(&network(dir.path()), &server.url("chan"), &["numpy"]).unwrap();
        assert_eq!(found, ["numpy-1.26.0", "python-3.12.1"], "{form:?}");
    }
}

#[test]
fn an_unknown_channel_is_told_from_one_without_noarch() {
    let dir = tempfile::tempdir().unwrap();
    for form in FORMS {
        small_channel()
            .without_noarch()
            .write(&dir.path().join(format!("www/{form:?}")), form);
    }
    let server = Server::start(dir.path().join("www"));
    let network = network(dir.path());
    for form in FORMS {
        let error = channel_error(solve(&network, &server.url(&format!("{form:?}")), &["numpy"]));
        assert!(matches!(error, ChannelError::NoNoarch { .. }), "{form:?}: {error:?}");
    }
    let error = channel_error(solve(&network, &server.url("missing"), &["numpy"]));
    assert!(matches!(error, ChannelError::Unknown { .. }), "{error:?}");
    assert!(error.to_string().contains("/missing"), "{error}");

    for (folder, is_known) in [
        ("www/Json", true),
        ("www/Zst", true),
        ("nowhere", false),
        ("www", false),
    ] {
        let path = dir.path().join(folder).display().to_string();
        let error = channel_error(solve(&network, &path, &["numpy"]));
        assert_eq!(
            matches!(error, ChannelError::NoNoarch { .. }),
            is_known,
            "{folder}: {error:?}"
        );
        assert_eq!(
            matches!(error, ChannelError::Unknown { .. }),
            !is_known,
            "{folder}: {error:?}"
        );
    }
}

#[test]
fn a_server_that_refuses_or_fails_is_told_from_one_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    small_channel().write(&dir.path().join("www/chan"), Form::Json);
    let server = Server::start(dir.path().join("www"));
    server.rule("", Behaviour::Status(401), 1000);
    let error = channel_error(solve(&network(dir.path()), &server.url("chan"), &["numpy"]));
    assert!(matches!(error, ChannelError::Refused { status: 401, .. }), "{error:?}");

    let failing = Server::start(dir.path().join("www"));
    failing.rule("", Behaviour::Status(500), 1000);
    let error = channel_error(solve(&network(dir.path()), &failing.url("chan"), &["numpy"]));
    assert!(matches!(error, ChannelError::Status { status: 500, .. }), "{error:?}");

    let error = channel_error(solve(&network(dir.path()), "http://127.0.0.1:1/chan", &["numpy"]));
    assert!(
        matches!(&error, ChannelError::Unreachable { reason, .. } if reason.contains("refused")),
        "{error:?}"
    );

    let error = channel_error(solve(
        &network(dir.path()),
        "http://no.such.host.invalid/chan",
        &["numpy"],
    ));
    assert!(matches!(error, ChannelError::Unreachable { .. }), "{error:?}");
}

#[test]
fn an_index_that_is_no_index_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let channel = small_channel().write(&dir.path().join("www/chan"), Form::Json);
    fs::write(channel.join("linux-64/repodata.json"), "<html>hello</html>").unwrap();
    let server = Server::start(dir.path().join("www"));
    for given in [channel.display().to_string(), server.url("chan")] {
        let error = channel_error(solve(&network(dir.path()), &given, &["numpy"]));
        assert!(matches!(error, ChannelError::Malindexed { .. }), "{error:?}");
    }
    fs::remove_file(channel.join("linux-64/repodata.json")).unwrap();
    fs::write(channel.join("linux-64/repodata.json.zst"), "no zstd").unwrap();
    let error = channel_error(solve(&network(dir.path()), &channel.display().to_string(), &["numpy"]));
    assert!(error.to_string().contains("repodata.json.zst"), "{error}");
}

#[test]
fn a_token_is_sent_to_its_host() {
    for form in FORMS {
        let dir = tempfile::tempdir().unwrap();
        small_channel().write(&dir.path().join("www/chan"), form);
        let server = Server::start(dir.path().join("www"));
        server.rule("", Behaviour::Require("Bearer token".to_owned()), 1000);
        let file = dir.path().join("credentials.json");
        fs::write(&file, format!(r#"{{"{}": {{"BearerToken": "token"}}}}"#, server.host())).unwrap();
        let network = Network::new(NetworkOptions {
            credential_files: vec![file],
            ..options(dir.path())
        })
        .unwrap();
        assert_eq!(
            solve(&network, &server.url("chan"), &["python"]).unwrap(),
            ["python-3.12.1"],
            "{form:?}"
        );
    }
}

#[test]
fn a_name_is_looked_up_at_the_alias_and_the_defaults_are_the_configurations() {
    let dir = tempfile::tempdir().unwrap();
    small_channel().write(&dir.path().join("www/team/stable"), Form::Zst);
    let server = Server::start(dir.path().join("www"));
    let config = dir.path().join("config.toml");
    fs::write(&config, "default-channels = [\"team/stable\"]\n").unwrap();
    let options = NetworkOptions {
        channel_alias: Some(server.url("")),
        config_files: vec![config],
        ..options(dir.path())
    };
    let network = Network::new(options).unwrap();
    assert_eq!(solve(&network, "team/stable", &["python"]).unwrap(), ["python-3.12.1"]);
    let solution = crate::solve::solve_for(&network, &[], &["team/stable::numpy"]).unwrap();
    assert_eq!(solution.channels(), [format!("{}/", server.url("team/stable"))]);
}

#[test]
fn files_of_the_configuration_that_make_no_sense_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broken");
    fs::write(&file, "{[").unwrap();
    let named = |options: NetworkOptions| {
        let Err(error) = Network::new(options) else {
            panic!("accepted")
        };
        assert!(error.to_string().contains("broken"), "{error}");
    };
    named(NetworkOptions {
        config_files: vec![file.clone()],
        ..options(dir.path())
    });
    named(NetworkOptions {
        credential_files: vec![file],
        ..options(dir.path())
    });
    named(NetworkOptions {
        channel_alias: Some("broken".to_owned()),
        ..options(dir.path())
    });
}
