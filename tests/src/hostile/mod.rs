//! Archives as nobody should make them: each with what must become of it. Tests drive the program with them, and fuzzing
//! starts from them. Knows formats and nothing of the program.

mod conda;
mod tar;
mod wheel;
mod zip;

pub use conda::packages;
pub use wheel::wheels;

/// One archive.
pub struct Case {
    /// What is hostile in it, in words; the name of no two cases.
    pub what: &'static str,
    /// The name of the archive.
    pub file_name: String,
    /// The archive.
    pub archive: Vec<u8>,
    /// What must become of it.
    pub outcome: Outcome,
    /// Options of the command.
    pub options: &'static [&'static str],
}

/// What becomes of an archive.
pub enum Outcome {
    /// It is refused with a message that has these words.
    Refused(Vec<&'static str>),
    /// It is taken, and its layer has these lines, as the test writes them: `path`, `path*` for what can be
    /// executed, `path/`, `path -> target`.
    Taken(Vec<&'static str>),
}
