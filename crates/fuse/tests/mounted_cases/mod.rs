//! What is tested on real mounts.

mod model;
mod mounts;
mod prepared;
mod recovery;
mod runs;
mod sandboxes;

use envfs_fuse::backend::{BACKENDS, Backend};

use crate::Case;

pub(crate) use model::compare;
pub(crate) use runs::nested;

/// What holds for all.
const ALL: &[Backend] = &BACKENDS;

/// What holds for mounts.
const KERNEL_AND_FUSE: &[Backend] = &[Backend::Kernel, Backend::Fuse];

/// What only a server does.
const FUSE: &[Backend] = &[Backend::Fuse];

/// What only the kernel does.
const KERNEL: &[Backend] = &[Backend::Kernel];

/// What only links do.
const LINK: &[Backend] = &[Backend::Link];

/// All cases.
pub(crate) const CASES: &[&Case] = &[
    &model::PUBLIC,
    &model::PRIVATE,
    &model::TOOLS,
    &model::REMOUNTED,
    &mounts::FILES,
    &mounts::LISTINGS,
    &mounts::REFUSALS,
    &mounts::IN_USE,
    &mounts::DEAD,
    &mounts::SIGNALLED,
    &mounts::FOREGROUND,
    &mounts::THREADS,
    &mounts::PASSTHROUGH,
    &recovery::KILLED_SERVERS,
    &recovery::KILLED_SERVERS_OF_RUNS,
    &recovery::KILLED_KEEPER,
    &prepared::STATUS,
    &prepared::AT_ONCE,
    &prepared::RECORDED,
    &prepared::PREFIXES,
    &prepared::DAMAGED,
    &prepared::REFUSED,
    &prepared::EXPLAINED,
    &prepared::LINKED,
    &prepared::CHANGED,
    &runs::EXIT_CODES,
    &runs::INVISIBLE,
    &runs::NOT_STARTED,
    &runs::DAEMONS,
    &runs::SIGNALS,
    &runs::KILLED,
    &runs::NESTED,
    &runs::PUBLIC,
    &runs::MANY,
    &sandboxes::WRITTEN,
    &sandboxes::LIMITED,
    &sandboxes::FORGOTTEN,
    &sandboxes::KEPT,
    &sandboxes::ENDED,
];
