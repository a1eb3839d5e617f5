//! What the tools that people point at directories make of environments: the same before and after a remount.

use std::path::Path;
use std::process::Command;

use envfs_tests::channel::Channel;
use envfs_tests::data::skip;
use envfs_tests::differ::given;
use envfs_tests::mounted::{Mounted, Who, is_possible};
use envfs_tests::package::Format;
use envfs_tests::program::{Envfs, finish};
use envfs_tests::user;

/// How many trees the environment holds.
const TREES: usize = 3;

/// Runs a script with the environment as `P` and a directory of its own as `D`.
fn shell(who: Who, prefix: &Path, directory: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command
        .args(["-ec", script])
        .env("P", prefix)
        .env("D", directory)
        .env("LC_ALL", "C");
    finish(who.runs(&mut command)).success()
}

fn tools(who: Who, backend: &str) {
    if !is_possible() {
        return;
    }
    if who == Who::Tester && backend == "kernel" && !user::is_root() {
        return skip("tools on what the kernel serves: only root mounts so");
    }
    let envfs = Envfs::new();
    user::open_to_all(envfs.path());
    let channel = Channel::new(&envfs.path().join("channel")).with(&given::package(TREES), Format::Conda);
    let work = envfs.path().join("work");
    std::fs::create_dir(&work).unwrap();
    if who == Who::Ordinary {
        user::give_to_ordinary_user(envfs.path());
    }
    let mut build = envfs.command();
    build.args(["build", "-c", &channel.url(), "trees"]);
    let signature = finish(who.runs(&mut build)).success().trim().parse().unwrap();
    let place = envfs.path().join("place");
    let mount = || Mounted::with(&envfs, &signature, &place, who, &["--backend", backend]);
    // Everything that stat(2) says but for what depends on the mount: its device, and the access times.
    let look = "cd \"$P\"; find . -printf '%p %y %i %n %m %s %U %G %T@ %C@ %b %l\\n' | sort; du -s .; du -s --apparent-size .; \
        tar --sort=name -cf - . | sha256sum";
    let mounted = mount();
    let seen = shell(who, &place, &work, look);
    assert_eq!(
        seen.lines().filter(|line| line.contains("/share/cases/")).count(),
        TREES * (13 + 3),
        "{seen}"
    );
    // The optimisation that counts the links of directories, and the one that goes by the kinds in listings, see the same.
    let counts =
        "cd \"$P\"; for more in '' -noleaf; do find . $more -type f | wc -l; find . $more -type d | wc -l; done";
    let counts = shell(who, &place, &work, counts);
    let lines: Vec<&str> = counts.lines().collect();
    assert_eq!(lines[..2], lines[2..]);
    let has_git = Command::new("git").arg("--version").output().is_ok();
    let git = "export GIT_DIR=\"$D/git\" GIT_WORK_TREE=\"$P\" HOME=\"$D\"; git config --global --add safe.directory '*'; cd \"$P\"; ";
    if has_git {
        let status = format!("{git} git init -q; git add -A; git status --porcelain | grep -v ^A || true");
        assert_eq!(shell(who, &place, &work, &status), "");
    }
    let copy = "cp -a \"$P/share\" \"$D/copy\"; diff -r --no-dereference \"$P/share\" \"$D/copy\"";
    assert_eq!(shell(who, &place, &work, copy), "");
    mounted.unmount();

    let mounted = mount();
    assert_eq!(shell(who, &place, &work, look), seen);
    if has_git {
        // Without a refresh, git tells files by numbers, sizes and times alone.
        assert_eq!(
            shell(who, &place, &work, &format!("{git} git diff-files --name-only")),
            ""
        );
    }
    if Command::new("rsync").arg("--version").output().is_ok() {
        let sync = "rsync -aHX --checksum --itemize-changes \"$P/share/\" \"$D/copy/\"; rsync -a --itemize-changes \"$P/share/\" \"$D/copy/\"";
        let changes = shell(who, &place, &work, sync);
        let files: Vec<&str> = changes.lines().filter(|line| !line.ends_with('/')).collect();
        assert_eq!(files, Vec::<&str>::new());
    } else {
        skip("rsync of an environment: it is not installed");
    }
    mounted.unmount();
    envfs.assert_sound();
}

#[test]
fn what_the_kernel_serves() {
    tools(Who::Tester, "kernel");
}

#[test]
fn what_a_server_serves() {
    tools(Who::Tester, "fuse");
}

#[test]
fn what_a_server_of_an_ordinary_user_serves() {
    tools(Who::Ordinary, "fuse");
}
