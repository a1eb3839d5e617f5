//! Real mounts, as root and as an ordinary user. Each test runs in a process of its own, without threads, because
//! servers are forked. What this machine does not allow is skipped, loudly.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a test, and its own harness"
)]

mod fixture;
mod mounted_cases;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envfs_fuse::backend::{self, Backend};
use envfs_fuse::mount::MountOptions;
use envfs_fuse::run::{self, Place, RunError};
use envfs_fuse::service::Service;
use envfs_fuse::status::{self, Status};
use envfs_fuse::{mountinfo, unmount};
use envfs_store::lease::{self, LeaseKind};
use envfs_store::tree::Tree;
use envfs_store::view::View;
use envfs_store::{Digest, Store};

/// The user that plays the ordinary one when the tests are run by root: `nobody` of Debian.
const ORDINARY_UID: u32 = 65534;

/// A test that takes longer hangs.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// A test and who may run it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    /// By which backends it is run.
    pub(crate) by: &'static [Backend],
    pub(crate) run: fn(&Sandbox),
}

/// What a test needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A mount that all see: root, or for FUSE, fusermount3.
    PublicMount,
    /// A mount that only a command sees: root, or user namespaces.
    PrivateMount,
    /// Root.
    Root,
    /// Nothing: it looks itself what works.
    Nothing,
}

/// A store, an environment and a mount point of their own.
pub(crate) struct Sandbox {
    pub(crate) directory: PathBuf,
    pub(crate) store: Store,
    pub(crate) tree: Arc<Tree>,
    pub(crate) tree_name: Digest,
    pub(crate) signature: Digest,
    pub(crate) backend: Backend,
}

impl Sandbox {
    fn make(directory: PathBuf, backend: Backend) -> Self {
        let (store, tree) = fixture::make(&directory.join("store"));
        fs::create_dir(directory.join("mount point")).unwrap();
        if backend == Backend::Link {
            // What is lost cannot be linked.
            fixture::heal(&store);
        }
        Self {
            tree_name: only_tree(&store),
            directory,
            store,
            tree,
            signature: Digest::of(b"the sample environment"),
            backend,
        }
    }

    /// One that another process has made.
    fn open(directory: PathBuf, backend: Backend) -> Self {
        let store = Store::open(&directory.join("store")).unwrap();
        let tree_name = only_tree(&store);
        Self {
            tree: Arc::new(store.tree(&tree_name).unwrap()),
            directory,
            store,
            tree_name,
            signature: Digest::of(b"the sample environment"),
            backend,
        }
    }

    /// The same with the store opened anew.
    pub(crate) fn reopen(&self, store: Store) -> Self {
        Self {
            tree: Arc::new(store.tree(&self.tree_name).unwrap()),
            directory: self.directory.clone(),
            store,
            ..*self
        }
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.directory.join("mount point")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn private_prefix(&self) -> PathBuf {
        envfs_fuse::private_prefix(&self.store, &self.signature)
    }

    pub(crate) fn service(&self, mount_point: &Path, kind: LeaseKind) -> Service {
        Service {
            store: self.store.clone(),
            view: View::new(&self.store, Arc::clone(&self.tree), mount_point).unwrap(),
            tree: self.tree_name,
            signature: self.signature,
            mount_point: mount_point.to_owned(),
            kind,
        }
    }

    pub(crate) fn options(&self) -> MountOptions {
        MountOptions {
            signature: self.signature,
            allow_other: false,
        }
    }

    /// Mounts in the background, and gives the mount point.
    pub(crate) fn mount(&self) -> PathBuf {
        let mount_point = self.mount_point();
        let service = self.service(&mount_point, LeaseKind::Mount);
        let taken = backend::mount_in_background(&service, &self.options(), Some(self.backend), None).unwrap();
        assert_eq!(taken, self.backend);
        mount_point
    }

    pub(crate) fn unmount(&self) {
        unmount::unmount(&self.store, &self.mount_point(), false).unwrap();
    }

    /// Runs a shell command privately, with `P` as the prefix and `D` as the directory of this sandbox.
    pub(crate) fn run(&self, script: &str) -> Result<u8, RunError> {
        self.run_at(&self.private_prefix(), Place::Private, &["sh", "-c", script])
    }

    pub(crate) fn run_at(&self, prefix: &Path, place: Place, words: &[&str]) -> Result<u8, RunError> {
        let command = envfs_fuse::Command {
            program: words[0].into(),
            arguments: words[1..].iter().map(Into::into).collect(),
            environment: vec![
                ("PATH".into(), format!("{}/bin:/usr/bin:/bin", prefix.display()).into()),
                ("P".into(), prefix.into()),
                ("D".into(), self.directory.clone().into()),
            ],
            directory: None,
        };
        let service = self.service(prefix, LeaseKind::Run);
        run::run(&service, &self.options(), place, Some(self.backend), &command)
    }

    /// What `envfs ps` would show of this store.
    pub(crate) fn statuses(&self) -> Vec<Status> {
        let mut statuses = status::list(&self.store).unwrap();
        statuses.retain(|status| status.mount_point.starts_with(&self.directory));
        statuses
    }

    pub(crate) fn assert_nothing_is_left(&self) {
        assert_eq!(self.statuses(), []);
        assert_eq!(lease::list(&self.store).unwrap(), []);
        let mounts = mountinfo::read().unwrap();
        assert!(
            mounts
                .iter()
                .all(|mount| !mount.mount_point.starts_with(&self.directory)),
            "{mounts:?}"
        );
        assert_eq!(fs::read_dir(self.mount_point()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(self.store.mount_root()).unwrap().count(), 0);
    }
}

/// The name of the one tree in `store`.
pub(crate) fn only_tree(store: &Store) -> Digest {
    let mut trees = fs::read_dir(store.root().join("trees")).unwrap();
    trees
        .next()
        .unwrap()
        .unwrap()
        .file_name()
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// Waits until `condition` holds; fails after ten seconds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, backend, directory] = arguments.as_slice()
        && flag == "--case"
    {
        return run_case(name, backend.parse().unwrap(), directory.into());
    }
    if let [flag, backend, directory, prefix] = arguments.as_slice() {
        let inside = Sandbox::open(directory.into(), backend.parse().unwrap());
        match flag.as_str() {
            "--nested" => return mounted_cases::nested(inside, Path::new(prefix)),
            "--compare" => return mounted_cases::compare(&inside, Path::new(prefix)),
            _ => {}
        }
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failures = 0;
    for as_ordinary in [false, true] {
        let is_root = nix::unistd::geteuid().is_root();
        let uid = if as_ordinary && is_root {
            ORDINARY_UID
        } else {
            nix::unistd::geteuid().as_raw()
        };
        if as_ordinary != (uid != 0) {
            continue;
        }
        let cases = mounted_cases::CASES
            .iter()
            .flat_map(|case| case.by.iter().map(move |backend| (case, *backend)));
        for (case, backend) in cases {
            let name = format!("{} by {backend} as uid {uid}", case.name);
            if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
                continue;
            }
            match missing(case.needs, backend, uid) {
                Some(reason) => eprintln!("SKIPPED: {name}: {reason}"),
                None if spawn_case(case, backend, uid) => println!("test {name} ... ok"),
                None => {
                    println!("test {name} ... FAILED");
                    failures += 1;
                }
            }
        }
    }
    ExitCode::from(u8::from(failures > 0))
}

/// What this machine lacks for such a test, if anything.
fn missing(needs: Needs, backend: Backend, uid: u32) -> Option<String> {
    if needs == Needs::Root && uid != 0 {
        return Some("only root does this".into());
    }
    if backend == Backend::Link || needs == Needs::Nothing {
        return None;
    }
    if backend == Backend::Kernel {
        let since = if uid == 0 { (6, 13) } else { (6, 16) };
        let release = envfs_fuse::kernel::release();
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < since {
            return Some(format!("Linux {release} is older than {}.{}", since.0, since.1));
        }
        if needs == Needs::PublicMount && uid != 0 {
            return Some("only root does this".into());
        }
    }
    let device = fs::metadata("/dev/fuse");
    let Ok(device) = device else {
        return Some("/dev/fuse does not exist".into());
    };
    if uid == 0 {
        return None;
    }
    if device.permissions().mode() & 0o006 != 0o006 {
        return Some("/dev/fuse is not open to ordinary users: `chmod 666 /dev/fuse`".into());
    }
    let helper = || {
        Command::new("fusermount3")
            .arg("-V")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let namespaces = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "true"]);
        if nix::unistd::geteuid().is_root() {
            command.uid(uid).gid(uid);
        }
        command.output().is_ok_and(|output| output.status.success())
    };
    match needs {
        Needs::PublicMount if !helper() => Some("fusermount3 is missing: `apt install fuse3`".into()),
        Needs::PrivateMount if !namespaces() => Some("user namespaces are not allowed".into()),
        _ => None,
    }
}

/// Runs a case in a new process and a new directory. Says whether it passed.
fn spawn_case(case: &Case, backend: Backend, uid: u32) -> bool {
    let directory = tempfile::Builder::new().prefix("envfs-fuse-test-").tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--case", case.name, backend.name()])
        .arg(&path)
        .current_dir("/");
    if nix::unistd::geteuid().is_root() && uid != 0 {
        std::os::unix::fs::chown(&path, Some(uid), Some(uid)).unwrap();
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    let passed = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.success();
        }
        if start.elapsed() > TEST_LIMIT {
            eprintln!("{}: still running after {TEST_LIMIT:?}", case.name);
            let _ = child.kill();
            let _ = child.wait();
            break false;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    // A failed test may have left a mount, and its directory cannot be removed before that.
    for mount in mountinfo::read().unwrap() {
        if mount.mount_point.starts_with(&path) {
            let _ = Command::new("umount").arg("-l").arg(&mount.mount_point).status();
        }
    }
    passed
}

fn run_case(name: &str, backend: Backend, directory: PathBuf) -> ExitCode {
    let case = mounted_cases::CASES.iter().find(|case| case.name == name).unwrap();
    (case.run)(&Sandbox::make(directory, backend));
    ExitCode::SUCCESS
}
