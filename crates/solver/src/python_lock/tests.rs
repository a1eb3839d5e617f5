//! Locks of three tools, fresh and stale.

use std::fs;

use super::*;
use crate::python::tests::target;
use crate::source::LockedSource;

const UV: &str = r#"
version = 1
revision = 3
requires-python = ">=3.10"
[[package]]
name = "demo"
version = "1"
source = { editable = "." }
dependencies = [
    { name = "fast", extra = ["more"] },
    { name = "wincolor", marker = "sys_platform == 'win32'" },
]
[package.optional-dependencies]
gui = [{ name = "tool" }]
[package.dev-dependencies]
dev = [{ name = "built" }]
[[package]]
name = "fast"
version = "2"
source = { registry = "https://host/simple" }
wheels = [
    { url = "https://host/fast-2-cp312-cp312-manylinux_2_17_x86_64.whl", hash = "sha256:0000000000000000000000000000000000000000000000000000000000000002", size = 7 },
    { url = "https://host/fast-2-py3-none-any.whl" },
]
[package.optional-dependencies]
more = [{ name = "tool" }]
[[package]]
name = "tool"
version = "3"
source = { registry = "https://host/simple" }
wheels = [{ url = "https://host/tool-3-py3-none-any.whl" }]
[[package]]
name = "wincolor"
version = "1"
source = { registry = "https://host/simple" }
wheels = [{ url = "https://host/wincolor-1-py3-none-any.whl" }]
[[package]]
name = "built"
version = "1"
source = { git = "https://host/built?rev=main#95c084960b00833f6d008202445f89258a785f3b" }
"#;

const POETRY_OLD: &str = r#"
[[package]]
name = "app"
version = "1.0"
category = "main"
optional = false
python-versions = ">=3.8"
[package.dependencies]
colorama = { version = "*", markers = "platform_system == \"Windows\"" }
six = ">=1.5"
[[package]]
name = "colorama"
version = "0.4"
category = "main"
optional = false
python-versions = "*"
[[package]]
name = "six"
version = "1.16.0"
category = "main"
optional = false
python-versions = "*"
[[package]]
name = "pytest"
version = "7"
category = "dev"
optional = false
python-versions = "*"
[metadata]
lock-version = "1.1"
python-versions = "~2.7 || ^3.8"
content-hash = "ab"
[metadata.files]
six = [{ file = "six-1.16.0-py2.py3-none-any.whl", hash = "sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254" }]
"#;

const POETRY_NEW: &str = r#"
[[package]]
name = "anyio"
version = "4"
optional = false
python-versions = ">=3.9"
groups = ["main"]
files = []
[[package]]
name = "exceptiongroup"
version = "1"
optional = false
python-versions = ">=3.7"
groups = ["main"]
markers = "python_version < \"3.11\""
files = []
[[package]]
name = "mypy"
version = "1"
optional = false
python-versions = ">=3.9"
groups = ["lint"]
files = []
[[package]]
name = "local"
version = "1"
optional = true
python-versions = "*"
groups = ["main"]
files = []
[package.source]
type = "directory"
url = "../local"
[extras]
all = ["local"]
[metadata]
lock-version = "2.1"
python-versions = ">=3.9,<4.0"
content-hash = "ab"
"#;

fn parts(extras: &[&str], groups: &[&str]) -> Parts {
    Parts {
        extras: extras.iter().map(|name| (*name).to_owned()).collect(),
        groups: groups.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn select(text: &str, parts: &Parts) -> Result<Vec<String>, PythonLockError> {
    let directory = tempfile::tempdir().unwrap();
    let lock = PythonLock::parse(text, &directory.path().join("a.lock"))?;
    Ok(match lock.select(&target("3.12.8", "linux-64"), parts)? {
        Selection::Exact(found) => {
            let wheels = found.wheels.iter().map(|wheel| wheel.file_name().to_string());
            wheels.chain(found.sources.iter().map(LockedSource::describe)).collect()
        }
        Selection::Pins(pins) => pins.wanted.iter().map(crate::requirements::Requirement::line).collect(),
    })
}

#[test]
fn a_uv_lock_is_walked_for_one_python() {
    let fast = "fast-2-cp312-cp312-manylinux_2_17_x86_64.whl";
    let found = select(UV, &Parts::default()).unwrap();
    assert_eq!(found, [fast, "tool-3-py3-none-any.whl"]);
    let built = "commit 95c084960b00833f6d008202445f89258a785f3b of https://host/built";
    assert_eq!(
        select(UV, &parts(&[], &["dev"])).unwrap(),
        [fast, "tool-3-py3-none-any.whl", built]
    );
    let error = select(UV, &parts(&["nope"], &[])).unwrap_err().to_string();
    assert!(error.contains("no extra 'nope'"), "{error}");
}

/// What uv writes for a project with `conflicts`.
#[test]
fn parts_that_exclude_each_other_choose_what_others_need() {
    let text = r#"
version = 1
requires-python = ">=3.11"
[[package]]
name = "my-proj"
version = "1"
source = { virtual = "." }
dependencies = [{ name = "requests" }]
[package.dev-dependencies]
ga = [{ name = "idna", version = "3.6" }]
gb = [{ name = "idna", version = "3.7" }]
[[package]]
name = "requests"
version = "2"
source = { registry = "https://host/simple" }
wheels = [{ url = "https://host/requests-2-py3-none-any.whl" }]
dependencies = [
    { name = "idna", version = "3.6", marker = "extra == 'group-7-my-proj-ga'" },
    { name = "idna", version = "3.7", marker = "extra != 'group-7-my-proj-ga' or extra == 'group-7-my-proj-gb'" },
]
[[package]]
name = "idna"
version = "3.6"
source = { registry = "https://host/simple" }
wheels = [{ url = "https://host/idna-3.6-py3-none-any.whl" }]
[[package]]
name = "idna"
version = "3.7"
source = { registry = "https://host/simple" }
wheels = [{ url = "https://host/idna-3.7-py3-none-any.whl" }]
"#;
    for (groups, version) in [(&["ga"][..], "3.6"), (&["gb"], "3.7"), (&[], "3.7")] {
        let found = select(text, &parts(&[], groups)).unwrap();
        let expected = [
            format!("idna-{version}-py3-none-any.whl"),
            "requests-2-py3-none-any.whl".to_owned(),
        ];
        assert_eq!(found, expected, "{groups:?}");
    }
}

#[test]
fn an_old_poetry_lock_is_walked_from_what_nobody_needs() {
    assert_eq!(
        select(POETRY_OLD, &Parts::default()).unwrap(),
        ["app==1.0", "six==1.16.0"]
    );
    let dev = select(POETRY_OLD, &parts(&[], &["dev"])).unwrap();
    assert_eq!(dev, ["app==1.0", "six==1.16.0", "pytest==7"]);
    let lock = PythonLock::parse(POETRY_OLD, Path::new("poetry.lock")).unwrap();
    assert_eq!(lock.python(), "python >=3.8,<4");
    let Selection::Pins(pins) = lock.select(&target("3.12.8", "linux-64"), &Parts::default()).unwrap() else {
        panic!("poetry.lock says not where files are")
    };
    assert_eq!(pins.wanted[1].sha256[0][..2], [0x8a, 0xbb]);
}

#[test]
fn a_new_poetry_lock_says_itself_what_is_there() {
    assert_eq!(select(POETRY_NEW, &Parts::default()).unwrap(), ["anyio==4"]);
    assert_eq!(
        select(POETRY_NEW, &parts(&[], &["lint"])).unwrap(),
        ["anyio==4", "mypy==1"]
    );
    let built = select(POETRY_NEW, &parts(&["all"], &[])).unwrap();
    assert!(
        built[1].starts_with("local @ file:///") && built[1].ends_with("/local"),
        "{built:?}"
    );
}

#[test]
fn a_lock_that_its_project_has_outgrown_is_stale() {
    let directory = tempfile::tempdir().unwrap();
    let write = |dependencies: &str| {
        let text = format!("[project]\nname = 'demo'\nversion = '1'\ndependencies = [{dependencies}]\n");
        fs::write(directory.path().join("pyproject.toml"), text).unwrap();
    };
    let select = |text: &str| {
        let lock = PythonLock::parse(text, &directory.path().join("x.lock")).unwrap();
        lock.select(&target("3.12.8", "linux-64"), &Parts::default())
    };
    write("'fast>=2'");
    select(UV).unwrap();
    write("'fast>=3'");
    let error = select(UV).unwrap_err().to_string();
    assert!(
        error.contains("stale") && error.contains("fast>=3") && error.contains("fast 2"),
        "{error}"
    );
    write("'anyio', 'newcomer'");
    let error = select(POETRY_NEW).unwrap_err().to_string();
    assert!(error.contains("no newcomer"), "{error}");
}

#[test]
fn locks_are_told_apart() {
    let format = |text: &str| PythonLock::parse(text, Path::new("x")).map(|lock| lock.format());
    assert_eq!(format(UV).unwrap(), "uv.lock");
    assert_eq!(format(POETRY_OLD).unwrap(), "poetry.lock");
    assert_eq!(format("lock-version = '1.0'\npackages = []\n").unwrap(), "pylock.toml");
    assert!(format("version = 4\n[[package]]\nname = 'serde'\n").is_err());
    assert!(!PythonLock::is_lock("[project]\nname = 'x'\n"));
}
