//! `cargo xtask bench`: what an environment costs with envfs, and with the tools of today.
//!
//! `world` makes what the contenders share, `contenders` says how each offers an environment, `rows` is the table of what is
//! measured, `rounds` takes the figures, `figures` does the arithmetic, `report` writes it down. `pypi` is a bench of its own.

mod contenders;
mod disk;
mod entries;
mod figures;
mod machine;
mod offered;
mod pypi;
mod report;
mod rounds;
mod rows;
mod synthetic;
mod timing;
mod tools;
mod traces;
mod world;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::contenders::{Contender, EXT4, SPAWN, candidates};
use self::entries::Entry;
use self::rows::{Group, ROWS};
use self::world::World;
use crate::sh;

/// What the person asked for.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Few rounds, for a look.
    #[arg(long)]
    quick: bool,
    /// Only these groups of figures: create, run, reuse, many, memory, fresh, cold, warm, files, parallel; or the key of a figure; or `pypi`:
    /// packages from PyPI beside uv, in a document of its own.
    #[arg(long, value_name = "MEASURE", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these contenders, beside those to which they are compared; `envfs` means all its backends.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    contender: Vec<String>,
    /// Build also the tools whose build takes many minutes (rattler's mount).
    #[arg(long)]
    all: bool,
    /// Measure this binary [default: a release build].
    #[arg(long, value_name = "FILE")]
    envfs: Option<PathBuf>,
    /// Where to write the tables, with the JSON file and the plots beside it [default: docs/benchmarks.md for a run of
    /// everything, else nowhere].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The installers from PyPI that are measured, for who wants to compare something else with them: uv, and a Python with
/// py-rattler.
///
/// # Errors
/// When they are not there and cannot be installed from PyPI.
pub(crate) fn installers() -> Result<[PathBuf; 2]> {
    let programs = tools::ensure_pypi(&sh::target_dir().join("bench"))?;
    Ok(["uv", "python"].map(|program| programs.join(program)))
}

/// The command.
///
/// # Errors
/// When what is asked for does not exist, nothing can be measured, or the tables cannot be written. A contender that fails
/// is left out, and the tables say why.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !crate::system::is_root() {
        bail!("the bench drops the machine's caches and mounts what its contenders are made of: run it as root");
    }
    let _alone = alone()?;
    if pypi::is_meant(&options.only)? {
        return pypi::run(options.quick, options.envfs.as_deref(), options.out.as_deref());
    }
    let groups = wanted_groups(&options.only)?;
    let mut world = World::prepare(options.envfs.as_deref(), options.all)?;
    let (contenders, mut entries) = line_up(&mut world, &options.contender)?;
    let start = Instant::now();
    let run = rounds::Run {
        quick: options.quick,
        start,
    };
    let mut rounds = Vec::new();
    for group in Group::ALL.into_iter().filter(|group| groups.contains(group)) {
        let group_start = Instant::now();
        let count = rounds::take(group, &world, &contenders, &mut entries, run)?;
        sh::say(&format!(
            "{}: {count} rounds in {:.0} s",
            group.name(),
            group_start.elapsed().as_secs_f64()
        ));
        rounds.push((group, count));
    }
    let report = report::Report {
        world: &world,
        entries: &entries,
        rounds: &rounds,
        took: start.elapsed(),
        is_quick: options.quick,
    };
    println!("{}", report.markdown());
    let is_whole = options.only.is_empty() && options.contender.is_empty();
    let default = (is_whole && !options.quick).then(|| Path::new("docs/benchmarks.md").to_path_buf());
    match options.out.clone().or(default) {
        Some(out) => report.write(&sh::root().join(out)),
        None => Ok(()),
    }
}

/// Two at once would measure each other, and unmount what the other has mounted: the second waits.
fn alone() -> Result<File> {
    fs::create_dir_all(sh::target_dir())?;
    let lock = File::create(sh::target_dir().join("bench.lock"))?;
    if lock.try_lock().is_err() {
        sh::say("another bench runs; waiting for its end");
        lock.lock().context("locking the bench")?;
    }
    Ok(lock)
}

/// The groups that somebody means by their names, or by the key of a figure.
fn wanted_groups(names: &[String]) -> Result<Vec<Group>> {
    if names.is_empty() {
        return Ok(Group::ALL.to_vec());
    }
    let mut groups = Vec::new();
    for name in names {
        let by_key = ROWS.iter().find(|row| row.key == name).map(|row| row.group);
        let Some(group) = Group::ALL.into_iter().find(|group| group.name() == name).or(by_key) else {
            let known: Vec<&str> = Group::ALL.iter().map(|group| group.name()).collect();
            bail!("no measure is called {name}; there are: {}", known.join(", "));
        };
        groups.push(group);
    }
    Ok(groups)
}

/// Everyone that takes part, and their entries; one that cannot has an entry that says why.
type LineUp = (Vec<Option<Box<dyn Contender>>>, Vec<Entry>);

fn line_up(world: &mut World, names: &[String]) -> Result<LineUp> {
    let wanted = |name: &str| {
        let is_meant = names
            .iter()
            .any(|wanted| name == wanted || name.starts_with(&format!("{wanted} (")));
        names.is_empty() || is_meant || name == SPAWN || name == EXT4
    };
    if let Some(unknown) = names.iter().find(|name| {
        !candidates()
            .iter()
            .any(|candidate| candidate.name == *name || candidate.name.starts_with(&format!("{name} (")))
    }) {
        let known: Vec<&str> = candidates().iter().map(|candidate| candidate.name).collect();
        bail!("no contender is called {unknown}; there are: {}", known.join(", "));
    }
    let mut contenders = Vec::new();
    let mut entries = Vec::new();
    for candidate in candidates().into_iter().filter(|candidate| wanted(candidate.name)) {
        let mut entry = Entry::new(candidate.name, candidate.about);
        let contender = (candidate.set_up)(world).and_then(|contender| {
            try_out(world, contender.as_ref(), &mut entry)?;
            Ok(contender)
        });
        match contender {
            Ok(contender) => {
                entry.made_once = contender
                    .made_once()
                    .and_then(|name| world.made_once.get(name).copied());
                contenders.push(Some(contender));
            }
            Err(error) => {
                let reason = timing::spoken_text(&format!("{error:#}"));
                sh::say(&format!("{} does not take part: {reason}", candidate.name));
                entry.absent = Some(reason);
                contenders.push(None);
            }
        }
        entries.push(entry);
    }
    Ok((contenders, entries))
}

/// Notes the commands, and sees whether those that cost little work.
fn try_out(world: &World, contender: &dyn Contender, entry: &mut Entry) -> Result<()> {
    let at = world.directory.join("round/DIR");
    let binary = timing::spoken_text(&sh::quoted(
        &world.envfs.command([""; 0]).get_program().to_string_lossy(),
    ));
    let shown = |commands: &[std::process::Command]| {
        let text = commands.iter().map(timing::spoken).collect::<Vec<_>>().join(" && ");
        text.replace(&timing::spoken_text(&at.to_string_lossy()), "DIR")
            .replace(&format!("{binary} "), "envfs ")
    };
    let offer = shown(&contender.offer(world, &world.real, &at)?);
    let stand = shown(&contender.stand(world, &world.real, &at)?);
    entry.commands.push(("offer", offer.clone()));
    entry.commands.push(("retire", shown(&contender.retire(world, &at))));
    if stand != offer {
        entry.commands.push(("offer for measuring files", stand));
    }
    if let Some(run) = contender.run_true(world) {
        entry.commands.push(("run", shown(&[run])));
    }
    if let Some(run) = contender.run_again(world, &at) {
        entry.commands.push(("run again", shown(&[run])));
    }
    if contender.is_cheap() && contender.has_files() && contender.has_recorded_files() {
        let offered = offered::Offered::new(world, contender, &world.real, &at, offered::How::Made)?;
        offered.probe(&world.real)?;
        offered.retire()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_meant_by_group_or_by_key() {
        let names = ["warm".to_owned(), "find_ms".to_owned()];
        assert_eq!(wanted_groups(&names).unwrap(), [Group::Warm, Group::Files]);
        assert!(
            wanted_groups(&["warmth".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("create")
        );
    }
}
