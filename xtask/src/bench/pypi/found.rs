//! What was measured of packages from PyPI, and the page that tells it.
//!
//! Knows figures; nothing of how they come about.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::ASKED;
use crate::bench::figures::{Samples, Spread};
use crate::envfs::DiskUse;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Envfs,
    Uv,
}

/// What is measured in each round, both without and with bytecode.
pub(super) const MEASURES: [(&str, &str); 3] = [
    (
        "cold",
        "the first environment: wheels in a directory, nothing in store or cache",
    ),
    ("further", "a further environment with one package more"),
    ("again", "the same packages again"),
];

/// Samples by measure, whether with bytecode, and who.
#[derive(Default)]
pub(super) struct Table(Vec<(&'static str, bool, Who, Samples)>);

impl Table {
    pub(super) fn of(&self, measure: &str, compiled: bool, who: Who) -> Option<&Samples> {
        let found = self
            .0
            .iter()
            .find(|(key, with, of, _)| (*key, *with, *of) == (measure, compiled, who));
        found.map(|(_, _, _, samples)| samples)
    }

    pub(super) fn add(&mut self, measure: &'static str, compiled: bool, who: Who, round: usize, took: Duration) {
        if self.of(measure, compiled, who).is_none() {
            self.0.push((measure, compiled, who, Samples::default()));
        }
        for (key, with, of, samples) in &mut self.0 {
            if (*key, *with, *of) == (measure, compiled, who) {
                samples.add(round, took.as_secs_f64());
            }
        }
    }

    /// What compiling adds to the further environment of the same round.
    pub(super) fn compile_cost(&self, who: Who) -> Option<Spread> {
        self.of("further", true, who)?
            .differences(self.of("further", false, who)?)
    }
}

/// What environments take, for each of so many.
pub(super) struct Disk {
    pub(super) what: &'static str,
    pub(super) count: usize,
    pub(super) envfs: DiskUse,
    pub(super) uv: DiskUse,
}

/// The page.
pub(super) fn report(machine: &serde_json::Value, packages: usize, table: &Table, disk: &[Disk]) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    let mut out = format!(
        "# Benchmarks: packages from PyPI\n\nMade by `cargo xtask bench --only pypi`; do not edit.\n\n\
         - The machine: {}, {} cores, {} of memory, Linux {}, {}; load {} before the run.\n\
         - `{}` and what these need: {} packages from PyPI, the same wheels for both, from one directory; no network is used. envfs builds \
         from a lock and also takes Python from a channel; uv makes a virtual environment of the Python on the machine and resolves \
         nothing (`--no-deps`, exact versions).\n\
         - Medians in seconds with the quartiles in brackets; the ratio is the median of the ratios within a round.\n\n\
         | | bytecode | envfs | uv, hard links | envfs : uv |\n| --- | --- | --- | --- | --- |\n",
        text("cpu"),
        machine["cores"],
        text("memory"),
        text("kernel"),
        text("file_system"),
        machine["load_before"],
        ASKED.join(" "),
        packages,
    );
    for (measure, about) in MEASURES {
        for compiled in [false, true] {
            let both = [Who::Envfs, Who::Uv].map(|who| table.of(measure, compiled, who));
            let [Some(envfs), Some(uv)] = both else { continue };
            let bytecode = if compiled { "compiled" } else { "no" };
            let ratio = envfs
                .ratios(uv)
                .map_or_else(String::new, |ratio| format!("{:.3}", ratio.median));
            let _ = writeln!(
                out,
                "| {about} | {bytecode} | {} | {} | {ratio} |",
                cell(envfs.spread()),
                cell(uv.spread())
            );
        }
    }
    let _ = writeln!(
        out,
        "| what compiling adds to a further environment | | {} | {} | |\n",
        cell(table.compile_cost(Who::Envfs)),
        cell(table.compile_cost(Who::Uv)),
    );
    out.push_str(
        "What each of so many further environments takes on disk, store or cache and environments together:\n\n",
    );
    out.push_str("| environments | each has | envfs | uv, hard links |\n| --- | --- | --- | --- |\n");
    for row in disk {
        let shown = |of: DiskUse| format!("{:.1} KiB, {} inodes", kib(of.bytes), of.inodes);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            row.count,
            row.what,
            shown(row.envfs),
            shown(row.uv)
        );
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |spread| {
            format!(
                "{:.3} [{:.3}, {:.3}]",
                spread.median, spread.first_quartile, spread.third_quartile
            )
        },
    )
}

/// The same for programs.
pub(super) fn json(machine: &serde_json::Value, packages: usize, table: &Table, disk: &[Disk]) -> serde_json::Value {
    let times = table.0.iter().map(|(measure, compiled, who, samples)| {
        json!({"measure": measure, "bytecode": compiled, "who": format!("{who:?}").to_lowercase(), "seconds": samples.values()})
    });
    let disk = disk.iter().map(|disk| {
        json!({
            "environments": disk.count, "each": disk.what,
            "envfs": {"bytes": disk.envfs.bytes, "inodes": disk.envfs.inodes},
            "uv": {"bytes": disk.uv.bytes, "inodes": disk.uv.inodes},
        })
    });
    json!({
        "machine": machine, "packages": packages,
        "times": times.collect::<Vec<_>>(), "disk": disk.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiling_costs_what_it_adds_in_the_same_round() {
        let mut table = Table::default();
        for (round, (without, with)) in [(1, 3), (2, 5), (10, 20)].into_iter().enumerate() {
            table.add("further", false, Who::Uv, round, Duration::from_secs(without));
            table.add("further", true, Who::Uv, round, Duration::from_secs(with));
        }
        let cost = table.compile_cost(Who::Uv).unwrap();
        assert!((cost.median - 3.0).abs() < 1e-9, "{cost:?}");
        assert!(table.compile_cost(Who::Envfs).is_none());
    }
}
