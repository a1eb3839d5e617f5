//! `envfs build`: bring everything into the store and say what it is called.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use envfs_fuse::backend::{self, BackendError};
use envfs_solver::{BuildRequest, Built, Network, SourceBuilder, Subdir, build};
use envfs_store::Store;
use envfs_store::digest::Digest;
use envfs_store::environment::{self, Environment};
use envfs_store::lease::LeaseKind;
use serde::Serialize;

use crate::commands::mount;
use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::progress::Bar;
use crate::resolve::{self, Reference};
use crate::sandbox::RunSandbox;
use crate::solving::{SpecArgs, current_subdir, empty};

/// Build an environment into the store and print its signature
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs build pixi.lock\n  \
    envfs build -f environment.yml\n  \
    envfs build -c conda-forge 'python=3.12' numpy\n  \
    envfs build --python 3.12 --pypi 'httpx>=0.27'\n  \
    envfs build uv.lock --group dev\n  \
    envfs build --base 3fb1c2d4 tqdm\n\n\
    Building twice is cheap: what is in the store is used, and an environment that is there is only named.")]
pub(crate) struct BuildArgs {
    /// A lock file, a spec file or a signature; or what is wanted, as MatchSpecs
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
    /// Lay out now what the first `envfs run` would have to, as copies in the store's cache
    #[arg(long)]
    prepare: bool,
    /// Which environment of a lock file that holds several
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
}

#[derive(Serialize)]
struct Report {
    signature: Digest,
    tree: Digest,
    base: Option<Digest>,
    reused: bool,
    packages: usize,
    new_packages: usize,
    new_objects: u64,
    new_bytes: u64,
    new_inodes: u64,
    clashes: usize,
    seconds: f64,
}

pub(crate) fn execute(context: &Context, args: &BuildArgs) -> Result<ExitCode, CliError> {
    let started = Instant::now();
    let built = match args.reference()? {
        Some(Reference::Signature(text)) => found(environment::find(&context.store()?, text)?),
        Some(Reference::LockFile(path)) => args.build_lock(context, path)?,
        Some(Reference::SpecFile(path)) => {
            let spec = SpecArgs {
                file: Some(path.to_owned()),
                ..args.spec.clone()
            };
            args.build_spec(context, &spec, &[])?
        }
        None => args.build_spec(context, &args.spec, &args.what)?,
    };
    if args.prepare {
        prepare(&context.store()?, &built.environment)?;
    }
    report(context, &built, started.elapsed().as_secs_f64())?;
    Ok(ExitCode::SUCCESS)
}

fn prepare(store: &Store, environment: &Environment) -> Result<(), CliError> {
    let place = envfs_fuse::private_prefix(store, &environment.signature);
    let service = mount::service(store, environment, &place, LeaseKind::Run)?;
    Ok(backend::prepare(&service).map_err(BackendError::from)?)
}

impl BuildArgs {
    /// The environment that the only argument names, unless it is a MatchSpec.
    fn reference(&self) -> Result<Option<Reference<'_>>, CliError> {
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
            || [".yml", ".yaml", ".lock", ".txt", ".toml"]
                .iter()
                .any(|end| only.ends_with(end));
        if self.spec.file.is_none() && (is_signature || is_file) {
            return Reference::parse(only).map(Some);
        }
        Ok(None)
    }

    fn build_lock(&self, context: &Context, path: &Path) -> Result<Built, CliError> {
        let subdir = self.subdir()?;
        let contents = resolve::locked_contents(path, self.environment.as_deref(), subdir)?;
        let base = self
            .spec
            .base
            .as_ref()
            .map(|base| resolve::environment(context, base))
            .transpose()?;
        let request = BuildRequest {
            packages: contents.packages,
            wheels: contents.wheels,
            sources: contents.sources,
            bytecode: !self.no_pyc,
            subdir,
            variables: std::collections::BTreeMap::default(),
            base,
        };
        let network = context.network()?;
        context.block_on(self.run(context, &network, request))?
    }

    fn build_spec(&self, context: &Context, spec: &SpecArgs, match_specs: &[String]) -> Result<Built, CliError> {
        let subdir = self.subdir()?;
        let wanted = spec.wanted(context, match_specs)?;
        let network = context.network()?;
        context.block_on(async {
            let solved = spec.solve(context, &network, &wanted, subdir, &empty(subdir)).await?;
            let request = BuildRequest {
                packages: solved.contents.packages,
                wheels: solved.contents.wheels,
                sources: solved.contents.sources,
                bytecode: !self.no_pyc,
                subdir,
                variables: wanted.variables(),
                base: wanted.base,
            };
            self.run(context, &network, request).await
        })?
    }

    async fn run(&self, context: &Context, network: &Network, request: BuildRequest) -> Result<Built, CliError> {
        let bar = Bar::new(context.quiet || context.json);
        let store = context.store()?;
        if request.sources.is_empty() || self.spec.no_build {
            return Ok(build(&store, network, request, None, &bar).await?);
        }
        let (uv, sandbox) = (context.uv()?, RunSandbox::new(context)?);
        let builder = SourceBuilder {
            uv: &uv,
            sandbox: &sandbox,
        };
        Ok(build(&store, network, request, Some(&builder), &bar).await?)
    }

    fn subdir(&self) -> Result<Subdir, CliError> {
        self.platform.map_or_else(current_subdir, Ok)
    }
}

fn found(environment: Environment) -> Built {
    Built {
        environment,
        reused: true,
        new_packages: 0,
        written: envfs_store::ingest::Written::default(),
        clashes: Vec::new(),
        link_scripts: Vec::new(),
    }
}

fn report(context: &Context, built: &Built, seconds: f64) -> Result<(), CliError> {
    let environment = &built.environment;
    let packages = environment.all_packages(&context.store()?)?.len();
    for clash in &built.clashes {
        tracing::info!("{}: that of {} hides that of {}", clash.path, clash.winner, clash.loser);
    }
    if !built.link_scripts.is_empty() {
        context.note(&format!(
            "note: link scripts are not run: {}",
            built.link_scripts.join(", ")
        ));
    }
    if context.json {
        return context.print_json(&Report {
            signature: environment.signature,
            tree: environment.tree,
            base: environment.base,
            reused: built.reused,
            packages,
            new_packages: built.new_packages,
            new_objects: built.written.objects,
            new_bytes: built.written.bytes,
            new_inodes: built.written.inodes,
            clashes: built.clashes.len(),
            seconds,
        });
    }
    let count = output::count(packages as u64, "package");
    context.note(&if built.reused {
        format!("{count}, built before")
    } else {
        format!(
            "{count}, {} new: {} in {} in {seconds:.2} s",
            built.new_packages,
            output::bytes(built.written.bytes),
            output::count(built.written.inodes, "inode"),
        )
    });
    output::line(&environment.signature.to_string())
}
