//! Every file is what rattler's installer writes into a directory of the same path: of the whole real channel, of every
//! archive of the collection that can be installed, and of those that fight over paths, installed together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::known::{CLOBBERS, How, KNOWN, REFUSED_BY_BOTH, REFUSED_BY_RATTLER, REFUSED_BY_US};
use envfs_store::digest::Digest;
use envfs_store::environment;
use envfs_store::view::{PrefixError, View};
use envfs_tests::cases;
use envfs_tests::data::RealChannel;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::Envfs;
use envfs_tests::reference::{Reference, differences, unknown};
use envfs_tests::seen::{Listing, Seen, list_directory, list_view};
use path_resolver::PathResolver;
use serde_json::Value;

#[test]
fn the_whole_real_channel() {
    let Some(channel) = RealChannel::miniforge() else {
        return;
    };
    assert_eq!(channel.archives().len(), 84);
    let compared = whole_channel(&channel);
    assert!(compared > 9_000, "only {compared} files");
}

#[test]
fn the_whole_local_channel() {
    let Some(channel) = RealChannel::local() else { return };
    let compared = whole_channel(&channel);
    assert!(compared > 5_000, "only {compared} files");
}

fn whole_channel(channel: &RealChannel) -> usize {
    let room = Room::new();
    let archives = channel.archives();
    let signature = room.build(&archives).unwrap();
    let compared = room
        .prefixes()
        .map(|prefix| room.compare(&archives, &prefix, &signature).unwrap());
    room.envfs.assert_sound();
    compared[0]
}

#[test]
fn archives_of_the_collection_first_half() {
    each_archive(0);
}

#[test]
fn archives_of_the_collection_second_half() {
    each_archive(1);
}

#[test]
fn packages_that_fight_over_paths() {
    if cases::all().is_empty() {
        return;
    }
    for (group, how) in CLOBBERS {
        let room = Room::new();
        let mut archives: Vec<PathBuf> = group
            .iter()
            .map(|name| room.stage(&cases::named(&format!("Dagmar-Dinjens-rattler/{name}")).unwrap()))
            .collect();
        room.add_python(&mut archives);
        match how {
            How::AtOnce => room.agree_everywhere(&archives),
            How::ByRules => room.agree_by_rules(&archives),
        }
    }
    let room = Room::new();
    let of_conda = ["clobber-a-1.0-0.conda", "clobber-b-1.0-0.conda"];
    let archives = of_conda.map(|name| room.stage(&cases::named(&format!("conda-conda/{name}")).unwrap()));
    room.agree_everywhere(&archives);
}

/// Every second archive of the collection, by itself, with a Python where it needs one.
fn each_archive(first: usize) {
    let mut agreed = 0;
    let all = cases::all();
    for archive in all.iter().skip(first).step_by(2) {
        let name = archive.iter().rev().take(2).collect::<PathBuf>();
        let name: PathBuf = name.iter().rev().collect();
        let room = Room::new();
        let mut archives = vec![room.stage(archive)];
        room.add_python(&mut archives);
        let listed =
            |table: &[(&'static str, &'static str)]| table.iter().find(|(path, _)| name.ends_with(path)).copied();
        if let Some((_, message)) = listed(&REFUSED_BY_BOTH) {
            room.refuse(&archives, message);
            room.reference
                .install(&archives, &room.prefixes()[0])
                .expect_err("rattler accepts it now");
        } else if let Some((_, message)) = listed(&REFUSED_BY_US) {
            room.refuse(&archives, message);
            room.reference
                .install(&archives, &room.prefixes()[0])
                .expect("rattler refuses it now");
        } else if let Some((_, message)) = listed(&REFUSED_BY_RATTLER) {
            let error = room
                .reference
                .install(&archives, &room.prefixes()[0])
                .expect_err("rattler accepts it now");
            assert!(error.contains(message), "{}: {error}", name.display());
            room.build(&archives).unwrap();
        } else {
            room.agree_everywhere(&archives);
            agreed += 1;
        }
    }
    assert!(all.is_empty() || agreed > 40, "only {agreed} archives were compared");
}

/// A store, and an installer beside it.
struct Room {
    envfs: Envfs,
    reference: Reference,
}

impl Room {
    fn new() -> Self {
        let envfs = Envfs::new();
        std::fs::create_dir(envfs.path().join("archives")).unwrap();
        let reference = Reference::new(envfs.path());
        Self { envfs, reference }
    }

    fn stage(&self, archive: &Path) -> PathBuf {
        cases::stage(&self.reference, archive, &self.envfs.path().join("archives"))
    }

    /// Adds a Python, where there is a noarch package that needs one.
    fn add_python(&self, archives: &mut Vec<PathBuf>) {
        let needs_one = archives.iter().any(|archive| {
            let record = self.reference.record(archive);
            record.is_ok_and(|record| record.package_record.noarch.is_python())
        });
        if needs_one {
            archives.push(Package::python("3.11.4").write(&self.envfs.path().join("archives"), Format::Conda));
        }
    }

    /// Paths of the kinds that matter: short, with a space, and so long that shebangs do not take it.
    fn prefixes(&self) -> [PathBuf; 3] {
        let base = self.envfs.path();
        let spaced = base.join("a home/my env");
        let room = 200 - base.as_os_str().len() - 1;
        let long = base.join("x".repeat(room));
        assert_eq!(long.as_os_str().len(), 200);
        [base.join("p"), spaced, long]
    }

    fn build(&self, archives: &[PathBuf]) -> Result<Digest, String> {
        let lock = self.envfs.write("explicit.txt", &cases::explicit(archives));
        let built = self
            .envfs
            .try_run([Path::new("build"), Path::new("--no-link-scripts"), &lock]);
        if built.status.success() {
            Ok(built.stdout.trim().parse().unwrap())
        } else {
            Err(built.to_string())
        }
    }

    fn refuse(&self, archives: &[PathBuf], message: &str) {
        let lock = self.envfs.write("explicit.txt", &cases::explicit(archives));
        let name = archives[0].file_name().unwrap().to_str().unwrap();
        self.envfs
            .try_run([Path::new("build"), Path::new("--no-link-scripts"), &lock])
            .refused(1, &[name, message]);
        assert_eq!(self.envfs.json(["ls"]), serde_json::json!([]));
        self.envfs.assert_sound();
    }

    fn agree_everywhere(&self, archives: &[PathBuf]) {
        let signature = self.build(archives).unwrap();
        // A package whose placeholder is short does not fit at every path; which must then be said before anything is shown.
        let mut compared = 0;
        for prefix in self.prefixes() {
            compared += usize::from(self.compare(archives, &prefix, &signature).is_some());
        }
        assert!(compared > 0, "{archives:?} fits nowhere");
    }

    /// Compares with what each package installs alone, where rattler's own resolver gives it the path.
    fn agree_by_rules(&self, winner_first: &[PathBuf]) {
        let mut resolver = PathResolver::new();
        let mut expected = Listing::new();
        for (index, archive) in winner_first.iter().enumerate() {
            let alone = self.envfs.path().join(format!("alone-{index}"));
            self.reference.install(std::slice::from_ref(archive), &alone).unwrap();
            let mut listing = list_directory(&alone);
            listing.retain(|path, seen| *seen != Seen::Directory && !path.starts_with("conda-meta/"));
            let paths: Vec<&String> = listing.keys().collect();
            let lost = resolver.insert_package(format!("package-{index}").into(), &paths);
            listing.retain(|path, _| !lost.contains(&PathBuf::from(path)));
            for path in listing.keys() {
                let parents = Path::new(path)
                    .ancestors()
                    .skip(1)
                    .filter(|parent| !parent.as_os_str().is_empty());
                expected.extend(parents.map(|parent| (parent.to_str().unwrap().to_owned(), Seen::Directory)));
            }
            expected.extend(listing);
        }
        let signature = self.build(winner_first).unwrap();
        let prefix = self.envfs.path().join("p");
        let mut ours = list_view(&self.view(&signature, &prefix).unwrap());
        ours.retain(|path, _| !path.starts_with("conda-meta"));
        assert_same(&expected, &ours, &prefix);
    }

    fn view(&self, signature: &Digest, prefix: &Path) -> Result<View, PrefixError> {
        let store = self.envfs.store();
        let environment = environment::load(&store, signature).unwrap();
        View::new(&store, Arc::new(store.tree(&environment.tree).unwrap()), prefix)
    }

    /// Installs, compares, and returns how many files there were; nothing where the prefix does not fit for either.
    fn compare(&self, archives: &[PathBuf], prefix: &Path, signature: &Digest) -> Option<usize> {
        let installed = self.reference.install(archives, prefix);
        let view = match self.view(signature, prefix) {
            Ok(view) => view,
            Err(error) => {
                assert!(error.to_string().contains("use a path of at most"), "{error}");
                installed.expect_err("rattler finds room where we do not");
                return None;
            }
        };
        installed.unwrap();
        let (installed, ours) = (list_directory(prefix), list_view(&view));
        assert_same(&installed, &ours, prefix);
        let announced = assert_same_records(prefix, &view, &installed);
        assert_same_times(&installed, &ours, &view, &announced);
        Some(installed.len())
    }
}

/// Presence, kind, content, permission to execute and link targets.
pub(crate) fn assert_same(installed: &Listing, ours: &Listing, prefix: &Path) {
    let differences = differences(installed, ours);
    let unknown = unknown(&differences, &KNOWN);
    let shown: Vec<String> = unknown.iter().take(20).map(ToString::to_string).collect();
    let reasons: Vec<&str> = KNOWN.iter().map(|known| known.reason).collect();
    assert!(
        unknown.is_empty(),
        "at {}: {} files differ, for none of these reasons: {reasons:?}\n{}",
        prefix.display(),
        unknown.len(),
        shown.join("\n")
    );
}

/// Shipped files keep their time and patched ones get the installer's, so that bytecode is as stale or fresh as there.
fn assert_same_times(installed: &Listing, ours: &Listing, view: &View, announced: &BTreeSet<String>) {
    for (path, seen) in installed {
        let (Seen::File { mtime_s, .. }, Some(Seen::File { mtime_s: ours, .. })) = (seen, ours.get(path)) else {
            continue;
        };
        // Generated files are as old as their installation.
        let is_generated = path.starts_with("conda-meta/") || is_recent(*mtime_s);
        // A file that announces a placeholder but has none is rewritten by rattler, to the same bytes.
        let is_rewritten =
            announced.contains(path) && !view.tree().find(path.as_bytes()).unwrap().unwrap().has_placeholder();
        // Where a pax header tells fractions of a second, the plain one is rounded, and rattler reads only that: then the
        // bytecode of every second file is stale. We show the second before the point.
        let is_rounded = *mtime_s == ours + 1;
        assert!(
            is_generated || is_rewritten || is_rounded || mtime_s == ours,
            "{path}: rattler keeps the time {mtime_s}, we show {ours}"
        );
    }
}

/// `conda-meta/*.json` says the same of the same files, but for what depends on rattler's cache or on the prefix. Returns
/// the files that announce a placeholder.
fn assert_same_records(prefix: &Path, view: &View, installed: &Listing) -> BTreeSet<String> {
    let mut announced = BTreeSet::new();
    for path in installed
        .keys()
        .filter(|path| path.starts_with("conda-meta/") && path.ends_with(".json"))
    {
        let theirs = std::fs::read(prefix.join(path)).unwrap();
        let ours = view.read(view.tree().find(path.as_bytes()).unwrap().unwrap()).unwrap();
        let [theirs, ours] = [theirs, ours].map(|text| serde_json::from_slice::<Value>(&text).unwrap());
        for field in [
            "name",
            "version",
            "build",
            "build_number",
            "subdir",
            "noarch",
            "depends",
            "constrains",
            "fn",
            "sha256",
        ] {
            assert_eq!(ours.get(field), theirs.get(field), "{path}: {field}");
        }
        let [theirs, ours] = [theirs, ours].map(|record| record_files(&record));
        let names = |files: &BTreeMap<String, Value>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs), "{path}: files");
        for (file, theirs) in theirs {
            let ours = &ours[&file];
            assert_eq!(
                ours["prefix_placeholder"], theirs["prefix_placeholder"],
                "{path}: {file}"
            );
            // What the builder took for a link may lie in the archive as a file: then rattler repeats the builder.
            if theirs["path_type"] != "softlink" || ours["path_type"] == "softlink" {
                assert_eq!(ours["path_type"], theirs["path_type"], "{path}: {file}");
            }
            if theirs["path_type"] == "hardlink" {
                assert_eq!(ours["sha256"], theirs["sha256"], "{path}: {file}");
            }
            if !ours["prefix_placeholder"].is_null() {
                announced.insert(file);
            }
        }
    }
    announced
}

/// What a record says of its files, by their paths; where a file lost, by its original path.
fn record_files(record: &Value) -> BTreeMap<String, Value> {
    let entries = record["paths_data"]["paths"].as_array().unwrap();
    let named = entries.iter().map(|entry| {
        let path = entry
            .get("original_path")
            .filter(|path| !path.is_null())
            .unwrap_or(&entry["_path"]);
        (path.as_str().unwrap().to_owned(), entry.clone())
    });
    named.collect()
}

fn is_recent(mtime_s: i64) -> bool {
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    mtime_s.unsigned_abs().abs_diff(now_s) < 3600
}
