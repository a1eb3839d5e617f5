//! What is measured, in the order in which the table shows it.

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Measure {
    /// From the command to an environment that can be used: the sum of the two below.
    Ready,
    Create,
    Mount,
    FirstPass,
    SecondPass,
    FirstImport,
    SecondImport,
    Retire,
    Bytes,
    Inodes,
}

impl Measure {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Ready,
        Self::Create,
        Self::Mount,
        Self::FirstPass,
        Self::SecondPass,
        Self::FirstImport,
        Self::SecondImport,
        Self::Retire,
        Self::Bytes,
        Self::Inodes,
    ];

    /// The row's name in the table.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ready => "**ready to use**",
            Self::Create => "of that: make it",
            Self::Mount => "of that: mount it",
            Self::FirstPass => "first `python -c pass`",
            Self::SecondPass => "second `python -c pass`",
            Self::FirstImport => "first import of numpy, pandas, sklearn",
            Self::SecondImport => "second import of them",
            Self::Retire => "retire it",
            Self::Bytes => "new bytes on disk",
            Self::Inodes => "new inodes",
        }
    }

    /// The key in the JSON file; a time's ends in its unit.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Ready => "ready_ms",
            Self::Create => "create_ms",
            Self::Mount => "mount_ms",
            Self::FirstPass => "first_pass_ms",
            Self::SecondPass => "second_pass_ms",
            Self::FirstImport => "first_import_ms",
            Self::SecondImport => "second_import_ms",
            Self::Retire => "retire_ms",
            Self::Bytes => "new_bytes",
            Self::Inodes => "new_inodes",
        }
    }

    /// Whether this is a time rather than a count.
    pub(super) fn is_time(self) -> bool {
        !matches!(self, Self::Bytes | Self::Inodes)
    }
}

/// The programs that are run in each new environment, in this order.
pub(super) const PROGRAMS: [(Measure, &str); 4] = [
    (Measure::FirstPass, "pass"),
    (Measure::SecondPass, "pass"),
    (Measure::FirstImport, "import numpy, pandas, sklearn"),
    (Measure::SecondImport, "import numpy, pandas, sklearn"),
];
