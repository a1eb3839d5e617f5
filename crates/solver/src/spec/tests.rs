//! Specs as people write them, and as they mistype them.

use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Spec, SpecError> {
    Spec::parse_environment_yml(text, Path::new("/project/environment.yml"))
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn linux() -> Subdir {
    "linux-64".parse().unwrap()
}

#[test]
fn a_whole_environment_yml_is_understood() {
    let spec = parse(
        "
name: analysis
channels:
  - conda-forge
  - ./local
  - https://example.com/channel
  - nodefaults
dependencies:
  - python=3.12
  - 'numpy >=1.26,<3'
  - pytorch=2.4=cuda*
  - bioconda::samtools
  - libgcc-ng=9.3.0=h5101ec6_17
  - pip
  - appnope  # [osx]
  - jemalloc # [linux]
variables:
  MODE: fast
  THREADS: 4
  RATIO: 1.50
  QUOTED: 'yes'
prefix: /home/me/envs/analysis
category: dev
platforms: [linux-64, osx-arm64]
",
    )
    .unwrap();
    assert_eq!(spec.name(), Some("analysis"));
    assert_eq!(
        spec.channels(),
        ["conda-forge", "/project/local", "https://example.com/channel"]
    );
    let common = [
        "python=3.12",
        "numpy >=1.26,<3",
        "pytorch=2.4=cuda*",
        "bioconda::samtools",
        "libgcc-ng=9.3.0=h5101ec6_17",
        "pip",
    ];
    assert_eq!(spec.match_specs(linux()), [common.as_slice(), &["jemalloc"]].concat());
    assert_eq!(
        spec.match_specs("osx-64".parse().unwrap()),
        [common.as_slice(), &["appnope"]].concat()
    );
    let variables: Vec<_> = spec
        .variables()
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(variables, ["MODE=fast", "QUOTED=yes", "RATIO=1.50", "THREADS=4"]);
    assert_eq!(spec.platforms(), [linux(), "osx-arm64".parse().unwrap()]);
    assert_eq!(spec.origin(), Some(Path::new("/project/environment.yml")));
}

#[test]
fn a_base_is_a_signature_or_a_path_beside_the_file() {
    let base = |text: &str| parse(&format!("base: {text}\n")).unwrap().base().unwrap().to_owned();
    assert_eq!(base("0123abcd"), "0123abcd");
    assert_eq!(base("'00000000'"), "00000000");
    assert_eq!(base("12345678"), "12345678");
    assert_eq!(base("base.yml"), "/project/base.yml");
    assert_eq!(base("../shared/pixi.lock"), "/project/../shared/pixi.lock");
    assert_eq!(base("/abs/pixi.lock"), "/abs/pixi.lock");
}

#[test]
fn empty_sections_ask_for_nothing() {
    let spec = parse("channels:\ndependencies:\n  - pip:\nvariables:\n").unwrap();
    assert!(spec.channels().is_empty() && spec.match_specs(linux()).is_empty() && spec.variables().is_empty());
    assert!(parse("dependencies: []\n").is_ok());
}

#[test]
fn a_typo_is_named_with_its_place_and_what_would_be_right() {
    let cases = [
        (
            "name: x\ndependancies:\n  - a\n",
            "/project/environment.yml:2:1: unknown key 'dependancies'; did you mean 'dependencies'?",
        ),
        (
            "channel:\n  - a\ndependencies: [a]\n",
            "environment.yml:1:1: unknown key 'channel'; did you mean 'channels'?",
        ),
        (
            "dependencies: [a]\nzzz: 1\n",
            "2:1: unknown key 'zzz'; known keys are name, channels",
        ),
        (
            "dependencies:\n  - numpy=>1\n",
            "2:5: 'numpy=>1' is not a MatchSpec: write '>=' instead of '=>'",
        ),
        (
            "dependencies:\n  - python\n  - numpy >=1,,2\n",
            "3:5: 'numpy >=1,,2' is not a MatchSpec",
        ),
        ("dependencies:\n  - '>=1'\n", "2:5: '>=1' is not a MatchSpec"),
        ("dependencies:\n  - '*'\n", "2:5: '*' is not a MatchSpec"),
        (
            "dependencies:\n  - numpy:\n",
            "2:5: 'numpy:' is no section of dependencies",
        ),
        (
            "dependencies:\n  - npm:\n    - left-pad\n",
            "2:5: 'npm:' is no section of dependencies",
        ),
        ("dependencies:\n  - [a, b]\n", "environment.yml:2:"),
        ("dependencies: numpy\n", "environment.yml:1:"),
        ("dependencies:\n  - a\n - b\n", "environment.yml:3:"),
        ("dependencies: [a]\ndependencies: [b]\n", "environment.yml:2:1: "),
        (
            "dependencies: [a]\nplatforms: [linux64]\n",
            "2:13: 'linux64' is not a platform",
        ),
        (
            "channels: [a]\n",
            "is not an environment.yml: it has no key 'dependencies'",
        ),
        ("- numpy\n", "is not an environment.yml: it does not begin with keys"),
        (
            "numpy>=1\nscipy\n",
            "is not an environment.yml: it does not begin with keys",
        ),
        ("", "is not an environment.yml: "),
        (
            "dependencies:\n  - numpy # [linux]\n  - {{ compiler }}\n",
            "environment.yml:3:",
        ),
    ];
    for (text, wanted) in cases {
        let message = refused(text);
        assert!(
            message.contains(wanted),
            "{text:?}\n  gives {message}\n  not   {wanted}"
        );
    }
}

#[test]
fn a_pip_section_is_read_with_its_places() {
    let spec = parse("dependencies:\n  - python\n  - pip:\n    - requests\n    - idna ==3.7\n").unwrap();
    assert!(!spec.requirements().is_empty());
    assert_eq!(spec.match_specs(linux()), ["python"]);
    let message = refused("dependencies:\n  - pip:\n    - requests=2\n");
    assert!(
        message.starts_with("/project/environment.yml:3: 'requests=2' is not a requirement"),
        "{message}"
    );
    let message = refused("dependencies:\n  - pip:\n    - -r nowhere.txt\n");
    assert!(
        message.starts_with("/project/environment.yml:3: cannot read /project/nowhere.txt"),
        "{message}"
    );
}

#[test]
fn requirements_bring_a_python() {
    let spec = parse("dependencies:\n  - pip:\n    - requests\n").unwrap();
    assert_eq!(spec.match_specs(linux()), ["python"]);
    let mut spec = parse("dependencies:\n  - conda-forge::python=3.12\n").unwrap();
    spec.add_requirements(&["requests".to_owned()], Path::new("/")).unwrap();
    assert_eq!(spec.match_specs(linux()), ["conda-forge::python=3.12"]);
    let mut spec = parse("dependencies:\n  - python-dateutil\n").unwrap();
    spec.add_requirements(&["requests".to_owned()], Path::new("/")).unwrap();
    assert_eq!(spec.match_specs(linux()), ["python-dateutil", "python"]);
}

#[test]
fn the_files_name_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let project = write(
        "pyproject.toml",
        "[project]\nname = 'demo'\nrequires-python = '>=3.10, <4'\ndependencies = ['httpx']\n",
    );
    let spec = Spec::read(&project, &Parts::default()).unwrap();
    assert_eq!(spec.name(), Some("demo"));
    assert_eq!(spec.match_specs(linux()), ["python >=3.10,<4"]);
    let requirements = write("requirements.txt", "httpx\n");
    let spec = Spec::read(&requirements, &Parts::default()).unwrap();
    assert_eq!(spec.match_specs(linux()), ["python"]);
    let parts = Parts {
        extras: vec!["x".to_owned()],
        ..Parts::default()
    };
    let error = Spec::read(&requirements, &parts).unwrap_err().to_string();
    assert!(error.contains("no project"), "{error}");
}

#[test]
fn arguments_are_checked_and_come_after_the_file() {
    let mut spec = parse("channels: [b, c]\ndependencies: [x]\n").unwrap();
    spec.add_match_specs(&["y >1".to_owned()]).unwrap();
    spec.prepend_channels(&["a".to_owned(), "c".to_owned(), "nodefaults".to_owned()]);
    spec.set_base("0123abcd");
    assert_eq!(spec.match_specs(linux()), ["x", "y >1"]);
    assert_eq!(spec.channels(), ["a", "c", "b"]);
    assert_eq!(spec.base(), Some("0123abcd"));

    let error = Spec::from_match_specs(&["numpy=<2".to_owned()], &[])
        .unwrap_err()
        .to_string();
    assert_eq!(error, "'numpy=<2' is not a MatchSpec: write '<=' instead of '=<'");
}

#[test]
fn a_missing_file_is_named() {
    let error = Spec::read(Path::new("/nowhere/environment.yml"), &Parts::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nowhere/environment.yml");
}

mod random {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(name: |channels:|dependencies:|variables:|base: |  - |\n|[a-z=<>*:\\[\\]{}#&!'\" ]){0,40}") {
            let _ = super::parse(&text);
        }

        #[test]
        fn no_argument_makes_the_reader_panic(text in "\\PC{0,30}") {
            let _ = super::Spec::from_match_specs(&[text], &[]);
        }
    }
}
