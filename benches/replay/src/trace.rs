//! The format of a trace: one call a line, words separated by one space, a path last. It makes no calls.
//!
//! | line | call |
//! | --- | --- |
//! | `open SLOT PATH` | open for reading, into a slot; `-` where it failed |
//! | `list SLOT PATH` | the same of a directory |
//! | `stat PATH`, `lstat PATH`, `readlink PATH` | with success or without |
//! | `fstat SLOT`, `tty SLOT`, `close SLOT`, `getdents SLOT` | `tty` asks whether it is a terminal, as Python does of each file |
//! | `read SLOT BYTES`, `pread SLOT BYTES OFFSET`, `seek SLOT OFFSET set\|cur\|end` | |
//! | `map SLOT BYTES OFFSET STRIDE` | map it, and read a byte every STRIDE |

use std::ffi::CString;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where an open descriptor is kept: the number that the recorded program had for it.
pub(crate) type Slot = usize;

/// More descriptors than this at once are not a program's run but a broken trace.
const MAX_SLOTS: usize = 1 << 16;

/// How far apart the bytes are that are read in a map of a recorded run: what the kernel maps at one fault.
pub(crate) const MAP_STRIDE_BYTES: usize = 64 * 1024;

/// A trace with its paths below a prefix.
pub(crate) struct Trace {
    pub(crate) operations: Vec<Operation>,
    /// One more than the highest slot.
    pub(crate) slots: usize,
    /// The longest read.
    pub(crate) buffer_bytes: usize,
}

/// One call.
#[derive(Debug, PartialEq)]
pub(crate) enum Operation {
    Open {
        slot: Option<Slot>,
        path: CString,
        is_directory: bool,
    },
    Stat {
        path: CString,
        follows: bool,
    },
    Readlink {
        path: CString,
    },
    Fstat(Slot),
    IsTerminal(Slot),
    Close(Slot),
    Getdents(Slot),
    Read {
        slot: Slot,
        bytes: usize,
    },
    Pread {
        slot: Slot,
        bytes: usize,
        offset: u64,
    },
    Seek {
        slot: Slot,
        offset: i64,
        whence: Whence,
    },
    Map {
        slot: Slot,
        bytes: usize,
        offset: u64,
        stride_bytes: usize,
    },
}

/// From where a seek counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Whence {
    Set,
    Current,
    End,
}

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// With the number of the line that is none of the format's.
    pub(crate) fn parse(text: &str, prefix: &Path) -> Result<Self> {
        let mut trace = Self {
            operations: Vec::new(),
            slots: 0,
            buffer_bytes: 0,
        };
        for (index, line) in text.lines().enumerate() {
            let operation = parse_line(line, prefix).with_context(|| format!("line {}: {line}", index + 1))?;
            match &operation {
                Operation::Open { slot: Some(slot), .. } => trace.slots = trace.slots.max(slot + 1),
                Operation::Read { bytes, .. } | Operation::Pread { bytes, .. } => {
                    trace.buffer_bytes = trace.buffer_bytes.max(*bytes);
                }
                _ => {}
            }
            trace.operations.push(operation);
        }
        Ok(trace)
    }
}

fn parse_line(line: &str, prefix: &Path) -> Result<Operation> {
    let (name, rest) = line.split_once(' ').context("a call without arguments")?;
    let path = |relative: &str| {
        Ok::<_, anyhow::Error>(CString::new(
            prefix.join(relative).into_os_string().into_encoded_bytes(),
        )?)
    };
    let numbers = || rest.split(' ').map(str::parse::<u64>).collect::<Result<Vec<_>, _>>();
    let size = |number: u64| usize::try_from(number).context("a size of more than memory holds");
    let operation = match name {
        "open" | "list" => {
            let (slot, relative) = rest.split_once(' ').context("no path")?;
            Operation::Open {
                slot: if slot == "-" { None } else { Some(parse_slot(slot)?) },
                path: path(relative)?,
                is_directory: name == "list",
            }
        }
        "stat" | "lstat" => Operation::Stat {
            path: path(rest)?,
            follows: name == "stat",
        },
        "readlink" => Operation::Readlink { path: path(rest)? },
        "fstat" => Operation::Fstat(parse_slot(rest)?),
        "tty" => Operation::IsTerminal(parse_slot(rest)?),
        "close" => Operation::Close(parse_slot(rest)?),
        "getdents" => Operation::Getdents(parse_slot(rest)?),
        "seek" => parse_seek(rest)?,
        "read" | "pread" | "map" => match (name, numbers()?.as_slice()) {
            ("read", &[slot, bytes]) => Operation::Read {
                slot: size(slot)?,
                bytes: size(bytes)?,
            },
            ("pread", &[slot, bytes, offset]) => Operation::Pread {
                slot: size(slot)?,
                bytes: size(bytes)?,
                offset,
            },
            ("map", &[slot, bytes, offset, stride]) if stride > 0 => Operation::Map {
                slot: size(slot)?,
                bytes: size(bytes)?,
                offset,
                stride_bytes: size(stride)?,
            },
            _ => bail!("another count of arguments"),
        },
        _ => bail!("an unknown call"),
    };
    Ok(operation)
}

fn parse_seek(rest: &str) -> Result<Operation> {
    let [slot, offset, whence] = rest.split(' ').collect::<Vec<_>>()[..] else {
        bail!("another count of arguments");
    };
    Ok(Operation::Seek {
        slot: parse_slot(slot)?,
        offset: offset.parse()?,
        whence: match whence {
            "set" => Whence::Set,
            "cur" => Whence::Current,
            "end" => Whence::End,
            _ => bail!("an unknown whence"),
        },
    })
}

fn parse_slot(text: &str) -> Result<Slot> {
    let slot: Slot = text.parse()?;
    if slot >= MAX_SLOTS {
        bail!("slot {slot} is beyond {MAX_SLOTS}");
    }
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_the_prefix_and_keep_their_spaces() {
        let trace = Trace::parse("open 3 a b\nread 3 10\nstat c\n", Path::new("/p")).unwrap();
        let open = Operation::Open {
            slot: Some(3),
            path: CString::new("/p/a b").unwrap(),
            is_directory: false,
        };
        assert_eq!(trace.operations[0], open);
        assert_eq!((trace.slots, trace.buffer_bytes), (4, 10));
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        for broken in [
            "fly 1",
            "read 1",
            "map 1 2 3 0",
            "seek 1 2 up",
            "open 70000 a",
            "close x",
        ] {
            let error = Trace::parse(&format!("stat a\n{broken}"), Path::new("/"))
                .err()
                .unwrap();
            assert!(error.to_string().starts_with("line 2"), "{error:#}");
        }
    }
}
