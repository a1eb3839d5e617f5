//! Bytes that are right, or wrong in a way that is known, for each target to start from: made by our own generators.

use envfs_store::Store;
use envfs_store::digest::{Digest, Sha256};
use envfs_store::path::EnvPath;
use envfs_store::trace::{Opened, Trace};
use envfs_store::tree::NodeId;
use envfs_store::tree::merge::{Leaf, Merge};
use envfs_store::workspace::Workspace;
use envfs_tests::hostile;
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use serde_json::json;

/// Seeds of a target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "conda" => {
            let honest = [Format::Conda, Format::TarBz2].map(|format| package().archive(format));
            let hostile = hostile::packages().into_iter().map(|(_, case)| case.archive);
            small(honest.into_iter().chain(hostile))
        }
        "wheel" => small(hostile::wheels().into_iter().map(|case| case.archive)),
        "layer" => files("layers"),
        "tree" => files("trees"),
        "pack" => files("packs"),
        "trace" => files("traces"),
        "records" => records(1),
        "sealed" => records(2),
        "notes" => notes(),
        "stamps" => vec![vec![0; 4032], [[7; 32], [0; 32]].concat().repeat(63)],
        "index" => vec![database(), b"SQLite format 3\0".to_vec()],
        "lock" => texts(&[PIXI, EXPLICIT, CONDA_LOCK]),
        "python_lock" => texts(&[PYLOCK, POETRY, UV]),
        "specification" => texts(&[ENVIRONMENT, REQUIREMENTS, PYPROJECT, PROJECT]),
        "metadata" => texts(&[CONDA_META, METADATA, ENTRY_POINTS, RECORD]),
        "machine" => texts(&[MOUNTS, "0.20 0.18 0.12 1/80 11206\n"]),
        "template" => templates(),
        "request" => requests(),
        other => panic!("{other} is no target"),
    }
}

fn package() -> Package {
    Package::new("x 1 0")
        .file("a", "a")
        .file("large", vec![7; 200_000])
        .symlink("link", "a")
        .prefixed("bin/tool", format!("#!{PLACEHOLDER}/bin/sh\n{PLACEHOLDER}\n"), "text")
        .prefixed("lib/x.so", format!("\0{PLACEHOLDER}/lib\0"), "binary")
}

/// Large ones would only be slow.
fn small(archives: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    archives.into_iter().filter(|archive| archive.len() < 100_000).collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The files in a directory of a store that holds a package, a flat tree and a thin one, and a trace.
fn files(kind: &str) -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut archive = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut archive, &package().archive(Format::Conda)).unwrap();
    envfs_solver::fuzzing::conda(&store, archive).unwrap();
    let layer = store.layer(&Sha256::from_bytes([9; 32])).unwrap().unwrap();
    let workspace = Workspace::create(&store).unwrap();
    let mut merge = Merge::new();
    let package = merge.package("x-1-0");
    for entry in layer.entries {
        if let envfs_store::layer::EntryKind::File(file) = entry.kind {
            let leaf = Leaf::File {
                digest: file.digest,
                size_bytes: file.size_bytes,
                mtime_s: entry.mtime_s,
                executable: file.executable,
                placeholder: file.placeholder,
            };
            merge.add(Some(package), &entry.path, leaf);
        }
    }
    let link = Leaf::Symlink {
        target: b"a".to_vec(),
        mtime_s: 400_000_000,
    };
    merge.add(None, &EnvPath::parse("lib/link").unwrap(), link);
    let written = merge.write(&store, &workspace, None).unwrap();
    let mut trace = Trace::default();
    trace.add(&[Opened {
        node: NodeId(2),
        pieces: std::iter::once(0..4096).collect(),
    }]);
    trace.save(&store, &written.digest).unwrap();
    let found = envfs_tests::program::files_below(&directory.path().join(kind));
    found.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Those of environments in the given format; without a seal, which the target puts on where it belongs.
fn records(format: u32) -> Vec<Vec<u8>> {
    let signature = Digest::from_bytes([7; 32]).to_string();
    let package = json!({"name": "x", "version": "1", "build": "0", "subdir": "linux-64", "url": "file:///x", "sha256": "00".repeat(32), "size_bytes": 7});
    let all = [
        json!({"format": format, "signature": signature, "subdir": "linux-64", "tree": signature, "base": null, "packages": [package],
            "variables": {"A": "b"}, "created_unix_s": 1, "added": {"objects": 1, "bytes": 2, "inodes": 3}}),
        json!({"format": 1, "changes": [{"number": 1, "signature": signature, "at_unix_s": 1, "by": "x", "message": "m"}]}),
        json!({"format": 1, "pins": [{"until_unix_s": 5, "reason": null, "by": "x", "at_unix_s": 1}]}),
        json!({"format": 1, "environments": {signature.clone(): 5}}),
        json!({"kind": "mount", "signature": signature, "mount_point": "/x", "pid": 1, "keeper_pid": null, "uid": 0,
            "started_unix_s": 1, "host": "h", "boot": "b"}),
        json!({"file_name": "x-1-py3-none-any.whl", "sha256": "00".repeat(32), "size_bytes": 1}),
        json!({"format": 2, "signature": signature, "lock": PIXI, "spec": "/x/environment.yml", "solved_unix_s": 1}),
    ];
    bytes_of(&all)
}

/// What stands in files without a seal.
fn notes() -> Vec<Vec<u8>> {
    let signature = Digest::from_bytes([7; 32]).to_string();
    let uid = nix::unistd::getuid().as_raw();
    let mut notes = bytes_of(&[
        json!({"signature": signature, "mount_point": "/x"}),
        json!({"signature": signature, "mount_point": "/x", "uid": uid, "until": "idle", "idle_s": 5}),
        json!({"format": 1, "incompatible": []}),
    ]);
    notes.push(b"/nowhere/else".to_vec());
    notes
}

fn bytes_of(documents: &[serde_json::Value]) -> Vec<Vec<u8>> {
    documents
        .iter()
        .map(|document| document.to_string().into_bytes())
        .collect()
}

/// An index of a store without environments.
fn database() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    drop(envfs_store::index::Index::open(&store).unwrap());
    std::fs::read(directory.path().join("index.sqlite")).unwrap()
}

/// Requests by their numbers (include/uapi/linux/fuse.h), with room for every structure.
fn requests() -> Vec<Vec<u8>> {
    let request = |opcode: u32| {
        let body = [&[0; 56][..], b"name\0"].concat();
        let len = u32::try_from(40 + body.len()).unwrap();
        [&len.to_ne_bytes()[..], &opcode.to_ne_bytes(), &[1; 32], &body].concat()
    };
    (0..50).map(request).collect()
}

/// Tables of templates (crates/fuse/src/kernel/template.rs): of one place and one object, and of no template.
fn templates() -> Vec<Vec<u8>> {
    let table = |numbers: &[u32]| {
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        [&b"envfstp1"[..], &numbers.collect::<Vec<_>>(), &[7; 32]].concat()
    };
    vec![table(&[11, 1, 1, 4096, 100]), table(&[11, 0, 0, 0])]
}

/// As proc_pid_mountinfo(5) has it.
const MOUNTS: &str = "36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue\n37 36 0:40 / /a\\040b rw - overlay envfs#3fb1c2d4 ro,lowerdir+=/\n";
const CONDA_META: &str = r#"{"name": "x", "version": "1", "build": "0", "build_number": 0, "depends": ["python >=3.8"], "subdir": "linux-64", "fn": "x-1-0.conda", "url": "https://h.example/linux-64/x-1-0.conda", "channel": "https://h.example", "files": ["bin/x"], "paths_data": {"paths_version": 1, "paths": [{"_path": "bin/x", "path_type": "hardlink", "size_in_bytes": 1}]}, "requested_spec": "x"}"#;
const METADATA: &str = "Metadata-Version: 2.1\nName: x\nVersion: 1\nRequires-Python: >=3.8\nRequires-Dist: idna[a-b]<4,>=2.5 ; extra == 'socks'\nProvides-Extra: socks\n\nText\n";
const ENTRY_POINTS: &str = "[console_scripts]\nx = x.y:main [extra]\n[gui_scripts]\nw=x:gui\n";
const RECORD: &str =
    "x.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n\"../../../bin/a,b\",,\nx-1.dist-info/RECORD,,\n";
const PIXI: &str = "version: 6\nenvironments:\n  default:\n    channels:\n    - url: https://h.example/c/\n    packages:\n      linux-64:\n      - conda: https://h.example/c/linux-64/x-1-0.conda\n      - pypi: https://h.example/w/y-1-py3-none-any.whl\npackages:\n- conda: https://h.example/c/linux-64/x-1-0.conda\n  sha256: 8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n  depends:\n  - python >=3.8\n- pypi: https://h.example/w/y-1-py3-none-any.whl\n  name: y\n  version: '1'\n  sha256: 8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n";
const EXPLICIT: &str =
    "# platform: linux-64\n@EXPLICIT\nhttps://h.example/linux-64/x-1-0.conda#0123456789abcdef0123456789abcdef\n";
const CONDA_LOCK: &str = "version: 1\nmetadata:\n  content_hash:\n    linux-64: 00\n  channels:\n  - url: conda-forge\n    used_env_vars: []\n  platforms:\n  - linux-64\n  sources:\n  - environment.yml\npackage:\n- name: x\n  version: '1'\n  manager: conda\n  platform: linux-64\n  dependencies: {}\n  url: https://h.example/linux-64/x-1-0.conda\n  hash:\n    md5: 0123456789abcdef0123456789abcdef\n    sha256: 8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n  category: main\n  optional: false\n";
const PYLOCK: &str = "lock-version = '1.0'\ncreated-by = 'x'\nrequires-python = '>=3.9'\n[[packages]]\nname = 'y'\nversion = '1'\nmarker = \"python_version >= '3.9'\"\nwheels = [{name = 'y-1-py3-none-any.whl', url = 'https://h.example/y-1-py3-none-any.whl', size = 5, hashes = {sha256 = '8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254'}}]\n";
const POETRY: &str = "[[package]]\nname = \"y\"\nversion = \"1\"\ndescription = \"\"\noptional = false\npython-versions = \">=3.7\"\nfiles = [{file = \"y-1-py3-none-any.whl\", hash = \"sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\"}]\n[package.dependencies]\nz = {version = \"^1\", markers = \"sys_platform == 'linux'\"}\n[metadata]\nlock-version = \"2.0\"\npython-versions = \"^3.9\"\ncontent-hash = \"00\"\n";
const UV: &str = "version = 1\nrevision = 3\nrequires-python = \">=3.10\"\n[[package]]\nname = \"y\"\nversion = \"1\"\nsource = { registry = \"https://h.example/simple\" }\nwheels = [{ url = \"https://h.example/y-1-py3-none-any.whl\", hash = \"sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\", size = 5 }]\n";
const ENVIRONMENT: &str = "name: x\nchannels: [conda-forge]\nbase: 3fb1c2d4\ndependencies:\n  - python=3.12\n  - conda-forge::numpy>=1.2,<3\n  - sel(linux): gcc\n  - pip:\n    - requests[socks]==2.0 ; python_version > '3'\n    - -e ./p\nvariables:\n  A: b\n";
const REQUIREMENTS: &str = "# c\n--index-url https://h.example/simple\nrequests[socks]>=2,<3 ; python_version > '3' \\\n  --hash=sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\ny @ git+https://h.example/y@main#subdirectory=z\n";
const PYPROJECT: &str = "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.9'\ndependencies = ['y>=1']\n[project.optional-dependencies]\nweb = ['z']\n[dependency-groups]\ndev = ['pytest', {include-group = 'web'}]\n[tool.uv.sources]\ny = { path = '../y', editable = true }\n";
const PROJECT: &str = "channels = ['conda-forge']\ndependencies = ['python=3.12']\npypi = ['httpx']\n[variants.dev]\ndependencies = ['pytest']\n";
