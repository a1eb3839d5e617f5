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
    assert_eq!(cache.fill(&workspace, &view).unwrap().written, 5);
    let tree = view.tree();
    for child in tree.children(tree.root().unwrap(), 0).unwrap() {
        let node = child.unwrap();
        let path = cache
            .present_content(&view, node)
            .unwrap()
            .expect("the content is there");
        let found = cache
            .content_directories()
            .into_iter()
            .map(|place| place.join(&path))
            .find(|path| path.exists());
        assert_eq!(fs::read(found.unwrap()).unwrap(), view.read(node).unwrap());
    }
    assert_eq!(
        cache.fill(&workspace, &view).unwrap().written,
        0,
        "what is there is not written again"
    );
}

#[test]
fn what_another_boot_left_is_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let view = view_of(&store, &workspace, &[b"one"]);
    Cache::open(&store, &boot("before"))
        .unwrap()
        .fill(&workspace, &view)
        .unwrap();
    let cache = Cache::open(&store, &boot("now")).unwrap();
    let node = view.tree().find(b"f0").unwrap().unwrap();
    assert_eq!(cache.present_content(&view, node).unwrap(), None);
    assert!(!store.path("cache").join("before").exists());
}
