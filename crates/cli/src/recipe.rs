//! What an environment is to be made of: opened, looked up among what was answered before, solved, built.
//!
//! The one way from what was typed to an environment, whether it is built on demand or found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args as _, FromArgMatches as _};
use envfs_solver::{
    BuildOptions, BuildRequest, Built, DEFAULT_ENVIRONMENT, Lock, LockedContents, LockedSource, Network, Question,
    SourceBuilder, Subdir, build,
};
use envfs_store::answers::{self, Answer};
use envfs_store::environment::{self, Environment};
use envfs_store::name::Name;
use envfs_store::{Digest, Store};

use crate::context::Context;
use crate::error::CliError;
use crate::link_scripts;
use crate::machine_python;
use crate::metadata;
use crate::progress::Bar;
use crate::resolve::{self, Reference};
use crate::sandbox::RunSandbox;
use crate::solving::{SpecArgs, Wanted, current_subdir, empty};

/// What is to be made, as it is typed.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Recipe {
    /// A lock file, a spec file, a directory that holds one, a signature or a name with its tag; or what is wanted, as MatchSpecs
    #[arg(value_name = "ENV|MATCHSPEC")]
    what: Vec<String>,
    #[command(flatten)]
    spec: SpecArgs,
    /// The platform [default: this machine's]
    #[arg(long, value_name = "SUBDIR")]
    platform: Option<Subdir>,
    /// Do not compile the modules that packages bring without bytecode; Python then does so at each start
    #[arg(long, env = "ENVFS_NO_PYC", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    no_pyc: bool,
    /// Do not run the scripts by which packages finish their installation (`bin/.<package>-post-link.sh`)
    #[arg(long)]
    no_link_scripts: bool,
    /// Put packages from PyPI on a Python of this machine, and ask no channel: one of the version that --python names, or this
    /// program
    #[arg(
        long,
        value_name = "PROGRAM",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = ["base", "channels", "platform"]
    )]
    machine_python: Option<Option<PathBuf>>,
    /// Which environment of a lock file that holds several
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
}

/// A recipe whose files were read, and whose base is there.
pub(crate) struct Opened {
    subdir: Subdir,
    options: BuildOptions,
    source: Source,
    base: Option<Environment>,
    /// Whether what would have to be built from source is refused.
    no_build: bool,
    network: Network,
    /// The digest of what it asks, if that may have been asked before.
    question: Option<Digest>,
}

enum Source {
    Environment(Box<Environment>),
    Lock {
        path: PathBuf,
        text: String,
        environment: String,
    },
    Spec {
        args: SpecArgs,
        wanted: Box<Wanted>,
    },
}

/// An answer that is kept, and whether it may be taken without asking again.
pub(crate) struct Kept {
    answer: Answer,
    pub(crate) is_fresh: bool,
}

impl Recipe {
    /// The recipe that these arguments are, with the defaults of everything else.
    pub(crate) fn of(arguments: &[String]) -> Result<Self, CliError> {
        let command = Self::augment_args(clap::Command::new("envfs").no_binary_name(true));
        let recipe = command
            .try_get_matches_from(arguments)
            .and_then(|matches| Self::from_arg_matches(&matches));
        recipe.map_err(|error| CliError::usage(error.to_string()))
    }

    /// Reads the files, brings the base, and finds out what is asked.
    pub(crate) fn open(&self, context: &Context) -> Result<Opened, CliError> {
        let mut base = None;
        let source = match self.reference()? {
            Some(Reference::Built(handle)) => Source::Environment(Box::new(handle.environment(context)?)),
            Some(Reference::LockFile(path)) => {
                let given = self.spec.base.as_ref();
                base = given.map(|base| resolve::environment(context, base)).transpose()?;
                Source::Lock {
                    text: read(&path)?,
                    path,
                    environment: self
                        .environment
                        .clone()
                        .unwrap_or_else(|| DEFAULT_ENVIRONMENT.to_owned()),
                }
            }
            Some(Reference::SpecFile(path)) => {
                let args = SpecArgs {
                    file: Some(path),
                    ..self.spec.clone()
                };
                self.source(context, args, &[])?
            }
            None => self.source(context, self.spec.clone(), &self.what)?,
        };
        if self.machine_python.is_some() && !matches!(source, Source::Spec { .. }) {
            return Err(CliError::usage(
                "what is built or locked has its Python: --machine-python is for what is solved",
            ));
        }
        if self.environment.is_some() && !matches!(source, Source::Lock { .. }) {
            return Err(CliError::usage(
                "--environment is for a lock file that holds several environments: `envfs lock` makes one of a project's variants",
            ));
        }
        if let Source::Spec { wanted, .. } = &source {
            base.clone_from(&wanted.base);
        }
        let mut opened = Opened {
            subdir: self.platform.map_or_else(current_subdir, Ok)?,
            options: BuildOptions {
                bytecode: !self.no_pyc,
                link_scripts: !self.no_link_scripts,
            },
            source,
            base,
            no_build: self.spec.no_build,
            network: context.network()?,
            question: None,
        };
        opened.question = opened.question()?;
        Ok(opened)
    }

    fn source(&self, context: &Context, args: SpecArgs, match_specs: &[String]) -> Result<Source, CliError> {
        let mut wanted = args.wanted(context, match_specs)?;
        let bytecode = !self.no_pyc;
        wanted.machine_python = Some(bytecode);
        if let Some(program) = &self.machine_python {
            if wanted.base.is_some() || !wanted.spec.asks_only_for_python(current_subdir()?) {
                return Err(CliError::usage(
                    "only packages from PyPI can be put on a Python of this machine: --machine-python takes no conda packages \
                     and no base",
                ));
            }
            let program = program.as_deref();
            let version = args.python.as_deref();
            let base = machine_python::environment(context, program, version, bytecode)?;
            wanted.base = Some(base.ok_or_else(|| machine_python::missing(program, version))?);
        }
        Ok(Source::Spec {
            wanted: Box::new(wanted),
            args,
        })
    }

    /// The environment that the only argument names, unless it is a MatchSpec.
    fn reference(&self) -> Result<Option<Reference>, CliError> {
        if self.what.is_empty() && self.spec.is_empty() {
            return Err(CliError::usage(
                "nothing to build: name a lock file or an environment.yml, or give MatchSpecs",
            ));
        }
        let [only] = self.what.as_slice() else { return Ok(None) };
        let is_signature = only.len() >= environment::MIN_PREFIX_DIGITS
            && only
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
        let is_file = Path::new(only).is_file()
            || resolve::is_directory(only)
            || [".yml", ".yaml", ".lock", ".txt", ".toml"]
                .iter()
                .any(|end| only.ends_with(end));
        // Where a MatchSpec has one colon it names a namespace, which nobody's channel has.
        let is_name = only.contains(':') && only.parse::<Name>().is_ok();
        if self.spec.file.is_none() && (is_signature || is_file || is_name) {
            return Reference::parse(only).map(Some);
        }
        Ok(None)
    }
}

impl Opened {
    /// The answer to the same question, if it is kept.
    pub(crate) fn kept(&self, store: &Store, max_age: Duration) -> Option<Kept> {
        let answer = answers::find(store, self.question.as_ref()?)?;
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs());
        // A lock says the same for ever; an answer from the future is one of a clock that was wrong.
        let is_fresh = matches!(self.source, Source::Lock { .. })
            || now
                .checked_sub(answer.solved_unix_s)
                .is_some_and(|age| age <= max_age.as_secs());
        Some(Kept { answer, is_fresh })
    }

    /// Solves, if there is something to solve, and builds what is missing. The answer is kept for the next time.
    pub(crate) fn build(&self, context: &Context) -> Result<Built, CliError> {
        let built = self.solve_and_build(context)?;
        metadata::ensured(context, &context.store()?, &built.environment, self.path());
        Ok(built)
    }

    fn solve_and_build(&self, context: &Context) -> Result<Built, CliError> {
        let mut base = self.base.clone();
        let (contents, lock) = match &self.source {
            Source::Environment(found) => return Ok(found_built((**found).clone())),
            Source::Lock {
                path,
                text,
                environment,
            } => {
                let lock = Lock::parse(text, path)?;
                (resolve::contents_of(&lock, Some(environment), self.subdir)?, None)
            }
            Source::Spec { args, wanted } => {
                let nothing = empty(self.subdir);
                let solving = args.solve(context, &self.network, wanted, self.subdir, &nothing);
                let solved = context.block_on(solving)??;
                let is_on_machine_python = solved.machine_python.is_some();
                base = solved.machine_python.or(base);
                let lock = Lock::from_solutions(
                    DEFAULT_ENVIRONMENT,
                    &solved.channels,
                    std::slice::from_ref(&solved.contents),
                );
                // What cannot be written into a lock can still be built.
                // No lock can say where the Python of a machine is to be had.
                let lock = lock.and_then(|lock| lock.render()).ok();
                (solved.contents, lock.filter(|_| !is_on_machine_python))
            }
        };
        let is_exact = contents.packages.iter().all(|package| package.sha256().is_some())
            && contents.wheels.iter().all(|wheel| wheel.sha256().is_some());
        // A directory is another one tomorrow, under the same name.
        let is_lasting = !contents.sources.iter().any(LockedSource::is_directory);
        let built = self.build_contents(context, contents, base)?;
        // Without a digest another file may be there the next time.
        if let Some(question) = self.question.filter(|_| is_lasting && (is_exact || lock.is_some())) {
            let answer = Answer::new(built.environment.signature, lock, self.path().map(Path::to_owned));
            if let Err(error) = answer.keep(&context.store()?, &question) {
                tracing::debug!("the answer cannot be kept for the next time: {error}");
            }
        }
        Ok(built)
    }

    /// Builds what is missing of a kept answer; solves nothing.
    pub(crate) fn build_kept(&self, context: &Context, kept: &Kept) -> Result<Option<Built>, CliError> {
        let store = context.store()?;
        let found = kept
            .environment(&store)?
            .map(|found| resolve::claimed(context, &found.signature));
        let built = match (found.transpose()?.flatten(), &kept.answer.lock) {
            (Some(found), _) => found_built(found),
            (None, None) => return Ok(None),
            (None, Some(text)) => {
                let lock = Lock::parse(text, Path::new("pixi.lock"))?;
                self.build_contents(
                    context,
                    resolve::contents_of(&lock, None, self.subdir)?,
                    self.base.clone(),
                )?
            }
        };
        metadata::ensured(context, &store, &built.environment, self.path());
        Ok(Some(built))
    }

    fn build_contents(
        &self,
        context: &Context,
        contents: LockedContents,
        base: Option<Environment>,
    ) -> Result<Built, CliError> {
        let request = BuildRequest {
            packages: contents.packages,
            wheels: contents.wheels,
            sources: contents.sources,
            bytecode: self.options.bytecode,
            link_scripts: self
                .options
                .link_scripts
                .then(|| Arc::new(link_scripts::Sandboxed) as _),
            subdir: self.subdir,
            variables: match &self.source {
                Source::Spec { wanted, .. } => wanted.variables(),
                _ => BTreeMap::new(),
            },
            base,
        };
        let bar = Bar::new(context.quiet || context.json);
        let store = context.store()?;
        if request.sources.is_empty() || self.no_build {
            return Ok(context.block_on(build(&store, &self.network, request, None, &bar))??);
        }
        let (uv, sandbox) = (context.uv()?, RunSandbox::new(context)?);
        let builder = SourceBuilder {
            uv: &uv,
            sandbox: &sandbox,
        };
        Ok(context.block_on(build(&store, &self.network, request, Some(&builder), &bar))??)
    }

    fn question(&self) -> Result<Option<Digest>, CliError> {
        let base = self.base.as_ref().map(|base| base.signature.to_string());
        let base = base.as_deref();
        let question = match &self.source {
            Source::Environment(_) => None,
            Source::Lock { text, environment, .. } => Some(Question::of_lock(
                text.as_bytes(),
                environment,
                self.subdir,
                base,
                self.options,
            )),
            Source::Spec { args, wanted } => args.question(&self.network, wanted, self.subdir, self.options)?,
        };
        Ok(question.map(|question| Digest::of(question.text().as_bytes())))
    }

    /// The file that is asked for.
    fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::Environment(_) => None,
            Source::Lock { path, .. } => Some(path),
            Source::Spec { args, .. } => args.file.as_deref(),
        }
    }
}

impl Kept {
    /// The environment that the answer names, if it is still there: of a system store its tree may be gone.
    pub(crate) fn environment(&self, store: &Store) -> Result<Option<Environment>, CliError> {
        let found = environment::get(store, &self.answer.signature)?;
        Ok(found.filter(|environment| store.tree(&environment.tree).is_ok()))
    }

    /// When it was solved, in seconds since 1970-01-01 UTC.
    pub(crate) fn solved_unix_s(&self) -> u64 {
        self.answer.solved_unix_s
    }
}

fn found_built(environment: Environment) -> Built {
    Built {
        environment,
        reused: true,
        new_packages: 0,
        written: envfs_store::ingest::Written::default(),
        clashes: Vec::new(),
        script_outputs: Vec::new(),
        bound: Vec::new(),
        skipped_scripts: Vec::new(),
        // By who asks, if at all.
        kept: None,
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path)
        .map_err(|error| CliError::new(format!("cannot read `{}`", path.display())).because(error.to_string()))
}
