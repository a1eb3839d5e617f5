//! Small documents: names, pins, owners and links with their copies, wheels that were built, and what may be lost.

use std::path::Path;

use super::{Checked, Finding, Kind};
use crate::answers;
use crate::built;
use crate::error::{Error, Result};
use crate::index;
use crate::ledger::Ledger;
use crate::links::Links;
use crate::names::Names;
use crate::roots::Roots;
use crate::store::Store;
use crate::trace;

/// Checks the file of a document, or of its copy: its path, and the key of the document.
pub(super) type CheckFile<'a> = &'a dyn Fn(&Path, &str) -> Result<()>;

/// Calls `work` with each kind of ledger, and what checks a file of it.
pub(super) fn each_ledger(
    store: &Store,
    work: &mut dyn FnMut(Kind, &Ledger, CheckFile<'_>) -> Result<()>,
) -> Result<()> {
    let (names, roots, links) = (Names::of(store), Roots::of(store), Links::of(store));
    work(Kind::Name, names.ledger(), &|path, key| names.check(path, key))?;
    work(Kind::Pin, roots.pin_ledger(), &|path, key| roots.check_pins(path, key))?;
    work(Kind::Owner, roots.owner_ledger(), &|path, key| {
        roots.check_owner(path, key)
    })?;
    work(Kind::Link, links.ledger(), &|path, key| links.check(path, key))
}

/// Reads all of them.
pub(super) fn check(store: &Store, checked: &mut Checked) -> Result<()> {
    each_ledger(store, &mut |kind, ledger, check| {
        for key in ledger.keys()? {
            let path = ledger.path(&key);
            checked.note(kind, &path, check(&path, &key));
            rename_last(checked, &path, &key);
        }
        for key in ledger.copied_keys()? {
            let (path, copy) = (ledger.path(&key), ledger.copy(&key));
            checked.note(kind, &copy, check(&copy, &key));
            rename_last(checked, &copy, &key);
            let differs = || match (std::fs::read(&path), std::fs::read(&copy)) {
                (Ok(document), Ok(copy)) => document != copy,
                _ => false,
            };
            // Whoever is changing it holds the lock.
            if differs() && ledger.lock().is_ok_and(|_locked| differs()) && check(&path, &key).is_ok() {
                let error = Error::corrupt(&copy, "it is not what the document says");
                checked.findings.push(Finding::damaged(kind, &copy, &error));
                rename_last(checked, &copy, &key);
            }
            if !path.exists() && copy.exists() {
                let needed = "there is a copy of it";
                checked.findings.push(Finding::missing(kind, &path, &key, needed));
            }
        }
        Ok(())
    })?;
    for (kind, (count, errors)) in [
        (Kind::Built, built::damaged(store)?),
        (Kind::Cache, answers::damaged(store)?),
        (Kind::Cache, trace::damaged(store)?),
    ] {
        checked.count += count;
        for error in errors {
            if let Error::Corrupt { path, .. } | Error::Io { path, .. } = &error {
                checked.findings.push(Finding::damaged(kind, path, &error));
            }
        }
    }
    match index::check(store) {
        Ok(is_there) => checked.count += u64::from(is_there),
        Err(error) => {
            checked.count += 1;
            let path = index::path(store);
            checked.findings.push(Finding::damaged(Kind::Index, &path, &error));
        }
    }
    Ok(())
}

/// A document is called by its whole key.
fn rename_last(checked: &mut Checked, path: &Path, key: &str) {
    if let Some(finding) = checked.findings.last_mut().filter(|finding| finding.path == path) {
        key.clone_into(&mut finding.name);
    }
}
