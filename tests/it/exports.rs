//! What an environment is exported as is read again by the tools that the formats are for, and means the same; and one lock
//! holds both worlds for several platforms.

use std::fs;
use std::path::Path;
use std::process::Command;

use envfs_tests::channel::Channel;
use envfs_tests::data::skip;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, Finished, finish};
use envfs_tests::pypi::{self, Index};

/// An environment of both worlds, and where they come from.
struct Room {
    envfs: Envfs,
    channel: Channel,
    index: Index,
    environment: String,
}

impl Room {
    fn new() -> Option<Self> {
        let uv = pypi::uv()?;
        let mut envfs = Envfs::new();
        envfs.set("ENVFS_UV", uv);
        envfs.set("UV_CACHE_DIR", envfs.path().join("uv-cache"));
        let channel = Channel::new(&envfs.path().join("channel"))
            .with(&Package::python(&format!("{}.1", python()?)), Format::Conda)
            .with(&Package::new("tool 1.0 h0_0"), Format::Conda)
            .with(&Package::new("user 2.0 h1_0").depends("tool >=1"), Format::TarBz2);
        let wheels = envfs.path().join("wheels");
        fs::create_dir(&wheels).unwrap();
        let metadata = "Metadata-Version: 2.1\nName: other\nVersion: 1.0\nRequires-Dist: greeting>=1\n";
        let _ = pypi::wheel(
            &wheels,
            "other",
            "1.0",
            &[("other.py", ""), ("other-1.0.dist-info/METADATA", metadata)],
        );
        let _ = pypi::greeting(&wheels);
        let index = Index::serve(&wheels);
        envfs.set("UV_DEFAULT_INDEX", index.url());
        let url = channel.url();
        let asked = ["build", "-c", &url, "python", "user", "--pypi", "other"];
        let environment = envfs.run(asked).trim().to_owned();
        Some(Self {
            envfs,
            channel,
            index,
            environment,
        })
    }

    fn export(&self, format: &str, more: &[&str]) -> Finished {
        let asked = ["export", &self.environment, "--format", format];
        self.envfs.try_run([&asked[..], more].concat())
    }

    /// Exports into a file of this name.
    fn write(&self, format: &str, name: &str) -> String {
        let path = self.envfs.path().join(name);
        let path = path.to_str().unwrap().to_owned();
        self.export(format, &["-o", &path]).success();
        path
    }

    /// What uv installs of a file, without a Python to run.
    fn uv_installs(&self, file: &str, more: &[&str]) -> Vec<String> {
        let target = self
            .envfs
            .path()
            .join(format!("target-of-{}", Path::new(file).file_name().unwrap().display()));
        let mut uv = Command::new(pypi::uv().unwrap());
        uv.env("UV_DEFAULT_INDEX", self.index.url())
            .env("UV_CACHE_DIR", self.envfs.path().join("uv-cache"))
            .args([
                "pip",
                "install",
                "--no-managed-python",
                "--python",
                "python3",
                "--target",
            ])
            .arg(&target)
            .args(["-r", file])
            .args(more);
        finish(&mut uv).success();
        let mut names: Vec<String> = fs::read_dir(target)
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                Some(name.strip_suffix(".dist-info")?.to_owned())
            })
            .collect();
        names.sort();
        names
    }
}

/// The minor version of this machine's Python, for which uv installs what the environment has.
fn python() -> Option<String> {
    let code = "import sys; print('%d.%d' % sys.version_info[:2])";
    let asked = Command::new("python3").args(["-c", code]).output().ok();
    let Some(version) = asked.and_then(|output| String::from_utf8(output.stdout).ok()) else {
        skip("the machine has no Python");
        return None;
    };
    Some(version.trim().to_owned())
}

#[test]
fn what_is_exported_is_built_again_as_the_same() {
    let Some(room) = Room::new() else { return };
    let built = |arguments: &[&str]| room.envfs.run([&["build"], arguments].concat()).trim().to_owned();
    for (format, name) in [("pixi", "pixi.lock"), ("conda-lock", "conda-lock.yml")] {
        assert_eq!(built(&[&room.write(format, name)]), room.environment, "{format}");
    }
    let environment = room.write("environment", "environment.yml");
    assert_eq!(built(&["-f", &environment]), room.environment);
    // Neither has a place for the other world; together they have all.
    let explicit = room.write("explicit", "explicit.txt");
    let requirements = room.write("requirements", "requirements.txt");
    let conda = built(&[&explicit]);
    assert_ne!(conda, room.environment);
    let channel = room.channel.url();
    let both = ["-f", &requirements, "-c", &channel, "python", "user"];
    assert_eq!(built(&both), room.environment);
}

#[test]
fn uv_reads_what_is_exported_for_it() {
    let Some(room) = Room::new() else { return };
    let expected = ["greeting-1.0", "other-1.0"];
    let requirements = room.write("requirements", "requirements.txt");
    assert_eq!(room.uv_installs(&requirements, &["--require-hashes"]), expected);
    assert_eq!(room.uv_installs(&room.write("pylock", "pylock.toml"), &[]), expected);
}

#[test]
fn builds_and_what_is_needed_are_left_out_where_that_is_asked_for() {
    let Some(room) = Room::new() else { return };
    let lines = |more: &[&str]| {
        let text = room.export("environment", more).success();
        let lines = text.lines().map(|line| line.trim().trim_start_matches("- ").to_owned());
        let channel = room.channel.url();
        let is_package = |line: &String| !line.ends_with(':') && line.trim_matches(['"', '/']) != channel;
        let mut found: Vec<String> = lines.filter(is_package).collect();
        found.sort();
        found.join(" ")
    };
    let minor = python().unwrap();
    assert_eq!(
        lines(&[]),
        format!("greeting==1.0 other==1.0 python={minor}.1=h0_0_cpython tool=1.0=h0_0 user=2.0=h1_0")
    );
    let without_builds = format!("greeting==1.0 other==1.0 python={minor}.1 tool=1.0 user=2.0");
    assert_eq!(lines(&["--no-builds"]), without_builds);
    // What was asked for: of conda packages what no other needs, of wheels what their metadata says.
    let asked = format!("other==1.0 python={minor}.1 user=2.0");
    assert_eq!(lines(&["--from-history"]), asked);
    let requirements = room.export("requirements", &["--from-history"]).success();
    assert_eq!(requirements.trim(), "other==1.0");
}

#[test]
fn one_lock_is_for_several_platforms_and_both_worlds() {
    let Some(uv) = pypi::uv() else { return };
    let mut envfs = Envfs::new();
    envfs.set("ENVFS_UV", uv);
    let mut channel = Channel::new(&envfs.path().join("channel"));
    let platforms = ["linux-64", "linux-aarch64", "osx-arm64"];
    for platform in platforms {
        channel.add(&Package::python("3.12.1").on(platform), Format::Conda);
    }
    let wheels = envfs.path().join("wheels");
    fs::create_dir(&wheels).unwrap();
    for tag in ["manylinux_2_17_x86_64", "manylinux_2_17_aarch64", "macosx_11_0_arm64"] {
        let wheel = pypi::wheel(&wheels, "native", "1.0", &[("native.py", tag)]);
        fs::rename(wheel, wheels.join(format!("native-1.0-py3-none-{tag}.whl"))).unwrap();
    }
    let _ = pypi::greeting(&wheels);
    envfs.write(
        "environment.yml",
        &format!(
            "channels: ['{}']\ndependencies:\n  - python\n  - pip:\n    - --no-index\n    - --find-links {}\n    - native\n    - -r more.txt\n",
            channel.url(),
            wheels.display()
        ),
    );
    envfs.write("more.txt", "greeting\n");
    let asked = platforms.iter().flat_map(|platform| ["--platform", platform]);
    envfs.run(["lock", "-f", "environment.yml"].into_iter().chain(asked));
    let lock = fs::read_to_string(envfs.path().join("pixi.lock")).unwrap();
    for (platform, tag) in [
        ("linux-64", "x86_64"),
        ("linux-aarch64", "aarch64"),
        ("osx-arm64", "macosx_11_0_arm64"),
    ] {
        let exported = envfs.run(["export", "pixi.lock", "--platform", platform, "--format", "pylock"]);
        assert!(
            exported.contains(&format!("{tag}.whl")) && exported.contains("greeting-1.0"),
            "{exported}"
        );
        assert!(
            lock.contains(&format!("/{platform}/python-3.12.1-h0_0_cpython.conda")),
            "{lock}"
        );
    }
    envfs.build(["pixi.lock"]);
}
