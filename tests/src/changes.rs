//! Commands that change a store, each with the store that it starts from, to be tried again and again.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::channel::Channel;
use crate::package::{Format, PLACEHOLDER, Package};
use crate::program::{Envfs, finish};
use crate::reference::Reference;
use crate::sound::{Content, count_trees};
use crate::steps::{self, Verdict, Watched};
use crate::user;

/// What a change is called, the commands that make the store that it starts from, and the command that is the change. `$1` stands
/// for what the first command printed, `$2` for the second.
type Recipe = (&'static str, &'static [&'static str], &'static str);

const BUILD: &str = "build --offline -c @channel";
const BUILD_A: &str = "build --offline -c @channel a";
const BUILD_B: &str = "build --offline -c @channel b";

const RECIPES: [Recipe; 12] = [
    ("build", &[], "build --offline -c @channel a b"),
    (
        "build on a base",
        &[BUILD_A],
        "build --offline -c @channel --base $1 a b",
    ),
    ("ensure", &[], "ensure --offline -c @channel a b"),
    ("name set", &[BUILD_A], "name set team/proj:qa $1"),
    (
        "promote",
        &[BUILD_A, "name set team/proj:qa $1"],
        "promote team/proj:qa team/proj:current",
    ),
    (
        "rollback",
        &[BUILD_A, BUILD_B, "name set team/proj:qa $1", "name set team/proj:qa $2"],
        "rollback team/proj:qa",
    ),
    (
        "name rm",
        &[BUILD_A, "name set team/proj:qa $1"],
        "name rm team/proj:qa",
    ),
    ("pin add", &[BUILD_A], "pin add $1 --for 1d"),
    ("owner add", &[BUILD_A], "owner add w:1 $1"),
    ("owner rm", &[BUILD_A, "owner add w:1 $1"], "owner rm w:1"),
    // What `b` shares with `a` lies in the pack of `a`, of which nothing else stays.
    ("gc", &[BUILD_A, BUILD_B, "name set kept $2"], "gc --grace 0"),
    ("import", &[], "import @installed"),
];

/// These need a mount.
const RECIPES_OF_ROOT: [Recipe; 1] = [("commit", &[BUILD_A, "run --writable $1 -- a"], "commit $1")];

/// The work of other processes, of which a report tells what became of it.
const MIGRATION: Recipe = ("migrate", &[], "migrate @plan --jobs 1 --report @report");

/// The program, packages to build from, and a place for the store.
pub struct World {
    envfs: Envfs,
    store: PathBuf,
    channel: String,
    /// An environment that another installer made.
    installed: PathBuf,
    /// A plan by which that is migrated.
    plan: PathBuf,
    /// What became of it.
    report: PathBuf,
}

/// A command that changes a store.
pub struct Change {
    /// What it is called in messages.
    pub name: &'static str,
    arguments: Vec<String>,
    /// A copy of the store that it starts from; nothing, where there is no store yet.
    start: Option<PathBuf>,
    /// What the store holds before.
    pub before: Content,
    /// What it holds afterwards.
    pub after: Content,
    /// What a collection leaves of that, and how many trees.
    pub collected: (Content, usize),
}

impl World {
    /// With the store at `store`, or beside everything else.
    ///
    /// # Panics
    /// When packages cannot be made.
    #[must_use]
    pub fn new(store: Option<&Path>) -> Self {
        let mut envfs = Envfs::new();
        let store = store.map_or_else(|| envfs.store_path(), Path::to_owned);
        envfs.set("ENVFS_STORE", &store);
        let mut channel = Channel::new(&envfs.path().join("channel"));
        let archives = ["a", "b"].map(|name| channel.add(&package(name), Format::Conda));
        let installed = envfs.path().join("installed");
        let reference = Reference::new(envfs.path());
        reference.install(&archives, &installed).unwrap();
        let how = format!("how = \"import\"\nprefix = \"{}\"\n", installed.display());
        envfs.write("plan.toml", &format!("tag = \"qa\"\n[environments.science]\n{how}"));
        Self {
            store,
            channel: channel.url(),
            installed,
            plan: envfs.path().join("plan.toml"),
            report: envfs.path().join("report"),
            envfs,
        }
    }

    /// Where the store is.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Where a migration reports.
    #[must_use]
    pub fn report(&self) -> &Path {
        &self.report
    }

    /// All changes that can be tried here.
    ///
    /// # Panics
    /// When a store cannot be made.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let of_root = RECIPES_OF_ROOT.iter().filter(|_| user::is_root());
        RECIPES
            .iter()
            .chain(of_root)
            .map(|recipe| self.change(recipe))
            .collect()
    }

    /// The migration of an environment. What it failed at is told by its report, and not as other commands do.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn migration(&self) -> Change {
        self.change(&MIGRATION)
    }

    fn change(&self, &(name, before, command): &Recipe) -> Change {
        self.clear();
        let mut printed = Vec::new();
        for command in before {
            printed.push(self.envfs.run(self.words(command, &printed)));
        }
        let start = (!before.is_empty()).then(|| self.envfs.path().join("starts").join(name));
        if let Some(start) = &start {
            copy(&self.store, start);
        }
        let before = Content::of(&self.store);
        let arguments = self.words(command, &printed);
        self.envfs.run(&arguments);
        Change {
            name,
            arguments,
            start,
            before,
            after: Content::of(&self.store),
            collected: self.collect(),
        }
    }

    /// Removes what nothing keeps, and says what is left.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn collect(&self) -> (Content, usize) {
        self.envfs.run(["gc", "--grace", "0"]);
        (Content::of(&self.store), count_trees(&self.store))
    }

    fn words(&self, command: &str, printed: &[String]) -> Vec<String> {
        let word = |word: &str| match word {
            "@channel" => self.channel.clone(),
            "@installed" => self.installed.display().to_string(),
            "@plan" => self.plan.display().to_string(),
            "@report" => self.report.display().to_string(),
            "$1" => printed[0].trim().to_owned(),
            "$2" => printed[1].trim().to_owned(),
            word => word.to_owned(),
        };
        command.split(' ').map(word).collect()
    }

    /// How many steps the command of the change takes.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn count_steps(&self, change: &Change) -> usize {
        self.reset(change);
        let ended = steps::run(&mut self.command(change), Watched::below(&self.store), |_| {
            Verdict::Happens
        });
        assert!(ended.finished.status.success(), "{}: {}", change.name, ended.finished);
        let count = ended.steps.len();
        ended.wait_for_all();
        count
    }

    /// Puts the store in the state that the change starts from, without a report.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn reset(&self, change: &Change) {
        self.clear();
        if let Some(start) = &change.start {
            copy(start, &self.store);
        }
    }

    /// The program, on the store.
    #[must_use]
    pub fn program(&self) -> Command {
        self.envfs.command()
    }

    /// The arguments of a build of the packages called so.
    #[must_use]
    pub fn build_of(&self, names: &[&str]) -> Vec<String> {
        let words = self.words(BUILD, &[]).into_iter();
        words.chain(names.iter().map(|&name| name.to_owned())).collect()
    }

    /// The command of the change.
    #[must_use]
    pub fn command(&self, change: &Change) -> Command {
        let mut command = self.envfs.command();
        command.args(&change.arguments);
        command
    }

    fn clear(&self) {
        for directory in [&self.store, &self.report] {
            envfs_store::remove_tree(directory).unwrap();
        }
    }
}

/// A package with everything that a store tells apart: small files, of which others have some too, a large one, a text that names its
/// prefix, a link, and a command.
fn package(name: &str) -> Package {
    let mut package = Package::new(&format!("{name} 1.0 0"));
    for number in 0..3 {
        package = package.file(
            &format!("share/{name}/same-{number}"),
            format!("{number}\n").repeat(500),
        );
    }
    for number in 0..4 {
        package = package.file(
            &format!("share/{name}/own-{number}"),
            format!("{name}{number}\n").repeat(2000),
        );
    }
    package
        .file(&format!("share/{name}/large"), format!("{name} large\n").repeat(20_000))
        .prefixed(&format!("etc/{name}.conf"), format!("home={PLACEHOLDER}/etc\n"), "text")
        .symlink(&format!("share/{name}/link"), "large")
        .executable(
            &format!("bin/{name}"),
            "#!/bin/sh\necho x > \"$CONDA_PREFIX/written\"\n",
        )
}

/// Copies a directory with the times of its files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    finish(Command::new("cp").arg("-a").arg(from).arg(to)).success();
}
