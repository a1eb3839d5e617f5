//! Commands inside an environment.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use envfs_fuse::backend::Backend;
use envfs_fuse::mountinfo;
use envfs_fuse::run::{Place, RunError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ALL, KERNEL_AND_FUSE};
use crate::{Case, Needs, Sandbox, eventually, fixture};

pub(crate) const EXIT_CODES: Case = Case {
    name: "a_run_gives_the_exit_code_and_leaves_nothing",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 77", 77),
            ("kill -KILL $$", 128 + 9),
            ("kill -TERM $$", 128 + 15),
            ("test \"$(cat $P/share/text)\" = hello", 0),
            ("test \"$(where)\" = \"$P/share\"", 0),
            ("test \"$(id -u)\" = \"$(stat -c %u $P/lib)\"", 0),
            // Rust ignores it; a program in a pipe must die of it.
            ("yes | head -1 > /dev/null", 0),
            (
                "(trap - PIPE; kill -PIPE $(exec sh -c 'echo $PPID')); exit $?",
                128 + 13,
            ),
        ] {
            assert_eq!(sandbox.run(script).unwrap(), code, "{script}");
            sandbox.assert_nothing_is_left();
        }
    },
};

pub(crate) const INVISIBLE: Case = Case {
    name: "a_private_mount_is_seen_only_inside",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let prefix = sandbox.private_prefix();
        assert!(prefix.starts_with(sandbox.store.mount_root()));
        let script = "touch $D/started; while ! test -e $D/stop; do sleep 0.01; done; stat $P/share/text";
        let outside = format!(
            "while ! test -e {d}/started; do sleep 0.01; done; test -e {p} && touch {d}/seen; touch {d}/stop",
            d = sandbox.directory.display(),
            p = prefix.display()
        );
        let mut watcher = Command::new("sh").arg("-c").arg(outside).spawn().unwrap();
        // The supervisor reaps every child, also this one.
        assert_eq!(sandbox.run(script).unwrap(), 0);
        let _ = watcher.wait();
        assert!(!sandbox.file("seen").exists());
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const NOT_STARTED: Case = Case {
    name: "a_command_that_cannot_start_is_an_error_and_leaves_nothing",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let prefix = sandbox.private_prefix();
        let run = |words: &[&str]| sandbox.run_at(&prefix, Place::Private, words);
        assert!(matches!(run(&["no-such-program"]), Err(RunError::NotFound { .. })));
        assert!(matches!(run(&["/no/such/program"]), Err(RunError::NotFound { .. })));
        assert!(matches!(run(&[""]), Err(RunError::NotFound { .. })));
        assert!(matches!(run(&["not-executable"]), Err(RunError::NotExecutable { .. })));
        assert!(matches!(run(&["/"]), Err(RunError::NotExecutable { .. })));
        sandbox.assert_nothing_is_left();
        // A script without `#!` is one for the shell, as for execvp.
        fs::write(sandbox.file("plain"), "exit 5").unwrap();
        let plain = sandbox.file("plain");
        assert!(Command::new("chmod").arg("+x").arg(&plain).status().unwrap().success());
        assert_eq!(run(&[plain.to_str().unwrap()]).unwrap(), 5);
    },
};

pub(crate) const DAEMONS: Case = Case {
    name: "what_outlives_the_command_keeps_the_files",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let script =
            "(while ! test -e $D/go; do sleep 0.01; done; cat $P/share/text > $D/out; where >> $D/out) & exit 3";
        assert_eq!(sandbox.run(script).unwrap(), 3);
        assert_eq!(sandbox.statuses().len(), servers(sandbox), "the server goes on");
        fs::write(sandbox.file("go"), "").unwrap();
        eventually("the server ends with the last process", || {
            sandbox.statuses().is_empty()
        });
        let expected = format!("hello\n{}/share\n", sandbox.private_prefix().display());
        eventually("it has read both", || {
            fs::read_to_string(sandbox.file("out")).is_ok_and(|text| text == expected)
        });
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const SIGNALS: Case = Case {
    name: "signals_reach_the_command",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let me = std::process::id();
        for (signal, code) in [
            ("TERM", 41),
            ("INT", 42),
            ("HUP", 43),
            ("USR1", 44),
            ("QUIT", 45),
            ("USR2", 46),
        ] {
            let script = format!("trap 'exit {code}' {signal}; kill -{signal} {me}; while :; do sleep 0.01; done");
            assert_eq!(sandbox.run(&script).unwrap(), code, "{signal}");
        }
        assert_eq!(sandbox.run(&format!("kill -TERM {me}; sleep 10")).unwrap(), 128 + 15);
        // Stopped and continued: the test's own parent does not see a stop, so it is continued from inside.
        let script = format!("(sleep 0.2; kill -CONT {me}) & kill -STOP $$; exit 9");
        assert_eq!(sandbox.run(&script).unwrap(), 9);
        eventually("nothing is left", || sandbox.statuses().is_empty());
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const KILLED: Case = Case {
    name: "killing_the_runner_leaves_nothing_once_the_command_has_ended",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let runner = nix_fork(|| {
            let _ =
                sandbox.run("echo $$ > $D/pid; while ! test -e $D/go; do sleep 0.01; done; cat $P/share/text > $D/out");
        });
        let pid_file = sandbox.file("pid");
        eventually("it runs", || {
            fs::read(&pid_file).is_ok_and(|text| text.ends_with(b"\n"))
        });
        kill(runner, Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(runner, None).unwrap();
        assert_eq!(
            sandbox.statuses().len(),
            servers(sandbox),
            "the command keeps its files"
        );
        fs::write(sandbox.file("go"), "").unwrap();
        eventually("the server ends", || sandbox.statuses().is_empty());
        eventually("it has read it", || {
            fs::read_to_string(sandbox.file("out")).is_ok_and(|text| text == "hello\n")
        });
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const NESTED: Case = Case {
    name: "a_run_inside_a_run_sees_both",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let prefix = sandbox.private_prefix();
        let program = std::env::current_exe().unwrap();
        // The store of the inner run is the same: its mount lies beside the outer one, in the same directory.
        let words = [
            program.to_str().unwrap(),
            "--nested",
            sandbox.backend.name(),
            sandbox.directory.to_str().unwrap(),
            prefix.to_str().unwrap(),
        ];
        assert_eq!(sandbox.run_at(&prefix, Place::Private, &words).unwrap(), 0);
        sandbox.assert_nothing_is_left();
    },
};

/// The inner run of [`NESTED`].
pub(crate) fn nested(sandbox: Sandbox, outer: &Path) -> ExitCode {
    let sandbox = Sandbox {
        signature: envfs_store::Digest::of(b"another environment"),
        ..sandbox
    };
    assert_ne!(sandbox.private_prefix(), outer);
    let script = format!(
        "cmp $P/share/text {o}/share/text && where && {o}/bin/where",
        o = outer.display()
    );
    assert_eq!(sandbox.run(&script).unwrap(), 0);
    // The outer one stays as it was.
    assert_eq!(fs::read_to_string(outer.join("share/text")).unwrap(), "hello\n");
    assert_eq!(
        fs::read_to_string(outer.join("bin/where")).unwrap(),
        fixture::script(outer.to_str().unwrap())
    );
    ExitCode::SUCCESS
}

pub(crate) const PUBLIC: Case = Case {
    name: "a_public_run_is_unmounted_after_it",
    needs: Needs::PublicMount,
    by: ALL,
    run: |sandbox| {
        let mount = sandbox.mount_point();
        let is_mounted = match sandbox.backend {
            Backend::Link => "test -e \"$P/.envfs-linked.json\"",
            _ => "grep -q 'mount.040point' /proc/self/mountinfo",
        };
        let mounted = format!("{is_mounted} && test \"$(cat \"$P/share/text\")\" = hello && exit 6");
        assert_eq!(
            sandbox.run_at(&mount, Place::Public, &["sh", "-c", &mounted]).unwrap(),
            6
        );
        sandbox.assert_nothing_is_left();
        let temporary = sandbox.file("temporary");
        fs::create_dir(&temporary).unwrap();
        assert_eq!(
            sandbox.run_at(&temporary, Place::PublicTemporary, &["where"]).unwrap(),
            0
        );
        assert!(!temporary.exists());
        // Who goes on using it keeps it; then it goes.
        let script = "(cd \"$P\"; touch \"$D/in\"; while ! test -e \"$D/go\"; do sleep 0.01; done; cat share/text > \"$D/out\") & \
                      while ! test -e \"$D/in\"; do sleep 0.01; done";
        assert_eq!(sandbox.run_at(&mount, Place::Public, &["sh", "-c", script]).unwrap(), 0);
        fs::write(sandbox.file("go"), "").unwrap();
        eventually("it is unmounted", || sandbox.statuses().is_empty());
        assert_eq!(fs::read_to_string(sandbox.file("out")).unwrap(), "hello\n");
        sandbox.assert_nothing_is_left();
        assert!(matches!(
            sandbox.run_at(&mount, Place::Public, &["no-such-program"]),
            Err(RunError::NotFound { .. })
        ));
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const MANY: Case = Case {
    name: "many_runs_at_once_do_not_disturb_each_other",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let runners: Vec<_> = (0..20)
            .map(|number: u8| {
                nix_fork(move || {
                    let script = format!(
                        "test \"$(where)\" = $P/share && sleep 0.0{number} && cat $P/many/* > /dev/null; exit {number}"
                    );
                    std::process::exit(sandbox.run(&script).map_or(255, i32::from))
                })
            })
            .collect();
        for (number, runner) in runners.into_iter().enumerate() {
            let status = nix::sys::wait::waitpid(runner, None).unwrap();
            assert_eq!(
                status,
                nix::sys::wait::WaitStatus::Exited(runner, i32::try_from(number).unwrap())
            );
        }
        sandbox.assert_nothing_is_left();
        assert!(
            mountinfo::read()
                .unwrap()
                .iter()
                .all(|mount| !mount.source.starts_with("envfs-run"))
        );
    },
};

/// How many servers outlive a run whose command left something behind: for root the kernel needs none.
fn servers(sandbox: &Sandbox) -> usize {
    usize::from(sandbox.backend == Backend::Fuse || !nix::unistd::geteuid().is_root())
}

/// Runs `child` in a copy of this process, which has no threads.
pub(crate) fn nix_fork(child: impl FnOnce()) -> Pid {
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: each case runs in a process without other threads.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => child,
        nix::unistd::ForkResult::Child => {
            child();
            std::process::exit(0)
        }
    }
}
