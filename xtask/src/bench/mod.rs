//! `cargo xtask bench`: how long it takes until an environment can be used, with envfs and with the tools of today.
//!
//! A table of contenders by measures: `contenders` says how each makes, offers and retires an environment, `world` makes
//! what they share, `measures` names what is measured, `figures` does the arithmetic and `report` writes it down. All contenders run in
//! every round, in an order that rotates, so that a slow minute of the machine falls on all of them.

mod contenders;
mod figures;
mod machine;
mod measures;
mod report;
mod tools;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::contenders::{Contender, PRODUCT, candidates};
use self::figures::Column;
use self::measures::Measure;
use self::world::World;
use crate::envfs::disk_use;
use crate::sh;

/// What the person asked for.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) out: PathBuf,
    pub(crate) only: Vec<String>,
}

/// Rounds of a full run, and of a quick one. Odd, so that the median is a measured value.
const ROUNDS: usize = 9;
const QUICK_ROUNDS: usize = 3;

/// A contender that takes part, with its figures so far.
struct Runner {
    contender: Box<dyn Contender>,
    column: Column,
}

/// The command.
///
/// # Errors
/// When nothing at all can be measured, or the tables cannot be written. A contender that fails is left out, and its
/// column says why.
pub(crate) fn run(options: &Options) -> Result<()> {
    let world = World::prepare()?;
    let (mut runners, mut missing) = line_up(&world, &options.only);
    if runners.is_empty() {
        bail!(
            "nothing can be measured:\n{}",
            missing.iter().map(Column::reason).collect::<Vec<_>>().join("\n")
        );
    }
    let rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
    for round in 0..rounds {
        sh::say(&format!("round {} of {rounds}", round + 1));
        if round > 0 && !runners.is_empty() {
            runners.rotate_left(1);
        }
        let mut index = 0;
        while index < runners.len() {
            match run_once(&mut runners[index], &world, round) {
                Ok(()) => index += 1,
                Err(error) => {
                    let mut failed = runners.remove(index);
                    sh::say(&format!("{} is left out: {error:#}", failed.column.name));
                    failed.column.fail(&format!("{error:#}"));
                    missing.push(failed.column);
                }
            }
        }
    }
    let mut columns: Vec<Column> = runners.into_iter().map(|runner| runner.column).chain(missing).collect();
    columns.sort_by_key(|column| column.position);
    let report = report::Report {
        rounds,
        world: &world,
        columns: &columns,
    };
    println!("{}", report.markdown());
    // A table without the product in it must not replace one that has it.
    if let Some(column) = columns
        .iter()
        .find(|column| column.name == PRODUCT && column.missing().is_some())
    {
        bail!("no table is written: {}", column.reason());
    }
    let markdown = sh::root().join(&options.out);
    let json = options
        .json
        .as_ref()
        .map_or_else(|| markdown.with_extension("json"), |path| sh::root().join(path));
    write(&markdown, &report.markdown())?;
    write(&json, &report.json()?)?;
    println!("written to {} and {}", markdown.display(), json.display());
    Ok(())
}

/// Sets every contender up, or notes why it cannot take part.
fn line_up(world: &World, only: &[String]) -> (Vec<Runner>, Vec<Column>) {
    let mut runners = Vec::new();
    let mut missing = Vec::new();
    for (position, candidate) in candidates().into_iter().enumerate() {
        let wanted =
            only.is_empty() || candidate.name.starts_with(PRODUCT) || only.iter().any(|name| name == candidate.name);
        if !wanted {
            continue;
        }
        sh::say(&format!("setting up {}", candidate.name));
        let mut column = Column::new(candidate.name, candidate.about, position);
        match (candidate.set_up)(world) {
            Ok(contender) => {
                column.commands = contender.commands(world);
                runners.push(Runner { contender, column });
            }
            Err(error) => {
                sh::say(&format!("{} does not take part: {error:#}", candidate.name));
                column.fail(&format!("{error:#}"));
                missing.push(column);
            }
        }
    }
    (runners, missing)
}

/// One environment of one contender, from nothing to nothing.
fn run_once(runner: &mut Runner, world: &World, round: usize) -> Result<()> {
    let place = world.directory.join("round").join(&runner.column.name);
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot clear {}", place.display()))?;
    }
    fs::create_dir_all(&place)?;
    let Runner { contender, column } = runner;
    contender.prepare(world, &place)?;
    let before = disk_use(&contender.disk_roots(world, &place))?;
    let steps = contender.create(world, &place)?;
    // What an environment takes does not change from round to round.
    if round == 0 {
        let cost = disk_use(&contender.disk_roots(world, &place))?.since(before);
        column.add(Measure::Bytes, cost.bytes);
        column.add(Measure::Inodes, cost.inodes);
    }
    let ready = steps.iter().map(|(_, took)| *took).sum();
    column.add_time(Measure::Ready, ready);
    for (measure, took) in steps {
        column.add_time(measure, took);
    }
    let prefix = contender.prefix(&place);
    for (measure, program) in measures::PROGRAMS {
        column.add_time(measure, sh::timed(python(&prefix).args(["-c", program]))?);
    }
    column.add_time(Measure::Retire, contender.retire(world, &place)?);
    fs::remove_dir_all(&place).with_context(|| format!("cannot clear {}", place.display()))
}

/// The environment's interpreter, as a person starts it.
fn python(prefix: &Path) -> Command {
    let mut command = sh::command(prefix.join("bin/python"));
    for variable in ["PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"] {
        command.env_remove(variable);
    }
    command
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
