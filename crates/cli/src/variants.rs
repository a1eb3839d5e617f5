//! Variants of a project: solved so that they agree on what they share, listed with their signatures, compared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use envfs_solver::{
    BuildRequest, DEFAULT_ENVIRONMENT, Lock, LockedContents, Network, Project, Subdir, Variant, complete_wheels,
    disagreements as disagreements_of, known_signature,
};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::link_scripts;
use crate::resolve;
use crate::solving::{SpecArgs, current_subdir, empty};

/// A variant of a lock, for this machine's platform or another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) platform: String,
    pub(crate) packages: usize,
    /// None where the lock does not hold every digest.
    pub(crate) signature: Option<String>,
}

/// What of a lock is not what the project asks for.
#[derive(Debug, Serialize)]
pub(crate) struct Disagreement {
    variant: String,
    platform: Option<String>,
    reason: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.platform {
            Some(platform) => write!(f, "{} ({platform}): {}", self.variant, self.reason),
            None => write!(f, "{}: {}", self.variant, self.reason),
        }
    }
}

/// Locks every variant: first all of them together, then each with what was found for all.
pub(crate) fn lock(
    context: &Context,
    project: &Project,
    args: &SpecArgs,
    platforms: &[Subdir],
    older: Option<&Lock>,
) -> Result<Lock, CliError> {
    let network = context.network()?;
    let mut solutions: BTreeMap<&str, (Vec<String>, Vec<LockedContents>)> = BTreeMap::new();
    for subdir in chosen(platforms, &project.platforms)? {
        let known = older.map(|lock| together(lock, subdir)).transpose()?;
        let preferred = known.unwrap_or_else(|| empty(subdir));
        let together = solve(context, &network, args, &project.union(), subdir, &preferred);
        let (_, all) = together.or_else(|error| {
            if !error.is_unreachable() {
                // What is wrong with one of them is no contradiction, and is said as it is said of one.
                for variant in &project.variants {
                    solve(context, &network, args, variant, subdir, &preferred)?;
                }
            }
            let help = "variants share a version of every package: what contradicts each other belongs into projects of its own";
            Err(if error.is_unreachable() { error } else { error.help(help) })
        })?;
        let mut shared = BTreeMap::new();
        for variant in &project.variants {
            let (channels, contents) = solve(context, &network, args, variant, subdir, &all)?;
            agree(&mut shared, variant, &contents)?;
            let solution = solutions.entry(&variant.name).or_default();
            solution.0 = channels;
            solution.1.push(contents);
        }
    }
    let locks = solutions
        .into_iter()
        .map(|(name, (channels, contents))| Lock::from_solutions(name, &channels, &contents));
    Ok(Lock::join(locks.collect::<Result<_, _>>()?))
}

/// The variants of a lock with their signatures.
pub(crate) fn list(context: &Context, lock: &Lock, platform: Option<Subdir>) -> Result<Vec<Listed>, CliError> {
    let store = context.store()?;
    let mut listed = Vec::new();
    for name in lock.environments() {
        for subdir in lock.subdirs(name)? {
            if platform.is_some_and(|platform| platform != subdir) {
                continue;
            }
            let contents = resolve::contents_of(lock, Some(name), subdir)?;
            let packages = contents.len();
            let has_sources = !contents.sources.is_empty();
            let request = BuildRequest {
                packages: contents.packages,
                wheels: contents.wheels,
                sources: Vec::new(),
                link_scripts: Some(Arc::new(link_scripts::Sandboxed)),
                subdir,
                variables: BTreeMap::new(),
                bytecode: true,
                base: None,
            };
            listed.push(Listed {
                name: name.to_owned(),
                platform: subdir.to_string(),
                packages,
                signature: match has_sources {
                    // What they become is known when they are built.
                    true => None,
                    false => known_signature(&store, &request)?.map(|signature| signature.to_string()),
                },
            });
        }
    }
    Ok(listed)
}

/// What of a lock is not what the project asks for; without variants the lock is of the one spec.
pub(crate) fn disagreements(
    context: &Context,
    lock: &Lock,
    project: Option<&Project>,
    args: &SpecArgs,
    match_specs: &[String],
) -> Result<Vec<Disagreement>, CliError> {
    let variants: Vec<(String, SpecArgs, Vec<String>)> = match project {
        Some(project) => project
            .variants
            .iter()
            .map(|variant| {
                (
                    variant.name.clone(),
                    of_variant(args, variant),
                    variant.match_specs.clone(),
                )
            })
            .collect(),
        None => vec![(DEFAULT_ENVIRONMENT.to_owned(), args.clone(), match_specs.to_vec())],
    };
    let mut found = Vec::new();
    let locked = lock.environments();
    for (name, args, match_specs) in &variants {
        let mut disagree = |platform: Option<Subdir>, reason: String| {
            found.push(Disagreement {
                variant: name.clone(),
                platform: platform.map(|subdir| subdir.to_string()),
                reason,
            });
        };
        if !locked.contains(&name.as_str()) {
            disagree(None, "it is not locked".to_owned());
            continue;
        }
        let wanted = args.wanted(context, match_specs)?;
        let subdirs = lock.subdirs(name)?;
        let platforms = project.map_or(wanted.spec.platforms(), |project| project.platforms.as_slice());
        for missing in platforms.iter().filter(|platform| !subdirs.contains(platform)) {
            disagree(Some(*missing), "it is not locked".to_owned());
        }
        for subdir in subdirs {
            let contents = resolve::contents_of(lock, Some(name), subdir)?;
            for reason in disagreements_of(&wanted.spec, &contents) {
                disagree(Some(subdir), reason);
            }
        }
    }
    for name in locked {
        if !variants.iter().any(|(variant, ..)| variant == name) {
            found.push(Disagreement {
                variant: name.to_owned(),
                platform: None,
                reason: "it is locked, and no variant".to_owned(),
            });
        }
    }
    Ok(found)
}

fn chosen(given: &[Subdir], named: &[Subdir]) -> Result<Vec<Subdir>, CliError> {
    Ok(match (given, named) {
        ([], []) => vec![current_subdir()?],
        ([], named) | (named, _) => named.to_vec(),
    })
}

/// Everything that a lock holds for a platform, whichever environment it is of.
fn together(lock: &Lock, subdir: Subdir) -> Result<LockedContents, CliError> {
    let mut all = empty(subdir);
    for name in lock.environments() {
        let Ok(contents) = resolve::contents_of(lock, Some(name), subdir) else {
            continue;
        };
        for package in contents.packages {
            if !all.packages.iter().any(|known| known.name() == package.name()) {
                all.packages.push(package);
            }
        }
        for wheel in contents.wheels {
            if !all.wheels.iter().any(|known| known.name() == wheel.name()) {
                all.wheels.push(wheel);
            }
        }
    }
    Ok(all)
}

/// What a command line would say that asks for a variant, besides its MatchSpecs.
fn of_variant(args: &SpecArgs, variant: &Variant) -> SpecArgs {
    SpecArgs {
        file: variant.file.clone(),
        extras: variant.extras.clone(),
        groups: variant.groups.clone(),
        requirements: variant.requirements.clone(),
        channels: [args.channels.clone(), variant.channels.clone()].concat(),
        ..args.clone()
    }
}

fn solve(
    context: &Context,
    network: &Network,
    args: &SpecArgs,
    variant: &Variant,
    subdir: Subdir,
    preferred: &LockedContents,
) -> Result<(Vec<String>, LockedContents), CliError> {
    let args = of_variant(args, variant);
    let wanted = args.wanted(context, &variant.match_specs)?;
    let solved = context.block_on(args.solve(context, network, &wanted, subdir, preferred))??;
    let mut contents = solved.contents;
    contents.wheels = context.block_on(complete_wheels(network, contents.wheels))?;
    Ok((solved.channels, contents))
}

/// Notes what a variant holds; another one must not hold another version of it.
fn agree(
    shared: &mut BTreeMap<(&'static str, String), (String, String)>,
    variant: &Variant,
    contents: &LockedContents,
) -> Result<(), CliError> {
    let packages = contents
        .packages
        .iter()
        .map(|package| (("conda", package.name().to_owned()), package.to_string()));
    let wheels = contents
        .wheels
        .iter()
        .map(|wheel| (("pypi", wheel.name().to_owned()), wheel.to_string()));
    for (key, version) in packages.chain(wheels) {
        let (other, known) = shared
            .entry(key)
            .or_insert_with(|| (variant.name.clone(), version.clone()));
        if *known != version {
            return Err(CliError::new(format!(
                "the variants disagree: `{other}` holds {known}, and `{}` holds {version}",
                variant.name
            ))
            .help("ask in the common part for the one that is to be used"));
        }
    }
    Ok(())
}
