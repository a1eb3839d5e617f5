//! What is measured: the groups of figures that are taken together, and the figures of each.
//!
//! A table; it measures nothing.

use std::time::Duration;

/// Figures that are taken together, in rounds of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Group {
    Create,
    Fresh,
    Cold,
    Warm,
    Parallel,
    Files,
    Memory,
    Many,
    Run,
    Reuse,
}

/// In what a figure is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    Milliseconds,
    Bytes,
    Count,
}

/// To which contender a figure is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Against {
    /// Spawning `/bin/true`.
    Spawn,
    /// A plain directory.
    Ext4,
    /// Its value says all.
    Nothing,
}

/// One figure.
pub(super) struct Row {
    pub(super) group: Group,
    /// The key in the JSON file; it ends in the unit.
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    pub(super) unit: Unit,
    pub(super) against: Against,
    /// How to repeat it at a prefix `DIR`, once the contender offers it there.
    pub(super) command: &'static str,
}

/// How many rounds a group takes: at least, at most, and the time after which no further one begins.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) budget: Duration,
}

impl Group {
    /// In the order in which they run: what a run that is out of time misses stands last.
    pub(super) const ALL: [Self; 10] = [
        Self::Create,
        Self::Run,
        Self::Reuse,
        Self::Fresh,
        Self::Warm,
        Self::Files,
        Self::Memory,
        Self::Many,
        Self::Cold,
        Self::Parallel,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Fresh => "fresh",
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Parallel => "parallel",
            Self::Files => "files",
            Self::Memory => "memory",
            Self::Many => "many",
            Self::Run => "run",
            Self::Reuse => "reuse",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Create => "Create and retire an environment",
            Self::Fresh => "Fresh but hot: a new mount, everything in memory",
            Self::Cold => "Cold: the machine's caches dropped",
            Self::Warm => "Warm",
            Self::Parallel => "Four imports at once",
            Self::Files => "Files, warm",
            Self::Memory => "Memory of a mount's server",
            Self::Many => "Many environments",
            Self::Run => "Run a command in an environment",
            Self::Reuse => "Run a command in an environment that is there",
        }
    }

    /// What its figures mean.
    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Create => {
                "From starting the command to its end, then one stat that must succeed. The packages are here already (in the store, \
                 the cache, the image); what had to be made once before is under *Made once*. Bytes and inodes are what a further, \
                 identical environment adds on disk, at a path never used before and as long as one that was. (`envfs (kernel)` makes an image of \
                 the names, 0.2 KB a file, for the first path of each length.)"
            }
            Self::Fresh => {
                "Each figure has a mount of its own, made just before; the files below it are in memory. For the plain directory a bind \
                 mount is made instead."
            }
            Self::Cold => {
                "`sync; echo 3 > /proc/sys/vm/drop_caches`, then the mount, then at once the program. Programs and libraries of the \
                 system are cold, too, for everyone. *The first time* is without a trace of earlier runs; all others are with that of one \
                 run, where a contender records what runs open."
            }
            Self::Warm => {
                "One mount for all rounds, used once before. *Requests* are the reads of the server process during the replay: what the \
                 kernel asked."
            }
            Self::Parallel => "The same import, four times at once.",
            Self::Files => {
                "On the mount of the 100,000-file environment where a large file is read, on the real one otherwise."
            }
            Self::Memory => {
                "Private memory of the server process (`Private_Clean` and `Private_Dirty` of `/proc/PID/smaps_rollup`); none where \
                 the kernel serves alone. The kernel's own memory is not in it."
            }
            Self::Many => {
                "What 1, 10 and 100 identical environments add on disk, beside one that is there at a path as long as theirs. Mounts are \
                 all there at once; directories are one environment, measured, times 1, 10 and 100."
            }
            Self::Run => "From starting the command to its end; `/bin/true` by itself is the plain exec.",
            Self::Reuse => {
                "The environment is mounted, or on disk, and was used once; from starting the command to its end. Of the plain directory the \
                 interpreter is started by its path: what others take more is what running it through them adds. `ensure` is asked for the \
                 signature of the same packages, as people write them, once it knows the answer."
            }
        }
    }

    /// The bounds of a full run, or of a quick one.
    pub(super) fn bounds(self, quick: bool) -> Bounds {
        let (least, most, seconds) = match (self, quick) {
            (Self::Create, false) => (5, 30, 90),
            (Self::Create, true) => (1, 5, 10),
            (Self::Run, false) => (5, 25, 15),
            (Self::Run, true) => (1, 3, 3),
            (Self::Reuse, false) => (5, 25, 30),
            (Self::Reuse, true) => (1, 3, 5),
            (Self::Many, _) => (1, 1, 20),
            (Self::Memory, false) => (1, 3, 20),
            (Self::Memory, true) => (1, 1, 3),
            (Self::Fresh, false) => (3, 7, 100),
            (Self::Fresh, true) => (1, 2, 12),
            (Self::Cold, false) => (3, 5, 170),
            (Self::Cold, true) => (1, 1, 15),
            (Self::Warm, false) => (3, 9, 110),
            (Self::Warm, true) => (1, 3, 12),
            (Self::Files, false) => (3, 9, 40),
            (Self::Files, true) => (1, 2, 6),
            (Self::Parallel, false) => (3, 5, 60),
            (Self::Parallel, true) => (1, 1, 8),
        };
        Bounds {
            least,
            most,
            budget: Duration::from_secs(seconds),
        }
    }

    pub(super) fn rows(self) -> impl Iterator<Item = &'static Row> {
        ROWS.iter().filter(move |row| row.group == self)
    }
}

const fn time(group: Group, key: &'static str, label: &'static str, against: Against, command: &'static str) -> Row {
    Row {
        group,
        key,
        label,
        unit: Unit::Milliseconds,
        against,
        command,
    }
}

const fn count(group: Group, key: &'static str, label: &'static str, unit: Unit, command: &'static str) -> Row {
    Row {
        group,
        key,
        label,
        unit,
        against: Against::Nothing,
        command,
    }
}

const IMPORT: &str = "DIR/bin/python -c 'import numpy, pandas, sklearn'";
const REPLAY_IMPORT: &str = "envfs-bench-replay replay target/bench/traces/import DIR";
const SEQUENTIAL: &str = "envfs-bench-replay replay target/bench/traces/sequential DIR";
const MAPPED: &str = "envfs-bench-replay replay target/bench/traces/mapped DIR";
const SERVER: &str = "grep Private_ /proc/PID/smaps_rollup  # PID: envfs ps --json";

/// All figures, in the order of the tables.
pub(super) const ROWS: [Row; 38] = [
    time(
        Group::Create,
        "ready_ms",
        "ready, 13k files",
        Against::Spawn,
        "time OFFER; stat DIR/bin/python",
    ),
    time(
        Group::Create,
        "ready_100k_ms",
        "ready, 100k files",
        Against::Spawn,
        "time OFFER; stat DIR/data/large.bin",
    ),
    time(Group::Create, "retire_ms", "retire", Against::Spawn, "time RETIRE"),
    time(
        Group::Create,
        "new_path_ms",
        "ready, at a path never used before",
        Against::Spawn,
        "time OFFER  # at another DIR each time",
    ),
    count(
        Group::Create,
        "new_bytes",
        "new bytes",
        Unit::Bytes,
        "du --bytes, before and after",
    ),
    count(
        Group::Create,
        "new_inodes",
        "new inodes",
        Unit::Count,
        "du --inodes, before and after",
    ),
    time(
        Group::Fresh,
        "fresh_pass_ms",
        "first `python -c pass`",
        Against::Ext4,
        "DIR/bin/python -c pass",
    ),
    time(
        Group::Fresh,
        "second_pass_ms",
        "second `python -c pass`",
        Against::Ext4,
        "DIR/bin/python -c pass",
    ),
    time(
        Group::Fresh,
        "fresh_import_ms",
        "import, whole process",
        Against::Ext4,
        IMPORT,
    ),
    time(
        Group::Fresh,
        "fresh_replay_ms",
        "import, file-system time",
        Against::Ext4,
        REPLAY_IMPORT,
    ),
    time(Group::Cold, "cold_mount_ms", "mount", Against::Spawn, "time OFFER"),
    time(
        Group::Cold,
        "cold_untraced_replay_ms",
        "import, file-system time, the first time",
        Against::Ext4,
        "envfs trace reset ENV; OFFER; envfs-bench-replay replay target/bench/traces/import DIR",
    ),
    time(
        Group::Cold,
        "cold_pass_ms",
        "`python -c pass`",
        Against::Ext4,
        "DIR/bin/python -c pass",
    ),
    time(
        Group::Cold,
        "cold_import_ms",
        "import, whole process",
        Against::Ext4,
        IMPORT,
    ),
    time(
        Group::Cold,
        "cold_replay_ms",
        "import, file-system time",
        Against::Ext4,
        REPLAY_IMPORT,
    ),
    time(
        Group::Cold,
        "cold_sequential_ms",
        "100 MB sequential",
        Against::Ext4,
        SEQUENTIAL,
    ),
    time(Group::Cold, "cold_mapped_ms", "100 MB mapped", Against::Ext4, MAPPED),
    time(
        Group::Warm,
        "warm_import_ms",
        "import, whole process",
        Against::Ext4,
        IMPORT,
    ),
    time(
        Group::Warm,
        "warm_replay_ms",
        "import, file-system time",
        Against::Ext4,
        REPLAY_IMPORT,
    ),
    count(
        Group::Warm,
        "warm_requests",
        "requests to a server",
        Unit::Count,
        "grep syscr /proc/PID/io, before and after the replay",
    ),
    time(
        Group::Parallel,
        "parallel_import_ms",
        "4 imports",
        Against::Ext4,
        "for i in 1 2 3 4; do DIR/bin/python -c 'import numpy, pandas, sklearn' & done; wait",
    ),
    time(
        Group::Files,
        "find_ms",
        "find",
        Against::Ext4,
        "find DIR -name no-such-name",
    ),
    time(
        Group::Files,
        "stat_ms",
        "stat of every name",
        Against::Ext4,
        "envfs-bench-replay replay target/bench/traces/stat DIR",
    ),
    time(
        Group::Files,
        "negative_ms",
        "as many names that are not there",
        Against::Ext4,
        "envfs-bench-replay replay target/bench/traces/negative DIR",
    ),
    time(
        Group::Files,
        "sequential_ms",
        "100 MB sequential",
        Against::Ext4,
        SEQUENTIAL,
    ),
    time(Group::Files, "mapped_ms", "100 MB mapped", Against::Ext4, MAPPED),
    count(
        Group::Memory,
        "memory_fresh_bytes",
        "100k files, just mounted",
        Unit::Bytes,
        SERVER,
    ),
    count(
        Group::Memory,
        "memory_walked_bytes",
        "100k files, after `find`",
        Unit::Bytes,
        SERVER,
    ),
    count(
        Group::Memory,
        "memory_import_bytes",
        "13k files, after the import",
        Unit::Bytes,
        SERVER,
    ),
    count(
        Group::Many,
        "bytes_1",
        "bytes of 1",
        Unit::Bytes,
        "du --bytes, before and after OFFER",
    ),
    count(
        Group::Many,
        "inodes_1",
        "inodes of 1",
        Unit::Count,
        "du --inodes, before and after OFFER",
    ),
    count(
        Group::Many,
        "bytes_10",
        "bytes of 10",
        Unit::Bytes,
        "du --bytes, before and after 10 times OFFER",
    ),
    count(
        Group::Many,
        "inodes_10",
        "inodes of 10",
        Unit::Count,
        "du --inodes, before and after 10 times OFFER",
    ),
    count(
        Group::Many,
        "bytes_100",
        "bytes of 100",
        Unit::Bytes,
        "du --bytes, before and after 100 times OFFER",
    ),
    count(
        Group::Many,
        "inodes_100",
        "inodes of 100",
        Unit::Count,
        "du --inodes, before and after 100 times OFFER",
    ),
    time(Group::Run, "run_true_ms", "run `true`", Against::Spawn, "time RUN"),
    time(
        Group::Reuse,
        "reuse_pass_ms",
        "run `python -c pass`",
        Against::Ext4,
        "STAND; time RUN AGAIN",
    ),
    time(
        Group::Reuse,
        "ensure_ms",
        "`ensure` of what is known",
        Against::Spawn,
        "time envfs ensure python=3.11 numpy pandas scikit-learn requests -c file://$PWD/target/channel",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_figures_and_every_key_is_its_own() {
        let mut keys: Vec<&str> = ROWS.iter().map(|row| row.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), ROWS.len());
        assert!(Group::ALL.iter().all(|group| group.rows().next().is_some()));
    }

    #[test]
    fn a_run_is_bounded() {
        let seconds = |quick| {
            Group::ALL
                .iter()
                .map(|group| group.bounds(quick).budget.as_secs())
                .sum::<u64>()
        };
        assert!(seconds(false) <= 12 * 60 && seconds(true) <= 110);
    }
}
