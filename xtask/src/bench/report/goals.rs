//! The goals, beside what was measured: met, or missed by how much.

use std::fmt::Write;

use serde_json::{Value, json};

use super::shown::{ratio, shown};
use crate::bench::contenders::{EXT4, FUSE, KERNEL, RATTLER_MOUNT, SPAWN, USER, UV};
use crate::bench::entries::{Entry, named};
use crate::bench::rows::Unit;

/// What of a figure has a limit.
#[derive(Clone, Copy)]
enum How {
    /// The difference to another contender's, in milliseconds.
    Over(&'static str),
    /// The ratio to another contender's.
    Times(&'static str),
    /// How many times as long another one takes: at least the limit.
    FasterThan(&'static str),
    /// The value itself.
    Value(Unit),
}

struct Goal {
    label: &'static str,
    key: &'static str,
    how: How,
    /// For the kernel backend, and for the fuse backend; none where there is no goal.
    limits: [Option<f64>; 2],
}

/// The goals of `fuse` are also those of ordinary users.
const BACKENDS: [&str; 3] = [KERNEL, FUSE, USER];

const MIB: f64 = 1_048_576.0;

const fn goal(label: &'static str, key: &'static str, how: How, kernel: Option<f64>, fuse: Option<f64>) -> Goal {
    Goal {
        label,
        key,
        how,
        limits: [kernel, fuse],
    }
}

const GOALS: [Goal; 24] = [
    goal(
        "mount, warm, over spawning `/bin/true`",
        "ready_ms",
        How::Over(SPAWN),
        Some(2.0),
        Some(2.0),
    ),
    goal(
        "the same, 100k files",
        "ready_100k_ms",
        How::Over(SPAWN),
        Some(2.0),
        Some(2.0),
    ),
    goal(
        "the same, 13k files at a path never used before",
        "new_path_ms",
        How::Over(SPAWN),
        Some(2.0),
        Some(2.0),
    ),
    goal(
        "mount, beside uv's hard links",
        "ready_ms",
        How::FasterThan(UV),
        Some(130.0),
        Some(130.0),
    ),
    goal(
        "mount, beside `rattler mount`",
        "ready_ms",
        How::FasterThan(RATTLER_MOUNT),
        Some(40.0),
        Some(40.0),
    ),
    goal(
        "`run` where it is mounted, over the interpreter alone",
        "reuse_pass_ms",
        How::Over(EXT4),
        Some(5.0),
        Some(5.0),
    ),
    goal(
        "mount, cold",
        "cold_mount_ms",
        How::Value(Unit::Milliseconds),
        Some(15.0),
        Some(15.0),
    ),
    goal(
        "import, warm, file-system time over ext4",
        "warm_replay_ms",
        How::Over(EXT4),
        Some(10.0),
        Some(45.0),
    ),
    goal(
        "requests to a server in it",
        "warm_requests",
        How::Value(Unit::Count),
        Some(0.0),
        None,
    ),
    goal(
        "import, warm, whole process",
        "warm_import_ms",
        How::Times(EXT4),
        Some(1.02),
        Some(1.08),
    ),
    goal(
        "import, fresh but hot, file-system time over ext4",
        "fresh_replay_ms",
        How::Over(EXT4),
        Some(35.0),
        Some(120.0),
    ),
    goal(
        "import, cold, file-system time",
        "cold_replay_ms",
        How::Times(EXT4),
        Some(0.6),
        Some(0.6),
    ),
    goal(
        "import, cold, whole process",
        "cold_import_ms",
        How::Times(EXT4),
        Some(0.8),
        Some(0.8),
    ),
    goal(
        "`python -c pass`, cold",
        "cold_pass_ms",
        How::Times(EXT4),
        Some(1.0),
        Some(1.0),
    ),
    goal(
        "100 MB sequential, warm",
        "sequential_ms",
        How::Times(EXT4),
        Some(1.05),
        Some(1.05),
    ),
    goal(
        "100 MB mapped, warm",
        "mapped_ms",
        How::Times(EXT4),
        Some(1.05),
        Some(1.05),
    ),
    goal(
        "100 MB sequential, cold",
        "cold_sequential_ms",
        How::Times(EXT4),
        Some(1.05),
        Some(1.05),
    ),
    goal(
        "100 MB mapped, cold",
        "cold_mapped_ms",
        How::Times(EXT4),
        Some(1.05),
        Some(1.05),
    ),
    goal(
        "identical second environment, bytes",
        "new_bytes",
        How::Value(Unit::Bytes),
        Some(0.0),
        Some(0.0),
    ),
    goal(
        "identical second environment, inodes (its mount point)",
        "new_inodes",
        How::Value(Unit::Count),
        Some(1.0),
        Some(1.0),
    ),
    goal(
        "a hundred of them, bytes",
        "bytes_100",
        How::Value(Unit::Bytes),
        Some(0.0),
        Some(0.0),
    ),
    goal(
        "a hundred of them, inodes",
        "inodes_100",
        How::Value(Unit::Count),
        Some(100.0),
        Some(100.0),
    ),
    goal(
        "private memory of a server, 100k files",
        "memory_fresh_bytes",
        How::Value(Unit::Bytes),
        Some(MIB),
        Some(MIB),
    ),
    goal(
        "retire an environment",
        "retire_ms",
        How::Value(Unit::Milliseconds),
        Some(50.0),
        Some(50.0),
    ),
];

/// Writes the section.
pub(super) fn write(out: &mut String, entries: &[Entry]) {
    out.push_str("## Goals\n\n| goal | at | kernel | fuse | fuse, ordinary user |\n| --- | --- | --- | --- | --- |\n");
    for goal in &GOALS {
        let verdicts = [0, 1, 2].map(|backend| goal.verdict(entries, backend));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            goal.label,
            goal.limit_text(),
            verdicts[0],
            verdicts[1],
            verdicts[2]
        );
    }
    if let Some(spread) = named(entries, SPAWN).and_then(|spawn| spawn.samples("cold_mount_ms")?.spread()) {
        let _ = writeln!(
            out,
            "\nSpawning `{SPAWN}` itself takes {} with cold caches.",
            shown(Unit::Milliseconds, spread.median)
        );
    }
    out.push_str("\nThat programs survive the end of a server (`kill -9`, 40 times) is tested, not measured here.\n\n");
}

/// For programs.
pub(super) fn json(entries: &[Entry]) -> Value {
    let goals = GOALS.iter().map(|goal| {
        let backends = [0, 1, 2].map(|backend| {
            let measured = goal.measured(entries, BACKENDS[backend]);
            json!({
                "contender": BACKENDS[backend], "limit": goal.limit(backend), "measured": measured,
                "met": measured.zip(goal.limit(backend)).map(|(measured, limit)| goal.is_met(measured, limit)),
            })
        });
        json!({"label": goal.label, "key": goal.key, "backends": backends})
    });
    goals.collect()
}

impl Goal {
    fn limit(&self, backend: usize) -> Option<f64> {
        self.limits[backend.min(1)]
    }

    fn measured(&self, entries: &[Entry], backend: &str) -> Option<f64> {
        let of = |name: &str| named(entries, name)?.samples(self.key);
        let mine = of(backend)?;
        let spread = match self.how {
            How::Over(name) => mine.differences(of(name)?),
            How::Times(name) => mine.ratios(of(name)?),
            How::FasterThan(name) => of(name)?.ratios(mine),
            How::Value(_) => mine.spread(),
        };
        Some(spread?.median)
    }

    fn is_met(&self, measured: f64, limit: f64) -> bool {
        match self.how {
            How::FasterThan(_) => measured >= limit,
            _ => measured <= limit,
        }
    }

    fn verdict(&self, entries: &[Entry], backend: usize) -> String {
        let Some(limit) = self.limit(backend) else {
            return "no goal".to_owned();
        };
        match self.measured(entries, BACKENDS[backend]) {
            None => "not measured".to_owned(),
            Some(measured) if self.is_met(measured, limit) => format!("met: {}", self.shown(measured)),
            Some(measured) => format!("**missed** by {}: {}", self.gap(measured, limit), self.shown(measured)),
        }
    }

    fn limit_text(&self) -> String {
        let bound = if matches!(self.how, How::FasterThan(_)) {
            "at least"
        } else {
            "at most"
        };
        match self.limits {
            [Some(kernel), Some(fuse)] if kernel != fuse => {
                format!("{bound} {}; {}", self.shown(kernel), self.shown(fuse))
            }
            [Some(limit), _] | [None, Some(limit)] => format!("{bound} {}", self.shown(limit)),
            [None, None] => "none".to_owned(),
        }
    }

    fn shown(&self, value: f64) -> String {
        match self.how {
            How::Over(_) if value >= 0.0 => format!("+{}", shown(Unit::Milliseconds, value)),
            How::Over(_) => shown(Unit::Milliseconds, value),
            How::Times(_) | How::FasterThan(_) => format!("{}x", ratio(value)),
            How::Value(unit) => shown(unit, value),
        }
    }

    fn gap(&self, measured: f64, limit: f64) -> String {
        let gap = (measured - limit).abs();
        match self.how {
            How::Over(_) => shown(Unit::Milliseconds, gap),
            How::Times(_) | How::FasterThan(_) => ratio(gap),
            How::Value(unit) => shown(unit, gap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn entries(kernel_ms: f64) -> Vec<Entry> {
        [(SPAWN, 1.0), (KERNEL, kernel_ms), (UV, 400.0)]
            .map(|(name, value)| {
                let mut entry = Entry::new(name, "");
                entry.add("ready_ms", 0, value);
                entry
            })
            .into()
    }

    #[test]
    fn a_goal_is_met_or_missed_by_how_much() {
        assert_eq!(GOALS[0].verdict(&entries(2.5), 0), "met: +1.50 ms");
        assert_eq!(GOALS[0].verdict(&entries(4.0), 0), "**missed** by 1.00 ms: +3.00 ms");
        assert_eq!(GOALS[0].verdict(&entries(4.0), 1), "not measured");
        assert_eq!(GOALS[3].verdict(&entries(2.0), 0), "met: 200x");
        assert_eq!(GOALS[3].verdict(&entries(4.0), 0), "**missed** by 30: 100x");
    }

    #[test]
    fn every_goal_is_about_a_figure_that_is_taken() {
        assert!(GOALS.iter().all(|goal| ROWS.iter().any(|row| row.key == goal.key)));
    }
}
