//! The same operations on two directories: one is an environment as it is mounted, the other a plain copy of it. What the
//! kernel says of both must agree, number for number, and so must what is there in the end.
//!
//! [`given`] is what both hold at first, `operation` what is done, `random` how that is chosen, `directory` how it is done,
//! `listing` what is left, and [`compare`] puts them together. Knows the kernel, and nothing of envfs.

pub mod compare;
mod directory;
pub mod given;
mod listing;
mod operation;
mod random;
