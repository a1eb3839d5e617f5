//! Machines that have run out of something: what is mounted goes on, what is built is refused in words that say what is missing,
//! nothing is half there, and with room the next build succeeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use envfs_store::digest::Digest;
use envfs_store::workspace::Workspace;
use envfs_tests::cgroup::MemoryGroup;
use envfs_tests::channel::Channel;
use envfs_tests::data::skip;
use envfs_tests::mounted::{Mounted, Who, is_possible};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, Finished, finish};
use envfs_tests::user;
use envfs_tests::volume::Volume;

/// How many packages there are, and what is in each.
const PACKAGES: u8 = 3;
const SMALL_FILES: u8 = 40;
const LARGE_BYTES: usize = 3 << 20;

/// A store that has only been made, and packages beside it.
struct World {
    envfs: Envfs,
    channel: Channel,
}

impl World {
    fn new() -> Self {
        let envfs = Envfs::new();
        user::open_to_all(envfs.path());
        let mut channel = Channel::new(&envfs.path().join("channel"));
        for number in 0..PACKAGES {
            let name = format!("tool-{number}");
            // Of this world alone: what the server of another store shows keeps what has its signature.
            let world = envfs.path().to_str().unwrap();
            let mut package = Package::new(&format!("{name} 1.0 0")).file(&format!("share/{name}/world"), world);
            for file in 0..SMALL_FILES {
                package = package.file(
                    &format!("share/{name}/{file}"),
                    noise(u32::from(number) << 8 | u32::from(file), 2000),
                );
            }
            package = package.file(
                &format!("share/{name}/large"),
                noise(u32::from(number) + 77_777, LARGE_BYTES),
            );
            channel.add(&package, Format::Conda);
        }
        Self { envfs, channel }
    }

    fn build(&self, number: u8) -> Command {
        let mut build = self.envfs.command();
        build.args(["build", "-c", &self.channel.url(), &format!("tool-{number}")]);
        build
    }

    fn built(&self, number: u8) -> Digest {
        finish(&mut self.build(number)).success().trim().parse().unwrap()
    }

    /// Whoever was ended has left its drafts to the next, and nothing else.
    fn assert_swept(&self) {
        drop(Workspace::create(&self.envfs.store()).unwrap());
        self.envfs.assert_sound();
    }

    /// Everything of a package is there as it was brought.
    fn assert_serves(&self, place: &Path, number: u8) {
        let large = std::fs::read(place.join(format!("share/tool-{number}/large"))).unwrap();
        assert!(large == noise(u32::from(number) + 77_777, LARGE_BYTES));
        for file in 0..SMALL_FILES {
            let path = place.join(format!("share/tool-{number}/{file}"));
            assert!(
                std::fs::read(&path).unwrap() == noise(u32::from(number) << 8 | u32::from(file), 2000),
                "{path:?}"
            );
        }
    }
}

/// Bytes that no two numbers share, and that cannot be compressed.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The same command with such a limit (prlimit(1)).
fn under(limits: &[&str], command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited
        .args(limits)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    limited.env_clear();
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::null());
    limited
}

/// It succeeded, was refused in words, or where `may_die`, was ended by the kernel.
fn assert_told(finished: &Finished, words: &[&str], may_die: bool) -> bool {
    assert!(!finished.stderr.contains("panicked"), "{finished}");
    match finished.status.code() {
        Some(0) => true,
        Some(1) => {
            finished.refused(1, words);
            false
        }
        None if may_die => false,
        _ => panic!("{finished}"),
    }
}

#[test]
fn a_disk_without_room_serves_on_and_can_be_cleaned() {
    let world = World::new();
    let store = world.envfs.store_path();
    let Some(disk) = Volume::ext4(&store, 32 << 20, &["-m", "0"]) else {
        return;
    };
    if !is_possible() {
        return;
    }
    let kept = world.built(0);
    let gone = world.built(1);
    let place = world.envfs.path().join("place");
    let mounted = Mounted::at(&world.envfs, &kept, &place, Who::Tester);
    let ballast = disk.fill();
    for _ in 0..2 {
        finish(&mut world.build(2)).refused(1, &["No space left on device", "free some space", "--store DIR"]);
        world.envfs.assert_sound();
        world.assert_serves(&place, 0);
    }
    assert_eq!(world.envfs.json(["ls"]).as_array().unwrap().len(), 2);
    // What frees room needs none.
    let collected = world.envfs.json(["gc", "--grace", "0"]);
    assert_eq!(
        collected["environments"],
        serde_json::json!([gone.to_string()]),
        "{collected}"
    );
    world.assert_serves(&place, 0);
    assert!(
        collected["freed_bytes"].as_u64().unwrap() > LARGE_BYTES as u64,
        "{collected}"
    );
    std::fs::remove_file(ballast).unwrap();
    world.built(2);
    mounted.unmount();
    world.envfs.assert_sound();
}

#[test]
fn a_disk_without_inodes_is_told_from_one_without_room() {
    let world = World::new();
    let Some(disk) = Volume::in_memory(&world.envfs.store_path(), "size=100m,nr_inodes=34") else {
        return;
    };
    finish(&mut world.build(0)).refused(1, &["No space left on device", "no inodes", "--store DIR"]);
    disk.remount("nr_inodes=1000");
    world.built(0);
    world.envfs.assert_sound();
}

#[test]
fn a_quota_that_is_used_up() {
    let world = World::new();
    let store = world.envfs.store_path();
    let Some(disk) = Volume::in_memory(&store, "size=100m,usrquota,usrquota_block_hardlimit=2m") else {
        return;
    };
    user::give_to_ordinary_user(world.envfs.path());
    let mut build = world.build(0);
    finish(Who::Ordinary.runs(&mut build)).refused(1, &["quota is used up", "--store DIR"]);
    world.envfs.assert_sound();
    // Root has none.
    world.built(0);
    world.envfs.assert_sound();
    drop(disk);
}

/// The same where a quota is for a directory and whoever writes there, root too.
#[test]
fn a_quota_of_a_subvolume_that_is_used_up() {
    let world = World::new();
    let store = world.envfs.store_path();
    let Some(disk) = Volume::btrfs(&store, 256 << 20) else {
        return;
    };
    let limit = |amount: &str| {
        let mut btrfs = Command::new("btrfs");
        finish(btrfs.args(["qgroup", "limit", amount]).arg(disk.path())).success();
    };
    finish(Command::new("btrfs").args(["quota", "enable"]).arg(disk.path())).success();
    let kept = world.built(1);
    limit("5m");
    for _ in 0..2 {
        finish(&mut world.build(0)).refused(1, &["quota is used up", "--store DIR"]);
        world.envfs.assert_sound();
    }
    assert_eq!(world.envfs.json(["ls"]).as_array().unwrap().len(), 1);
    if is_possible() {
        let place = world.envfs.path().join("place");
        let mounted = Mounted::with(&world.envfs, &kept, &place, Who::Tester, &["--backend", "fuse"]);
        world.assert_serves(&place, 1);
        mounted.unmount();
    }
    limit("none");
    world.built(0);
    world.envfs.assert_sound();
}

/// A disk that is taken away in the middle: from then on the kernel gives an input/output error for everything that it must ask it.
#[test]
fn a_disk_that_fails() {
    let world = World::new();
    let store = world.envfs.store_path();
    let Some(disk) = Volume::ext4(&store, 64 << 20, &[]) else {
        return;
    };
    let kept = world.built(0);
    if Command::new("xfs_io").arg("-V").output().is_err() {
        return skip("a disk that fails: xfs_io is not installed");
    }
    finish(
        Command::new("xfs_io")
            .args(["-x", "-c", "shutdown -f"])
            .arg(disk.path()),
    )
    .success();
    let refused = finish(&mut world.build(1));
    assert!(!refused.stderr.contains("panicked"), "{refused}");
    refused.refused(1, &["Input/output error", "dmesg"]);
    disk.reopen();
    // What is made again when it is missed may be cut off.
    world.envfs.run(["verify", "--repair"]);
    world.envfs.assert_sound();
    assert_eq!(world.built(0), kept);
    world.built(1);
    world.envfs.assert_sound();
}

#[test]
fn a_process_that_may_open_few_files() {
    let world = World::new();
    let mut ways = [0, 0];
    for files in [6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64] {
        let limit = format!("--nofile={files}:{files}");
        let finished = finish(&mut under(&[&limit], &world.build(0)));
        if finished.status.code() == Some(127) {
            continue; // not even its libraries could be opened
        }
        let succeeded = assert_told(&finished, &["open files", "ulimit -Hn"], false);
        ways[usize::from(succeeded)] += 1;
        world.assert_swept();
        if succeeded {
            world.envfs.run(["gc", "--grace", "0"]);
        }
    }
    assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
    let signature = world.built(0);
    if !is_possible() {
        return;
    }
    // A server with as few descriptors as it can start with gives every file.
    let place = world.envfs.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let mut mount = world.envfs.command();
    mount
        .args(["mount", "--backend", "fuse", &signature.to_string()])
        .arg(&place);
    finish(&mut under(&["--nofile=32:32"], &mount)).success();
    world.assert_serves(&place, 0);
    world.envfs.run(["umount".as_ref(), place.as_os_str()]);
    world.envfs.assert_sound();
}

/// A user of whom nobody else here is one, so that only our own processes count.
#[test]
fn a_user_who_may_start_few_processes() {
    if !user::is_root() {
        return skip("a user who may start few processes: only root can be another user");
    }
    let world = World::new();
    own(world.envfs.path());
    let mut ways = [0, 0];
    for processes in [1, 2, 3, 4, 6, 8, 12, 16, 64] {
        let limit = format!("--nproc={processes}:{processes}");
        let build = as_lonely_user(&world.build(0));
        let finished = finish(&mut under(&[&limit], &build));
        let succeeded = assert_told(&finished, &["ulimit -u"], false);
        ways[usize::from(succeeded)] += 1;
        world.assert_swept();
        own(world.envfs.path());
    }
    assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
}

const LONELY_ID: u32 = 54_321;

fn as_lonely_user(command: &Command) -> Command {
    let id = LONELY_ID.to_string();
    let mut lonely = Command::new("setpriv");
    lonely.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
    lonely.arg(command.get_program()).args(command.get_args()).env_clear();
    lonely.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    lonely.current_dir(command.get_current_dir().unwrap());
    lonely
}

fn own(path: &Path) {
    let owner = format!("{LONELY_ID}:{LONELY_ID}");
    finish(Command::new("chown").args(["-R", &owner]).arg(path)).success();
}

/// Whoever gets no memory is ended by the kernel or ends itself; what it leaves does no harm.
#[test]
fn a_process_that_may_have_little_memory() {
    let world = World::new();
    let mut ways = [0, 0];
    for mib in [16, 24, 32, 48, 64, 96, 128, 256, 1024] {
        let limit = format!("--as={}", mib << 20);
        let finished = finish(&mut under(&[&limit], &world.build(0)));
        if finished.status.code() == Some(127) {
            continue;
        }
        let succeeded = assert_told(&finished, &[], true);
        ways[usize::from(succeeded)] += 1;
        world.assert_swept();
        if succeeded {
            world.envfs.run(["gc", "--grace", "0"]);
        }
    }
    assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
    world.built(0);
    world.envfs.assert_sound();
}

/// Where the kernel kills whoever needs a page too many, at whatever point that is: the store is whole, and nobody holds a lock.
#[test]
fn processes_that_may_have_little_memory_together() {
    let world = World::new();
    let mut ways = [0, 0];
    let mut collected = [0, 0];
    for kib in [
        64,
        128,
        256,
        384,
        512,
        768,
        1 << 10,
        2 << 10,
        4 << 10,
        8 << 10,
        16 << 10,
        256 << 10,
    ] {
        let Some(group) = MemoryGroup::new(kib << 10) else {
            return;
        };
        let finished = finish(&mut group.holds(&world.build(0)));
        let succeeded = assert_told(&finished, &[], true);
        ways[usize::from(succeeded)] += 1;
        world.assert_swept();
        // A collection that is killed has lost nothing of what is kept, and the next one goes on.
        let kept = world.built(1);
        world.envfs.run(["pin", "add", &kept.to_string()]);
        let free = world.built(0);
        let mut gc = world.envfs.command();
        gc.args(["gc", "--grace", "0"]);
        let finished = finish(&mut group.holds(&gc));
        let succeeded = assert_told(&finished, &[], true);
        collected[usize::from(succeeded)] += 1;
        world.assert_swept();
        world.envfs.run(["gc", "--grace", "0"]);
        let left = world.envfs.json(["ls"]);
        let why = world.envfs.try_run(["why", &free.to_string()]);
        assert_eq!(
            left.as_array().unwrap().len(),
            1,
            "{kib} KiB: {left:#}\n{finished}\n{why}"
        );
    }
    assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
    assert!(collected.iter().all(|count| *count > 0), "{collected:?}");
}

/// Server and keeper in such a group: whatever of them is killed, what is read is right or an error, and the mount can be mended.
#[test]
fn a_server_that_may_have_little_memory() {
    if !is_possible() {
        return;
    }
    let world = World::new();
    let signature = world.built(0).to_string();
    let place = world.envfs.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let place_text = place.to_str().unwrap();
    let mut lived = [0, 0];
    for kib in [512, 1 << 10, 2 << 10, 3 << 10, 4 << 10, 8 << 10, 64 << 10] {
        let Some(group) = MemoryGroup::new(256 << 20) else {
            return;
        };
        let mut mount = world.envfs.command();
        mount.args(["mount", "--backend", "fuse", &signature, place_text]);
        finish(&mut group.holds(&mount)).success();
        group.limit_to(kib << 10);
        for number in (0..SMALL_FILES).map(Some).chain([None]) {
            let (file, expected) = match number {
                Some(file) => (file.to_string(), noise(u32::from(file), 2000)),
                None => ("large".to_owned(), noise(77_777, LARGE_BYTES)),
            };
            if let Ok(bytes) = std::fs::read(place.join("share/tool-0").join(file)) {
                assert!(bytes == expected, "{number:?} with {kib} KiB");
            }
        }
        lived[usize::from(group.count() > 0)] += 1;
        // Outside of the group.
        world
            .envfs
            .run(["mount", "--ensure", "--backend", "fuse", &signature, place_text]);
        group.limit_to(256 << 20);
        world.assert_serves(&place, 0);
        world.envfs.run(["umount", place_text]);
        world.envfs.assert_sound();
    }
    println!("{} died, {} served on", lived[0], lived[1]);
    assert!(lived[1] > 0, "with enough it goes on");
}

/// While it serves the kernel kills it, because something else in its group needs more: its keeper starts another, and if that was
/// killed too, the mount is mended by whoever asks for it.
#[test]
fn a_server_that_is_killed_for_want_of_memory() {
    if !user::is_root() || !is_possible() {
        return skip("a server that is killed for want of memory: only root can say who is to be killed");
    }
    let world = World::new();
    let signature = world.built(0).to_string();
    let place = world.envfs.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let place_text = place.to_str().unwrap();
    let mut seen = BTreeMap::new();
    for round in 0..6 {
        let Some(group) = MemoryGroup::new(256 << 20) else {
            return;
        };
        let mut mount = world.envfs.command();
        mount.args(["mount", "--backend", "fuse", &signature, place_text]);
        finish(&mut group.holds(&mount)).success();
        let row = row_of(&world.envfs, place_text);
        let server = row["pid"].clone();
        let dies_with_its_keeper = round % 2 == 1;
        let victims = [&row["pid"], &row["keeper_pid"]];
        for pid in &victims[..1 + usize::from(dies_with_its_keeper)] {
            std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_until(&place, &is_over));
            // It needs twice what there is, and is itself killed in the end.
            let mut hog = Command::new("python3");
            hog.args(["-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"]);
            let hog = finish(group.holds(&hog).stdin(Stdio::null()));
            assert!(hog.status.code().is_none(), "{hog}");
            if !dies_with_its_keeper {
                for _ in 0..200 {
                    let row = row_of(&world.envfs, place_text);
                    if row["state"] == "serving" && row["pid"] != server {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                world.assert_serves(&place, 0);
            }
            is_over.store(true, Ordering::Relaxed);
            for (what, count) in reader.join().unwrap() {
                *seen.entry((dies_with_its_keeper, what)).or_insert(0_u64) += count;
            }
        });
        assert!(group.kills() >= 2, "{} were killed", group.kills());
        assert_ne!(row_of(&world.envfs, place_text)["pid"], server);
        // Outside of the group.
        let ensured = world
            .envfs
            .json(["mount", "--ensure", "--backend", "fuse", &signature, place_text]);
        assert_eq!(ensured["changed"], dies_with_its_keeper, "{ensured}");
        world.assert_serves(&place, 0);
        world.envfs.run(["umount", place_text]);
        world.envfs.assert_sound();
    }
    println!("whether the keeper was killed too, and what readers saw: {seen:?}");
    assert!(
        seen.keys()
            .all(|(_, what)| matches!(what.as_str(), "right" | "EIO" | "ENOTCONN" | "ECONNABORTED")),
        "{seen:?}"
    );
    assert!(
        seen[&(false, "right".to_owned())] > 0 && seen[&(true, "right".to_owned())] > 0,
        "{seen:?}"
    );
}

/// How `envfs ps` shows the mount at `place`.
fn row_of(envfs: &Envfs, place: &str) -> serde_json::Value {
    let rows = envfs.json(["ps"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["mount_point"] == place);
    row.unwrap_or_else(|| panic!("{rows:#}")).clone()
}

/// Reads files of the first package again and again. Right bytes or an error: how often which.
fn read_until(place: &Path, is_over: &AtomicBool) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    let mut numbers = (0..SMALL_FILES).cycle();
    while !is_over.load(Ordering::Relaxed) {
        let file = numbers.next().unwrap();
        let what = match std::fs::read(place.join(format!("share/tool-0/{file}"))) {
            Ok(bytes) => {
                assert!(bytes == noise(u32::from(file), 2000), "{file}");
                "right".to_owned()
            }
            Err(error) => format!("{:?}", nix::errno::Errno::from_raw(error.raw_os_error().unwrap())),
        };
        *seen.entry(what).or_default() += 1;
    }
    seen
}

/// A disk in a file on another one that becomes full: writes succeed, and syncs do not.
#[test]
fn a_disk_that_takes_writes_and_loses_them() {
    let world = World::new();
    let outer: PathBuf = world.envfs.path().join("outer");
    let Some(thin) = Volume::in_memory(&outer, "size=16m") else {
        return;
    };
    let store = thin.path().join("disk");
    let Some(disk) = Volume::ext4(&store, 64 << 20, &["-O", "^has_journal"]) else {
        return;
    };
    let mut build = world.build(0);
    build.env("ENVFS_STORE", &store);
    finish(&mut build).success();
    let ballast = thin.fill();
    let mut other = world.build(1);
    other.env("ENVFS_STORE", &store);
    let refused = finish(&mut other);
    // The kernel hands on what the file below says.
    refused.refused(1, &["No space left on device", "free some space"]);
    std::fs::remove_file(ballast).unwrap();
    drop(disk);
}
