//! What is known of others: where we differ from rattler's installer and why, archives that one of us refuses, and packages
//! that fight over paths. Knows nothing of how things are compared.

use envfs_tests::reference::{Difference, Known};
use envfs_tests::seen::Seen;

/// What is different, and is to be.
pub(crate) const KNOWN: [Known; 5] = [
    Known {
        is_it: |it| it.path == "CACHEDIR.TAG" && it.ours.is_none(),
        reason: "keeps backups away from a directory full of copies; a mount is none",
    },
    Known {
        is_it: |it| it.path == "conda-meta/frozen" && it.installed.is_none(),
        reason: "CEP 22: a read-only environment tells conda, mamba and pixi to leave it alone",
    },
    Known {
        is_it: |it| {
            it.path.starts_with("lib/python") && it.path.ends_with("/EXTERNALLY-MANAGED") && it.installed.is_none()
        },
        reason: "PEP 668: a read-only environment tells pip and uv to leave it alone",
    },
    Known {
        is_it: |it| it.path.starts_with("conda-meta/") && it.path.ends_with(".json") && both_files(it),
        reason: "records name rattler's own cache; what they say of files is compared by itself",
    },
    Known {
        is_it: |it| (it.path == "__clobbers__" || it.path.starts_with("__clobbers__/")) && it.ours.is_none(),
        reason: "rattler keeps the files that lost for the day their rival is removed; nothing is removed from a tree",
    },
];

/// Archives that neither of us accepts: what they are, and what we say.
pub(crate) const REFUSED_BY_BOTH: [(&str, &str); 20] = [
    (
        "Dagmar-Dinjens-rattler/ca-certificates-2024.7.4-hbcca054_0.conda",
        "holds 0 members `pkg-*.tar.zst`",
    ),
    (
        "conda-conda/zlib-1.2.11-h1de35cc_3.conda",
        "the link `lib/libz.1.dylib` has no target",
    ),
    (
        "conda-conda/zlib-1.2.11-h7b6447c_3.conda",
        "the link `lib/libz.so.1` has no target",
    ),
    (
        "conda-conda-build/1e6d87-flask-0.11.1-py_0.tar.bz2",
        "neither a .conda (zip) nor a .tar.bz2",
    ),
    (
        "conda-conda-build/99f045-spiffy-test-app-0.5-pyh6afbcc8_0.tar.bz2",
        "neither a .conda (zip) nor a .tar.bz2",
    ),
    ("conda-conda-build/another_bad_package.conda", "it may be damaged"),
    (
        "conda-conda-build/bad_package.tar.bz2",
        "neither a .conda (zip) nor a .tar.bz2",
    ),
    ("conda-conda-build/flask-0.11.1-py_0.tar.bz2", "which it does not hold"),
    ("conda-conda-build/fly-2.5.2-0.tar.bz2", "which it does not hold"),
    ("conda-conda-build/nano-2.4.1-0.tar.bz2", "which it does not hold"),
    (
        "conda-conda-build/spiffy-test-app-0.5-pyh6afbcc8_0.tar.bz2",
        "which it does not hold",
    ),
    (
        "conda-conda-package-handling/pkg_with_unicode.conda",
        "it has no info/index.json",
    ),
    (
        "conda-conda-package-handling/pkg_with_unicode.tar.bz2",
        "it has no info/index.json",
    ),
    (
        "conda-conda-package-handling/unicode-files.tar.bz2",
        "it has no info/index.json",
    ),
    (
        "conda-rattler/9b081b-zip64-test-1.0.0-0.conda",
        "neither info/paths.json nor info/files",
    ),
    (
        "conda-rattler/dotslash-test-1.0.0-0.conda",
        "neither info/paths.json nor info/files",
    ),
    (
        "conda-rattler/info-only-1.0.0-0.conda",
        "holds 0 members `pkg-*.tar.zst`",
    ),
    ("conda-rattler/sparse-test-1.0.0-0.conda", "names no known subdir"),
    (
        "conda-rattler/symlink-test-1.0.0-0.conda",
        "neither info/paths.json nor info/files",
    ),
    (
        "conda-rattler/zip64-test-1.0.0-0.conda",
        "neither info/paths.json nor info/files",
    ),
];

/// Archives that rattler installs and we refuse: their files are not those that `info/paths.json` announces, which
/// rattler does not check.
pub(crate) const REFUSED_BY_US: [(&str, &str); 2] = [
    (
        "conda-conda-build/dca262-spiffy-test-app-0.5-pyh6afbcc8_0.tar.bz2",
        "but its info/paths.json says",
    ),
    (
        "conda-rattler/zip64-extra-field-test.conda",
        "but its info/paths.json says",
    ),
];

/// Archives that we accept and rattler does not: what it says. In this one, links were turned into empty files, which
/// `info/paths.json` still calls links; we show what the archive holds.
pub(crate) const REFUSED_BY_RATTLER: [(&str, &str); 1] = [(
    "conda-conda/zlib-1.2.11-h7b6447c_3.tar.bz2",
    "failed to link 'lib/libz.so'",
)];

/// How rattler is to install a group of packages.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// All at once.
    AtOnce,
    /// Each alone, and put together by its own rules. Where a file fights a directory, what rattler leaves behind when it
    /// installs both depends on which thread came first: an emptied directory keeps the file of the winner away.
    ByRules,
}

/// Packages that fight over paths, as rattler's own tests put them together; the winner first.
pub(crate) const CLOBBERS: [(&[&str], How); 11] = [
    (
        &[
            "clobber-1-0.1.0-h4616a5c_0.tar.bz2",
            "clobber-2-0.1.0-h4616a5c_0.tar.bz2",
            "clobber-3-0.1.0-h4616a5c_0.tar.bz2",
        ],
        How::AtOnce,
    ),
    (
        &[
            "clobber-1-0.2.0-h4616a5c_0.tar.bz2",
            "clobber-2-0.2.0-h4616a5c_0.tar.bz2",
            "clobber-3-0.2.0-h4616a5c_0.tar.bz2",
        ],
        How::AtOnce,
    ),
    (
        &[
            "clobber-1-0.1.0-h4616a5c_0.tar.bz2",
            "clobber-2-0.2.0-h4616a5c_0.tar.bz2",
            "clobber-3-0.1.0-h4616a5c_0.tar.bz2",
        ],
        How::AtOnce,
    ),
    (
        &[
            "clobber-nested-1-0.1.0-h4616a5c_0.tar.bz2",
            "clobber-nested-2-0.1.0-h4616a5c_0.tar.bz2",
            "clobber-nested-3-0.1.0-h4616a5c_0.tar.bz2",
        ],
        How::AtOnce,
    ),
    (
        &[
            "clobber-pynoarch-1-0.1.0-pyh4616a5c_0.tar.bz2",
            "clobber-pynoarch-2-0.1.0-pyh4616a5c_0.tar.bz2",
        ],
        How::AtOnce,
    ),
    (
        &["clobber-python-0.1.0-pypy.conda", "clobber-pypy-0.1.0-h4616a5c_0.conda"],
        How::AtOnce,
    ),
    (
        &[
            "clobber-with-symlink-a-0.1.0-h4616a5c_0.conda",
            "clobber-with-symlink-b-0.1.0-h4616a5c_0.conda",
        ],
        How::AtOnce,
    ),
    (
        &[
            "clobber-with-dir-0.1.0-h4616a5c_0.conda",
            "clobber-without-dir-0.1.0-h4616a5c_0.conda",
        ],
        How::ByRules,
    ),
    (
        &[
            "clobber-fd-1-0.1.0-h4616a5c_0.conda",
            "clobber-fd-2-0.1.0-h4616a5c_0.conda",
            "clobber-fd-3-0.1.0-h4616a5c_0.conda",
        ],
        How::ByRules,
    ),
    (
        &[
            "clobber-fd-1-0.1.0-h4616a5c_0.conda",
            "clobber-fd-2-conflicting-0.1.0-h4616a5c_0.conda",
            "clobber-fd-3-0.1.0-h4616a5c_0.conda",
        ],
        How::ByRules,
    ),
    (
        &[
            "clobber-fd-rev-1-0.1.0-h4616a5c_0.conda",
            "clobber-fd-rev-2-0.1.0-h4616a5c_0.conda",
            "clobber-fd-rev-3-0.1.0-h4616a5c_0.conda",
        ],
        How::ByRules,
    ),
];

fn both_files(it: &Difference) -> bool {
    matches!(
        (&it.installed, &it.ours),
        (Some(Seen::File { .. }), Some(Seen::File { .. }))
    )
}
