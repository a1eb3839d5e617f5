//! Builds that die in the middle, builds at the same time, and builds of packages larger than memory may be.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use envfs_tests::chance::random;
use envfs_tests::channel::Channel;
use envfs_tests::data::{self, RealChannel};
use envfs_tests::large::{Noise, write_with_noise};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, files_below};

/// How often a build is killed. Each costs about as long as a build takes.
const KILLS: u32 = 100;

/// Of these the builds are: small ones, large ones, both formats, linked to each other.
const PACKAGES: [&str; 14] = [
    "_libgcc_mutex",
    "_openmp_mutex",
    "bzip2",
    "ca-certificates",
    "keyutils",
    "krb5",
    "libffi",
    "libgcc",
    "libgomp",
    "libstdcxx",
    "ncurses",
    "openssl",
    "pybind11-abi",
    "tzdata",
];

/// No build may need more, however large its packages are.
const MAX_MEMORY_BYTES: u64 = 256 << 20;

/// The size of the large file where nothing else is said, and the variable that says else.
const LARGE_BYTES: u64 = 600 << 20;
const LARGE_VARIABLE: &str = "ENVFS_TEST_LARGE_BYTES";

#[test]
fn a_build_killed_a_hundred_times() {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    let envfs = Envfs::new();
    let lock = locked(&envfs, &miniforge);
    let whole = Envfs::new();
    let started = Instant::now();
    let expected = whole.build([&lock]);
    let duration = started.elapsed();
    envfs.run(["store", "info"]);

    let mut state = 0x9e37_79b9_7f4a_7c15;
    let (mut killed, mut survived) = (0, 0);
    while killed < KILLS {
        let mut build = envfs.command();
        let mut child = build
            .arg("build")
            .arg(&lock)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(duration.mul_f64(random(&mut state)));
        child.kill().unwrap();
        let was_killed = child.wait().unwrap().signal() == Some(libc::SIGKILL);
        killed += u32::from(was_killed);
        survived += u32::from(!was_killed);
        assert!(survived < 4 * KILLS, "builds end before they are killed");
        let verified = envfs.json(["store", "verify"]);
        assert_eq!(verified["damaged"], serde_json::json!([]), "after kill {killed}");
        // Some kills hit a build that goes on after others, and some one that starts from nothing.
        if !was_killed || killed.is_multiple_of(4) {
            assert_eq!(envfs.build([&lock]), expected);
            empty(&envfs);
        }
    }
    println!("{killed} builds were killed, {survived} ended before, each of {duration:?}");
}

/// After a build has ended: nothing is damaged, nothing left over; then the store is emptied.
fn empty(envfs: &Envfs) {
    // The build that found everything done did not write, and so it did not sweep either.
    drop(envfs_store::workspace::Workspace::create(&envfs.store()).unwrap());
    envfs.assert_sound();
    std::fs::remove_dir_all(envfs.store_path()).unwrap();
    envfs.run(["store", "info"]);
}

#[test]
fn interrupted_by_the_user() {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    let envfs = Envfs::new();
    let lock = locked(&envfs, &miniforge);
    let mut build = envfs.command();
    let child = build
        .arg("build")
        .arg(&lock)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    wait_for(|| !files_below(&envfs.store_path().join("layers")).is_empty());
    // As the terminal does it: the whole group.
    nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let ended = (output.status.code(), output.status.signal());
    assert!(
        ended == (Some(130), None) || ended == (None, Some(libc::SIGINT)),
        "{output:?}"
    );
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(envfs.json(["ls"]), serde_json::json!([]));
    assert_eq!(envfs.json(["store", "verify"])["damaged"], serde_json::json!([]));
    let built = envfs.json(["build".as_ref(), lock.as_os_str()]);
    assert!(
        built["new_packages"].as_u64() < built["packages"].as_u64(),
        "nothing of the first build was used: {built}"
    );
    envfs.assert_sound();
}

#[test]
fn builds_at_the_same_time() {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    for count in [2, 6] {
        let envfs = Envfs::new();
        let lock = locked(&envfs, &miniforge);
        let builds: Vec<_> = (0..count)
            .map(|_| {
                let mut build = envfs.command();
                build
                    .args(["--json", "build"])
                    .arg(&lock)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let reports: Vec<serde_json::Value> = builds
            .into_iter()
            .map(|build| {
                let output = build.wait_with_output().unwrap();
                assert!(output.status.success(), "{output:?}");
                serde_json::from_slice(&output.stdout).unwrap()
            })
            .collect();
        let sum = |field: &str| {
            reports
                .iter()
                .map(|report| report[field].as_u64().unwrap())
                .sum::<u64>()
        };
        assert!(
            reports
                .iter()
                .all(|report| report["signature"] == reports[0]["signature"]),
            "{reports:?}"
        );
        assert_eq!(
            sum("new_packages"),
            reports[0]["packages"].as_u64().unwrap(),
            "a package was brought twice, or never: {reports:?}"
        );
        let linked = reports.iter().filter(|report| report["reused"] == false).count();
        assert_eq!(linked, 1, "the environment was linked {linked} times: {reports:?}");
        envfs.assert_sound();
    }
}

#[test]
fn a_large_package_needs_little_memory() {
    let size_bytes = std::env::var(LARGE_VARIABLE).map_or(LARGE_BYTES, |text| text.parse().unwrap());
    let envfs = Envfs::new();
    if free_bytes(&envfs) < size_bytes * 3 {
        data::skip(&format!(
            "a package of {size_bytes} bytes: there is no room for it in {}",
            envfs.path().display()
        ));
        return;
    }
    let mut channel = Channel::new(&envfs.path().join("channel"));
    let package = Package::new("large 1.0 0").file("share/small", "small");
    let archive = write_with_noise(
        package.clone(),
        "lib/noise.bin",
        size_bytes,
        &channel.path().join("linux-64"),
    );
    channel.record(&package, &archive);
    let (build, peak) = envfs.measure(["build", "-c", &channel.url(), "large"]);
    build.success();
    println!("a package of {size_bytes} bytes: {peak} bytes of memory");
    assert!(
        peak < MAX_MEMORY_BYTES,
        "the build of {size_bytes} bytes took {peak} bytes of memory"
    );
}

#[test]
fn a_large_patched_file_needs_little_memory() {
    let envfs = Envfs::new();
    let size = 320 << 20;
    if free_bytes(&envfs) < size * 4 {
        data::skip(&format!(
            "a patched file of {size} bytes: there is no room for it in {}",
            envfs.path().display()
        ));
        return;
    }
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut Noise::new("patched", size), &mut content).unwrap();
    let placeholder = format!("{}/lib\0", envfs_tests::package::PLACEHOLDER);
    content[1_000_000..1_000_000 + placeholder.len()].copy_from_slice(placeholder.as_bytes());
    let package = Package::new("patched 1.0 0").prefixed("lib/patched.so", &content, "binary");
    drop(content);
    let channel = Channel::new(&envfs.path().join("channel")).with(&package, Format::Conda);
    drop(package);
    let (build, peak) = envfs.measure(["build", "-c", &channel.url(), "patched"]);
    build.success();
    println!("{size} bytes of patched file, {peak} bytes of memory");
    assert!(
        peak < MAX_MEMORY_BYTES,
        "the build of a patched file of {size} bytes took {peak} bytes of memory"
    );
}

/// A lock for a small but real set of packages.
fn locked(envfs: &Envfs, miniforge: &RealChannel) -> PathBuf {
    let lock = envfs.path().join("pixi.lock");
    let mut arguments = vec!["lock".to_owned(), "-c".to_owned(), miniforge.url()];
    arguments.extend(PACKAGES.map(str::to_owned));
    arguments.extend(["-o".to_owned(), lock.to_str().unwrap().to_owned()]);
    envfs.run(&arguments);
    lock
}

fn free_bytes(envfs: &Envfs) -> u64 {
    let disk = nix::sys::statvfs::statvfs(envfs.path()).unwrap();
    disk.blocks_available() * disk.fragment_size()
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited for a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}
