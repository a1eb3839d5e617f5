//! The Python of an environment, as packages from PyPI see it: its version, its platform, which wheels it can use.
//!
//! Read from the packages that bring it, so that nothing must be installed to know it. Wheels are ranked as PEP 425 says,
//! markers evaluated as PEP 508 says. Knows nothing of requirements, resolving or locks.

mod tags;

use pep440_rs::Version;
use pep508_rs::{MarkerEnvironment, MarkerEnvironmentBuilder};

use crate::package::LockedPackage;
use crate::pypi::WheelFileName;
use crate::solve::VirtualPackages;
use crate::subdir::Subdir;

/// The glibc that conda-forge builds against, for a platform whose own is unknown.
const BASELINE_GLIBC: (u64, u64) = (2, 17);
/// The macOS that conda-forge builds for: arm64, x86-64.
const BASELINE_MACOS: [(u64, u64); 2] = [(11, 0), (10, 13)];
/// The versions of glibc that uv has a platform for, besides those from 2.31 to 2.40.
const UV_OLD_GLIBC_MINORS: [u64; 2] = [28, 17];

/// A CPython of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonTarget {
    version: Version,
    subdir: Subdir,
    system: System,
    is_free_threaded: bool,
}

/// What a wheel's platform tag must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// Linux with a glibc of this version.
    Glibc(u64, u64),
    /// macOS of this version.
    MacOs(u64, u64),
    Windows,
}

impl PythonTarget {
    /// The Python among the packages of an environment, on a machine that offers what `virtual_packages` say.
    ///
    /// # Errors
    /// There is none, or it is one that packages from PyPI cannot be resolved for.
    pub fn of_packages(
        packages: &[LockedPackage],
        subdir: Subdir,
        virtual_packages: &VirtualPackages,
    ) -> Result<Self, PythonError> {
        let named = |name: &str| packages.iter().find(|package| package.name() == name);
        let python = named("python").ok_or(PythonError::Missing)?;
        let implementation = format!(
            "{} {}",
            python.build(),
            named("python_abi").map_or("", LockedPackage::build)
        );
        if implementation.contains("pypy") || implementation.contains("graalpy") {
            return Err(PythonError::NotCPython {
                package: python.to_string(),
            });
        }
        let version = python.version().parse().map_err(|_| PythonError::NotCPython {
            package: python.to_string(),
        })?;
        let is_free_threaded = implementation
            .split(['_', ' '])
            .any(|word| word.starts_with("cp3") && word.ends_with('t'));
        Self::new(version, subdir, is_free_threaded, virtual_packages)
    }

    fn new(
        version: Version,
        subdir: Subdir,
        is_free_threaded: bool,
        virtual_packages: &VirtualPackages,
    ) -> Result<Self, PythonError> {
        let given = |name: &str| {
            let texts = virtual_packages.to_strings();
            let text = texts
                .iter()
                .find_map(|text| text.strip_prefix(name)?.strip_prefix('='))?;
            two_numbers(text.split('=').next()?)
        };
        let system = if subdir.is_linux() {
            let (major, minor) = given("__glibc").unwrap_or(BASELINE_GLIBC);
            System::Glibc(major, minor)
        } else if subdir.is_osx() {
            let baseline = BASELINE_MACOS[usize::from(machine(subdir) == "x86_64")];
            let (major, minor) = given("__osx").filter(|version| *version > baseline).unwrap_or(baseline);
            System::MacOs(major, minor)
        } else {
            System::Windows
        };
        let this = Self {
            version,
            subdir,
            system,
            is_free_threaded,
        };
        match this.uv_platform() {
            Some(_) if !is_free_threaded => Ok(this),
            Some(_) => Err(PythonError::FreeThreaded {
                version: this.version.to_string(),
            }),
            None => Err(PythonError::Platform { subdir }),
        }
    }

    /// The version of Python.
    #[must_use]
    pub fn version(&self) -> String {
        self.version.to_string()
    }

    /// `3.12`
    pub(crate) fn short_version(&self) -> String {
        let release = self.version.release();
        format!("{}.{}", release.first().unwrap_or(&3), release.get(1).unwrap_or(&0))
    }

    /// The platform.
    #[must_use]
    pub fn subdir(&self) -> Subdir {
        self.subdir
    }

    pub(crate) fn parsed_version(&self) -> &Version {
        &self.version
    }

    /// How well a wheel fits: the lower, the better. None if it does not.
    pub(crate) fn rank(&self, wheel: &WheelFileName) -> Option<tags::Rank> {
        tags::rank(self, wheel)
    }

    /// What uv calls the platform.
    pub(crate) fn uv_platform(&self) -> Option<String> {
        let machine = machine(self.subdir);
        match self.system {
            System::Glibc(2, minor) if matches!(machine, "x86_64" | "aarch64") => {
                let known = match minor {
                    31.. => minor.min(40),
                    _ => UV_OLD_GLIBC_MINORS.into_iter().find(|known| minor >= *known)?,
                };
                Some(format!("{machine}-manylinux_2_{known}"))
            }
            System::Glibc(..) => None,
            System::MacOs(..) if machine == "arm64" => Some("aarch64-apple-darwin".to_owned()),
            System::MacOs(..) => Some("x86_64-apple-darwin".to_owned()),
            System::Windows if machine == "AMD64" => Some("x86_64-pc-windows-msvc".to_owned()),
            System::Windows if machine == "ARM64" => Some("aarch64-pc-windows-msvc".to_owned()),
            System::Windows => Some("i686-pc-windows-msvc".to_owned()),
        }
    }

    /// The version of macOS that uv must assume.
    pub(crate) fn macos_version(&self) -> Option<String> {
        match self.system {
            System::MacOs(major, minor) => Some(format!("{major}.{minor}")),
            System::Glibc(..) | System::Windows => None,
        }
    }

    /// What markers are evaluated against ([PEP 508](https://peps.python.org/pep-0508/#environment-markers)). The release
    /// and version of the kernel are unknown.
    pub(crate) fn marker_environment(&self) -> MarkerEnvironment {
        let full = self.version.to_string();
        let short = self.short_version();
        let (os_name, sys_platform, platform_system) = match self.system {
            System::Glibc(..) => ("posix", "linux", "Linux"),
            System::MacOs(..) => ("posix", "darwin", "Darwin"),
            System::Windows => ("nt", "win32", "Windows"),
        };
        let builder = MarkerEnvironmentBuilder {
            implementation_name: "cpython",
            implementation_version: &full,
            os_name,
            platform_machine: machine(self.subdir),
            platform_python_implementation: "CPython",
            platform_release: "",
            platform_system,
            platform_version: "",
            python_full_version: &full,
            python_version: &short,
            sys_platform,
        };
        MarkerEnvironment::try_from(builder).unwrap_or_else(|_| unreachable!("the version was parsed before"))
    }
}

/// What `platform.machine()` returns there.
fn machine(subdir: Subdir) -> &'static str {
    match subdir.as_str() {
        "linux-64" | "osx-64" => "x86_64",
        "linux-aarch64" => "aarch64",
        "osx-arm64" => "arm64",
        "win-64" => "AMD64",
        "win-arm64" => "ARM64",
        "win-32" => "x86",
        "linux-32" => "i686",
        "linux-ppc64le" => "ppc64le",
        "linux-s390x" => "s390x",
        _ => "unknown",
    }
}

fn two_numbers(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().map_or(Some(0), |minor| minor.parse().ok())?;
    Some((major, minor))
}

/// Why packages from PyPI cannot be had for an environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PythonError {
    /// It has no Python.
    #[error("packages from PyPI need a Python, and the environment has none: add `python` to its dependencies")]
    Missing,
    /// Its Python is another implementation.
    #[error(
        "packages from PyPI cannot be resolved for {package}, which is not CPython: use a CPython, or conda packages of \
         the same projects"
    )]
    NotCPython {
        /// The package.
        package: String,
    },
    /// Its Python has no global lock.
    #[error(
        "packages from PyPI cannot be resolved for the free-threaded Python {version}: add `python-gil` to the \
         dependencies, or use conda packages of the same projects"
    )]
    FreeThreaded {
        /// The version.
        version: String,
    },
    /// The platform is unknown to uv.
    #[error(
        "packages from PyPI cannot be resolved for {subdir} with its C library: use conda packages of the same projects"
    )]
    Platform {
        /// The platform.
        subdir: Subdir,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A CPython on a machine with glibc 2.28, or of the platform's baseline.
    pub(crate) fn target(version: &str, subdir: &str) -> PythonTarget {
        let subdir = subdir.parse().unwrap();
        let mut target = PythonTarget::new(
            version.parse().unwrap(),
            subdir,
            false,
            &VirtualPackages::baseline(subdir),
        )
        .unwrap();
        if subdir.is_linux() {
            target.system = System::Glibc(2, 28);
        }
        target
    }

    fn package(name: &str) -> LockedPackage {
        let url = format!("https://host/channel/linux-64/{name}.conda").parse().unwrap();
        LockedPackage::from_archive_url(&url, None, None).unwrap()
    }

    #[test]
    fn it_is_found_among_the_packages() {
        let subdir = "linux-64".parse().unwrap();
        let find = |packages: &[LockedPackage]| {
            PythonTarget::of_packages(packages, subdir, &VirtualPackages::baseline(subdir))
        };
        let found = find(&[package("zlib-1.3-0"), package("python-3.12.8-h9e4cc4f_1_cpython")]).unwrap();
        assert_eq!(found.version(), "3.12.8");
        assert_eq!(find(&[package("zlib-1.3-0")]), Err(PythonError::Missing));
        let free = find(&[package("python-3.13.1-h9a34b6e_5_cp313t")]);
        assert!(matches!(free, Err(PythonError::FreeThreaded { .. })), "{free:?}");
        let pypy = find(&[package("python-3.9.18-0_73_pypy")]);
        assert!(matches!(pypy, Err(PythonError::NotCPython { .. })), "{pypy:?}");
    }

    #[test]
    fn uv_is_told_of_the_newest_platform_that_fits() {
        let named = |minor: u64| {
            let mut target = target("3.12.1", "linux-64");
            target.system = System::Glibc(2, minor);
            target.uv_platform()
        };
        assert_eq!(named(17).as_deref(), Some("x86_64-manylinux_2_17"));
        assert_eq!(named(30).as_deref(), Some("x86_64-manylinux_2_28"));
        assert_eq!(named(36).as_deref(), Some("x86_64-manylinux_2_36"));
        assert_eq!(named(41).as_deref(), Some("x86_64-manylinux_2_40"));
        assert_eq!(named(12), None);
        assert_eq!(
            target("3.12", "osx-arm64").uv_platform().as_deref(),
            Some("aarch64-apple-darwin")
        );
    }

    #[test]
    fn markers_see_the_target_and_not_this_machine() {
        let holds = |marker: &str, subdir: &str| {
            let tree: pep508_rs::MarkerTree = marker.parse().unwrap();
            tree.evaluate(&target("3.10.14", subdir).marker_environment(), &[])
        };
        assert!(holds(
            "python_version < '3.11' and sys_platform == 'darwin'",
            "osx-arm64"
        ));
        assert!(!holds("sys_platform == 'darwin'", "linux-64"));
        assert!(holds("platform_machine == 'aarch64'", "linux-aarch64"));
        assert!(holds("python_full_version >= '3.10.2' and os_name == 'nt'", "win-64"));
    }
}
