//! Images read back, by a reader that knows the format and nothing of the writer; and by `fsck.erofs`, if it is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use envfs_store::Store;
use envfs_store::cache::content_path;
use envfs_store::view::View;

use super::*;
use crate::fixture;

struct Sample {
    _directory: tempfile::TempDir,
    store: Store,
    view: View,
    has_lost: bool,
}

impl Describe for Sample {
    fn attributes(&self, node: Node<'_>) -> envfs_store::Result<Attributes> {
        self.view.attributes(node)
    }

    fn redirect(&self, node: Node<'_>, out: &mut Vec<u8>) -> envfs_store::Result<()> {
        let name = node.digest().to_string();
        out.extend_from_slice(format!("/{}/{name}", &name[..2]).as_bytes());
        Ok(())
    }

    fn is_lost(&self, node: Node<'_>) -> bool {
        self.has_lost && node.name().unwrap() == b"damaged"
    }
}

fn sample() -> Sample {
    let directory = tempfile::tempdir().unwrap();
    let (store, tree) = fixture::make(directory.path());
    Sample {
        view: View::new(&store, tree, Path::new("/envs/x")).unwrap(),
        store,
        has_lost: true,
        _directory: directory,
    }
}

/// Numbers at places, as `erofs_fs.h` gives them.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&self, at: usize, bytes: usize) -> u64 {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&self.0[at..at + bytes]);
        u64::from_le_bytes(number)
    }

    fn size(&self, inode: usize) -> usize {
        usize::try_from(self.number(inode + 8, 8)).unwrap()
    }

    fn content(&self, inode: usize) -> &[u8] {
        let layout = self.number(inode, 2) >> 1 & 7;
        let at = match layout {
            2 => inode + 64,
            _ => usize::try_from(self.number(inode + 16, 4)).unwrap() * 4096,
        };
        assert!(
            layout != 2 || at / 4096 == (at + self.size(inode).max(1) - 1) / 4096,
            "inline content crosses a block"
        );
        &self.0[at..at + self.size(inode)]
    }

    /// The names in a directory with their inodes and kinds, checked for their order.
    fn entries(&self, inode: usize) -> Vec<(Vec<u8>, usize, u8)> {
        let mut entries: Vec<(Vec<u8>, usize, u8)> = Vec::new();
        for block in self.content(inode).chunks(4096) {
            let reader = Reader(block);
            let offset = |index: usize| usize::try_from(reader.number(index * 12 + 8, 2)).unwrap();
            let count = offset(0) / 12;
            for index in 0..count {
                let end = if index + 1 < count {
                    offset(index + 1)
                } else {
                    block.len()
                };
                let name = block[offset(index)..end].split(|&byte| byte == 0).next().unwrap();
                let inode = usize::try_from(reader.number(index * 12, 8)).unwrap() * 32;
                entries.push((name.to_owned(), inode, block[index * 12 + 10]));
            }
        }
        assert!(entries.is_sorted_by(|a, b| a.0 < b.0), "kernels search names by halves");
        entries
    }
}

#[test]
fn an_image_holds_what_the_tree_does() {
    let sample = sample();
    let tree = sample.view.tree();
    let image = write(tree, &sample).unwrap().bytes;
    assert_eq!(image, write(tree, &sample).unwrap().bytes);
    let reader = Reader(&image);
    assert_eq!(reader.number(1024, 4), 0xE0F5_E1E2);
    assert_eq!(reader.number(1024 + 36, 4) * 4096, image.len() as u64);
    let root = usize::try_from(reader.number(1024 + 14, 2)).unwrap() * 32;
    let mut pending = vec![(root, root, Vec::new())];
    let mut seen = BTreeMap::new();
    while let Some((inode, parent, path)) = pending.pop() {
        let node = tree.find(&path).unwrap().unwrap();
        let attributes = sample.view.attributes(node).unwrap();
        assert!(seen.insert(inode, path.clone()).is_none(), "an inode has one name");
        assert_eq!(reader.number(inode + 4, 2) & 0o7777, u64::from(attributes.mode));
        assert_eq!(reader.number(inode + 32, 8), attributes.mtime_s.cast_unsigned());
        assert_eq!(reader.number(inode + 44, 4), u64::from(attributes.links));
        assert_eq!(node_of(&image, (inode / 32) as u64), Some(node.id()));
        match attributes.kind {
            NodeKind::Directory => {
                for (name, child, kind) in reader.entries(inode) {
                    match name.as_slice() {
                        b"." => assert_eq!((child, kind), (inode, 2)),
                        b".." => assert_eq!((child, kind), (parent, 2)),
                        _ => pending.push((child, inode, [path.as_slice(), &name].join(&b'/'))),
                    }
                }
            }
            NodeKind::Symlink => assert_eq!(reader.content(inode), node.symlink_target().unwrap()),
            NodeKind::File => {
                assert_eq!(reader.size(inode) as u64, attributes.size_bytes);
                if sample.is_lost(node) {
                    // Its one chunk is on the device that cannot be read.
                    assert_eq!((reader.number(inode, 2) >> 1, reader.number(inode + 2, 2)), (4, 0));
                    assert_eq!(reader.number(inode + 64 + 2, 2), 1);
                    continue;
                }
                let hex = node.digest().to_string();
                let redirect = format!("/{}/{hex}", &hex[..2]);
                let xattrs = &image[inode + 64..inode + 64 + format::xattr_bytes(redirect.len())];
                assert!(xattrs.ends_with(format!("overlay.redirect{redirect}").as_bytes()));
            }
        }
    }
    assert_eq!(seen.len(), tree.node_count() as usize);
}

#[test]
fn the_tools_of_the_format_find_nothing_wrong() {
    let sample = Sample {
        has_lost: false,
        ..sample()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), write(sample.view.tree(), &sample).unwrap().bytes).unwrap();
    match Command::new("fsck.erofs").arg(file.path()).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => eprintln!("SKIPPED: fsck.erofs is missing: `apt install erofs-utils`"),
    }
}

#[test]
fn what_a_prefix_changes_is_in_an_image_that_points_to_the_rest() {
    let sample = sample();
    let tree = sample.view.tree();
    let find = |path: &[u8]| tree.find(path).unwrap().unwrap();
    let nodes = [find(b"bin/where"), find(b"bin/binary")];
    let written = content::write(&sample.view, &nodes.map(|node| node.id())).unwrap();
    assert_eq!(written.devices, [nodes[1].digest()]);
    assert!(written.bytes.len() < 20 * 4096, "{} bytes", written.bytes.len());
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    std::fs::write(&image, &written.bytes).unwrap();
    let device = sample.store.object_path(&written.devices[0]);
    let extracted = directory.path().join("extracted");
    let fsck = Command::new("fsck.erofs")
        .arg(format!("--device={}", device.display()))
        .arg(format!("--extract={}", extracted.display()))
        .arg(&image)
        .output();
    match fsck {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => return eprintln!("SKIPPED: fsck.erofs is missing: `apt install erofs-utils`"),
    }
    for node in nodes {
        let content = std::fs::read(extracted.join(content_path(node).unwrap())).unwrap();
        assert_eq!(content, sample.view.read(node).unwrap());
    }
}
