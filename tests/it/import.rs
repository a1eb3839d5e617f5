//! Environments that other installers made, taken into the store: what is recognised, what is kept, and what is refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use envfs_store::environment;
use envfs_store::view::View;
use envfs_tests::channel::Channel;
use envfs_tests::data::{RealChannel, skip};
use envfs_tests::package::{Format, PLACEHOLDER, Package};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::reference::Reference;
use envfs_tests::seen::{Listing, Seen, list_directory, list_view};
use serde_json::{Value, json};
use sha2::Digest as _;

/// Packages with everything that relocation knows: texts, binaries, noarch modules, links.
fn packages() -> Vec<Package> {
    vec![
        Package::python("3.12.1"),
        Package::new("tool 1.0 h0_0")
            .executable("bin/tool", "#!/bin/sh\necho tool\n")
            .prefixed("etc/tool.conf", format!("home={PLACEHOLDER}/lib\nend\n"), "text")
            .prefixed(
                "lib/libtool.so",
                [b"\x7fELF\0".as_slice(), PLACEHOLDER.as_bytes(), b"/lib\0tail\0"].concat(),
                "binary",
            )
            .symlink("lib/libtool.so.1", "libtool.so"),
        Package::new("pure 2.0 py_0")
            .noarch_python()
            .depends("python")
            .entry_point("pure = pure:main")
            .file("site-packages/pure.py", "def main():\n    print('pure')\n")
            .file(
                "site-packages/pure-2.0.dist-info/METADATA",
                "Metadata-Version: 2.1\nName: pure\nVersion: 2.0\n",
            )
            .file(
                "site-packages/pure-2.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\nTag: py3-none-any\n",
            )
            .file("site-packages/pure-2.0.dist-info/RECORD", "pure.py,,\n"),
    ]
}

/// The packages, their archives, and an installation of them.
fn installed(envfs: &Envfs) -> (Vec<PathBuf>, PathBuf) {
    fs::create_dir(envfs.path().join("archives")).unwrap();
    let archives: Vec<PathBuf> = packages()
        .iter()
        .map(|package| package.write(&envfs.path().join("archives"), Format::Conda))
        .collect();
    let prefix = envfs.path().join("installed");
    Reference::new(envfs.path()).install(&archives, &prefix).unwrap();
    (archives, prefix)
}

fn explicit(envfs: &Envfs, archives: &[PathBuf]) -> String {
    let lines: Vec<String> = archives
        .iter()
        .map(|path| format!("file://{}", path.display()))
        .collect();
    let lock = envfs.write("explicit.txt", &format!("@EXPLICIT\n{}\n", lines.join("\n")));
    lock.to_str().unwrap().to_owned()
}

fn import(envfs: &Envfs, prefix: &Path) -> Value {
    envfs.json(["import", prefix.to_str().unwrap()])
}

/// What an imported environment looks like at `prefix`.
fn seen(envfs: &Envfs, signature: &Value, prefix: &Path) -> Listing {
    let store = envfs.store();
    let found = environment::find(&store, signature.as_str().unwrap()).unwrap();
    let view = View::new(&store, Arc::new(store.tree(&found.tree).unwrap()), prefix).unwrap();
    list_view(&view)
}

/// What is no installer's own, and no bytecode.
fn files(listing: Listing) -> Listing {
    let is_own = |path: &str| path.starts_with("conda-meta") || path.contains("__pycache__") || path == "CACHEDIR.TAG";
    let is_note = |path: &str| path.ends_with("EXTERNALLY-MANAGED");
    listing
        .into_iter()
        .filter(|(path, seen)| !is_own(path) && !is_note(path) && !matches!(seen, Seen::Directory))
        .collect()
}

fn without_times(listing: Listing) -> Vec<(String, String)> {
    listing
        .into_iter()
        .map(|(path, seen)| match seen {
            Seen::File { content, mode, .. } => (path, format!("{content} {}", mode & 0o111 != 0)),
            other => (path, format!("{other:?}")),
        })
        .collect()
}

fn changes(report: &Value) -> Vec<String> {
    let all = report["changes"].as_array().unwrap();
    all.iter()
        .map(|change| {
            format!(
                "{} {}",
                change["change"].as_str().unwrap(),
                change["path"].as_str().unwrap()
            )
        })
        .collect()
}

fn origins(report: &Value) -> Vec<String> {
    let all = report["packages"].as_array().unwrap();
    all.iter()
        .map(|package| {
            format!(
                "{} {}",
                package["name"].as_str().unwrap(),
                package["origin"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn packages_of_the_store_are_recognised_and_give_the_same_environment() {
    let envfs = Envfs::new();
    let (archives, prefix) = installed(&envfs);
    let built = envfs.build([explicit(&envfs, &archives)]);
    let report = import(&envfs, &prefix);
    assert_eq!(report["signature"], built.to_string());
    assert_eq!(changes(&report), [""; 0]);
    assert_eq!(origins(&report), ["pure store", "python store", "tool store"]);
    assert_eq!(report["new_bytes"], 0);
    envfs.assert_sound();
}

/// conda and mamba list the paths of noarch packages as they are in the archive, and only `files` as they are installed.
#[test]
fn records_as_conda_writes_them_are_those_of_the_same_packages() {
    let envfs = Envfs::new();
    let (archives, prefix) = installed(&envfs);
    let record = prefix.join("conda-meta/pure-2.0-py_0.json");
    let mut told: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    for listed in told["paths_data"]["paths"].as_array_mut().unwrap() {
        let path = listed["_path"].as_str().unwrap();
        if listed["path_type"] == "hardlink" {
            listed["_path"] = path.trim_start_matches("lib/python3.12/").into();
        }
    }
    fs::remove_file(&record).unwrap();
    fs::write(&record, told.to_string()).unwrap();
    // Of the prefix first: nothing is known of the packages yet.
    let taken = import(&envfs, &prefix);
    assert_eq!(changes(&taken), [""; 0]);
    assert_eq!(origins(&taken), ["pure prefix", "python prefix", "tool prefix"]);

    let envfs = Envfs::new();
    let built = envfs.build([explicit(&envfs, &archives)]);
    let report = import(&envfs, &prefix);
    assert_eq!(changes(&report), [""; 0]);
    assert_eq!(origins(&report), ["pure store", "python store", "tool store"]);
    assert_eq!(report["signature"], built.to_string());
}

#[test]
fn packages_that_nobody_has_are_taken_as_their_archives_would_have_brought_them() {
    let envfs = Envfs::new();
    let (archives, prefix) = installed(&envfs);
    let report = import(&envfs, &prefix);
    assert_eq!(changes(&report), [""; 0]);
    assert_eq!(origins(&report), ["pure prefix", "python prefix", "tool prefix"]);

    // Seen where it was installed it is what was installed, and elsewhere what would have been installed there.
    let before = files(list_directory(&prefix));
    assert!(
        before.contains_key("lib/libtool.so") && before.contains_key("bin/pure"),
        "{before:?}"
    );
    assert_eq!(
        without_times(before),
        without_times(files(seen(&envfs, &report["signature"], &prefix)))
    );
    let elsewhere = envfs.path().join("elsewhere-and-longer");
    Reference::new(envfs.path()).install(&archives, &elsewhere).unwrap();
    assert_eq!(
        without_times(files(list_directory(&elsewhere))),
        without_times(files(seen(&envfs, &report["signature"], &elsewhere)))
    );
    // The same packages at another place are the same environment, and cost nothing.
    let again = import(&envfs, &elsewhere);
    assert_eq!(again["signature"], report["signature"]);
    assert_eq!((&again["new_objects"], &again["reused"]), (&json!(0), &json!(true)));

    // Their objects are those of the archives: a build of these adds records and no content of theirs.
    let built = envfs.json(["build", &explicit(&envfs, &archives)]);
    assert!(built["new_objects"].as_u64().unwrap() <= 4, "{built}");
    envfs.assert_sound();
}

#[test]
fn what_was_changed_by_hand_is_kept_and_reported() {
    let envfs = Envfs::new();
    let (archives, prefix) = installed(&envfs);
    fs::remove_file(prefix.join("bin/tool")).unwrap();
    // A hard link of the cache must not be written through.
    let pure = prefix.join("lib/python3.12/site-packages/pure.py");
    fs::remove_file(&pure).unwrap();
    fs::write(&pure, "changed = True\n").unwrap();
    fs::remove_file(prefix.join("etc/tool.conf")).unwrap();
    fs::write(
        prefix.join("etc/tool.conf"),
        format!("home={}/other\n", prefix.display()),
    )
    .unwrap();
    fs::write(prefix.join("notes.txt"), format!("installed in {}\n", prefix.display())).unwrap();
    symlink(prefix.join("notes.txt"), prefix.join("etc/notes")).unwrap();
    let expected = [
        "removed bin/tool",
        "added etc/notes",
        "modified etc/tool.conf",
        "modified lib/python3.12/site-packages/pure.py",
        "added notes.txt",
    ];
    let taken = import(&envfs, &prefix);
    assert_eq!(changes(&taken), expected);
    let built = envfs.build([explicit(&envfs, &archives)]);
    let recognised = import(&envfs, &prefix);
    assert_eq!(changes(&recognised), expected);
    let base = envfs.json(["show", recognised["signature"].as_str().unwrap()])["base"].clone();
    assert_eq!(base, built.to_string(), "only what differs lies on top of the packages");

    let elsewhere = Path::new("/else/where");
    for report in [&taken, &recognised] {
        let listing = files(seen(&envfs, &report["signature"], elsewhere));
        assert!(!listing.contains_key("bin/tool"));
        let content = |text: &str| match &listing[text] {
            Seen::File { content, .. } => *content,
            other => panic!("{other:?}"),
        };
        assert_eq!(content("notes.txt"), blake3::hash(b"installed in /else/where\n"));
        assert_eq!(content("etc/tool.conf"), blake3::hash(b"home=/else/where/other\n"));
        assert_eq!(listing["etc/notes"], Seen::Symlink(b"../notes.txt".to_vec()));
    }
    envfs.assert_sound();
}

/// Nothing but the store has the packages any more: neither the directory nor their archives nor a channel.
#[test]
fn what_was_imported_is_a_base() {
    let envfs = Envfs::new();
    let (archives, prefix) = installed(&envfs);
    let taken = import(&envfs, &prefix)["signature"].as_str().unwrap().to_owned();
    fs::write(prefix.join("notes.txt"), "mine").unwrap();
    let changed = import(&envfs, &prefix)["signature"].as_str().unwrap().to_owned();
    assert_ne!(taken, changed);
    fs::remove_dir_all(&prefix).unwrap();
    for archive in &archives {
        fs::remove_file(archive).unwrap();
    }
    let more = Package::new("more 1.0 py_0")
        .noarch_python()
        .depends("python >=3.12")
        .depends("pure 2.*")
        .file("site-packages/more.py", "MORE = 1\n");
    let channel = Channel::new(&envfs.path().join("channel")).with(&more, Format::Conda);
    for base in [&taken, &changed] {
        let built = envfs.json(["build", "--base", base, "-c", &channel.url(), "more"]);
        assert_eq!(
            (&built["packages"], &built["base"]),
            (&json!(4), &json!(base)),
            "{built}"
        );
        let listing = files(seen(&envfs, &built["signature"], Path::new("/else/where")));
        for path in [
            "lib/python3.12/site-packages/more.py",
            "lib/python3.12/site-packages/pure.py",
            "bin/tool",
        ] {
            assert!(listing.contains_key(path), "{path}");
        }
        assert_eq!(listing.contains_key("notes.txt"), base == &changed);
    }
    // What it has may not be changed, and that is said.
    let other = Channel::new(&envfs.path().join("other"))
        .with(&Package::new("more 2.0 h0_0").depends("pure 3.*"), Format::Conda)
        .with(
            &Package::new("pure 3.0 py_0").noarch_python().depends("python"),
            Format::Conda,
        );
    let refused = envfs.try_run(["build", "--base", &taken, "-c", &other.url(), "more"]);
    refused.refused(1, &["pure"]);
    envfs.assert_sound();
}

#[test]
fn archives_are_fetched_where_they_can_be_had() {
    let envfs = Envfs::new();
    let (archives, prefix) = installed(&envfs);
    // Records name where archives came from; rattler's names them when they are installed from files.
    fs::remove_file(&archives[1]).unwrap();
    let report = envfs.json(["import", "--fetch", prefix.to_str().unwrap()]);
    let origins = origins(&report);
    assert!(origins.contains(&"tool prefix".to_owned()), "{origins:?}");
    assert!(origins.contains(&"pure fetched".to_owned()), "{origins:?}");
    assert_eq!(changes(&report), [""; 0]);
}

#[test]
fn a_real_installation() {
    let Some(channel) = RealChannel::miniforge() else {
        return;
    };
    let envfs = Envfs::new();
    let prefix = envfs.path().join("real");
    Reference::new(envfs.path())
        .install(&channel.archives(), &prefix)
        .unwrap();
    let report = import(&envfs, &prefix);
    assert_eq!(report["packages"].as_array().unwrap().len(), 84);
    assert_eq!(changes(&report), [""; 0]);
    let before = without_times(files(list_directory(&prefix)));
    let after = without_times(files(seen(&envfs, &report["signature"], &prefix)));
    assert!(before.len() > 5_000);
    assert_eq!(before, after);
    fs::remove_dir_all(&prefix).unwrap();
    let signature = report["signature"].as_str().unwrap();
    let list = "python -m conda list --json -p $CONDA_PREFIX";
    let listed = envfs.run(["run", signature, "--", "sh", "-c", list]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 84);
    let script = "import conda, tqdm, ssl, sys; print(sys.prefix)";
    let place = envfs.run(["run", signature, "--", "python", "-c", script]);
    assert!(place.contains("/mnt/"), "{place}");
}

/// A distribution as an installer leaves it: a module, a command, and metadata.
fn install_by_hand(site_packages: &Path, bin: &Path) {
    let info = site_packages.join("greeting-1.0.dist-info");
    fs::create_dir_all(&info).unwrap();
    let script = format!(
        "#!{}/python\nimport sys\nfrom greeting import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
        bin.display()
    );
    let files = [
        (
            "greeting.py",
            "import sys\ndef main():\n    print('hello from', sys.prefix)\n".to_owned(),
        ),
        (
            "greeting-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n".to_owned(),
        ),
        (
            "greeting-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
        ),
        (
            "greeting-1.0.dist-info/entry_points.txt",
            "[console_scripts]\ngreet = greeting:main\n".to_owned(),
        ),
        ("greeting-1.0.dist-info/INSTALLER", "pip\n".to_owned()),
        ("../../../bin/greet", script),
    ];
    let mut record = String::new();
    for (path, content) in files {
        fs::write(site_packages.join(path), &content).unwrap();
        let digest = sha2::Sha256::digest(&content);
        record += &format!("{path},sha256={},{}\n", base64url(&digest), content.len());
    }
    fs::write(
        info.join("RECORD"),
        format!("{record}greeting-1.0.dist-info/RECORD,,\n"),
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("greet"), mode).unwrap();
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<bool> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
        .collect();
    bits.chunks(6)
        .map(|chunk| {
            let value = (0..6).fold(0, |value, bit| {
                value << 1 | usize::from(chunk.get(bit).copied().unwrap_or_default())
            });
            char::from(ALPHABET[value])
        })
        .collect()
}

/// A venv of the machine's Python with a distribution in it; or nothing, said loudly.
fn venv(envfs: &Envfs, name: &str) -> Option<PathBuf> {
    let path = envfs.path().join(name);
    let made = Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&path)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        skip("imports of venvs: the machine has no Python that makes them");
        return None;
    }
    let library = fs::read_dir(path.join("lib")).unwrap().next().unwrap().unwrap().path();
    install_by_hand(&library.join("site-packages"), &path.join("bin"));
    Some(path)
}

#[test]
fn a_venv_runs_elsewhere_when_it_is_gone() {
    let envfs = Envfs::new();
    let Some(prefix) = venv(&envfs, "venv") else { return };
    let before = finish(Command::new(prefix.join("bin/greet")).env_clear()).success();
    assert_eq!(before.trim(), format!("hello from {}", prefix.display()));
    let report = import(&envfs, &prefix);
    assert_eq!(report["kind"], "venv");
    assert_eq!(origins(&report), ["python prefix", "greeting prefix"]);
    let listed = changes(&report);
    assert!(listed.iter().all(|change| change.starts_with("added ")), "{listed:?}");
    fs::remove_dir_all(&prefix).unwrap();

    let signature = report["signature"].as_str().unwrap();
    let place = envfs.store_path().join("mnt").join(&signature[..16]);
    assert_eq!(
        envfs.run(["run", signature, "--", "greet"]).trim(),
        format!("hello from {}", place.display())
    );
    let base = "import sys, os; print(sys.base_prefix, os.__file__, sys.prefix != sys.base_prefix)";
    let base = envfs.run(["run", signature, "--", "python", "-c", base]);
    let inside = place.join(".python");
    assert!(
        base.starts_with(&format!("{0} {0}/lib/python3", inside.display())),
        "{base}"
    );
    assert!(base.trim_end().ends_with("True"), "{base}");
    let version = "from importlib.metadata import version; print(version('greeting'))";
    assert_eq!(
        envfs.run(["run", signature, "--", "python", "-c", version]).trim(),
        "1.0"
    );

    // Another venv of the same Python shares it, and a distribution is recognised.
    let other = venv(&envfs, "other").unwrap();
    let again = import(&envfs, &other);
    assert_eq!(origins(&again), ["python prefix", "greeting store"]);
    assert!(again["new_bytes"].as_u64().unwrap() < 100_000, "{again}");
    envfs.assert_sound();
}

#[test]
fn a_changed_module_of_a_distribution_is_a_change() {
    let envfs = Envfs::new();
    let Some(prefix) = venv(&envfs, "venv") else { return };
    let library = fs::read_dir(prefix.join("lib"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(
        library.join("site-packages/greeting.py"),
        "def main():\n    print('changed')\n",
    )
    .unwrap();
    fs::write(prefix.join("bin/greet"), "#!/bin/sh\necho mine\n").unwrap();
    let report = import(&envfs, &prefix);
    let modified: Vec<_> = changes(&report)
        .into_iter()
        .filter(|change| change.starts_with("modified"))
        .collect();
    assert_eq!(modified.len(), 2, "{modified:?}");
    let signature = report["signature"].as_str().unwrap();
    assert_eq!(envfs.run(["run", signature, "--", "greet"]).trim(), "mine");
    let called = envfs.run([
        "run",
        signature,
        "--",
        "python",
        "-c",
        "import greeting; greeting.main()",
    ]);
    assert_eq!(called.trim(), "changed");
}

#[test]
fn what_does_not_stand_alone_is_refused_with_all_reasons() {
    let envfs = Envfs::new();
    let Some(prefix) = venv(&envfs, "venv") else { return };
    let path = prefix.to_str().unwrap();
    let refused = |code: i32, parts: &[&str]| envfs.try_run(["import", path]).refused(code, parts);
    let library = fs::read_dir(prefix.join("lib"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let site_packages = library.join("site-packages");

    symlink("/etc/hostname", prefix.join("outside")).unwrap();
    let direct_url = site_packages.join("greeting-1.0.dist-info/direct_url.json");
    fs::write(
        &direct_url,
        r#"{"url":"file:///src/greeting","dir_info":{"editable":true}}"#,
    )
    .unwrap();
    fs::write(site_packages.join("local.pth"), "/src/other\nimport x\n").unwrap();
    refused(
        1,
        &[
            "`outside` leads to /etc/hostname",
            "file:///src/greeting",
            "local.pth",
            "--keep-outside",
        ],
    );
    let kept = envfs.json(["import", "--keep-outside", path]);
    assert_eq!(kept["outside"].as_array().unwrap().len(), 3);
    for file in [prefix.join("outside"), direct_url, site_packages.join("local.pth")] {
        fs::remove_file(file).unwrap();
    }

    nix::unistd::mkfifo(&prefix.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(1, &["pipe", "it is a device, a pipe or a socket"]);
    fs::remove_file(prefix.join("pipe")).unwrap();

    let settings = fs::read_to_string(prefix.join("pyvenv.cfg")).unwrap();
    let with = |from: &str, to: &str| fs::write(prefix.join("pyvenv.cfg"), settings.replace(from, to)).unwrap();
    with("home = /usr/bin", "home = /gone/bin");
    refused(1, &["pyvenv.cfg", "its Python is gone", "/gone/bin"]);
    with("packages = false", "packages = true");
    refused(1, &["include-system-site-packages is true"]);
    fs::remove_file(prefix.join("pyvenv.cfg")).unwrap();
    refused(1, &["is not an environment", "conda-meta", "pyvenv.cfg"]);
    envfs
        .try_run(["import", "nowhere"])
        .refused(1, &["cannot read", "nowhere"]);

    let conda = envfs.path().join("conda");
    fs::create_dir_all(conda.join("conda-meta")).unwrap();
    fs::write(conda.join("conda-meta/x-1-0.json"), "{").unwrap();
    envfs
        .try_run(["import", conda.to_str().unwrap()])
        .refused(1, &["x-1-0.json", "is not the record of a package"]);
}
