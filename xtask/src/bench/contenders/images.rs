//! File systems of the kernel: overlayfs, and images that are made once from the plain directories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::directories::unmount;
use super::{Contender, SERVING};
use crate::bench::rows::Group;
use crate::bench::world::{Subject, World};
use crate::sh;

pub(super) fn overlay(world: &mut World) -> Result<Box<dyn Contender>> {
    let empty = world.directory.join("empty");
    std::fs::create_dir_all(&empty)?;
    Ok(Box::new(Image {
        made_once: None,
        mount: Box::new(move |_, subject, at| {
            let mut lower = std::ffi::OsString::from("ro,lowerdir=");
            lower.push(&empty);
            lower.push(":");
            lower.push(&subject.reference);
            let mut command = sh::command("mount");
            command.args(["-t", "overlay", "overlay", "-o"]).arg(lower).arg(at);
            Ok(command)
        }),
    }))
}

pub(super) fn erofs(world: &mut World) -> Result<Box<dyn Contender>> {
    make_images(world, "erofs", |from, image| {
        let mut command = sh::command("mkfs.erofs");
        command.arg("--quiet").arg(image).arg(from);
        command
    })?;
    Ok(Box::new(Image {
        made_once: Some("erofs"),
        mount: Box::new(|world, subject, at| {
            let mut command = sh::command(&world.replayer);
            command
                .args(["mount", "erofs"])
                .arg(image(world, subject, "erofs"))
                .arg(at);
            Ok(command)
        }),
    }))
}

pub(super) fn squashfs(world: &mut World) -> Result<Box<dyn Contender>> {
    make_images(world, "squashfs", |from, image| {
        let mut command = sh::command("mksquashfs");
        command.arg(from).arg(image);
        command.args([
            "-noappend",
            "-quiet",
            "-no-progress",
            "-comp",
            "zstd",
            "-Xcompression-level",
            "3",
        ]);
        command
    })?;
    Ok(Box::new(Image {
        made_once: Some("squashfs"),
        mount: Box::new(|world, subject, at| {
            let mut command = sh::command("mount");
            command
                .args(["-t", "squashfs", "-o", "ro,loop"])
                .arg(image(world, subject, "squashfs"))
                .arg(at);
            Ok(command)
        }),
    }))
}

/// One repository with both environments. Its named images ask for fs-verity, which ext4 may not have: images are
/// mounted by their digest.
pub(super) fn composefs(world: &mut World) -> Result<Box<dyn Contender>> {
    let program = world.tools.composefs()?;
    let repository = world.images().join("composefs");
    let name_file = |subject: &Subject| repository.with_file_name(format!("composefs-{}.txt", subject.name));
    let create = |subject: &Subject| -> Result<Duration> {
        let mut command = sh::command(&program);
        command
            .arg("--repo")
            .arg(&repository)
            .args(["create-image", "--no-propagate-usr-to-root"])
            .arg(&subject.reference);
        let start = Instant::now();
        let printed = sh::capture(&mut command)?;
        let digest = printed.trim().rsplit(':').next().unwrap_or_default().to_owned();
        std::fs::write(name_file(subject), digest)?;
        Ok(start.elapsed())
    };
    let (real, many) = (world.real.clone(), world.many.clone());
    world.make_once("composefs", &repository, || {
        let mut init = sh::command(&program);
        init.args(["init", "--algorithm", "fsverity-sha256-12", "--insecure"])
            .arg(&repository);
        sh::run_quiet(&mut init)?;
        create(&real)
    })?;
    if !name_file(&many).exists() {
        create(&many)?;
    }
    let digests = [&real, &many].map(|subject| std::fs::read_to_string(name_file(subject)));
    let [real_digest, many_digest] = digests;
    let (real_digest, many_digest) = (real_digest?, many_digest?);
    Ok(Box::new(Image {
        made_once: Some("composefs"),
        mount: Box::new(move |_, subject, at| {
            let digest = if subject.name == real.name {
                &real_digest
            } else {
                &many_digest
            };
            let mut command = sh::command(&program);
            command.arg("--repo").arg(&repository).arg("mount").arg(digest).arg(at);
            Ok(command)
        }),
    }))
}

/// Mounts the environment at a directory.
type Mounting = Box<dyn Fn(&World, &Subject, &Path) -> Result<Command>>;

/// A file system that one command mounts and `umount` takes away.
struct Image {
    made_once: Option<&'static str>,
    mount: Mounting,
}

impl Contender for Image {
    fn groups(&self) -> &'static [Group] {
        SERVING
    }

    fn offer(&self, world: &World, subject: &Subject, at: &Path) -> Result<Vec<Command>> {
        Ok(vec![(self.mount)(world, subject, at)?])
    }

    fn retire(&self, _: &World, at: &Path) -> Vec<Command> {
        vec![unmount(at)]
    }

    fn made_once(&self) -> Option<&'static str> {
        self.made_once
    }
}

/// Makes an image of each environment, the real one against the clock.
fn make_images(world: &mut World, kind: &'static str, make: fn(&Path, &Path) -> Command) -> Result<()> {
    let (real, many) = (world.real.clone(), world.many.clone());
    let (real_image, many_image) = (image(world, &real, kind), image(world, &many, kind));
    world.make_once(kind, &real_image, || sh::timed(&mut make(&real.reference, &real_image)))?;
    if !many_image.exists() {
        let unfinished = many_image.with_extension("part");
        sh::run_quiet(&mut make(&many.reference, &unfinished))?;
        std::fs::rename(&unfinished, &many_image).with_context(|| format!("cannot name {}", many_image.display()))?;
    }
    Ok(())
}

fn image(world: &World, subject: &Subject, kind: &str) -> PathBuf {
    world.images().join(format!("{}.{kind}", subject.name))
}
