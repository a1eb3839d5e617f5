//! All targets for libFuzzer, in one program: `ENVFS_FUZZ_TARGET` says which one is meant.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<envfs_fuzz::Target> = LazyLock::new(|| {
    let wanted = std::env::var("ENVFS_FUZZ_TARGET").unwrap_or_default();
    let found = envfs_fuzz::TARGETS.into_iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| {
        panic!(
            "ENVFS_FUZZ_TARGET is none of {:?}",
            envfs_fuzz::TARGETS.map(|(name, _)| name)
        )
    })
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.1)(bytes));
