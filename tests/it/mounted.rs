//! Real programs in real mounts: at short paths, at long ones and with spaces, as root and as an ordinary user.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use envfs_store::digest::Digest;
use envfs_store::environment;
use envfs_store::view::View;
use envfs_tests::cases;
use envfs_tests::channel::Channel;
use envfs_tests::data::RealChannel;
use envfs_tests::mounted::{Mounted, Who, assert_no_process_of, is_mounted, is_possible, leases, mounts_below};
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::reference::Reference;
use envfs_tests::seen::{list_directory, list_view};
use envfs_tests::user;

use crate::parity::assert_same;

#[test]
fn a_mount_is_what_rattler_installs_there() {
    let Some((envfs, miniforge)) = room() else { return };
    let archives = miniforge.archives();
    let lock = envfs.write("explicit.txt", &cases::explicit(&archives));
    let signature = envfs.build([&lock]);
    let prefix = envfs.path().join("a home/environment");
    Reference::new(envfs.path()).install(&archives, &prefix).unwrap();
    let installed = envfs.path().join("installed");
    std::fs::rename(&prefix, &installed).unwrap();
    let mounted = Mounted::at(&envfs, &signature, &prefix, Who::Tester);
    let seen = list_directory(&prefix);
    assert_same(&list_directory(&installed), &seen, &prefix);
    // And it is what the tests without a mount compare: so what they say of other packages holds for mounts.
    let store = envfs.store();
    let tree = store
        .tree(&environment::load(&store, &signature).unwrap().tree)
        .unwrap();
    let view = list_view(&View::new(&store, Arc::new(tree), &prefix).unwrap());
    assert_eq!(seen.len(), view.len());
    for (path, expected) in view {
        assert_eq!(seen.get(&path), Some(&expected), "{path}");
    }
    mounted.unmount();
    assert_eq!(leases(&store), 0);
}

#[test]
fn programs_at_a_short_path_as_the_tester() {
    programs(Who::Tester, |_| {
        if user::is_root() {
            unique("/envs")
        } else {
            unique("/tmp")
        }
    });
}

#[test]
fn programs_at_a_short_path_as_an_ordinary_user() {
    programs(Who::Ordinary, |_| {
        if user::is_root() {
            unique("/envs")
        } else {
            unique("/tmp")
        }
    });
}

#[test]
fn programs_in_a_home_with_a_space_as_the_tester() {
    programs(Who::Tester, |base| base.join("home of a user/my environment"));
}

#[test]
fn programs_in_a_home_with_a_space_as_an_ordinary_user() {
    programs(Who::Ordinary, |base| base.join("home of a user/my environment"));
}

#[test]
fn programs_at_two_hundred_characters_as_the_tester() {
    programs(Who::Tester, two_hundred);
}

#[test]
fn programs_at_two_hundred_characters_as_an_ordinary_user() {
    programs(Who::Ordinary, two_hundred);
}

/// Nothing compiles what packages ship compiled, and nothing is written. Noarch packages, and this channel's own Python,
/// ship no bytecode; they are compiled at every start.
#[test]
fn shipped_bytecode_is_used() {
    let Some((envfs, miniforge)) = room() else { return };
    let signature = envfs.build(miniforge.build_arguments(&[]));
    let mounted = Mounted::at(&envfs, &signature, &envfs.path().join("environment"), Who::Tester);
    let mut python = mounted.command("bin/python");
    let imports =
        "import conda, conda.exports, cffi, zstandard, ruamel.yaml, frozendict, menuinst, mamba.api, libmambapy";
    let run = finish(python.args(["-v", "-c", imports]));
    assert!(run.status.success(), "{run}");
    let trace = run.stderr;
    assert!(
        !trace.contains("# wrote "),
        "bytecode was written:\n{}",
        lines_with(&trace, "# wrote ")
    );
    let store = envfs.store();
    let tree = store
        .tree(&environment::load(&store, &signature).unwrap().tree)
        .unwrap();
    let (mut matched, mut compiled) = (0, 0);
    for line in trace.lines() {
        if line.contains(".pyc matches ") {
            matched += 1;
        } else if let Some(source) = line
            .strip_prefix("# code object from ")
            .and_then(|rest| rest.strip_suffix(".py"))
        {
            // Compiled from its source: only where no bytecode is shipped.
            let source = Path::new(source).strip_prefix(mounted.path()).unwrap();
            let name = source.file_name().unwrap().to_str().unwrap();
            let shipped = source
                .with_file_name("__pycache__")
                .join(format!("{name}.cpython-312.pyc"));
            let node = tree.find(shipped.as_os_str().as_encoded_bytes()).unwrap();
            assert!(
                node.is_none(),
                "{} was compiled, though {} is there",
                source.display(),
                shipped.display()
            );
            compiled += 1;
        }
    }
    println!("{matched} used as shipped, {compiled} compiled for want of bytecode");
    assert!(
        matched > 100 && compiled > 100,
        "only {matched} files of bytecode were used, and {compiled} compiled"
    );
    assert!(!trace.contains("bytecode is stale"), "{}", lines_with(&trace, "stale"));
    mounted.unmount();
}

#[test]
fn mount_points_that_will_not_do() {
    if !is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let tight = format!("\x7fELF\0{PLACEHOLDER}/lib\0");
    let package = Package::new("tight 1.0 0")
        .prefixed("lib/tight.so", tight, "binary")
        .file("share/x", "x");
    let channel = Channel::new(&envfs.path().join("channel")).with(&package, Format::Conda);
    let signature = envfs.build(["-c", &channel.url(), "tight"]);
    let text = signature.to_string();
    let mount = |path: &Path| envfs.try_run([Path::new("mount"), Path::new(&text), path]);
    let directory = |name: &str| {
        let path = envfs.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let missing = envfs.path().join("missing");
    mount(&missing).refused(1, &[missing.to_str().unwrap(), "does not exist", "mkdir -p"]);
    assert!(!missing.exists(), "it was made");
    mount(&envfs.write("file", "")).refused(1, &["is not a directory", "name an empty directory"]);
    mount(&envfs.path().join("channel")).refused(1, &["channel", "is not empty", "name an empty directory"]);
    let fits = directory("fits");
    let unknown = envfs.try_run([Path::new("mount"), Path::new("0123456789"), &fits]);
    unknown.refused(1, &["no environment in", "`envfs ls`"]);
    let long = directory(&"z".repeat(240 - envfs.path().as_os_str().len())).join("z".repeat(40));
    std::fs::create_dir(&long).unwrap();
    mount(&long).refused(1, &["`lib/tight.so`", "tight-1.0-0", "at most 255 bytes"]);
    envfs
        .try_run([Path::new("umount"), &fits])
        .refused(1, &["fits", "is not a mounted environment", "`envfs ps`"]);
    assert_eq!(mounts_below(envfs.path()), Vec::<PathBuf>::new());
    assert_eq!(leases(&envfs.store()), 0);

    let mounted = Mounted::at(&envfs, &signature, &fits, Who::Tester);
    mount(&fits).refused(1, &["is already a mount point", "envfs umount"]);
    let listed = envfs.json(["ps"]);
    // Mounts of other stores, such as other tests have, are listed too.
    let ours: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["mount_point"] == fits.to_str().unwrap())
        .collect();
    assert_eq!(ours.len(), 1, "{listed}");
    assert_eq!(
        (&ours[0]["signature"], &ours[0]["state"]),
        (&text.as_str().into(), &"serving".into()),
        "{listed}"
    );
    mounted.unmount();
    assert_eq!(leases(&envfs.store()), 0);
    assert_no_process_of(envfs.path());
}

/// What people do with this environment, at the path that `place` names below a directory of the test.
fn programs(who: Who, place: impl Fn(&Path) -> PathBuf) {
    let Some((envfs, miniforge)) = room() else { return };
    let signature = envfs.build(miniforge.build_arguments(&[]));
    if who == Who::Ordinary {
        user::open_to_all(envfs.path());
        user::give_to_ordinary_user(&envfs.store_path());
        user::give_to_ordinary_user(&envfs.path().join("home"));
    }
    let path = place(envfs.path());
    let mounted = Mounted::at(&envfs, &signature, &path, who);
    let run = |program: &str, arguments: &[&str]| finish(mounted.command(program).args(arguments)).success();

    let listed = run("bin/conda", &["list", "--json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.len(), 84, "conda list");
    assert!(
        run("bin/conda", &["list"])
            .lines()
            .any(|line| line.starts_with("tqdm ") && line.contains("4.67.1"))
    );
    assert!(run("bin/mamba", &["--version"]).contains("mamba 1.5.12"));
    assert!(
        run("bin/pip", &["list"])
            .lines()
            .any(|line| line.starts_with("requests ") && line.contains("2.32.3"))
    );
    assert!(run("bin/pip", &["check"]).contains("No broken requirements found"));
    assert!(run("bin/tqdm", &["--version"]).contains("4.67.1"));
    let script = "import ssl, tqdm, requests, zstandard, sys\n\
                  assert zstandard.decompress(zstandard.compress(b'x' * 999)) == b'x' * 999\n\
                  assert requests.Session() and list(tqdm.tqdm([1], disable=True)) == [1]\n\
                  print(ssl.OPENSSL_VERSION, ssl.get_default_verify_paths().openssl_cafile, sys.prefix, sep='\\n')";
    let told = run("bin/python", &["-c", script]);
    let told: Vec<&str> = told.lines().collect();
    assert!(told[0].starts_with("OpenSSL 3.4.0"), "{told:?}");
    let prefix = path.to_str().unwrap();
    assert_eq!(
        told[1..],
        [&format!("{prefix}/ssl/cert.pem"), prefix],
        "paths in binaries are those of the mount"
    );
    let written = finish(
        mounted
            .command("bin/python")
            .args(["-c", "open(__import__('sys').prefix + '/x', 'w')"]),
    );
    assert!(
        !written.status.success() && written.stderr.contains("Read-only file system"),
        "{written}"
    );

    mounted.unmount();
    assert!(!is_mounted(&path));
    assert_eq!(leases(&envfs.store()), 0);
    assert_no_process_of(envfs.path());
    if !path.starts_with(envfs.path()) {
        std::fs::remove_dir(&path).unwrap();
    }
}

/// The real channel, where it is there and can be mounted.
fn room() -> Option<(Envfs, RealChannel)> {
    let miniforge = RealChannel::miniforge()?;
    is_possible().then(|| (Envfs::new(), miniforge))
}

fn unique(parent: &str) -> PathBuf {
    let digits = Digest::of(format!("{:?} {:?}", std::time::Instant::now(), std::thread::current().id()).as_bytes());
    Path::new(parent).join(&digits.to_string()[..4])
}

fn two_hundred(base: &Path) -> PathBuf {
    let path = base.join("y".repeat(200 - base.as_os_str().len() - 1));
    assert_eq!(path.as_os_str().len(), 200);
    path
}

fn lines_with(text: &str, part: &str) -> String {
    text.lines()
        .filter(|line| line.contains(part))
        .take(20)
        .collect::<Vec<_>>()
        .join("\n")
}
