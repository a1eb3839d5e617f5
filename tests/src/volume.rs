//! Small file systems of their own, in files: to be full, to be read-only, to be taken away.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::data::skip;
use crate::program::finish;
use crate::user;

/// A file system that is mounted for as long as this lives.
pub struct Volume {
    image: Option<PathBuf>,
    path: PathBuf,
}

impl Volume {
    /// An ext4 of so many bytes at `path`, which is made, in a sparse file beside it; `options` go to mkfs.ext4(8). Nothing, said
    /// loudly, where it cannot be made.
    ///
    /// # Panics
    /// When it cannot be mounted by root.
    #[must_use]
    pub fn ext4(path: &Path, size_bytes: u64, options: &[&str]) -> Option<Self> {
        let mut words = vec!["mkfs.ext4", "-q", "-F", "-E", "nodiscard"];
        words.extend(options);
        Self::in_file(path, size_bytes, &words)
    }

    /// A file system in memory; `options` are those of tmpfs(5). Nothing, said loudly, where the kernel does not know them.
    ///
    /// # Panics
    /// When its directory cannot be made.
    #[must_use]
    pub fn in_memory(path: &Path, options: &str) -> Option<Self> {
        Self::mounted(
            path,
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]),
        )
    }

    /// The same with XFS; `options` are those of mkfs.xfs(8), which makes none below 300 MiB.
    ///
    /// # Panics
    /// When it cannot be mounted by root.
    #[must_use]
    pub fn xfs(path: &Path, size_bytes: u64, options: &[&str]) -> Option<Self> {
        let mut words = vec!["mkfs.xfs", "-q", "-f", "-K"];
        words.extend(options);
        Self::in_file(path, size_bytes, &words)
    }

    /// The same with btrfs.
    ///
    /// # Panics
    /// When it cannot be mounted by root.
    #[must_use]
    pub fn btrfs(path: &Path, size_bytes: u64) -> Option<Self> {
        Self::in_file(path, size_bytes, &["mkfs.btrfs", "-q", "-f", "-K"])
    }

    /// An overlayfs over an empty directory, all of it beside `path`.
    ///
    /// # Panics
    /// When its directories cannot be made.
    #[must_use]
    pub fn overlay(path: &Path) -> Option<Self> {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|end| path.with_extension(end));
        for directory in [&lower, &upper, &work] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        Self::mounted(
            path,
            Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]),
        )
    }

    /// What a program shows by FUSE of a directory beside `path` (bindfs(1)), as one that a server shows over a network, without that.
    ///
    /// # Panics
    /// When its directories cannot be made.
    #[must_use]
    pub fn passed_through(path: &Path) -> Option<Self> {
        if Command::new("bindfs").arg("--version").output().is_err() {
            skip("a file system of a program: bindfs is not installed");
            return None;
        }
        let behind = path.with_extension("behind");
        std::fs::create_dir_all(&behind).unwrap();
        Self::mounted(
            path,
            Command::new("bindfs")
                .args(["-o", "allow_other,default_permissions"])
                .arg(behind),
        )
    }

    /// What `mount` mounts at `path`, which it is given last.
    fn mounted(path: &Path, mount: &mut Command) -> Option<Self> {
        let what = format!("{mount:?}");
        if !is_possible(&what) {
            return None;
        }
        std::fs::create_dir_all(path).unwrap();
        let mounted = finish(mount.arg(path));
        if !mounted.status.success() {
            skip(&format!("{what}: {}", mounted.stderr.trim()));
            return None;
        }
        Some(Self {
            image: None,
            path: path.to_owned(),
        })
    }

    fn in_file(path: &Path, size_bytes: u64, make: &[&str]) -> Option<Self> {
        if !is_possible(make[0]) {
            return None;
        }
        if Command::new(make[0]).arg("-V").output().is_err() {
            skip(&format!("a file system of its own: {} is not installed", make[0]));
            return None;
        }
        std::fs::create_dir_all(path).unwrap();
        let image = path.with_extension("image");
        std::fs::File::create(&image).unwrap().set_len(size_bytes).unwrap();
        finish(Command::new(make[0]).args(&make[1..]).arg(&image)).success();
        finish(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path)).success();
        Some(Self {
            image: Some(image),
            path: path.to_owned(),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes how it is mounted (mount(8), `remount`).
    ///
    /// # Panics
    /// When that is refused.
    pub fn remount(&self, options: &str) {
        finish(
            Command::new("mount")
                .arg("-o")
                .arg(format!("remount,{options}"))
                .arg(&self.path),
        )
        .success();
    }

    /// Unmounts and mounts again, as after an accident.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn reopen(&self) {
        let image = self.image.as_ref().unwrap();
        finish(Command::new("umount").arg(&self.path)).success();
        finish(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.path)).success();
    }

    /// Takes up all the room that is left for root, and gives the file that does.
    ///
    /// # Panics
    /// When it cannot be written for another reason.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        use std::io::{ErrorKind, Write};
        let path = self.path.join("filling");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut block = vec![0; 1 << 20];
        while !block.is_empty() {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => block.truncate(block.len() / 2),
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        let _ = file.sync_all();
        path
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        finish(Command::new("umount").arg("-l").arg(&self.path));
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}

fn is_possible(what: &str) -> bool {
    if !user::is_root() {
        skip(&format!("a file system of its own ({what}): only root can mount one"));
    }
    user::is_root()
}
