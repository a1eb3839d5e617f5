//! Mounts that all see.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use envfs_fuse::backend::Backend;
use envfs_fuse::mount::check_mount_point;
use envfs_fuse::status::State;
use envfs_fuse::{backend, unmount};
use envfs_store::lease::LeaseKind;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ALL, FUSE, KERNEL_AND_FUSE};
use crate::{Case, Needs, eventually, fixture};

pub(crate) const FILES: Case = Case {
    name: "files_are_those_of_the_environment",
    needs: Needs::PublicMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        let prefix = mount.to_str().unwrap();
        // A shebang with a space in it would not work; the kernel reads this one as it was.
        assert_eq!(
            fs::read_to_string(mount.join("bin/where")).unwrap(),
            fixture::script(prefix)
        );
        let output = Command::new(mount.join("bin/where")).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{prefix}/share\n"));
        let large = fs::read(mount.join("lib/link")).unwrap();
        assert!(
            large
                .iter()
                .enumerate()
                .all(|(index, byte)| *byte == fixture::large_byte(index))
        );
        assert_eq!(large.len(), fixture::LARGE_BYTES);
        assert_eq!(fs::read_link(mount.join("lib/link")).unwrap(), Path::new("large"));
        assert_eq!(fs::read(mount.join("share/a b/empty")).unwrap(), b"");
        let text = fs::metadata(mount.join("share/text")).unwrap();
        assert_eq!((text.mtime(), text.len(), text.mode() & 0o7777), (-7, 6, 0o644));
        assert_eq!((text.uid(), text.nlink()), (nix::unistd::getuid().as_raw(), 1));
        assert_eq!(fs::metadata(&mount).unwrap().nlink(), 2 + 4);
        let file = fs::File::open(mount.join("lib/large")).unwrap();
        let mut bytes = [0; 100];
        file.read_exact_at(&mut bytes, 300_000).unwrap();
        assert_eq!(bytes[99], fixture::large_byte(300_099));
        drop(file);
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const LISTINGS: Case = Case {
    name: "listings_are_whole_and_repeatable",
    needs: Needs::PublicMount,
    by: ALL,
    run: |sandbox| {
        let mount = sandbox.mount();
        for _ in 0..3 {
            let mut names: Vec<_> = fs::read_dir(mount.join("many"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert!(
                names
                    .iter()
                    .enumerate()
                    .all(|(number, name)| *name == format!("{number:04}"))
            );
            assert_eq!(names.len(), fixture::MANY);
        }
        for entry in fs::read_dir(mount.join("many")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().ino(),
                fs::metadata(entry.path()).unwrap().ino()
            );
        }
        let found = Command::new("find").arg(&mount).output().unwrap();
        // 3 in bin, 3 in lib, "share/text", "share/a b" and what is in it, 4 directories and the root.
        assert_eq!(
            found.stdout.split(|&byte| byte == b'\n').count() - 1,
            // And where it is linked, what says so.
            fixture::MANY + 4 + 3 + 3 + 4 + 1 + usize::from(sandbox.backend == Backend::Link)
        );
        sandbox.unmount();
    },
};

pub(crate) const REFUSALS: Case = Case {
    name: "what_cannot_be_is_refused_with_the_right_error",
    needs: Needs::PublicMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        assert_eq!(kind(fs::write(mount.join("new"), "x")), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(
            kind(fs::write(mount.join("share/text"), "x")),
            ErrorKind::ReadOnlyFilesystem
        );
        assert_eq!(
            kind(fs::remove_file(mount.join("share/text"))),
            ErrorKind::ReadOnlyFilesystem
        );
        assert_eq!(kind(fs::create_dir(mount.join("new"))), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(fs::read(mount.join("nothing")).map(drop)), ErrorKind::NotFound);
        assert_eq!(
            kind(fs::read(mount.join("share/text/x")).map(drop)),
            ErrorKind::NotADirectory
        );
        assert_eq!(kind(fs::read(mount.join("lib")).map(drop)), ErrorKind::IsADirectory);
        let damaged = fs::read(mount.join("lib/damaged")).unwrap_err();
        assert_eq!(damaged.raw_os_error(), Some(Errno::EIO as i32));
        let forbidden = Command::new(mount.join("bin/not-executable")).status().unwrap_err();
        assert_eq!(forbidden.kind(), ErrorKind::PermissionDenied);
        let message = check_mount_point(&mount).unwrap_err().to_string();
        let digits = &sandbox.signature.to_string()[..16];
        assert!(
            message.contains(&format!("already a mount point, of the environment {digits}")),
            "{message}"
        );
        sandbox.unmount();
        let message = unmount::unmount(&sandbox.store, &mount, false).unwrap_err().to_string();
        assert!(message.contains("is not a mounted environment"), "{message}");
    },
};

pub(crate) const IN_USE: Case = Case {
    name: "a_mount_in_use_names_its_user_and_can_be_detached",
    needs: Needs::PublicMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        let mut user = Command::new("sleep")
            .arg("100")
            .current_dir(mount.join("share"))
            .spawn()
            .unwrap();
        let message = unmount::unmount(&sandbox.store, &mount, false).unwrap_err().to_string();
        assert!(
            message.contains(&format!("in use by sleep ({})", user.id())),
            "{message}"
        );
        unmount::unmount(&sandbox.store, &mount, true).unwrap();
        assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
        let goes_on = usize::from(sandbox.backend == Backend::Fuse);
        assert_eq!(sandbox.statuses().len(), goes_on, "a server goes on for who uses it");
        let seen = format!("/proc/{}/cwd/text", user.id());
        assert_eq!(fs::read_to_string(seen).unwrap(), "hello\n");
        user.kill().unwrap();
        user.wait().unwrap();
        eventually("the server ends with the last user", || sandbox.statuses().is_empty());
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const DEAD: Case = Case {
    name: "a_mount_without_a_server_is_seen_as_dead_and_unmounted",
    needs: Needs::PublicMount,
    by: FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        let status = sandbox.statuses().pop().unwrap();
        assert_eq!(
            (status.state, status.signature),
            (State::Serving, Some(sandbox.signature))
        );
        assert_eq!(status.uid, Some(nix::unistd::getuid().as_raw()));
        for pid in [status.keeper_pid, status.pid] {
            let pid = Pid::from_raw(i32::try_from(pid.unwrap()).unwrap());
            kill(pid, Signal::SIGKILL).unwrap();
        }
        eventually("it is dead", || {
            sandbox.statuses().iter().all(|status| status.state == State::Dead)
        });
        assert_eq!(
            sandbox.statuses()[0].signature_digits,
            sandbox.signature.to_string()[..16]
        );
        let message = check_mount_point(&mount).unwrap_err().to_string();
        assert!(message.contains("already a mount point"), "{message}");
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const SIGNALLED: Case = Case {
    name: "a_server_that_is_told_to_end_unmounts",
    needs: Needs::PublicMount,
    by: FUSE,
    run: |sandbox| {
        for (signal, to_keeper) in [(Signal::SIGTERM, false), (Signal::SIGINT, true), (Signal::SIGHUP, true)] {
            sandbox.mount();
            let status = sandbox.statuses().pop().unwrap();
            let pid = if to_keeper { status.keeper_pid } else { status.pid }.unwrap();
            kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
            eventually("it unmounts", || sandbox.statuses().is_empty());
            sandbox.assert_nothing_is_left();
        }
    },
};

pub(crate) const FOREGROUND: Case = Case {
    name: "a_server_in_the_foreground_stays_until_it_is_told",
    needs: Needs::PublicMount,
    by: ALL,
    run: |sandbox| {
        let mount = sandbox.mount_point();
        let service = sandbox.service(&mount, LeaseKind::Mount);
        let mut seen = None;
        let script = format!(
            "cat '{}/share/text'; kill -TERM {}",
            mount.display(),
            std::process::id()
        );
        backend::mount_in_foreground(&service, &sandbox.options(), Some(sandbox.backend), |_| {
            seen = Some(
                Command::new("sh")
                    .arg("-c")
                    .arg(script)
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap(),
            );
        })
        .unwrap();
        assert_eq!(seen.unwrap().wait_with_output().unwrap().stdout, b"hello\n");
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const THREADS: Case = Case {
    name: "a_process_with_threads_does_not_fork_and_leaves_no_mount",
    needs: Needs::PublicMount,
    by: FUSE,
    run: |sandbox| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let service = sandbox.service(&sandbox.mount_point(), LeaseKind::Mount);
        let message = backend::mount_in_background(&service, &sandbox.options(), Some(Backend::Fuse), None)
            .unwrap_err()
            .to_string();
        assert!(message.contains("cannot fork while 2 threads run"), "{message}");
        drop(go);
        let _ = thread.join().unwrap();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const PASSTHROUGH: Case = Case {
    name: "the_kernel_reads_large_files_itself_for_root",
    needs: Needs::Root,
    by: FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        let pid = sandbox.statuses().pop().unwrap().pid.unwrap();
        let read_bytes = || -> usize {
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
            io.lines()
                .find_map(|line| line.strip_prefix("rchar: "))
                .unwrap()
                .parse()
                .unwrap()
        };
        let before = read_bytes();
        let open: Vec<_> = (0..3)
            .map(|_| fs::File::open(mount.join("lib/large")).unwrap())
            .collect();
        for _ in 0..3 {
            assert_eq!(fs::read(mount.join("lib/large")).unwrap().len(), fixture::LARGE_BYTES);
        }
        assert_eq!(fs::read(mount.join("share/text")).unwrap(), b"hello\n");
        let by_server = read_bytes() - before;
        assert!(
            by_server < fixture::LARGE_BYTES / 2,
            "the server read {by_server} bytes"
        );
        drop(open);
        assert_eq!(
            fs::metadata(mount.join("lib/large")).unwrap().permissions().mode() & 0o777,
            0o644
        );
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};
