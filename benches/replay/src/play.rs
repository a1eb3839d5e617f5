//! Making the calls of a trace, as fast as they come. It knows nothing of how a trace is written down.

use std::hint::black_box;
use std::io::IsTerminal;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use memmap2::MmapOptions;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, SeekFrom};

use crate::trace::{Operation, Trace, Whence};

/// The buffer that glibc gives to getdents64(2).
const DIRECTORY_BUFFER_BYTES: usize = 32 * 1024;

/// What playing gave.
pub(crate) struct Played {
    pub(crate) took: Duration,
    /// Opens that failed and did not when recorded, or the other way round; calls on a descriptor that is not there.
    pub(crate) surprises: u64,
}

/// Makes all calls of a trace, in their order, in one thread.
pub(crate) fn play(trace: &Trace) -> Played {
    let mut player = Player {
        files: (0..trace.slots).map(|_| None).collect(),
        buffer: vec![0; trace.buffer_bytes],
        directory_buffer: vec![MaybeUninit::uninit(); DIRECTORY_BUFFER_BYTES],
        surprises: 0,
    };
    let start = Instant::now();
    for operation in &trace.operations {
        player.make(operation);
    }
    Played {
        took: start.elapsed(),
        surprises: player.surprises,
    }
}

struct Player {
    files: Vec<Option<OwnedFd>>,
    buffer: Vec<u8>,
    directory_buffer: Vec<MaybeUninit<u8>>,
    surprises: u64,
}

impl Player {
    fn make(&mut self, operation: &Operation) {
        match operation {
            Operation::Open {
                slot,
                path,
                is_directory,
            } => {
                let kind = if *is_directory {
                    OFlags::DIRECTORY
                } else {
                    OFlags::empty()
                };
                let opened = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | kind, Mode::empty());
                match (slot, opened) {
                    (Some(slot), Ok(file)) => self.files[*slot] = Some(file),
                    (None, Err(_)) => {}
                    _ => self.surprises += 1,
                }
            }
            // Names that are not there are asked for, too: the answer is what it costs.
            Operation::Stat { path, follows } => {
                let flags = if *follows {
                    AtFlags::empty()
                } else {
                    AtFlags::SYMLINK_NOFOLLOW
                };
                let _ = black_box(rustix::fs::statat(CWD, path, flags));
            }
            Operation::Readlink { path } => {
                let _ = black_box(rustix::fs::readlinkat(CWD, path, Vec::new()));
            }
            Operation::Close(slot) => drop(self.files.get_mut(*slot).and_then(Option::take)),
            Operation::Fstat(slot)
            | Operation::IsTerminal(slot)
            | Operation::Getdents(slot)
            | Operation::Read { slot, .. }
            | Operation::Pread { slot, .. }
            | Operation::Seek { slot, .. }
            | Operation::Map { slot, .. } => self.make_on(*slot, operation),
        }
    }

    /// A call on a descriptor.
    fn make_on(&mut self, slot: usize, operation: &Operation) {
        let Some(file) = self.files.get(slot).and_then(Option::as_ref) else {
            self.surprises += 1;
            return;
        };
        match operation {
            Operation::Fstat(_) => {
                let _ = black_box(rustix::fs::fstat(file));
            }
            Operation::IsTerminal(_) => {
                black_box(file.is_terminal());
            }
            Operation::Getdents(_) => {
                // One call of getdents64: the first entry asks for a buffer full.
                let _ = black_box(RawDir::new(file, &mut self.directory_buffer).next().is_some());
            }
            Operation::Read { bytes, .. } => {
                let _ = black_box(rustix::io::read(file, &mut self.buffer[..*bytes]));
            }
            Operation::Pread { bytes, offset, .. } => {
                let _ = black_box(rustix::io::pread(file, &mut self.buffer[..*bytes], *offset));
            }
            Operation::Seek { offset, whence, .. } => {
                let to = match whence {
                    Whence::Set => SeekFrom::Start(offset.unsigned_abs()),
                    Whence::Current => SeekFrom::Current(*offset),
                    Whence::End => SeekFrom::End(*offset),
                };
                let _ = black_box(rustix::fs::seek(file, to));
            }
            Operation::Map {
                bytes,
                offset,
                stride_bytes,
                ..
            } => touch_map(file, *bytes, *offset, *stride_bytes),
            _ => {}
        }
    }
}

/// Maps a part of a file and reads a byte every stride, not beyond the file's end.
fn touch_map(file: &OwnedFd, bytes: usize, offset: u64, stride_bytes: usize) {
    let size_bytes = rustix::fs::fstat(file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
    let there = usize::try_from(size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
    #[expect(unsafe_code, reason = "a map of a file is what is measured")]
    // SAFETY: the files below the prefix are not changed while they are measured.
    let map = unsafe { MmapOptions::new().offset(offset).len(bytes).map_copy_read_only(file) };
    if let Ok(map) = map {
        for at in (0..bytes.min(there)).step_by(stride_bytes) {
            black_box(map[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_fits_has_no_surprises_and_another_has() {
        let prefix = std::env::temp_dir().join(format!("envfs-replay-{}", std::process::id()));
        std::fs::create_dir_all(&prefix).unwrap();
        std::fs::write(prefix.join("a"), [7; 9000]).unwrap();
        let text = "list 4 .\ngetdents 4\nclose 4\nopen 3 a\nfstat 3\ntty 3\nread 3 100\nseek 3 0 end\npread 3 10 5\nmap 3 9000 0 4096\n\
                    map 3 99999 0 4096\nclose 3\nopen - b\nstat b\nreadlink a\n";
        let good = play(&Trace::parse(text, &prefix).unwrap());
        assert_eq!(good.surprises, 0);
        assert!(good.took.as_nanos() > 0);
        let other = play(&Trace::parse("open 3 b\nread 3 1\nopen - a\n", &prefix).unwrap());
        std::fs::remove_dir_all(&prefix).unwrap();
        assert_eq!(other.surprises, 3);
    }
}
