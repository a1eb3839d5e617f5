//! What is tested on real mounts.

mod mounts;
mod runs;

use crate::Case;

pub(crate) use runs::nested;

/// All cases.
pub(crate) const CASES: &[&Case] = &[
    &mounts::FILES,
    &mounts::LISTINGS,
    &mounts::REFUSALS,
    &mounts::IN_USE,
    &mounts::DEAD,
    &mounts::SIGNALLED,
    &mounts::FOREGROUND,
    &mounts::THREADS,
    &mounts::PASSTHROUGH,
    &runs::EXIT_CODES,
    &runs::INVISIBLE,
    &runs::NOT_STARTED,
    &runs::DAEMONS,
    &runs::SIGNALS,
    &runs::KILLED,
    &runs::NESTED,
    &runs::PUBLIC,
    &runs::MANY,
];
