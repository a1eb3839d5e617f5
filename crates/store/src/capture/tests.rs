//! What differs is found and kept, what does not is not, and the new environment can be seen anywhere.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::*;
use crate::digest::Digest;
use crate::environment::Environment;
use crate::tree::merge::{Leaf, Merge};

/// Where the environment is seen.
const PLACE: &str = "/envs/of this test";

struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
    workspace: Workspace,
    environment: Environment,
}

impl Fixture {
    /// An environment of some files, and a directory such as overlayfs keeps for what is written.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("upper")).unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let workspace = Workspace::create(&store).unwrap();
        let mut ingest = Ingest::new(&store, &workspace).unwrap();
        let mut merge = Merge::new();
        let package = merge.package("a-1-0");
        for path in ["bin/tool", "lib/one", "lib/two", "lib/deep/three", "etc/conf"] {
            let stored = ingest.add_bytes(path.as_bytes()).unwrap();
            let leaf = Leaf::File {
                digest: stored.digest,
                size_bytes: stored.size_bytes,
                mtime_s: 1_000_000_000,
                executable: path.starts_with("bin/"),
                placeholder: None,
            };
            merge.add(Some(package), &EnvPath::parse(path).unwrap(), leaf);
        }
        ingest.publish().unwrap();
        let tree = merge.write(&store, &workspace, None).unwrap();
        let environment = Environment::new(Digest::of(b"a"), "linux-64".into(), tree.digest);
        environment.publish(&store, &workspace).unwrap();
        Self {
            directory,
            store,
            workspace,
            environment,
        }
    }

    fn view(&self) -> View {
        let tree = Arc::new(self.store.tree(&self.environment.tree).unwrap());
        View::new(&self.store, tree, Path::new(PLACE)).unwrap()
    }

    fn upper(&self) -> PathBuf {
        self.directory.path().join("upper")
    }

    /// A place above, in directories that are made.
    fn place(&self, path: &str) -> PathBuf {
        let place = self.upper().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        place
    }

    /// Writes a file, as overlayfs does.
    fn write(&self, path: &str, content: &str) {
        fs::write(self.place(path), content).unwrap();
    }

    /// Removes a file or directory of the environment, as overlayfs does.
    fn remove(&self, path: &str) {
        rustix::fs::mknodat(CWD, self.place(path), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    /// Makes a directory with a note of overlayfs'.
    fn directory_with(&self, path: &str, note: &str, value: &str) {
        let place = self.place(path);
        fs::create_dir_all(&place).unwrap();
        self.note(path, note, value);
    }

    fn note(&self, path: &str, note: &str, value: &str) {
        let name = format!("user.overlay.{note}");
        rustix::fs::setxattr(self.place(path), name, value.as_bytes(), XattrFlags::empty()).unwrap();
    }

    fn changes(&self) -> Vec<String> {
        let view = self.view();
        let upper = self.upper();
        let changes = Writable {
            view: &view,
            upper: &upper,
        }
        .changes();
        changes
            .unwrap()
            .iter()
            .map(|change| format!("{:?} {}", change.kind, change.path))
            .collect()
    }

    fn capture(&self) -> Result<Option<(Layer, Written)>> {
        let view = self.view();
        let upper = self.upper();
        let writable = Writable {
            view: &view,
            upper: &upper,
        };
        writable.capture(&self.store, &self.workspace, LayerName::OfContent)
    }

    fn commit(&self) -> Environment {
        let (layer, written) = self.capture().unwrap().unwrap();
        let (environment, _kept) = commit(&self.store, &self.workspace, &self.environment, &layer, written).unwrap();
        environment
    }

    /// What is read at `path` in an environment that is seen elsewhere.
    fn read(&self, environment: &Environment, path: &str) -> Option<String> {
        let tree = Arc::new(self.store.tree(&environment.tree).unwrap());
        let view = View::new(&self.store, Arc::clone(&tree), Path::new("/elsewhere")).unwrap();
        let node = tree.find(path.as_bytes()).unwrap()?;
        Some(String::from_utf8(view.read(node).unwrap()).unwrap())
    }
}

#[test]
fn what_did_not_change_is_no_change() {
    let fixture = Fixture::new();
    assert_eq!(fixture.changes(), [""; 0]);
    // Touched, and written again with the same bytes.
    fixture.write("lib/one", "lib/one");
    assert_eq!(fixture.changes(), [""; 0]);
    assert!(fixture.capture().unwrap().is_none());
}

#[test]
fn changes_become_an_environment_that_can_be_seen_anywhere() {
    let fixture = Fixture::new();
    let script = format!("#!{PLACE}/bin/tool\nhome = '{PLACE}/lib'\nother = '{PLACE}-x'\n");
    fixture.write("bin/new", &script);
    fixture.write("lib/two", "changed");
    fixture.remove("lib/deep");
    fixture.remove("etc/conf");
    std::os::unix::fs::symlink("tool", fixture.place("bin/link")).unwrap();
    assert_eq!(
        fixture.changes(),
        [
            "Added bin/link",
            "Added bin/new",
            "Removed etc/conf",
            "Removed lib/deep",
            "Modified lib/two"
        ]
    );
    let changed = fixture.commit();
    assert_eq!(changed.base, Some(fixture.environment.signature));
    assert_eq!(fixture.commit(), changed, "the same changes are the same environment");

    let tree = Arc::new(fixture.store.tree(&changed.tree).unwrap());
    assert_eq!(tree.base(), Some(fixture.environment.tree));
    let read = |path: &str| fixture.read(&changed, path);
    let expected = format!("#!/elsewhere/bin/tool\nhome = '/elsewhere/lib'\nother = '{PLACE}-x'\n");
    assert_eq!(read("bin/new"), Some(expected));
    assert_eq!(read("lib/two").as_deref(), Some("changed"));
    assert_eq!(read("lib/one").as_deref(), Some("lib/one"));
    assert_eq!(read("lib/deep/three"), None);
    assert_eq!(read("etc/conf"), None);
    assert_eq!(
        tree.find(b"bin/link").unwrap().unwrap().symlink_target().unwrap(),
        b"tool"
    );
}

#[test]
fn kinds_may_change_and_pipes_are_refused() {
    let fixture = Fixture::new();
    fixture.write("lib/deep", "a file now");
    fixture.directory_with("etc/conf", "opaque", "y");
    fixture.write("etc/conf/below", "a directory now");
    fixture.write("bin/tool", "bin/tool");
    fs::set_permissions(fixture.place("bin/tool"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        fixture.changes(),
        [
            "Modified bin/tool",
            "Modified etc/conf",
            "Added etc/conf/below",
            "Modified lib/deep"
        ]
    );
    let changed = fixture.commit();
    let tree = fixture.store.tree(&changed.tree).unwrap();
    assert_eq!(
        tree.find(b"etc/conf").unwrap().unwrap().kind().unwrap(),
        NodeKind::Directory
    );
    assert_eq!(tree.find(b"lib/deep").unwrap().unwrap().kind().unwrap(), NodeKind::File);
    assert!(!tree.find(b"bin/tool").unwrap().unwrap().is_executable());

    nix::unistd::mkfifo(&fixture.place("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = fixture.capture().unwrap_err().to_string();
    assert!(error.contains("pipe") && error.contains("remove it"), "{error}");
}

#[test]
fn renamed_directories_and_files_without_content_are_followed() {
    let fixture = Fixture::new();
    // mv lib/deep lib/moved; mv lib etc/lib; rm etc/lib/one; chmod +x etc/lib/two
    fixture.remove("lib");
    fixture.directory_with("etc/lib", "redirect", "/lib");
    fixture.remove("etc/lib/deep");
    fixture.directory_with("etc/lib/moved", "redirect", "deep");
    fixture.remove("etc/lib/one");
    fixture.write("etc/lib/two", "");
    fixture.note("etc/lib/two", "metacopy", "");
    fs::set_permissions(fixture.place("etc/lib/two"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        fixture.changes(),
        [
            "Added etc/lib",
            "Added etc/lib/moved",
            "Added etc/lib/moved/three",
            "Added etc/lib/two",
            "Removed lib"
        ]
    );
    let changed = fixture.commit();
    let read = |path: &str| fixture.read(&changed, path);
    assert_eq!(read("etc/lib/moved/three").as_deref(), Some("lib/deep/three"));
    assert_eq!(read("etc/lib/two").as_deref(), Some("lib/two"));
    assert_eq!(read("etc/lib/one"), None);
    assert_eq!(read("lib/one"), None);
    let tree = fixture.store.tree(&changed.tree).unwrap();
    assert!(tree.find(b"etc/lib/two").unwrap().unwrap().is_executable());

    // A directory that was made anew hides the old one; one that only marks something in it does not.
    let fixture = Fixture::new();
    fixture.directory_with("lib", "opaque", "y");
    fixture.write("lib/one", "lib/one");
    fixture.directory_with("etc", "opaque", "x");
    assert_eq!(fixture.changes(), ["Removed lib/deep", "Removed lib/two"]);
}

#[test]
fn what_is_bound_to_its_place_is_listed() {
    let fixture = Fixture::new();
    fixture.write("lib/binary", &format!("\0{PLACE}/lib\0"));
    fixture.write("lib/text", &format!("{PLACE}/lib"));
    let (layer, _) = fixture.capture().unwrap().unwrap();
    assert_eq!(bound(&layer), [EnvPath::parse("lib/binary").unwrap()]);
}

#[test]
fn a_directory_of_another_installer_is_compared_whole() {
    let fixture = Fixture::new();
    // All of it lies there, as an installer wrote it.
    for path in ["bin/tool", "lib/one", "lib/deep/three", "etc/conf"] {
        fixture.write(path, path);
    }
    let executable = PermissionsExt::from_mode(0o755);
    fs::set_permissions(fixture.place("bin/tool"), executable).unwrap();
    fixture.write("lib/one", "changed");
    fixture.write("lib/cache", "ignored");
    std::os::unix::fs::symlink(format!("{PLACE}/lib/one"), fixture.place("bin/link")).unwrap();
    let view = fixture.view();
    let directory = fixture.upper();
    let installed = Installed {
        view: &view,
        directory: &directory,
        is_ignored: &|path, _| path.as_bytes() == b"lib/cache",
    };
    let captured = installed.capture(&fixture.store, &fixture.workspace).unwrap().unwrap();
    let changes: Vec<_> = captured
        .changes
        .iter()
        .map(|change| (change.path.to_string(), change.kind))
        .collect();
    let expected = [
        ("bin/link", ChangeKind::Added),
        ("lib/one", ChangeKind::Modified),
        ("lib/two", ChangeKind::Removed),
    ];
    assert_eq!(changes, expected.map(|(path, kind)| (path.to_owned(), kind)));
    let environment = commit(
        &fixture.store,
        &fixture.workspace,
        &fixture.environment,
        &captured.layer,
        captured.written,
    );
    let tree = fixture.store.tree(&environment.unwrap().0.tree).unwrap();
    // A link to a place in the directory leads to the same place wherever it is seen.
    let link = tree.find(b"bin/link").unwrap().unwrap();
    assert_eq!(link.symlink_target().unwrap(), b"../lib/one");
    assert!(tree.find(b"lib/cache").unwrap().is_none());
    assert!(tree.find(b"lib/two").unwrap().is_none());
}

#[test]
fn only_links_into_the_prefix_become_relative() {
    let relative = |path: &str, target: &str| {
        let target = relocatable(&EnvPath::parse(path).unwrap(), target.as_bytes(), "/p");
        String::from_utf8(target).unwrap()
    };
    assert_eq!(relative("a/b/c", "/p/x/y"), "../../x/y");
    assert_eq!(relative("a", "/p/x/"), "x");
    assert_eq!(relative("a/b", "/p"), "..");
    assert_eq!(relative("a", "/p"), ".");
    assert_eq!(relative("a/b", "/prefix/x"), "/prefix/x");
    assert_eq!(relative("a/b", "../x"), "../x");
}
