//! Environments beside plain copies of them on the file system of the store: the same random operations give the same results
//! and the same end, whoever mounts, and by whatever backend. What is known to differ stands in docs/semantics.md.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use envfs_store::digest::Digest;
use envfs_tests::channel::Channel;
use envfs_tests::data::skip;
use envfs_tests::differ::compare::Kind;
use envfs_tests::differ::given;
use envfs_tests::mounted::{self, Mounted, Who};
use envfs_tests::package::Format;
use envfs_tests::program::{Envfs, finish};
use envfs_tests::user;
use envfs_tests::volume::Volume;

/// How many sequences of operations are tried in each of the tests where the variable says nothing else, and which.
const CASES: usize = 100;
const CASES_VARIABLE: &str = "ENVFS_TEST_MODEL_CASES";
const SEED_VARIABLE: &str = "ENVFS_TEST_MODEL_SEED";

/// Trees that are there to make what was found as short as it can be.
const SPARE_TREES: usize = 100;

/// How large the file system of the copy may become.
const COPY_BYTES: u64 = 1 << 30;

/// A store of `who` with an environment of trees.
struct World {
    envfs: Envfs,
    who: Who,
    signature: Digest,
    cases: usize,
    trees: usize,
}

impl World {
    fn new(who: Who, kind: Kind) -> Option<Self> {
        if !mounted::is_possible() {
            return None;
        }
        if !user::is_root() {
            skip("an environment beside its copy: only root can mount the copy read-only, and mount writable");
            return None;
        }
        let cases = variable(CASES_VARIABLE).unwrap_or(CASES);
        let is_writable = matches!(kind, Kind::Writable | Kind::WritableAsUser);
        let trees = if is_writable { cases + SPARE_TREES } else { 8 };
        let envfs = Envfs::new();
        let channel = Channel::new(&envfs.path().join("channel")).with(&given::package(trees), Format::Conda);
        user::open_to_all(envfs.path());
        if who == Who::Ordinary {
            user::give_to_ordinary_user(envfs.path());
        }
        let mut build = envfs.command();
        build.args(["build", "-c", &channel.url(), "trees"]);
        let signature = finish(who.runs(&mut build)).success().trim().parse().unwrap();
        Some(Self {
            envfs,
            who,
            signature,
            cases,
            trees,
        })
    }

    /// The copy of the environment as it is seen at `prefix`, on a file system of its own.
    fn copy(&self, kind: Kind, prefix: &Path) -> Option<Volume> {
        let volume = Volume::ext4(&self.envfs.path().join("plain"), COPY_BYTES, &[])?;
        let plain = volume.path();
        given::write(plain, self.trees, prefix);
        if self.who == Who::Ordinary {
            user::give_to_ordinary_user(plain);
        }
        match kind {
            Kind::ReadOnly | Kind::Served => volume.remount("ro"),
            Kind::Linked => close(&plain.join("share")),
            Kind::Writable | Kind::WritableAsUser => {}
        }
        Some(volume)
    }

    /// The arguments of `envfs-differ`.
    fn comparison(&self, kind: Kind, prefix: &Path, plain: &Path) -> Vec<String> {
        let seed = variable(SEED_VARIABLE).unwrap_or(1);
        let numbers = [self.trees, self.cases, seed].map(|number| number.to_string());
        let paths = [prefix, plain].map(|path| path.to_str().unwrap().to_owned());
        [vec![kind.name().to_owned()], paths.to_vec(), numbers.to_vec()].concat()
    }

    /// Compares what is mounted, and says how much was tried.
    fn mounted(&self, kind: Kind, options: &[&str]) -> String {
        let place = self.envfs.path().join("place");
        let mounted = Mounted::with(&self.envfs, &self.signature, &place, self.who, options);
        let Some(plain) = self.copy(kind, &place) else {
            return String::new();
        };
        let mut differ = Command::new(env!("CARGO_BIN_EXE_envfs-differ"));
        differ.args(self.comparison(kind, &place, plain.path()));
        let counts = finish(self.who.runs(&mut differ)).success();
        mounted.unmount();
        self.envfs.assert_sound();
        counts
    }

    /// Compares what a run sees, and says how much was tried.
    fn run(&self, kind: Kind, options: &[&str]) -> String {
        let run = |words: &[String]| {
            let mut run = self.envfs.command();
            run.arg("run")
                .args(options)
                .arg(self.signature.to_string())
                .arg("--")
                .args(words);
            finish(self.who.runs(&mut run)).success()
        };
        let prefix = run(&["sh", "-c", "printf %s \"$CONDA_PREFIX\""].map(str::to_owned));
        let prefix = Path::new(&prefix);
        let Some(plain) = self.copy(kind, prefix) else {
            return String::new();
        };
        let mut words = vec![env!("CARGO_BIN_EXE_envfs-differ").to_owned()];
        words.extend(self.comparison(kind, prefix, plain.path()));
        let counts = run(&words);
        self.envfs.assert_sound();
        counts
    }
}

/// Takes all write bits away, as linked environments have none.
fn close(path: &Path) {
    let metadata = path.symlink_metadata().unwrap();
    if metadata.is_symlink() {
        return;
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            close(&entry.unwrap().path());
        }
    }
    let mode = metadata.permissions().mode() & 0o555;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn variable(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_the_kernel_serves_is_like_its_copy() {
    let Some(world) = World::new(Who::Tester, Kind::ReadOnly) else {
        return;
    };
    println!("{}", world.mounted(Kind::ReadOnly, &["--backend", "kernel"]));
}

#[test]
fn what_a_server_serves_is_like_its_copy() {
    let Some(world) = World::new(Who::Tester, Kind::Served) else {
        return;
    };
    println!("{}", world.mounted(Kind::Served, &["--backend", "fuse"]));
}

#[test]
fn what_a_server_of_an_ordinary_user_serves_is_like_its_copy() {
    let Some(world) = World::new(Who::Ordinary, Kind::Served) else {
        return;
    };
    println!("{}", world.mounted(Kind::Served, &["--backend", "fuse"]));
}

#[test]
fn what_is_linked_is_like_its_copy() {
    let Some(world) = World::new(Who::Ordinary, Kind::Linked) else {
        return;
    };
    println!("{}", world.mounted(Kind::Linked, &["--backend", "link"]));
}

#[test]
fn what_runs_see_is_like_its_copy() {
    let Some(world) = World::new(Who::Tester, Kind::ReadOnly) else {
        return;
    };
    println!("{}", world.run(Kind::ReadOnly, &["--backend", "kernel"]));
}

#[test]
fn what_runs_of_ordinary_users_see_is_like_its_copy() {
    let Some(world) = World::new(Who::Ordinary, Kind::ReadOnly) else {
        return;
    };
    println!("{}", world.run(Kind::ReadOnly, &["--backend", "kernel"]));
}

#[test]
fn a_writable_mount_is_like_its_copy() {
    let Some(world) = World::new(Who::Tester, Kind::Writable) else {
        return;
    };
    println!("{}", world.mounted(Kind::Writable, &["--writable"]));
}

#[test]
fn a_writable_run_is_like_its_copy() {
    let Some(world) = World::new(Who::Tester, Kind::Writable) else {
        return;
    };
    println!("{}", world.run(Kind::Writable, &["--writable"]));
}

#[test]
fn a_writable_run_of_an_ordinary_user_is_like_its_copy() {
    let Some(world) = World::new(Who::Ordinary, Kind::WritableAsUser) else {
        return;
    };
    println!("{}", world.run(Kind::WritableAsUser, &["--writable"]));
}
