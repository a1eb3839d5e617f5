//! What the tests stand on: wheels and conda packages made by hand, a store, and environments listed and written out.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use envfs_solver::{
    BuildError, BuildProgress, BuildRequest, Built, Lock, LockedPackage, LockedWheel, Network, NetworkOptions, Subdir,
};
use envfs_store::Store;
use envfs_store::environment::Environment;
use envfs_store::tree::NodeKind;
use envfs_store::view::View;
use sha2::Digest as _;

/// A file of an environment: its content and whether it may be executed. A symlink is its target.
pub(crate) type Files = BTreeMap<String, (Vec<u8>, bool)>;

/// A store, and a directory to make packages in.
pub(crate) struct Room {
    directory: tempfile::TempDir,
    pub(crate) store: Store,
}

struct Quiet;

impl BuildProgress for Quiet {
    fn missing(&self, _packages: usize, _bytes: u64) {}
    fn fetched(&self, _bytes: i64) {}
    fn ingested(&self, _package: &str) {}
}

impl Room {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A conda package of linux-64. `index` overrides fields of its `index.json`; files under `info/` are added as they are.
    pub(crate) fn package(
        &self,
        name: &str,
        version: &str,
        index: &serde_json::Value,
        files: &[(&str, &str)],
    ) -> LockedPackage {
        let subdir = if index["noarch"].is_null() {
            "linux-64"
        } else {
            "noarch"
        };
        let mut fields = serde_json::json!({
            "name": name, "version": version, "build": "0", "build_number": 0, "subdir": subdir, "depends": [],
        });
        for (key, value) in index.as_object().unwrap() {
            fields[key] = value.clone();
        }
        let paths: Vec<_> = files
            .iter()
            .filter(|(path, _)| !path.starts_with("info/"))
            .map(|(path, content)| {
                let sha256 = hex::encode(sha2::Sha256::digest(content));
                serde_json::json!({ "_path": path, "path_type": "hardlink", "sha256": sha256, "size_in_bytes": content.len() })
            })
            .collect();
        let paths = serde_json::json!({ "paths": paths, "paths_version": 1 }).to_string();
        let mut tar = tar::Builder::new(bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast()));
        let info = [("info/index.json", fields.to_string()), ("info/paths.json", paths)];
        for (path, content) in files
            .iter()
            .copied()
            .chain(info.iter().map(|(path, content)| (*path, content.as_str())))
        {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(if path.starts_with("bin/") { 0o755 } else { 0o644 });
            header.set_mtime(1_700_000_000);
            tar.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        let folder = self.path("channel").join(subdir);
        fs::create_dir_all(&folder).unwrap();
        let archive = folder.join(format!("{name}-{version}-0.tar.bz2"));
        fs::write(&archive, tar.into_inner().unwrap().finish().unwrap()).unwrap();
        conda(&archive)
    }

    /// A Python that is none, but is where one would be.
    pub(crate) fn python(&self) -> LockedPackage {
        self.package(
            "python",
            "3.11.2",
            &serde_json::json!({}),
            &[("bin/python3.11", "#!/bin/sh\n")],
        )
    }

    /// A wheel, with metadata and a true `RECORD`.
    pub(crate) fn wheel(&self, name: &str, version: &str, files: &[(&str, &str)]) -> LockedWheel {
        let info = format!("{name}-{version}.dist-info");
        let wheel = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned();
        let mut all: Vec<(String, String)> = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        all.push((
            format!("{info}/METADATA"),
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
        ));
        all.push((format!("{info}/WHEEL"), wheel));
        let mut record = String::new();
        for (path, content) in &all {
            let quote = if path.contains(',') { "\"" } else { "" };
            record += &format!("{quote}{path}{quote},{}\n", recorded(content.as_bytes()));
        }
        all.push((format!("{info}/RECORD"), format!("{record}{info}/RECORD,,\n")));
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (path, content) in &all {
            zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(content.as_bytes()).unwrap();
        }
        let path = self.path(&format!("{name}-{version}-py3-none-any.whl"));
        fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
        with_digest(&path)
    }

    /// Builds for linux-64, without bytecode.
    pub(crate) fn build(
        &self,
        packages: &[LockedPackage],
        wheels: &[LockedWheel],
        base: Option<&Environment>,
    ) -> Result<Built, BuildError> {
        self.build_with(packages, wheels, base, false)
    }

    pub(crate) fn build_with(
        &self,
        packages: &[LockedPackage],
        wheels: &[LockedWheel],
        base: Option<&Environment>,
        bytecode: bool,
    ) -> Result<Built, BuildError> {
        let network = Network::new(NetworkOptions::new(self.path("cache"), self.path("root"))).unwrap();
        let request = BuildRequest {
            link_scripts: None,
            packages: packages.to_owned(),
            wheels: wheels.to_owned(),
            sources: Vec::new(),
            bytecode,
            subdir: "linux-64".parse::<Subdir>().unwrap(),
            variables: BTreeMap::new(),
            base: base.cloned(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(envfs_solver::build(&self.store, &network, request, None, &Quiet))
    }

    pub(crate) fn files(&self, built: &Built, prefix: &Path) -> Files {
        let tree = Arc::new(self.store.tree(&built.environment.tree).unwrap());
        files_of(&View::new(&self.store, tree, prefix).unwrap())
    }
}

/// A conda archive on disk.
pub(crate) fn conda(archive: &Path) -> LockedPackage {
    let url = format!("file://{}", archive.display());
    let lock = Lock::parse(&format!("@EXPLICIT\n{url}\n"), Path::new("explicit.txt")).unwrap();
    let subdir = lock.subdirs("default").unwrap()[0];
    lock.packages("default", subdir).unwrap().remove(0)
}

/// A wheel on disk, as a lock would name it.
pub(crate) fn with_digest(path: &Path) -> LockedWheel {
    let sha256 = sha2::Sha256::digest(fs::read(path).unwrap());
    LockedWheel::new(path.to_str().unwrap())
        .unwrap()
        .with_sha256(sha256.into())
}

/// Digest and size of a file as `RECORD` has it.
pub(crate) fn recorded(content: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: String = sha2::Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:08b}"))
        .collect();
    let digest: String = bits
        .as_bytes()
        .chunks(6)
        .map(|six| usize::from_str_radix(&format!("{:0<6}", std::str::from_utf8(six).unwrap()), 2).unwrap())
        .map(|index| char::from(ALPHABET[index]))
        .collect();
    format!("sha256={digest},{}", content.len())
}

/// Every file of an environment; directories only where nothing is in them.
pub(crate) fn files_of(view: &View) -> Files {
    let mut files = Files::new();
    let mut pending = vec![(String::new(), view.tree().root().unwrap())];
    while let Some((parent, directory)) = pending.pop() {
        for child in view.tree().children(directory, 0).unwrap() {
            let child = child.unwrap();
            let path = format!("{parent}{}", String::from_utf8_lossy(child.name().unwrap()));
            match child.kind().unwrap() {
                NodeKind::Directory => pending.push((format!("{path}/"), child)),
                NodeKind::Symlink => drop(files.insert(path, (child.symlink_target().unwrap().to_owned(), false))),
                NodeKind::File => {
                    let mode = view.attributes(child).unwrap().mode;
                    files.insert(path, (view.read(child).unwrap(), mode & 0o111 != 0));
                }
            }
        }
    }
    files
}

/// Every file below a directory.
pub(crate) fn files_in(root: &Path) -> Files {
    let mut files = Files::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                files.insert(name, (target.to_str().unwrap().as_bytes().to_owned(), false));
            } else if metadata.is_dir() {
                pending.push(path);
            } else {
                let executable = metadata.permissions().mode() & 0o111 != 0;
                files.insert(name, (fs::read(&path).unwrap(), executable));
            }
        }
    }
    files
}

/// Writes an environment into a directory, so that its programs run without a mount.
pub(crate) fn write_out(view: &View) {
    let root = Path::new(view.prefix());
    let mut pending = vec![(root.to_owned(), view.tree().root().unwrap())];
    while let Some((target, directory)) = pending.pop() {
        fs::create_dir_all(&target).unwrap();
        for child in view.tree().children(directory, 0).unwrap() {
            let child = child.unwrap();
            let path = target.join(std::str::from_utf8(child.name().unwrap()).unwrap());
            match child.kind().unwrap() {
                NodeKind::Directory => pending.push((path, child)),
                NodeKind::Symlink => {
                    let link = std::str::from_utf8(child.symlink_target().unwrap()).unwrap();
                    std::os::unix::fs::symlink(link, path).unwrap();
                }
                NodeKind::File => {
                    fs::write(&path, view.read(child).unwrap()).unwrap();
                    let attributes = view.attributes(child).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(attributes.mode.into())).unwrap();
                    let mtime_s = u64::try_from(attributes.mtime_s).unwrap();
                    let file = fs::File::open(&path).unwrap();
                    file.set_modified(UNIX_EPOCH + Duration::from_secs(mtime_s)).unwrap();
                }
            }
        }
    }
}

/// Wheels that `cargo xtask channel` has downloaded: a set that lacks nothing.
pub(crate) fn real_wheels() -> Vec<PathBuf> {
    let wheels = wheels_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/downloads/wheels"));
    if wheels.is_empty() {
        eprintln!("SKIPPED: there are no wheels; `cargo xtask channel` downloads some");
    }
    wheels
}

/// Wheels in the directory that `ENVFS_TEST_WHEELS` names, which need not fit together; else the same.
pub(crate) fn any_wheels() -> Vec<PathBuf> {
    std::env::var_os("ENVFS_TEST_WHEELS").map_or_else(real_wheels, |folder| wheels_in(Path::new(&folder)))
}

fn wheels_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut wheels: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    wheels.sort();
    wheels
}
