//! The file system without a kernel, over a small environment.

mod model;

use std::path::Path;

use nix::errno::Errno;

use super::*;
use crate::errno::errno;
use crate::fixture;

struct Sample {
    _directory: tempfile::TempDir,
    fs: FileSystem,
}

fn sample() -> Sample {
    let directory = tempfile::tempdir().unwrap();
    let (store, tree) = fixture::make(directory.path());
    let view = View::new(&store, tree, Path::new("/envs/x")).unwrap();
    Sample {
        _directory: directory,
        fs: FileSystem::new(view),
    }
}

impl Sample {
    fn find(&self, path: &str) -> Entry {
        let mut entry = Entry {
            inode: ROOT_INODE,
            attributes: self.fs.attributes(ROOT_INODE).unwrap(),
        };
        for name in path.split('/') {
            entry = self.fs.lookup(entry.inode, name.as_bytes()).unwrap().unwrap();
            assert_eq!(self.fs.attributes(entry.inode).unwrap(), entry.attributes);
        }
        entry
    }

    fn read(&self, path: &str, offset: u64, len: usize) -> Vec<u8> {
        let file = self.fs.open(self.find(path).inode).unwrap();
        file.bytes_at(offset, len).unwrap().into_owned()
    }

    /// The directory at `inode`, asked for `step` lines at a time.
    fn names(&self, inode: u64, step: usize) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let mut left = step;
            let before = names.len();
            self.fs
                .list(inode, offset, |line, _| {
                    if left == 0 {
                        return Ok(false);
                    }
                    left -= 1;
                    offset = line.next_offset;
                    names.push((String::from_utf8(line.name.to_vec()).unwrap(), line.inode));
                    Ok(true)
                })
                .unwrap();
            if names.len() == before {
                return names;
            }
        }
    }
}

fn number<T: std::fmt::Debug>(result: Result<T, FsError>) -> Errno {
    errno(&result.unwrap_err())
}

#[test]
fn attributes_need_no_object() {
    let sample = sample();
    let root = sample.fs.attributes(ROOT_INODE).unwrap();
    assert_eq!((root.kind, root.mode, root.links), (NodeKind::Directory, 0o755, 2 + 4));
    let script = sample.find("bin/where").attributes;
    assert_eq!(
        (script.mode, script.size_bytes),
        (0o755, fixture::script("/envs/x").len() as u64)
    );
    assert_eq!(sample.find("bin/not-executable").attributes.mode, 0o644);
    assert_eq!(sample.find("share/text").attributes.mtime_s, -7);
    assert_eq!(sample.find("lib/damaged").attributes.size_bytes, 200_000);
    let link = sample.find("lib/link");
    assert_eq!(
        (link.attributes.kind, link.attributes.size_bytes),
        (NodeKind::Symlink, 5)
    );
    assert_eq!(sample.fs.readlink(link.inode).unwrap(), b"large");
}

#[test]
fn names_that_are_not_there_are_no_error() {
    let sample = sample();
    let bin = sample.find("bin").inode;
    for name in [b"nothing".as_slice(), b"", b".", b"..", b"where\0", &[0xff; 255]] {
        assert_eq!(sample.fs.lookup(bin, name).unwrap(), None, "{name:?}");
    }
    // The kernel lets longer ones through (`FUSE_NAME_MAX`), and statfs(2) promises that there are none.
    assert_eq!(number(sample.fs.lookup(bin, &[b'n'; 256])), Errno::ENAMETOOLONG);
}

#[test]
fn what_makes_no_sense_has_its_number() {
    let sample = sample();
    let (bin, text, link) = (
        sample.find("bin").inode,
        sample.find("share/text").inode,
        sample.find("lib/link").inode,
    );
    for inode in [0, sample.fs.node_count() + 1, u64::from(u32::MAX) + 2, u64::MAX] {
        assert_eq!(number(sample.fs.attributes(inode)), Errno::ENOENT);
        assert_eq!(number(sample.fs.lookup(inode, b"x")), Errno::ENOENT);
        assert_eq!(number(sample.fs.open(inode)), Errno::ENOENT);
        assert_eq!(number(sample.fs.list(inode, 0, |_, _| Ok(true))), Errno::ENOENT);
    }
    assert_eq!(number(sample.fs.lookup(text, b"x")), Errno::ENOTDIR);
    assert_eq!(number(sample.fs.list(text, 0, |_, _| Ok(true))), Errno::ENOTDIR);
    assert_eq!(number(sample.fs.open(bin)), Errno::EISDIR);
    assert_eq!(number(sample.fs.open(link)), Errno::EINVAL);
    assert_eq!(number(sample.fs.readlink(text)), Errno::EINVAL);
}

#[test]
fn lost_bytes_are_an_input_output_error() {
    let sample = sample();
    assert_eq!(number(sample.fs.open(sample.find("lib/damaged").inode)), Errno::EIO);
}

#[test]
fn reads_at_any_offset_give_what_is_there() {
    let sample = sample();
    assert_eq!(sample.read("bin/where", 0, 4096), fixture::script("/envs/x").as_bytes());
    assert_eq!(sample.read("bin/where", 15, 7), b"/envs/x");
    assert_eq!(sample.read("share/text", 3, 4096), b"lo\n");
    assert_eq!(sample.read("share/text", 6, 4096), b"");
    assert_eq!(sample.read("share/text", u64::MAX, 4096), b"");
    assert_eq!(sample.read("share/a b/empty", 0, 4096), b"");
    let expected: Vec<_> = (131_000..135_096).map(fixture::large_byte).collect();
    assert_eq!(sample.read("lib/large", 131_000, 4096), expected);
    assert_eq!(sample.read("lib/large", fixture::LARGE_BYTES as u64 - 1, 4096).len(), 1);
}

#[test]
fn only_whole_unpatched_objects_may_be_read_by_the_kernel() {
    let sample = sample();
    let whole = |path| sample.fs.is_whole_object(sample.find(path).inode).unwrap();
    assert!(whole("lib/large"));
    assert!(!whole("bin/where") && !whole("share/text") && !whole("lib/link") && !whole("lib"));
}

#[test]
fn a_listing_is_the_same_however_it_is_cut() {
    let sample = sample();
    let many = sample.find("many").inode;
    let whole = sample.names(many, usize::MAX);
    assert_eq!(whole.len(), fixture::MANY + 2);
    assert_eq!(whole[0], (".".into(), many));
    assert_eq!(whole[1], ("..".into(), ROOT_INODE));
    assert!(
        whole[2..]
            .iter()
            .all(|(name, inode)| sample.find(&format!("many/{name}")).inode == *inode)
    );
    for step in [1, 2, 3, 999] {
        assert_eq!(sample.names(many, step), whole);
    }
    assert_eq!(sample.names(ROOT_INODE, 1)[1], ("..".into(), ROOT_INODE));
    sample
        .fs
        .list(many, u64::MAX, |line, _| panic!("{line:?} after the end"))
        .unwrap();
}

#[test]
fn files_that_were_read_last_are_opened_once() {
    let sample = sample();
    let large = sample.find("lib/large").inode;
    let first = sample.fs.open(large).unwrap();
    assert!(Arc::ptr_eq(&first, &sample.fs.open(large).unwrap()));
    for number in 0..200 {
        sample.read(&format!("many/{number:04}"), 0, 10);
    }
    assert!(!Arc::ptr_eq(&first, &sample.fs.open(large).unwrap()));
    assert_eq!(first.bytes_at(1, 1).unwrap()[0], fixture::large_byte(1));
}
