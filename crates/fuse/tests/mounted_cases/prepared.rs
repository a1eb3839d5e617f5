//! What the kernel needs beforehand, what it leaves, and directories of links.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use envfs_fuse::backend::{self, Backend, BackendError};
use envfs_fuse::explain::{self, Purpose};
use envfs_fuse::kernel::KernelError;
use envfs_fuse::mount::check_mount_point;
use envfs_fuse::status::{self, State};
use envfs_fuse::unmount;
use envfs_store::lease::LeaseKind;
use envfs_store::trace::Trace;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

use super::runs::nix_fork;
use super::{ALL, KERNEL, LINK};
use crate::{Case, Needs, eventually, fixture};

pub(crate) const STATUS: Case = Case {
    name: "a_mount_without_a_server_is_known",
    needs: Needs::PublicMount,
    by: KERNEL,
    run: |sandbox| {
        let mount = sandbox.mount();
        let status = sandbox.statuses().pop().unwrap();
        assert_eq!(
            (status.kind, status.backend),
            (Some(LeaseKind::Mount), Some(Backend::Kernel))
        );
        assert_eq!((status.pid, status.uid, status.state), (None, Some(0), State::Serving));
        assert_eq!(status.mount_point, mount);
        let digits = sandbox.signature.to_string()[..16].to_owned();
        // What somebody else mounts writable may stand on any store, so it is in use by all of them.
        let in_use = || -> Vec<_> {
            let found = status::in_use(&sandbox.store).unwrap().into_iter();
            let ours = found.filter(|found| found.mount_point.starts_with(&sandbox.directory));
            ours.map(|found| (found.signature_digits, found.mount_point)).collect()
        };
        assert_eq!(in_use(), [(digits.clone(), mount)]);
        sandbox.unmount();
        assert_eq!(in_use(), []);
        // Nobody holds a lease for what outlives a run that was killed, but the mount is found.
        let runner = nix_fork(|| {
            let _ = sandbox.run("touch $D/started; while ! test -e $D/go; do sleep 0.01; done");
        });
        eventually("it runs", || sandbox.file("started").exists());
        assert_eq!(in_use(), [(digits.clone(), sandbox.private_prefix())]);
        kill(runner, Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(runner, None).unwrap();
        assert_eq!(in_use(), [(digits, sandbox.private_prefix())]);
        fs::write(sandbox.file("go"), "").unwrap();
        eventually("it ends", || in_use().is_empty());
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const AT_ONCE: Case = Case {
    name: "what_is_prepared_by_many_at_once_is_prepared",
    needs: Needs::PublicMount,
    by: KERNEL,
    run: |sandbox| {
        let places: Vec<PathBuf> = (0..8)
            .map(|number| sandbox.file(&format!("at {}", number / 2)))
            .collect();
        let mounts: BTreeSet<_> = places.iter().cloned().collect();
        mounts.iter().for_each(|path| fs::create_dir(path).unwrap());
        let makers: Vec<_> = places
            .iter()
            .map(|path| {
                nix_fork(|| {
                    let service = sandbox.service(path, LeaseKind::Mount);
                    let prepared = envfs_fuse::kernel::prepare(&service);
                    std::process::exit(i32::from(prepared.is_err()))
                })
            })
            .collect();
        for maker in makers {
            let status = nix::sys::wait::waitpid(maker, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(maker, 0));
        }
        assert_eq!(files_below(&sandbox.store.root().join("tmp")), BTreeSet::new());
        for path in &mounts {
            let service = sandbox.service(path, LeaseKind::Mount);
            backend::mount_in_background(&service, &sandbox.options(), Some(Backend::Kernel), None).unwrap();
            let expected = fixture::script(path.to_str().unwrap());
            assert_eq!(fs::read_to_string(path.join("bin/where")).unwrap(), expected);
        }
        for path in &mounts {
            unmount::unmount(&sandbox.store, path, false).unwrap();
        }
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const PREFIXES: Case = Case {
    name: "another_prefix_costs_nothing_on_disk",
    needs: Needs::PublicMount,
    by: KERNEL,
    run: |sandbox| {
        let cache = sandbox.store.root().join("cache");
        let mount_at = |name: &str| {
            let place = sandbox.file(name);
            fs::create_dir(&place).unwrap();
            let service = sandbox.service(&place, LeaseKind::Mount);
            backend::mount_in_background(&service, &sandbox.options(), Some(Backend::Kernel), None).unwrap();
            place
        };
        let first = mount_at("first");
        let before = files_below(&cache);
        let other = mount_at("other");
        assert_eq!(files_below(&cache), before);
        // The sizes of texts are in the image of the names.
        let longer = mount_at("one that is longer");
        let second = files_below(&cache);
        assert_eq!(second.difference(&before).count(), 1);
        for place in [&first, &other, &longer] {
            let text = fs::read_to_string(place.join("bin/where")).unwrap();
            assert_eq!(text, fixture::script(place.to_str().unwrap()));
            let binary = fs::read(place.join("bin/binary")).unwrap();
            assert_eq!(binary, fixture::binary(place.to_str().unwrap()), "{}", place.display());
        }
        // All runs have one prefix, whose files stay.
        assert_eq!(sandbox.run("test -x \"$P/bin/where\"").unwrap(), 0);
        let third = files_below(&cache);
        assert_eq!(sandbox.run("test -x \"$P/bin/where\"").unwrap(), 0);
        assert_eq!(files_below(&cache), third);
        for place in [&first, &other, &longer] {
            unmount::unmount(&sandbox.store, place, false).unwrap();
        }
        let service = sandbox.service(&other, LeaseKind::Mount);
        // What another boot of this machine left is removed by the first of the next; this boot's stays.
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let (boot, old) = (cache.join(id.trim()), cache.join("another-boot"));
        fs::create_dir_all(old.join("small")).unwrap();
        fs::copy(boot.join("machine"), old.join("machine")).unwrap();
        let foreign = cache.join("boot-of-another-machine");
        fs::create_dir_all(&foreign).unwrap();
        fs::write(foreign.join("machine"), "another").unwrap();
        fs::remove_file(boot.join("machine")).unwrap();
        backend::prepare(&service).unwrap();
        assert!(!old.exists() && foreign.exists());
        let patched = |path: &&PathBuf| path.components().any(|part| part.as_os_str() == "patched");
        let fourth = files_below(&cache);
        assert!(
            third
                .iter()
                .filter(|path| !patched(path))
                .all(|path| fourth.contains(path))
        );
    },
};

pub(crate) const RECORDED: Case = Case {
    name: "what_the_first_runs_open_is_recorded_and_no_more",
    needs: Needs::PublicMount,
    by: KERNEL,
    run: |sandbox| {
        let runs = || Trace::load(&sandbox.store, &sandbox.tree_name).map_or(0, |trace| trace.runs);
        let opens: [&[&str]; 3] = [
            &["share/text", "lib/large"],
            &["share/text", "many/0001"],
            &["bin/where"],
        ];
        for (index, paths) in opens.iter().enumerate() {
            let mount = sandbox.mount();
            for path in *paths {
                fs::read(mount.join(path)).unwrap();
                fs::metadata(mount.join("bin/tool")).unwrap();
            }
            eventually("it is recorded", || runs() as usize == index + 1);
            sandbox.unmount();
        }
        let trace = Trace::load(&sandbox.store, &sandbox.tree_name).unwrap();
        let files = trace.files.iter().map(|file| {
            let node = sandbox.tree.node(file.node).unwrap();
            let path = sandbox.tree.path(node).unwrap();
            (String::from_utf8(path).unwrap(), file.runs)
        });
        let files: Vec<_> = files.filter(|(path, _)| path.contains('/')).collect();
        let expected = [("bin/where", 1), ("share/text", 2), ("many/0001", 1), ("lib/large", 1)];
        assert_eq!(files, expected.map(|(path, runs)| (path.to_owned(), runs)));
        // Of the fourth nothing is noted.
        let mount = sandbox.mount();
        fs::read(mount.join("many/0002")).unwrap();
        sandbox.unmount();
        assert_eq!(Trace::load(&sandbox.store, &sandbox.tree_name), Some(trace));
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const DAMAGED: Case = Case {
    name: "what_is_damaged_is_an_error_where_it_is_read_and_heals",
    needs: Needs::PublicMount,
    by: KERNEL,
    run: |sandbox| {
        let pack = only_entry(&sandbox.store.root().join("packs"));
        let whole = fs::read(&pack).unwrap();
        let at = whole.windows(6).position(|window| window == b"hello\n").unwrap();
        let mut damaged = whole.clone();
        damaged[at] = b'j';
        let replace = |bytes: &[u8]| {
            fs::remove_file(&pack).unwrap();
            fs::write(&pack, bytes).unwrap();
        };
        replace(&damaged);
        // Each in a process of its own, as people do: a store keeps packs open.
        let read = || {
            let mounted = nix_fork(|| {
                let store = envfs_store::Store::open(sandbox.store.root()).unwrap();
                let fresh = sandbox.reopen(store);
                fresh.mount();
                std::process::exit(0)
            });
            let ended = nix::sys::wait::waitpid(mounted, None).unwrap();
            assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(mounted, 0));
            let mount = sandbox.mount_point();
            let result = fs::read(mount.join("share/text"));
            assert_eq!(fs::read(mount.join("many/0007")).unwrap(), b"7");
            sandbox.unmount();
            result
        };
        assert_eq!(read().unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
        replace(&whole);
        assert_eq!(read().unwrap(), b"hello\n");
    },
};

pub(crate) const REFUSED: Case = Case {
    name: "a_backend_that_cannot_work_is_refused_or_passed_over",
    needs: Needs::Nothing,
    by: KERNEL,
    run: |sandbox| {
        if nix::unistd::geteuid().is_root() {
            return;
        }
        let mount = sandbox.mount_point();
        let service = sandbox.service(&mount, LeaseKind::Mount);
        let error =
            backend::mount_in_background(&service, &sandbox.options(), Some(Backend::Kernel), None).unwrap_err();
        assert!(matches!(error, BackendError::Kernel(KernelError::NotRoot)), "{error}");
        assert!(error.remedy().is_some());
        sandbox.assert_nothing_is_left();
        fixture::heal(&sandbox.store);
        let taken = backend::mount_in_background(&service, &sandbox.options(), None, None).unwrap();
        assert_ne!(taken, Backend::Kernel);
        assert_eq!(fs::read(mount.join("share/text")).unwrap(), b"hello\n");
        sandbox.unmount();
    },
};

pub(crate) const EXPLAINED: Case = Case {
    name: "what_is_explained_is_what_happens",
    needs: Needs::Nothing,
    by: ALL,
    run: |sandbox| {
        let verdicts = explain::explain(&sandbox.store, Purpose::Mount);
        let verdict = verdicts
            .iter()
            .find(|verdict| verdict.backend == sandbox.backend)
            .unwrap();
        assert_eq!(verdicts.iter().filter(|verdict| verdict.is_taken).count(), 1);
        let service = sandbox.service(&sandbox.mount_point(), LeaseKind::Mount);
        let forced = backend::mount_in_background(&service, &sandbox.options(), Some(sandbox.backend), None);
        assert_eq!(forced.is_err(), verdict.obstacle.is_some(), "{verdict:?}: {forced:?}");
        if forced.is_ok() {
            sandbox.unmount();
        }
        fixture::heal(&sandbox.store);
        let taken = backend::mount_in_background(&service, &sandbox.options(), None, None).unwrap();
        assert_eq!(taken == sandbox.backend, verdict.is_taken, "{verdict:?}: {taken}");
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const LINKED: Case = Case {
    name: "links_are_shared_listed_and_removed",
    needs: Needs::Nothing,
    by: LINK,
    run: |sandbox| {
        let mount = sandbox.mount();
        let status = sandbox.statuses().pop().unwrap();
        assert_eq!((status.backend, status.state), (Some(Backend::Link), State::Serving));
        assert_eq!(status.signature, Some(sandbox.signature));
        let message = check_mount_point(&mount).unwrap_err().to_string();
        assert!(
            message.contains("already a mount point, of the environment"),
            "{message}"
        );
        let other = sandbox.file("other");
        fs::create_dir(&other).unwrap();
        let service = sandbox.service(&other, LeaseKind::Mount);
        backend::mount_in_background(&service, &sandbox.options(), Some(Backend::Link), None).unwrap();
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(number(&mount.join("lib/large")), number(&other.join("lib/large")));
        assert_ne!(number(&mount.join("bin/where")), number(&other.join("bin/where")));
        assert_eq!(sandbox.statuses().len(), 2);
        unmount::unmount(&sandbox.store, &other, false).unwrap();
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const CHANGED: Case = Case {
    name: "links_that_were_changed_are_removed_only_on_demand",
    needs: Needs::Nothing,
    by: LINK,
    run: |sandbox| {
        let mount = sandbox.mount();
        // The directory itself is writable, as it was.
        fs::create_dir(mount.join("__pycache__")).unwrap();
        sandbox.unmount();
        sandbox.mount();
        fs::write(mount.join("mine"), "x").unwrap();
        let text = mount.join("share/text");
        let open = format!(
            "chmod u+w '{0}' '{1}' && rm '{1}' && echo other > '{1}'",
            mount.join("share").display(),
            text.display()
        );
        assert!(Command::new("sh").arg("-c").arg(open).status().unwrap().success());
        let message = unmount::unmount(&sandbox.store, &mount, false).unwrap_err().to_string();
        assert!(message.contains("mine") && message.contains("share/text"), "{message}");
        assert_eq!(fs::read_to_string(&text).unwrap(), "other\n");
        unmount::unmount(&sandbox.store, &mount, true).unwrap();
        sandbox.assert_nothing_is_left();
        // What an earlier boot linked may be incomplete, and is known to be.
        sandbox.mount();
        let marker = mount.join(".envfs-linked.json");
        let said = fs::read_to_string(&marker).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let earlier = said.replace(boot.trim(), "0");
        assert_ne!(earlier, said);
        fs::write(&marker, &earlier).unwrap();
        let listed = only_entry(&sandbox.store.root().join("linked"));
        fs::remove_file(&listed).unwrap();
        fs::write(listed, earlier).unwrap();
        assert_eq!(sandbox.statuses().pop().unwrap().state, State::Dead);
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

fn only_entry(directory: &Path) -> PathBuf {
    let mut entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let entry = entries.next().unwrap();
    assert_eq!(entries.next(), None);
    entry
}

fn files_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.insert(path);
        }
    }
    files
}
