//! Many mounts on one machine: all of them work, and listing them costs a few system calls for each.

use std::path::PathBuf;
use std::process::Command;

use envfs_store::digest::Digest;
use envfs_tests::channel::Channel;
use envfs_tests::data::skip;
use envfs_tests::mounted::{assert_no_process_of, is_possible, leases, mounts_below};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::user;

/// As many environments as a busy machine has in use at once.
const MOUNTS: usize = 200;

/// Of so many the cost of one more is known.
const FEW: usize = 10;

/// What `envfs ps` may ask of the kernel for each mount.
const CALLS_PER_MOUNT: usize = 40;

#[test]
fn two_hundred_mounts_with_servers_work_and_are_listed_at_once() {
    mount_many("fuse");
}

#[test]
fn two_hundred_mounts_by_the_kernel_work_and_are_listed_at_once() {
    if user::is_root() {
        mount_many("kernel");
    } else {
        skip("mounts by the kernel: only root makes them");
    }
}

fn mount_many(backend: &str) {
    if !is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let mut channel = Channel::new(&envfs.path().join("channel"));
    channel.add(
        &Package::new("small 1.0 0").file("share/hello", "hello\n"),
        Format::Conda,
    );
    let signature = envfs.build(["-c", &channel.url(), "small"]);
    let places: Vec<PathBuf> = (0..MOUNTS)
        .map(|number| envfs.path().join(format!("at/{number}")))
        .collect();
    let mounts = Mounts(&places);
    let mut calls_for_few = None;
    for (number, place) in places.iter().enumerate() {
        if number == FEW {
            calls_for_few = calls_of_ps(&envfs);
        }
        mount(&envfs, backend, &signature, place);
    }
    for place in &places {
        assert_eq!(std::fs::read_to_string(place.join("share/hello")).unwrap(), "hello\n");
    }
    let listed = envfs.json(["ps"]);
    let listed: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["signature"] == signature.to_string())
        .collect();
    assert_eq!(listed.len(), MOUNTS);
    assert!(
        listed
            .iter()
            .all(|row| row["state"] == "serving" && row["backend"] == backend)
    );
    if let (Some(few), Some(all)) = (calls_for_few, calls_of_ps(&envfs)) {
        let more = all.saturating_sub(few);
        assert!(
            more <= (MOUNTS - FEW) * CALLS_PER_MOUNT,
            "`envfs ps` makes {few} system calls for {FEW} mounts, {all} for {MOUNTS}"
        );
    }
    for place in &places {
        envfs.run(["umount".as_ref(), place.as_os_str()]);
    }
    drop(mounts);
    assert_eq!(mounts_below(envfs.path()), Vec::<PathBuf>::new());
    // On a busy machine servers may still be on their way out, with their leases.
    assert_no_process_of(envfs.path());
    assert_eq!(leases(&envfs.store()), 0);
}

fn mount(envfs: &Envfs, backend: &str, signature: &Digest, place: &PathBuf) {
    std::fs::create_dir_all(place).unwrap();
    let mut command = envfs.command();
    command
        .args(["mount", "--backend", backend, &signature.to_string()])
        .arg(place);
    finish(&mut command).success();
}

/// How many system calls `envfs ps` makes; unknown where nobody can count them.
fn calls_of_ps(envfs: &Envfs) -> Option<usize> {
    let log = envfs.path().join("ps.strace");
    let ps = envfs.command();
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-o"])
        .arg(&log)
        .arg(ps.get_program())
        .args(["ps", "--json"]);
    for (name, value) in ps.get_envs() {
        if let Some(value) = value {
            traced.env(name, value);
        }
    }
    let ran = traced.output();
    if !ran.is_ok_and(|output| output.status.success()) {
        skip("counting the system calls of `envfs ps`: strace is missing, or may not be used");
        return None;
    }
    Some(std::fs::read_to_string(&log).unwrap().lines().count())
}

/// Takes what is left of a failed test off the machine.
struct Mounts<'a>(&'a [PathBuf]);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for place in self.0 {
            let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
