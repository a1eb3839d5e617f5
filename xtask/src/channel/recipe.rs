//! The recipe: which packages the channel has, what they are made of, and what they depend on.
//!
//! Names and dependencies follow conda-forge's. This room is a table; it does nothing.

use super::package::{Format, Kind};

/// A conda package made of Debian packages.
pub(super) struct Native {
    pub(super) name: &'static str,
    /// The Debian packages, the one that gives the version first.
    pub(super) debs: &'static [&'static str],
    pub(super) kind: Kind,
    pub(super) format: Format,
    pub(super) depends: &'static [&'static str],
    pub(super) license: &'static str,
    pub(super) home: &'static str,
    pub(super) summary: &'static str,
    /// Binaries that find their libraries by a path with the placeholder; all others do by `$ORIGIN`.
    pub(super) with_placeholder_rpath: &'static [&'static str],
    /// Libraries for which a pkg-config file is written.
    pub(super) pkg_config: &'static [&'static str],
}

/// Debian packages that only the making needs.
pub(super) const TOOL_DEBS: [&str; 2] = ["patchelf", "python3-pip-whl"];

/// Wheels that are packed as `.tar.bz2`.
pub(super) const OLD_FORMAT_WHEELS: [&str; 3] = ["six", "python-dateutil", "threadpoolctl"];

/// PyPI names that conda-forge gives to other things.
pub(super) const RENAMED_WHEELS: [(&str, &str); 1] = [("tzdata", "python-tzdata")];

/// The Python of this channel, major and minor.
pub(super) const PYTHON_VERSION: &str = "3.11";

const NOTHING: Native = Native {
    name: "",
    debs: &[],
    kind: Kind::Arch,
    format: Format::Conda,
    depends: &[],
    license: "",
    home: "",
    summary: "",
    with_placeholder_rpath: &[],
    pkg_config: &[],
};

/// Every package that is made of Debian's.
pub(super) const NATIVES: [Native; 17] = [
    Native {
        name: "python",
        debs: &[
            "python3.11",
            "python3.11-minimal",
            "libpython3.11",
            "libpython3.11-minimal",
            "libpython3.11-stdlib",
        ],
        depends: &[
            "__glibc >=2.36,<3.0.a0",
            "bzip2 >=1.0.8,<2.0a0",
            "expat >=2.5.0,<3.0a0",
            "libffi >=3.4,<4.0a0",
            "libgcc >=12",
            "libuuid >=2.38.1,<3.0a0",
            "libxcrypt >=4.4.33",
            "ncurses >=6.4,<7.0a0",
            "openssl >=3.0.9,<4.0a0",
            "readline >=8.2,<9.0a0",
            "sqlite >=3.40.1,<4.0a0",
            "tzdata",
            "xz >=5.4.1,<6.0a0",
            "zlib >=1.2.13,<1.3.0a0",
        ],
        license: "Python-2.0",
        home: "https://www.python.org/",
        summary: "General purpose programming language",
        with_placeholder_rpath: &["bin/python3.11", "lib/libpython3.11.so.1.0"],
        ..NOTHING
    },
    Native {
        name: "openssl",
        debs: &["libssl3", "openssl"],
        depends: &["__glibc >=2.36,<3.0.a0", "ca-certificates"],
        license: "Apache-2.0",
        home: "https://www.openssl.org/",
        summary: "Toolkit for TLS and general purpose cryptography",
        with_placeholder_rpath: &["bin/openssl"],
        pkg_config: &["libcrypto", "libssl", "openssl"],
        ..NOTHING
    },
    Native {
        name: "ca-certificates",
        debs: &["ca-certificates"],
        kind: Kind::NoarchGeneric,
        license: "MPL-2.0",
        home: "https://wiki.mozilla.org/CA",
        summary: "Certificates of the authorities that Mozilla trusts",
        ..NOTHING
    },
    Native {
        name: "tzdata",
        debs: &["tzdata"],
        kind: Kind::NoarchGeneric,
        license: "LicenseRef-Public-Domain",
        home: "https://www.iana.org/time-zones",
        summary: "The time zone database",
        ..NOTHING
    },
    Native {
        name: "zlib",
        debs: &["zlib1g"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "Zlib",
        home: "https://zlib.net/",
        summary: "Massively spiffy yet delicately unobtrusive compression library",
        pkg_config: &["zlib"],
        ..NOTHING
    },
    Native {
        name: "bzip2",
        debs: &["bzip2", "libbz2-1.0"],
        format: Format::TarBz2,
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "bzip2-1.0.6",
        home: "https://sourceware.org/bzip2/",
        summary: "Block-sorting compressor",
        pkg_config: &["bzip2"],
        ..NOTHING
    },
    Native {
        name: "xz",
        debs: &["liblzma5", "xz-utils"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "LGPL-2.1-or-later AND GPL-2.0-or-later AND 0BSD",
        home: "https://tukaani.org/xz/",
        summary: "Data compression with high compression ratio",
        pkg_config: &["liblzma"],
        ..NOTHING
    },
    Native {
        name: "libffi",
        debs: &["libffi8"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "MIT",
        home: "https://sourceware.org/libffi/",
        summary: "Portable foreign function interface library",
        pkg_config: &["libffi"],
        ..NOTHING
    },
    Native {
        name: "expat",
        debs: &["libexpat1"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "MIT",
        home: "https://libexpat.github.io/",
        summary: "XML parser library",
        pkg_config: &["expat"],
        ..NOTHING
    },
    Native {
        name: "ncurses",
        debs: &["libncursesw6", "libtinfo6", "ncurses-bin", "ncurses-base"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "X11",
        home: "https://invisible-island.net/ncurses/",
        summary: "Library for text-based user interfaces",
        pkg_config: &["ncursesw", "tinfo"],
        ..NOTHING
    },
    Native {
        name: "readline",
        debs: &["libreadline8"],
        depends: &["__glibc >=2.36,<3.0.a0", "ncurses >=6.4,<7.0a0"],
        license: "GPL-3.0-only",
        home: "https://tiswww.case.edu/php/chet/readline/rltop.html",
        summary: "Library for editing command lines as they are typed in",
        pkg_config: &["readline"],
        ..NOTHING
    },
    Native {
        name: "sqlite",
        debs: &["libsqlite3-0", "sqlite3"],
        depends: &[
            "__glibc >=2.36,<3.0.a0",
            "ncurses >=6.4,<7.0a0",
            "readline >=8.2,<9.0a0",
            "zlib >=1.2.13,<1.3.0a0",
        ],
        license: "blessing",
        home: "https://www.sqlite.org/",
        summary: "Self-contained, zero-configuration SQL database engine",
        pkg_config: &["sqlite3"],
        ..NOTHING
    },
    Native {
        name: "libuuid",
        debs: &["libuuid1"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "BSD-3-Clause",
        home: "https://www.kernel.org/pub/linux/utils/util-linux/",
        summary: "Universally unique identifiers",
        pkg_config: &["uuid"],
        ..NOTHING
    },
    Native {
        name: "libxcrypt",
        debs: &["libcrypt1"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "LGPL-2.1-or-later",
        home: "https://github.com/besser82/libxcrypt",
        summary: "One-way hashing of passphrases",
        ..NOTHING
    },
    Native {
        name: "libgcc",
        debs: &["libgcc-s1"],
        depends: &["__glibc >=2.36,<3.0.a0"],
        license: "GPL-3.0-only WITH GCC-exception-3.1",
        home: "https://gcc.gnu.org/",
        summary: "The GCC low-level runtime library",
        ..NOTHING
    },
    Native {
        name: "libstdcxx",
        debs: &["libstdc++6"],
        depends: &["__glibc >=2.36,<3.0.a0", "libgcc >=12"],
        license: "GPL-3.0-only WITH GCC-exception-3.1",
        home: "https://gcc.gnu.org/",
        summary: "The GNU C++ runtime library",
        ..NOTHING
    },
    // Nothing but a name: it ties binary packages to the interpreter's ABI.
    Native {
        name: "python_abi",
        kind: Kind::NoarchGeneric,
        license: "BSD-3-Clause",
        home: "https://github.com/conda-forge/python_abi-feedstock",
        summary: "Metapackage to select the ABI of Python",
        ..NOTHING
    },
];
