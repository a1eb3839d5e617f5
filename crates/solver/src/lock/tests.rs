//! Lock files of every format: what is understood, what is refused and what is written.

use std::path::Path;

use super::*;
use crate::source::SourcePlace;

fn parse(text: &str) -> Result<Lock, LockError> {
    Lock::parse(text, Path::new("/project/some.lock"))
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn linux() -> Subdir {
    "linux-64".parse().unwrap()
}

fn osx() -> Subdir {
    "osx-arm64".parse().unwrap()
}

fn urls(lock: &Lock, environment: &str, subdir: Subdir) -> Vec<String> {
    let packages = lock.packages(environment, subdir).unwrap();
    packages.iter().map(|package| package.url().to_owned()).collect()
}

const ZLIB: &str = "https://example.com/chan/linux-64/zlib-1.3.1-h0_0.conda";

/// A package as a solve gives it.
fn solved(name: &str, subdir: &str, base: &str) -> LockedPackage {
    let file = format!("{name}-1.0-h0_0.conda");
    let json = serde_json::json!({
        "name": name, "version": "1.0", "build": "h0_0", "build_number": 0, "depends": ["zlib >=1.2,<2"],
        "constrains": ["other <3"], "subdir": subdir, "timestamp": 1_700_000_000_000_u64, "license": "MIT",
        "fn": file, "url": format!("{base}/{subdir}/{file}"), "channel": format!("{base}/"), "size": 1234,
        "sha256": "ab".repeat(32), "md5": "cd".repeat(16), "files": [], "paths_data": {"paths": [], "paths_version": 1},
    });
    LockedPackage::from_prefix_record_json(&serde_json::to_vec(&json).unwrap()).unwrap()
}

fn contents(subdir: Subdir, packages: Vec<LockedPackage>) -> LockedContents {
    LockedContents {
        subdir,
        packages,
        wheels: Vec::new(),
        sources: Vec::new(),
    }
}

#[test]
fn an_explicit_file_is_understood() {
    let lock = parse(&format!(
        "# This file may be used to create an environment\n# platform: linux-64\n@EXPLICIT\n{ZLIB}#{}\n\n\
         https://example.com/chan/noarch/tqdm-4.66-pyhd_0.tar.bz2#sha256:{}\n\
         https://example.com/chan/linux-64/epoch-1%212.0-0.conda#{}\nfile:///chan/linux-64/a-1-0.conda\n./b-1-0.conda#{}\n",
        "0".repeat(32),
        "1".repeat(64),
        "2".repeat(64),
        "3".repeat(32),
    ))
    .unwrap();
    assert_eq!(lock.format(), LockFormat::Explicit);
    assert_eq!(lock.environments(), [DEFAULT_ENVIRONMENT]);
    assert_eq!(lock.subdirs(DEFAULT_ENVIRONMENT).unwrap(), [linux()]);
    let packages = lock.packages(DEFAULT_ENVIRONMENT, linux()).unwrap();
    let digests: Vec<_> = packages
        .iter()
        .map(|package| (package.md5().is_some(), package.sha256().is_some()))
        .collect();
    assert_eq!(
        digests,
        [
            (true, false),
            (false, true),
            (false, true),
            (false, false),
            (true, false)
        ]
    );
    let shown: Vec<_> = packages.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["zlib 1.3.1 h0_0", "tqdm 4.66 pyhd_0", "epoch 1!2.0 0", "a 1 0", "b 1 0"]
    );
    assert_eq!(packages[0].url(), ZLIB);
    assert_eq!(packages[0].channel(), Some("https://example.com/chan/"));
    assert_eq!(packages[4].url(), "file:///project/b-1-0.conda");
    assert!(
        packages
            .iter()
            .all(|package| !package.is_complete() && package.depends().is_empty())
    );
}

#[test]
fn a_line_that_is_wrong_is_named() {
    let cases = [
        (
            "# platform: linux64\n@EXPLICIT\n",
            "/project/some.lock:1: 'linux64' is not a platform",
        ),
        ("@EXPLICIT\nhttp://[\n", "/project/some.lock:2: 'http://[' is not a URL"),
        (
            "@EXPLICIT\n\nhttps://h/c/linux-64/a-1-0.conda#123\n",
            "some.lock:3: '#123' is not a digest",
        ),
        (
            "@EXPLICIT\nhttps://h/c/linux-64/a-1-0.zip\n",
            "some.lock:2: https://h/c/linux-64/a-1-0.zip is not a conda package",
        ),
        (
            "@EXPLICIT\nhttps://user:pw@h/c/linux-64/a.conda\n",
            "some.lock:2: https://user:********@h/c/linux-64/a.conda is not",
        ),
        (
            "@EXPLICIT\nhttps://h/c/linux-64/a-1-0.conda\nhttps://h/c/osx-64/b-1-0.conda\n",
            "is for osx-64 but the file is for linux-64",
        ),
        (
            "# platform: osx-64\n@EXPLICIT\nhttps://h/c/linux-64/a-1-0.conda\n",
            "is for linux-64 but the file is for osx-64",
        ),
    ];
    for (text, wanted) in cases {
        let message = refused(text);
        assert!(message.contains(wanted), "{text:?} gives {message}");
    }
}

#[test]
fn packages_for_every_platform_fit_every_platform() {
    let lock = parse("@EXPLICIT\nhttps://h/c/noarch/a-1-0.conda\n").unwrap();
    assert_eq!(
        urls(&lock, DEFAULT_ENVIRONMENT, linux()),
        ["https://h/c/noarch/a-1-0.conda"]
    );
    assert_eq!(
        urls(&lock, DEFAULT_ENVIRONMENT, osx()),
        ["https://h/c/noarch/a-1-0.conda"]
    );
}

#[test]
fn what_is_solved_is_written_and_read_again_whole() {
    let channels = ["https://example.com/chan/".to_owned(), "file:///chan/".to_owned()];
    for base in ["https://example.com/chan", "file:///chan"] {
        let linux_packages = vec![solved("a", "linux-64", base), solved("b", "noarch", base)];
        let osx_packages = vec![solved("a", "osx-arm64", base), solved("b", "noarch", base)];
        let solutions = [
            contents(linux(), linux_packages.clone()),
            contents(osx(), osx_packages.clone()),
        ];
        let lock = Lock::from_solutions(DEFAULT_ENVIRONMENT, &channels, &solutions).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pixi.lock");
        lock.write(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let again = Lock::read(&path).unwrap();
        assert_eq!(again.format(), LockFormat::Pixi(7));
        assert_eq!(again.channels(DEFAULT_ENVIRONMENT).unwrap(), channels);
        assert_eq!(again.subdirs(DEFAULT_ENVIRONMENT).unwrap(), [linux(), osx()]);
        assert_eq!(again.packages(DEFAULT_ENVIRONMENT, linux()).unwrap(), linux_packages);
        assert_eq!(again.packages(DEFAULT_ENVIRONMENT, osx()).unwrap(), osx_packages);
        assert_eq!(again.render().unwrap(), lock.render().unwrap());

        // The order in which packages come does not show.
        let mut turned = solutions.clone();
        turned.reverse();
        turned.iter_mut().for_each(|contents| contents.packages.reverse());
        let turned = Lock::from_solutions(DEFAULT_ENVIRONMENT, &channels, &turned).unwrap();
        assert_eq!(turned.render().unwrap(), lock.render().unwrap());
    }
}

#[test]
fn credentials_are_not_written() {
    let channels = ["https://me:secret@h/t/secret/c/".to_owned()];
    let packages = vec![solved("a", "linux-64", "https://me:secret@h/t/secret/c")];
    let text = Lock::from_solutions("default", &channels, &[contents(linux(), packages)])
        .unwrap()
        .render()
        .unwrap();
    assert!(
        !text.contains("secret") && text.contains("https://h/c/linux-64/a-1.0-h0_0.conda"),
        "{text}"
    );
}

#[test]
fn an_empty_environment_is_one_too() {
    let lock = Lock::from_solutions("empty", &[], &[contents(linux(), Vec::new())]).unwrap();
    let again = parse(&lock.render().unwrap()).unwrap();
    assert_eq!(again.packages("empty", linux()).unwrap(), []);
}

#[test]
fn a_lock_replaces_another_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pixi.lock");
    std::fs::write(&path, "old").unwrap();
    let lock = Lock::from_solutions(
        "default",
        &[],
        &[contents(linux(), vec![solved("a", "linux-64", "https://h/c")])],
    )
    .unwrap();
    lock.write(&path).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("version: 7\n"));

    let error = lock.write(&dir.path().join("missing/pixi.lock")).unwrap_err();
    assert!(matches!(error, LockError::Io { action: "write", .. }), "{error}");
}

#[test]
fn too_little_known_is_not_locked() {
    let explicit = parse(&format!("@EXPLICIT\n{ZLIB}\n")).unwrap();
    let packages = explicit.packages(DEFAULT_ENVIRONMENT, linux()).unwrap();
    let error = Lock::from_solutions("default", &[], &[contents(linux(), packages)]).unwrap_err();
    assert!(matches!(error, LockError::Incomplete { .. }), "{error}");
}

#[test]
fn what_is_asked_for_and_missing_is_named_beside_what_there_is() {
    let lock = Lock::from_solutions("default", &[], &[contents(linux(), Vec::new())]).unwrap();
    let error = lock.packages("test", linux()).unwrap_err().to_string();
    assert!(error.contains("no environment 'test'; it has: default"), "{error}");
    let error = lock.packages("default", osx()).unwrap_err().to_string();
    assert!(error.contains("not locked for osx-arm64, only for linux-64"), "{error}");
}

#[test]
fn wheels_are_read_and_sources_told_apart() {
    let lock = parse(
        "version: 6\nenvironments:\n  default:\n    channels:\n    - url: https://example.com/chan/\n    indexes:\n    - https://example.com/simple\n    packages:\n      linux-64:\n      - pypi: https://example.com/w/six-1.16.0-py2.py3-none-any.whl\n      osx-arm64:\n      - pypi: https://example.com/w/old-1.0.tar.gz\npackages:\n- pypi: https://example.com/w/six-1.16.0-py2.py3-none-any.whl\n  name: six\n  version: 1.16.0\n  sha256: 8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n- pypi: https://example.com/w/old-1.0.tar.gz\n  name: old\n  version: '1.0'\n  sha256: 8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n",
    )
    .unwrap();
    assert_eq!(lock.packages("default", linux()).unwrap(), []);
    let wheels = lock.wheels("default", linux()).unwrap();
    assert_eq!((wheels[0].name(), wheels[0].version()), ("six", "1.16.0"));
    assert_eq!(wheels[0].sha256().unwrap()[..2], [0x8a, 0xbb]);
    assert_eq!(lock.wheels("default", osx()).unwrap(), []);
    let sources = lock.sources("default", osx()).unwrap();
    assert_eq!(
        (sources[0].to_string().as_str(), sources[0].sha256().unwrap()[0]),
        ("old 1.0", 0x8a)
    );
}

#[test]
fn wheels_are_written_and_read_again_whole() {
    let wheel = LockedWheel::new("https://me:secret@h/w/demo-1.0+x-py3-none-any.whl")
        .unwrap()
        .with_sha256([7; 32])
        .with_requirements(
            vec!["idna>=3 ; python_full_version < '3.13'".to_owned()],
            Some(">=3.9".to_owned()),
        );
    let contents = |subdir| LockedContents {
        wheels: vec![wheel.clone()],
        ..contents(subdir, vec![solved("a", "linux-64", "https://h/c")])
    };
    let lock = Lock::from_solutions("default", &[], &[contents(linux()), contents(osx())]).unwrap();
    let text = lock.render().unwrap();
    assert!(!text.contains("secret"), "{text}");
    let again = parse(&text).unwrap();
    assert_eq!(again.render().unwrap(), text);
    for subdir in [linux(), osx()] {
        let wheels = again.wheels("default", subdir).unwrap();
        assert_eq!(wheels[0].sha256(), Some([7; 32]));
        assert_eq!(wheels[0].version(), "1.0+x");
        assert_eq!(wheels[0].requires_python(), Some(">=3.9"));
        assert_eq!(wheels[0].requires_dist(), wheel.requires_dist());
        assert_eq!(again.packages("default", subdir).unwrap().len(), 1);
    }
}

#[test]
fn sources_beside_a_lock_are_named_relative_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = |path: &str, is_editable| SourcePlace::of_directory(path.as_ref(), directory.path(), is_editable);
    let sources = vec![
        LockedSource::new("away", None, place("/elsewhere/away", false)),
        LockedSource::new("here", None, place(".", true)),
        LockedSource::new("inside", None, place("lib/inside", false)),
    ];
    let contents = LockedContents {
        sources: sources.clone(),
        ..contents(linux(), Vec::new())
    };
    let path = directory.path().join("pixi.lock");
    Lock::from_solutions("default", &[], &[contents])
        .unwrap()
        .write(&path)
        .unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("./lib/inside") && !text.contains(directory.path().to_str().unwrap()),
        "{text}"
    );
    let read = Lock::read(&path).unwrap().sources("default", linux()).unwrap();
    assert_eq!(read, sources);
}

#[test]
fn a_file_that_is_no_lock_or_a_broken_one_is_told_apart() {
    for text in [
        "",
        "hello",
        "name: x\ndependencies: [a]\n",
        "[[package]]\nname = \"x\"\n",
        "version: 1\n",
    ] {
        assert!(refused(text).contains("is not a lock file"), "{text:?}");
        assert!(!Lock::is_lock(text));
    }
    let newer = refused("version: 99\nenvironments: {}\npackages: []\n");
    assert!(
        newer.contains("is not a valid pixi.lock") && newer.contains("99"),
        "{newer}"
    );
    let broken = refused("version: 6\nenvironments:\n  default: [\n");
    assert!(
        broken.contains("is not a valid pixi.lock") && broken.contains("line"),
        "{broken}"
    );
    let broken = refused("version: 1\nmetadata:\n  content_hash: {}\npackage:\n- name: x\n  optional: false\n");
    assert!(broken.contains("is not a valid conda-lock.yml"), "{broken}");
    let error = Lock::read(Path::new("/nowhere/pixi.lock")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read lock file /nowhere/pixi.lock");
}

mod random {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_change_to_a_lock_makes_the_reader_panic(version in 1_u8..9, at in 0_usize..1000, with in "[a-z0-9:/. \n-]{0,12}", len in 0_usize..40) {
            let text = format!(
                "version: {version}\nenvironments:\n  default:\n    channels:\n    - url: https://h/c/\n    packages:\n      linux-64:\n      - conda: https://h/c/linux-64/a-1-0.conda\npackages:\n- kind: conda\n  conda: https://h/c/linux-64/a-1-0.conda\n  name: a\n  version: '1'\n  build: '0'\n  subdir: linux-64\n  url: https://h/c/linux-64/a-1-0.conda\n  sha256: {}\n  depends:\n  - b >=1\n",
                "ab".repeat(32)
            );
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            let text = format!("{}{with}{}", &text[..at], &text[end..]);
            if let Ok(lock) = super::parse(&text) {
                for environment in lock.environments() {
                    for subdir in lock.subdirs(environment).unwrap() {
                        let _ = lock.packages(environment, subdir);
                    }
                }
                let _ = lock.render();
            }
        }

        #[test]
        fn no_text_makes_the_explicit_reader_panic(text in "(@EXPLICIT\n|https://|file:///|#|[a-z0-9./\n%-]){0,40}") {
            let _ = super::parse(&format!("@EXPLICIT\n{text}"));
        }
    }
}

#[test]
fn names_at_which_the_parser_panics_are_refused() {
    let text = "version: 6\nenvironments:\n  default:\n    channels: []\n    packages:\n      linux-64:\n      - pypi: https://h.example/y-1-py3-none-any.whl\npackages:\n- pypi: https://h.example/y-1-py3-none-any.whl\n  name: y\n  version: '1'\n  requires_dist:\n  - z[a-]>=1\n";
    let error = Lock::parse(text, Path::new("pixi.lock")).unwrap_err().to_string();
    assert!(error.contains("the extra `a-`"), "{error}");
    let hidden = text.replace("z[a-]>=1", "\"z[a\\x2d]>=1\"");
    let error = Lock::parse(&hidden, Path::new("pixi.lock")).unwrap_err().to_string();
    assert!(error.contains("the extra `a-`"), "{error}");

    let other = text.replace("\n  - z[a-]>=1", " [z- >=1]");
    let error = Lock::parse(&other, Path::new("pixi.lock")).unwrap_err().to_string();
    assert!(error.contains("the name `z-`"), "{error}");

    // The reader of this format looks at names itself, before it hands them on.
    for dependency in ["z[a-]: '>=1'", "z: '[a-]>=1'", "z-: '>=1'"] {
        let text = format!(
            "version: 1\nmetadata:\n  content_hash:\n    linux-64: {hash}\n  channels: []\n  platforms: [linux-64]\n  sources: []\n\
             package:\n- name: y\n  version: '1'\n  manager: pip\n  platform: linux-64\n  dependencies:\n    {dependency}\n  \
             url: https://h.example/y-1-py3-none-any.whl\n  hash:\n    sha256: {hash}\n  category: main\n  optional: false\n",
            hash = "ab".repeat(32),
        );
        let error = Lock::parse(&text, Path::new("conda-lock.yml")).unwrap_err().to_string();
        assert!(error.contains("package[0].dependencies.z"), "{error}");
    }
}
