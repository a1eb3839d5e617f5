//! Resolving against the registry, through uv; skipped loudly where either cannot be had.

use std::path::Path;
use std::sync::Arc;

use envfs_store::ingest::Ingest;
use envfs_store::path::EnvPath;
use envfs_store::tree::merge::{DIRECTORY_MTIME_S, Leaf, Merge};
use envfs_store::workspace::Workspace;

use super::*;
use crate::python::tests::target;
use crate::uv::UvOptions;

/// uv from the search path, or fetched once for all tests of this user.
fn uv() -> Option<Uv> {
    let options = UvOptions {
        program: None,
        search_path: std::env::var_os("PATH").unwrap_or_default(),
        cache_dir: std::env::temp_dir().join("envfs-test-uv"),
        is_offline: false,
        variable: |_| None,
    };
    match Uv::find(&options) {
        Ok(uv) => Some(uv),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

fn requirements(lines: &[&str]) -> Requirements {
    let mut requirements = Requirements::default();
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    requirements.add(&lines, Path::new("/")).unwrap();
    requirements
}

/// The result, unless the registry cannot be reached.
fn resolve(lines: &[&str], provided: &[LockedWheel]) -> Option<Result<Vec<LockedWheel>, WheelsError>> {
    resolve_with(lines, provided, Builds::No)
}

fn resolve_with(
    lines: &[&str],
    provided: &[LockedWheel],
    builds: Builds<'_>,
) -> Option<Result<Vec<LockedWheel>, WheelsError>> {
    let uv = uv()?;
    let directory = tempfile::tempdir().unwrap();
    let view = view_of(directory.path(), provided);
    let base = InheritedBase {
        view: &view,
        packages: &[],
        wheels: provided,
    };
    let request = WheelRequest {
        requirements: &requirements(lines),
        target: &target("3.12.8", "linux-64"),
        packages: &[],
        base: Some(base),
        preferred: &[],
        exclude_newer: None,
        is_complete: false,
        builds,
        store: None,
    };
    match resolve_wheels(&uv, &request) {
        Err(WheelsError::Failed {
            summary, explanation, ..
        }) if summary.contains("cannot be reached") => {
            eprintln!("SKIPPED: {explanation}");
            None
        }
        result => Some(result.map(|found| found.wheels)),
    }
}

/// An environment that has the metadata of these wheels, and nothing else.
fn view_of(directory: &Path, wheels: &[LockedWheel]) -> View {
    let store = Store::open(directory).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let mut ingest = Ingest::new(&store, &workspace).unwrap();
    let mut merge = Merge::new();
    for wheel in wheels {
        let (name, version) = (wheel.name(), wheel.version());
        let text = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        let stored = ingest.add_bytes(text.as_bytes()).unwrap();
        let path = format!("lib/python3.12/site-packages/{name}-{version}.dist-info/METADATA");
        let leaf = Leaf::File {
            digest: stored.digest,
            size_bytes: stored.size_bytes,
            mtime_s: DIRECTORY_MTIME_S,
            executable: false,
            placeholder: None,
        };
        merge.add(None, &EnvPath::parse(path).unwrap(), leaf);
    }
    ingest.publish().unwrap();
    let tree = merge.write(&store, &workspace, None).unwrap();
    View::new(&store, Arc::new(store.tree(&tree.digest).unwrap()), Path::new("/")).unwrap()
}

fn base(file_name: &str) -> LockedWheel {
    LockedWheel::new(&format!("https://host/{file_name}")).unwrap()
}

#[test]
fn wheels_are_found_with_what_they_need() {
    let Some(wheels) = resolve(&["requests[socks]==2.32.3"], &[]) else {
        return;
    };
    let wheels = wheels.unwrap();
    let names: Vec<_> = wheels.iter().map(LockedWheel::name).collect();
    assert_eq!(
        names,
        [
            "certifi",
            "charset-normalizer",
            "idna",
            "pysocks",
            "requests",
            "urllib3"
        ]
    );
    let requests = wheels.iter().find(|wheel| wheel.name() == "requests").unwrap();
    assert!(requests.sha256().is_some() && requests.size_bytes().is_some());
    let compiled = wheels
        .iter()
        .find(|wheel| wheel.name() == "charset-normalizer")
        .unwrap();
    assert!(
        compiled.file_name().tag().starts_with("cp312-cp312-manylinux"),
        "{compiled:?}"
    );
}

#[test]
fn what_is_there_already_is_kept_even_if_no_index_has_it() {
    let there = [base("idna-3.6.99-py3-none-any.whl")];
    let Some(wheels) = resolve(&["requests==2.32.3"], &there) else {
        return;
    };
    let wheels = wheels.unwrap();
    let idna = wheels.iter().find(|wheel| wheel.name() == "idna").unwrap();
    assert_eq!(idna.url(), "https://host/idna-3.6.99-py3-none-any.whl");
}

#[test]
fn a_contradiction_is_explained_and_its_origin_named() {
    let there = [base("idna-99-py3-none-any.whl")];
    let Some(result) = resolve(&["requests==2.32.3"], &there) else {
        return;
    };
    let Err(WheelsError::Failed { explanation, help, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(explanation.contains("idna"), "{explanation}");
    assert!(
        help.iter()
            .any(|help| help.contains("idna==99") && help.contains("base")),
        "{help:?}"
    );
}

#[test]
fn a_version_without_a_wheel_is_refused_with_a_way_out() {
    for (builds, is_off) in [(Builds::No, true), (Builds::NotYet, false)] {
        let Some(result) = resolve_with(&["scipy==1.5.0"], &[], builds) else {
            return;
        };
        let error = result.unwrap_err();
        assert!(error.is_for_want_of_builds(), "{error}");
        let WheelsError::Failed { explanation, help, .. } = &error else {
            panic!("{error}")
        };
        assert!(
            explanation.contains("scipy==1.5.0 has no usable wheels"),
            "{explanation}"
        );
        assert!(
            help.iter()
                .any(|help| help.contains("3.12.8") && help.contains("linux-64")),
            "{help:?}"
        );
        // Only where somebody has switched builds off it is said that they are.
        assert_eq!(explanation.contains("disabled"), is_off, "{explanation}");
        assert_eq!(help.join(" ").contains("switched off"), is_off, "{help:?}");
    }
}

#[test]
fn a_digest_that_no_wheel_has_is_refused() {
    let line = format!("idna==3.7 --hash=sha256:{}", "0".repeat(64));
    let Some(result) = resolve(&[&line], &[]) else { return };
    assert!(
        matches!(result, Err(WheelsError::Pylock(PylockError::Hash { .. }))),
        "{result:?}"
    );
}

#[test]
fn an_index_that_is_down_is_named() {
    let Some(uv) = uv() else { return };
    let request = WheelRequest {
        requirements: &requirements(&["--index-url http://127.0.0.1:9/simple", "idna"]),
        target: &target("3.12.8", "linux-64"),
        packages: &[],
        base: None,
        preferred: &[],
        exclude_newer: None,
        is_complete: false,
        builds: Builds::No,
        store: None,
    };
    let error = resolve_wheels(&uv, &request).unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
}

#[test]
fn versions_of_an_older_lock_are_kept() {
    let Some(uv) = uv() else { return };
    let request = WheelRequest {
        requirements: &requirements(&["idna>=3"]),
        target: &target("3.12.8", "linux-64"),
        packages: &[],
        base: None,
        preferred: &[base("idna-3.4-py3-none-any.whl")],
        exclude_newer: None,
        is_complete: false,
        builds: Builds::No,
        store: None,
    };
    match resolve_wheels(&uv, &request) {
        Err(error) => eprintln!("SKIPPED: {error}"),
        Ok(found) => assert_eq!(found.wheels[0].version(), "3.4"),
    }
}

#[test]
fn an_index_that_wants_credentials_says_how_to_give_them() {
    use std::io::{Read as _, Write as _};
    let Some(uv) = uv() else { return };
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let answer =
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let request = WheelRequest {
        requirements: &requirements(&[&format!("--index-url http://{address}/simple"), "private-package"]),
        target: &target("3.12.8", "linux-64"),
        packages: &[],
        base: None,
        preferred: &[],
        exclude_newer: None,
        is_complete: false,
        builds: Builds::No,
        store: None,
    };
    let error = resolve_wheels(&uv, &request).unwrap_err();
    let WheelsError::Failed { summary, help, .. } = &error else {
        panic!("{error}")
    };
    assert!(summary.contains("credentials"), "{error}");
    assert!(help.iter().any(|help| help.contains("netrc")), "{help:?}");
}
