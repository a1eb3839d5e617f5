//! A shared server: environments that py-rattler and uv made are migrated by a plan, reported, promoted, and rolled back
//! under readers that never see a mixture.
//!
//! Fifteen environments by default; `ENVFS_MIGRATED=60` plays the whole server, twelve of them broken in as many ways.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use envfs_tests::channel::Channel;
use envfs_tests::data::{RealChannel, skip};
use envfs_tests::installers::Installers;
use envfs_tests::mounted;
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use envfs_tests::program::Envfs;
use envfs_tests::pypi;
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

/// The Python that venvs stand on.
const MACHINE_PYTHON: &str = "/usr/bin/python3";

struct Server {
    envfs: Envfs,
    installers: Installers,
    channel: Channel,
    wheels: PathBuf,
}

impl Server {
    /// With installers; or nothing, said loudly.
    fn new() -> Option<Self> {
        let envfs = Envfs::new();
        let wheels = envfs.path().join("wheels");
        for directory in [&envfs.path().join("envs"), &wheels] {
            fs::create_dir(directory).unwrap();
        }
        if !Path::new(MACHINE_PYTHON).exists() {
            skip("a shared server: the machine has no Python that venvs could stand on");
            return None;
        }
        Some(Self {
            installers: Installers::new(envfs.path())?,
            channel: Channel::new(&envfs.path().join("channel")),
            wheels,
            envfs,
        })
    }

    fn prefix(&self, name: &str) -> PathBuf {
        self.envfs.path().join("envs").join(name)
    }

    /// A conda environment of its own version of two packages that belong together.
    fn conda(&mut self, name: &str, version: &str) -> PathBuf {
        let tool = Package::new(&format!("tool {version} h0_0"))
            .file("share/one", version)
            .prefixed("share/home", format!("{PLACEHOLDER}\n"), "text")
            .executable("bin/tool", format!("#!/bin/sh\necho tool {version}\n"));
        let data = Package::new(&format!("data {version} h0_0")).file("share/two", version);
        for package in [tool, data] {
            self.channel.add(&package, Format::Conda);
        }
        let prefix = self.prefix(name);
        let specs = ["tool", "data"].map(|package| format!("{package}=={version}"));
        self.installers
            .conda(&prefix, &self.channel.url(), &specs.each_ref().map(String::as_str));
        prefix
    }

    /// A virtual environment with its own version of a distribution that has a module and a command.
    fn venv(&self, name: &str, version: &str) -> PathBuf {
        let module = format!("VERSION = '{version}'\ndef main():\n    print('own', VERSION)\n");
        let scripts = format!("own-{version}.dist-info/entry_points.txt");
        let files = [
            ("own.py", module.as_str()),
            (&scripts, "[console_scripts]\nown = own:main\n"),
        ];
        pypi::wheel(&self.wheels, "own", version, &files);
        let prefix = self.prefix(name);
        let requirement = format!("own=={version}");
        self.installers
            .venv(&prefix, MACHINE_PYTHON, &self.wheels, &[&requirement]);
        prefix
    }

    /// A conda environment with a real Python, where the channel of real software is here.
    fn real(&self, name: &str) -> Option<PathBuf> {
        let channel = RealChannel::local()?;
        let prefix = self.prefix(name);
        self.installers.conda(&prefix, &channel.url(), &["python=3.11", "tqdm"]);
        Some(prefix)
    }

    fn broken(&mut self, name: &str, how: &str) -> PathBuf {
        let prefix = match how {
            "no-directory" => return self.envfs.path().join("nowhere"),
            "no-environment" => {
                let prefix = self.prefix(name);
                fs::create_dir(&prefix).unwrap();
                return prefix;
            }
            "python-gone" | "system-packages" | "editable" | "outside-path" => self.venv(name, "9.0"),
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
}

fn migrate(envfs: &Envfs, jobs: &str) -> (i32, Vec<Value>) {
    let finished = envfs.try_run(["--json", "migrate", "plan.toml", "--jobs", jobs]);
    let outcomes: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    (finished.status.code().unwrap(), outcomes.as_array().unwrap().clone())
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
    std::env::var("ENVFS_MIGRATED").map_or(15, |count| count.parse().unwrap())
}

/// The plan of the whole server, whose environments are made: of the good ones every twelfth holds a real Python, and the others are
/// conda environments and virtual ones by turns.
fn populate(server: &mut Server, broken: usize) -> String {
    let mut plan = String::from("tag = 'qa'\n");
    for index in 0..count() - broken {
        let (name, version) = (format!("good{index}"), format!("1.{index}"));
        let real = if index % 12 == 2 { server.real(&name) } else { None };
        plan += &match (real, index % 2) {
            (Some(prefix), _) => entry(&name, &prefix, &["python", "-c", "import tqdm"]),
            (None, 0) => entry(&name, &server.conda(&name, &version), &["tool"]),
            (None, _) => {
                let prefix = server.venv(&name, &version);
                // What somebody has changed by hand.
                fs::write(site_packages(&prefix).join("extra.py"), format!("number = {index}\n")).unwrap();
                let code = format!("import own, extra; assert (own.VERSION, extra.number) == ('{version}', {index})");
                entry(&name, &prefix, &["sh", "-c", &format!("own && python -c \"{code}\"")])
            }
        };
    }
    // All kinds where there is room, and as many as there is.
    for index in 0..broken {
        let (how, _) = BROKEN[index * BROKEN.len() / broken];
        let smoke: &[&str] = match how {
            "smoke" => &["sh", "-c", "echo no such luck >&2; exit 4"],
            _ => &[],
        };
        let name = format!("broken{index}");
        plan += &entry(&name, &server.broken(&name, how), smoke);
    }
    plan
}

#[test]
fn a_shared_server_moves_in() {
    if !mounted::is_possible() {
        return;
    }
    let Some(mut server) = Server::new() else { return };
    let started = Instant::now();
    let broken = count() / 5;
    let plan = populate(&mut server, broken);
    println!("{} environments were made in {:?}", count(), started.elapsed());
    let started = Instant::now();
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
    let (code, outcomes) = migrate(&server.envfs, "4");
    println!("and migrated in {:?}", started.elapsed());
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
    let (_, again) = migrate(&server.envfs, "4");
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
    println!("{} reads during 10 cutovers", cutover_under_readers(&mut server));
    let left = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!left.contains(server.envfs.path().to_str().unwrap()), "{left}");
    server.envfs.assert_sound();
}

/// Promotes and rolls back while eight readers read two files that belong together; gives how often they did.
fn cutover_under_readers(server: &mut Server) -> usize {
    let newer = server.conda("newer", "2.0");
    let server = &*server;
    server.envfs.write("plan.toml", &entry("good0", &newer, &["tool"]));
    assert_eq!(migrate(&server.envfs, "1").0, 0);
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
    reads.into_inner()
}

#[test]
fn environments_are_replicated_resolved_and_exported() {
    let envfs = Envfs::new();
    let archives = ["tool", "data"].map(|name| {
        let package = Package::new(&format!("{name} 1.0 h0_0")).file(&format!("share/{name}"), "1.0");
        package.write(envfs.path(), Format::Conda)
    });
    let prefix = envfs.path().join("old");
    Reference::new(envfs.path()).install(&archives, &prefix).unwrap();
    let lines = archives.map(|path| format!("file://{}", path.display()));
    envfs.write("explicit.txt", &format!("@EXPLICIT\n{}\n", lines.join("\n")));
    let channel = Channel::new(&envfs.path().join("channel"))
        .with(&Package::new("tool 1.5 h0_0").file("share/one", "1.5"), Format::Conda);
    envfs.write(
        "env.yml",
        &format!("channels: ['{}']\ndependencies: [tool]\n", channel.url()),
    );
    let plan = format!(
        "[environments.a]\nhow = 'replicate'\nlock = 'explicit.txt'\nprefix = '{0}'\n\
         [environments.b]\nhow = 'resolve'\nspec = 'env.yml'\nprefix = '{0}'\n\
         [environments.c]\nhow = 'export'\nprefix = '{0}'\n",
        prefix.display()
    );
    envfs.write("plan.toml", &plan);
    let (code, outcomes) = migrate(&envfs, "2");
    assert_eq!(code, 0, "{outcomes:?}");
    assert_eq!(outcomes[0]["differs"], serde_json::json!([]));
    assert_eq!(
        outcomes[1]["differs"],
        serde_json::json!(["- data 1.0", "- tool 1.0", "+ tool 1.5"])
    );
    assert!(outcomes[2]["signature"].is_null() && outcomes[2]["tagged"].is_null());
    let exported = envfs.path().join("plan-report/environments/c");
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
    assert_eq!(envfs.json(["name", "ls"]).as_array().unwrap().len(), 2);
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
