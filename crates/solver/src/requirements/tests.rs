//! Requirements as people write them, good and bad.

use std::fs;
use std::path::Path;

use super::*;

fn one(line: &str) -> Result<Requirements, RequirementError> {
    let mut requirements = Requirements::default();
    requirements.add(&[line.to_owned()], Path::new("/project"))?;
    Ok(requirements)
}

fn lines(requirements: &[Requirement]) -> Vec<String> {
    requirements.iter().map(Requirement::line).collect()
}

#[test]
fn a_file_with_everything() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let digest = "ab".repeat(32);
    write(
        "requirements.txt",
        &format!(
            "# header\n--extra-index-url https://host/simple\n-r more/base.txt\n-c limits.txt\n\
             requests[socks] >= 2.31 ; python_version < '3.13'  # why\n\
             idna==3.7 \\\n    --hash=sha256:{digest} \\\n    --hash=sha512:00\n\
             --find-links wheels\n./wheels/x-1-py3-none-any.whl\n\
             y @ https://host/y-2-py3-none-any.whl#sha256={digest}\n"
        ),
    );
    fs::create_dir(directory.path().join("more")).unwrap();
    write("more/base.txt", "numpy\n--pre\n");
    write("limits.txt", "numpy<3\n");

    let read = read_file(&directory.path().join("requirements.txt")).unwrap();
    let names: Vec<_> = read.wanted.iter().filter_map(Requirement::name).collect();
    assert_eq!(names, ["numpy", "requests", "idna", "x", "y"]);
    assert_eq!(lines(&read.constraints), ["numpy<3"]);
    assert_eq!(read.wanted[2].sha256, [[0xab; 32]]);
    assert_eq!(read.wanted[2].place.line, 6);
    assert!(read.wanted[3].line().starts_with("file:///"), "{:?}", read.wanted[3]);
    assert!(
        read.wanted[4].line().starts_with("y @ https://host/y-2"),
        "{:?}",
        read.wanted[4]
    );
    assert!(read.sources.allow_prereleases);
    assert_eq!(read.sources.extra_index_urls, ["https://host/simple"]);
    assert_eq!(
        read.sources.find_links,
        [directory.path().join("wheels").display().to_string()]
    );
    read.check(true).unwrap();
}

#[test]
fn an_included_file_that_is_missing_is_named_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.txt");
    fs::write(&path, "numpy\n-r nowhere.txt\n").unwrap();
    let error = read_file(&path).unwrap_err().to_string();
    assert!(error.contains("a.txt:2") && error.contains("nowhere.txt"), "{error}");
    fs::write(&path, "-r a.txt\n").unwrap();
    let error = read_file(&path).unwrap_err().to_string();
    assert!(error.contains("includes itself"), "{error}");
}

#[test]
fn what_must_be_built_is_refused_where_nothing_may_be() {
    for (line, kind) in [
        ("-e git+https://host/argh.git#egg=argh", "a repository"),
        ("git+https://host/dask/distributed", "a repository"),
        ("dllogger @ git+https://host/dllogger.git", "a repository"),
        ("https://host/x-1.0.tar.gz", "a source distribution"),
        ("x @ https://host/x-1.0.zip", "a source distribution"),
    ] {
        let error = one(line).unwrap().check(false).unwrap_err().to_string();
        assert!(one(line).unwrap().need_builds());
        assert!(
            error.contains(kind) && error.contains(line) && error.contains("switched off"),
            "{error}"
        );
    }
}

#[test]
fn what_is_built_is_named_so_that_it_is_found_from_anywhere() {
    for (line, expected) in [
        ("-e ./module[extra]", "-e /project/module[extra]"),
        (
            "-e git+https://host/argh.git#egg=argh",
            "git+https://host/argh.git#egg=argh",
        ),
        ("../x ; os_name == 'posix'", "/x ; os_name == 'posix'"),
        ("x[a] @ ./in/here", "x[a] @ file:///project/in/here"),
        ("./x-1.tar.gz", "/project/x-1.tar.gz"),
        (
            "x @ file:dist/x-1.zip#subdirectory=y",
            "x @ file:///project/dist/x-1.zip#subdirectory=y",
        ),
        ("https://host/x-1.0.tar.gz", "https://host/x-1.0.tar.gz"),
    ] {
        assert_eq!(lines(&one(line).unwrap().wanted), [expected], "{line}");
    }
    let read = one("--no-binary=Foo_bar,baz").unwrap();
    assert!(read.need_builds() && read.is_built("foo-bar") && !read.is_built("other"));
}

/// Of several algorithms one is enough; what none of them can check must not seem to be checked.
#[test]
fn a_digest_that_cannot_be_compared_is_refused() {
    let digest = "ab".repeat(64);
    let error = one(&format!("idna==3.7 --hash=sha512:{digest}"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("sha512") && error.contains("pip hash"), "{error}");
    let both = format!("idna==3.7 --hash=sha512:{digest} --hash=sha256:{}", "cd".repeat(32));
    assert_eq!(one(&both).unwrap().wanted[0].sha256, [[0xcd; 32]]);
}

#[test]
fn poetry_may_be_for_several_pythons() {
    let text = "[tool.poetry]\nname = 'x'\n[tool.poetry.dependencies]\npython = '~2.7 || ^3.6'\n\
                six = '^1.16'\ntomli = { version = '*', python = '~2.7 || >=3.6,<3.11' }\n";
    let read = project(text, &[], &[]).unwrap();
    assert_eq!(read.requires_python().unwrap(), ">=3.6, <4");
    let tomli = lines(&read.wanted).pop().unwrap();
    for part in ["python_full_version == '2.7.*'", " or ", "python_full_version < '3.11'"] {
        assert!(tomli.contains(part), "{tomli}");
    }
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let error = one("-e ./module[extra]").unwrap().check(true).unwrap_err().to_string();
    assert!(error.contains("/project/module, which does not exist"), "{error}");
}

#[test]
fn mistakes_are_explained() {
    for (line, expected) in [
        ("numpy=1.20", "'=='"),
        ("numpy=>1.20", "'>='"),
        ("python >=3.10", "--python"),
        ("--nonsense", "no option"),
        ("-r", "needs a value"),
        ("numpy==1 --hash=sha256:xyz", "SHA-256"),
        ("a b c", "must read like"),
    ] {
        let error = one(line).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

fn project(text: &str, extras: &[&str], groups: &[&str]) -> Result<Requirements, RequirementError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyproject.toml");
    fs::write(&path, text).unwrap();
    let parts = Parts {
        extras: extras.iter().map(|extra| (*extra).to_owned()).collect(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    };
    read_pyproject(&path, &parts).map(|project| project.requirements)
}

const PROJECT: &str = r#"
[project]
name = "Demo"
version = "1"
requires-python = ">=3.10"
dependencies = ["httpx>=0.27", "tomli ; python_version < '3.11'"]
[project.optional-dependencies]
cli = ["rich"]
all = ["demo[cli]", "orjson"]
[dependency-groups]
test = ["pytest", { include-group = "types" }]
types = ["mypy"]
[[tool.uv.index]]
url = "https://host/simple"
"#;

#[test]
fn a_project_with_extras_and_groups() {
    let read = project(PROJECT, &[], &[]).unwrap();
    assert_eq!(
        lines(&read.wanted),
        ["httpx>=0.27", "tomli ; python_full_version < '3.11'"]
    );
    assert_eq!(read.requires_python().as_deref(), Some(">=3.10"));
    assert_eq!(read.sources.extra_index_urls, ["https://host/simple"]);
    let read = project(PROJECT, &["all"], &["test"]).unwrap();
    let names: Vec<_> = read.wanted.iter().filter_map(Requirement::name).collect();
    assert_eq!(names, ["httpx", "tomli", "orjson", "pytest", "mypy", "rich"]);
    let error = project(PROJECT, &["gui"], &[]).unwrap_err().to_string();
    assert!(error.contains("extra 'gui'") && error.contains("all, cli"), "{error}");
}

#[test]
fn a_poetry_project() {
    let text = r#"
[tool.poetry]
name = "old"
[tool.poetry.dependencies]
python = "^3.9"
requests = { version = "^2.25", extras = ["socks"] }
orjson = { version = "*", optional = true }
local = { path = "../local", develop = true }
[tool.poetry.group.dev.dependencies]
pytest = [{ version = "<7", python = "<3.8" }, { version = "^8", python = ">=3.8" }]
[tool.poetry.extras]
fast = ["orjson"]
"#;
    let read = project(text, &["fast"], &["dev"]).unwrap();
    assert_eq!(read.requires_python().as_deref(), Some(">=3.9, <4"));
    let wanted = lines(&read.wanted);
    assert!(wanted.contains(&"requests[socks]>=2.25,<3".to_owned()), "{wanted:?}");
    assert!(wanted.contains(&"orjson".to_owned()), "{wanted:?}");
    assert!(
        wanted.iter().filter(|line| line.starts_with("pytest")).count() == 2,
        "{wanted:?}"
    );
    assert!(read.check(true).unwrap_err().to_string().contains("does not exist"));
}

#[test]
fn a_mistyped_key_of_a_project_is_refused() {
    let error = project("[project]\nname = 'x'\ndependencys = ['a']\n", &[], &[]).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("pyproject.toml"), "{message}");
    assert!(
        message.contains("line 3: unknown key `dependencys`; did you mean `dependencies`?"),
        "{message}"
    );
}

#[test]
fn a_project_file_without_dependencies_is_refused() {
    let error = project("[build-system]\nrequires = []\n", &[], &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("names no dependencies"), "{error}");
    let error = project("[project\n", &[], &[]).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn names_at_which_the_parser_panics_are_refused() {
    let mut requirements = Requirements::default();
    let error = requirements
        .add(&["requests[socks-]>=2".to_owned()], Path::new("/nowhere"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("the extra `socks-`"), "{error}");
    let mut requirements = Requirements::default();
    let found_by_fuzzing = requirements.add(&["c-''".to_owned()], Path::new("/nowhere"));
    let error = found_by_fuzzing.unwrap_err().to_string();
    assert!(error.contains("the name `c-`"), "{error}");
    let text = PROJECT.replace("\"rich\"", "\"requests[socks-]\"");
    let error = project(&text, &["cli"], &[]).unwrap_err().to_string();
    assert!(error.contains("the extra `socks-`"), "{error}");
}
