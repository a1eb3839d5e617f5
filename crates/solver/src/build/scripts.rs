//! Link scripts: what packages want done in an environment once all its files are there.
//!
//! They run once for each tree, in link order, and what they leave is captured as a layer, which another environment with
//! the same tree uses too. Whoever runs them knows how to keep them to the environment; this room knows which to run,
//! and what becomes of what they wrote.
//!
//! Packages of a base have had theirs run: the base's layer is part of its tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use envfs_store::capture::{self, LayerName};
use envfs_store::digest::Sha256;
use envfs_store::environment::Environment;
use envfs_store::ingest::Written;
use envfs_store::layer::Layer;
use envfs_store::tree::NodeKind;
use envfs_store::workspace::Workspace;
use envfs_store::{Digest, Store};
use sha2::Digest as _;

use super::{BuildError, BuildRequest};
use crate::package::LockedPackage;
use crate::subdir::Subdir;

/// The first line of the text that names a layer. Another way to run scripts must have another one.
const VERSION: &str = "envfs link scripts 1";

/// The names under which a layer says which packages' scripts made it, and at which prefix they ran.
const ARCHIVES: &str = "archives";
const PREFIX: &str = "prefix";

/// The post-link script of a package.
#[derive(Clone, Debug)]
pub struct LinkScript {
    /// Where it lies in the environment.
    pub path: String,
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its build string.
    pub build: String,
    /// Its build number.
    pub build_number: u64,
    archive: Sha256,
}

/// The environment that scripts run in.
#[derive(Clone, Copy, Debug)]
pub struct ScriptSite<'a> {
    /// Its store.
    pub store: &'a Store,
    /// For drafts.
    pub workspace: &'a Workspace,
    /// What it will be called.
    pub signature: Digest,
    /// Its files without what the scripts write.
    pub tree: Digest,
    /// The variables that activation sets.
    pub variables: &'a BTreeMap<String, String>,
}

/// What scripts left behind.
#[derive(Clone, Debug)]
pub struct ScriptsRun {
    /// What they wrote, captured under the name that was asked for.
    pub layer: Layer,
    /// What that added to the store.
    pub written: Written,
    /// What they said, in their order.
    pub outputs: Vec<ScriptOutput>,
}

/// What one script said.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ScriptOutput {
    /// The script, by its path in the environment.
    pub script: String,
    /// What it printed, and what it wrote into `.messages.txt`.
    pub text: String,
}

/// Runs scripts where they can write to nothing but the environment.
pub trait LinkScripts: Debug + Send + Sync {
    /// Where the environment called `signature` is seen while they run.
    fn prefix(&self, store: &Store, signature: &Digest) -> PathBuf;

    /// Runs `scripts` one after the other, and captures what they wrote as the layer `name`.
    ///
    /// # Errors
    /// When one fails, or cannot be run. Then nothing is captured.
    fn run(
        &self,
        site: &ScriptSite<'_>,
        scripts: &[LinkScript],
        name: LayerName,
    ) -> Result<ScriptsRun, LinkScriptError>;
}

/// Link scripts do not do what they should.
#[derive(Debug, thiserror::Error)]
pub enum LinkScriptError {
    /// One failed.
    #[error("the link script {script} of {package} failed with exit code {exit_code}")]
    Failed {
        /// Its path in the environment.
        script: String,
        /// The package.
        package: String,
        /// What it exited with; 128 and the signal's number, if a signal ended it.
        exit_code: u8,
        /// What it said.
        output: String,
    },
    /// They are for another kind of machine.
    #[error("the link script {script} of {package} is for {subdir}, and cannot run on this machine")]
    Platform {
        /// Its path in the environment.
        script: String,
        /// The package.
        package: String,
        /// Its platform.
        subdir: Subdir,
    },
    /// They cannot be run here.
    #[error("link scripts cannot be run here: {0}")]
    Impossible(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

/// An environment after its scripts have run.
pub(super) struct Settled {
    /// Its files.
    pub(super) tree: Digest,
    /// What the scripts wrote, if there were any.
    pub(super) layer: Option<Sha256>,
    /// What they said.
    pub(super) outputs: Vec<ScriptOutput>,
    /// Files that are right only at the prefix of private runs.
    pub(super) bound: Vec<String>,
    pub(super) written: Written,
}

/// What the scripts of `base`, and of what it stands on, have written: the oldest first.
pub(super) fn layers_of(store: &Store, base: &Environment) -> Result<Vec<Layer>, BuildError> {
    let mut layers = Vec::new();
    for environment in std::iter::once(Ok(base.clone())).chain(base.bases(store)) {
        if let Some(name) = environment?.link_scripts {
            layers.push(store.require_layer(&name)?);
        }
    }
    layers.reverse();
    Ok(layers)
}

/// Runs the scripts of `packages` that have not been run for its base, whose layers are `inherited`, in `tree`.
pub(super) fn settle(
    site: &ScriptSite<'_>,
    request: &BuildRequest,
    packages: &[(LockedPackage, Layer)],
    inherited: &[Layer],
) -> Result<Settled, BuildError> {
    let mut settled = Settled {
        tree: site.tree,
        layer: None,
        outputs: Vec::new(),
        bound: Vec::new(),
        written: Written::default(),
    };
    let Some(runner) = &request.link_scripts else {
        return Ok(settled);
    };
    let scripts = scripts(site, packages, inherited)?;
    let Some(first) = scripts.first() else {
        return Ok(settled);
    };
    if Subdir::current() != Some(request.subdir) {
        let (script, package) = (first.path.clone(), first.package());
        let subdir = request.subdir;
        return Err(LinkScriptError::Platform {
            script,
            package,
            subdir,
        }
        .into());
    }
    let prefix = runner.prefix(site.store, &site.signature);
    let _reservation = site.store.reserve(&format!("link-scripts-{}", site.tree))?;
    let layer = match find(site, &scripts, &prefix)? {
        Found::Layer(layer) => layer,
        Found::Name(name) => {
            let info = [
                (ARCHIVES.to_owned(), lines(&scripts).into_bytes()),
                (PREFIX.to_owned(), prefix.as_os_str().as_encoded_bytes().to_owned()),
            ];
            let run = runner.run(site, &scripts, LayerName::Given(name, info.into()))?;
            settled.outputs = run.outputs;
            settled.written += run.written;
            run.layer
        }
    };
    let tree = capture::apply(site.store, site.workspace, &site.tree, &layer)?;
    settled.written += Written {
        objects: 0,
        bytes: tree.new_bytes,
        inodes: u64::from(tree.new_bytes > 0),
    };
    settled.tree = tree.digest;
    settled.layer = Some(layer.archive);
    settled.bound = capture::bound(&layer).iter().map(ToString::to_string).collect();
    Ok(settled)
}

impl LinkScript {
    /// The package as people write it.
    #[must_use]
    pub fn package(&self) -> String {
        format!("{} {} {}", self.name, self.version, self.build)
    }
}

/// The scripts that are to be run, in link order.
fn scripts(
    site: &ScriptSite<'_>,
    packages: &[(LockedPackage, Layer)],
    inherited: &[Layer],
) -> Result<Vec<LinkScript>, BuildError> {
    let settled: BTreeSet<&[u8]> = inherited
        .iter()
        .filter_map(|layer| layer.info.get(ARCHIVES))
        .flat_map(|lines| lines.split(|&byte| byte == b'\n'))
        .collect();
    let tree = site.store.tree(&site.tree)?;
    let mut scripts = Vec::new();
    for (package, layer) in packages {
        let path = format!("bin/.{}-post-link.sh", package.name());
        let is_there = match tree.find(path.as_bytes())? {
            Some(node) => node.kind()? == NodeKind::File,
            None => false,
        };
        if is_there && !settled.contains(line(&layer.archive).as_bytes()) {
            scripts.push(LinkScript {
                path,
                name: package.name().to_owned(),
                version: package.version(),
                build: package.build().to_owned(),
                build_number: package.build_number(),
                archive: layer.archive,
            });
        }
    }
    Ok(scripts)
}

enum Found {
    /// The scripts ran in this tree before.
    Layer(Layer),
    /// They did not; this is what their layer is to be called.
    Name(Sha256),
}

/// A layer that is right at every prefix serves all. One that is not has a name for its prefix, but for the first.
fn find(site: &ScriptSite<'_>, scripts: &[LinkScript], prefix: &Path) -> Result<Found, BuildError> {
    let text = format!("{VERSION}\ntree {}\n{}", site.tree, lines(scripts));
    let at_prefix = format!("{text}prefix {}\n", prefix.display());
    for text in [&text, &at_prefix] {
        let name = Sha256::from_bytes(sha2::Sha256::digest(text).into());
        match site.store.layer(&name)? {
            None => return Ok(Found::Name(name)),
            Some(layer) => {
                let ran_at = layer.info.get(PREFIX).map(Vec::as_slice);
                let is_right_here = ran_at == Some(prefix.as_os_str().as_encoded_bytes());
                if is_right_here || capture::bound(&layer).is_empty() {
                    return Ok(Found::Layer(layer));
                }
            }
        }
    }
    Err(LinkScriptError::Impossible("a layer of link scripts is not what its name says".to_owned()).into())
}

fn lines(scripts: &[LinkScript]) -> String {
    scripts.iter().map(|script| line(&script.archive) + "\n").collect()
}

fn line(archive: &Sha256) -> String {
    format!("archive sha256:{archive}")
}
