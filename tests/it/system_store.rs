//! A store that an administrator fills, and stores of users on top of it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use envfs_tests::channel::Channel;
use envfs_tests::mounted::{Who, is_possible, leases};
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use envfs_tests::program::{Envfs, Finished, files_below, finish};
use envfs_tests::user;
use serde_json::Value;

#[test]
fn a_user_adds_only_what_the_system_store_lacks() {
    let world = World::new(Who::Tester);
    let system = world.inventory();
    let known = world.ensure("app");
    assert_eq!(known["signature"], world.app);
    assert_eq!(
        (&known["reused"], &known["new_objects"]),
        (&Value::Bool(true), &0.into())
    );
    assert!(world.own("objects").is_empty() && world.own("packs").is_empty());

    let built = world.ensure("more");
    assert_eq!(built["new_packages"], 1, "{built}");
    assert_eq!(world.own("layers").len(), 1);
    // Its large file has the bytes of one that is below.
    assert!(world.own("objects").is_empty());
    let listed = world.json(&["ls"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let shown = world.json(&["show", built["signature"].as_str().unwrap()]);
    assert_eq!(shown["packages"].as_array().unwrap().len(), 2);
    assert_eq!(world.json(&["store", "verify"])["damaged"], serde_json::json!([]));
    assert_eq!(world.inventory(), system, "the system store was written to");
}

#[test]
fn environments_of_both_run_and_leases_are_the_users() {
    runs(Who::Tester);
}

#[test]
fn environments_of_both_run_and_leases_are_the_users_as_an_ordinary_user() {
    runs(Who::Ordinary);
}

fn runs(who: Who) {
    if !is_possible() {
        return;
    }
    let world = World::new(who);
    let system = world.inventory();
    for package in ["app", "more"] {
        let signature = world.ensure(package)["signature"].as_str().unwrap().to_owned();
        let script = "cat $CONDA_PREFIX/share/app/where; cmp $CONDA_PREFIX/share/app/large $CONDA_PREFIX/share/app/large && \
                      wc -c < $CONDA_PREFIX/share/app/large";
        let output = world.run(&["run", &signature, "--", "sh", "-c", script]);
        let expected = format!("{}/mnt/{}", world.store().display(), &signature[..16]);
        assert_eq!(output, format!("prefix={expected}\n{}\n", LARGE_BYTES), "{package}");
    }
    assert_eq!(leases(&envfs_store::Store::open(&world.store()).unwrap()), 0);
    assert_eq!(world.inventory(), system, "the system store was written to");
}

#[test]
fn a_base_may_lie_below() {
    let world = World::new(Who::Tester);
    let base = world.app.clone();
    let built = world.json(&["ensure", "-c", &world.channel.url(), "--base", &base, "more"]);
    assert_eq!(built["base"], base);
    assert_eq!(world.own("trees").len(), 1);
    let shown = world.json(&["show", built["signature"].as_str().unwrap()]);
    assert_eq!(shown["packages"].as_array().unwrap().len(), 2);
}

#[test]
fn what_the_administrator_ensured_is_known_to_all() {
    let world = World::new(Who::Tester);
    let spec = world.envfs.write(
        "environment.yml",
        &format!("channels: ['{}']\ndependencies: [app]\n", world.channel.url()),
    );
    world.envfs.json(["ensure".as_ref(), spec.as_os_str()]);
    assert_eq!(world.json(&["ensure", "environment.yml"])["known"], true);
    world.envfs.run(["name", "set", "team/app:current", &world.app]);
    assert_eq!(world.json(&["show", "team/app:current"])["signature"], world.app);
    assert_eq!(world.names(), [("team/app:current".to_owned(), true)]);
    assert!(world.run(&["name", "ls"]).contains("system"));
    assert_eq!(world.run(&["name", "show", "team/app"]).trim(), world.app);
    assert_eq!(world.json(&["name", "history", "team/app"])[0]["signature"], world.app);
    assert_eq!(world.json(&["ls"])[0]["names"], serde_json::json!(["team/app:current"]));
    // The user's own name hides it.
    let more = world.ensure("more")["signature"].as_str().unwrap().to_owned();
    world.run(&["name", "set", "team/app:current", &more]);
    assert_eq!(world.json(&["show", "team/app:current"])["signature"], more);
    assert_eq!(world.names(), [("team/app:current".to_owned(), false)]);
    assert_eq!(world.envfs.json(["show", "team/app:current"])["signature"], world.app);
}

#[test]
fn a_system_store_that_is_none_is_refused() {
    let envfs = Envfs::new();
    let mut command = envfs.command();
    command.args(["--system-store", "/nowhere", "ls"]);
    finish(&mut command).refused(1, &["there is no store at `/nowhere`"]);
}

#[test]
fn settings_come_from_the_nearest() {
    let envfs = Envfs::new();
    let at = |source: &str, key: &str, shown: &Value| {
        let row = shown
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["key"] == key)
            .unwrap()
            .clone();
        assert!(row["source"].as_str().unwrap().ends_with(source), "{row}");
        row["value"].as_str().unwrap_or_default().to_owned()
    };
    let show = |arguments: &[&str], with_variable: bool| -> Value {
        let mut command = envfs.command();
        if !with_variable {
            command.env_remove("ENVFS_STORE");
        }
        command.args(["--json"]).args(arguments).args(["config", "show"]);
        serde_json::from_str(&finish(&mut command).success()).unwrap()
    };
    let shown = show(&[], false);
    assert!(at("default", "store", &shown).ends_with("home/.local/share/envfs/store"));
    assert_eq!(at("default", "max-age", &shown), "86400s");

    let user = envfs.path().join("home/.config/envfs");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(user.join("config.toml"), "[envfs]\nstore = '~/mine'\nmax-age = '7d'\n").unwrap();
    let shown = show(&[], false);
    assert!(at("home/.config/envfs/config.toml", "store", &shown).ends_with("home/mine"));
    std::fs::create_dir(envfs.path().join(".envfs")).unwrap();
    std::fs::write(
        envfs.path().join(".envfs/config.toml"),
        "[envfs]\nstore = 'project-store'\n",
    )
    .unwrap();
    let shown = show(&[], false);
    assert!(at(".envfs/config.toml", "store", &shown).ends_with(".envfs/project-store"));
    assert_eq!(at("home/.config/envfs/config.toml", "max-age", &shown), "604800s");
    let shown = show(&[], true);
    assert_eq!(PathBuf::from(at("ENVFS_STORE", "store", &shown)), envfs.store_path());
    let shown = show(&["--store", "elsewhere"], true);
    assert_eq!(at("command line", "store", &shown), "elsewhere");

    for wrong in ["[envfs]\nstor = 'x'\n", "[envfs]\nmax-age = '7x'\n", "[envfs\n"] {
        std::fs::write(envfs.path().join(".envfs/config.toml"), wrong).unwrap();
        envfs
            .try_run(["ls"])
            .refused(1, &[".envfs/config.toml", "system-store, max-age"]);
    }
}

/// Larger than what packs hold.
const LARGE_BYTES: usize = 200_000;

/// The administrator's store holds `app`; `more` needs it.
#[test]
fn whoever_fills_the_system_store_makes_it() {
    let mut envfs = Envfs::new();
    let channel = Channel::new(&envfs.path().join("channel")).with(&Package::new("app 1.0 h0_0"), Format::Conda);
    let system = envfs.store_path();
    let ensure = ["ensure", "-c", &channel.url(), "app"];
    envfs.set("ENVFS_SYSTEM_STORE", system.to_str().unwrap());
    let own = ["--store", "own"];
    let refused = envfs.try_run(own.into_iter().chain(ensure));
    refused.refused(
        1,
        &["there is no store at", system.to_str().unwrap(), "envfs config show"],
    );
    assert!(!envfs.path().join("own").exists());
    let made = envfs.run(ensure);
    assert_eq!(envfs.run(own.into_iter().chain(ensure)), made);
    envfs.set("ENVFS_SYSTEM_STORE", "");
    envfs.set("ENVFS_STORE", "");
    assert_eq!(
        envfs.run(["ls"]).lines().count(),
        1,
        "what is set to nothing is not set"
    );
}

#[test]
fn what_the_system_store_keeps_is_said_to_all() {
    let world = World::new(Who::Tester);
    world.envfs.run(["name", "set", "science", &world.app]);
    let rows = world.json(&["why", "science"]);
    assert_eq!(rows[0]["reasons"][0]["kind"], "name", "{rows}");
    let link = world.envfs.path().join("user/science");
    let link = ["name", "link", "science", link.to_str().unwrap()];
    let told = world.try_run(&link);
    told.refused(1, &["`science:current` is a name of the system's store", "--store"]);
}

struct World {
    /// The administrator.
    envfs: Envfs,
    channel: Channel,
    app: String,
    who: Who,
}

impl World {
    fn new(who: Who) -> Self {
        let envfs = Envfs::new();
        let app = Package::new("app 1.0 h0_0")
            .prefixed("share/app/where", format!("prefix={PLACEHOLDER}\n"), "text")
            .file("share/app/large", vec![b'x'; LARGE_BYTES]);
        let more = Package::new("more 1.0 h0_0")
            .depends("app")
            .file("share/more/large", vec![b'x'; LARGE_BYTES])
            .file("share/more/small", "more");
        let channel = Channel::new(&envfs.path().join("channel"))
            .with(&app, Format::Conda)
            .with(&more, Format::Conda);
        let app = envfs.build(["-c", &channel.url(), "app"]).to_string();
        user::open_to_all(envfs.path());
        let user = envfs.path().join("user");
        std::fs::create_dir_all(user.join("home")).unwrap();
        if who == Who::Ordinary {
            user::give_to_ordinary_user(&user);
        }
        Self {
            envfs,
            channel,
            app,
            who,
        }
    }

    fn store(&self) -> PathBuf {
        self.envfs.path().join("user/store")
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).success()
    }

    fn try_run(&self, arguments: &[&str]) -> Finished {
        let mut command = self.envfs.command();
        command
            .env("HOME", self.envfs.path().join("user/home"))
            .env("ENVFS_STORE", self.store())
            .env("ENVFS_SYSTEM_STORE", self.envfs.store_path())
            .args(arguments);
        finish(self.who.runs(&mut command))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["--json"], arguments].concat())).unwrap()
    }

    /// The names that the user sees, and whether each is the system's.
    fn names(&self) -> Vec<(String, bool)> {
        let listed = self.json(&["name", "ls"]);
        let rows = listed.as_array().unwrap().iter();
        rows.map(|row| {
            (
                row["name"].as_str().unwrap().to_owned(),
                row["system"].as_bool().unwrap(),
            )
        })
        .collect()
    }

    fn ensure(&self, package: &str) -> Value {
        self.json(&["ensure", "-c", &self.channel.url(), package])
    }

    /// What lies in a directory of the user's store.
    fn own(&self, directory: &str) -> Vec<PathBuf> {
        files_below(&self.store().join(directory))
    }

    /// Every file of the system store with its size and mode; what is used only while somebody looks is left out.
    fn inventory(&self) -> Vec<(PathBuf, u64, u32)> {
        let mut found = Vec::new();
        let mut pending = vec![self.envfs.store_path()];
        while let Some(directory) = pending.pop() {
            for path in files_below(&directory) {
                let metadata = path.symlink_metadata().unwrap();
                if metadata.is_dir() {
                    pending.push(path);
                } else if !path.to_string_lossy().contains("index.sqlite") {
                    found.push((path, metadata.len(), metadata.permissions().mode()));
                }
            }
        }
        found.sort();
        found
    }
}
