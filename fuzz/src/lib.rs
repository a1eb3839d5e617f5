//! Readers of bytes, each as a function that takes any: it may refuse them, and must not panic. Driven by libFuzzer
//! (`cargo xtask fuzz`, or `cargo fuzz run`), and in short by a test. Knows readers; nothing of what bytes are tried.

#![expect(clippy::unwrap_used, reason = "what does not depend on the bytes must work")]

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use envfs_fuse::writable::State;
use envfs_solver::{Lock, Parts, Project, PythonLock, Spec};
use envfs_store::digest::{Digest, Sha256};
use envfs_store::index::Index;
use envfs_store::name::Name;
use envfs_store::names::Names;
use envfs_store::pack::MIN_WHOLE_BYTES;
use envfs_store::roots::Roots;
use envfs_store::trace::Trace;
use envfs_store::tree::NodeId;
use envfs_store::{Store, answers, built, environment, lease, linked, warm, writable};
use tempfile::TempDir;

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 18] = [
    ("conda", conda),
    ("wheel", wheel),
    ("layer", layer),
    ("tree", tree),
    ("pack", pack),
    ("trace", trace),
    ("records", records),
    ("sealed", sealed),
    ("notes", notes),
    ("stamps", stamps),
    ("index", index),
    ("lock", lock),
    ("python_lock", python_lock),
    ("specification", specification),
    ("metadata", metadata),
    ("machine", machine),
    ("template", template),
    ("request", request),
];

/// How a bucket of stamps begins, and how many bytes each stamp has (docs/format.md, "stamps").
const STAMPS_MAGIC: &[u8; 8] = b"envfsst2";
const STAMP_BYTES: usize = 64;

/// In templates the table and the image each begin at a multiple of it.
const PAGE_BYTES: usize = 4096;

/// A store is made anew after so many inputs: archives that are taken fill it.
const INPUTS_PER_STORE: u32 = 500;

thread_local! {
    static ROOM: RefCell<Option<(TempDir, u32)>> = const { RefCell::new(None) };
}

/// An archive of a conda package.
pub fn conda(bytes: &[u8]) {
    in_store(|store| drop(envfs_solver::fuzzing::conda(store, file_of(bytes))));
}

/// A wheel.
pub fn wheel(bytes: &[u8]) {
    in_store(|store| drop(envfs_solver::fuzzing::wheel(store, file_of(bytes))));
}

/// A layer, whose digest is made right: else few would be read any further.
pub fn layer(bytes: &[u8]) {
    in_store(|store| {
        let name = Sha256::from_bytes([7; 32]);
        let path = store.root().join(format!("layers/{name}"));
        write(&path, &with_digest(bytes));
        let _ = store.layer(&name);
        let _ = fs::remove_file(&path);
    });
}

/// A tree: what it holds is listed, found and checked.
pub fn tree(bytes: &[u8]) {
    in_store(|store| {
        let name = Digest::of(bytes);
        let path = store.root().join(format!("trees/{name}"));
        write(&path, bytes);
        if let Ok(tree) = store.tree(&name) {
            let _ = tree.verify();
            let _ = tree.find(b"bin/python");
            let _ = tree.packages();
            let _ = tree.max_prefix();
            for node in (0..tree.node_count().min(64)).filter_map(|id| tree.node(NodeId(id)).ok()) {
                let _ = (node.name(), node.location(), node.placeholder(), tree.path(node));
                let _ = tree.children(node, 0).map(|children| children.take(64).count());
            }
            if tree.verify().is_ok() {
                let _ = tree.contents();
            }
        }
        let _ = fs::remove_file(&path);
    });
}

/// A pack, whose index has its digest made right.
pub fn pack(bytes: &[u8]) {
    in_store(|store| {
        let path = store.root().join(format!("packs/{}.pack", Digest::of(bytes)));
        write(&path, &with_index_digest(bytes));
        let _ = store.locate(&Digest::of(b"somebody"));
        let _ = store.verify();
        let _ = fs::remove_file(&path);
    });
}

/// What the first runs opened.
pub fn trace(bytes: &[u8]) {
    in_store(|store| {
        let tree = Digest::from_bytes([7; 32]);
        let path = store.root().join(format!("traces/{tree}"));
        write(&path, &with_digest(bytes));
        if let Some(mut trace) = Trace::load(store, &tree) {
            trace.add(&[]);
            let _ = trace.common();
        }
        let _ = fs::remove_file(&path);
    });
}

/// Records that are JSON: environments, names, pins, owners, leases, linked directories, built wheels, answers.
pub fn records(bytes: &[u8]) {
    in_store(|store| read_records(store, |_| bytes.to_vec()));
}

/// The same, with the seal that belongs to each: else few would be read any further.
pub fn sealed(bytes: &[u8]) {
    in_store(|store| read_records(store, |place| with_seal(place, bytes)));
}

/// Writes all records at their places in the store, and reads them.
fn read_records(store: &Store, record: impl Fn(&str) -> Vec<u8>) {
    let signature = Digest::from_bytes([7; 32]);
    let name: Name = "team/project:tag".parse().unwrap();
    let question = "a question";
    let answer = answers::place(store, &signature);
    let answer = answer.strip_prefix(store.root()).unwrap().to_str().unwrap().to_owned();
    let places = [
        format!("environments/{signature}.json"),
        "refs/team/project:tag".to_owned(),
        format!("roots/pins/{signature}"),
        "roots/owners/somebody".to_owned(),
        "leases/1-7.json".to_owned(),
        "linked/7.json".to_owned(),
        format!("built/{}.json", Digest::of(question.as_bytes())),
    ];
    for place in &places {
        write(&store.root().join(place), &record(place));
    }
    write(
        &store.root().join(&answer),
        &zstd::encode_all(record(&answer).as_slice(), 1).unwrap(),
    );
    let _ = environment::get(store, &signature);
    let _ = Names::of(store).get(&name);
    let _ = (Roots::of(store).pins(), Roots::of(store).owners());
    let _ = (lease::list(store), linked::list(store), built::find(store, question));
    let _ = answers::find(store, &signature);
    for place in places.iter().chain([&answer]) {
        let _ = fs::remove_file(store.root().join(place));
    }
}

/// Notes without a seal: what is kept of what is written into environments, which of them stay mounted, and of what format a
/// store is.
pub fn notes(bytes: &[u8]) {
    in_store(|store| {
        let written = writable::place(store, Path::new("/nowhere"));
        let uid = nix::unistd::getuid().as_raw();
        let elsewhere = store.root().join("writable/7.elsewhere");
        let warm = store.root().join("warm/7.json");
        let other = store.root().join("tmp/other");
        write(&written.join("mount.json"), bytes);
        write(&elsewhere, bytes);
        write(&warm, bytes);
        write(&other.join("FORMAT"), bytes);
        let _ = (writable::states(store), warm::list(store, uid));
        let _ = Store::open(&other);
        let _ = State::at(&written).record();
        let _ = (fs::remove_dir_all(&written), fs::remove_dir_all(&other));
        let _ = (fs::remove_file(&elsewhere), fs::remove_file(&warm));
    });
}

/// Which whole files were read through in this boot: whatever is noted, a file that is read is what its name says.
pub fn stamps(bytes: &[u8]) {
    in_store(|store| {
        let content = vec![7; MIN_WHOLE_BYTES];
        let digest = Digest::of(&content);
        let place = store.object_path(&digest);
        let uid = nix::unistd::geteuid();
        let noted = store.root().join(format!("cache/checked-{uid}"));
        if !place.exists() {
            write(&place, &content);
            // Another, which remembers nothing of it.
            let other = Store::open(store.root()).unwrap();
            let location = other.locate(&digest).unwrap().unwrap();
            other.open_object(&digest, content.len() as u64, location).unwrap();
        }
        let mut noted_bytes = fs::read(&noted).unwrap();
        let head = noted_bytes.windows(8).position(|bytes| bytes == *STAMPS_MAGIC).unwrap();
        let stamps = &mut noted_bytes[head + STAMP_BYTES..];
        let len = bytes.len().min(stamps.len());
        stamps[..len].copy_from_slice(&bytes[..len]);
        write(&noted, &noted_bytes);
        let location = store.locate(&digest).unwrap().unwrap();
        store.open_object(&digest, content.len() as u64, location).unwrap();
    });
}

/// The database of uses, which may be anything.
pub fn index(bytes: &[u8]) {
    in_store(|store| {
        write(&store.root().join("index.sqlite"), bytes);
        if let Ok(index) = Index::open(store) {
            let _ = index.all();
            let _ = index.latest(10);
        }
        for name in [
            "index.sqlite",
            "index.sqlite-wal",
            "index.sqlite-shm",
            "index.sqlite.aside",
        ] {
            let _ = fs::remove_file(store.root().join(name));
        }
    });
}

/// Lock files of the conda world: pixi.lock, conda-lock.yml, `@EXPLICIT`.
pub fn lock(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(lock) = Lock::parse(text, Path::new("/nowhere/pixi.lock")) else {
        return;
    };
    for name in lock.environments() {
        for subdir in lock.subdirs(name).unwrap_or_default() {
            let _ = (
                lock.packages(name, subdir),
                lock.wheels(name, subdir),
                lock.sources(name, subdir),
            );
        }
    }
    let _ = lock.render();
}

/// Lock files of the Python world: pylock.toml, poetry.lock, uv.lock.
pub fn python_lock(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for name in ["pylock.toml", "poetry.lock", "uv.lock"] {
        if let Ok(lock) = PythonLock::parse(text, &Path::new("/nowhere").join(name)) {
            let _ = lock.python();
        }
    }
}

/// What people write: environment.yml, requirements.txt, pyproject.toml, envfs.toml.
pub fn specification(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Spec::parse_environment_yml(text, Path::new("/nowhere/environment.yml"));
    in_store(|store| {
        for name in ["requirements.txt", "pyproject.toml", "envfs.toml"] {
            let path = store.root().join("tmp").join(name);
            write(&path, bytes);
            let _ = Spec::read(&path, &Parts::default());
            let _ = Project::read(&path);
            let _ = fs::remove_file(&path);
        }
    });
}

/// What packages say of themselves when they are installed: records of conda, and the metadata of distributions.
pub fn metadata(bytes: &[u8]) {
    envfs_solver::fuzzing::metadata(bytes);
}

/// What the kernel says of the machine: its mounts, its load.
pub fn machine(bytes: &[u8]) {
    envfs_fuse::fuzzing::machine(bytes);
}

/// An image of what looks different at each prefix, by its table: the image behind that is not looked at.
pub fn template(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    file.resize(bytes.len().next_multiple_of(PAGE_BYTES) + PAGE_BYTES, 0);
    envfs_fuse::fuzzing::template(&file);
}

/// A request of the kernel.
pub fn request(bytes: &[u8]) {
    envfs_fuse::fuzzing::request(bytes);
}

/// Calls `work` with a store of this thread, in memory where there is a file system in memory.
fn in_store(work: impl FnOnce(&Store)) {
    ROOM.with_borrow_mut(|room| {
        if room.as_ref().is_none_or(|(_, inputs)| *inputs >= INPUTS_PER_STORE) {
            *room = Some((
                tempfile::Builder::new()
                    .prefix("envfs-fuzz-")
                    .tempdir_in(memory())
                    .unwrap(),
                0,
            ));
        }
        let (directory, inputs) = room.as_mut().unwrap();
        *inputs += 1;
        work(&Store::open(directory.path()).unwrap());
    });
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in(memory()).unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The bytes with the digest of all before it as the last 32.
fn with_digest(bytes: &[u8]) -> Vec<u8> {
    let content = &bytes[..bytes.len().saturating_sub(32)];
    [content, Digest::of(content).as_bytes()].concat()
}

/// The document with the seal of its place (docs/format.md, "sealed documents").
fn with_seal(place: &str, bytes: &[u8]) -> Vec<u8> {
    let content = bytes.strip_suffix(b"}").unwrap_or(bytes);
    let digest = Digest::of(&[place.as_bytes(), b"\0", content].concat());
    [content, format!(",\"digest\":\"{digest}\"}}\n").as_bytes()].concat()
}

/// A pack whose footer names the index that is there, if it says where.
fn with_index_digest(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(footer_at) = bytes.len().checked_sub(52) else {
        return bytes;
    };
    let index_at = u64::from_le_bytes(bytes[footer_at + 32..footer_at + 40].try_into().unwrap());
    let index = usize::try_from(index_at).ok().and_then(|at| bytes.get(at..footer_at));
    if let Some(digest) = index.map(Digest::of) {
        bytes[footer_at..footer_at + 32].copy_from_slice(digest.as_bytes());
    }
    bytes
}
