//! Which packages, and how they arrive: specs, channels, solving, lock files and downloads.
//!
//! The only crate that knows rattler. Everything public here is our own, so that a new version of rattler is a change
//! in this crate alone. Must not know FUSE, print, or read the environment.

mod agreement;
mod archive;
mod build;
mod builder;
mod bytecode;
mod canonical;
mod channel;
mod direct_url;
mod document;
mod export;
mod fetch;
#[doc(hidden)]
pub mod fuzzing;
mod import;
mod installed;
mod limits;
mod link;
mod lock;
mod network;
mod options;
mod package;
mod pep508;
mod project;
mod pylock;
mod pypi;
mod python;
mod python_lock;
mod repack;
mod requirements;
mod retry;
mod solve;
mod source;
mod spec;
mod subdir;
mod uv;
mod wheel;
mod wheel_metadata;
mod wheels;
mod zip_end;

pub use agreement::disagreements;
pub use archive::ArchiveError;
pub use build::{
    BuildError, BuildProgress, BuildRequest, Built, LinkScript, LinkScriptError, LinkScripts, ScriptOutput, ScriptSite,
    ScriptsRun, build, build_again, build_host, known_signature,
};
pub use builder::{BuildSandbox, Confines, SourceBuilder, SourceError};
pub use bytecode::BytecodeError;
pub use canonical::{Question, QuestionContext};
pub use channel::ChannelError;
pub use document::write_document;
pub use export::{Asked, Export, ExportError, ExportFormat, UnknownExportFormat, export};
pub use fetch::{FetchError, FetchProgress, FetchedArchive, NoProgress};
pub use import::{
    ImportError, ImportRequest, Imported, ImportedPackage, MachinePython, Origin, Outside, PrefixKind, Requested,
    import,
};
pub use installed::{installed_distributions, is_built_here};
pub use limits::{ArchiveLimits, Exceeded, LimitKind, UnknownLimit};
pub use link::LinkError;
pub use lock::{DEFAULT_ENVIRONMENT, Lock, LockError, LockFormat, LockedContents};
pub use network::{Network, NetworkError, NetworkOptions};
pub use options::BuildOptions;
pub use package::{LockedPackage, PackageError, link_order};
pub use project::{Project, ProjectError, Variant};
pub use pylock::PylockError;
pub use pypi::{LockedWheel, WheelFileName, WheelNameError, normalized_name, wheel_order};
pub use python::{PythonError, PythonTarget};
pub use python_lock::{PythonLock, PythonLockError, Selection};
pub use requirements::{Parts, RequirementError, Requirements};
pub use solve::{
    ChannelPriority, ExcludeNewer, ParseExcludeNewerError, Solution, SolveError, SolveRequest, VirtualPackageError,
    VirtualPackages, solve,
};
pub use source::{Distributions, LockedSource, SourcePlace};
pub use spec::{Spec, SpecError};
pub use subdir::{Subdir, UnknownSubdir};
pub use uv::{Uv, UvError, UvOptions};
pub use wheel::WheelError;
pub use wheel_metadata::complete_wheels;
pub use wheels::{Builds, InheritedBase, WheelRequest, WheelsError, resolve_wheels};
