//! An environment on top of another costs what it adds, and is the same as one that stands alone.

use std::path::Path;
use std::sync::Arc;

use envfs_store::digest::Digest;
use envfs_store::environment;
use envfs_store::view::View;
use envfs_tests::channel::Channel;
use envfs_tests::data::RealChannel;
use envfs_tests::disk::measure;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::Envfs;
use envfs_tests::seen::{Listing, list_view};

/// What one noarch package may cost besides the bytes of its own files.
const MAX_OVERHEAD_BYTES: u64 = 64 * 1024;
const MAX_INODES: u64 = 5;

/// Files of the package that is added, and the bytes of each.
const ADDED_FILES: usize = 50;

#[test]
fn one_more_package_costs_its_own_files() {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    let envfs = Envfs::new();
    let package = added_package();
    let channel = Channel::new(&envfs.path().join("channel")).with(&package, Format::Conda);
    let mut arguments = vec!["build".to_owned()];
    arguments.extend(miniforge.build_arguments(&[]));
    let base: Digest = envfs.run(&arguments).trim().parse().unwrap();

    let before = measure(&envfs.store_path());
    let built = envfs.json([
        "build",
        "-c",
        &channel.url(),
        "-c",
        &miniforge.url(),
        "--base",
        &base.to_string(),
        "added",
    ]);
    let after = measure(&envfs.store_path());

    assert_eq!(built["base"], base.to_string());
    assert_eq!(built["packages"], 85);
    assert_eq!(built["new_packages"], 1);
    let objects = built["new_objects"].as_u64().unwrap();
    // Its files, its two scripts, its record; the metadata of the environment was there.
    assert!(
        objects <= ADDED_FILES as u64 + 3,
        "{objects} objects for {ADDED_FILES} files"
    );
    let (bytes, inodes) = (after.bytes - before.bytes, after.inodes - before.inodes);
    let own_bytes = package_bytes();
    println!("added {own_bytes} bytes of files: {bytes} bytes on disk, {inodes} inodes, as told {built}");
    assert!(
        bytes <= own_bytes + MAX_OVERHEAD_BYTES,
        "{bytes} bytes on disk for {own_bytes} bytes of files"
    );
    assert!(inodes <= MAX_INODES, "{inodes} inodes");
    let told_inodes = built["new_inodes"].as_u64().unwrap();
    assert_eq!(told_inodes, inodes, "what is told is not what is there");
    let told_bytes = built["new_bytes"].as_u64().unwrap();
    assert!(told_bytes <= own_bytes + MAX_OVERHEAD_BYTES, "{told_bytes} bytes told");

    let shown = envfs.json(["show", built["signature"].as_str().unwrap()]);
    let inherited = shown["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| package["inherited"] == true)
        .count();
    assert_eq!(inherited, 84);
    envfs.assert_sound();
}

#[test]
fn thin_and_flat_are_the_same_environment() {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    let (thin, flat) = (Envfs::new(), Envfs::new());
    let channel = Channel::new(&thin.path().join("channel")).with(&added_package(), Format::TarBz2);
    let channels = ["-c".to_owned(), channel.url()];

    let mut arguments = miniforge.build_arguments(&["conda", "mamba"]);
    let base = thin.build(&arguments).to_string();
    arguments.extend(channels.clone());
    arguments.push("added".to_owned());
    let all_at_once = flat.build(&arguments);
    let on_base = thin.build(arguments.iter().chain(&["--base".to_owned(), base.clone()]));
    assert_eq!(on_base, all_at_once, "thin and flat have different signatures");
    let recorded = environment::load(&thin.store(), &on_base).unwrap();
    assert_eq!(recorded.base.map(|base| base.to_string()), Some(base.clone()));

    let prefix = Path::new("/envs/some/where");
    assert_eq!(listing(&thin, &on_base, prefix), listing(&flat, &all_at_once, prefix));

    // A third, on top of the thin one, stands on the same base and shows everything.
    let third = Package::new("third 1.0 0")
        .file("share/third/data", "third")
        .file("bin/added-1", "clobbered");
    let channel = Channel::new(&thin.path().join("third")).with(&third, Format::Conda);
    let on_thin = thin.build(["-c", &channel.url(), "--base", &on_base.to_string(), "third"]);
    let seen = listing(&thin, &on_thin, prefix);
    assert!(
        seen.contains_key("share/third/data") && seen.contains_key("lib/python3.12/site-packages/added/module_7.py")
    );
    thin.assert_sound();
}

#[test]
fn a_base_is_never_changed_and_a_lock_that_lacks_its_packages_is_refused() {
    let envfs = Envfs::new();
    let mut channel = Channel::new(&envfs.path().join("channel"));
    channel.add(&Package::new("ground 1.0 0").file("share/ground", "1"), Format::Conda);
    let base = envfs.build(["-c", &channel.url(), "ground"]);
    channel.add(&Package::new("ground 2.0 0").file("share/ground", "2"), Format::Conda);
    channel.add(
        &Package::new("wants-new 1.0 0")
            .depends("ground >=2")
            .file("share/new", "2"),
        Format::Conda,
    );
    channel.add(
        &Package::new("wants-any 1.0 0").depends("ground").file("share/any", "2"),
        Format::Conda,
    );
    let thin = envfs.build(["-c", &channel.url(), "--base", &base.to_string(), "wants-any"]);
    let packages = environment::load(&envfs.store(), &thin)
        .unwrap()
        .all_packages(&envfs.store())
        .unwrap();
    assert!(
        packages.iter().any(|package| package.dist_name() == "ground-1.0-0"),
        "{packages:?}"
    );

    let pinned = envfs.try_run(["build", "-c", &channel.url(), "--base", &base.to_string(), "wants-new"]);
    pinned.refused(1, &["ground"]);
    let lock = envfs.write(
        "explicit.txt",
        &format!("@EXPLICIT\n{}/linux-64/wants-any-1.0-0.conda\n", channel.url()),
    );
    let lacking = envfs.try_run(["build", lock.to_str().unwrap(), "--base", &base.to_string()]);
    lacking.refused(1, &["ground-1.0-0", "lock again with `--base"]);
    assert_eq!(envfs.json(["ls"]).as_array().unwrap().len(), 2);
    envfs.assert_sound();
}

/// About fifty small files, a few of them hard to come by twice, and two entry points.
fn added_package() -> Package {
    let mut package = Package::new("added 1.0 pyh0_0")
        .noarch_python()
        .depends("python >=3.12,<3.13")
        .entry_point("added-1 = added.cli:main")
        .entry_point("added-2 = added.cli:other");
    for index in 0..ADDED_FILES {
        package = package.file(&format!("site-packages/added/module_{index}.py"), content(index));
    }
    package
}

fn content(index: usize) -> String {
    format!("# module {index}\n{}", format!("value = {index}\n").repeat(100 + index))
}

fn package_bytes() -> u64 {
    (0..ADDED_FILES).map(|index| content(index).len() as u64).sum()
}

fn listing(envfs: &Envfs, signature: &Digest, prefix: &Path) -> Listing {
    let store = envfs.store();
    let tree = store.tree(&environment::load(&store, signature).unwrap().tree).unwrap();
    list_view(&View::new(&store, Arc::new(tree), prefix).unwrap())
}
