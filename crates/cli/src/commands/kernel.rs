//! `envfs kernel`: environments as kernels of Jupyter (kernel specifications, jupyter-client).
//!
//! A kernel starts through `envfs run`, by the name of its environment where it has one: when the name moves on, kernels that run
//! keep what they have, and the next one sees the new environment.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use envfs_store::environment::{self, Environment};
use envfs_store::names::Names;
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::resolve::{Handle, Reference};
use crate::surroundings::{variable, xdg};

/// Where Jupyter looks besides the user's own directory (`jupyter --paths`).
const SYSTEM: [&str; 2] = ["/usr/local/share/jupyter", "/usr/share/jupyter"];

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    envfs kernel install science:current            survives `envfs promote` and `envfs rollback`\n  \
    envfs kernel install 3fb1c2d4 --name exact --display-name 'As of May'\n  \
    envfs kernel install science --sys-prefix       for the Jupyter of the active environment\n  \
    envfs kernel install science --prefix /usr/local    for everybody, by the administrator\n  \
    envfs kernel ls\n  \
    envfs kernel rm science-current\n\n\
    The environment must hold ipykernel. A kernel for everybody works in the store of whoever starts it, over the store \
    that holds the environment, which all must be able to read.")]
pub(crate) struct KernelArgs {
    #[command(subcommand)]
    command: KernelCommand,
}

#[derive(Debug, Subcommand)]
enum KernelCommand {
    /// Register an environment
    Install {
        /// A name, which is followed, or a signature
        #[arg(value_name = "NAME|SIGNATURE")]
        environment: String,
        /// What the kernel is called [default: the name of the environment]
        #[arg(long, value_name = "KERNEL")]
        name: Option<String>,
        /// What Jupyter shows
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List the kernels that run in environments
    Ls {
        #[command(flatten)]
        place: Place,
    },
    /// Remove a kernel; the environment stays
    Rm {
        /// The kernel
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where kernels are registered.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Place {
    /// For this user (the default)
    #[arg(long)]
    user: bool,
    /// For the Jupyter that is installed there
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// For the Jupyter of the active environment
    #[arg(long)]
    sys_prefix: bool,
}

#[derive(Serialize)]
struct Kernel {
    name: String,
    environment: String,
    display_name: String,
    path: PathBuf,
}

impl Place {
    /// Whether only this user looks there.
    fn is_of_user(&self) -> bool {
        self.prefix.is_none() && !self.sys_prefix
    }

    /// The directory of Jupyter's data.
    fn directory(&self) -> Result<PathBuf, CliError> {
        if let Some(prefix) = &self.prefix {
            return Ok(std::path::absolute(prefix)?.join("share/jupyter"));
        }
        if self.sys_prefix {
            let active = variable("CONDA_PREFIX").or_else(|| variable("VIRTUAL_ENV"));
            let prefix = active.ok_or_else(|| {
                CliError::usage("no environment is active: neither CONDA_PREFIX nor VIRTUAL_ENV is set")
                    .help("name it with `--prefix DIR`")
            })?;
            return Ok(PathBuf::from(prefix).join("share/jupyter"));
        }
        let named = variable("JUPYTER_DATA_DIR").map(PathBuf::from);
        named
            .or_else(|| Some(xdg("XDG_DATA_HOME", ".local/share")?.join("jupyter")))
            .ok_or_else(|| {
                CliError::new("there is no place for kernels: none of JUPYTER_DATA_DIR, XDG_DATA_HOME and HOME is set")
                    .help("say where with `--prefix DIR`")
            })
    }
}

pub(crate) fn execute(context: &Context, args: &KernelArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        KernelCommand::Install {
            environment,
            name,
            display_name,
            place,
        } => install(context, environment, name.as_deref(), display_name.as_deref(), place)?,
        KernelCommand::Ls { place } => list(context, place)?,
        KernelCommand::Rm { name, place } => remove(context, name, place)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn install(
    context: &Context,
    environment: &str,
    name: Option<&str>,
    display_name: Option<&str>,
    place: &Place,
) -> Result<(), CliError> {
    let Reference::Built(handle) = Reference::parse(environment)? else {
        return Err(
            CliError::usage(format!("`{environment}` is a file, and kernels need what stays"))
                .help("build it and give it a name: envfs name set NAME FILE"),
        );
    };
    let found = handle.environment(context)?;
    let packages = found.all_packages(&context.store()?)?;
    if !packages.iter().any(|package| package.name == "ipykernel") {
        return Err(
            CliError::new(format!("the environment {environment} does not hold ipykernel"))
                .help("build one that does: envfs build --base ENV ipykernel"),
        );
    }
    let followed = match &handle {
        Handle::Name(name, _) => name.to_string(),
        Handle::Signature(_) => found.signature.to_string(),
    };
    let name = match name {
        Some(name) => name.to_owned(),
        None => match &handle {
            Handle::Name(name, _) => name.to_string().replace(['/', ':'], "-"),
            Handle::Signature(_) => found.signature.to_string()[..16].to_owned(),
        },
    };
    check_name(&name)?;
    let directory = kernels(&place.directory()?).join(&name);
    if directory.exists() && read(&directory).is_none() {
        return Err(
            CliError::new(format!("`{}` is a kernel of somebody else", directory.display()))
                .help("choose another name with `--name`"),
        );
    }
    let mut argv = vec![std::env::current_exe()?.into_os_string()];
    argv.extend(stores(context, &handle, &found, place)?);
    let command = [
        "--quiet",
        "run",
        &followed,
        "--",
        "python",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ];
    argv.extend(command.map(OsString::from));
    let argv: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
    let specification = json!({
        "argv": argv,
        "display_name": display_name.unwrap_or(environment),
        "language": "python",
        "metadata": { "debugger": true, "envfs": { "environment": followed } },
    });
    let text = serde_json::to_vec_pretty(&specification).map_err(std::io::Error::from)?;
    output::make_directory(&directory)?;
    output::write_whole(&directory.join("kernel.json"), &text)?;
    if context.json {
        return context.print_json(&read(&directory));
    }
    context.note(&format!("{name} runs in {followed}"));
    output::line(&directory.display().to_string())
}

/// The options by which a kernel finds its environment. One that only this user starts works in this user's store. One that all start
/// works in the store of whoever starts it, over the one that holds the environment.
fn stores(
    context: &Context,
    handle: &Handle,
    environment: &Environment,
    place: &Place,
) -> Result<Vec<OsString>, CliError> {
    let store = context.store()?;
    let is_below = match handle {
        Handle::Name(name, _) => Names::find(&store, name)?.is_some_and(|found| found.is_lower),
        Handle::Signature(_) => match store.lower() {
            Some(lower) => environment::get(lower, &environment.signature)?.is_some(),
            None => false,
        },
    };
    let holder = store.lower().filter(|_| is_below).unwrap_or(&store);
    let is_alone = holder.lower().is_none();
    let is_administrator = nix::unistd::geteuid().is_root() || context.settings()?.system_store.is_some();
    if !place.is_of_user() && is_administrator && is_alone && is_open_to_all(holder.root()) {
        return Ok(vec!["--system-store".into(), holder.root().into()]);
    }
    if !place.is_of_user() {
        context.note(&format!(
            "note: only who may write to {} can start it",
            store.root().display()
        ));
    }
    let lower = store
        .lower()
        .map(|lower| ["--system-store".into(), lower.root().into()]);
    let own = [OsString::from("--store"), store.root().into()];
    Ok(own.into_iter().chain(lower.into_iter().flatten()).collect())
}

/// Whether everybody may come to the directory `path`, and list it.
fn is_open_to_all(path: &Path) -> bool {
    let allows = |path: &Path, bits: u32| path.metadata().is_ok_and(|found| found.mode() & bits == bits);
    allows(path, 0o005) && path.ancestors().skip(1).all(|above| allows(above, 0o001))
}

fn list(context: &Context, place: &Place) -> Result<(), CliError> {
    let mut directories = vec![place.directory()?];
    if place.is_of_user() {
        directories.extend(SYSTEM.map(PathBuf::from));
    }
    let mut found = Vec::new();
    for directory in directories {
        let Ok(entries) = fs::read_dir(kernels(&directory)) else {
            continue;
        };
        found.extend(entries.filter_map(|entry| read(&entry.ok()?.path())));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if context.json {
        return context.print_json(&found);
    }
    let rows: Vec<Vec<String>> = found
        .into_iter()
        .map(|kernel| {
            vec![
                kernel.name,
                kernel.environment,
                kernel.display_name,
                kernel.path.display().to_string(),
            ]
        })
        .collect();
    output::table(&["KERNEL", "ENVIRONMENT", "SHOWN AS", "PATH"], &[], &rows)
}

fn remove(context: &Context, name: &str, place: &Place) -> Result<(), CliError> {
    check_name(name)?;
    let directory = kernels(&place.directory()?).join(name);
    let Some(kernel) = read(&directory) else {
        return Err(CliError::new(format!(
            "there is no kernel `{name}` of ours in {}",
            directory.parent().unwrap_or(&directory).display()
        ))
        .help("`envfs kernel ls` lists them"));
    };
    fs::remove_dir_all(directory)?;
    if context.json {
        context.print_json(&kernel)?;
    }
    Ok(())
}

/// Letters, digits, `-`, `_` and `.`, as jupyter-client has them.
fn check_name(name: &str) -> Result<(), CliError> {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && !name.starts_with('.') && name.chars().all(is_usual) {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "`{name}` cannot be the name of a kernel: it has letters, digits, `-`, `_` and `.`"
    )))
}

fn kernels(data: &Path) -> PathBuf {
    data.join("kernels")
}

/// A kernel of ours.
fn read(directory: &Path) -> Option<Kernel> {
    let text = fs::read(directory.join("kernel.json")).ok()?;
    let specification: Value = serde_json::from_slice(&text).ok()?;
    Some(Kernel {
        name: directory.file_name()?.to_string_lossy().into_owned(),
        environment: specification["metadata"]["envfs"]["environment"].as_str()?.to_owned(),
        display_name: specification["display_name"].as_str().unwrap_or_default().to_owned(),
        path: directory.to_owned(),
    })
}
