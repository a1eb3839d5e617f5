//! An orchestrator at work: workflows come, change and go at random while their functions run and collections go on. No run
//! fails, and in the end the store holds what workflows need, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use envfs_tests::channel::Channel;
use envfs_tests::data::RealChannel;
use envfs_tests::disk::{Measured, measure};
use envfs_tests::mounted::is_possible;
use envfs_tests::package::{Format, Package};
use envfs_tests::program::{Envfs, files_below};

const WORKFLOWS: usize = 200;
const ENVIRONMENTS: usize = 40;
const WORKERS: usize = 8;

/// What is added to the bases, one package for each module that functions may want.
const MODULES: usize = 12;

/// What each base brings beside Python.
const BASES: [&[&str]; 3] = [&[], &["idna"], &["idna", "certifi"]];

/// Numbers that look random and are the same in each run of the test.
struct Dice(u64);

impl Dice {
    /// A number below `sides` (xorshift64; Marsaglia, "Xorshift RNGs", 2003).
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

/// Everything that workers share.
struct World {
    envfs: Envfs,
    bases: Vec<String>,
    /// The signature that each environment turned out to have, once somebody made it.
    signatures: Mutex<BTreeMap<usize, String>>,
    /// What each workflow that is there needs.
    workflows: Mutex<BTreeMap<usize, usize>>,
    runs: AtomicU64,
}

impl World {
    fn new(channel: &RealChannel) -> Self {
        let envfs = Envfs::new();
        let mut modules = Channel::new(&envfs.path().join("channel"));
        for number in 0..MODULES {
            let package = Package::new(&format!("module-{number} 1.0 pyh0_0"))
                .noarch_python()
                .depends("python")
                .file(
                    &format!("site-packages/module_{number}/__init__.py"),
                    format!("NUMBER = {number}\n"),
                )
                .file(
                    &format!("site-packages/module_{number}/table.txt"),
                    format!("{number}\n").repeat(3000),
                );
            modules.add(&package, Format::Conda);
        }
        let bases = BASES.iter().map(|packages| {
            let mut arguments = vec!["-c".to_owned(), channel.url(), "python".to_owned()];
            arguments.extend(packages.iter().map(|package| (*package).to_owned()));
            envfs.build(arguments).to_string()
        });
        let bases: Vec<String> = bases.collect();
        for base in &bases {
            envfs.run(["pin", "add", base]);
        }
        for environment in 0..ENVIRONMENTS {
            for spelling in 0..2 {
                let mut wanted = wanted_modules(environment);
                if spelling == 1 {
                    wanted.reverse();
                }
                let lines: String = wanted.iter().map(|number| format!("  - module-{number}\n")).collect();
                let text = format!(
                    "channels: ['{}', '{}']\nbase: {}\ndependencies:\n{lines}",
                    modules.url(),
                    channel.url(),
                    bases[environment % BASES.len()]
                );
                envfs.write(&format!("function-{environment}-{spelling}.yml"), &text);
            }
        }
        Self {
            envfs,
            bases,
            signatures: Mutex::default(),
            workflows: Mutex::default(),
            runs: AtomicU64::new(0),
        }
    }

    /// Notes what a workflow needs from now on, and makes it if nobody has. Returns its signature.
    fn need(&self, workflow: usize, environment: usize, dice: &mut Dice) -> String {
        let spec = format!("function-{environment}-{}.yml", dice.roll(2));
        let signature = self
            .envfs
            .run(["owner", "add", &owner(workflow), &spec])
            .trim()
            .to_owned();
        let mut signatures = self.signatures.lock().unwrap();
        let known = signatures.entry(environment).or_insert_with(|| signature.clone());
        assert_eq!(*known, signature, "two spellings of environment {environment}");
        self.workflows.lock().unwrap().insert(workflow, environment);
        signature
    }

    /// Runs the function of a workflow, which looks at all that it should have and at what it should not.
    fn call(&self, environment: usize, signature: &str) {
        let wanted = wanted_modules(environment);
        let code = format!(
            "import importlib.util as u\nfound = [n for n in range({MODULES}) if u.find_spec(f'module_{{n}}')]\n\
             for n in found:\n    m = __import__(f'module_{{n}}')\n    \
             assert m.NUMBER == n and len(open(m.__path__[0] + '/table.txt').readlines()) == 3000\nprint(found)"
        );
        let told = self.envfs.run(["run", signature, "--", "python", "-c", &code]);
        let told: Vec<usize> = serde_json::from_str(told.trim()).unwrap();
        assert_eq!(told, wanted, "environment {environment}");
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    /// One worker's part of the workflows: each comes, most change, some go, and between all this functions run.
    fn work(&self, worker: usize) {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (worker as u64 + 1));
        for workflow in (worker..WORKFLOWS).step_by(WORKERS) {
            let environment = dice.roll(ENVIRONMENTS);
            let signature = self.need(workflow, environment, &mut dice);
            self.call(environment, &signature);
            if dice.roll(2) == 0 {
                let other = dice.roll(ENVIRONMENTS);
                let changed = self.need(workflow, other, &mut dice);
                if changed != signature {
                    self.envfs.run(["owner", "rm", &owner(workflow), &signature]);
                }
                self.call(other, &changed);
            }
            if dice.roll(3) == 0 {
                self.envfs.run(["owner", "rm", &owner(workflow)]);
                self.workflows.lock().unwrap().remove(&workflow);
            }
        }
    }

    fn collect(&self) {
        self.envfs.json(["gc", "--grace", "0s"]);
    }

    /// The environments that are there.
    fn there(&self) -> BTreeSet<String> {
        let listed = self.envfs.json(["ls"]);
        let signatures = listed.as_array().unwrap().iter();
        signatures
            .map(|environment| environment["signature"].as_str().unwrap().to_owned())
            .collect()
    }

    fn needed(&self) -> BTreeSet<String> {
        let signatures = self.signatures.lock().unwrap();
        let workflows = self.workflows.lock().unwrap();
        let needed = workflows.values().map(|environment| signatures[environment].clone());
        needed.chain(self.bases.clone()).collect()
    }
}

fn owner(workflow: usize) -> String {
    format!("workflow:{workflow}")
}

/// What the functions of an environment import: no two environments on one base want the same.
fn wanted_modules(environment: usize) -> Vec<usize> {
    let kind = environment / BASES.len() + 1;
    (0..MODULES).filter(|bit| ((kind * 37) >> bit) & 1 == 1).collect()
}

#[test]
fn workflows_come_and_go_and_nothing_is_lost_or_left() {
    if !is_possible() {
        return;
    }
    let Some(channel) = RealChannel::local() else {
        return;
    };
    let world = World::new(&channel);
    let before = usage(&world.envfs);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let world = &world;
                scope.spawn(move || world.work(worker))
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while !is_over.load(Ordering::Relaxed) {
                world.collect();
                collections += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
            collections
        });
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        println!("{} collections", collector.join().unwrap());
        ended.into_iter().for_each(Result::unwrap);
    });
    world.collect();
    assert_eq!(world.there(), world.needed());
    world.envfs.assert_sound();

    let after = usage(&world.envfs);
    let new = world.needed().len() - world.bases.len();
    println!(
        "{} runs; {new} environments on {} bases took {} bytes and {} inodes more: {} and {} for each",
        world.runs.load(Ordering::Relaxed),
        world.bases.len(),
        after.bytes - before.bytes,
        after.inodes - before.inodes,
        (after.bytes - before.bytes) / new as u64,
        (after.inodes - before.inodes) / new as u64,
    );

    // The last workflow is gone: nothing stays.
    for workflow in world.workflows.lock().unwrap().keys() {
        world.envfs.run(["owner", "rm", &owner(*workflow)]);
    }
    for base in &world.bases {
        world.envfs.run(["pin", "rm", base]);
    }
    world.collect();
    assert_eq!(world.there(), BTreeSet::new());
    for part in ["packs", "layers", "trees", "environments"] {
        assert_eq!(
            files_below(&world.envfs.store_path().join(part)),
            Vec::<std::path::PathBuf>::new()
        );
    }
}

/// What a store takes, without its cache.
fn usage(envfs: &Envfs) -> Measured {
    let parts = ["objects", "packs", "layers", "trees", "environments"];
    let measured = parts.map(|part| measure(&envfs.store_path().join(part)));
    Measured {
        bytes: measured.iter().map(|part| part.bytes).sum(),
        inodes: measured.iter().map(|part| part.inodes).sum(),
    }
}
