//! Taking the figures: for each group its rounds, and in each round every contender once, in an order that rotates, so
//! that a slow minute of the machine falls on all of them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::contenders::{Contender, SPAWN};
use super::disk;
use super::entries::Entry;
use super::offered::{How, Offered};
use super::rows::Group;
use super::timing::{self, python};
use super::traces::IMPORT;
use super::world::{Subject, World, clear};
use crate::sh;

/// Contenders that write every file take this many rounds at most, in a full run and in a quick one.
const DEAR_ROUNDS: usize = 3;
const QUICK_DEAR_ROUNDS: usize = 1;

/// When no further round begins, counted from the first one: a run ends by itself.
const LONGEST: Duration = Duration::from_secs(13 * 60);
const QUICK_LONGEST: Duration = Duration::from_secs(95);

/// In so many rounds an environment is offered at a path where none has been.
const NEW_PATHS: usize = 5;

/// How many identical environments are made to see what many cost.
const MANY: [(usize, &str, &str); 3] = [
    (1, "bytes_1", "inodes_1"),
    (10, "bytes_10", "inodes_10"),
    (100, "bytes_100", "inodes_100"),
];

/// How many programs start at once.
const AT_ONCE: usize = 4;

/// A run: how thorough it is, and when it began.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) quick: bool,
    pub(super) start: Instant,
}

impl Run {
    fn is_late(self) -> bool {
        self.start.elapsed() > if self.quick { QUICK_LONGEST } else { LONGEST }
    }
}

/// Takes one group's figures of everybody; returns the number of rounds.
///
/// # Errors
/// When the disk cannot be synchronised. A contender that fails is left out of the group, and its entry says why.
pub(super) fn take(
    group: Group,
    world: &World,
    contenders: &[Option<Box<dyn Contender>>],
    entries: &mut [Entry],
    run: Run,
) -> Result<usize> {
    if run.is_late() {
        return Ok(0);
    }
    sh::run_quiet(&mut sh::command("sync"))?;
    let mut sessions: Vec<(usize, Session)> = Vec::new();
    for (index, contender) in contenders.iter().enumerate() {
        let Some(contender) = contender
            .as_deref()
            .filter(|contender| contender.groups().contains(&group))
        else {
            continue;
        };
        match Session::begin(group, world, contender, entries[index].name, run.quick) {
            Ok(session) => sessions.push((index, session)),
            Err(error) => fail(&mut entries[index], group, &error),
        }
    }
    let bounds = group.bounds(run.quick);
    let start = Instant::now();
    let mut round = 0;
    while round < bounds.most
        && (round < bounds.least || start.elapsed() < bounds.budget)
        && !sessions.is_empty()
        && !run.is_late()
    {
        if round > 0 {
            sessions.rotate_left(1);
        }
        sessions.retain(|(index, session)| {
            let mut sampler = Sampler {
                entry: &mut entries[*index],
                round,
            };
            match session.measure(group, &mut sampler) {
                Ok(()) => true,
                Err(error) => {
                    fail(&mut entries[*index], group, &error);
                    false
                }
            }
        });
        round += 1;
    }
    for (index, session) in sessions {
        if let Err(error) = session.end() {
            sh::say(&format!("{} could not be taken away: {error:#}", entries[index].name));
        }
    }
    Ok(round)
}

fn fail(entry: &mut Entry, group: Group, error: &anyhow::Error) {
    let reason = timing::spoken_text(&format!("{error:#}"));
    sh::say(&format!("{} is left out of `{}`: {reason}", entry.name, group.name()));
    entry.fail(group, reason);
}

/// Where samples go.
struct Sampler<'a> {
    entry: &'a mut Entry,
    round: usize,
}

impl Sampler<'_> {
    fn time(&mut self, key: &'static str, took: Duration) {
        self.entry.add(key, self.round, took.as_secs_f64() * 1e3);
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
    fn count(&mut self, key: &'static str, count: u64) {
        self.entry.add(key, self.round, count as f64);
    }
}

/// One contender in one group.
struct Session<'a> {
    world: &'a World,
    contender: &'a dyn Contender,
    place: PathBuf,
    quick: bool,
    /// What stays for all rounds, in groups that measure what is warm.
    real: Option<Offered<'a>>,
    many: Option<Offered<'a>>,
}

impl<'a> Session<'a> {
    fn begin(group: Group, world: &'a World, contender: &'a dyn Contender, name: &str, quick: bool) -> Result<Self> {
        let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let place = world.directory.join("round").join(letters);
        timing::unmount_below(&place)?;
        clear(&place)?;
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let mut session = Self {
            world,
            contender,
            place,
            quick,
            real: None,
            many: None,
        };
        session.warm_up(group)?;
        Ok(session)
    }

    /// Uses everything once, unmeasured.
    fn warm_up(&mut self, group: Group) -> Result<()> {
        if matches!(group, Group::Fresh | Group::Warm | Group::Parallel) {
            let real = self.stand(&self.world.real)?;
            if self.contender.has_recorded_files() {
                self.replay("import", &real)?;
            } else {
                timing::run(&mut [import(&real)])?;
            }
            if group == Group::Fresh {
                real.retire()?;
            } else {
                self.real = Some(real);
            }
        }
        if group == Group::Files {
            let (real, many) = (self.stand(&self.world.real)?, self.stand(&self.world.many)?);
            for trace in ["stat", "negative"] {
                self.replay(trace, &real)?;
            }
            self.replay("sequential", &many)?;
            (self.real, self.many) = (Some(real), Some(many));
        }
        if matches!(group, Group::Create | Group::Many) && self.contender.is_cheap() && self.contender.has_files() {
            // At a path as long as those that follow: what depends on its length is not theirs.
            let name = if group == Group::Create {
                new_path(0)
            } else {
                one_of_many(0, 0)
            };
            self.offer_at(&self.world.real, &name, How::Made)?.retire()?;
        }
        Ok(())
    }

    fn measure(&self, group: Group, sampler: &mut Sampler) -> Result<()> {
        match group {
            Group::Create => self.create(sampler),
            Group::Run => self.run(sampler),
            Group::Reuse => self.reuse(sampler),
            Group::Many => self.many(sampler),
            Group::Memory => self.memory(sampler),
            Group::Fresh => self.fresh(sampler),
            Group::Cold => self.cold(sampler),
            Group::Warm => self.warm(sampler),
            Group::Files => self.files(sampler),
            Group::Parallel => {
                let real = self.real.as_ref().context("nothing is mounted")?;
                sampler.time("parallel_import_ms", timing::at_once(AT_ONCE, || import(real))?);
                Ok(())
            }
        }
    }

    fn end(self) -> Result<()> {
        for offered in [self.real, self.many].into_iter().flatten() {
            offered.retire()?;
        }
        clear(&self.place)
    }

    fn create(&self, sampler: &mut Sampler) -> Result<()> {
        let is_cheap = self.contender.is_cheap();
        let dear_rounds = if self.quick { QUICK_DEAR_ROUNDS } else { DEAR_ROUNDS };
        if !is_cheap && sampler.round >= dear_rounds {
            return Ok(());
        }
        if is_cheap && sampler.round < NEW_PATHS {
            let name = new_path(sampler.round + 1);
            let (took, _) = self.create_at(&name, sampler.round == 0, sampler)?;
            sampler.time("new_path_ms", took);
        }
        let (took, retired) = self.create_at("env", !is_cheap && sampler.round == 0, sampler)?;
        sampler.time("ready_ms", took);
        sampler.time("retire_ms", retired);
        if self.contender.offers_many() {
            let offered = self.offer_at(&self.world.many, "env", How::Made)?;
            sampler.time("ready_100k_ms", offered.took);
            offered.retire()?;
        }
        if !is_cheap {
            // What it wrote must not be written while the next one is measured.
            sh::run_quiet(&mut sh::command("sync"))?;
        }
        Ok(())
    }

    /// Makes an environment and takes it away, and returns how long both took; counts what it adds on disk if asked to.
    fn create_at(&self, name: &str, counts: bool, sampler: &mut Sampler) -> Result<(Duration, Duration)> {
        let roots = if counts { self.disk_roots() } else { Vec::new() };
        let before = disk::used(&roots)?;
        let offered = self.offer_at(&self.world.real, name, How::Made)?;
        if counts && self.contender.has_files() {
            let cost = disk::used(&roots)?.since(before);
            sampler.count("new_bytes", cost.bytes);
            sampler.count("new_inodes", cost.inodes);
        }
        let (took, at) = (offered.took, offered.at.clone());
        let retired = offered.retire()?;
        clear(&at)?;
        Ok((took, retired))
    }

    fn run(&self, sampler: &mut Sampler) -> Result<()> {
        let Some(mut command) = self.contender.run_true(self.world) else {
            return Ok(());
        };
        let took = if self.contender.prints_seconds() {
            timing::printed_seconds(&mut command)?
        } else {
            timing::run(&mut [command])?
        };
        sampler.time("run_true_ms", took);
        Ok(())
    }

    /// Nobody else's mount of the same environment is there meanwhile.
    fn reuse(&self, sampler: &mut Sampler) -> Result<()> {
        if let Some(mut ensure) = self.contender.ensure(self.world) {
            if sampler.round == 0 {
                timing::run(std::slice::from_mut(&mut ensure))?;
            }
            sampler.time("ensure_ms", timing::run(&mut [ensure])?);
        }
        let real = self.stand(&self.world.real)?;
        if let Some(mut again) = self.contender.run_again(self.world, &real.at) {
            let mut take = || match self.contender.prints_seconds() {
                true => timing::printed_seconds(&mut again),
                false => timing::run(std::slice::from_mut(&mut again)),
            };
            take()?;
            sampler.time("reuse_pass_ms", take()?);
        }
        real.retire().map(drop)
    }

    fn many(&self, sampler: &mut Sampler) -> Result<()> {
        let one = if self.contender.is_cheap() {
            None
        } else {
            Some(self.growth(1)?)
        };
        let counts = if self.quick { &MANY[..2] } else { &MANY[..] };
        for &(count, bytes_key, inodes_key) in counts {
            let cost = match one {
                Some(one) => one.times(u64::try_from(count)?),
                None => self.growth(count)?,
            };
            sampler.count(bytes_key, cost.bytes);
            sampler.count(inodes_key, cost.inodes);
        }
        Ok(())
    }

    /// What so many environments add on disk, all there at once.
    fn growth(&self, count: usize) -> Result<disk::Use> {
        let roots = self.disk_roots();
        let before = disk::used(&roots)?;
        let offered: Vec<Offered> = (0..count)
            .map(|number| self.offer_at(&self.world.real, &one_of_many(count, number), How::Made))
            .collect::<Result<_>>()?;
        let cost = disk::used(&roots)?.since(before);
        for one in offered {
            let at = one.at.clone();
            one.retire()?;
            clear(&at)?;
        }
        Ok(cost)
    }

    fn memory(&self, sampler: &mut Sampler) -> Result<()> {
        if self.contender.offers_many() {
            let many = self.stand(&self.world.many)?;
            if self.contender.server(self.world, &many.at)?.is_none() {
                for row in Group::Memory.rows() {
                    sampler.count(row.key, 0);
                }
                return many.retire().map(drop);
            }
            sampler.count("memory_fresh_bytes", self.private_bytes(&many)?);
            timing::run(&mut [find(&many)])?;
            sampler.count("memory_walked_bytes", self.private_bytes(&many)?);
            many.retire()?;
        }
        let real = self.stand(&self.world.real)?;
        timing::run(&mut [import(&real)])?;
        sampler.count("memory_import_bytes", self.private_bytes(&real)?);
        real.retire().map(drop)
    }

    fn fresh(&self, sampler: &mut Sampler) -> Result<()> {
        let real = self.stand(&self.world.real)?;
        for key in ["fresh_pass_ms", "second_pass_ms"] {
            sampler.time(key, timing::run(&mut [pass(&real)])?);
        }
        real.retire()?;
        let real = self.stand(&self.world.real)?;
        sampler.time("fresh_import_ms", timing::run(&mut [import(&real)])?);
        real.retire()?;
        if !self.contender.has_recorded_files() {
            return Ok(());
        }
        let real = self.stand(&self.world.real)?;
        sampler.time("fresh_replay_ms", self.replay("import", &real)?);
        real.retire().map(drop)
    }

    fn cold(&self, sampler: &mut Sampler) -> Result<()> {
        let cold = |subject: &Subject| -> Result<Offered<'a>> {
            timing::drop_caches()?;
            self.offer_at(subject, "env", How::Standing)
        };
        let real = cold(&self.world.real)?;
        if self.contender.is_cheap() {
            sampler.time("cold_mount_ms", real.took);
        }
        if sampler.entry.name == SPAWN {
            return real.retire().map(drop);
        }
        if self.contender.forget_runs(self.world)? {
            real.retire()?;
            let first = cold(&self.world.real)?;
            sampler.time("cold_untraced_replay_ms", self.replay("import", &first)?);
            self.contender.await_recorded(self.world)?;
            first.retire()?;
            let again = cold(&self.world.real)?;
            return self.cold_files(sampler, again, &cold);
        }
        self.cold_files(sampler, real, &cold)
    }

    /// Everything that is read cold; `real` was mounted just now.
    fn cold_files(
        &self,
        sampler: &mut Sampler,
        real: Offered<'a>,
        cold: &impl Fn(&Subject) -> Result<Offered<'a>>,
    ) -> Result<()> {
        sampler.time("cold_pass_ms", timing::run(&mut [pass(&real)])?);
        real.retire()?;
        let real = cold(&self.world.real)?;
        sampler.time("cold_import_ms", timing::run(&mut [import(&real)])?);
        real.retire()?;
        let real = cold(&self.world.real)?;
        sampler.time("cold_replay_ms", self.replay("import", &real)?);
        real.retire()?;
        for (key, trace) in [("cold_sequential_ms", "sequential"), ("cold_mapped_ms", "mapped")] {
            let many = cold(&self.world.many)?;
            sampler.time(key, self.replay(trace, &many)?);
            many.retire()?;
        }
        Ok(())
    }

    fn warm(&self, sampler: &mut Sampler) -> Result<()> {
        let real = self.real.as_ref().context("nothing is mounted")?;
        sampler.time("warm_import_ms", timing::run(&mut [import(real)])?);
        if !self.contender.has_recorded_files() {
            return Ok(());
        }
        let server = self.contender.server(self.world, &real.at)?;
        let before = server.map(reads).transpose()?.unwrap_or(0);
        sampler.time("warm_replay_ms", self.replay("import", real)?);
        let after = server.map(reads).transpose()?.unwrap_or(0);
        sampler.count("warm_requests", after.saturating_sub(before));
        Ok(())
    }

    fn files(&self, sampler: &mut Sampler) -> Result<()> {
        let real = self.real.as_ref().context("nothing is mounted")?;
        let many = self.many.as_ref().context("nothing is mounted")?;
        sampler.time("find_ms", timing::run(&mut [find(real)])?);
        sampler.time("stat_ms", self.replay("stat", real)?);
        sampler.time("negative_ms", self.replay("negative", real)?);
        sampler.time("sequential_ms", self.replay("sequential", many)?);
        sampler.time("mapped_ms", self.replay("mapped", many)?);
        Ok(())
    }

    fn stand(&self, subject: &Subject) -> Result<Offered<'a>> {
        self.offer_at(subject, subject.name, How::Standing)
    }

    /// Has an environment at a name of this place, and sees that it is there.
    fn offer_at(&self, subject: &Subject, name: &str, how: How) -> Result<Offered<'a>> {
        let offered = Offered::new(self.world, self.contender, subject, &self.place.join(name), how)?;
        if self.contender.has_files() {
            offered.probe(subject)?;
        }
        Ok(offered)
    }

    fn replay(&self, trace: &str, on: &Offered) -> Result<Duration> {
        timing::replay(&self.world.replayer, &self.world.trace(trace), &on.at)
    }

    fn disk_roots(&self) -> Vec<PathBuf> {
        let mut roots = self.contender.disk_roots(self.world);
        roots.push(self.place.clone());
        roots
    }

    fn private_bytes(&self, on: &Offered) -> Result<u64> {
        let Some(pid) = self.contender.server(self.world, &on.at)? else {
            return Ok(0);
        };
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib = |line: &str| {
            line.split_whitespace()
                .nth(1)
                .and_then(|number| number.parse::<u64>().ok())
        };
        Ok(text
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(kib)
            .sum::<u64>()
            * 1024)
    }
}

/// How often a process has read: a FUSE server reads once for each request.
fn reads(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let count = text.lines().find_map(|line| line.strip_prefix("syscr: "));
    Ok(count.with_context(|| format!("{path} has no syscr"))?.trim().parse()?)
}

/// A path where nothing was offered before; all are equally long.
fn new_path(number: usize) -> String {
    format!("new-{number:02}")
}

/// The same, of many at once.
fn one_of_many(count: usize, number: usize) -> String {
    format!("{count:03}-{number:02}")
}

fn pass(on: &Offered) -> std::process::Command {
    let mut command = python(&on.at);
    command.args(["-c", "pass"]);
    command
}

fn import(on: &Offered) -> std::process::Command {
    let mut command = python(&on.at);
    command.args(["-c", IMPORT]);
    command
}

fn find(on: &Offered) -> std::process::Command {
    let mut command = sh::command("find");
    command.arg(&on.at).args(["-name", "no-such-name"]);
    command
}
