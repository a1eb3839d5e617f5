//! Mounts that no path leads to yet: made with fsopen(2) and fsmount(2), attached by move_mount(2) when they are
//! complete. Knows nothing of environments.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};

/// The kernel refused a step on the way to a mount.
#[derive(Debug, thiserror::Error)]
#[error("this kernel cannot {action} ({file_system})")]
pub struct Refused {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// With which file system.
    pub file_system: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// Whose extended attributes overlayfs believes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attributes {
    /// `trusted.overlay.*`, which only root reads and writes.
    #[default]
    Trusted,
    /// `user.overlay.*`, in a user namespace.
    User,
}

/// Asks whether the kernel has `file_system`, and lets it load the module.
pub(crate) fn known(file_system: &'static str) -> Result<(), Refused> {
    rustix::mount::fsopen(file_system, FsOpenFlags::FSOPEN_CLOEXEC)
        .map(drop)
        .map_err(refused("mount", file_system))
}

/// A mounted image, with further files that hold what it points to. The kernel reads the files itself (Linux 6.12).
pub(crate) fn image(path: &Path, devices: &[impl AsRef<Path>]) -> Result<OwnedFd, Refused> {
    let configure = || {
        let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", path)?;
        for device in devices {
            rustix::mount::fsconfig_set_string(context.as_fd(), "device", device.as_ref())?;
        }
        rustix::mount::fsconfig_set_flag(context.as_fd(), "ro")?;
        create(&context, ATTRIBUTES)
    };
    configure().map_err(refused("mount an image from a file, which Linux 6.12 can", "erofs"))
}

/// The same of an image that is on no disk: `write` writes it, and it is in memory as long as it is mounted. In ramfs, whose files
/// the kernel can read an image from (they have `read_folio`, as those of tmpfs have not).
pub(crate) fn image_in_memory(
    write: impl FnOnce(&mut File) -> io::Result<()>,
    devices: &[impl AsRef<Path>],
) -> Result<OwnedFd, Refused> {
    let keep = || -> io::Result<OwnedFd> {
        let context = rustix::mount::fsopen("ramfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let directory = create(&context, ATTRIBUTES - MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&directory, "image", flags, Mode::RUSR)?);
        write(&mut file)?;
        Ok(file.into())
    };
    let file = keep().map_err(|source| Refused {
        action: "keep an image in memory",
        file_system: "ramfs",
        source,
    })?;
    image(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), devices)
}

/// A lower layer that overlayfs takes content from.
pub(crate) enum ContentLayer<'a> {
    /// A directory.
    Directory(&'a Path),
    /// A mount that no path leads to.
    Mount(BorrowedFd<'a>),
}

/// The names of the mount `names`, with content from `layers` where its attributes point there (Linux 6.13, which
/// takes layers by descriptor; in user namespaces 6.16, which lets their attributes point to content).
pub(crate) fn overlay(
    source: &str,
    names: BorrowedFd<'_>,
    layers: &[ContentLayer<'_>],
    attributes: Attributes,
) -> Result<OwnedFd, Refused> {
    let configure = || {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
        rustix::mount::fsconfig_set_flag(context.as_fd(), "ro")?;
        match attributes {
            Attributes::Trusted => {
                rustix::mount::fsconfig_set_string(context.as_fd(), "metacopy", "on")?;
                rustix::mount::fsconfig_set_string(context.as_fd(), "redirect_dir", "on")?;
            }
            Attributes::User => rustix::mount::fsconfig_set_flag(context.as_fd(), "userxattr")?,
        }
        rustix::mount::fsconfig_set_fd(context.as_fd(), "lowerdir+", names)?;
        for layer in layers {
            match layer {
                ContentLayer::Directory(path) => {
                    rustix::mount::fsconfig_set_string(context.as_fd(), "datadir+", c_path(path)?)?;
                }
                ContentLayer::Mount(mount) => {
                    rustix::mount::fsconfig_set_fd(context.as_fd(), "datadir+", mount.as_fd())?;
                }
            }
        }
        create(&context, ATTRIBUTES)
    };
    let action = match attributes {
        Attributes::Trusted => "take the content of files from the store, which Linux 6.13 can from a local disk",
        Attributes::User => "take the content of files from the store for a user, which Linux 6.16 can",
    };
    configure().map_err(refused(action, "overlayfs"))
}

/// The mount `lower` with what is written kept in `upper`; `work` is overlayfs' own, beside it. Root's renames directories
/// of `lower`, and changes modes without copying content; in user namespaces overlayfs does neither.
pub(crate) fn writable(
    source: &str,
    lower: BorrowedFd<'_>,
    upper: &Path,
    work: &Path,
    attributes: Attributes,
) -> Result<OwnedFd, Refused> {
    let configure = || {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", c_path(upper)?)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", c_path(work)?)?;
        match attributes {
            Attributes::Trusted => {
                rustix::mount::fsconfig_set_string(context.as_fd(), "redirect_dir", "on")?;
                rustix::mount::fsconfig_set_string(context.as_fd(), "metacopy", "on")?;
            }
            Attributes::User => rustix::mount::fsconfig_set_flag(context.as_fd(), "userxattr")?,
        }
        rustix::mount::fsconfig_set_fd(context.as_fd(), "lowerdir+", lower)?;
        rustix::mount::fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    configure().map_err(refused("mount an overlay that is written to", "overlayfs"))
}

/// The mount whose requests come through `device`, for the user and group of this process.
pub(crate) fn fuse(source: &str, device: &OwnedFd) -> Result<OwnedFd, Refused> {
    let configure = || {
        let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let set = |key: &str, value: String| rustix::mount::fsconfig_set_string(context.as_fd(), key, value);
        set("source", source.to_owned())?;
        set("subtype", "envfs".to_owned())?;
        set("fd", device.as_raw_fd().to_string())?;
        set("rootmode", "40000".to_owned())?;
        set("user_id", nix::unistd::geteuid().to_string())?;
        set("group_id", nix::unistd::getegid().to_string())?;
        for flag in ["default_permissions", "allow_other", "ro"] {
            rustix::mount::fsconfig_set_flag(context.as_fd(), flag)?;
        }
        create(&context, ATTRIBUTES)
    };
    configure().map_err(refused("mount privately", "fuse"))
}

/// The directory `path` as a mount of its own.
pub(crate) fn directory(path: &Path) -> Result<OwnedFd, Refused> {
    mounted_again(path, OpenTreeFlags::empty())
}

/// The same, with what is mounted below it.
pub(crate) fn directory_with_mounts(path: &Path) -> Result<OwnedFd, Refused> {
    mounted_again(path, OpenTreeFlags::AT_RECURSIVE)
}

fn mounted_again(path: &Path, more: OpenTreeFlags) -> Result<OwnedFd, Refused> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | more;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags).map_err(refused("mount a directory again", "open_tree"))
}

/// Shows a mount at `mount_point`, in the mount namespace of this process.
pub(crate) fn attach(mount: &OwnedFd, mount_point: &Path) -> Result<(), Refused> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", rustix::fs::CWD, mount_point, flags)
        .map_err(refused("attach a mount", "move_mount"))
}

/// What every mount here is.
const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOATIME);

fn create(context: &OwnedFd, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn c_path(path: &Path) -> rustix::io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

fn refused(action: &'static str, file_system: &'static str) -> impl FnOnce(Errno) -> Refused {
    move |errno| Refused {
        action,
        file_system,
        source: errno.into(),
    }
}
