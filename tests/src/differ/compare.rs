//! The program `envfs-differ`: random sequences of operations, each done to a tree of an environment and to the same tree of
//! its plain copy, until they disagree.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::directory::Directory;
use super::given;
use super::listing;
use super::operation::{Answer, Operation, Outcome, Status};
use super::random;

/// How many operations a sequence has at most.
const MAX_OPERATIONS: usize = 60;

/// How an environment is there, which says what is tried and what may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mounted by the kernel, not to be written to; its copy is mounted read-only.
    ReadOnly,
    /// The same by a server alone.
    Served,
    /// Linked; its copy has no write bits either.
    Linked,
    /// A writable mount, or run of root.
    Writable,
    /// A writable run of an ordinary user.
    WritableAsUser,
}

impl Kind {
    /// As it is named to the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Served => "served",
            Self::Linked => "linked",
            Self::Writable => "writable",
            Self::WritableAsUser => "writable-as-user",
        }
    }

    fn is_writable(self) -> bool {
        matches!(self, Self::Writable | Self::WritableAsUser)
    }

    fn operations(self) -> BoxedStrategy<Operation> {
        match self {
            // What is refused says little, however often it is.
            Self::ReadOnly | Self::Served => prop_oneof![
                4 => random::looks(),
                1 => random::changes_of_names(),
                1 => random::changes_of_files(),
            ]
            .boxed(),
            // Its owner may change modes and times there, of files that other trees share.
            Self::Linked => prop_oneof![2 => random::looks(), 1 => random::changes_of_names()].boxed(),
            _ => prop_oneof![random::looks(), random::changes_of_names(), random::changes_of_files()].boxed(),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use Kind::{Linked, ReadOnly, Served, Writable, WritableAsUser};
        [ReadOnly, Served, Linked, Writable, WritableAsUser]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("no kind of mount is called {text}"))
    }
}

/// What is compared.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// How the environment is there.
    pub kind: Kind,
    /// Its prefix.
    pub prefix: PathBuf,
    /// The copy.
    pub plain: PathBuf,
    /// How many trees both hold.
    pub trees: usize,
    /// How many sequences are tried; where they change something, no more than there are trees.
    pub cases: u32,
    /// Which ones.
    pub seed: u64,
}

impl Comparison {
    /// Tries them all, and says how many operations were done, how many of these succeeded, and how many were left out as known
    /// to differ.
    ///
    /// # Errors
    /// With the first, made as short as it can be, of those that differ.
    ///
    /// # Panics
    /// When the directories cannot be read.
    pub fn run(&self) -> Result<Counts, String> {
        // What is asked for is what is made.
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let config = Config {
            cases: self.cases,
            failure_persistence: None,
            ..Config::default()
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let used = Cell::new(0);
        let counts = RefCell::new(Counts::default());
        let operations = vec(self.kind.operations(), 1..MAX_OPERATIONS);
        let result = runner.run(&operations, |operations| {
            let number = used.replace(used.get() + 1);
            let number = if self.kind.is_writable() {
                if number == self.trees {
                    // No tree is left: what was found is not made shorter, and nothing more is tried.
                    return Ok(());
                }
                number
            } else {
                number % self.trees
            };
            self.compare(&given::place(number), &operations, &mut counts.borrow_mut())
        });
        result.map_err(|error| error.to_string())?;
        let sides = [&self.prefix, &self.plain].map(|root| root.join(given::place(0).parent().unwrap()));
        if !self.kind.is_writable() {
            let known = Known::of(self.kind, &sides[1]);
            Self::compare_what_is_left(&known, &sides[0], &sides[1]).map_err(|error| format!("in the end: {error}"))?;
        }
        match counts.into_inner() {
            // Two sides without anything would agree as well.
            Counts { succeeded: 0, .. } => Err("nothing succeeded on either side".to_owned()),
            counts => Ok(counts),
        }
    }

    fn compare(&self, place: &Path, operations: &[Operation], counts: &mut Counts) -> Result<(), TestCaseError> {
        let mut mounted = Directory::at(self.prefix.join(place));
        let mut plain = Directory::at(self.plain.join(place));
        let mut known = Known::of(self.kind, plain.root());
        for (index, operation) in operations.iter().enumerate() {
            if known.differs(&plain, operation) {
                counts.left_out += 1;
                continue;
            }
            known.note(&plain, operation);
            let expected = plain.apply(operation);
            let found = mounted.apply(operation);
            counts.operations += 1;
            counts.succeeded += u32::from(!matches!(expected, Err(_) | Ok(Answer::NoSlot)));
            if !known.agree(operation, &expected, &found) {
                let message = format!(
                    "operation {index} in {}, {operation:?}:\nthe copy: {expected:?}\nthe environment: {found:?}",
                    place.display()
                );
                return Err(TestCaseError::fail(message));
            }
        }
        let roots = [mounted.root().to_owned(), plain.root().to_owned()];
        drop((mounted, plain));
        Self::compare_what_is_left(&known, &roots[0], &roots[1]).map_err(TestCaseError::fail)
    }

    fn compare_what_is_left(known: &Known, mounted: &Path, plain: &Path) -> Result<(), String> {
        let (found, expected) = (listing::list(mounted), listing::list(plain));
        let mut differences = String::new();
        let paths: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
        for path in paths {
            let (found, expected) = (found.get(path), expected.get(path));
            let agree = match (expected, found) {
                (Some(expected), Some(found)) => {
                    known.are_same(&expected.status, &found.status)
                        && (&expected.content, &expected.attributes) == (&found.content, &found.attributes)
                }
                _ => false,
            };
            if !agree {
                let _ = write!(
                    differences,
                    "\n{}:\nthe copy: {expected:?}\nthe environment: {found:?}",
                    path.display()
                );
            }
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(format!("what is left differs: {differences}")),
        }
    }
}

/// How much was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Operations.
    pub operations: u32,
    /// Those of them that the kernel did not refuse.
    pub succeeded: u32,
    /// What was not done because it is known to differ.
    pub left_out: u32,
}

/// What is known to differ (docs/semantics.md), and so is left out or not looked at.
struct Known {
    kind: Kind,
    /// The files of the environment.
    given: HashSet<u64>,
    /// The directories of the environment.
    directories: HashSet<u64>,
    /// The files of the environment whose mode, owner, time, attributes or name was changed.
    changed: HashSet<u64>,
    /// Those of them that were opened to be written after that.
    redated: HashSet<u64>,
}

impl Known {
    fn of(kind: Kind, plain: &Path) -> Self {
        let mut this = Self {
            kind,
            given: HashSet::new(),
            directories: HashSet::new(),
            changed: HashSet::new(),
            redated: HashSet::new(),
        };
        if kind.is_writable() {
            this.take(plain);
        }
        this
    }

    fn take(&mut self, path: &Path) {
        let Ok(metadata) = path.symlink_metadata() else { return };
        if metadata.is_dir() {
            self.directories.insert(metadata.ino());
            for entry in std::fs::read_dir(path).unwrap() {
                self.take(&entry.unwrap().path());
            }
        } else {
            self.given.insert(metadata.ino());
        }
    }

    /// Whether it would end differently.
    fn differs(&self, plain: &Directory, operation: &Operation) -> bool {
        let inode = |path: &str| {
            let metadata = plain.root().join(path).symlink_metadata();
            metadata.map(|metadata| metadata.ino()).ok()
        };
        let is_given = |inode: Option<u64>| inode.is_some_and(|inode| self.given.contains(&inode));
        match operation {
            // A hard link to a file of the environment is a copy at the first write.
            Operation::Link { from, .. } => is_given(inode(from)),
            Operation::LinkSlot { slot, .. } => is_given(plain.inode(*slot)),
            // The kernel copies nothing between two file systems: the environment's, and that of what was written.
            Operation::CopySlot { from, .. } if self.kind.is_writable() => is_given(plain.inode(*from)),
            // What holes a directory has is nobody's business.
            Operation::SeekSlot { slot, .. } => plain.is_directory(*slot),
            // A directory of the environment cannot be renamed.
            Operation::Rename { from, to, .. } if self.kind == Kind::WritableAsUser => [from, to]
                .into_iter()
                .any(|path| inode(path).is_some_and(|inode| self.directories.contains(&inode))),
            _ => false,
        }
    }

    /// Notes what is about to be done.
    fn note(&mut self, plain: &Directory, operation: &Operation) {
        use Operation as O;
        let (paths, opens) = match operation {
            O::ChangeMode { path, .. }
            | O::ChangeOwner { path, .. }
            | O::ChangeTime { path, .. }
            | O::SetAttribute { path, .. }
            | O::RemoveAttribute { path, .. } => (vec![path], false),
            O::Rename { from, to, .. } => (vec![from, to], false),
            O::Open { path, .. } | O::Truncate { path, .. } => (vec![path], true),
            _ => return,
        };
        let places = paths.into_iter().map(|path| plain.root().join(path));
        let metadata = places.flat_map(|place| [place.metadata(), place.symlink_metadata()]);
        for metadata in metadata.flatten() {
            let inode = metadata.ino();
            if !opens && self.given.contains(&inode) {
                self.changed.insert(inode);
            } else if opens && self.changed.contains(&inode) {
                self.redated.insert(inode);
            }
        }
    }

    fn agree(&self, operation: &Operation, expected: &Outcome, found: &Outcome) -> bool {
        match (expected, found) {
            (Ok(Answer::Status(expected)), Ok(Answer::Status(found))) => self.are_same(expected, found),
            // What servers show has no attributes, and the kernel does not ask.
            (expected, Err(Errno::EOPNOTSUPP)) if matches!(self.kind, Kind::Served | Kind::WritableAsUser) => {
                let has_none = matches!(expected, Err(Errno::ENODATA)) || *expected == Ok(Answer::Names(Vec::new()));
                operation.is_of_attributes() && has_none
            }
            _ => expected == found,
        }
    }

    fn are_same(&self, expected: &Status, found: &Status) -> bool {
        let comparable = |status: &Status| {
            let is_directory = status.mode & libc::S_IFMT == libc::S_IFDIR;
            let mut status = status.clone();
            status.inode = 0;
            // Overlayfs does not count the directories in a directory, and what is linked has links in the cache.
            if is_directory && self.kind.is_writable() || !is_directory && self.kind == Kind::Linked {
                status.links = 0;
            }
            // Nor does it count what was removed of the environment while it is open.
            if expected.links == 0 && self.given.contains(&expected.inode) {
                status.links = 0;
            }
            // Overlayfs dates a file anew when it is first opened to be written after its metadata were changed.
            if self.redated.contains(&expected.inode) {
                status.mtime_s = None;
            }
            status
        };
        comparable(expected) == comparable(found)
    }
}
