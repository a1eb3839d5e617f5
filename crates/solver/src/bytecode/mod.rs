//! Modules are compiled once for each Python, and not by every process that imports them from a read-only environment.
//!
//! conda's noarch packages and wheels come without bytecode, and some builds of other packages do too. It is made by the environment's own Python, and kept as a
//! layer that is named by the archive and the Python that it is for, so that all environments share it. Bytecode is bound to its
//! source by time and size (PEP 552), because the files of an environment never change, and those of a writable layer above it
//! may. It holds no prefix that counts: Python puts the path that it imports from in the place of the one that was compiled.
//!
//! Source whose prefix placeholder is replaced has another text at every prefix and is left out. Knows layers and how to run a
//! Python; nothing of where a file will be linked.

mod interpreter;
mod runtime;

use std::collections::{BTreeMap, HashSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::ingest::{Ingest, Stored, Written};
use envfs_store::layer::{Entry, EntryKind, FileEntry, Layer};
use envfs_store::path::EnvPath;
use envfs_store::placeholder::Placeholder;
use envfs_store::workspace::Workspace;
use sha2::Digest as _;

use crate::package::LockedPackage;
use interpreter::Interpreter;
use runtime::Runtime;

/// What the layers are named by, besides the archive and the Python. Bytecode that is made in another way needs another version.
const VERSION: &str = "envfs bytecode 1";

/// No module is larger: what is, is data, and its bytecode would not be worth its place.
const MAX_SOURCE_BYTES: u64 = 16 * 1024 * 1024;

/// The directory of an environment in which a Python lies that is not its own, as that of a venv.
pub(crate) const NESTED: &str = ".python";

/// What bytecode there is: by the archive whose modules it is of.
pub(crate) type Bytecode = BTreeMap<Sha256, Layer>;

/// Why modules cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BytecodeError {
    /// The Python does not run here.
    #[error("{python} cannot be run to compile modules: {reason}; build with --no-pyc if it is for another machine")]
    Python {
        /// The package.
        python: String,
        /// What happened.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] envfs_store::Error),
}

/// Makes sure that the bytecode of all `sources` is in the store. Without a Python among `packages`, or without modules, there is
/// none.
///
/// # Errors
/// When the Python cannot be run, or the store not be written.
pub(crate) fn bring(
    store: &Store,
    workspace: &Workspace,
    packages: &[(LockedPackage, Layer)],
    sources: &[&Layer],
) -> Result<(Bytecode, Written), BytecodeError> {
    let mut found = Bytecode::new();
    let mut written = Written::default();
    let Some((python, python_layer)) = packages.iter().find(|(package, _)| package.name() == "python") else {
        return Ok((found, written));
    };
    let wanted: Vec<Job<'_>> = sources
        .iter()
        .filter_map(|layer| Job::of(layer, &python_layer.archive))
        .collect();
    let mut missing = take_existing(store, wanted, &mut found)?;
    if missing.is_empty() {
        return Ok((found, written));
    }
    let _reservation = store.reserve(&format!("bytecode-{}", python_layer.archive))?;
    // Somebody else may have made some while we waited.
    missing = take_existing(store, missing, &mut found)?;
    if missing.is_empty() {
        return Ok((found, written));
    }
    let failed = |reason: String| BytecodeError::Python {
        python: python.to_string(),
        reason,
    };
    let runtime = Runtime::write_out(store, workspace, packages, python).map_err(|error| match error {
        runtime::RuntimeError::Store(error) => error.into(),
        runtime::RuntimeError::Other(reason) => failed(reason),
    })?;
    for (archive, layer, added) in compile_all(store, workspace, &runtime, &missing, &failed)? {
        written += added;
        found.insert(archive, layer);
    }
    Ok((found, written))
}

/// The module that bytecode of a layer is of, by its path in the layer.
pub(crate) fn source_of(path: &EnvPath) -> Option<EnvPath> {
    let names: Vec<&[u8]> = path.names().collect();
    let [above @ .., b"__pycache__", file] = names.as_slice() else {
        return None;
    };
    let stem = file.split(|&byte| byte == b'.').next()?;
    let source = [stem, b".py"].concat();
    let names: Vec<&[u8]> = above.iter().copied().chain([source.as_slice()]).collect();
    EnvPath::parse(names.join(&b'/')).ok()
}

/// One layer whose modules are to be compiled.
struct Job<'a> {
    source: &'a Layer,
    /// What the layer of the bytecode is called.
    name: Sha256,
    modules: Vec<Module<'a>>,
}

struct Module<'a> {
    path: &'a EnvPath,
    file: &'a FileEntry,
    mtime_s: i64,
}

impl<'a> Job<'a> {
    fn of(source: &'a Layer, python: &Sha256) -> Option<Self> {
        // What a package ships is valid: its files keep their times.
        let shipped: HashSet<EnvPath> = source
            .entries
            .iter()
            .filter_map(|entry| source_of(&entry.path))
            .collect();
        let modules: Vec<Module<'a>> = source
            .entries
            .iter()
            .filter(|entry| is_noarch(&entry.path) || !shipped.contains(&entry.path))
            .filter_map(Module::of)
            .collect();
        let text = format!("{VERSION}\narchive sha256:{}\npython sha256:{python}\n", source.archive);
        (!modules.is_empty()).then(|| Self {
            source,
            name: Sha256::from_bytes(sha2::Sha256::digest(text).into()),
            modules,
        })
    }
}

impl<'a> Module<'a> {
    fn of(entry: &'a Entry) -> Option<Self> {
        let EntryKind::File(file) = &entry.kind else {
            return None;
        };
        let path = entry.path.as_bytes();
        let is_importable = is_noarch(&entry.path) || at_home(path).starts_with(b"lib/python");
        let is_module = is_importable && path.ends_with(b".py");
        let is_same_everywhere = !file.placeholder.as_ref().is_some_and(Placeholder::changes_content);
        (is_module && is_same_everywhere && file.size_bytes <= MAX_SOURCE_BYTES).then_some(Self {
            path: &entry.path,
            file,
            mtime_s: entry.mtime_s,
        })
    }

    /// Where Python looks for the bytecode (PEP 3147).
    fn cached(&self, cache_tag: &str) -> Option<EnvPath> {
        let path = std::str::from_utf8(self.path.as_bytes()).ok()?;
        let (directory, name) = path.rsplit_once('/')?;
        let stem = name.strip_suffix(".py")?;
        EnvPath::parse(format!("{directory}/__pycache__/{stem}.{cache_tag}.pyc")).ok()
    }
}

/// A path of a Python's own prefix, wherever that lies in the environment.
fn at_home(path: &[u8]) -> &[u8] {
    let nested = path.strip_prefix(NESTED.as_bytes());
    nested.and_then(|path| path.strip_prefix(b"/")).unwrap_or(path)
}

/// Whether the path says where in any Python's library a file goes, as in noarch packages and wheels. What those ship as
/// bytecode has the time of another installation.
fn is_noarch(path: &EnvPath) -> bool {
    path.as_bytes().starts_with(b"site-packages/")
}

/// Takes those that the store has, and returns the others.
fn take_existing<'a>(store: &Store, jobs: Vec<Job<'a>>, found: &mut Bytecode) -> Result<Vec<Job<'a>>, BytecodeError> {
    let mut missing = Vec::new();
    for job in jobs {
        match store.layer(&job.name)? {
            Some(layer) => drop(found.insert(job.source.archive, layer)),
            None => missing.push(job),
        }
    }
    Ok(missing)
}

/// What one layer's modules became.
type Compiled = (Sha256, Layer, Written);

/// Compiles with as many interpreters as there are processors.
fn compile_all(
    store: &Store,
    workspace: &Workspace,
    runtime: &Runtime,
    jobs: &[Job<'_>],
    failed: &(dyn Fn(String) -> BytecodeError + Sync),
) -> Result<Vec<Compiled>, BytecodeError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Compiled>, BytecodeError> {
        let mut interpreter = Interpreter::start(runtime).map_err(failed)?;
        let mut done = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(compile(store, workspace, &mut interpreter, job, failed)?);
        }
        Ok(done)
    };
    let workers = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(jobs.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let done = worker
                .join()
                .map_err(|_| failed("a worker stopped unexpectedly".to_owned()))?;
            all.extend(done?);
        }
        Ok(all)
    })
}

fn compile(
    store: &Store,
    workspace: &Workspace,
    interpreter: &mut Interpreter<'_>,
    job: &Job<'_>,
    failed: &dyn Fn(String) -> BytecodeError,
) -> Result<Compiled, BytecodeError> {
    let mut ingest = Ingest::new(store, workspace)?;
    let mut entries = BTreeMap::new();
    for module in &job.modules {
        let Some(path) = module.cached(interpreter.cache_tag()) else {
            continue;
        };
        let source = ingest.content(&Stored {
            digest: module.file.digest,
            // Only the digest and the size are looked at.
            sha256: module.file.sha256.unwrap_or(job.name),
            size_bytes: module.file.size_bytes,
        })?;
        let bytecode = interpreter
            .compile(module.path, module.mtime_s, &source)
            .map_err(failed)?;
        let Some(bytecode) = bytecode else { continue };
        let stored = ingest.add_bytes(&bytecode)?;
        let kind = EntryKind::File(FileEntry {
            digest: stored.digest,
            sha256: Some(stored.sha256),
            size_bytes: stored.size_bytes,
            executable: false,
            placeholder: None,
        });
        entries.insert(
            path.clone(),
            Entry {
                path,
                mtime_s: module.mtime_s,
                kind,
            },
        );
    }
    let layer = Layer {
        archive: job.name,
        info: BTreeMap::new(),
        patched_mtime_s: job.source.patched_mtime_s,
        entries: entries.into_values().collect(),
    };
    let mut written = ingest.publish()?;
    written += Written {
        objects: 0,
        bytes: layer.publish(store, workspace)?,
        inodes: 1,
    };
    Ok((job.source.archive, layer, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytecode_lies_where_python_looks_for_it() {
        let file = FileEntry {
            digest: envfs_store::Digest::of(b""),
            sha256: None,
            size_bytes: 0,
            executable: false,
            placeholder: None,
        };
        let path = EnvPath::parse("site-packages/a/b.py").unwrap();
        let module = Module {
            path: &path,
            file: &file,
            mtime_s: 0,
        };
        let cached = module.cached("cpython-311").unwrap();
        assert_eq!(cached.to_string(), "site-packages/a/__pycache__/b.cpython-311.pyc");
        assert_eq!(source_of(&cached), Some(path));
        let optimized = EnvPath::parse("__pycache__/b.cpython-312.opt-1.pyc").unwrap();
        assert_eq!(source_of(&optimized).unwrap().to_string(), "b.py");
        assert_eq!(source_of(&EnvPath::parse("a/b.pyc").unwrap()), None);
    }
}
