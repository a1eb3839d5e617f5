//! Which parts of a file are in memory, and bringing them there.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// What the kernel counts in.
const PAGE_BYTES: u64 = 4096;

/// How finely the parts of a file are told apart.
const PIECE_BYTES: u64 = 64 * 1024;

/// Parts that are nearer to each other are read as one: the disk is as quick.
const GAP_BYTES: u64 = 512 * 1024;

/// How many bytes of `range` are in memory (cachestat(2), Linux 6.5). None where the kernel does not say.
pub(crate) fn cached_bytes(file: &File, range: &Range<u64>) -> Option<u64> {
    /// `struct cachestat_range` and the start of `struct cachestat` (`linux/mman.h`).
    #[repr(C)]
    struct Asked {
        offset: u64,
        len: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Said {
        cached_pages: u64,
        others: [u64; 4],
    }
    const SYS_CACHESTAT: libc::c_long = 451;
    let asked = Asked {
        offset: range.start,
        len: range.end.saturating_sub(range.start),
    };
    if asked.len == 0 {
        return Some(0);
    }
    let mut said = Said::default();
    #[expect(unsafe_code, reason = "cachestat has no safe form")]
    // SAFETY: both structures are those of the kernel, and live in this frame.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut said, 0) };
    (result == 0).then(|| said.cached_pages.saturating_mul(PAGE_BYTES))
}

/// Whether less than half of a file is in memory. What is not known is not cold.
pub(crate) fn is_cold(file: &File) -> bool {
    let size_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    cached_bytes(file, &(0..size_bytes)).is_some_and(|cached| cached < size_bytes / 2)
}

/// The parts of a file that are in memory; none where the kernel does not say.
pub(crate) fn cached_pieces(file: &File) -> Vec<Range<u64>> {
    let size_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let mut pieces: Vec<Range<u64>> = Vec::new();
    for start in (0..size_bytes).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
        let piece = start..size_bytes.min(start + PIECE_BYTES);
        if cached_bytes(file, &piece).is_none_or(|cached| cached == 0) {
            continue;
        }
        match pieces.last_mut() {
            Some(last) if piece.start - last.end <= GAP_BYTES => last.end = piece.end,
            _ => pieces.push(piece),
        }
    }
    pieces
}

/// Asks the kernel to read `pieces` of a file, or all of it if there are none. Returns before they are read.
pub(crate) fn read_ahead(file: &File, pieces: &[Range<u64>]) {
    let whole = [0..0];
    let pieces = if pieces.is_empty() { &whole } else { pieces };
    for piece in pieces {
        let offset = i64::try_from(piece.start).unwrap_or(i64::MAX);
        // No length means up to the end.
        let len = i64::try_from(piece.end.saturating_sub(piece.start)).unwrap_or(i64::MAX);
        // What is not read ahead is read when it is needed.
        let _ = posix_fadvise(file, offset, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_written_is_in_memory_and_what_is_sparse_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        let Some(cached) = cached_bytes(&file, &(0..100_000)) else {
            return eprintln!("SKIPPED: this kernel has no cachestat");
        };
        assert_eq!(cached, 25 * PAGE_BYTES);
        assert!(!is_cold(&file));
        file.set_len(10 << 20).unwrap();
        assert!(is_cold(&file));
        assert_eq!(cached_pieces(&file), [0..2 * PIECE_BYTES]);
        read_ahead(&file, &[0..10, 5 << 20..6 << 20]);
        read_ahead(&file, &[]);
    }
}
