//! What a machine offers that no package brings: the C library, the kernel, a GPU driver.

use std::path::Path;

use rattler_conda_types::GenericVirtualPackage;
use rattler_virtual_packages::{Override, VirtualPackageOverrides};

use crate::subdir::Subdir;

/// Virtual packages such as `__glibc` and `__cuda`, which packages may depend on.
#[derive(Clone, Debug, Default)]
pub struct VirtualPackages {
    packages: Vec<GenericVirtualPackage>,
}

impl VirtualPackages {
    /// What this machine offers, for its own subdir; for any other, what every machine of that platform may be assumed to
    /// offer.
    ///
    /// `variable` looks up `CONDA_OVERRIDE_GLIBC` and its kin, which replace what would be found; an empty value removes
    /// it. To ask a GPU's driver takes up to seconds: what it says is kept in the directory `cache`, for this boot and as long as
    /// driver and devices are the same.
    ///
    /// # Errors
    /// An override is no version, or the machine cannot be understood.
    pub fn for_subdir(
        subdir: Subdir,
        cache: Option<&Path>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, VirtualPackageError> {
        let given = |name: &str| variable(&format!("CONDA_OVERRIDE_{name}")).map(Override::String);
        let mut overrides = VirtualPackageOverrides::default();
        overrides.win = given("WIN");
        overrides.osx = given("OSX");
        overrides.linux = given("LINUX");
        overrides.libc = given("GLIBC");
        overrides.cuda = given("CUDA");
        overrides.cuda_arch = given("CUDA_ARCH");
        overrides.archspec = given("ARCHSPEC");
        let found =
            rattler_virtual_packages::VirtualPackages::detect_for_platform(subdir.to_conda(), &overrides, cache)
                .map_err(|error| VirtualPackageError {
                    reason: error.to_string(),
                })?;
        Ok(Self {
            packages: found.into_generic_virtual_packages().collect(),
        })
    }

    /// What every machine of the platform may be assumed to offer, whatever this one is.
    #[must_use]
    pub fn baseline(subdir: Subdir) -> Self {
        let baseline = rattler_virtual_packages::VirtualPackages::baseline_for_platform(subdir.to_conda());
        Self {
            packages: baseline.into_generic_virtual_packages().collect(),
        }
    }

    /// Each as `name=version=build`, as `conda info` shows them.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.packages.iter().map(ToString::to_string).collect()
    }

    pub(super) fn as_conda(&self) -> &[GenericVirtualPackage] {
        &self.packages
    }
}

/// What the machine offers cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the machine's virtual packages cannot be told: {reason}; CONDA_OVERRIDE_GLIBC and its kin must hold a version or be empty"
)]
pub struct VirtualPackageError {
    /// What went wrong.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_c_library_and_an_override_replaces_it() {
        let host = Subdir::current().unwrap();
        let found = VirtualPackages::for_subdir(host, None, &|_| None).unwrap().to_strings();
        assert!(found.iter().any(|package| package.starts_with("__glibc=")), "{found:?}");

        let given = |name: &str| (name == "CONDA_OVERRIDE_GLIBC").then(|| "2.5".to_owned());
        let found = VirtualPackages::for_subdir(host, None, &given).unwrap().to_strings();
        assert!(
            found.iter().any(|package| package.starts_with("__glibc=2.5=")),
            "{found:?}"
        );
    }

    #[test]
    fn a_foreign_platform_has_a_baseline() {
        let osx = "osx-arm64".parse().unwrap();
        let found = VirtualPackages::for_subdir(osx, None, &|_| None).unwrap().to_strings();
        assert!(found.iter().any(|package| package.starts_with("__osx=")), "{found:?}");
        assert!(
            !found.iter().any(|package| package.starts_with("__linux=")),
            "{found:?}"
        );
    }

    #[test]
    fn an_override_that_is_no_version_is_refused() {
        let error = VirtualPackages::for_subdir(Subdir::current().unwrap(), None, &|name| {
            (name == "CONDA_OVERRIDE_GLIBC").then(|| "new!".to_owned())
        });
        assert!(error.unwrap_err().to_string().contains("CONDA_OVERRIDE_GLIBC"));
    }
}
