//! One mount in which every environment appears when somebody comes to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use envfs_tests::channel::Channel;
use envfs_tests::mounted::{Who, is_mounted, is_possible, leases, mounts_below, processes_of};
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use envfs_tests::program::{Envfs, Finished, finish};
use envfs_tests::user;
use serde_json::Value;

/// Says what it is, where it lies, and after a line of input where it lies still.
const PROGRAM: &str = "#!/bin/sh\nhere=$(readlink -f \"$0\")\nprefix=${here%/bin/*}\ncat \"$prefix/share/which\"\n\
                       [ \"$1\" = wait ] || exit 0\nread line\ncat \"$prefix/share/which\"\n";

#[test]
fn environments_appear_when_somebody_comes() {
    appear(Who::Tester);
}

#[test]
fn environments_appear_when_somebody_comes_as_an_ordinary_user() {
    appear(Who::Ordinary);
}

fn appear(who: Who) {
    let Some(world) = World::new(who) else { return };
    world.set(&["name", "set", "app", &world.signatures[0]]);
    world.set(&["name", "set", "team/app:qa", &world.signatures[1]]);
    let served = world.json(&["serve", world.root().to_str().unwrap()]);
    assert_eq!(served["mount_point"], world.root().to_str().unwrap());
    let [first, second] = [0, 1].map(|number: usize| world.place(number));

    // Looking around mounts nothing.
    let mut listed = vec![
        world.signatures[0].clone(),
        world.signatures[1].clone(),
        "app:current".into(),
        "team".into(),
    ];
    listed.sort();
    assert_eq!(world.ls(""), listed);
    assert_eq!(world.ls("team"), ["app:qa"]);
    assert_eq!(
        world.ls("app:current"),
        ["bin", "conda-meta", "share"].map(str::to_owned)
    );
    assert_eq!(world.ls("app:current/bin"), ["app"]);
    assert!(!is_mounted(&first) && !is_mounted(&second));

    // By a signature, by its first digits, by a name with a tag and without.
    for entrance in [&world.signatures[0], &world.signatures[0][..10], "app:current", "app"] {
        assert_eq!(world.app(entrance), "v1\n", "{entrance}");
    }
    assert!(is_mounted(&first) && !is_mounted(&second));
    assert_eq!(world.app("team/app:qa"), "v2\n");
    assert!(is_mounted(&second));
    let target = world.output("readlink", &["team/app:qa/share"]);
    assert_eq!(target, format!("{}/share\n", second.display()));
    // Its prefix is the place where it is mounted.
    assert_eq!(
        world.output("cat", &["app/share/prefix"]),
        format!("{}\n", first.display())
    );
    for unknown in [
        "nothing",
        "team/nothing",
        "team/app:nothing",
        "0123456789abcdef",
        "app/nothing",
        "app/bin/nothing",
    ] {
        let refused = world.try_output("stat", &[unknown]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("No such file or directory"), "{unknown}: {said}");
    }
    let refused = world.try_output("touch", &["new"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only file system"));

    let listed = world.json(&["ps"]);
    let row = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["kind"] == "serve")
        .unwrap();
    assert_eq!(
        (&row["mount_point"], &row["signature"]),
        (&served["mount_point"], &Value::Null)
    );
    assert!(world.run(&["ps"]).success().contains("serve"));
    world.run(&["gc", "--grace", "0s"]).success();
    assert_eq!(world.app(&world.signatures[1]), "v2\n");
    world
        .run(&["serve", world.root().to_str().unwrap()])
        .refused(1, &["already a mount point"]);

    world.run(&["umount", world.root().to_str().unwrap()]).success();
    assert_eq!(mounts_below(world.envfs.path()), Vec::<PathBuf>::new());
    world.assert_nothing_left();
}

#[test]
fn a_name_that_moves_on_takes_new_processes_along_and_leaves_old_ones() {
    moves_on(Who::Tester);
}

#[test]
fn a_name_that_moves_on_takes_new_processes_along_and_leaves_old_ones_as_an_ordinary_user() {
    moves_on(Who::Ordinary);
}

fn moves_on(who: Who) {
    let Some(world) = World::new(who) else { return };
    world.set(&["name", "set", "app", &world.signatures[0]]);
    world.run(&["serve", world.root().to_str().unwrap()]).success();
    let mut old = world.command(world.root().join("app/bin/app"));
    let old = old.arg("wait").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut old = old.spawn().unwrap();
    let mut said = [0; 3];
    std::io::Read::read_exact(old.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"v1\n");
    world.set(&["name", "set", "app", &world.signatures[1]]);
    assert_eq!(world.app("app"), "v2\n");
    drop(old.stdin.take());
    assert_eq!(old.wait_with_output().unwrap().stdout, b"v1\n");
    // What appears in the store appears here.
    world.set(&["name", "set", "late:qa", &world.signatures[0]]);
    assert_eq!(world.app("late:qa"), "v1\n");
    world.set(&["name", "rm", "late:qa"]);
    assert!(!world.try_output("stat", &["late:qa"]).status.success());
    world.run(&["umount", world.root().to_str().unwrap()]).success();
    world.assert_nothing_left();
}

#[test]
fn many_come_at_once_and_a_signal_takes_everything_away() {
    many_come(Who::Tester);
}

#[test]
fn many_come_at_once_and_a_signal_takes_everything_away_as_an_ordinary_user() {
    many_come(Who::Ordinary);
}

fn many_come(who: Who) {
    let Some(world) = World::new(who) else { return };
    let mut server = world.foreground(&[]);
    let apps: Vec<Child> = (0..8)
        .map(|number| {
            let path = world.root().join(&world.signatures[number % 2]).join("bin/app");
            world.command(path).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (number, app) in apps.into_iter().enumerate() {
        let said = String::from_utf8(app.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(said, format!("v{}\n", number % 2 + 1));
    }
    assert_eq!(mounts_below(&world.envfs.store_path()).len(), 2);
    terminate(&mut server);
    assert!(!is_mounted(&world.root()));
    assert!(mounts_below(&world.envfs.store_path()).is_empty());
    world.assert_nothing_left();
}

#[test]
fn what_nobody_uses_goes_and_comes_back() {
    let Some(world) = World::new(Who::Tester) else { return };
    let mut server = world.foreground(&["--idle", "1s"]);
    let place = world.place(0);
    let mut user = world.command(world.root().join(&world.signatures[0]).join("bin/app"));
    let mut user = user
        .arg("wait")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 3];
    std::io::Read::read_exact(user.stdout.as_mut().unwrap(), &mut said).unwrap();
    // The shell holds its script open: it is in use, for longer than it may be idle.
    std::thread::sleep(Duration::from_secs(7));
    assert!(is_mounted(&place));
    drop(user.stdin.take());
    assert_eq!(user.wait_with_output().unwrap().stdout, b"v1\n");
    eventually("the idle mount goes", || !is_mounted(&place));
    assert_eq!(world.app(&world.signatures[0]), "v1\n");
    assert!(is_mounted(&place));

    // What is in use at the end stays until its user has ended.
    let mut user = world.command(world.root().join(&world.signatures[0]).join("bin/app"));
    let mut user = user
        .arg("wait")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(user.stdout.as_mut().unwrap(), &mut said).unwrap();
    terminate(&mut server);
    assert!(!is_mounted(&world.root()) && is_mounted(&place));
    drop(user.stdin.take());
    assert_eq!(user.wait_with_output().unwrap().stdout, b"v1\n");
    world.assert_nothing_left();
}

#[test]
fn a_killed_server_is_replaced_and_nobody_sees_it() {
    killed(Who::Tester);
}

#[test]
fn a_killed_server_is_replaced_and_nobody_sees_it_as_an_ordinary_user() {
    killed(Who::Ordinary);
}

fn killed(who: Who) {
    let Some(world) = World::new(who) else { return };
    world.set(&["name", "set", "team/app", &world.signatures[1]]);
    world.run(&["serve", world.root().to_str().unwrap()]).success();
    assert_eq!(world.app(&world.signatures[0]), "v1\n");
    // Somebody stands in a directory that the first server gave a number.
    let mut inside = world.command("/bin/sh");
    inside.args(["-c", "echo here; read line; ls; ls bin; cat share/which"]);
    let inside = inside.current_dir(world.root().join("team/app:current"));
    let mut inside = inside.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(inside.stdout.as_mut().unwrap(), &mut said).unwrap();
    let is_over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let users: Vec<_> = (0..3)
            .map(|number| {
                let (world, is_over) = (&world, &is_over);
                scope.spawn(move || {
                    let mut rounds = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let entrance = ["app:current", &world.signatures[0], "app:current"][number];
                        let entrance = if number == 1 {
                            entrance.to_owned()
                        } else {
                            format!("team/{entrance}")
                        };
                        assert_eq!(world.app(&entrance), if number == 1 { "v1\n" } else { "v2\n" });
                        assert!(world.ls("").contains(&"team".to_owned()));
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..10 {
            let pid = world.served("serving")["pid"].clone();
            kill(&pid);
            eventually("another server answers", || world.served("serving")["pid"] != pid);
        }
        is_over.store(true, Ordering::Relaxed);
        users.into_iter().map(|user| user.join().unwrap()).sum::<u32>()
    });
    assert!(rounds > 3, "{rounds}");
    drop(inside.stdin.take());
    let said = String::from_utf8(inside.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.starts_with("bin\n") && said.ends_with("app\nv2\n"), "{said}");
    // What an earlier server had mounted goes with the directory, though it may be idle for longer.
    world.run(&["umount", world.root().to_str().unwrap()]).success();
    world.assert_nothing_left();
}

#[test]
fn without_a_keeper_what_a_killed_server_leaves_goes_by_itself() {
    let Some(world) = World::new(Who::Tester) else { return };
    world
        .run(&["serve", world.root().to_str().unwrap(), "--idle", "1s"])
        .success();
    assert_eq!(world.app(&world.signatures[0]), "v1\n");
    let row = world.served("serving");
    kill(&row["keeper_pid"]);
    kill(&world.served("unguarded")["pid"]);
    world.served("dead");
    eventually("the idle mount goes", || !is_mounted(&world.place(0)));
    world.run(&["umount", world.root().to_str().unwrap()]).success();
    world.assert_nothing_left();
}

#[test]
fn roots_are_seen_by_everybody() {
    if !user::is_root() {
        envfs_tests::data::skip("a test of what root serves: the tester is not root");
        return;
    }
    let Some(world) = World::new(Who::Tester) else { return };
    world.run(&["serve", world.root().to_str().unwrap()]).success();
    user::open_to_all(world.envfs.path());
    let mut app = world.command(world.root().join(&world.signatures[0]).join("bin/app"));
    let output = user::as_ordinary_user(&mut app).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "v1\n", "{output:?}");
    world.run(&["umount", world.root().to_str().unwrap()]).success();
    world.assert_nothing_left();
}

/// A store with two environments, an empty directory, and whoever serves there.
struct World {
    envfs: Envfs,
    signatures: Vec<String>,
    who: Who,
}

impl World {
    fn new(who: Who) -> Option<Self> {
        if !is_possible() {
            return None;
        }
        let envfs = Envfs::new();
        let mut channel = Channel::new(&envfs.path().join("channel"));
        let mut signatures = Vec::new();
        for version in ["1", "2"] {
            let package = Package::new(&format!("app {version} h0_0"))
                .file("share/which", format!("v{version}\n"))
                .prefixed("share/prefix", format!("{PLACEHOLDER}\n"), "text")
                .executable("bin/app", PROGRAM);
            channel.add(&package, Format::Conda);
            let spec = format!("app={version}");
            signatures.push(envfs.build(["-c", &channel.url(), &spec]).to_string());
        }
        std::fs::create_dir(envfs.path().join("envs")).unwrap();
        if who == Who::Ordinary {
            user::open_to_all(envfs.path());
            for directory in ["store", "home", "envs"] {
                user::give_to_ordinary_user(&envfs.path().join(directory));
            }
        }
        Some(Self { envfs, signatures, who })
    }

    fn root(&self) -> PathBuf {
        self.envfs.path().join("envs")
    }

    fn place(&self, number: usize) -> PathBuf {
        self.envfs.store_path().join("mnt").join(&self.signatures[number][..16])
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = self.envfs.command();
        finish(self.who.runs(command.args(arguments)))
    }

    fn set(&self, arguments: &[&str]) {
        self.run(arguments).success();
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["--json"], arguments].concat()).success()).unwrap()
    }

    /// What is told of the directory, once it is told to be in this state.
    fn served(&self, state: &str) -> Value {
        let mut found = Value::Null;
        eventually(state, || {
            let listed = self.json(&["ps"]);
            let root = self.root();
            let mut rows = listed.as_array().unwrap().iter();
            let row = rows.find(|row| row["mount_point"] == root.to_str().unwrap());
            found = row.cloned().unwrap_or_default();
            found["state"] == state
        });
        found
    }

    /// Serves until it is told to end.
    fn foreground(&self, arguments: &[&str]) -> Child {
        let mut command = self.envfs.command();
        let command = self.who.runs(
            command
                .arg("serve")
                .arg(self.root())
                .arg("--foreground")
                .args(arguments),
        );
        let server = command.stderr(Stdio::null()).spawn().unwrap();
        eventually("it is served", || {
            is_mounted(&self.root()) && leases(&self.envfs.store()) > 0
        });
        server
    }

    /// A program, with nothing but a way to find others.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8");
        self.who.runs(&mut command);
        command
    }

    /// What a program that is told of paths below the mount prints.
    fn try_output(&self, program: &str, paths: &[&str]) -> Output {
        let paths = paths.iter().map(|path| self.root().join(path));
        self.command(program).args(paths).output().unwrap()
    }

    fn output(&self, program: &str, paths: &[&str]) -> String {
        let output = self.try_output(program, paths);
        assert!(output.status.success(), "{program} {paths:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn ls(&self, path: &str) -> Vec<String> {
        self.output("ls", &[path]).lines().map(str::to_owned).collect()
    }

    /// What the program of an environment says.
    fn app(&self, entrance: &str) -> String {
        let path = self.root().join(entrance).join("bin/app");
        let output = self.command(&path).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", path.display());
        String::from_utf8(output.stdout).unwrap()
    }

    fn left(&self) -> Vec<String> {
        let mut left = processes_of(self.envfs.path());
        left.extend((leases(&self.envfs.store()) > 0).then(|| "leases".to_owned()));
        left.extend(
            mounts_below(self.envfs.path())
                .iter()
                .map(|path| path.display().to_string()),
        );
        left
    }

    fn assert_nothing_left(&self) {
        eventually("nothing is left", || self.left().is_empty());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a failed test leaves must not stay mounted.
        if is_mounted(&self.root()) {
            let mut unmount = self.envfs.command();
            finish(unmount.args(["umount", "--lazy"]).arg(self.root()));
        }
        drop(self.run(&["warm", "--stop"]));
    }
}

fn kill(pid: &Value) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn terminate(server: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(server.wait().unwrap().success());
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not within a minute: {what}");
}
