//! An environment that can be written to: an overlay whose lower layer is any mount of ours, which never changes.
//!
//! ```text
//! <state>/
//!   upper/       what was changed, as overlayfs keeps it
//!   work/        overlayfs' own
//!   mount.json   which environment is below, and where it is seen
//! ```
//!
//! The state outlives the mount: mounted again with the same environment at the same place, the changes are back.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use envfs_store::Digest;
use envfs_store::lock::FileLock;
use envfs_store::tree::{NodeKind, Tree};
use rustix::fs::{FileType, Mode};
use serde::{Deserialize, Serialize};

use crate::kernel::{Attributes, Refused, detached};
use crate::mountinfo;

/// How long what a command that was killed leaves behind, mounts and a server, may take to let go of a state; and how often
/// that is looked at.
const KILLED_LIMIT: Duration = Duration::from_secs(2);
const RETRY_WAIT: Duration = Duration::from_millis(20);

/// What tells other installers to leave an environment alone (PEP 668, CEP 22), which is not true of a writable one.
const INSTALLER_NOTES: [&str; 2] = ["EXTERNALLY-MANAGED", "conda-meta/frozen"];

/// Where a writable mount keeps what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    root: PathBuf,
}

/// What a state belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The environment below.
    pub signature: Digest,
    /// Where it is seen: files that were written may name this path.
    pub mount_point: PathBuf,
    /// In which attributes overlayfs notes what it must.
    #[serde(default)]
    pub attributes: Attributes,
}

/// An environment cannot be mounted writable, or what was written cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum WritableError {
    /// Overlayfs is not to be had.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The directory holds the changes of something else.
    #[error(
        "`{root}` holds changes of the environment {} at `{mount_point}`: mount that there again, commit or discard it, or name \
         another directory with --upper", &signature.to_string()[..16]
    )]
    OtherState {
        /// The state's directory.
        root: PathBuf,
        /// The environment that it belongs to.
        signature: Digest,
        /// Where that was seen.
        mount_point: PathBuf,
    },
    /// Two overlays must not write into the same directory.
    #[error("`{0}` is in use: another command writes to it; wait for its end, or name another directory with --upper")]
    InUse(PathBuf),
    /// There is no writable mount.
    #[error("`{0}` is not a writable mount: `envfs mount --writable` makes one")]
    NotWritable(PathBuf),
    /// The operating system refused something else.
    #[error("cannot {action} `{path}`")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The environment below is damaged.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

impl State {
    /// The state in the directory `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The state of the writable mount at exactly `mount_point`.
    ///
    /// # Errors
    /// When no environment is mounted writable there.
    pub fn of_mount(mount_point: &Path) -> Result<Self, WritableError> {
        let mounts = mountinfo::read().map_err(system("read the mounts for", mount_point))?;
        let entry =
            mountinfo::at(&mounts, mount_point).filter(|entry| entry.source.starts_with(mountinfo::SOURCE_PREFIX));
        let upper = entry.and_then(|entry| {
            let upper = entry
                .super_options
                .split(',')
                .find_map(|option| option.strip_prefix("upperdir="))?;
            Path::new(upper).parent().map(Self::at)
        });
        upper.ok_or_else(|| WritableError::NotWritable(mount_point.to_owned()))
    }

    /// The directory that it is kept in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that holds what was changed.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.root.join("upper")
    }

    /// What the state belongs to.
    ///
    /// # Errors
    /// When there is no state, or its record is damaged.
    pub fn record(&self) -> Result<StateRecord, WritableError> {
        let path = self.record_path();
        let text = fs::read(&path).map_err(system("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| system("understand", &path)(error.into()))
    }

    /// Removes everything that was written.
    ///
    /// # Errors
    /// When a command writes to it, or something cannot be removed.
    pub fn discard(&self) -> Result<(), WritableError> {
        let alone = self.lock()?;
        self.remove()?;
        drop(alone);
        // A directory of the user's own may hold other things.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    /// What whoever holds the lock removes.
    fn remove(&self) -> Result<(), WritableError> {
        // The record goes last: as long as it is there, another try finds the state.
        for part in ["upper", "work"] {
            envfs_store::remove_tree(&self.root.join(part))?;
        }
        let path = self.record_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Keeps the state from everybody else's hands until what is returned is dropped.
    ///
    /// # Errors
    /// When somebody else has it.
    pub fn lock(&self) -> Result<FileLock, WritableError> {
        fs::create_dir_all(&self.root).map_err(system("create", &self.root))?;
        let path = self.root.join("lock");
        let end = Instant::now() + KILLED_LIMIT;
        loop {
            match FileLock::try_transient(&path)? {
                Some(lock) => return Ok(lock),
                None if Instant::now() > end => return Err(WritableError::InUse(self.root.clone())),
                None => std::thread::sleep(RETRY_WAIT),
            }
        }
    }

    /// Makes the state for an environment, or finds it made for the same one at the same place. Gives the attributes that
    /// were used first, which must be used ever after.
    pub(crate) fn prepare(&self, record: &StateRecord, tree: &Tree) -> Result<Attributes, WritableError> {
        if self.record_path().exists() {
            let found = self.record()?;
            if (&found.signature, &found.mount_point) != (&record.signature, &record.mount_point) {
                return Err(WritableError::OtherState {
                    root: self.root.clone(),
                    signature: found.signature,
                    mount_point: found.mount_point,
                });
            }
            return Ok(found.attributes);
        }
        for part in ["upper", "work"] {
            let path = self.root.join(part);
            make_own(&path).map_err(system("create", &path))?;
        }
        self.hide_installer_notes(tree)?;
        let path = self.record_path();
        let text = serde_json::to_vec(record).map_err(|error| system("write", &path)(error.into()))?;
        // Last, and all of it at once: without it, whoever comes next makes the rest.
        envfs_store::write_new(&path, &text)?;
        Ok(record.attributes)
    }

    /// An overlay of `lower`, an environment, that keeps what is written here; attached nowhere yet.
    pub(crate) fn overlay(
        &self,
        lower: &OwnedFd,
        signature: &Digest,
        attributes: Attributes,
    ) -> Result<OwnedFd, Refused> {
        let source = mountinfo::source(signature);
        detached::writable(
            &source,
            lower.as_fd(),
            &self.upper(),
            &self.root.join("work"),
            attributes,
        )
        .map_err(|refused| match refused.source.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => unfit(refused.source),
            _ => refused,
        })
    }

    /// Marks the notes as removed, as overlayfs would: a device with the number 0/0 (overlayfs.rst, "whiteouts").
    fn hide_installer_notes(&self, tree: &Tree) -> Result<(), WritableError> {
        for path in notes(tree)? {
            let place = self.upper().join(&path);
            let directory = place.parent().unwrap_or(&place);
            fs::create_dir_all(directory).map_err(system("create", directory))?;
            match rustix::fs::mknodat(rustix::fs::CWD, &place, FileType::CharacterDevice, Mode::empty(), 0) {
                // By one that was killed before it had made the rest.
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                // Another overlayfs keeps this number to itself.
                Err(errno @ rustix::io::Errno::PERM) => return Err(unfit(errno.into()).into()),
                Err(errno) => return Err(system("hide", &place)(errno.into())),
            }
        }
        Ok(())
    }

    fn record_path(&self) -> PathBuf {
        self.root.join("mount.json")
    }
}

/// Mounts an overlay on `record.mount_point` that keeps what is written in `state`. `lower` is a mount of the environment
/// that no path need lead to; `tree` is the environment's.
///
/// # Errors
/// When the state belongs to something else, or the kernel refuses.
pub fn mount(lower: &OwnedFd, state: &State, record: &StateRecord, tree: &Tree) -> Result<(), WritableError> {
    let _alone = state.lock()?;
    let is_new = !state.record_path().exists();
    let attributes = state.prepare(record, tree)?;
    let mounted = state
        .overlay(lower, &record.signature, attributes)
        .and_then(|overlay| detached::attach(&overlay, &record.mount_point));
    if mounted.is_err() && is_new {
        // What nobody can have written to keeps no environment.
        state.remove()?;
    }
    Ok(mounted?)
}

/// Overlayfs does not write to every file system: to no other overlayfs, and to few of networks and programs (overlayfs.rst, "Upper and
/// Lower").
fn unfit(source: io::Error) -> Refused {
    Refused {
        action: "keep what is written on that file system, which it can on ext4, xfs, btrfs and tmpfs: use a store there with --store, \
                 or name a directory there with --upper",
        file_system: "overlayfs",
        source,
    }
}

/// The paths of the notes to other installers that `tree` holds.
fn notes(tree: &Tree) -> envfs_store::Result<Vec<PathBuf>> {
    let mut paths = vec![PathBuf::from(INSTALLER_NOTES[1])];
    if let Some(library) = tree
        .find(b"lib")?
        .filter(|node| matches!(node.kind(), Ok(NodeKind::Directory)))
    {
        for child in tree.children(library, 0)? {
            let name = String::from_utf8_lossy(child?.name()?).into_owned();
            paths.push(Path::new("lib").join(name).join(INSTALLER_NOTES[0]));
        }
    }
    let mut found = Vec::new();
    for path in paths {
        if tree.find(path.as_os_str().as_encoded_bytes())?.is_some() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Makes a directory that is of the process's own group, also in a store of another group: the namespace of a user knows no other, and
/// nothing can be made there that would be of one that it does not know (`user_namespaces(7)`).
fn make_own(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let (made, own) = (fs::metadata(path)?, nix::unistd::getegid().as_raw());
    if made.gid() == own {
        return Ok(());
    }
    chown(path, None, Some(own))?;
    // What is made in it takes the group of who makes it.
    fs::set_permissions(path, Permissions::from_mode(made.mode() & 0o777))
}

fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WritableError {
    let path = path.to_owned();
    move |source| WritableError::System { action, path, source }
}
