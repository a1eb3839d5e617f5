//! Commands that may write: what they write is kept, what they must not do fails, and nothing outlives them.

use std::fs;
use std::path::PathBuf;

use envfs_fuse::run::{self, RunError};
use envfs_fuse::sandbox::{Finished, Sandbox as WritableView};
use envfs_fuse::writable::{State, WritableError};
use envfs_fuse::{Forgotten, Limits, confine};
use envfs_store::lease::LeaseKind;
use nix::sys::signal::{Signal, kill};

use super::FUSE;
use super::runs::nix_fork;
use crate::{Case, Needs, Sandbox, eventually};

/// What is written goes here.
fn state(sandbox: &Sandbox) -> State {
    State::at(&sandbox.file("state"))
}

/// Limits that leave one directory to write to, which is made.
fn limits(sandbox: &Sandbox) -> Limits {
    let scratch = sandbox.file("scratch");
    let _ = fs::create_dir(&scratch);
    Limits {
        network: false,
        writable: vec![scratch],
        forgotten: Vec::new(),
        kept: Vec::new(),
    }
}

fn run(sandbox: &Sandbox, limits: Option<&Limits>, script: &str) -> Result<Finished, RunError> {
    let prefix = sandbox.private_prefix();
    let output = fs::File::options()
        .create(true)
        .append(true)
        .open(sandbox.file("output"))
        .unwrap();
    let view = WritableView {
        service: &sandbox.service(&prefix, LeaseKind::Run),
        state: &state(sandbox),
        limits,
        output: limits.map(|_| &output),
    };
    let command = envfs_fuse::Command {
        program: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![
            ("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into()),
            ("P".into(), prefix.clone().into()),
            ("D".into(), sandbox.directory.clone().into()),
            ("S".into(), sandbox.file("scratch").into()),
        ],
        directory: Some(prefix),
    };
    run::run_in(&view, &command)
}

fn output(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.file("output")).unwrap()
}

pub(crate) const WRITTEN: Case = Case {
    name: "what_is_written_in_a_sandbox_is_kept_and_the_environment_stays",
    needs: Needs::PrivateMount,
    by: FUSE,
    run: |sandbox| {
        let limits = limits(sandbox);
        for limits in [None, Some(&limits)] {
            let write = "echo changed > share/text && rm -r many && mkdir -p new/directory && mv bin/tool new/ && \
                         test \"$(bin/where)\" = \"$P/share\" && chmod 600 lib/large && touch -h lib/link";
            assert_eq!(run(sandbox, limits, write).unwrap().exit_code, 0);
            // The state is all that remembers, and remembers all.
            let check =
                "test \"$(cat share/text)\" = changed && ! test -e many && test -x new/tool && ! test -e bin/tool";
            assert_eq!(run(sandbox, limits, check).unwrap().exit_code, 0);
            assert_eq!(
                sandbox
                    .run("cat $P/share/text $P/many/0001 $P/bin/tool > /dev/null")
                    .unwrap(),
                0
            );
            assert_eq!(sandbox.run("test \"$(cat $P/share/text)\" = hello").unwrap(), 0);
            state(sandbox).discard().unwrap();
            assert!(!sandbox.file("state").exists());
        }
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const LIMITED: Case = Case {
    name: "a_sandbox_keeps_to_its_limits",
    needs: Needs::PrivateMount,
    by: FUSE,
    run: |sandbox| {
        let limits = limits(sandbox);
        for allowed in [
            "echo x > $P/share/text",
            "echo x > $S/file && rm $S/file",
            "echo x > /dev/null && head -c 9 /dev/urandom > $S/random && echo x > /dev/shm/x",
            "echo seen; echo and heard >&2; ! read nothing",
            "grep -q '^NoNewPrivs:.1$' /proc/self/status",
            "test $$ -lt 20",
            "kill -0 1",
            // Nothing but the unconnected loopback, which is there in every network namespace.
            "! grep -v lo: /proc/net/dev | grep -q :",
        ] {
            assert_eq!(
                run(sandbox, Some(&limits), allowed).unwrap().exit_code,
                0,
                "{allowed}: {}",
                output(sandbox)
            );
        }
        for forbidden in [
            "echo x > $D/file",
            "echo x > /tmp/envfs-escaped",
            "touch $D/store/lock",
            "mount -o remount,rw,bind / / && echo x > $D/file",
            "umount $P",
            "mknod $S/device c 1 3 && echo x > $S/device",
            "echo 1 > /proc/sys/vm/drop_caches",
            "test -e /dev/fuse",
        ] {
            assert_ne!(
                run(sandbox, Some(&limits), forbidden).unwrap().exit_code,
                0,
                "{forbidden}"
            );
        }
        assert!(output(sandbox).contains("seen\nand heard\n"), "{}", output(sandbox));
        assert!(!sandbox.file("file").exists());
        let connected = Limits {
            network: true,
            ..limits
        };
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        let script = format!("test \"$(readlink /proc/self/ns/net)\" = '{}'", ours.display());
        assert_eq!(run(sandbox, Some(&connected), &script).unwrap().exit_code, 0);
        assert!(matches!(
            run(sandbox, Some(&Limits { writable: vec![PathBuf::from("/no/such/directory")], ..connected }), "true"),
            Err(RunError::Private(message)) if message.contains("mount a directory again")
        ));
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const FORGOTTEN: Case = Case {
    name: "what_a_sandbox_writes_where_it_is_forgotten_is_forgotten",
    needs: Needs::PrivateMount,
    by: FUSE,
    run: |sandbox| {
        let seen = sandbox.file("seen");
        fs::create_dir_all(seen.join("sub")).unwrap();
        fs::write(seen.join("known"), "known").unwrap();
        let limits = Limits {
            forgotten: vec![Forgotten {
                directory: seen.clone(),
                kept_in: sandbox.file("kept"),
            }],
            ..limits(sandbox)
        };
        let write = "cd $D/seen && echo x >> known && echo x > new && echo x > sub/new && cat known new > /dev/null";
        assert_eq!(
            run(sandbox, Some(&limits), write).unwrap().exit_code,
            0,
            "{}",
            output(sandbox)
        );
        let command = envfs_fuse::Command {
            program: "sh".into(),
            arguments: vec![
                "-c".into(),
                format!("cd {} && rm -f known && echo x > other", seen.display()).into(),
            ],
            environment: Vec::new(),
            directory: None,
        };
        let alone = Limits {
            forgotten: vec![Forgotten {
                directory: seen.clone(),
                kept_in: sandbox.file("kept alone"),
            }],
            ..limits.clone()
        };
        assert_eq!(confine::run(&alone, &command).unwrap(), 0);
        assert_eq!(fs::read_to_string(seen.join("known")).unwrap(), "known");
        assert!(!seen.join("new").exists() && !seen.join("sub/new").exists() && !seen.join("other").exists());
        // Overlayfs locks a directory of its own, which must not stay.
        for kept in ["kept", "kept alone"] {
            fs::remove_dir_all(sandbox.file(kept)).unwrap();
        }
        assert!(matches!(
            confine::run(
                &alone,
                &envfs_fuse::Command {
                    program: "no-such-program".into(),
                    ..command
                }
            ),
            Err(RunError::NotFound { .. })
        ));
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const KEPT: Case = Case {
    name: "what_lies_in_a_writable_directory_may_be_kept",
    needs: Needs::PrivateMount,
    by: FUSE,
    run: |sandbox| {
        let limits = limits(sandbox);
        let kept = sandbox.file("scratch/kept");
        let room = kept.join("room");
        fs::create_dir_all(&room).unwrap();
        let limits = Limits {
            writable: vec![room, sandbox.file("scratch")],
            kept: vec![kept],
            ..limits
        };
        let script =
            "echo x > $S/file && echo x > $S/kept/room/file && ! (echo x > $S/kept/file) && echo x > $P/share/text";
        assert_eq!(
            run(sandbox, Some(&limits), script).unwrap().exit_code,
            0,
            "{}",
            output(sandbox)
        );
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const ENDED: Case = Case {
    name: "nothing_outlives_a_sandbox",
    needs: Needs::PrivateMount,
    by: FUSE,
    run: |sandbox| {
        let limits = limits(sandbox);
        // What is left running ends with the command, also what left its group.
        let script = "(setsid sh -c 'while :; do touch $S/alive; sleep 0.01; done') & while ! test -e $S/alive; do sleep 0.01; done; exit 3";
        assert_eq!(run(sandbox, Some(&limits), script).unwrap().exit_code, 3);
        fs::remove_file(sandbox.file("scratch/alive")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!sandbox.file("scratch/alive").exists());
        assert_eq!(run(sandbox, Some(&limits), "kill -KILL $$").unwrap().exit_code, 128 + 9);
        let me = std::process::id();
        let signalled = nix_fork(|| {
            let code = run(
                sandbox,
                Some(&limits),
                "trap 'exit 7' TERM; touch $S/ready; while :; do sleep 0.01; done",
            );
            std::process::exit(code.map_or(99, |finished| finished.exit_code.into()));
        });
        assert_ne!(signalled.as_raw(), i32::try_from(me).unwrap());
        eventually("it is ready", || sandbox.file("scratch/ready").exists());
        kill(signalled, Signal::SIGTERM).unwrap();
        let status = nix::sys::wait::waitpid(signalled, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(signalled, 7));

        let killed = nix_fork(|| {
            let _ = run(sandbox, Some(&limits), "while :; do touch $S/alive; sleep 0.01; done");
        });
        eventually("it runs", || sandbox.file("scratch/alive").exists());
        assert!(matches!(
            run(sandbox, Some(&limits), "true"),
            Err(RunError::Writable(WritableError::InUse(_)))
        ));
        kill(killed, Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(killed, None).unwrap();
        eventually("it is dead", || {
            let _ = fs::remove_file(sandbox.file("scratch/alive"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            !sandbox.file("scratch/alive").exists()
        });
        assert_eq!(run(sandbox, Some(&limits), "true").unwrap().exit_code, 0);
        eventually("its server ends", || sandbox.statuses().is_empty());
        let missing = run::run_in(
            &WritableView {
                service: &sandbox.service(&sandbox.private_prefix(), LeaseKind::Run),
                state: &state(sandbox),
                limits: Some(&limits),
                output: None,
            },
            &envfs_fuse::Command {
                program: "no-such-program".into(),
                arguments: Vec::new(),
                environment: Vec::new(),
                directory: None,
            },
        );
        assert!(matches!(missing, Err(RunError::NotFound { .. })), "{missing:?}");
        sandbox.assert_nothing_is_left();
    },
};
