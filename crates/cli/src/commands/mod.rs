//! The commands, one file each.

pub(crate) mod build;
pub(crate) mod commit;
pub(crate) mod config;
pub(crate) mod diff;
pub(crate) mod discard;
pub(crate) mod du;
pub(crate) mod ensure;
pub(crate) mod export;
pub(crate) mod gc;
pub(crate) mod lock;
pub(crate) mod ls;
pub(crate) mod mount;
pub(crate) mod name;
pub(crate) mod owner;
pub(crate) mod pin;
pub(crate) mod promote;
pub(crate) mod ps;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod store;
pub(crate) mod trace;
pub(crate) mod umount;
pub(crate) mod version;
pub(crate) mod warm;
pub(crate) mod why;
