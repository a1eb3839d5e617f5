//! What has to be built from source: distributions, repositories, directories and editable projects, built once by the
//! environment's own Python, locked as what they are, and refused with words that help.

use std::fs;
use std::path::Path;
use std::process::Command;

use envfs_tests::channel::Channel;
use envfs_tests::data::RealChannel;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::pypi::{self, Bell, Index};

/// A store where every build is counted, and a channel with a Python.
struct Room {
    envfs: Envfs,
    channel: RealChannel,
    bell: Bell,
}

impl Room {
    fn new() -> Option<Self> {
        let (mut envfs, channel) = pypi::room()?;
        let bell = envfs.path().join("bell");
        envfs.set("BUILD_BELL", &bell);
        let bell = Bell::at(&bell);
        Some(Self { envfs, channel, bell })
    }

    /// How often something was built.
    fn builds(&self) -> usize {
        self.bell.rung()
    }

    /// The arguments for requirements, which are looked for in no index.
    fn asked(&self, command: &str, requirements: &[&str]) -> Vec<String> {
        let mut arguments = vec![command.to_owned(), "-c".to_owned(), self.channel.url()];
        arguments.extend(["--python", "3", "--pypi", "--no-index"].map(str::to_owned));
        for requirement in requirements {
            arguments.extend(["--pypi".to_owned(), (*requirement).to_owned()]);
        }
        arguments
    }

    fn build(&self, requirements: &[&str]) -> String {
        self.envfs.run(self.asked("build", requirements)).trim().to_owned()
    }

    /// What a program prints in an environment.
    fn run(&self, environment: &str, code: &str) -> String {
        self.envfs
            .run(["run", environment, "--", "python", "-c", code])
            .trim()
            .to_owned()
    }

    /// The `direct_url.json` of a distribution.
    fn direct_url(&self, environment: &str, name: &str) -> serde_json::Value {
        let code = format!(
            "from importlib.metadata import distribution as d; print(d({name:?}).read_text('direct_url.json'))"
        );
        serde_json::from_str(&self.run(environment, &code)).unwrap()
    }
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.com",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(directory);
    finish(&mut command).success().trim().to_owned()
}

#[test]
fn a_directory_is_built_once_by_the_environments_own_python() {
    let Some(room) = Room::new() else { return };
    let project = pypi::project(room.envfs.path(), "mine", "one");
    let code = "import mine, sys; print(mine.VALUE, mine.PYTHON == sys.version, mine.HERE.startswith(sys.prefix))";
    let first = room.build(&["./mine"]);
    assert_eq!(room.run(&first, code), "one True True");
    assert_eq!(room.builds(), 1);
    assert_eq!(room.build(&["./mine"]), first);
    assert_eq!(room.builds(), 1, "the same sources were built again");
    let url = format!("file://{}", project.display());
    assert_eq!(
        room.direct_url(&first, "mine"),
        serde_json::json!({"url": url, "dir_info": {}})
    );
    fs::write(project.join("src/mine.py"), "VALUE = 'two'\nHERE = __file__\n").unwrap();
    let second = room.build(&["./mine"]);
    assert_eq!((room.run(&second, code).as_str(), room.builds()), ("two True True", 2));
    assert_ne!(first, second);
    // Nothing was left in the sources, nor in the environment that they were built in.
    let left: Vec<_> = fs::read_dir(&project)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.len() <= 4, "{left:?}");
    room.envfs.assert_sound();
}

#[test]
fn an_editable_project_is_seen_as_it_is_now() {
    let Some(room) = Room::new() else { return };
    let project = pypi::project(room.envfs.path(), "mine", "one");
    room.envfs.run(room.asked("lock", &["-e ./mine"]));
    let lock = fs::read_to_string(room.envfs.path().join("pixi.lock")).unwrap();
    assert!(lock.contains("./mine#editable"), "{lock}");
    let environment = room.envfs.build(["pixi.lock"]).to_string();
    let code = "import mine; print(mine.VALUE, mine.HERE)";
    let module = project.join("src/mine.py");
    assert_eq!(room.run(&environment, code), format!("one {}", module.display()));
    fs::write(&module, "VALUE = 'two'\nHERE = __file__\n").unwrap();
    assert!(room.run(&environment, code).starts_with("two"));
    assert_eq!(room.envfs.build(["pixi.lock"]).to_string(), environment);
    assert_eq!(room.builds(), 1);
    let direct_url = room.direct_url(&environment, "mine");
    assert_eq!(direct_url["dir_info"]["editable"], true, "{direct_url}");
    // Its command is there too.
    room.envfs
        .run(["run", &environment, "--", "sh", "-c", "test -x $CONDA_PREFIX/bin/mine"]);
}

#[test]
fn a_repository_is_locked_by_its_commit() {
    let Some(room) = Room::new() else { return };
    let project = pypi::project(room.envfs.path(), "mine", "one");
    git(&project, &["init", "--quiet"]);
    git(&project, &["add", "."]);
    git(&project, &["commit", "--quiet", "--message", "one"]);
    let commit = git(&project, &["rev-parse", "HEAD"]);
    let line = format!("mine @ git+file://{}@main", project.display());
    room.envfs.run(room.asked("lock", &[&line]));
    fs::write(project.join("src/mine.py"), "VALUE = 'two'\n").unwrap();
    git(&project, &["commit", "--quiet", "--all", "--message", "two"]);
    let locked = room.envfs.build(["pixi.lock"]).to_string();
    assert_eq!(room.run(&locked, "import mine; print(mine.VALUE)"), "one");
    let direct_url = room.direct_url(&locked, "mine");
    assert_eq!(direct_url["vcs_info"]["commit_id"], commit.as_str(), "{direct_url}");
    assert_eq!(direct_url["vcs_info"]["requested_revision"], "main", "{direct_url}");
    let newer = room.build(&[&line]);
    assert_eq!(room.run(&newer, "import mine; print(mine.VALUE)"), "two");
    // A commit that was built needs no repository any more.
    fs::remove_dir_all(&project).unwrap();
    assert_eq!(room.envfs.build(["pixi.lock"]).to_string(), locked);
    let gone = room.envfs.try_run(room.asked("build", &[&line]));
    gone.refused(1, &["a repository cannot be read", "check the address"]);
}

#[test]
fn a_source_distribution_is_built_where_there_is_no_wheel() {
    let Some(room) = Room::new() else { return };
    let files = room.envfs.path().join("files");
    fs::create_dir(&files).unwrap();
    pypi::sdist(&files, "mine", "one");
    pypi::wheel(&files, "other", "1.0", &[("other.py", "")]);
    let index = Index::serve(&files);
    let from = format!("--index-url {}", index.url());
    let asked = |command: &str, more: &[&str]| {
        let mut arguments = vec![command.to_owned(), "-c".to_owned(), room.channel.url()];
        arguments.extend(["--python", "3", "--pypi", &from, "--pypi", "mine", "--pypi", "other"].map(str::to_owned));
        arguments.extend(more.iter().map(|text| (*text).to_owned()));
        arguments
    };
    room.envfs
        .try_run(asked("build", &["--no-build"]))
        .refused(1, &["no usable wheels", "building from source is switched off"]);
    assert_eq!(room.builds(), 0);
    room.envfs.run(asked("lock", &[]));
    let lock = fs::read_to_string(room.envfs.path().join("pixi.lock")).unwrap();
    assert!(lock.contains("/files/mine-1.0.zip"), "{lock}");
    room.envfs
        .try_run(["build", "pixi.lock", "--no-build"])
        .refused(1, &["mine 1.0 has to be built from source", "switched off"]);
    let environment = room.envfs.build(["pixi.lock"]).to_string();
    assert_eq!(room.run(&environment, "import mine, other; print(mine.VALUE)"), "one");
    // It is of an index, so that nothing says where it came from (PEP 610); and it is there offline.
    let code = "from importlib.metadata import distribution as d; print(d('mine').read_text('direct_url.json'))";
    assert_eq!(room.run(&environment, code), "None");
    let again = room.envfs.run(["build", "pixi.lock", "--offline"]);
    assert_eq!((again.trim(), room.builds()), (environment.as_str(), 1));
    // A file that is another one than was locked is not built.
    pypi::sdist(&files, "mine", "another");
    let other = Room::new().unwrap();
    fs::copy(
        room.envfs.path().join("pixi.lock"),
        other.envfs.path().join("pixi.lock"),
    )
    .unwrap();
    other
        .envfs
        .try_run(["build", "pixi.lock"])
        .refused(1, &["mine 1.0 cannot be built", "ash mismatch"]);
    assert_eq!(other.builds(), 0);
    room.envfs.assert_sound();
}

/// The wheels lie in this store, and their sources are what others can have.
#[test]
fn what_was_built_is_exported_as_its_sources() {
    let Some(room) = Room::new() else { return };
    let files = room.envfs.path().join("files");
    fs::create_dir(&files).unwrap();
    pypi::project(room.envfs.path(), "mine", "one");
    let cloned = pypi::project(room.envfs.path(), "cloned", "one");
    git(&cloned, &["init", "--quiet"]);
    git(&cloned, &["add", "."]);
    git(&cloned, &["commit", "--quiet", "--message", "one"]);
    let commit = git(&cloned, &["rev-parse", "HEAD"]);
    pypi::sdist(&files, "indexed", "one");
    let index = Index::serve(&files);
    let from = format!("--index-url {}", index.url());
    let repository = format!("cloned @ git+file://{}", cloned.display());
    let mut asked = vec![
        "build".to_owned(),
        "-c".to_owned(),
        room.channel.url(),
        "--python=3".to_owned(),
    ];
    asked.extend([&from, "./mine", &repository, "indexed"].map(|text| format!("--pypi={text}")));
    let environment = room.envfs.run(asked).trim().to_owned();
    let export = |format: &str, more: &[&str]| {
        let exported = [&["export", &environment, "--format", format], more].concat();
        room.envfs.try_run(exported)
    };
    let mine = format!("mine @ file://{}", room.envfs.path().join("mine").display());
    let cloned = format!("cloned @ git+file://{}@{commit}", cloned.display());
    for (format, more) in [
        ("requirements", &[][..]),
        ("requirements", &["--from-history"]),
        ("environment", &[]),
    ] {
        let exported = export(format, more).success();
        for line in [mine.as_str(), &cloned, "indexed==1.0"] {
            let found = exported
                .lines()
                .map(|line| line.trim().trim_start_matches("- ").trim_matches('"'));
            let mut found = found.map(|line| line.trim_end_matches('/'));
            assert!(found.any(|found| found == line), "{line}: {exported}");
        }
        assert!(
            !exported.contains("/built/") && !exported.contains("--hash"),
            "{exported}"
        );
    }
    for format in ["pixi", "pylock"] {
        let exported = export(format, &[]);
        assert!(exported.stderr.contains("indexed 1.0 was built here"), "{exported}");
        let text = exported.success();
        assert!(text.contains(&commit) && text.contains("/mine"), "{text}");
        assert_eq!(text.contains("/built/"), text.contains("indexed-1.0"), "{text}");
        assert!(!text.contains("cloned-1.0") && !text.contains("mine-1.0"), "{text}");
    }
}

#[test]
fn a_build_that_fails_is_shown_and_kept() {
    let Some(room) = Room::new() else { return };
    let project = pypi::project(room.envfs.path(), "mine", "one");
    fs::write(project.join("fail"), "").unwrap();
    let failed = room.envfs.try_run(room.asked("build", &["./mine"]));
    failed.refused(
        1,
        &[
            "mine cannot be built",
            "the compiler of mine is on strike",
            "all that it said is in",
        ],
    );
    let kept = failed.stderr.split("all that it said is in ").nth(1).unwrap();
    let log = fs::read_to_string(kept.lines().next().unwrap()).unwrap();
    assert!(log.contains("the compiler of mine is on strike"), "{log}");
    fs::remove_file(project.join("fail")).unwrap();
    room.build(&["./mine"]);
}

#[test]
fn a_directory_without_a_project_is_refused_with_its_place() {
    let Some(room) = Room::new() else { return };
    fs::create_dir(room.envfs.path().join("empty")).unwrap();
    let file = "dependencies:\n  - python\n  - pip:\n    - -e ../nowhere\n";
    room.envfs.write("environment.yml", file);
    let refused = room
        .envfs
        .try_run(["build", "-c", &room.channel.url(), "-f", "environment.yml"]);
    refused.refused(1, &["environment.yml:4", "-e ../nowhere", "does not exist"]);
    let refused = room.envfs.try_run(room.asked("build", &["./empty"]));
    refused.refused(1, &["holds no project"]);
    let refused = room.envfs.try_run(room.asked("build", &["./empty", "--no-build"]));
    refused.refused(1, &["--no-build"]);
}

/// Of the channel's Python only the index is left, and the machine has none of its version.
#[test]
fn sources_that_no_python_can_be_asked_about_are_refused_for_that() {
    let Some(uv) = pypi::uv() else { return };
    let mut envfs = Envfs::new();
    envfs.set("ENVFS_UV", uv);
    let channel = Channel::new(&envfs.path().join("channel")).with(&Package::python("3.7.1"), Format::Conda);
    fs::remove_file(channel.path().join("linux-64/python-3.7.1-h0_0_cpython.conda")).unwrap();
    let files = envfs.path().join("files");
    fs::create_dir(&files).unwrap();
    pypi::sdist(&files, "mine", "one");
    pypi::project(envfs.path(), "mine", "one");
    let index = Index::serve(&files);
    let from = format!("--index-url={}", index.url());
    for (asked, part) in [
        ("mine", "mine==1.0 has no usable wheels"),
        ("./mine", "'./mine' is a directory with sources"),
    ] {
        let arguments = [
            "build",
            "-c",
            &channel.url(),
            "--python",
            "3.7",
            "--pypi",
            &from,
            "--pypi",
            asked,
        ];
        let refused = envfs.try_run(arguments);
        refused.refused(
            1,
            &[
                part,
                "only a Python can ask it what it needs",
                "python-3.7.1-h0_0_cpython.conda does not exist",
            ],
        );
        for wrong in ["switched off", "disabled", "--no-build"] {
            assert!(!refused.stderr.contains(wrong), "{refused}");
        }
    }
}

#[test]
fn what_a_run_writes_into_its_scratch_is_forgotten() {
    let Some(room) = Room::new() else { return };
    let environment = room.envfs.build(["-c", &room.channel.url(), "python"]).to_string();
    let write = "echo x > $CONDA_PREFIX/written && cat $CONDA_PREFIX/written";
    assert_eq!(
        room.envfs
            .run(["run", "--scratch", &environment, "--", "sh", "-c", write]),
        "x\n"
    );
    let look = room
        .envfs
        .try_run(["run", &environment, "--", "sh", "-c", "test -e $CONDA_PREFIX/written"]);
    assert_eq!(look.status.code(), Some(1), "{look}");
    let code = room
        .envfs
        .try_run(["run", "--scratch", &environment, "--", "sh", "-c", "exit 7"]);
    assert_eq!(code.status.code(), Some(7), "{code}");
    room.envfs.assert_sound();
}
