//! Environments by their signatures: which tree, which packages, which base.
//!
//! A record is a small JSON file, written last, when everything that it refers to is durable. That of a thin
//! environment lists only what it adds; the rest stands in its base's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Sha256};
use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::ingest::Written;
use crate::sealed::{self, Opened};
use crate::store::Store;
use crate::trash;
use crate::workspace::Workspace;

/// The version of the record's fields. A reader refuses any higher one.
const FORMAT_VERSION: u32 = 2;

/// Records of this version have no seal.
const UNSEALED_VERSION: u32 = 1;

/// A signature may be abbreviated to this many hexadecimal digits, if it is unique.
pub const MIN_PREFIX_DIGITS: usize = 8;

/// One environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    format: u32,
    /// What it is called.
    pub signature: Digest,
    /// The platform it is for, as channels call it.
    pub subdir: String,
    /// Its merged index.
    pub tree: Digest,
    /// The environment it inherits from.
    pub base: Option<Digest>,
    /// The packages that are not its base's, in link order.
    pub packages: Vec<Package>,
    /// The layer of what the link scripts of `packages` wrote, if they have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_scripts: Option<Sha256>,
    /// Environment variables that activation sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// When it was built, in seconds since 1970-01-01 UTC.
    pub created_unix_s: u64,
    /// What building it added to the store.
    pub added: Written,
}

/// Where the packages of an environment come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    /// A conda channel.
    #[default]
    Conda,
    /// A Python package index, or another place of wheels.
    Pypi,
}

/// One package of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Where it comes from. Records from before there were wheels do not say it.
    #[serde(default, skip_serializing_if = "PackageKind::is_conda")]
    pub kind: PackageKind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its build string; of a wheel its tags, such as `py3-none-any`.
    pub build: String,
    /// The subdirectory of the channel it comes from; of a wheel empty.
    pub subdir: String,
    /// Where it was fetched from.
    pub url: String,
    /// The digest of its archive, which is the name of its layer.
    pub sha256: Sha256,
    /// The size of its archive.
    pub size_bytes: u64,
}

/// A text that names no environment, or several.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It is not hexadecimal or too short.
    #[error("`{0}` is not a signature: use its 64 hexadecimal digits, or at least the first 8 of them")]
    NotASignature(String),
    /// Nothing in the store is called so.
    #[error("no environment in `{}` has the signature `{text}`: `envfs ls` lists them", store.display())]
    Unknown {
        /// What was asked for.
        text: String,
        /// The store that was searched.
        store: PathBuf,
    },
    /// More than one environment starts so.
    #[error("`{text}` is ambiguous: it could be {}", candidates.join(" or "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// Whose signatures start so.
        candidates: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Environment {
    /// A new environment, not yet recorded.
    #[must_use]
    pub fn new(signature: Digest, subdir: String, tree: Digest) -> Self {
        Self {
            format: FORMAT_VERSION,
            signature,
            subdir,
            tree,
            base: None,
            packages: Vec::new(),
            link_scripts: None,
            variables: BTreeMap::new(),
            created_unix_s: std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs()),
            added: Written::default(),
        }
    }

    /// Makes the record durable. The tree and all layers must be.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn publish(&self, store: &Store, workspace: &Workspace) -> Result<()> {
        let current = Self {
            format: FORMAT_VERSION,
            ..self.clone()
        };
        let text = sealed::seal(&name(&self.signature), &current).expect("a record becomes JSON");
        // A record in its place keeps all that it refers to in its place: nothing is moved between here and there.
        let _shared = store.share()?;
        self.secure(store)?;
        durable::write(workspace.path(), &store.path(&name(&self.signature)), &text)
    }

    /// Whether it, or one that it stands on, holds a captured layer, so that its packages do not say all that is in it.
    ///
    /// # Errors
    /// When the record of its base is missing or damaged.
    pub fn is_changed(&self, store: &Store) -> Result<bool> {
        // Only a commit adds no package.
        let is_commit = |environment: &Self| environment.base.is_some() && environment.packages.is_empty();
        if is_commit(self) {
            return Ok(true);
        }
        for base in self.bases(store) {
            if is_commit(&base?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What it inherits from, the nearest first. Ends with an error where a record is missing or damaged, or where records inherit
    /// from each other: nothing that is built does, and nobody else follows bases without an end.
    pub fn bases<'a>(&self, store: &'a Store) -> impl Iterator<Item = Result<Self>> + use<'a> {
        let mut chain = Chain::of(self);
        std::iter::from_fn(move || {
            let base = chain.next(store)?.and_then(|base| load(store, &base));
            Some(base.inspect(|base| chain.next = base.base))
        })
    }

    /// Puts back what a collection has moved of what the record refers to. The layers are only for later builds: one that
    /// is gone is brought again then.
    fn secure(&self, store: &Store) -> Result<()> {
        secure_bases(store, self)?;
        self.secure_own(store)
    }

    fn secure_own(&self, store: &Store) -> Result<()> {
        store.secure_tree(&self.tree, self.base.is_some())?;
        for package in &self.packages {
            let _ = store.has_layer(&package.sha256);
        }
        Ok(())
    }

    /// All its packages, those of its base first.
    ///
    /// # Errors
    /// When the record of its base is missing or damaged.
    pub fn all_packages(&self, store: &Store) -> Result<Vec<Package>> {
        let bases = self.bases(store).collect::<Result<Vec<_>>>()?;
        let all = bases.iter().rev().chain([self]);
        Ok(all
            .flat_map(|environment| environment.packages.iter().cloned())
            .collect())
    }
}

impl PackageKind {
    /// Whether it is a conda package.
    #[must_use]
    pub fn is_conda(&self) -> bool {
        *self == Self::Conda
    }
}

impl Package {
    /// `name-version-build`, as files and messages name it.
    #[must_use]
    pub fn dist_name(&self) -> String {
        format!("{}-{}-{}", self.name, self.version, self.build)
    }
}

/// The environment with this signature, if it was built.
///
/// # Errors
/// When its record is damaged.
pub fn get(store: &Store, signature: &Digest) -> Result<Option<Environment>> {
    match std::fs::read(path(store, signature)) {
        Ok(bytes) => parse(store, signature, &bytes).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", &path(store, signature)),
    }
}

/// The environment with this signature.
///
/// # Errors
/// When there is none, or its record is damaged.
pub fn load(store: &Store, signature: &Digest) -> Result<Environment> {
    get(store, signature)?.ok_or_else(|| store.missing("environment", signature.to_string()))
}

/// What the file of a record says besides its content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is.
    pub owner_uid: Option<u32>,
    /// When the environment was used last, or made, in seconds since 1970-01-01 UTC.
    pub last_used_unix_s: Option<u64>,
}

/// What the file of the record of `signature` says besides its content.
#[must_use]
pub fn facts(store: &Store, signature: &Digest) -> Facts {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path(store, signature)).ok();
    Facts {
        owner_uid: metadata.as_ref().map(std::fs::Metadata::uid),
        last_used_unix_s: metadata.and_then(|metadata| metadata.mtime().try_into().ok()),
    }
}

/// Notes in the time of its record that an environment is used now. In a store of somebody else that is not allowed, in one
/// below not done, and neither is a failure.
pub fn touch(store: &Store, signature: &Digest) {
    let _ = durable::touch(&store.path(&name(signature)));
}

/// Puts the records that an environment inherits from back into their places, with all that they refer to; each after its own base.
fn secure_bases(store: &Store, environment: &Environment) -> Result<()> {
    let missing = |signature: &Digest| store.missing("environment", signature.to_string());
    let mut chain = Chain::of(environment);
    let mut aside = Vec::new();
    while let Some(base) = chain.next(store).transpose()?
        && !path(store, &base).exists()
    {
        let name = format!("{base}.json");
        let found = trash::find(store.root(), "environments", &name).ok_or_else(|| missing(&base))?;
        let bytes = std::fs::read(&found).at("read", &found)?;
        let base = parse(store, &base, &bytes)?;
        chain.next = base.base;
        aside.push(base);
    }
    for base in aside.iter().rev() {
        base.secure_own(store)?;
        if !trash::restore(store.root(), "environments", &own_path(store, &base.signature)) {
            return Err(missing(&base.signature));
        }
    }
    Ok(())
}

/// Follows what `environment` inherits from, as far as `base_of` tells.
///
/// # Errors
/// When that leads back.
pub(crate) fn check_circle(
    store: &Store,
    environment: &Environment,
    base_of: impl Fn(&Digest) -> Option<Digest>,
) -> Result<()> {
    let mut chain = Chain::of(environment);
    while let Some(base) = chain.next(store) {
        chain.next = base_of(&base?);
    }
    Ok(())
}

/// The way from an environment to what it inherits from, which must not lead back.
struct Chain {
    seen: Vec<Digest>,
    next: Option<Digest>,
}

impl Chain {
    fn of(environment: &Environment) -> Self {
        Self {
            seen: vec![environment.signature],
            next: environment.base,
        }
    }

    /// The next one, after which there is none until it is told.
    fn next(&mut self, store: &Store) -> Option<Result<Digest>> {
        let base = self.next.take()?;
        if let Some(first) = self.seen.iter().position(|seen| *seen == base) {
            let others: Vec<String> = self.seen[first..].iter().map(ToString::to_string).collect();
            let what = format!(
                "these environments inherit from each other, in a circle: {}",
                others.join(", ")
            );
            return Some(Err(Error::corrupt(&path(store, &base), what)));
        }
        self.seen.push(base);
        Some(Ok(base))
    }
}

/// The environment whose signature is `text` or starts with it.
///
/// # Errors
/// When `text` is no signature, or none or several environments are called so.
pub fn find(store: &Store, text: &str) -> Result<Environment, FindError> {
    let is_signature = text.len() >= MIN_PREFIX_DIGITS
        && text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
    if !is_signature {
        return Err(FindError::NotASignature(text.to_owned()));
    }
    if let Ok(signature) = text.parse()
        && let Some(environment) = get(store, &signature)?
    {
        return Ok(environment);
    }
    let mut candidates: Vec<_> = signatures(store)?
        .into_iter()
        .filter(|signature| signature.to_string().starts_with(text))
        .collect();
    match (candidates.pop(), candidates.is_empty()) {
        (Some(signature), true) => Ok(load(store, &signature)?),
        (None, _) => Err(FindError::Unknown {
            text: text.to_owned(),
            store: store.root().to_owned(),
        }),
        (Some(last), false) => Err(FindError::Ambiguous {
            text: text.to_owned(),
            candidates: candidates.iter().chain([&last]).map(ToString::to_string).collect(),
        }),
    }
}

/// All environments, each with its own error where its record is damaged.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list(store: &Store) -> Result<Vec<Result<Environment>>> {
    Ok(signatures(store)?
        .iter()
        .filter_map(|signature| get(store, signature).transpose())
        .collect())
}

/// Of the environments of this store, not of one below.
pub(crate) fn own_signatures(store: &Store) -> Result<Vec<Digest>> {
    Ok(named(&crate::store::list(&store.path("environments"))?))
}

fn named(paths: &[PathBuf]) -> Vec<Digest> {
    let names = paths.iter().filter_map(|path| path.file_stem()?.to_str()?.parse().ok());
    names.collect()
}

pub(crate) fn signatures(store: &Store) -> Result<Vec<Digest>> {
    let mut signatures = named(&store.list_all("environments")?);
    // Both stores may have the same one.
    signatures.sort();
    signatures.dedup();
    Ok(signatures)
}

fn parse(store: &Store, signature: &Digest, bytes: &[u8]) -> Result<Environment> {
    let path = path(store, signature);
    let Opened::<Environment> {
        document: environment,
        is_sealed,
    } = sealed::open(&path, &name(signature), bytes)?;
    match (environment.format, is_sealed) {
        (FORMAT_VERSION, true) | (UNSEALED_VERSION, false) => {}
        (FORMAT_VERSION | UNSEALED_VERSION, _) => return Err(Error::corrupt(&path, "its seal is broken")),
        (newer, _) => {
            return Err(Error::NewerFormat {
                path,
                what: format!("environment record version {newer}"),
            });
        }
    }
    if environment.signature != *signature {
        return Err(Error::corrupt(&path, format!("it describes {}", environment.signature)));
    }
    Ok(environment)
}

pub(crate) fn path(store: &Store, signature: &Digest) -> PathBuf {
    store.find(&name(signature))
}

/// Where the record is put.
pub(crate) fn own_path(store: &Store, signature: &Digest) -> PathBuf {
    store.path(&name(signature))
}

fn name(signature: &Digest) -> String {
    format!("environments/{signature}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_with(signatures: &[&str]) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let workspace = Workspace::create(&store).unwrap();
        for signature in signatures {
            let signature = format!("{signature:0<64}").parse().unwrap();
            let tree = crate::tree::merge::Merge::new()
                .write(&store, &workspace, None)
                .unwrap();
            let environment = Environment::new(signature, "linux-64".into(), tree.digest);
            environment.publish(&store, &workspace).unwrap();
        }
        (directory, store)
    }

    #[test]
    fn abbreviations_must_be_long_enough_and_unique() {
        let (_directory, store) = store_with(&["abcdef0123", "abcdef0199", "12345678"]);
        assert_eq!(
            find(&store, "12345678").unwrap().signature.to_string(),
            format!("{:0<64}", "12345678")
        );
        assert_eq!(
            find(&store, "abcdef012").unwrap().signature.to_string(),
            format!("{:0<64}", "abcdef0123")
        );
        for (text, expected) in [
            ("1234567", "at least the first 8"),
            ("no-such-thing", "at least the first 8"),
            ("abcdef01", "is ambiguous"),
            ("ffffffff", "no environment"),
        ] {
            let message = find(&store, text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
