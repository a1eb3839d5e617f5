//! Paths that follow names, for cron jobs, services and kernels.
//!
//! ```text
//! /envs/current/
//!   proj -> .envfs/3fb1c2d4.../at     replaced by a rename when the name changes
//!   .envfs/
//!     .lock
//!     3fb1c2d4.../
//!       prefix/                       the environment, mounted; its files name this path
//!       at/                           what the path shows: links to everything in prefix/, also to each program
//! ```
//!
//! A process must keep the environment it was started in. So nothing names the path that changes: the prefix in scripts and
//! libraries is that of one environment, and programs are reached by absolute links, which Python follows when it looks
//! for its library (getpath of CPython). What is replaced stays mounted until nobody uses it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use envfs_fuse::backend;
use envfs_fuse::mount::MountOptions;
use envfs_fuse::{mountinfo, unmount};
use envfs_store::environment::{self, Environment};
use envfs_store::lease::LeaseKind;
use envfs_store::links::{Link, Links};
use envfs_store::lock::FileLock;
use envfs_store::name::Name;
use envfs_store::names::{NameError, Names};
use envfs_store::{Digest, Store};

use crate::context::Context;
use crate::error::CliError;
use crate::serving::service;

/// The directory beside such paths that holds what they lead to.
const DIRECTORY: &str = ".envfs";

/// Whoever has looked at a path before it was replaced, and has not opened anything yet, has so long to do so.
const MIN_RETIRED: Duration = Duration::from_secs(60);

/// What this machine is called in records.
pub(crate) fn machine() -> Result<String, CliError> {
    let boot = envfs_fuse::current_boot()
        .map_err(|error| CliError::new("this machine has no name").because(error.to_string()))?;
    Ok(boot.machine)
}

/// Lets `path` show what `name` stands for, from now on.
pub(crate) fn add(context: &Context, name: &Name, path: &Path) -> Result<Link, CliError> {
    let store = context.store()?;
    Names::of(&store)
        .load(name)
        .map_err(|error| of_the_system(error, &store, name))?;
    let path = absolute(path)?;
    if path.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
        return Err(CliError::new(format!("`{}` exists, and is not a link", path.display()))
            .help("name a path that does not exist, in a directory that does"));
    }
    let link = Link::new(name.clone(), path, machine()?);
    show(context, &store, &link)?;
    Links::of(&store).add(&link)?;
    Ok(link)
}

/// A path follows names of the own store, whose changes it is told of.
fn of_the_system(error: NameError, store: &Store, name: &Name) -> CliError {
    let is_lower = matches!(Names::find(store, name), Ok(Some(found)) if found.is_lower);
    match (is_lower, store.lower()) {
        (true, Some(lower)) => CliError::new(format!("`{name}` is a name of the system's store")).help(format!(
            "who may write there lets paths follow it, with `--store {}`",
            lower.root().display()
        )),
        _ => error.into(),
    }
}

/// Takes the path away; what is used of it goes on.
pub(crate) fn remove(context: &Context, path: &Path) -> Result<Link, CliError> {
    let store = context.store()?;
    let path = absolute(path)?;
    let link = Links::of(&store).remove(&machine()?, &path)?.ok_or_else(|| {
        CliError::new(format!("`{}` follows no name", path.display())).help("`envfs name links` lists those that do")
    })?;
    let directory = Directory::beside(&path)?;
    let _alone = directory.lock()?;
    fs::remove_file(&path)
        .or_else(missing_is_fine)
        .map_err(at("remove", &path))?;
    directory.retire(&store, Duration::ZERO)?;
    Ok(link)
}

/// Makes the paths show what their names stand for: those of `name`, or all.
pub(crate) fn follow(context: &Context, name: Option<&Name>) -> Result<Vec<Link>, CliError> {
    let store = context.store()?;
    let mut links = Links::of(&store).on(&machine()?)?;
    links.retain(|link| name.is_none_or(|name| link.name == *name));
    for link in &links {
        show(context, &store, link).map_err(|error| {
            let path = link.path.display();
            error.help(format!(
                "`{path}` does not show what {} stands for: `envfs name mount` tries again",
                link.name
            ))
        })?;
    }
    Ok(links)
}

/// Unmounts what no path shows and nobody uses any more.
pub(crate) fn retire(store: &Store) -> Result<(), CliError> {
    for link in Links::of(store).on(&machine()?)? {
        if let Ok(directory) = Directory::beside(&link.path) {
            let _alone = directory.lock()?;
            directory.retire(store, MIN_RETIRED)?;
        }
    }
    Ok(())
}

/// What a path shows now, as digits of the signature.
pub(crate) fn shown(link: &Link) -> Option<String> {
    let target = fs::read_link(&link.path).ok()?;
    Some(target.parent()?.file_name()?.to_str()?.to_owned())
}

fn show(context: &Context, store: &Store, link: &Link) -> Result<(), CliError> {
    let directory = Directory::beside(&link.path)?;
    // Who comes second reads the name when the first is done: the last change is what is seen in the end.
    let _alone = directory.lock()?;
    let signature = Names::of(store).load(&link.name)?.current.signature;
    let environment = environment::get(store, &signature)?.ok_or(NameError::NotBuilt(signature))?;
    let version = directory.version(&signature);
    version.mount(context, store, &environment)?;
    version.make_entrance()?;
    let target = version.entrance();
    if fs::read_link(&link.path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let draft = directory.root.join(format!(".link-{}", std::process::id()));
    fs::remove_file(&draft)
        .or_else(missing_is_fine)
        .map_err(at("remove", &draft))?;
    symlink(&target, &draft).map_err(at("link", &draft))?;
    if let Ok(old) = fs::read_link(&link.path) {
        // From now on nobody new finds it.
        let _ = fs::File::open(&old).and_then(|old| old.set_modified(std::time::SystemTime::now()));
    }
    fs::rename(&draft, &link.path).map_err(at("replace", &link.path))?;
    directory.retire(store, MIN_RETIRED)
}

/// What lies beside paths that follow names.
struct Directory {
    root: PathBuf,
}

impl Directory {
    fn beside(path: &Path) -> Result<Self, CliError> {
        let root = path.parent().unwrap_or(Path::new("/")).join(DIRECTORY);
        match fs::create_dir(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at("make", &root)(error)),
            _ => Ok(Self { root }),
        }
    }

    fn lock(&self) -> Result<FileLock, CliError> {
        Ok(FileLock::exclusive(&self.root.join(".lock"))?)
    }

    fn version(&self, signature: &Digest) -> Version {
        Version {
            root: self.root.join(&signature.to_string()[..mountinfo::SOURCE_DIGITS]),
        }
    }

    /// Unmounts what no path in the directory above leads to, was replaced some time ago, and nobody uses.
    fn retire(&self, store: &Store, min_age: Duration) -> Result<(), CliError> {
        let above = self.root.parent().unwrap_or(Path::new("/"));
        let shown: Vec<PathBuf> = entries(above)?
            .iter()
            .filter_map(|path| fs::read_link(path).ok())
            .collect();
        for root in entries(&self.root)? {
            let version = Version { root };
            let is_version = version.prefix().is_dir() && !version.root.is_symlink();
            if !is_version || shown.contains(&version.entrance()) || version.is_younger(min_age) {
                continue;
            }
            // Who uses it keeps it: the kernel refuses then, and the next change or collection tries again.
            if version.is_mounted() && unmount::unmount(store, &version.prefix(), false).is_err() {
                continue;
            }
            fs::remove_dir_all(version.entrance())
                .or_else(missing_is_fine)
                .map_err(at("remove", &version.root))?;
            let _ = fs::remove_dir(version.prefix());
            let _ = fs::remove_dir(&version.root);
        }
        Ok(())
    }
}

/// One environment beside paths that follow names.
struct Version {
    root: PathBuf,
}

impl Version {
    fn prefix(&self) -> PathBuf {
        self.root.join("prefix")
    }

    fn entrance(&self) -> PathBuf {
        self.root.join("at")
    }

    fn is_mounted(&self) -> bool {
        let mounts = mountinfo::read().unwrap_or_default();
        mountinfo::at(&mounts, &self.prefix()).is_some() || envfs_fuse::link::is_linked(&self.prefix())
    }

    fn is_younger(&self, age: Duration) -> bool {
        envfs_store::clock::age(&self.entrance()).is_some_and(|changed| changed < age)
    }

    fn mount(&self, context: &Context, store: &Store, environment: &Environment) -> Result<(), CliError> {
        let prefix = self.prefix();
        if self.is_mounted() {
            if fs::read_dir(&prefix).is_ok() {
                return Ok(());
            }
            // Its server was killed.
            unmount::unmount(store, &prefix, true)?;
        }
        fs::create_dir_all(&prefix).map_err(at("make", &prefix))?;
        context.claim_at(store, &environment.signature, &prefix)?;
        let service = service(store, environment, &prefix, LeaseKind::Mount)?;
        let options = MountOptions {
            signature: environment.signature,
            allow_other: nix::unistd::geteuid().is_root(),
        };
        backend::mount_in_background(&service, &options, None, None)?;
        Ok(())
    }

    /// Makes what the path shows, as a whole or not at all.
    fn make_entrance(&self) -> Result<(), CliError> {
        if self.entrance().exists() {
            return Ok(());
        }
        let draft = self.root.join(".at");
        fs::remove_dir_all(&draft)
            .or_else(missing_is_fine)
            .map_err(at("remove", &draft))?;
        fs::create_dir(&draft).map_err(at("make", &draft))?;
        for entry in entries(&self.prefix())? {
            let to = draft.join(entry.file_name().unwrap_or_default());
            if to.file_name().is_some_and(|name| name == "bin") && entry.is_dir() {
                fs::create_dir(&to).map_err(at("make", &to))?;
                for program in entries(&entry)? {
                    let to = to.join(program.file_name().unwrap_or_default());
                    symlink(&program, &to).map_err(at("link", &to))?;
                }
            } else {
                symlink(&entry, &to).map_err(at("link", &to))?;
            }
        }
        fs::rename(&draft, self.entrance()).map_err(at("publish", &self.entrance()))
    }
}

/// The path with its directory resolved, which must exist; what stands at the path itself is not followed.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(at("find", parent))?.join(name)),
        _ => Err(CliError::new(format!("`{}` cannot follow a name", path.display()))),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let listed =
        fs::read_dir(directory).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    listed.map_err(at("list", directory))
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.to_owned();
    move |error| CliError::at(action, &path, &error)
}
