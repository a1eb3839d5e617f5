//! Repairs that are killed before each of their steps: nothing is lost that was whole, and the next repair ends what this one began.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use envfs_tests::channel::Channel;
use envfs_tests::damage::{flip, lasting, rewrite};
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, finish};
use envfs_tests::steps::{self, Verdict, Watched, spread};

/// So many steps of each repair are tried.
const STEPS: usize = 12;

/// Where content is that tells by itself what it is called.
const CONTENT: [&str; 4] = ["objects", "packs", "layers", "trees"];

/// Two environments without the channel that they came from, and another store that has the same.
struct World {
    envfs: Envfs,
    donor: Envfs,
    whole: BTreeMap<PathBuf, Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let (envfs, donor) = (Envfs::new(), Envfs::new());
        let directory = envfs.path().join("channel");
        let mut channel = Channel::new(&directory);
        for name in ["one", "two"] {
            let package = Package::new(&format!("{name} 1.0 0"))
                .file(&format!("share/{name}"), name)
                .file(&format!("lib/{name}"), name.repeat(100_000));
            channel.add(&package, Format::Conda);
        }
        for name in ["one", "two"] {
            envfs.build(["-c", &channel.url(), name]);
        }
        fs::remove_dir_all(directory).unwrap();
        let world = Self {
            whole: lasting(&envfs.store_path()),
            envfs,
            donor,
        };
        world.fill(&world.donor);
        world
    }

    /// Makes the store of `envfs` what it was.
    fn fill(&self, envfs: &Envfs) {
        let store = envfs.store_path();
        if store.exists() {
            envfs_store::remove_tree(&store).unwrap();
        }
        for (path, bytes) in &self.whole {
            let path = store.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        envfs.run(["store", "info"]);
    }

    fn of(&self, directory: &str) -> Vec<&Path> {
        let paths = self.whole.keys().map(PathBuf::as_path);
        paths.filter(|path| path.starts_with(directory)).collect()
    }

    /// Gives two files of each kind the names of each other.
    fn swap(&self) {
        let store = self.envfs.store_path();
        for directory in CONTENT {
            let [one, other, ..] = self.of(directory)[..] else {
                panic!("there are not two in {directory}");
            };
            rewrite(&store.join(one), &self.whole[other]);
            rewrite(&store.join(other), &self.whole[one]);
        }
    }

    /// Damages one file of each kind, and loses another.
    fn damage(&self) {
        let store = self.envfs.store_path();
        for directory in CONTENT {
            let paths = self.of(directory);
            flip(&store.join(paths[0]), self.whole[paths[0]].len() / 2);
            fs::remove_file(store.join(paths[1])).unwrap();
        }
    }

    fn repair(&self, more: &[&str]) -> Command {
        let mut command = self.envfs.command();
        command.args(["verify", "--repair"]).args(more);
        command
    }

    /// Kills a repair before each of its steps, and repairs what is left by then.
    fn kill(&self, damage: fn(&Self), more: &[&str]) -> usize {
        let store = self.envfs.store_path();
        let begin = || {
            self.fill(&self.envfs);
            damage(self);
            Watched::below(&store)
        };
        let ended = steps::run(&mut self.repair(more), begin(), |_| Verdict::Happens);
        assert!(ended.finished.status.success(), "{}", ended.finished);
        assert_eq!(self.differing(), [""; 0].map(PathBuf::from), "{}", ended.finished);
        let count = ended.steps.len();
        ended.wait_for_all();
        for last in spread(count, STEPS) {
            let ended = steps::run_until(&mut self.repair(more), begin(), last);
            let case = format!("{:?}\n{}", ended.steps.last(), ended.finished);
            ended.wait_for_all();
            let repaired = finish(&mut self.repair(more));
            assert!(repaired.status.success(), "{case}\nthen {repaired}");
            assert_eq!(self.differing(), [""; 0].map(PathBuf::from), "{case}\nthen {repaired}");
            self.envfs.run(["verify"]);
        }
        count
    }

    /// What is not as it was. What was in a pack may be in another one, which a check tells.
    fn differing(&self) -> Vec<PathBuf> {
        let now = lasting(&self.envfs.store_path());
        let is_other = |path: &Path, bytes: &Vec<u8>| match now.get(path) {
            None => !path.starts_with("packs"),
            Some(found) => found != bytes,
        };
        let differing = self.whole.iter().filter(|(path, bytes)| is_other(path, bytes));
        differing.map(|(path, _)| path.clone()).collect()
    }
}

#[test]
fn a_killed_repair_of_what_has_the_names_of_others_loses_nothing() {
    let world = World::new();
    let steps = world.kill(World::swap, &[]);
    println!("killed before {} of {steps} steps", spread(steps, STEPS).len());
}

#[test]
fn a_killed_repair_from_another_store_is_ended_by_the_next() {
    let world = World::new();
    let donor = world.donor.store_path();
    let steps = world.kill(World::damage, &["--from", donor.to_str().unwrap()]);
    println!("killed before {} of {steps} steps", spread(steps, STEPS).len());
}
