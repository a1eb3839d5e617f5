//! Servers and keepers that are killed, and what programs see of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use envfs_fuse::status::State;
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::FUSE;
use super::runs::nix_fork;
use crate::{Case, Needs, Sandbox, eventually, fixture};

/// How often the server is killed while programs use it.
const KILLS: u64 = 40;

pub(crate) const KILLED_SERVERS: Case = Case {
    name: "programs_do_not_see_that_servers_are_killed",
    needs: Needs::PublicMount,
    by: FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        // Open before the first server dies, and to the end.
        let held = File::open(mount.join("lib/large")).unwrap();
        let started = sandbox.statuses().pop().unwrap().started_unix_s;
        let is_over = AtomicBool::new(false);
        let uses = AtomicU64::new(0);
        thread::scope(|scope| {
            let users: Vec<_> = (0..3)
                .map(|user| {
                    scope.spawn({
                        let (mount, is_over, uses) = (&mount, &is_over, &uses);
                        move || {
                            for round in 0.. {
                                if is_over.load(Ordering::Relaxed) {
                                    break;
                                }
                                use_files(mount, &format!("{user}-{round}"));
                                uses.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    })
                })
                .collect();
            for round in 0..KILLS {
                kill_server(sandbox);
                let before = uses.load(Ordering::Relaxed);
                eventually("programs go on", || {
                    uses.load(Ordering::Relaxed) > before || users.iter().any(thread::ScopedJoinHandle::is_finished)
                });
                thread::sleep(Duration::from_millis(round * 7 % 50));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        read_anew(&held).unwrap();
        drop(held);
        let status = sandbox.statuses().pop().unwrap();
        assert_eq!((status.state, status.started_unix_s), (State::Serving, started));
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const KILLED_SERVERS_OF_RUNS: Case = Case {
    name: "a_command_does_not_see_that_servers_are_killed",
    needs: Needs::PrivateMount,
    by: FUSE,
    run: |sandbox| {
        let killer = nix_fork(|| {
            eventually("it runs", || sandbox.file("started").exists());
            for round in 0..KILLS {
                kill_server(sandbox);
                thread::sleep(Duration::from_millis(20 + round * 7 % 50));
            }
            fs::write(sandbox.file("stop"), "").unwrap();
        });
        let script = "touch $D/started; n=0; while ! test -e $D/stop; do n=$((n+1)); \
                      test -e $P/no-such-$n && exit 7; cat $P/many/$(printf %04d $((n % 1000))) > $D/out || exit 8; \
                      test $(cat $D/out) = $((n % 1000)) || exit 9; head -c 65536 $P/lib/large > $D/out || exit 10; done; \
                      echo $n > $D/rounds";
        assert_eq!(sandbox.run(script).unwrap(), 0);
        // The supervisor reaps every child, also this one.
        let _ = nix::sys::wait::waitpid(killer, None);
        let rounds: u64 = fs::read_to_string(sandbox.file("rounds"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(rounds > KILLS, "only {rounds} rounds");
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const KILLED_KEEPER: Case = Case {
    name: "a_server_goes_on_without_its_keeper_and_is_seen_as_unguarded",
    needs: Needs::PublicMount,
    by: FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        let status = sandbox.statuses().pop().unwrap();
        let server = status.pid;
        kill(pid(status.keeper_pid), Signal::SIGKILL).unwrap();
        eventually("nobody guards it", || {
            sandbox.statuses().pop().unwrap().state == State::Unguarded
        });
        use_files(&mount, "without a keeper");
        assert_eq!(sandbox.statuses().pop().unwrap().pid, server);
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
        // Asked to end, it unmounts as ever.
        sandbox.mount();
        let status = sandbox.statuses().pop().unwrap();
        kill(pid(status.keeper_pid), Signal::SIGKILL).unwrap();
        kill(pid(status.pid), Signal::SIGTERM).unwrap();
        eventually("it unmounts", || sandbox.statuses().is_empty());
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const GIVEN_UP: Case = Case {
    name: "a_server_that_cannot_live_is_given_up",
    needs: Needs::PublicMount,
    by: FUSE,
    run: |sandbox| {
        let mount = sandbox.mount();
        let mut kills = 0;
        // As fast as it goes, so that no server lives for long.
        loop {
            let status = sandbox.statuses().pop().unwrap();
            match status.state {
                State::Dead => break,
                State::Serving if kill(pid(status.pid), Signal::SIGKILL).is_ok() => kills += 1,
                _ => {}
            }
        }
        assert!(kills >= 40, "it is given up after {kills} kills");
        assert_eq!(
            fs::metadata(mount.join("nothing")).unwrap_err().raw_os_error(),
            Some(Errno::ENOTCONN as i32)
        );
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

/// Kills the server that answers now.
fn kill_server(sandbox: &Sandbox) {
    let mut killed = None;
    eventually("there is a server", || {
        let status = sandbox.statuses().pop().unwrap();
        killed = status.pid.filter(|_| status.state == State::Serving);
        killed.is_some()
    });
    kill(pid(killed), Signal::SIGKILL).unwrap();
    eventually("it is another one", || sandbox.statuses().pop().unwrap().pid != killed);
}

/// What a program does, in ways that must be asked of the server: names not seen before, and bytes that are not cached.
fn use_files(mount: &Path, unique: &str) {
    let missing = fs::metadata(mount.join(format!("lib/no-such-{unique}"))).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    for number in (0..fixture::MANY).step_by(97) {
        let file = File::open(mount.join(format!("many/{number:04}"))).unwrap();
        forget_pages(&file);
        assert_eq!(io::read_to_string(&file).unwrap(), number.to_string());
    }
    read_anew(&File::open(mount.join("lib/large")).unwrap()).unwrap();
    assert_eq!(fs::read_dir(mount.join("many")).unwrap().count(), fixture::MANY);
}

/// Reads and maps the large file, not from the cache.
fn read_anew(large: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    forget_pages(large);
    let mut bytes = vec![0; fixture::LARGE_BYTES / 2];
    large.read_exact_at(&mut bytes, 0)?;
    #[expect(unsafe_code, reason = "mapping a file has no safe form")]
    // SAFETY: what is mounted never changes.
    let map = unsafe { memmap2::Mmap::map(large) }?;
    for index in (0..fixture::LARGE_BYTES).step_by(4096) {
        assert_eq!(map[index], fixture::large_byte(index));
        assert!(bytes.get(index).is_none_or(|byte| *byte == map[index]));
    }
    Ok(())
}

fn forget_pages(file: &File) {
    let _ = posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn pid(number: Option<u32>) -> Pid {
    Pid::from_raw(i32::try_from(number.unwrap()).unwrap())
}
