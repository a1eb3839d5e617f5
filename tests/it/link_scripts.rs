//! Link scripts run once for each tree, in a sandbox, as conda would run them; a failing one builds nothing.

use std::path::{Path, PathBuf};

use envfs_store::digest::Digest;
use envfs_store::environment;
use envfs_tests::cases;
use envfs_tests::data::{RealChannel, skip};
use envfs_tests::mounted::{self, Who};
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use envfs_tests::program::{Envfs, Finished, finish};
use envfs_tests::reference::Reference;
use envfs_tests::seen::{Listing, Seen, list_directory};
use envfs_tests::user;

/// The packages of the collection with link scripts, as conda installs them: those of one line together, in link order, which
/// conda does not make itself of archives that it is given.
const CASES: [&[&str]; 5] = [
    &["link-scripts-0.1.0-h4616a5c_0.conda"],
    &["post_link-b-1.0-0.conda", "post_link-c-1.0-0.conda"],
    &["post_link-e-1.0-0.conda", "post_link-d-1.0-0.conda"],
    &["post_link_run_in_env_package-1.0-0.conda"],
    &["failing_post_link-1.0-0.conda"],
];

/// Builds packages that lie side by side, as `who`, with more arguments.
fn build(envfs: &Envfs, who: Who, archives: &[PathBuf], arguments: &[&str]) -> Finished {
    let file = envfs.write("explicit.txt", &cases::explicit(archives));
    let mut command = envfs.command();
    command.arg("build").args(arguments).arg(file);
    finish(who.runs(&mut command))
}

/// Builds packages made by hand. An archive is written once: the format notes the time.
fn build_made(envfs: &Envfs, packages: &[&Package], arguments: &[&str]) -> Finished {
    let archives: Vec<PathBuf> = packages
        .iter()
        .map(|package| {
            let path = envfs.path().join(package.file_name(Format::Conda));
            if path.exists() {
                path
            } else {
                package.write(envfs.path(), Format::Conda)
            }
        })
        .collect();
    build(envfs, Who::Tester, &archives, arguments)
}

fn signature(finished: Finished) -> Digest {
    finished.success().trim().parse().unwrap()
}

/// What a shell says in an environment.
fn shell(envfs: &Envfs, signature: &Digest, script: &str) -> String {
    envfs.run(["run", &signature.to_string(), "--", "sh", "-c", script])
}

/// A package with a link script.
fn with_script(words: &str, script: &str) -> Package {
    let name = words.split(' ').next().unwrap();
    Package::new(words).executable(&format!("bin/.{name}-post-link.sh"), script)
}

/// The archives of a case, under the names that they give themselves.
fn staged(envfs: &Envfs, names: &[&str]) -> Option<Vec<PathBuf>> {
    let reference = Reference::new(&envfs.path().join("reference"));
    let stage = envfs.path().join("staged");
    std::fs::create_dir_all(&stage).unwrap();
    names
        .iter()
        .map(|name| Some(cases::stage(&reference, &cases::named(name)?, &stage)))
        .collect()
}

/// What is there besides what installers note of themselves, without times.
fn files(mut listing: Listing) -> Vec<(String, String)> {
    listing.retain(|path, seen| !path.starts_with("conda-meta") && *seen != Seen::Directory);
    listing
        .into_iter()
        .map(|(path, seen)| {
            (
                path,
                format!("{seen:?}").replace("0664", "0644").replace("0775", "0755"),
            )
        })
        .collect()
}

/// An environment with conda itself, if the real channel is there.
fn conda(envfs: &Envfs) -> Option<Digest> {
    let channel = RealChannel::miniforge()?;
    Some(envfs.build(["-c", &channel.url(), "conda"]))
}

#[test]
fn the_collection_behaves_as_in_conda() {
    if !mounted::is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let Some(conda) = conda(&envfs) else { return };
    for names in CASES {
        let Some(archives) = staged(&envfs, names) else { return };
        let theirs = envfs.path().join("theirs");
        let mut install = envfs.command();
        install
            .args([
                "run",
                &conda.to_string(),
                "--",
                "conda",
                "create",
                "--yes",
                "--quiet",
                "--offline",
                "--prefix",
            ])
            .arg(&theirs)
            .args(&archives)
            .env("CONDA_PKGS_DIRS", envfs.path().join("pkgs"))
            .env("CONDA_ENVS_DIRS", envfs.path().join("envs"));
        let install = finish(&mut install);
        let built = build(&envfs, Who::Tester, &archives, &[]);
        assert_eq!(built.status.success(), install.status.success(), "{built}\n{install}");
        if install.status.success() {
            let signature = signature(built);
            let ours = envfs.path().join("ours");
            let mount = mounted::Mounted::at(&envfs, &signature, &ours, Who::Tester);
            assert_eq!(
                files(list_directory(&ours)),
                files(list_directory(&theirs)),
                "{names:?}"
            );
            mount.unmount();
        }
        std::fs::remove_dir_all(&theirs).unwrap();
    }
    envfs.assert_sound();
}

#[test]
fn what_they_print_is_shown_and_what_they_write_is_kept() {
    for who in [Who::Tester, Who::Ordinary] {
        if !mounted::is_possible() {
            return;
        }
        let envfs = Envfs::new();
        let Some(archives) = staged(&envfs, CASES[0]) else {
            return;
        };
        user::open_to_all(envfs.path());
        if who == Who::Ordinary {
            user::give_to_ordinary_user(envfs.path());
        }
        let built = build(&envfs, who, &archives, &[]);
        assert!(
            built
                .stderr
                .contains("bin/.link-scripts-post-link.sh:\n  This is a post-link script that just ran"),
            "{built}"
        );
        let with = built.success();
        let again = build(&envfs, who, &archives, &[]);
        assert!(
            again.stderr.contains("built before") && !again.stderr.contains("just ran"),
            "{again}"
        );
        assert_eq!(again.success(), with);
        let without = build(&envfs, who, &archives, &["--no-link-scripts"]);
        assert!(
            without.stderr.contains("not run: bin/.link-scripts-post-link.sh"),
            "{without}"
        );
        let without = without.success();
        assert_ne!(with, without);
        for (signature, expected) in [
            (&with, "bin\nconda-meta\ni-was-post-linked\n"),
            (&without, "bin\nconda-meta\n"),
        ] {
            let mut run = envfs.command();
            run.args([
                "run",
                signature.trim(),
                "--",
                "sh",
                "-c",
                "ls -A $CONDA_PREFIX | grep -v Scripts",
            ]);
            assert_eq!(finish(who.runs(&mut run)).success(), expected);
        }
        envfs.assert_sound();
        assert_eq!(mounted::leases(&envfs.store()), 0);
        mounted::assert_no_process_of(envfs.path());
    }
}

#[test]
fn a_failing_script_builds_nothing_and_harms_no_later_build() {
    if !mounted::is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let script = "echo working; echo told > $PREFIX/.messages.txt; touch $PREFIX/half; echo broken >&2; return 3";
    let failing = with_script("failing 1.0 0", script);
    let good = with_script("good 1.0 0", "echo good > $PREFIX/good");
    let refused = build_made(&envfs, &[&good, &failing], &[]);
    refused.refused(
        1,
        &[
            "bin/.failing-post-link.sh of failing 1.0 0 failed with exit code 3",
            "told",
            "working",
            "broken",
            "--no-link-scripts",
        ],
    );
    assert_eq!(envfs.json(["ls"]), serde_json::json!([]));
    build_made(&envfs, &[&good, &failing], &[]).refused(1, &["exit code 3"]);
    let alone = signature(build_made(&envfs, &[&good], &[]));
    assert_eq!(shell(&envfs, &alone, "ls -A $CONDA_PREFIX"), "bin\nconda-meta\ngood\n");
    let without = signature(build_made(&envfs, &[&good, &failing], &["--no-link-scripts"]));
    assert_eq!(shell(&envfs, &without, "ls -A $CONDA_PREFIX"), "bin\nconda-meta\n");
    envfs.assert_sound();
}

#[test]
fn scripts_know_their_package_and_reach_nothing_else() {
    if !mounted::is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let outside = envfs.path().join("outside");
    let script = format!(
        "set -e\n\
         echo \"$PKG_NAME $PKG_VERSION $PKG_BUILDNUM\"\n\
         test \"$PREFIX\" = \"$CONDA_PREFIX\" && test \"$ROOT_PREFIX\" = \"$PREFIX\" && test \"$PWD\" = \"$PREFIX/bin\"\n\
         case $PATH in $PREFIX/bin:*) ;; *) exit 1;; esac\n\
         prefixed | grep -q \"^$PREFIX$\"\n\
         touch $HOME/x $TMPDIR/y\n\
         ! touch {outside} 2> /dev/null\n\
         ! (exec 3<> /dev/tcp/127.0.0.1/9) 2> /dev/null\n\
         grep -c . /proc/net/route > $PREFIX/routes || true\n\
         echo \"home = $PREFIX/share\" > $PREFIX/text\n\
         printf '\\0%s\\0' \"$PREFIX\" > $PREFIX/binary\n",
        outside = outside.display()
    );
    let package = with_script("knowing 2.1 0", &script).prefixed(
        "bin/prefixed",
        format!("#!/bin/sh\necho {PLACEHOLDER}\n"),
        "text",
    );
    let built = build_made(&envfs, &[&package], &[]);
    assert!(built.stderr.contains("knowing 2.1 0\n"), "{built}");
    assert!(
        built
            .stderr
            .contains("wrote binary, which names the place of private runs"),
        "{built}"
    );
    let signature = signature(built);
    assert!(!outside.exists());
    let routes = shell(&envfs, &signature, "cat $CONDA_PREFIX/routes");
    assert!(["0\n", "1\n", ""].contains(&routes.as_str()), "a route: {routes}");
    // What a script writes follows the environment to any place.
    let place = envfs.path().join("elsewhere");
    let mount = mounted::Mounted::at(&envfs, &signature, &place, Who::Tester);
    let text = std::fs::read_to_string(place.join("text")).unwrap();
    assert_eq!(text, format!("home = {}/share\n", place.display()));
    mount.unmount();
    envfs.assert_sound();
}

#[test]
fn scripts_run_in_link_order_once_for_each_tree() {
    if !mounted::is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let first = with_script("z-first 1.0 0", "echo first >> $PREFIX/order; date +%N >> $PREFIX/when");
    let second = with_script("a-second 1.0 0", "echo second >> $PREFIX/order").depends("z-first");
    let both = signature(build_made(&envfs, &[&second, &first], &[]));
    assert_eq!(shell(&envfs, &both, "cat $CONDA_PREFIX/order"), "first\nsecond\n");
    let when = shell(&envfs, &both, "cat $CONDA_PREFIX/when");
    // The record is lost, the layer is not: nothing runs again.
    std::fs::remove_file(envfs.store_path().join(format!("environments/{both}.json"))).unwrap();
    assert_eq!(signature(build_made(&envfs, &[&second, &first], &[])), both);
    assert_eq!(shell(&envfs, &both, "cat $CONDA_PREFIX/when"), when);

    // On a base whose scripts have run, only those of what is added run.
    let base = signature(build_made(&envfs, &[&first], &[]));
    let when = shell(&envfs, &base, "cat $CONDA_PREFIX/when");
    let third = with_script(
        "third 1.0 0",
        "cp $PREFIX/order $PREFIX/found; echo third >> $PREFIX/order",
    )
    .depends("z-first");
    let thin = signature(build_made(&envfs, &[&first, &third], &["--base", &base.to_string()]));
    assert_eq!(
        shell(&envfs, &thin, "cat $CONDA_PREFIX/found $CONDA_PREFIX/order"),
        "first\nfirst\nthird\n"
    );
    assert_eq!(shell(&envfs, &thin, "cat $CONDA_PREFIX/when"), when);
    let record = environment::load(&envfs.store(), &thin).unwrap();
    assert_eq!(record.base, Some(base));
    assert!(record.link_scripts.is_some());
    // A base that was built without leaves them to be run.
    let bare = signature(build_made(&envfs, &[&second, &first], &["--no-link-scripts"]));
    let fourth = with_script("fourth 1.0 0", "echo fourth >> $PREFIX/order").depends("a-second");
    let whole = build_made(&envfs, &[&first, &second, &fourth], &["--base", &bare.to_string()]);
    assert_eq!(
        shell(&envfs, &signature(whole), "cat $CONDA_PREFIX/order"),
        "first\nsecond\nfourth\n"
    );
    envfs.assert_sound();
}

#[test]
fn bases_that_were_changed_or_are_the_systems_keep_what_they_have() {
    if !mounted::is_possible() {
        return;
    }
    let system = Envfs::new();
    let first = with_script("first 1.0 0", "echo first > $PREFIX/order; echo kept > $PREFIX/kept");
    let second = with_script("second 1.0 0", "cp $PREFIX/kept $PREFIX/found").depends("first");
    let base = signature(build_made(&system, &[&first], &[])).to_string();
    // What a commit takes away of what a script wrote stays away.
    system.run(["run", "--writable", &base, "--", "sh", "-c", "rm $CONDA_PREFIX/order"]);
    let changed = system.run(["commit", &base]);
    let thin = signature(build_made(&system, &[&first, &second], &["--base", changed.trim()]));
    assert_eq!(
        shell(&system, &thin, "ls $CONDA_PREFIX"),
        "bin\nconda-meta\nfound\nkept\n"
    );

    // The sandbox of a user's build finds what only the system's store has.
    let user = Envfs::new();
    let archives = [&first, &second].map(|package| system.path().join(package.file_name(Format::Conda)));
    let lower = system.store_path();
    let arguments = ["--system-store", lower.to_str().unwrap(), "--base", &base];
    let built = build(&user, Who::Tester, &archives, &arguments);
    let thin = built.success();
    let words = [
        "--system-store",
        lower.to_str().unwrap(),
        "run",
        thin.trim(),
        "--",
        "sh",
        "-c",
        "cat $CONDA_PREFIX/found",
    ];
    assert_eq!(user.run(words), "kept\n");
}

#[test]
fn only_what_can_run_here_is_run() {
    let envfs = Envfs::new();
    let early = Package::new("early 1.0 0")
        .executable("bin/.early-pre-link.sh", "touch $PREFIX/early")
        .executable("bin/.early-pre-unlink.sh", "touch $PREFIX/late")
        .file("Scripts/.early-post-link.bat", "exit 1");
    let built = build_made(&envfs, &[&early], &[]);
    assert!(built.stderr.contains("not run: bin/.early-pre-link.sh\n"), "{built}");
    let record = environment::load(&envfs.store(), &signature(built)).unwrap();
    assert_eq!(record.link_scripts, None);
    let foreign = with_script("foreign 1.0 0", "touch $PREFIX/x");
    let archive = foreign.write(envfs.path(), Format::Conda);
    let text = cases::explicit(&[archive]).replace("linux-64", "osx-arm64");
    let file = envfs.write("foreign.txt", &text);
    let arguments = ["build", "--platform", "osx-arm64", file.to_str().unwrap()];
    envfs.try_run(arguments).refused(
        1,
        &["is for osx-arm64, and cannot run on this machine", "--no-link-scripts"],
    );
    envfs.run([&arguments[..], &["--no-link-scripts"]].concat());
}

#[test]
fn a_killed_build_leaves_no_script_running() {
    if !mounted::is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let script = "while :; do touch $TMPDIR/alive; sleep 0.01; done";
    let archive = with_script("endless 1.0 0", script).write(envfs.path(), Format::Conda);
    let file = envfs.write("explicit.txt", &cases::explicit(&[archive]));
    let mut command = envfs.command();
    let mut child = command.arg("build").arg(file).spawn().unwrap();
    let tmp = envfs.store_path().join("tmp");
    let alive = || alive_files(&tmp);
    while alive().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "the build ended");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..500 {
        for path in alive() {
            let _ = std::fs::remove_file(path);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        if alive().is_empty() && mounted::processes_of(envfs.path()).is_empty() {
            envfs.build(["--no-link-scripts", "explicit.txt"]);
            return envfs.assert_sound();
        }
    }
    panic!("still running: {:?}", mounted::processes_of(envfs.path()));
}

fn alive_files(tmp: &Path) -> Vec<PathBuf> {
    let workspaces = std::fs::read_dir(tmp).into_iter().flatten();
    workspaces
        .filter_map(|entry| Some(entry.ok()?.path().join("scratch/tmp/alive")))
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn an_environment_without_scripts_needs_no_sandbox() {
    if !user::is_root() {
        return skip("that nothing is mounted: seen by root only");
    }
    let envfs = Envfs::new();
    let plain = Package::new("plain 1.0 0").file("x", "x");
    let archive = plain.write(envfs.path(), Format::Conda);
    let file = envfs.write("explicit.txt", &cases::explicit(&[archive]));
    // Where no namespaces can be made, a build with scripts could not succeed.
    let mut build = std::process::Command::new("setpriv");
    build.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    build.arg(envfs_tests::program::built_program()).arg("build").arg(file);
    build.env("ENVFS_STORE", envfs.store_path()).current_dir(envfs.path());
    finish(&mut build).success();
}
