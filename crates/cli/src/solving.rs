//! From what was typed to packages: specs read, bases pinned, the solver and uv asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use envfs_solver::{
    BuildError, BuildOptions, BuildRequest, Builds, Distributions, ExcludeNewer, InheritedBase, LockedContents,
    LockedPackage, LockedWheel, Network, Parts, PythonLock, PythonTarget, Question, QuestionContext, RequirementError,
    Requirements, Selection, SolveRequest, SourceError, Spec, Subdir, VirtualPackages, WheelRequest, WheelsError,
    build_host, resolve_wheels, solve,
};
use envfs_store::Store;
use envfs_store::environment::{Environment, Package, PackageKind};
use envfs_store::view::View;

use crate::context::Context;
use crate::error::CliError;
use crate::machine_python;
use crate::progress::Bar;
use crate::resolve;
use crate::sandbox::RunSandbox;
use crate::surroundings::{own_cache, uv_settings, variable};

/// What is asked for on the command line, in `lock` and `build`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SpecArgs {
    /// What is wanted: environment.yml, requirements.txt, pyproject.toml, or a lock of the Python world (pylock.toml,
    /// poetry.lock, uv.lock)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// An extra of the project in the file
    #[arg(long = "extra", value_name = "NAME")]
    pub(crate) extras: Vec<String>,
    /// A dependency group of the project in the file
    #[arg(long = "group", value_name = "NAME")]
    pub(crate) groups: Vec<String>,
    /// A package from PyPI, or any other line of a requirements file: 'httpx>=0.27', '-r more.txt', '--index-url URL'
    #[arg(long = "pypi", value_name = "REQUIREMENT", allow_hyphen_values = true)]
    pub(crate) requirements: Vec<String>,
    /// The version of Python, from a conda channel: 3.12. Where none has it, builds of packages from PyPI alone take this machine's
    #[arg(long, value_name = "VERSION")]
    pub(crate) python: Option<String>,
    /// A channel: a name, a URL or a directory; the first has priority. Before those of the file
    #[arg(short, long = "channel", value_name = "CHANNEL")]
    pub(crate) channels: Vec<String>,
    /// Inherit this environment: its packages stay as they are, and only what is missing is added
    #[arg(long, value_name = "ENV")]
    pub(crate) base: Option<String>,
    /// Leave out packages that are newer than this date or age (2026-01-31, 7d)
    #[arg(long, value_name = "DATE")]
    pub(crate) exclude_newer: Option<String>,
    /// Refuse what would have to be built from source
    #[arg(long, env = "ENVFS_NO_BUILD", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_build: bool,
    /// Take a package from any channel that has it, not only from the first
    #[arg(long)]
    pub(crate) no_channel_priority: bool,
}

/// A spec with the environment that it inherits, and the lock of the Python world that it stands for, if it does.
pub(crate) struct Wanted {
    pub(crate) spec: Spec,
    pub(crate) base: Option<Environment>,
    parts: Parts,
    python_lock: Option<PythonLock>,
    /// The bytes behind that lock.
    python_lock_text: String,
    /// Whether a Python of this machine does where no channel has one, and then whether its modules are compiled.
    pub(crate) machine_python: Option<bool>,
}

impl Wanted {
    /// What activation sets: what the base sets, unless the spec sets it otherwise.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let mut variables = self
            .base
            .as_ref()
            .map_or_else(BTreeMap::new, |base| base.variables.clone());
        variables.extend(self.spec.variables().clone());
        variables
    }
}

/// What was solved, and the channels it was solved with.
pub(crate) struct Solved {
    pub(crate) channels: Vec<String>,
    pub(crate) contents: LockedContents,
    /// The Python of this machine that it stands on, where no channel has one.
    pub(crate) machine_python: Option<Environment>,
}

impl SpecArgs {
    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.file.is_none() && self.requirements.is_empty() && self.python.is_none()
    }

    /// Puts the file, MatchSpecs and options together.
    pub(crate) fn wanted(&self, context: &Context, match_specs: &[String]) -> Result<Wanted, CliError> {
        let parts = Parts {
            extras: self.extras.clone(),
            groups: self.groups.clone(),
        };
        let read = self.file.as_deref().map(python_lock).transpose()?.flatten();
        let (python_lock, python_lock_text) = read.unzip();
        let mut spec = match (&self.file, &python_lock) {
            (Some(_), Some(lock)) => Spec::from_match_specs(&[lock.python()], &[])?,
            (Some(file), None) => Spec::read(file, &parts)?,
            (None, _) if !(parts.extras.is_empty() && parts.groups.is_empty()) => {
                return Err(CliError::usage(
                    "--extra and --group are parts of a project: name it with `-f`",
                ));
            }
            (None, _) => Spec::from_match_specs(&[], &[])?,
        };
        spec.add_match_specs(match_specs)?;
        if let Some(version) = &self.python {
            spec.add_match_specs(&[format!("python={version}")])?;
        }
        spec.prepend_channels(&self.channels);
        if !self.requirements.is_empty() {
            if let Some(lock) = &python_lock {
                return Err(CliError::usage(format!(
                    "a {} is complete: nothing can be added to it",
                    lock.format()
                )));
            }
            spec.add_requirements(&self.requirements, &std::env::current_dir()?)?;
        }
        if let Some(base) = &self.base {
            spec.set_base(base);
        }
        // What nobody could resolve is said before anything is fetched for it.
        spec.requirements().check(!self.no_build)?;
        let base = spec
            .base()
            .map(|base| resolve::environment(context, base))
            .transpose()?;
        Ok(Wanted {
            spec,
            base,
            parts,
            python_lock,
            python_lock_text: python_lock_text.unwrap_or_default(),
            machine_python: None,
        })
    }

    /// What is asked for one platform, in one spelling; none if the answer depends on more than that.
    pub(crate) fn question(
        &self,
        network: &Network,
        wanted: &Wanted,
        subdir: Subdir,
        options: BuildOptions,
    ) -> Result<Option<Question>, CliError> {
        let nothing = empty(subdir);
        let request = self.request(wanted, subdir, &nothing, &nothing)?;
        let base = wanted.base.as_ref().map(|base| base.signature.to_string());
        let question = QuestionContext {
            base: base.as_deref(),
            exclude_newer: self.exclude_newer.as_deref(),
            parts: &wanted.parts,
            python_lock: wanted
                .python_lock
                .is_some()
                .then_some(wanted.python_lock_text.as_bytes()),
            settings: &uv_settings(),
            options,
        };
        Ok(Question::of_spec(network, &request, &question)?)
    }

    /// Solves for one platform: first the conda packages, then what is asked for from PyPI.
    pub(crate) async fn solve(
        &self,
        context: &Context,
        network: &Network,
        wanted: &Wanted,
        subdir: Subdir,
        preferred: &LockedContents,
    ) -> Result<Solved, CliError> {
        let pinned = wanted
            .base
            .as_ref()
            .map(|base| Pinned::open(context, base, subdir))
            .transpose()?;
        let contents = pinned
            .as_ref()
            .map_or_else(|| empty(subdir), |pinned| pinned.contents.clone());
        let request = self.request(wanted, subdir, &contents, preferred)?;
        let bar = Bar::waiting(context.quiet, "solving");
        let solution = solve(network, &request).await;
        bar.finish_and_clear();
        let solution = match solution {
            Err(error) => match self.on_machine_python(context, wanted, subdir)? {
                Some(wanted) => {
                    let solving = self.solve(context, network, &wanted, subdir, preferred);
                    let solved = Box::pin(solving).await?;
                    return Ok(Solved {
                        machine_python: wanted.base,
                        ..solved
                    });
                }
                None => return Err(error.into()),
            },
            Ok(solution) => solution,
        };
        let channels = solution.channels().to_vec();
        let packages = solution.into_packages();
        let found = if wanted.python_lock.is_none() && wanted.spec.requirements().is_empty() {
            Distributions {
                wheels: contents.wheels,
                sources: Vec::new(),
            }
        } else {
            let asking = Asking {
                context,
                wanted,
                target: &PythonTarget::of_packages(&packages, subdir, &request.virtual_packages)?,
                packages: &packages,
                pinned: pinned.as_ref(),
                preferred: &preferred.wheels,
            };
            self.distributions(network, &asking).await?
        };
        Ok(Solved {
            channels,
            contents: LockedContents {
                subdir,
                packages,
                wheels: found.wheels,
                sources: found.sources,
            },
            machine_python: None,
        })
    }

    /// The same on a Python of this machine, if nothing else was asked of channels, and nobody named one.
    fn on_machine_python(
        &self,
        context: &Context,
        wanted: &Wanted,
        subdir: Subdir,
    ) -> Result<Option<Wanted>, CliError> {
        let Some(bytecode) = wanted.machine_python else {
            return Ok(None);
        };
        let spec = &wanted.spec;
        let is_pypi_alone = spec.channels().is_empty() && spec.asks_only_for_python(subdir);
        let is_possible = is_pypi_alone && wanted.base.is_none() && wanted.python_lock.is_none();
        if self.python.is_none() || !is_possible || Subdir::current() != Some(subdir) {
            return Ok(None);
        }
        let base = machine_python::environment(context, None, self.python.as_deref(), bytecode)?;
        Ok(base.map(|base| Wanted {
            spec: spec.clone(),
            base: Some(base),
            parts: wanted.parts.clone(),
            python_lock: None,
            python_lock_text: String::new(),
            machine_python: None,
        }))
    }

    fn request<'a>(
        &self,
        wanted: &'a Wanted,
        subdir: Subdir,
        pinned: &'a LockedContents,
        preferred: &'a LockedContents,
    ) -> Result<SolveRequest<'a>, CliError> {
        Ok(SolveRequest {
            spec: &wanted.spec,
            subdir,
            pinned: &pinned.packages,
            preferred: &preferred.packages,
            exclude_newer: self.exclude_newer()?,
            channel_priority: match self.no_channel_priority {
                true => envfs_solver::ChannelPriority::Disabled,
                false => envfs_solver::ChannelPriority::Strict,
            },
            virtual_packages: VirtualPackages::for_subdir(subdir, Some(&own_cache()), &|name| variable(name))?,
        })
    }

    fn exclude_newer(&self) -> Result<Option<ExcludeNewer>, CliError> {
        let now = std::time::SystemTime::now();
        let parsed = self.exclude_newer.as_deref().map(|text| ExcludeNewer::parse(text, now));
        Ok(parsed.transpose()?)
    }

    /// What is asked for from PyPI, for one Python.
    async fn distributions(&self, network: &Network, asking: &Asking<'_>) -> Result<Distributions, CliError> {
        let found = match &asking.wanted.python_lock {
            None => {
                self.resolve(network, asking, asking.wanted.spec.requirements(), false)
                    .await?
            }
            Some(lock) => match lock.select(asking.target, &asking.wanted.parts)? {
                Selection::Pins(pins) => self.resolve(network, asking, &pins, true).await?,
                Selection::Exact(mut found) => {
                    let pinned = asking.pinned.map_or(&[][..], |pinned| &pinned.contents.wheels);
                    let is_pinned = |name: &str| pinned.iter().any(|pinned| pinned.name() == name);
                    found.wheels.retain(|wheel| !is_pinned(wheel.name()));
                    found.sources.retain(|source| !is_pinned(source.name()));
                    found.wheels.extend_from_slice(pinned);
                    found
                }
            },
        };
        if self.no_build {
            SourceError::refuse(&found.sources).map_err(BuildError::from)?;
        }
        Ok(found)
    }

    /// Looks for wheels, and only where they do not do for sources: finding out what those need may take an environment.
    async fn resolve(
        &self,
        network: &Network,
        asking: &Asking<'_>,
        requirements: &Requirements,
        is_complete: bool,
    ) -> Result<Distributions, CliError> {
        let uv = asking.context.uv()?;
        let store = asking.context.store()?;
        let exclude_newer = self.exclude_newer()?;
        let resolve = |builds: Builds<'_>| -> Result<Distributions, WheelsError> {
            let bar = Bar::waiting(asking.context.quiet, "resolving packages from PyPI");
            let request = WheelRequest {
                requirements,
                target: asking.target,
                packages: asking.packages,
                base: asking.pinned.map(Pinned::as_base),
                preferred: asking.preferred,
                exclude_newer,
                is_complete,
                builds,
                store: Some(&store),
            };
            let found = resolve_wheels(&uv, &request);
            bar.finish_and_clear();
            found
        };
        if self.no_build {
            return Ok(resolve(Builds::No)?);
        }
        let error = match resolve(Builds::NotYet) {
            Err(error) if error.is_for_want_of_builds() => error,
            found => return Ok(found?),
        };
        // What a package needs depends on the version of Python, and not on who built that.
        let sandbox = RunSandbox::new(asking.context)?;
        if let Some(python) = uv.python_like(asking.target) {
            return Ok(resolve(Builds::By(&sandbox, &python))?);
        }
        let subdir = asking.target.subdir();
        if Subdir::current() != Some(subdir) {
            return Ok(resolve(Builds::Anywhere(&sandbox))?);
        }
        let host = BuildRequest {
            packages: asking.packages.to_vec(),
            wheels: Vec::new(),
            sources: Vec::new(),
            subdir,
            variables: BTreeMap::new(),
            bytecode: false,
            link_scripts: None,
            base: asking.wanted.base.clone(),
        };
        let bar = Bar::new(asking.context.quiet || asking.context.json);
        let host = build_host(&store, network, &host, &bar).await;
        drop(bar);
        let host = host.map_err(|host| for_want_of_a_python(error, host))?;
        Ok(resolve(Builds::In(&sandbox, &host))?)
    }
}

/// Why sources cannot be asked what they need: that takes a Python, and bringing one failed.
fn for_want_of_a_python(error: WheelsError, host: BuildError) -> CliError {
    let host = CliError::from(host);
    match error {
        // What was wrong before sources were thought of says more.
        WheelsError::Failed { .. } => CliError::from(error).because_of(
            "a source could do instead of a wheel, but only a Python can ask it what it needs, and none can be brought",
            host,
        ),
        WheelsError::Requirement(RequirementError::MustBeBuilt { text, what, .. }) => CliError::new(format!(
            "'{text}' is {what}: only a Python can ask it what it needs, and none can be brought"
        ))
        .because_of("the Python of the environment", host),
        _ => CliError::new("only a Python can ask a source what it needs, and none can be brought")
            .because_of("the Python of the environment", host),
    }
}

/// What is asked for from PyPI, and against what.
struct Asking<'a> {
    context: &'a Context,
    wanted: &'a Wanted,
    target: &'a PythonTarget,
    packages: &'a [LockedPackage],
    pinned: Option<&'a Pinned>,
    preferred: &'a [LockedWheel],
}

/// A base with what is in it.
struct Pinned {
    contents: LockedContents,
    view: View,
}

impl Pinned {
    fn open(context: &Context, base: &Environment, subdir: Subdir) -> Result<Self, CliError> {
        let store = context.store()?;
        let tree = Arc::new(store.tree(&base.tree)?);
        Ok(Self {
            contents: environment_contents(&store, base, subdir)?,
            view: View::new(&store, tree, Path::new("/"))?,
        })
    }

    fn as_base(&self) -> InheritedBase<'_> {
        InheritedBase {
            view: &self.view,
            packages: &self.contents.packages,
            wheels: &self.contents.wheels,
        }
    }
}

/// The lock of the Python world in a file, if it is one, and all that it depends on: its text, and that of the project beside
/// it, which it must fit.
fn python_lock(path: &Path) -> Result<Option<(PythonLock, String)>, CliError> {
    // A file that cannot be read is a spec that cannot be read: that error says more.
    match std::fs::read_to_string(path) {
        Ok(text) if PythonLock::is_lock(&text) => {
            let lock = PythonLock::parse(&text, path)?;
            let project = std::fs::read_to_string(path.with_file_name("pyproject.toml")).unwrap_or_default();
            Ok(Some((lock, format!("{text}\0{project}"))))
        }
        _ => Ok(None),
    }
}

/// Nothing, for a platform.
pub(crate) fn empty(subdir: Subdir) -> LockedContents {
    LockedContents {
        subdir,
        packages: Vec::new(),
        wheels: Vec::new(),
        sources: Vec::new(),
    }
}

/// The platform of this machine.
pub(crate) fn current_subdir() -> Result<Subdir, CliError> {
    Subdir::current().ok_or_else(|| {
        CliError::new("conda channels have no packages for this kind of machine").help("say which with `--platform`")
    })
}

/// The packages of an environment as the solver needs them, read from its own `conda-meta`, and its wheels.
pub(crate) fn environment_contents(
    store: &Store,
    environment: &Environment,
    subdir: Subdir,
) -> Result<LockedContents, CliError> {
    let signature = &environment.signature;
    if environment.subdir != subdir.to_string() {
        return Err(CliError::new(format!(
            "the environment {signature} is for {}, not for {subdir}",
            environment.subdir
        )));
    }
    let view = View::new(store, Arc::new(store.tree(&environment.tree)?), Path::new("/"))?;
    let mut contents = empty(subdir);
    for package in environment.all_packages(store)? {
        match package.kind {
            PackageKind::Pypi => contents.wheels.push(wheel(&package)?),
            PackageKind::Conda => {
                let found = installed(&view, &package)?;
                contents.packages.push(found.ok_or_else(|| {
                    let name = package.dist_name();
                    CliError::new(format!("the environment {signature} has no `conda-meta/{name}.json`"))
                        .help("build it again")
                })?);
            }
        }
    }
    Ok(contents)
}

/// A package as the `conda-meta` of an environment has it.
pub(crate) fn installed(view: &View, package: &Package) -> Result<Option<LockedPackage>, CliError> {
    let path = format!("conda-meta/{}.json", package.dist_name());
    let Some(node) = view.tree().find(path.as_bytes())? else {
        return Ok(None);
    };
    let locked = LockedPackage::from_prefix_record_json(&view.read(node)?)?;
    // What has no archive is found by its layer.
    Ok(Some(match locked.sha256() {
        Some(_) => locked,
        None => locked.with_sha256(*package.sha256.as_bytes()),
    }))
}

pub(crate) fn wheel(package: &Package) -> Result<LockedWheel, CliError> {
    let wheel = LockedWheel::new(&package.url).map_err(|error| CliError::new(error.to_string()))?;
    Ok(wheel
        .with_sha256(*package.sha256.as_bytes())
        .with_size_bytes(package.size_bytes))
}
