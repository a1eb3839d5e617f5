//! Every format is read again by the reader of that format, and means the same.

use std::path::Path;

use super::*;
use crate::pylock::Pylock;
use crate::spec::Spec;
use crate::subdir::Subdir;

fn linux() -> Subdir {
    "linux-64".parse().unwrap()
}

fn package(name: &str, version: &str, depends: &[&str]) -> LockedPackage {
    let json = serde_json::json!({
        "name": name, "version": version, "build": "h0_0", "build_number": 0, "subdir": "linux-64",
        "depends": depends, "md5": "0123456789abcdef0123456789abcdef", "sha256": "ab".repeat(32), "size": 7,
        "fn": format!("{name}-{version}-h0_0.conda"), "channel": "https://host/chan/",
        "url": format!("https://user:secret@host/chan/linux-64/{name}-{version}-h0_0.conda"),
        "files": [], "paths_data": { "paths": [], "paths_version": 1 },
    });
    LockedPackage::from_prefix_record_json(json.to_string().as_bytes()).unwrap()
}

fn contents() -> LockedContents {
    let wheel = |file: &str| {
        LockedWheel::new(&format!("https://user:secret@host/{file}"))
            .unwrap()
            .with_sha256([7; 32])
    };
    LockedContents {
        subdir: linux(),
        packages: vec![
            package("python", "3.12.8", &["zlib >=1.2,<2"]),
            package("zlib", "1.3", &[]),
        ],
        wheels: vec![
            wheel("demo-1.0-py3-none-any.whl").with_requirements(vec!["six>=1".to_owned()], Some(">=3.8".to_owned())),
            wheel("six-1.16-py2.py3-none-any.whl"),
        ],
        sources: Vec::new(),
    }
}

/// One of each kind.
fn sources() -> Vec<LockedSource> {
    let archive = SourcePlace::Archive {
        url: "https://user:secret@host/sdist-1.tar.gz".parse().unwrap(),
        sha256: Some([8; 32]),
        subdirectory: None,
        is_direct: false,
    };
    let commit = "95c084960b00833f6d008202445f89258a785f3b";
    let repository = format!("https://user:secret@host/git?rev=main&subdirectory=in#{commit}");
    vec![
        LockedSource::new(
            "dir",
            None,
            SourcePlace::of_directory("/p".as_ref(), "/".as_ref(), true),
        ),
        LockedSource::new("git", None, SourcePlace::of_git_url(&repository).unwrap()),
        LockedSource::new("sdist", Some("1".to_owned()), archive),
    ]
}

#[test]
fn what_is_built_from_source_is_exported_as_such() {
    let commit = "95c084960b00833f6d008202445f89258a785f3b";
    let contents = LockedContents {
        sources: sources(),
        ..contents()
    };
    let write = |format| write_of(contents.clone(), format, |_| {});
    let requirements = write(ExportFormat::Requirements);
    let git = format!("git @ git+https://host/git@{commit}#subdirectory=in");
    for line in ["-e /p", &git, "sdist==1"] {
        assert!(
            requirements.lines().any(|found| found == line),
            "{line}: {requirements}"
        );
        assert!(write(ExportFormat::Environment).contains(line), "{line}");
    }
    let pylock = write(ExportFormat::Pylock);
    let read = Pylock::parse(&pylock, Path::new("/x/pylock.toml")).unwrap();
    let target = crate::python::tests::target("3.12.8", "linux-64");
    let read = read.select(&target, &crate::requirements::Parts::default()).unwrap();
    let public: Vec<_> = sources().iter().map(LockedSource::line).collect();
    assert_eq!(read.sources.iter().map(LockedSource::line).collect::<Vec<_>>(), public);
    let lock = Lock::parse(&write(ExportFormat::Pixi), "/x/pixi.lock".as_ref()).unwrap();
    let read = lock.sources(DEFAULT_ENVIRONMENT, linux()).unwrap();
    assert_eq!(read.iter().map(LockedSource::line).collect::<Vec<_>>(), public);
    assert_eq!((read[2].sha256(), read[2].version()), (Some([8; 32]), Some("1")));
    assert_eq!(ExportFormat::CondaLock.left_out(&contents), (0, 2));
}

fn write(format: ExportFormat, change: impl Fn(&mut Export<'_>)) -> String {
    write_of(contents(), format, change)
}

fn write_of(contents: LockedContents, format: ExportFormat, change: impl Fn(&mut Export<'_>)) -> String {
    let contents = [contents];
    let variables = BTreeMap::from([("MODE".to_owned(), "1.50".to_owned())]);
    let channels = ["https://host/chan/".to_owned()];
    let mut request = Export {
        name: Some("demo"),
        channels: &channels,
        contents: &contents,
        variables: &variables,
        no_builds: false,
        asked: None,
    };
    change(&mut request);
    let text = export(&request, format).unwrap();
    assert!(!text.contains("secret"), "{text}");
    text
}

#[test]
fn an_environment_yml_asks_for_what_there_is() {
    let read = |text: &str| Spec::parse_environment_yml(text, Path::new("/p/environment.yml")).unwrap();
    let spec = read(&write(ExportFormat::Environment, |_| {}));
    assert_eq!(spec.match_specs(linux()), ["python=3.12.8=h0_0", "zlib=1.3=h0_0"]);
    assert_eq!(spec.requirements().lines(), ["demo==1.0", "six==1.16"]);
    assert_eq!(spec.variables()["MODE"], "1.50");
    assert_eq!(
        (spec.name(), spec.channels()),
        (Some("demo"), &["https://host/chan/".to_owned()][..])
    );
    let spec = read(&write(ExportFormat::Environment, |request| request.no_builds = true));
    assert_eq!(spec.match_specs(linux()), ["python=3.12.8", "zlib=1.3"]);
    let spec = read(&write(ExportFormat::Environment, |request| {
        request.asked = Some(Asked::guess(&contents()));
    }));
    assert_eq!(spec.match_specs(linux()), ["python=3.12.8"]);
    assert_eq!(spec.requirements().lines(), ["demo==1.0"]);
}

#[test]
fn locks_hold_packages_and_wheels() {
    for format in [ExportFormat::Pixi, ExportFormat::CondaLock] {
        let text = write(format, |_| {});
        let lock = Lock::parse(&text, Path::new("x.lock")).unwrap();
        let packages = lock.packages(DEFAULT_ENVIRONMENT, linux()).unwrap();
        let names: Vec<_> = packages.iter().map(LockedPackage::to_string).collect();
        assert_eq!(names, ["python 3.12.8 h0_0", "zlib 1.3 h0_0"], "{format}");
        assert!(
            packages.iter().all(|package| package.sha256() == Some([0xab; 32])),
            "{format}"
        );
        let wheels = lock.wheels(DEFAULT_ENVIRONMENT, linux()).unwrap();
        assert_eq!(wheels.len(), 2, "{format}");
        assert_eq!(wheels[0].sha256(), Some([7; 32]), "{format}");
    }
}

#[test]
fn an_explicit_file_holds_the_conda_packages_in_order() {
    let text = write(ExportFormat::Explicit, |_| {});
    let lock = Lock::parse(&text, Path::new("explicit.txt")).unwrap();
    let packages = lock.packages(DEFAULT_ENVIRONMENT, linux()).unwrap();
    assert_eq!(packages[0].name(), "zlib", "what is needed comes first");
    assert!(packages[0].md5().is_some());
    assert_eq!(ExportFormat::Explicit.left_out(&contents()), (0, 2));
}

#[test]
fn a_pylock_holds_the_wheels() {
    let text = write(ExportFormat::Pylock, |_| {});
    let lock = Pylock::parse(&text, Path::new("pylock.toml")).unwrap();
    let names: Vec<_> = lock
        .packages()
        .iter()
        .map(|package| package.name().to_owned())
        .collect();
    assert_eq!(names, ["demo", "six"]);
    assert!(text.contains("requires-python = \"==3.12.*\""), "{text}");
}

#[test]
fn requirements_have_digests() {
    let text = write(ExportFormat::Requirements, |_| {});
    let expected = format!("demo==1.0 \\\n    --hash=sha256:{}\n", "07".repeat(32));
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn formats_have_names() {
    for (name, format) in FORMATS {
        assert_eq!(name.parse(), Ok(format));
        assert_eq!(format.to_string(), name);
    }
    assert!(
        "yaml"
            .parse::<ExportFormat>()
            .unwrap_err()
            .to_string()
            .contains("conda-lock")
    );
}

#[test]
fn what_yaml_could_misread_is_quoted() {
    assert_eq!(scalar("python=3.12"), "python=3.12");
    for text in ["1.50", "yes", "a: b", "- x", "", "a #b", "*"] {
        assert!(scalar(text).starts_with('"'), "{text}");
    }
}

#[test]
fn what_was_asked_for_is_what_installers_note() {
    let noted = |names: &[&str]| {
        let mut contents = contents();
        contents.wheels = contents
            .wheels
            .into_iter()
            .map(|wheel| {
                let is_requested = names.contains(&wheel.name());
                wheel.with_requested(is_requested)
            })
            .collect();
        Asked::guess(&contents).requirements
    };
    assert_eq!(noted(&["six"]), ["six==1.16"]);
    // Where nobody noted anything: what nothing else needs.
    assert_eq!(noted(&[]), ["demo==1.0"]);
}

#[test]
fn a_wheel_of_no_index_is_named_by_its_place() {
    let mut contents = contents();
    let direct_url = Some("{}".to_owned());
    contents.wheels = contents
        .wheels
        .into_iter()
        .map(|wheel| wheel.with_direct_url(direct_url.clone()))
        .collect();
    for format in [ExportFormat::Environment, ExportFormat::Requirements] {
        let text = write_of(contents.clone(), format, |_| {});
        assert!(text.contains("demo @ https://host/demo-1.0-py3-none-any.whl"), "{text}");
    }
}
