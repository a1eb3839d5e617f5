//! A shared server: environments that other installers made are migrated by a plan, reported, promoted, and rolled back
//! under readers that never see a mixture.
//!
//! Ten environments by default; `ENVFS_MIGRATED=60` plays the whole server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use envfs_tests::data::skip;
use envfs_tests::mounted;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::Envfs;
use envfs_tests::reference::Reference;
use serde_json::Value;

/// Ways in which environments that people have are broken, and what the report says of each.
const BROKEN: [(&str, &str); 12] = [
    ("no-directory", "cannot read"),
    ("no-environment", "is not an environment"),
    ("bad-record", "is not the record of a package"),
    ("empty-record", "is not the record of a package"),
    ("outside-link", "does not stand alone"),
    ("pipe", "it is a device, a pipe or a socket"),
    ("python-gone", "its Python is gone"),
    ("system-packages", "include-system-site-packages is true"),
    ("editable", "does not stand alone"),
    ("outside-path", "does not stand alone"),
    ("smoke", "its smoke command failed"),
    ("two-records", "two packages are called tool"),
];

struct Server {
    envfs: Envfs,
    reference: Reference,
}

impl Server {
    fn new() -> Self {
        let envfs = Envfs::new();
        for directory in ["archives", "envs"] {
            fs::create_dir(envfs.path().join(directory)).unwrap();
        }
        let reference = Reference::new(envfs.path());
        Self { envfs, reference }
    }

    /// A conda environment of its own version of two packages that belong together.
    fn conda(&self, name: &str, version: &str) -> PathBuf {
        let tool = Package::new(&format!("tool {version} h0_0"))
            .file("share/one", version)
            .executable("bin/tool", format!("#!/bin/sh\necho tool {version}\n"));
        let data = Package::new(&format!("data {version} h0_0")).file("share/two", version);
        let archives = [tool, data].map(|package| package.write(&self.envfs.path().join("archives"), Format::Conda));
        let prefix = self.envfs.path().join("envs").join(name);
        self.reference.install(&archives, &prefix).unwrap();
        prefix
    }

    fn venv(&self, name: &str) -> Option<PathBuf> {
        let prefix = self.envfs.path().join("envs").join(name);
        let made = Command::new("/usr/bin/python3")
            .args(["-m", "venv", "--without-pip"])
            .arg(&prefix)
            .output();
        made.is_ok_and(|made| made.status.success()).then_some(prefix)
    }

    fn broken(&self, name: &str, how: &str) -> PathBuf {
        let prefix = match how {
            "no-directory" => return self.envfs.path().join("nowhere"),
            "no-environment" => {
                let prefix = self.envfs.path().join("envs").join(name);
                fs::create_dir(&prefix).unwrap();
                return prefix;
            }
            "python-gone" | "system-packages" | "editable" | "outside-path" => self.venv(name).unwrap(),
            _ => self.conda(name, "9.0"),
        };
        let settings = prefix.join("pyvenv.cfg");
        let change = |from: &str, to: &str| {
            let text = fs::read_to_string(&settings).unwrap().replace(from, to);
            fs::write(&settings, text).unwrap();
        };
        let record = |text: &str| fs::write(prefix.join("conda-meta/x-1-0.json"), text).unwrap();
        match how {
            "bad-record" => record("not json"),
            "empty-record" => record(""),
            "outside-link" => symlink("/etc/hostname", prefix.join("outside")).unwrap(),
            "pipe" => nix::unistd::mkfifo(&prefix.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "python-gone" => change("home = /usr/bin", "home = /gone/bin"),
            "system-packages" => change("packages = false", "packages = true"),
            "editable" => {
                let info = site_packages(&prefix).join("x-1.dist-info");
                fs::create_dir(&info).unwrap();
                for (file, text) in [
                    ("METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1\n"),
                    ("WHEEL", "Tag: py3-none-any\n"),
                    ("RECORD", "x-1.dist-info/RECORD,,\n"),
                    (
                        "direct_url.json",
                        r#"{"url":"file:///src/x","dir_info":{"editable":true}}"#,
                    ),
                ] {
                    fs::write(info.join(file), text).unwrap();
                }
            }
            "outside-path" => fs::write(site_packages(&prefix).join("x.pth"), "/src/x\n").unwrap(),
            "two-records" => {
                let meta = prefix.join("conda-meta");
                fs::copy(meta.join("tool-9.0-h0_0.json"), meta.join("tool-8.0-h0_0.json")).unwrap();
            }
            _ => {}
        }
        prefix
    }

    fn migrate(&self, jobs: &str) -> (i32, Vec<Value>) {
        let finished = self.envfs.try_run(["--json", "migrate", "plan.toml", "--jobs", jobs]);
        let outcomes: Value =
            serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
        (finished.status.code().unwrap(), outcomes.as_array().unwrap().clone())
    }
}

fn site_packages(prefix: &Path) -> PathBuf {
    let library = fs::read_dir(prefix.join("lib"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    library.join("site-packages")
}

fn entry(name: &str, prefix: &Path, smoke: &[&str]) -> String {
    let smoke = if smoke.is_empty() {
        String::new()
    } else {
        format!("smoke = {smoke:?}\n")
    };
    format!(
        "[environments.{name}]\nhow = 'import'\nprefix = '{}'\n{smoke}",
        prefix.display()
    )
}

/// How many environments there are: a fifth of them is broken.
fn count() -> usize {
    std::env::var("ENVFS_MIGRATED").map_or(10, |count| count.parse().unwrap())
}

#[test]
fn a_shared_server_moves_in() {
    if !mounted::is_possible() {
        return;
    }
    let server = Server::new();
    if server.venv("probe").is_none() {
        return skip("the shared server: the machine has no Python that makes venvs");
    }
    let broken = count() / 5;
    let mut plan = String::from("tag = 'qa'\n");
    for index in 0..count() - broken {
        let name = format!("good{index}");
        if index % 2 == 0 {
            let prefix = server.conda(&name, &format!("1.{index}"));
            plan += &entry(&name, &prefix, &["tool"]);
        } else {
            let prefix = server.venv(&name).unwrap();
            fs::write(site_packages(&prefix).join("own.py"), format!("number = {index}\n")).unwrap();
            plan += &entry(&name, &prefix, &["python", "-c", "import own; assert own.number > 0"]);
        }
    }
    // All kinds where there is room, and as many as there is.
    for index in 0..broken {
        let (how, _) = BROKEN[index * BROKEN.len() / broken];
        let smoke: &[&str] = if how == "smoke" {
            &["sh", "-c", "echo no such luck >&2; exit 4"]
        } else {
            &[]
        };
        plan += &entry(
            &format!("broken{index}"),
            &server.broken(&format!("broken{index}"), how),
            smoke,
        );
    }
    server.envfs.write("plan.toml", &plan);

    // Killed in the middle, the migration goes on where it was.
    let mut killed = server.envfs.command();
    let mut killed = killed
        .args(["migrate", "plan.toml"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let done = server.envfs.path().join("plan-report/environments");
    while fs::read_dir(&done).map_or(0, Iterator::count) < 2 && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before: Vec<PathBuf> = fs::read_dir(&done)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let (code, outcomes) = server.migrate("4");
    assert_eq!((code, outcomes.len()), (1, count()));
    assert!(!before.is_empty());
    for outcome in &outcomes {
        let name = outcome["name"].as_str().unwrap();
        let is_good = name.starts_with("good");
        assert_eq!(outcome["succeeded"], is_good, "{outcome}");
        match name.strip_prefix("broken") {
            None => assert_eq!(
                (&outcome["smoke"], &outcome["tagged"]),
                (&true.into(), &format!("{name}:qa").into())
            ),
            Some(index) => {
                let (_, expected) = BROKEN[index.parse::<usize>().unwrap() * BROKEN.len() / broken];
                assert!(
                    outcome["reason"].as_str().unwrap().contains(expected),
                    "{expected}: {outcome}"
                );
                assert!(outcome["tagged"].is_null(), "{outcome}");
            }
        }
    }
    let report = fs::read_to_string(server.envfs.path().join("plan-report/report.md")).unwrap();
    assert!(
        report.contains(&format!("{} of {} environments succeeded", count() - broken, count())),
        "{report}"
    );
    // Nothing became current by itself, and a rerun does only what failed.
    let names = server.envfs.json(["name", "ls"]);
    assert!(
        names
            .as_array()
            .unwrap()
            .iter()
            .all(|name| name["name"].as_str().unwrap().ends_with(":qa")),
        "{names}"
    );
    let (_, again) = server.migrate("4");
    let times = |outcomes: &[Value]| -> Vec<Value> {
        let good = outcomes.iter().filter(|outcome| outcome["succeeded"] == true);
        good.map(|outcome| outcome["seconds"].clone()).collect()
    };
    assert_eq!(times(&outcomes), times(&again), "what is done is not done again");

    for index in 0..count() - broken {
        server
            .envfs
            .run(["promote", &format!("good{index}:qa"), &format!("good{index}:current")]);
    }
    cutover_under_readers(&server);
    let left = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!left.contains(server.envfs.path().to_str().unwrap()), "{left}");
    server.envfs.assert_sound();
}

/// Promotes and rolls back while eight readers read two files that belong together.
fn cutover_under_readers(server: &Server) {
    let newer = server.conda("newer", "2.0");
    server.envfs.write("plan.toml", &entry("good0", &newer, &["tool"]));
    assert_eq!(server.migrate("1").0, 0);
    let (is_over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let script = "cat $CONDA_PREFIX/share/one; echo; cat $CONDA_PREFIX/share/two";
                        let seen = server.envfs.run(["run", "good0:current", "--", "sh", "-c", script]);
                        let lines: Vec<&str> = seen.lines().collect();
                        assert_eq!(lines[0], lines[1], "a mixture");
                        assert!(["1.0", "2.0"].contains(&lines[0]), "{seen}");
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..5 {
            server.envfs.run(["promote", "good0:qa", "good0:current"]);
            let reached = reads.load(Ordering::Relaxed) + 8;
            while reads.load(Ordering::Relaxed) < reached && readers.iter().all(|reader| !reader.is_finished()) {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            server.envfs.run(["rollback", "good0:current"]);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let seen = server.envfs.run(["run", "good0:current", "--", "tool"]);
    assert_eq!(seen.trim(), "tool 1.0", "the last rollback counts");
}

#[test]
fn environments_are_replicated_resolved_and_exported() {
    let server = Server::new();
    let prefix = server.conda("old", "1.0");
    let archives = server.envfs.path().join("archives");
    let lines: Vec<String> = ["tool", "data"]
        .map(|name| format!("file://{}/{name}-1.0-h0_0.conda", archives.display()))
        .to_vec();
    server
        .envfs
        .write("explicit.txt", &format!("@EXPLICIT\n{}\n", lines.join("\n")));
    let channel = envfs_tests::channel::Channel::new(&server.envfs.path().join("channel"))
        .with(&Package::new("tool 1.5 h0_0").file("share/one", "1.5"), Format::Conda);
    server.envfs.write(
        "env.yml",
        &format!("channels: ['{}']\ndependencies: [tool]\n", channel.url()),
    );
    let plan = format!(
        "[environments.a]\nhow = 'replicate'\nlock = 'explicit.txt'\nprefix = '{0}'\n\
         [environments.b]\nhow = 'resolve'\nspec = 'env.yml'\nprefix = '{0}'\n\
         [environments.c]\nhow = 'export'\nprefix = '{0}'\n",
        prefix.display()
    );
    server.envfs.write("plan.toml", &plan);
    let (code, outcomes) = server.migrate("2");
    assert_eq!(code, 0, "{outcomes:?}");
    assert_eq!(outcomes[0]["differs"], serde_json::json!([]));
    assert_eq!(
        outcomes[1]["differs"],
        serde_json::json!(["- data 1.0", "- tool 1.0", "+ tool 1.5"])
    );
    assert!(outcomes[2]["signature"].is_null() && outcomes[2]["tagged"].is_null());
    let exported = server.envfs.path().join("plan-report/environments/c");
    assert!(
        fs::read_to_string(exported.join("environment.yml"))
            .unwrap()
            .contains("tool=1.0")
    );
    assert!(
        fs::read_to_string(exported.join("explicit.txt"))
            .unwrap()
            .starts_with("@EXPLICIT\n")
    );
    assert_eq!(server.envfs.json(["name", "ls"]).as_array().unwrap().len(), 2);
}

#[test]
fn mistakes_of_a_plan_are_found_where_they_are() {
    let envfs = Envfs::new();
    for (plan, expected) in [
        ("[environments.a]\nhow = 'copy'\n", vec!["plan.toml:2:", "copy"]),
        (
            "[environments.a]\nhow = 'import'\n",
            vec!["plan.toml:1:", "`a` has no prefix", "write `prefix = "],
        ),
        (
            "tag = 'qa'\n[environments.b]\nhow = 'replicate'\n",
            vec!["plan.toml:2:", "`b` has no lock"],
        ),
        (
            "[environments.a]\nhow = 'import'\nprefix = '/x'\ntag = 'current'\n",
            vec!["plan.toml:1:", "would become `current`", "envfs promote"],
        ),
        (
            "[environments.a]\nhow = 'import'\npath = '/x'\n",
            vec!["plan.toml:3:", "unknown field `path`"],
        ),
        ("x = [\n", vec!["plan.toml:"]),
    ] {
        envfs.write("plan.toml", plan);
        envfs.try_run(["migrate", "plan.toml"]).refused(1, &expected);
    }
    envfs
        .try_run(["migrate", "none.toml"])
        .refused(1, &["cannot read `none.toml`"]);
    assert!(!envfs.path().join("plan-report").exists());
}
