//! Disks that lose their power: a file system in a file, which can be cut off from it at any moment. What had not been made
//! durable by then is gone when it is mounted again.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use tempfile::TempDir;

use crate::data::skip;
use crate::mounted::mounts_below;
use crate::program::{files_below, finish};
use crate::user;

/// A file system with a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

/// What of the journal is on the disk when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// All that has happened: names are there, the bytes behind them only if they were synced.
    Flushed,
    /// What was synced, and what came before it.
    Lost,
}

/// A mounted file system of its own, which only the thread that made it, and what it starts, can see: nobody else who makes a
/// mount namespace takes it along, and keeps it when it is unmounted.
pub struct Disk {
    directory: TempDir,
    kind: FileSystem,
}

/// Takes away the power of a disk.
#[derive(Clone, Debug)]
pub struct Switch {
    mount_point: PathBuf,
    journal: Journal,
}

/// Enough for what tests write. XFS is not made smaller (mkfs.xfs(8)); the file is sparse.
const EXT4_BYTES: u64 = 128 << 20;
const XFS_BYTES: u64 = 300 << 20;

/// How often is tried to unmount what a process may still have for some seconds.
const UNMOUNT_TRIES: u32 = 3000;

impl Disk {
    /// An empty one; or nothing, said loudly, where none can be made.
    ///
    /// # Panics
    /// When it cannot be made although the programs are there.
    #[must_use]
    pub fn new(kind: FileSystem) -> Option<Self> {
        if !user::is_root() {
            skip("power cuts: only root can mount a disk");
            return None;
        }
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        // What other tests have mounted would stay as long as this namespace.
        for mounted in mounts_below(&std::env::temp_dir()) {
            let _ = nix::mount::umount2(&mounted, MntFlags::MNT_DETACH);
        }
        let directory = tempfile::Builder::new().prefix("envfs-disk-").tempdir().unwrap();
        let disk = Self { directory, kind };
        let image = disk.image();
        let (bytes, program, arguments): (_, _, &[&str]) = match kind {
            FileSystem::Ext4 => (
                EXT4_BYTES,
                "mkfs.ext4",
                &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            ),
            FileSystem::Xfs => (XFS_BYTES, "mkfs.xfs", &["-q", "-f"]),
        };
        File::create(&image).unwrap().set_len(bytes).unwrap();
        finish(Command::new(program).args(arguments).arg(&image)).success();
        std::fs::create_dir(disk.path()).unwrap();
        disk.mount();
        Some(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// What takes away its power, now or at any time.
    #[must_use]
    pub fn switch(&self, journal: Journal) -> Switch {
        Switch {
            mount_point: self.path(),
            journal,
        }
    }

    /// Makes everything on it durable.
    ///
    /// # Panics
    /// When it cannot be synced.
    pub fn sync(&self) {
        nix::unistd::syncfs(File::open(self.path()).unwrap()).unwrap();
    }

    /// Gives it power again: what is on it now is what was durable.
    ///
    /// # Panics
    /// When it cannot be unmounted or mounted.
    pub fn restore(&self) {
        self.unmount();
        self.mount();
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mount(&self) {
        // The journal is written by who syncs, not by the clock, so that a sync that is missing is missed.
        let options = match self.kind {
            FileSystem::Ext4 => "loop,commit=300",
            FileSystem::Xfs => "loop",
        };
        finish(
            Command::new("mount")
                .args(["-o", options])
                .arg(self.image())
                .arg(self.path()),
        )
        .success();
    }

    /// Unmounts, and waits until whoever has it in a namespace of its own has ended: before, it would come back as it was.
    fn unmount(&self) {
        for _ in 0..UNMOUNT_TRIES {
            match nix::mount::umount(&self.path()) {
                Ok(()) | Err(Errno::EINVAL) if !self.is_in_use() => return,
                Ok(()) | Err(Errno::EINVAL | Errno::EBUSY) => std::thread::sleep(Duration::from_millis(10)),
                Err(errno) => panic!("cannot unmount {}: {errno}", self.path().display()),
            }
        }
        panic!("{} is still in use", self.path().display());
    }

    /// Whether a loop device has the image, as long as something is mounted from it.
    fn is_in_use(&self) -> bool {
        let devices = files_below(Path::new("/sys/block")).into_iter();
        let images = devices.filter_map(|device| std::fs::read_to_string(device.join("loop/backing_file")).ok());
        images
            .into_iter()
            .any(|image| Path::new(image.trim_end()) == self.image())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It goes with the namespace at the latest.
        let _ = nix::mount::umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

impl Switch {
    /// From now on nothing reaches the disk, and everything that tries fails.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn cut(&self) {
        shut_down(&self.mount_point, self.journal).unwrap();
    }
}

/// `XFS_IOC_GOINGDOWN` and `EXT4_IOC_SHUTDOWN`, which are the same request with the same flags (`fs/xfs/libxfs/xfs_fs.h`, `fs/ext4/ext4.h`).
const GOING_DOWN: libc::Ioctl = 0x8004_587d;
const LOG_FLUSH: u32 = 1;
const NO_LOG_FLUSH: u32 = 2;

fn shut_down(mount_point: &Path, journal: Journal) -> std::io::Result<()> {
    let directory = File::open(mount_point)?;
    let flags = match journal {
        Journal::Flushed => LOG_FLUSH,
        Journal::Lost => NO_LOG_FLUSH,
    };
    #[expect(unsafe_code, reason = "there is no other way to this request")]
    // SAFETY: the request reads one number.
    Errno::result(unsafe { libc::ioctl(directory.as_raw_fd(), GOING_DOWN, &flags) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_is_lost_with_the_power() {
        for kind in [FileSystem::Ext4, FileSystem::Xfs] {
            let Some(disk) = Disk::new(kind) else { return };
            let at = |name: &str| disk.path().join(name);
            for journal in [Journal::Flushed, Journal::Lost] {
                std::fs::write(at("kept"), "kept").unwrap();
                disk.sync();
                std::fs::write(at("lost"), "lost").unwrap();
                disk.switch(journal).cut();
                assert!(std::fs::write(at("late"), "late").is_err());
                disk.restore();
                assert_eq!(std::fs::read_to_string(at("kept")).unwrap(), "kept");
                match journal {
                    Journal::Flushed => assert_eq!(std::fs::read_to_string(at("lost")).unwrap(), "", "{kind:?}"),
                    Journal::Lost => assert!(!at("lost").exists(), "{kind:?}"),
                }
                assert!(!at("late").exists());
                std::fs::remove_file(at("kept")).unwrap();
                let _ = std::fs::remove_file(at("lost"));
            }
        }
    }
}
