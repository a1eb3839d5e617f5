//! Load on a store: packages whose commands read all of their own, and workers who build, keep, mount, run and drop at random
//! and compare every byte that they see.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::chance::below;
use crate::channel::Channel;
use crate::mounted::{Who, mounts_below, processes_of};
use crate::package::{Format, Package};
use crate::program::{Envfs, Finished, files_below, finish, first_line};
use crate::user;

/// How many packages there are to build from.
pub const PACKAGES: usize = 8;

/// A store, and a channel of packages that share some files, each with a command that reads all of its own.
pub struct World {
    /// The program, as the user whose store it is.
    pub envfs: Envfs,
    /// Whose store it is.
    pub who: Who,
    channel: String,
    /// What the command of each package prints: the digest of everything in it.
    digests: Vec<String>,
}

impl World {
    /// An empty store of `who`.
    #[must_use]
    pub fn new(who: Who) -> Self {
        let mut envfs = Envfs::new();
        let mut channel = Channel::new(&envfs.path().join("channel"));
        let mut digests = Vec::new();
        // Of this world alone: what the server of another store shows keeps what has its signature.
        let world = envfs.path().to_owned();
        for number in 0..PACKAGES {
            let mut files: Vec<(String, String)> = (0..20)
                .map(|file| {
                    let word = if file < 8 { number / 2 } else { number + 100 };
                    (
                        format!("{file:02}"),
                        format!("{} {word} {file}\n", world.display()).repeat(50),
                    )
                })
                .collect();
            files.push(("large".to_owned(), format!("{:08}\n", number / 2).repeat(20_000)));
            let mut package = Package::new(&format!("tool-{number} 1.0 0"));
            let mut digest = Sha256::new();
            for (name, text) in &files {
                package = package.file(&format!("share/tool-{number}/{name}"), text);
                digest.update(text);
            }
            digests.push(hex::encode(digest.finalize()));
            let script = format!("#!/bin/sh\ncat \"${{0%/bin/*}}\"/share/tool-{number}/* | sha256sum\n");
            channel.add(
                &package.executable(&format!("bin/tool-{number}"), script),
                Format::Conda,
            );
        }
        envfs.give_to(who);
        Self {
            channel: channel.url(),
            who,
            digests,
            envfs,
        }
    }

    /// An environment of these packages, which nothing keeps yet.
    #[allow(clippy::must_use_candidate, reason = "some only want it to be there")]
    pub fn build(&self, numbers: &[usize]) -> String {
        self.envfs.build(self.specs(numbers)).to_string()
    }

    /// What to ask a build for.
    #[must_use]
    pub fn specs(&self, numbers: &[usize]) -> Vec<String> {
        let mut arguments = vec!["-c".to_owned(), self.channel.clone()];
        arguments.extend(numbers.iter().map(|number| format!("tool-{number}")));
        arguments
    }

    /// Collects without grace, and returns what was told.
    pub fn gc(&self) -> serde_json::Value {
        self.envfs.json(["gc", "--grace", "0"])
    }

    /// What is in the store beside records of what is kept.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        let store = self.envfs.store_path();
        let mut left = Vec::new();
        for name in ["packs", "layers", "trees", "environments", "trash", "tmp", "leases"] {
            left.extend(files_below(&store.join(name)));
        }
        for shard in files_below(&store.join("objects")) {
            left.extend(files_below(&shard));
        }
        left
    }

    /// The environment with these packages, which must all be there, as the kernel or a server shows it.
    ///
    /// # Panics
    /// When something is missing or wrong.
    pub fn assert_runs(&self, signature: &str, numbers: &[usize]) {
        for number in numbers {
            let told = self.envfs.run(["run", signature, "--", &format!("tool-{number}")]);
            self.assert_whole(*number, &told);
        }
    }

    /// The same of one that is mounted at `prefix`.
    ///
    /// # Panics
    /// When something is missing or wrong.
    pub fn assert_reads(&self, prefix: &str, numbers: &[usize]) {
        for number in numbers {
            self.assert_whole(*number, &self.read(prefix, *number).stdout);
        }
    }

    /// What the package's command, mounted at `prefix`, finds; complaints are on its standard error.
    #[must_use]
    pub fn read(&self, prefix: &str, number: usize) -> Finished {
        let mut command = Command::new(format!("{prefix}/bin/tool-{number}"));
        finish(self.who.runs(&mut command))
    }

    /// What was told is the digest of all files of the package.
    ///
    /// # Panics
    /// When it is another.
    pub fn assert_whole(&self, number: usize, told: &str) {
        assert_eq!(told.split(' ').next(), Some(&*self.digests[number]), "tool-{number}");
    }

    /// An empty directory of this user.
    #[must_use]
    pub fn directory(&self, name: &str) -> String {
        let path = self.envfs.path().join(name);
        std::fs::create_dir(&path).unwrap();
        self.who.owns(&path);
        path.to_str().unwrap().to_owned()
    }

    /// What ends asynchronously has a moment to do so.
    pub fn await_unmounted(&self) {
        for _ in 0..200 {
            let leases = envfs_store::lease::list(&self.envfs.store()).unwrap();
            // What a killed run leaves is mounted where only its processes see it.
            let is_quiet = processes_of(self.envfs.path()).is_empty();
            if leases.is_empty() && is_quiet && mounts_below(self.envfs.path()).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the kernel itself may serve mounts for this user.
    fn has_kernel(&self) -> bool {
        self.who == Who::Tester && user::is_root()
    }
}

/// What was done, and how long each took.
#[derive(Debug, Default)]
pub struct Done(Mutex<BTreeMap<&'static str, Vec<Duration>>>);

impl Done {
    /// Does something, and counts it as `what`.
    ///
    /// # Panics
    /// When another thread has failed.
    pub fn count<T>(&self, what: &'static str, something: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = something();
        self.0.lock().unwrap().entry(what).or_default().push(started.elapsed());
        result
    }

    /// How often each was done, and how long the middle one, the slowest of a hundred and the slowest of all took.
    ///
    /// # Panics
    /// When another thread has failed.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut done = self.0.lock().unwrap();
        let rows = done.iter_mut().map(|(what, took)| {
            took.sort();
            let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_millis();
            format!("{} {what} ({}/{}/{} ms)", took.len(), at(50), at(99), at(100))
        });
        rows.collect::<Vec<_>>().join(", ")
    }

    /// The slowest of all.
    ///
    /// # Panics
    /// When another thread has failed.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        let done = self.0.lock().unwrap();
        done.values().flatten().max().copied().unwrap_or_default()
    }
}

/// Builds, keeps, mounts, runs and drops at random.
pub struct Worker<'a> {
    world: &'a World,
    done: &'a Done,
    owner: String,
    at: String,
    state: u64,
}

impl<'a> Worker<'a> {
    /// The worker of this name, whose chance begins with `seed`.
    #[must_use]
    pub fn new(world: &'a World, name: &str, seed: u64, done: &'a Done) -> Self {
        Self {
            world,
            done,
            owner: format!("w:{name}"),
            at: world.directory(&format!("m-{name}")),
            state: seed,
        }
    }

    /// Needs nothing any more.
    pub fn end(self) {
        self.world.envfs.run(["owner", "rm", &self.owner]);
    }

    /// One environment is built, kept, and used in some way.
    ///
    /// # Panics
    /// When anything is missing or wrong.
    pub fn round(&mut self) {
        let numbers = self.numbers();
        let Some(signature) = self.keep(&numbers) else { return };
        let envfs = &self.world.envfs;
        match below(&mut self.state, 5) {
            0 => self.done.count("runs", || self.world.assert_runs(&signature, &numbers)),
            1 => self.done.count("lonely runs", || {
                // Of an environment that nothing keeps but a run, everything is still there.
                let mut run = sleeping(envfs, &signature);
                envfs.run(["owner", "rm", &self.owner]);
                self.world.gc();
                self.world.assert_runs(&signature, &numbers);
                drop(run.stdin.take());
                run.wait().unwrap();
            }),
            2 => self.mount(&signature, &numbers, "link"),
            3 if self.world.has_kernel() => self.mount(&signature, &numbers, "kernel"),
            _ => self.mount(&signature, &numbers, "fuse"),
        }
    }

    fn mount(&self, signature: &str, numbers: &[usize], backend: &'static str) {
        let envfs = &self.world.envfs;
        let what = match backend {
            "kernel" => "kernel mounts",
            "fuse" => "fuse mounts",
            _ => "link mounts",
        };
        self.done.count(what, || {
            envfs.run(["mount", signature, &self.at, "--backend", backend]);
        });
        envfs.run(["owner", "rm", &self.owner]);
        if self.world.who == Who::Tester {
            // All names, then all bytes.
            let listed = crate::seen::list_directory(self.at.as_ref());
            assert!(listed.len() > 2 * 21, "{listed:?}");
        }
        self.done
            .count("reads of all files", || self.world.assert_reads(&self.at, numbers));
        self.unmount();
    }

    /// A run of the same environment by another worker may have found it here, and keeps it until it ends.
    fn unmount(&self) {
        for _ in 0..100 {
            let unmounted = self.world.envfs.try_run(["umount", &self.at]);
            if unmounted.status.success() {
                return;
            }
            unmounted.refused(1, &["is in use by"]);
        }
        panic!("{} stays in use", self.at);
    }

    /// Two packages.
    fn numbers(&mut self) -> [usize; 2] {
        let first = below(&mut self.state, PACKAGES);
        [first, (first + 1 + below(&mut self.state, PACKAGES - 1)) % PACKAGES]
    }

    /// An environment that this worker keeps; none if it was collected before.
    fn keep(&mut self, numbers: &[usize]) -> Option<String> {
        let (world, envfs) = (self.world, &self.world.envfs);
        if below(&mut self.state, 2) == 0 {
            // Made and kept by one command: no collection comes between.
            let dependencies: Vec<String> = numbers.iter().map(|number| format!("tool-{number}")).collect();
            let spec = format!("channels: ['{}']\ndependencies: {dependencies:?}\n", world.channel);
            // Of this worker alone: while one writes it, another would read half of it.
            let file = envfs.write(&format!("{}.yml", self.owner), &spec);
            let kept = self.done.count("kept builds", || {
                envfs.run(["owner", "add", &self.owner, file.to_str().unwrap()])
            });
            return Some(kept.trim().to_owned());
        }
        let signature = match below(&mut self.state, 2) {
            0 => self.done.count("builds", || world.build(numbers)),
            _ => self.build_on_base(numbers)?,
        };
        // Nothing keeps it yet: what fails fails because it is gone as a whole, and says so.
        let added = envfs.try_run(["owner", "add", &self.owner, &signature]);
        if added.status.success() {
            return Some(signature);
        }
        self.done.count("collected before they were kept", || ());
        added.refused(1, &["environment", &signature]);
        None
    }

    /// The same in two steps, the second of which stands on the first; none if that was collected before.
    fn build_on_base(&mut self, numbers: &[usize]) -> Option<String> {
        let base = self.world.build(&numbers[..1]);
        let mut arguments = vec!["build".to_owned(), format!("--base={base}")];
        arguments.extend(self.world.specs(numbers));
        let built = self
            .done
            .count("builds on a base", || self.world.envfs.try_run(arguments));
        if built.status.success() {
            return Some(built.stdout.trim().to_owned());
        }
        self.done.count("collected before they were kept", || ());
        built.refused(1, &[&base[..16]]);
        None
    }
}

/// A run that lasts until it is killed, and is ready when this returns.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn sleeping(envfs: &Envfs, signature: &str) -> Child {
    let mut command = envfs.command();
    let mut child = command
        .args(["run", signature, "--", "sh", "-c", "echo ready; read x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut child), "ready");
    child
}
