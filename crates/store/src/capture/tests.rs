//! What differs is found and kept, what does not is not, and the new environment can be seen anywhere.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::*;

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    workspace: Workspace,
    environment: Environment,
    merged: PathBuf,
    upper: PathBuf,
}

impl Fixture {
    /// An environment of some files, and a directory that looks as a mount of it would.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (merged, upper) = (directory.path().join("merged"), directory.path().join("upper"));
        fs::create_dir_all(&upper).unwrap();
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
            let place = merged.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, path).unwrap();
            let mode = if path.starts_with("bin/") { 0o755 } else { 0o644 };
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        }
        ingest.publish().unwrap();
        let tree = merge.write(&store, &workspace, None).unwrap();
        let environment = Environment::new(crate::Digest::of(b"a"), "linux-64".into(), tree.digest);
        environment.publish(&store, &workspace).unwrap();
        Self {
            _directory: directory,
            store,
            workspace,
            environment,
            merged,
            upper,
        }
    }

    fn view(&self) -> View {
        let tree = Arc::new(self.store.tree(&self.environment.tree).unwrap());
        View::new(&self.store, tree, &self.merged).unwrap()
    }

    /// Writes a file, as a program in the mount would.
    fn write(&self, path: &str, content: &str) {
        for root in [&self.merged, &self.upper] {
            let place = root.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, content).unwrap();
        }
    }

    /// Removes a file or directory; overlayfs would leave a mark above, which needs no imitation.
    fn remove(&self, path: &str) {
        let place = self.merged.join(path);
        let removed = if place.is_dir() {
            fs::remove_dir_all(place)
        } else {
            fs::remove_file(place)
        };
        removed.unwrap();
        fs::create_dir_all(self.upper.join(path).parent().unwrap()).unwrap();
    }

    fn changes(&self) -> Vec<String> {
        let view = self.view();
        let changes = self.writable(&view).changes().unwrap();
        changes
            .iter()
            .map(|change| format!("{:?} {}", change.kind, change.path))
            .collect()
    }

    fn writable<'a>(&'a self, view: &'a View) -> Writable<'a> {
        Writable {
            view,
            merged: &self.merged,
            upper: &self.upper,
        }
    }

    fn commit(&self) -> Environment {
        let view = self.view();
        let captured = self
            .writable(&view)
            .capture(&self.store, &self.workspace)
            .unwrap()
            .unwrap();
        commit(&self.store, &self.workspace, &self.environment, &captured).unwrap()
    }
}

#[test]
fn what_did_not_change_is_no_change() {
    let fixture = Fixture::new();
    assert_eq!(fixture.changes(), [""; 0]);
    // Touched, and written again with the same bytes.
    fixture.write("lib/one", "lib/one");
    assert_eq!(fixture.changes(), [""; 0]);
    let view = fixture.view();
    assert!(
        fixture
            .writable(&view)
            .capture(&fixture.store, &fixture.workspace)
            .unwrap()
            .is_none()
    );
}

#[test]
fn changes_become_an_environment_that_can_be_seen_anywhere() {
    let fixture = Fixture::new();
    let script = format!(
        "#!{0}/bin/tool\nhome = '{0}/lib'\nother = '{0}-x'\n",
        fixture.merged.display()
    );
    fixture.write("bin/new", &script);
    fixture.write("lib/two", "changed");
    fixture.remove("lib/deep");
    fixture.remove("etc/conf");
    std::os::unix::fs::symlink("tool", fixture.merged.join("bin/link")).unwrap();
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
    let view = View::new(&fixture.store, Arc::clone(&tree), Path::new("/elsewhere")).unwrap();
    let read = |path: &str| {
        let node = tree.find(path.as_bytes()).unwrap()?;
        Some(String::from_utf8(view.read(node).unwrap()).unwrap())
    };
    let expected = format!(
        "#!/elsewhere/bin/tool\nhome = '/elsewhere/lib'\nother = '{}-x'\n",
        fixture.merged.display()
    );
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
    fixture.remove("lib/deep");
    fixture.write("lib/deep", "a file now");
    fixture.remove("etc/conf");
    fixture.write("etc/conf/below", "a directory now");
    fs::set_permissions(fixture.merged.join("bin/tool"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir_all(fixture.upper.join("bin")).unwrap();
    fs::write(fixture.upper.join("bin/tool"), "").unwrap();
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

    nix::unistd::mkfifo(&fixture.merged.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let view = fixture.view();
    let error = fixture
        .writable(&view)
        .capture(&fixture.store, &fixture.workspace)
        .unwrap_err()
        .to_string();
    assert!(error.contains("pipe") && error.contains("remove it"), "{error}");
}

#[test]
fn a_directory_of_another_installer_is_compared_whole() {
    let fixture = Fixture::new();
    fs::write(fixture.merged.join("lib/one"), "changed").unwrap();
    fs::write(fixture.merged.join("lib/cache"), "ignored").unwrap();
    fs::remove_file(fixture.merged.join("lib/two")).unwrap();
    std::os::unix::fs::symlink(fixture.merged.join("lib/one"), fixture.merged.join("bin/link")).unwrap();
    let view = fixture.view();
    let installed = Installed {
        view: &view,
        directory: &fixture.merged,
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
    let environment = commit(&fixture.store, &fixture.workspace, &fixture.environment, &captured).unwrap();
    let tree = fixture.store.tree(&environment.tree).unwrap();
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
