//! What every backend must show, compared with the view it was made from.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use envfs_fuse::backend::Backend;
use envfs_fuse::run::Place;
use envfs_store::linked::MARKER;
use envfs_store::tree::NodeKind;
use envfs_store::view::View;

use nix::errno::Errno;

use super::{ALL, KERNEL_AND_FUSE};
use crate::{Case, Needs, Sandbox, fixture};

/// What cannot be read anywhere: its bytes are lost.
const LOST: &str = "lib/damaged";

pub(crate) const PUBLIC: Case = Case {
    name: "a_mount_shows_what_the_view_says",
    needs: Needs::PublicMount,
    by: ALL,
    run: |sandbox| {
        let mount = sandbox.mount();
        assert_like_view(sandbox, &mount);
        assert_unwritable(sandbox, &mount);
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const PRIVATE: Case = Case {
    name: "a_run_sees_what_the_view_says",
    needs: Needs::PrivateMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let prefix = sandbox.private_prefix();
        let program = std::env::current_exe().unwrap();
        let words = [
            program.to_str().unwrap(),
            "--compare",
            sandbox.backend.name(),
            sandbox.directory.to_str().unwrap(),
            prefix.to_str().unwrap(),
        ];
        // The second one finds all content prepared.
        for _ in 0..2 {
            assert_eq!(sandbox.run_at(&prefix, Place::Private, &words).unwrap(), 0);
            sandbox.assert_nothing_is_left();
        }
    },
};

/// What [`PRIVATE`] does inside.
pub(crate) fn compare(sandbox: &Sandbox, prefix: &Path) -> ExitCode {
    assert_like_view(sandbox, prefix);
    assert_unwritable(sandbox, prefix);
    let mounts = envfs_fuse::mountinfo::read().unwrap();
    let mount = envfs_fuse::mountinfo::at(&mounts, prefix).unwrap();
    assert_eq!(mount.is_kernel(), sandbox.backend == Backend::Kernel, "{mount:?}");
    ExitCode::SUCCESS
}

pub(crate) const TOOLS: Case = Case {
    name: "programs_work_on_it_and_from_it",
    needs: Needs::PublicMount,
    by: ALL,
    run: |sandbox| {
        let mount = sandbox.mount();
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command
                .arg("-ec")
                .arg(script)
                .env("P", &mount)
                .env("D", &sandbox.directory);
            let output = command.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{script}: {errors}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(shell("\"$P/bin/where\""), format!("{}/share\n", mount.display()));
        shell(
            "tar -C \"$P\" --exclude lib/damaged -cf \"$D/all.tar\" . && tar -C \"$P\" --exclude lib/damaged -df \"$D/all.tar\"",
        );
        assert_eq!(
            shell("find \"$P/many\" -type f | wc -l").trim(),
            fixture::MANY.to_string()
        );
        shell(
            "cp -r \"$P/share\" \"$D/copied\" && cmp \"$P/share/text\" \"$D/copied/text\" && grep -q hello \"$P/share/text\"",
        );
        let large = map_of(&mount.join("lib/large"));
        assert!(
            large
                .iter()
                .enumerate()
                .all(|(index, byte)| *byte == fixture::large_byte(index))
        );
        assert_eq!(map_of(&mount.join("share/text")), b"hello\n");
        sandbox.unmount();
        sandbox.assert_nothing_is_left();
    },
};

pub(crate) const REMOUNTED: Case = Case {
    name: "inode_numbers_are_the_same_in_every_mount",
    needs: Needs::PublicMount,
    by: KERNEL_AND_FUSE,
    run: |sandbox| {
        let numbers = || {
            let mount = sandbox.mount();
            let mut numbers = Vec::new();
            walk(&mount, Path::new(""), &mut |path, metadata| {
                numbers.push((path.to_owned(), metadata.ino()));
            });
            numbers.sort();
            sandbox.unmount();
            numbers
        };
        let first = numbers();
        let distinct: BTreeSet<_> = first.iter().map(|(_, number)| number).collect();
        assert_eq!(distinct.len(), first.len());
        assert_eq!(numbers(), first);
    },
};

/// Everything that the view has is there as it says, and nothing else.
fn assert_like_view(sandbox: &Sandbox, root: &Path) {
    let view = View::new(&sandbox.store, sandbox.tree.clone(), root).unwrap();
    let tree = view.tree();
    let mut found = BTreeSet::new();
    walk(root, Path::new(""), &mut |path, metadata| {
        found.insert(path.to_owned());
        let name = path.display();
        if path == Path::new(MARKER) && sandbox.backend == Backend::Link {
            return;
        }
        let node = tree.find(path.as_os_str().as_bytes()).unwrap();
        let node = node.unwrap_or_else(|| panic!("{name} is not in the tree"));
        assert_node(sandbox, &view, node, &root.join(path), metadata);
    });
    for id in 0..tree.node_count() {
        let node = tree.node(envfs_store::tree::NodeId(id)).unwrap();
        let path = PathBuf::from(OsStr::from_bytes(&tree.path(node).unwrap()));
        assert!(found.contains(&path), "{} is not shown", path.display());
    }
    for missing in ["nothing", "lib/nothing", "many/1000", "share/text/below"] {
        let kind = fs::symlink_metadata(root.join(missing)).unwrap_err().kind();
        assert!(
            matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory),
            "{missing}: {kind:?}"
        );
    }
}

fn assert_node(sandbox: &Sandbox, view: &View, node: envfs_store::tree::Node<'_>, path: &Path, metadata: &Metadata) {
    let name = path.display();
    let is_link = sandbox.backend == Backend::Link;
    let is_root = node.id() == envfs_store::tree::ROOT;
    let attributes = view.attributes(node).unwrap();
    let mode = match attributes.kind {
        // The directory itself is the caller's.
        _ if is_link && is_root => metadata.mode() & 0o7777,
        NodeKind::Symlink => 0o777,
        _ if is_link => u32::from(attributes.mode) & 0o555,
        _ => u32::from(attributes.mode),
    };
    assert_eq!(metadata.mode() & 0o7777, mode, "the mode of {name}");
    assert_eq!(metadata.uid(), nix::unistd::getuid().as_raw(), "the owner of {name}");
    // A file system below may hold fewer years.
    if !is_link || (!is_root && i32::try_from(attributes.mtime_s).is_ok()) {
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (attributes.mtime_s, 0),
            "the time of {name}"
        );
    }
    if !is_link {
        assert_eq!(metadata.nlink(), u64::from(attributes.links), "the links of {name}");
    }
    match attributes.kind {
        NodeKind::Directory => assert!(metadata.is_dir(), "{name}"),
        NodeKind::Symlink => {
            assert!(metadata.is_symlink(), "{name}");
            let target = fs::read_link(path).unwrap();
            assert_eq!(target.as_os_str().as_bytes(), node.symlink_target().unwrap());
        }
        NodeKind::File => {
            assert!(metadata.is_file(), "{name}");
            assert_eq!(metadata.len(), attributes.size_bytes, "the size of {name}");
            match view.read(node) {
                Ok(content) => assert!(fs::read(path).unwrap() == content, "the content of {name}"),
                Err(_) => {
                    assert!(path.ends_with(LOST), "{name} is lost");
                    let error = fs::read(path).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32), "{name}");
                }
            }
        }
    }
}

/// Nothing can be written, made, renamed or removed. Where it is linked, bits are all that protects it, and root passes
/// those.
fn assert_unwritable(sandbox: &Sandbox, root: &Path) {
    if sandbox.backend == Backend::Link && nix::unistd::geteuid().is_root() {
        return;
    }
    let attempts: [(&str, std::io::Result<()>); 6] = [
        (
            "write",
            File::options().write(true).open(root.join("share/text")).map(drop),
        ),
        ("create", fs::write(root.join("lib/new"), "x")),
        ("remove", fs::remove_file(root.join("share/text"))),
        ("rename", fs::rename(root.join("share/text"), root.join("share/other"))),
        ("make a directory", fs::create_dir(root.join("share/new"))),
        ("link", std::os::unix::fs::symlink("x", root.join("lib/new link"))),
    ];
    for (what, result) in attempts {
        let kind = result.unwrap_err().kind();
        let expected = match sandbox.backend {
            Backend::Link => ErrorKind::PermissionDenied,
            _ => ErrorKind::ReadOnlyFilesystem,
        };
        assert_eq!(kind, expected, "{what}");
    }
}

/// Calls `see` with everything below `root`, itself first, by relative paths.
fn walk(root: &Path, path: &Path, see: &mut impl FnMut(&Path, &Metadata)) {
    let whole = root.join(path);
    let metadata = fs::symlink_metadata(&whole).unwrap();
    see(path, &metadata);
    if metadata.is_dir() {
        for entry in fs::read_dir(whole).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.file_type().unwrap(),
                entry.metadata().unwrap().file_type(),
                "listings tell kinds"
            );
            walk(root, &path.join(entry.file_name()), see);
        }
    }
}

/// The bytes of a file as a memory map shows them.
fn map_of(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    #[expect(unsafe_code, reason = "mapping a file has no safe form")]
    // SAFETY: what is mounted never changes.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    map.to_vec()
}
