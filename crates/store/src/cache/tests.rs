//! Whatever a tree holds is found where the kernel will look for it, with its bytes.

use std::sync::Arc;

use super::*;
use crate::ingest::Ingest;
use crate::path::EnvPath;
use crate::placeholder::{Encoding, Occurrences, TextOccurrence};
use crate::tree::merge::{Leaf, Merge};

fn boot(id: &str) -> Boot {
    Boot {
        id: id.into(),
        machine: "machine".into(),
    }
}

/// A tree of files with these contents; those that name `/old` are texts with that placeholder.
fn view_of(store: &Store, workspace: &Workspace, contents: &[&[u8]]) -> View {
    let mut ingest = Ingest::new(store, workspace).unwrap();
    let mut merge = Merge::new();
    for (index, content) in contents.iter().enumerate() {
        let stored = ingest.add_bytes(content).unwrap();
        let placeholder = content.starts_with(b"/old").then(|| Placeholder {
            prefix: "/old".into(),
            occurrences: Occurrences::Text {
                shebang: Vec::new(),
                occurrences: vec![TextOccurrence {
                    offset_bytes: 0,
                    encoding: Encoding::Utf8,
                }],
            },
        });
        let leaf = Leaf::File {
            digest: stored.digest,
            size_bytes: stored.size_bytes,
            mtime_s: 1_000_000_000,
            executable: false,
            placeholder,
        };
        merge.add(None, &EnvPath::parse(format!("f{index}")).unwrap(), leaf);
    }
    ingest.publish().unwrap();
    let tree = merge.write(store, workspace, None).unwrap();
    let tree = Arc::new(store.tree(&tree.digest).unwrap());
    View::new(store, tree, Path::new("/new")).unwrap()
}

#[test]
fn every_file_is_found_with_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let large = vec![7; crate::pack::MIN_WHOLE_BYTES];
    // In a pack, an empty file and the one after it have the same offset.
    let view = view_of(
        &store,
        &workspace,
        &[b"one", b"", b"two", b"/old/x", &large, b"three", b"one"],
    );
    let cache = Cache::open(&store, &boot("boot")).unwrap();
    let tree = view.tree();
    let name = Digest::of(b"tree");
    assert_eq!(cache.laid_out(&name), None);
    let laid = cache.lay_out(&workspace, &name, tree).unwrap();
    // All that is in packs, and then the text as it looks at this prefix.
    assert_eq!((laid.filled.written, laid.filled.lost.len()), (5, 0));
    assert!(!cache.has_patched(&view, &laid.patched).unwrap());
    let fill_patched = || cache.fill_patched(&workspace, &view, &laid.patched).unwrap().written;
    assert_eq!(fill_patched(), 1);
    assert!(cache.has_patched(&view, &laid.patched).unwrap());
    for child in tree.children(tree.root().unwrap(), 0).unwrap() {
        let node = child.unwrap();
        let path = cache
            .present_content(&view, node)
            .unwrap()
            .expect("the content is there");
        let found = cache
            .content_directories()
            .into_iter()
            .chain([cache.patched_directory(&view)])
            .map(|place| place.join(&path))
            .find(|path| path.exists());
        assert_eq!(fs::read(found.unwrap()).unwrap(), view.read(node).unwrap());
    }
    // What is there is not written again.
    let again = cache.lay_out(&workspace, &name, tree).unwrap();
    assert_eq!((again.filled.written, fill_patched()), (0, 0));
    assert_eq!(cache.laid_out(&name), Some(laid.patched));
}

#[test]
fn what_is_damaged_is_told_and_brought_when_it_is_whole_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let view = view_of(&store, &workspace, &[b"one", b"two"]);
    let name = Digest::of(b"tree");
    let pack = crate::store::list(&store.path("packs")).unwrap().pop().unwrap();
    let whole = fs::read(&pack).unwrap();
    let replace = |bytes: &[u8]| {
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, bytes).unwrap();
    };
    let lay_out = || {
        // As another process, which has no pack open.
        let store = Store::open(directory.path()).unwrap();
        let cache = Cache::open(&store, &boot("boot")).unwrap();
        let laid = cache.lay_out(&workspace, &name, view.tree()).unwrap();
        let lost: Vec<_> = laid.filled.lost.into_keys().collect();
        (lost, laid.filled.written, cache.laid_out(&name).is_some())
    };
    let mut damaged = whole.clone();
    damaged[8..]
        .iter_mut()
        .find(|byte| **byte == b'o')
        .map(|byte| *byte = b'0')
        .unwrap();
    replace(&damaged);
    let (lost, written, is_known) = lay_out();
    assert_eq!((lost.len(), written, is_known), (1, 1, false));
    assert_eq!(lay_out(), (lost, 0, false));
    replace(&whole);
    assert_eq!(lay_out(), (vec![], 1, true));
    // A pack that is gone is looked for elsewhere, and its files are lost where there is none.
    fs::remove_file(&pack).unwrap();
    fs::remove_dir_all(store.path("cache")).unwrap();
    assert_eq!(lay_out().0.len(), 2);
}

#[test]
fn a_directory_that_was_filled_for_one_tree_is_completed_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let all = view_of(&store, &workspace, &[b"one", b"two", b"three"]);
    let some = view_of(&store, &workspace, &[b"two"]);
    // Written anew by a collection: both trees know it by its old name.
    let pack = crate::store::list(&store.path("packs")).unwrap().pop().unwrap();
    fs::rename(&pack, store.pack_path(&Digest::of(b"another"))).unwrap();
    for (name, view, expected) in [(b"some", &some, 1), (b"alls", &all, 2), (b"more", &some, 0)] {
        // As another process, which has no pack open.
        let store = Store::open(directory.path()).unwrap();
        let cache = Cache::open(&store, &boot("boot")).unwrap();
        let laid = cache.lay_out(&workspace, &Digest::of(name), view.tree()).unwrap();
        assert_eq!((laid.filled.written, laid.filled.lost.len()), (expected, 0));
        for child in view.tree().children(view.tree().root().unwrap(), 0).unwrap() {
            assert!(cache.present_content(view, child.unwrap()).unwrap().is_some());
        }
    }
}

#[test]
fn what_another_boot_left_is_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let view = view_of(&store, &workspace, &[b"one"]);
    Cache::open(&store, &boot("before"))
        .unwrap()
        .lay_out(&workspace, &Digest::of(b"tree"), view.tree())
        .unwrap();
    let cache = Cache::open(&store, &boot("now")).unwrap();
    let node = view.tree().find(b"f0").unwrap().unwrap();
    assert_eq!(cache.present_content(&view, node).unwrap(), None);
    assert!(!store.path("cache").join("before").exists());
}
