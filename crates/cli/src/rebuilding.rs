//! Environments built again because something of them was lost: from what their records, their files and the locks of earlier
//! answers say. Beside the store: what is right again is taken from there.

use std::cell::{Ref, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use envfs_solver::{Lock, LockedContents, LockedPackage, Subdir, build_again};
use envfs_store::answers::{self, Answer};
use envfs_store::environment::{self, Environment, Package, PackageKind};
use envfs_store::verify::Rebuild;
use envfs_store::view::View;
use envfs_store::{Digest, Store};

use crate::context::Context;
use crate::error::CliError;
use crate::link_scripts;
use crate::progress::Bar;
use crate::resolve;
use crate::solving::{empty, installed, wheel};

/// Builds environments again.
pub(crate) struct Rebuilder<'a> {
    context: &'a Context,
    problems: RefCell<BTreeSet<String>>,
}

impl<'a> Rebuilder<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self {
            context,
            problems: RefCell::default(),
        }
    }

    /// Why some could not be built.
    pub(crate) fn problems(&self) -> Ref<'_, BTreeSet<String>> {
        self.problems.borrow()
    }

    fn build(&self, store: &Store, signature: &Digest) -> Result<(), CliError> {
        let Wanted {
            environment,
            contents,
            base,
        } = Wanted::find(store, signature)?;
        let network = self.context.network()?;
        let bar = Bar::new(self.context.quiet || self.context.json);
        let scripts = Arc::new(link_scripts::Sandboxed);
        let building = build_again(store, &network, &environment, contents, base, scripts, &bar);
        self.context.block_on(building)??;
        Ok(())
    }
}

impl Rebuild for Rebuilder<'_> {
    fn rebuild(&self, store: &Store, environments: &BTreeSet<Digest>, directory: &Path) -> Vec<Store> {
        let scratch = match Store::open_over(directory, store.root()) {
            Ok(scratch) => scratch,
            Err(error) => {
                self.problems.borrow_mut().insert(error.to_string());
                return Vec::new();
            }
        };
        let mut pending: Vec<Digest> = environments.iter().copied().collect();
        // What is inherited comes before what inherits it.
        pending.sort_by_key(|signature| depth(store, signature));
        for signature in pending {
            if let Err(error) = self.build(&scratch, &signature) {
                let problem = format!("{signature}: {}", error.in_one_line());
                self.problems.borrow_mut().insert(problem);
            }
        }
        vec![scratch]
    }
}

/// How many environments one stands on.
fn depth(store: &Store, signature: &Digest) -> usize {
    let mut depth = 0;
    let mut at = *signature;
    while let Ok(Some(Environment { base: Some(base), .. })) = environment::get(store, &at) {
        depth += 1;
        at = base;
    }
    depth
}

/// The answers of a store, and of the one that is to be mended below it.
fn answers_of(store: &Store) -> Result<Vec<Answer>, CliError> {
    let mut found = answers::list(store)?;
    if let Some(lower) = store.lower() {
        found.extend(answers::list(lower)?);
    }
    Ok(found.into_iter().map(|(_, answer)| answer).collect())
}

/// An environment that is to be built, as far as it is known.
struct Wanted {
    environment: Environment,
    contents: LockedContents,
    base: Option<Environment>,
}

impl Wanted {
    fn find(store: &Store, signature: &Digest) -> Result<Self, CliError> {
        if let Some(environment) = environment::get(store, signature)? {
            let base = environment
                .base
                .map(|base| environment::load(store, &base))
                .transpose()?;
            return Ok(Self {
                contents: recorded(store, &environment)?,
                environment,
                base,
            });
        }
        let lost = || CliError::new("its record is lost, and so is its lock: build it again from its own");
        let answer = answers_of(store)?
            .into_iter()
            .find(|answer| answer.signature == *signature && answer.lock.is_some())
            .ok_or_else(lost)?;
        let subdir = crate::solving::current_subdir()?;
        let lock = Lock::parse(&answer.lock.ok_or_else(lost)?, Path::new("pixi.lock"))?;
        Ok(Self {
            environment: Environment::new(*signature, subdir.to_string(), Digest::of(b"")),
            contents: resolve::contents_of(&lock, None, subdir)?,
            base: None,
        })
    }
}

/// The packages of an environment: as its files have them, where these can be read, else as its record has them.
fn recorded(store: &Store, environment: &Environment) -> Result<LockedContents, CliError> {
    let subdir: Subdir = environment
        .subdir
        .parse()
        .map_err(|error: envfs_solver::UnknownSubdir| CliError::new(error.to_string()))?;
    let known = Known::of(store, environment, subdir)?;
    let mut contents = empty(subdir);
    for package in environment.all_packages(store)? {
        match package.kind {
            PackageKind::Pypi => contents.wheels.push(wheel(&package)?),
            PackageKind::Conda => {
                contents.packages.push(match known.package(&package) {
                    Some(known) => known,
                    None => LockedPackage::from_place(&package.url, *package.sha256.as_bytes(), package.size_bytes)?,
                });
            }
        }
    }
    Ok(contents)
}

/// Who may know more of a package than the record of its environment: the files of environments that hold it, and the locks of
/// answers.
struct Known {
    views: Vec<View>,
    locked: Vec<LockedPackage>,
}

impl Known {
    /// The environment itself is asked first.
    fn of(store: &Store, environment: &Environment, subdir: Subdir) -> Result<Self, CliError> {
        let others = environment::list(store)?.into_iter().flatten();
        let trees = std::iter::once(environment.tree).chain(others.map(|other| other.tree));
        let views = trees.filter_map(|tree| {
            let tree = store.tree(&tree).ok()?;
            View::new(store, Arc::new(tree), Path::new("/")).ok()
        });
        let locks = answers_of(store)?.into_iter().filter_map(|answer| {
            let lock = Lock::parse(&answer.lock?, Path::new("pixi.lock")).ok()?;
            resolve::contents_of(&lock, None, subdir).ok()
        });
        Ok(Self {
            views: views.collect(),
            locked: locks.flat_map(|contents| contents.packages).collect(),
        })
    }

    fn package(&self, package: &Package) -> Option<LockedPackage> {
        let sha256 = Some(*package.sha256.as_bytes());
        let is_same = |locked: &LockedPackage| locked.sha256() == sha256;
        let views = self.views.iter();
        let mut installed = views.filter_map(|view| installed(view, package).ok()?.filter(is_same));
        installed
            .next()
            .or_else(|| self.locked.iter().find(|locked| is_same(locked)).cloned())
    }
}
