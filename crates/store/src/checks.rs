//! When the whole files of a store are compared with their names: trees, and objects that are no part of a pack.

use std::fs::File;
use std::path::Path;

use crate::digest::Digest;
use crate::error::{IoContext, Result};
use crate::stamps::Checks;
use crate::store::Store;

impl Store {
    /// Says when whole files are compared with their names; without this at the first open in a boot.
    pub fn set_checks(&self, checks: Checks) {
        self.stamps().set(checks);
    }

    /// When whole files are compared with their names.
    #[must_use]
    pub fn checks(&self) -> Checks {
        self.stamps().checks()
    }

    /// Makes sure that the whole object called `digest` is what its name says, as far as that is to be checked.
    ///
    /// # Errors
    /// When it is not, or cannot be read.
    pub fn check_whole(&self, digest: &Digest) -> Result<()> {
        self.check_file(&self.object_path(digest), digest)
    }

    /// Whether the whole object called `digest` is there and need not be read through now.
    pub(crate) fn trusts_whole(&self, digest: &Digest) -> bool {
        let path = self.object_path(digest);
        path.exists() && self.stamps().trusts(&path, digest)
    }

    /// Whether nothing is to be found out about the whole object called `digest`: it need not be read through, or is not there.
    pub(crate) fn is_settled(&self, digest: &Digest) -> bool {
        let path = self.object_path(digest);
        !path.exists() || self.stamps().trusts(&path, digest)
    }

    /// Makes sure that the file at `path` is what `digest` names, as far as that is to be checked.
    pub(crate) fn check_file(&self, path: &Path, digest: &Digest) -> Result<()> {
        if self.checks() == Checks::Never {
            return Ok(());
        }
        self.stamps().check(path, &File::open(path).at("open", path)?, digest)
    }
}
