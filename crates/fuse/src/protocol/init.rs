//! The first message: which version is spoken, and what both sides can do.

use super::wire::{self, fuse_init_in, fuse_init_out};

/// How many requests the kernel may send ahead, such as readahead. The kernel's own default is 12.
const MAX_BACKGROUND: u16 = 64;

/// From this many on it says that we are congested: three quarters, as the kernel's own default.
const CONGESTION_THRESHOLD: u16 = MAX_BACKGROUND / 4 * 3;

/// Nothing is ever written, and the buffer for requests can be as small as it may be.
const MAX_WRITE_BYTES: u32 = 4096;

/// How many pages one read may ask for: 256 KiB, twice what the kernel reads ahead.
const MAX_PAGES: u16 = 64;

/// What is used where everything stays as it is, wherever the kernel has it. Without one of them it is slower, not wrong.
const WANTED: u64 = wire::FUSE_ASYNC_READ
    | wire::FUSE_DO_READDIRPLUS
    | wire::FUSE_PARALLEL_DIROPS
    | wire::FUSE_MAX_PAGES
    | wire::FUSE_CACHE_SYMLINKS
    | wire::FUSE_EXPLICIT_INVAL_DATA
    | wire::FUSE_INIT_EXT
    | wire::FUSE_HAS_RESEND;

/// What is used where things change: nothing that lets the kernel keep what it was told.
pub(crate) const WANTED_WHERE_THINGS_CHANGE: u64 =
    wire::FUSE_PARALLEL_DIROPS | wire::FUSE_MAX_PAGES | wire::FUSE_INIT_EXT | wire::FUSE_HAS_RESEND;

/// What is used where everything stays as it is, with or without files that the kernel reads itself.
pub(crate) fn wanted(passthrough: bool) -> u64 {
    if passthrough {
        WANTED | wire::FUSE_PASSTHROUGH
    } else {
        WANTED
    }
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Whether the kernel may read registered files itself.
    pub(crate) passthrough: bool,
    /// Whether it can send again what a server that was killed did not answer (Linux 6.9).
    pub(crate) resend: bool,
}

/// What a server says to a first message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict {
    /// The kernel speaks a later language: it hears which one we do, and asks again.
    Again(fuse_init_out),
    /// It is settled.
    Agreed(fuse_init_out, Agreed),
    /// The kernel is older than all that is known.
    TooOld,
}

/// Answers a kernel that speaks `version` and offers `flags`, of which those are taken that are `wanted`.
pub(crate) fn answer(version: &fuse_init_in, flags: u64, wanted: u64) -> Verdict {
    let ours = fuse_init_out {
        major: wire::FUSE_KERNEL_VERSION,
        minor: wire::FUSE_KERNEL_MINOR_VERSION,
        ..fuse_init_out::default()
    };
    if version.major > wire::FUSE_KERNEL_VERSION {
        return Verdict::Again(ours);
    }
    if version.major < wire::FUSE_KERNEL_VERSION || version.minor < MIN_MINOR_VERSION {
        return Verdict::TooOld;
    }
    let agreed = flags & wanted;
    let has = |flag| agreed & flag != 0;
    let out = fuse_init_out {
        max_readahead: version.max_readahead,
        flags: low(agreed),
        flags2: low(agreed >> 32),
        max_background: MAX_BACKGROUND,
        congestion_threshold: CONGESTION_THRESHOLD,
        max_write: MAX_WRITE_BYTES,
        time_gran: 1,
        max_pages: MAX_PAGES,
        // At depth 0 every passthrough open fails; at 2 no overlayfs could stand on the mount.
        max_stack_depth: u32::from(has(wire::FUSE_PASSTHROUGH)),
        ..ours
    };
    Verdict::Agreed(
        out,
        Agreed {
            passthrough: has(wire::FUSE_PASSTHROUGH),
            resend: has(wire::FUSE_HAS_RESEND),
        },
    )
}

/// Linux 5.1, the first that can open directories without asking.
const MIN_MINOR_VERSION: u32 = 29;

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn low(flags: u64) -> u32 {
    flags as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(major: u32, minor: u32) -> fuse_init_in {
        fuse_init_in {
            major,
            minor,
            max_readahead: 131_072,
            flags: 0,
        }
    }

    #[test]
    fn only_what_both_can_is_agreed() {
        let Verdict::Agreed(out, agreed) = answer(&kernel(7, 45), u64::MAX, wanted(true)) else {
            panic!("a kernel of today is understood")
        };
        assert!(agreed.passthrough && agreed.resend);
        assert_eq!((out.max_stack_depth, out.max_readahead), (1, 131_072));
        assert_eq!(
            u64::from(out.flags2) << 32,
            wire::FUSE_PASSTHROUGH | wire::FUSE_HAS_RESEND
        );
        let Verdict::Agreed(out, agreed) = answer(&kernel(7, 31), wire::FUSE_DO_READDIRPLUS, wanted(true)) else {
            panic!("Linux 5.4 is understood")
        };
        assert!(!agreed.passthrough && !agreed.resend);
        assert_eq!(u64::from(out.flags), wire::FUSE_DO_READDIRPLUS);
        assert_eq!(out.max_stack_depth, 0);
        let Verdict::Agreed(_, agreed) = answer(&kernel(7, 45), u64::MAX, wanted(false)) else {
            panic!("a kernel of today is understood")
        };
        assert!(!agreed.passthrough);
    }

    #[test]
    fn other_languages_are_answered_or_refused() {
        assert!(matches!(answer(&kernel(8, 0), 0, wanted(true)), Verdict::Again(out) if out.major == 7));
        assert!(matches!(answer(&kernel(6, 99), 0, wanted(true)), Verdict::TooOld));
        assert!(matches!(answer(&kernel(7, 8), 0, wanted(true)), Verdict::TooOld));
        assert!(matches!(
            answer(&kernel(u32::MAX, u32::MAX), u64::MAX, wanted(true)),
            Verdict::Again(_)
        ));
    }
}
