//! Packages of both worlds in one lock, for several platforms: conda packages from a channel on disk, wheels from the
//! registry through uv. Skipped loudly where either the registry or uv cannot be reached.

use std::path::Path;

use envfs_solver::{
    Builds, DEFAULT_ENVIRONMENT, Lock, LockedContents, LockedPackage, PythonTarget, Spec, Subdir, Uv, UvOptions,
    VirtualPackages, WheelRequest, WheelsError, resolve_wheels, solve,
};

use serde_json::json;

use crate::support::channel::{ChannelBuilder, Form};
use crate::support::{block_on, network};

fn uv() -> Option<Uv> {
    let options = UvOptions {
        program: None,
        search_path: std::env::var_os("PATH").unwrap_or_default(),
        cache_dir: std::env::temp_dir().join("envfs-test-uv"),
        is_offline: false,
        variable: |_| None,
    };
    Uv::find(&options).map_err(|error| eprintln!("SKIPPED: {error}")).ok()
}

/// A Python for every platform, and a package that holds a distribution.
fn channel(dir: &Path) -> String {
    let mut channel = ChannelBuilder::new();
    for subdir in ["linux-64", "linux-aarch64", "osx-arm64"] {
        channel = channel.package_with("python 3.12.8 h1_0_cpython", &[], &json!({ "subdir": subdir }));
    }
    let channel = channel.package_with("idna 3.6 pyhd_0", &["python >=3.8"], &json!({ "subdir": "noarch" }));
    channel.write(&dir.join("channel"), Form::Json).display().to_string()
}

fn contents(
    dir: &Path,
    lines: &[&str],
    match_specs: &[&str],
    subdir: Subdir,
) -> Option<Result<LockedContents, WheelsError>> {
    let uv = uv()?;
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut spec = Spec::from_match_specs(&owned(match_specs), &[channel(dir)]).unwrap();
    spec.add_requirements(&owned(lines), dir).unwrap();
    let virtual_packages = VirtualPackages::baseline(subdir);
    let request = envfs_solver::SolveRequest::new(&spec, subdir, virtual_packages.clone());
    let packages = block_on(solve(&network(dir), &request)).unwrap().into_packages();
    let target = PythonTarget::of_packages(&packages, subdir, &virtual_packages).unwrap();
    let request = WheelRequest {
        requirements: spec.requirements(),
        target: &target,
        packages: &packages,
        base: None,
        preferred: &[],
        exclude_newer: None,
        is_complete: false,
        builds: Builds::No,
        store: None,
    };
    match resolve_wheels(&uv, &request) {
        Err(WheelsError::Failed {
            summary, explanation, ..
        }) if summary.contains("cannot be reached") => {
            eprintln!("SKIPPED: {explanation}");
            None
        }
        Err(error) => Some(Err(error)),
        Ok(found) => Some(Ok(LockedContents {
            subdir,
            packages,
            wheels: found.wheels,
            sources: found.sources,
        })),
    }
}

#[test]
fn one_lock_holds_both_worlds_for_every_platform() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for (subdir, tag) in [
        ("linux-64", "x86_64"),
        ("linux-aarch64", "aarch64"),
        ("osx-arm64", "arm64"),
    ] {
        let subdir: Subdir = subdir.parse().unwrap();
        let Some(contents) = contents(dir.path(), &["markupsafe==3.0.2", "requests"], &["idna"], subdir) else {
            return;
        };
        let contents = contents.unwrap();
        let names: Vec<_> = contents.packages.iter().map(LockedPackage::name).collect();
        assert_eq!(names, ["idna", "python"]);
        assert!(
            !contents.wheels.iter().any(|wheel| wheel.name() == "idna"),
            "conda has it already"
        );
        let compiled = contents
            .wheels
            .iter()
            .find(|wheel| wheel.name() == "markupsafe")
            .unwrap();
        assert!(compiled.file_name().tag().ends_with(tag), "{compiled:?}");
        all.push(contents);
    }
    let lock = Lock::from_solutions(DEFAULT_ENVIRONMENT, &[], &all).unwrap();
    let again = Lock::parse(&lock.render().unwrap(), Path::new("pixi.lock")).unwrap();
    for contents in &all {
        let wheels = again.wheels(DEFAULT_ENVIRONMENT, contents.subdir).unwrap();
        let urls = |wheels: &[envfs_solver::LockedWheel]| {
            wheels.iter().map(|wheel| wheel.url().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(urls(&wheels), urls(&contents.wheels));
        assert_eq!(again.packages(DEFAULT_ENVIRONMENT, contents.subdir).unwrap().len(), 2);
    }
}

#[test]
fn a_contradiction_between_the_worlds_names_the_conda_package() {
    let dir = tempfile::tempdir().unwrap();
    let subdir = "linux-64".parse().unwrap();
    let Some(result) = contents(dir.path(), &["idna>=3.7"], &["idna"], subdir) else {
        return;
    };
    let Err(WheelsError::Failed { explanation, help, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(
        explanation.contains("idna>=3.7") && explanation.contains("idna==3.6"),
        "{explanation}"
    );
    assert!(
        help.iter().any(|help| help.contains("the conda package idna 3.6")),
        "{help:?}"
    );
}
