//! The file system beside a plain map of what was put into it: random trees, and random requests for what is there and what is
//! not. Without a kernel; what that makes of it is compared in the tests of the whole product.

use std::collections::BTreeMap;
use std::path::Path;

use envfs_store::Store;
use envfs_store::ingest::Ingest;
use envfs_store::path::EnvPath;
use envfs_store::tree::merge::{DIRECTORY_MTIME_S, Leaf, Merge};
use envfs_store::workspace::Workspace;
use nix::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::errno::errno;
use crate::fixture;
use crate::fs::*;

/// Where the environment is seen.
const PREFIX: &str = "/envs/x";

/// Names of which paths are made; the last is as long as one may be.
const NAMES: [&str; 6] = ["a", "b", "a b", "é", ".hidden", LONGEST];

const LONGEST: &str = concat!(
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
);

/// Sizes around those of pages, and of what is stored whole.
const SIZES: [usize; 6] = [0, 1, 4096, 131_071, 131_072, 200_003];

/// What one path is.
#[derive(Debug, Clone, PartialEq)]
enum Plain {
    Directory,
    File {
        size: usize,
        executable: bool,
        mtime_s: i64,
    },
    /// A script that names its prefix.
    Script,
    Symlink(String),
}

/// What is asked.
#[derive(Debug, Clone)]
enum Request {
    /// A name, which may be one that cannot be.
    Lookup(String),
    Read {
        path: String,
        offset: u64,
        len: usize,
    },
    Readlink(String),
    List {
        path: String,
        step: usize,
    },
}

type Tree = BTreeMap<String, Plain>;

/// What the file system gave, in words that compare.
type Given = Result<String, Errno>;

impl Plain {
    fn content(&self) -> Vec<u8> {
        match self {
            Self::File { size, .. } => (0..*size).map(fixture::large_byte).collect(),
            Self::Script => fixture::script(PREFIX).into_bytes(),
            Self::Directory | Self::Symlink(_) => Vec::new(),
        }
    }

    fn kind(&self) -> NodeKind {
        match self {
            Self::Directory => NodeKind::Directory,
            Self::Symlink(_) => NodeKind::Symlink,
            Self::File { .. } | Self::Script => NodeKind::File,
        }
    }
}

/// What lookup says of a path, from the map alone.
fn looks(tree: &Tree, path: &str) -> Result<Option<Plain>, Errno> {
    let mut above = String::new();
    for name in path.split('/') {
        let parent = if above.is_empty() {
            Some(&Plain::Directory)
        } else {
            tree.get(&above)
        };
        match parent {
            None => return Ok(None),
            Some(Plain::Directory) if name.len() > 255 => return Err(Errno::ENAMETOOLONG),
            Some(Plain::Directory) => {}
            Some(_) => return Err(Errno::ENOTDIR),
        }
        if !above.is_empty() {
            above.push('/');
        }
        above.push_str(name);
    }
    Ok(tree.get(path).cloned())
}

/// The names in a directory.
fn children<'a>(tree: &'a Tree, path: &str) -> Vec<&'a str> {
    let inside = |child: &'a String| {
        let rest = child.strip_prefix(path)?;
        let rest = if path.is_empty() { rest } else { rest.strip_prefix('/')? };
        (!rest.contains('/')).then_some(rest)
    };
    tree.keys().filter_map(inside).collect()
}

/// What the map says to a request.
fn expected(tree: &Tree, request: &Request) -> Given {
    let find = |path: &str| looks(tree, path)?.ok_or(Errno::ENOENT);
    match request {
        Request::Lookup(path) => {
            let plain = find(path)?;
            let (mode, size, mtime_s) = match &plain {
                Plain::Directory => (0o755, 0, DIRECTORY_MTIME_S),
                Plain::File {
                    executable, mtime_s, ..
                } => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    (mode, plain.content().len(), *mtime_s)
                }
                Plain::Script => (0o755, plain.content().len(), 7),
                Plain::Symlink(target) => (0o777, target.len(), 5),
            };
            let inside = children(tree, path).into_iter();
            let directories = inside.filter(|name| tree.get(&format!("{path}/{name}")) == Some(&Plain::Directory));
            let links = if plain == Plain::Directory {
                2 + directories.count()
            } else {
                1
            };
            Ok(format!("{:?} {mode:o} {size} {mtime_s} {links}", plain.kind()))
        }
        Request::Read { path, offset, len } => match find(path)? {
            Plain::Directory => Err(Errno::EISDIR),
            Plain::Symlink(_) => Err(Errno::EINVAL),
            file => {
                let content = file.content();
                let start = clamp(*offset).min(content.len());
                Ok(digest(&content[start..(start + len).min(content.len())]))
            }
        },
        Request::Readlink(path) => match find(path)? {
            Plain::Symlink(target) => Ok(target),
            _ => Err(Errno::EINVAL),
        },
        Request::List { path, .. } => match find(path)? {
            Plain::Directory => Ok(children(tree, path).join("|")),
            _ => Err(Errno::ENOTDIR),
        },
    }
}

/// What the file system says to it.
fn found(fs: &FileSystem, request: &Request) -> Given {
    let find = |path: &str| {
        let mut at = fs.entry(fs.view.tree().root().unwrap()).unwrap();
        for name in path.split('/') {
            at = fs
                .lookup(at.inode, name.as_bytes())
                .map_err(|error| errno(&error))?
                .ok_or(Errno::ENOENT)?;
        }
        Ok(at)
    };
    let number = |error: FsError| errno(&error);
    match request {
        Request::Lookup(path) => {
            let entry = find(path)?;
            let looks = fs.attributes(entry.inode).map_err(number)?;
            assert_eq!(looks, entry.attributes);
            // What the size of a directory or a link is says the kernel's documentation, not the tree.
            let size = if looks.kind == NodeKind::Directory {
                0
            } else {
                looks.size_bytes
            };
            Ok(format!(
                "{:?} {:o} {size} {} {}",
                looks.kind, looks.mode, looks.mtime_s, looks.links
            ))
        }
        Request::Read { path, offset, len } => {
            let file = fs.open(find(path)?.inode).map_err(number)?;
            Ok(digest(&file.bytes_at(*offset, *len).unwrap()))
        }
        Request::Readlink(path) => {
            let target = fs.readlink(find(path)?.inode).map_err(number)?;
            Ok(String::from_utf8(target.to_vec()).unwrap())
        }
        Request::List { path, step } => {
            let inode = find(path)?.inode;
            let mut names = Vec::new();
            let mut offset = 0;
            loop {
                let mut left = *step;
                let before = names.len();
                let from = offset;
                let line = |line: Listed<'_>, _: Node<'_>| {
                    if left == 0 {
                        return Ok(false);
                    }
                    left -= 1;
                    offset = line.next_offset;
                    names.push(String::from_utf8(line.name.to_vec()).unwrap());
                    Ok(true)
                };
                fs.list(inode, from, line).map_err(number)?;
                if names.len() == before {
                    break;
                }
            }
            assert_eq!(names[..2], [".", ".."]);
            names.drain(..2);
            names.sort();
            Ok(names.join("|"))
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("{} {}", bytes.len(), envfs_store::Digest::of(bytes))
}

/// Adds paths one after the other, as far as they go together, with the directories above them.
fn tree_of(paths: Vec<(String, Plain)>) -> Tree {
    let mut tree = Tree::new();
    for (path, plain) in paths {
        let above: Vec<String> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        let fits = above
            .iter()
            .all(|path| matches!(tree.get(path), None | Some(Plain::Directory)));
        if fits && !tree.contains_key(&path) {
            tree.extend(above.into_iter().map(|path| (path, Plain::Directory)));
            tree.insert(path, plain);
        }
    }
    tree
}

/// The file system over an environment that holds what the map says.
fn file_system(directory: &Path, plain: &Tree) -> FileSystem {
    let store = Store::open(directory).unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let mut ingest = Ingest::new(&store, &workspace).unwrap();
    let mut merge = Merge::new();
    let package = merge.package("sample-1.0-0");
    for (path, plain) in plain {
        let path = EnvPath::parse(path).unwrap();
        let leaf = match plain {
            Plain::Directory => continue,
            Plain::Symlink(target) => Leaf::Symlink {
                target: target.clone().into(),
                mtime_s: 5,
            },
            Plain::File { .. } | Plain::Script => {
                let (bytes, executable, mtime_s) = match plain {
                    Plain::File {
                        executable, mtime_s, ..
                    } => (plain.content(), *executable, *mtime_s),
                    _ => (fixture::script(fixture::PLACEHOLDER).into_bytes(), true, 7),
                };
                let stored = ingest.add_bytes(&bytes).unwrap();
                Leaf::File {
                    digest: stored.digest,
                    size_bytes: stored.size_bytes,
                    mtime_s,
                    executable,
                    placeholder: fixture::placeholder(&bytes),
                }
            }
        };
        merge.add(Some(package), &path, leaf);
    }
    ingest.publish().unwrap();
    let written = merge.write(&store, &workspace, None).unwrap();
    let tree = Arc::new(store.tree(&written.digest).unwrap());
    FileSystem::new(View::new(&store, tree, Path::new(PREFIX)).unwrap())
}

fn path() -> impl Strategy<Value = String> {
    vec(select(&NAMES), 1..4).prop_map(|names| names.join("/"))
}

fn plain() -> impl Strategy<Value = Plain> {
    let file =
        (select(&SIZES), any::<bool>(), select(&[0, 1, -7, 1_700_000_000])).prop_map(|(size, executable, mtime_s)| {
            Plain::File {
                size,
                executable,
                mtime_s,
            }
        });
    prop_oneof![
        4 => file,
        1 => Just(Plain::Script),
        1 => path().prop_map(Plain::Symlink),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let any_path =
        || prop_oneof![8 => path(), 1 => path().prop_map(|path| format!("{path}n")), 1 => Just(".".to_owned())];
    let offset = prop_oneof![
        select(&SIZES).prop_map(|size| size as u64),
        0..200_100_u64,
        Just(u64::MAX)
    ];
    prop_oneof![
        any_path().prop_map(Request::Lookup),
        (any_path(), offset, select(&SIZES)).prop_map(|(path, offset, len)| Request::Read { path, offset, len }),
        any_path().prop_map(Request::Readlink),
        (any_path(), 1..5_usize).prop_map(|(path, step)| Request::List { path, step }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_says_what_a_plain_map_says(paths in vec((path(), plain()), 0..30), requests in vec(request(), 1..60)) {
        let tree = tree_of(paths);
        let directory = tempfile::tempdir().unwrap();
        let fs = file_system(directory.path(), &tree);
        for request in requests {
            prop_assert_eq!(expected(&tree, &request), found(&fs, &request), "{:?} of {:?}", request, tree);
        }
    }
}
