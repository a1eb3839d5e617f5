//! Copies for the kernel that the running boot trusts.

use super::{Checked, Kind};
use crate::cache::{self, Boot, Cache, Copy};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::linked;
use crate::store::Store;

/// Compares them with what they are of.
pub(super) fn check(store: &Store, checked: &mut Checked) -> Result<()> {
    for copy in copies(store)?.map(|(_, copies)| copies).unwrap_or_default() {
        let result = match copy.is_sound(store) {
            true => Ok(()),
            false => Err(Error::corrupt(&copy.path, "it is not what it is a copy of")),
        };
        if result.is_err() && copy.path.parent().is_some_and(std::path::Path::exists) && !copy.path.exists() {
            checked.findings.push(super::Finding::missing(
                Kind::Cache,
                &copy.path,
                &super::name_of(&copy.path),
                "its pack is unpacked",
            ));
        }
        checked.note(Kind::Cache, &copy.path, result);
    }
    Ok(())
}

/// The copies of this boot, if there are any.
pub(super) fn copies(store: &Store) -> Result<Option<(Cache, Vec<Copy>)>> {
    let host = Host::current();
    let boot = Boot {
        id: host.boot.clone(),
        machine: host.host.clone(),
    };
    let Some(cache) = Cache::existing(store, &boot) else {
        return Ok(None);
    };
    let linked: Vec<_> = linked::list(store)?
        .into_iter()
        .map(|record| record.mount_point)
        .collect();
    let copies = cache.copies(&cache::trees(store)?, &linked)?;
    Ok(Some((cache, copies)))
}
