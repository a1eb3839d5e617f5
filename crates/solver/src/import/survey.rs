//! What a prefix consists of: its packages, its distributions, its Python, and what of it leads elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use envfs_store::path::EnvPath;
use rattler::install::PythonInfo;

use super::conda::{self, Installed};
use super::dist::{self, Dist};
use super::prefix::{FoundKind, Prefix, PrefixKind};
use super::venv::VenvPython;
use super::{ImportError, Outside};
use crate::link::Site;
use crate::subdir::Subdir;

/// What a prefix consists of.
pub(super) struct Surveyed {
    pub(super) prefix: Prefix,
    pub(super) packages: Vec<Installed>,
    pub(super) dists: Vec<Dist>,
    pub(super) python: Option<VenvPython>,
    pub(super) site: Option<Site>,
    pub(super) subdir: Subdir,
    pub(super) outside: Vec<Outside>,
}

impl Surveyed {
    /// `keep_outside`: what leads out of the prefix is no reason to refuse it.
    pub(super) fn of(prefix: &Path, keep_outside: bool) -> Result<Self, ImportError> {
        let prefix = Prefix::scan(prefix)?;
        let packages = conda::packages(&prefix)?;
        let python = match prefix.kind {
            PrefixKind::Venv => Some(VenvPython::of(&prefix)?),
            PrefixKind::Conda => None,
        };
        let mut subdirs = packages
            .iter()
            .filter_map(|installed| installed.package.subdir().parse().ok());
        let subdir = subdirs
            .find(|subdir| *subdir != Subdir::NOARCH)
            .or_else(Subdir::current)
            .unwrap_or(Subdir::NOARCH);
        let own = packages.iter().map(|installed| &installed.package);
        let site = match &python {
            Some(python) => Some(python.package(subdir)?),
            None => own.clone().find(|package| package.name() == "python").cloned(),
        };
        let site = site.and_then(|python| {
            let record = &python.record().package_record;
            PythonInfo::from_python_record(record, subdir.to_conda()).ok()
        });
        let site = site.as_ref().map(Site::of);
        let owned: BTreeSet<&EnvPath> = packages.iter().flat_map(Installed::paths).collect();
        let dists = match &site {
            Some(site) => dist::find(&prefix, &site.site_packages, &owned)?,
            None => Vec::new(),
        };
        let replaced = python.as_ref().map(VenvPython::replaces).unwrap_or_default();
        let outside = outside(&prefix, &dists, site.as_ref(), |path| {
            owned.contains(path) || replaced.contains(path)
        })?;
        if !outside.is_empty() && !keep_outside {
            return Err(ImportError::Outside {
                prefix: prefix.root,
                found: outside,
            });
        }
        Ok(Self {
            prefix,
            packages,
            dists,
            python,
            site,
            subdir,
            outside,
        })
    }

    /// Variables that activation sets (`conda env config vars`).
    pub(super) fn variables(&self) -> Result<BTreeMap<String, String>, ImportError> {
        let Some(text) = self.prefix.read("conda-meta/state")? else {
            return Ok(BTreeMap::new());
        };
        let invalid = |error: serde_json::Error| ImportError::Record {
            file: self.prefix.root.join("conda-meta/state"),
            reason: error.to_string(),
        };
        let state: serde_json::Value = serde_json::from_slice(&text).map_err(invalid)?;
        let variables = state["env_vars"].as_object().into_iter().flatten();
        Ok(variables
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect())
    }
}

/// What leads out of the prefix, of all that no package brought: links, editable installations, and lines of `.pth` files.
fn outside(
    prefix: &Prefix,
    dists: &[Dist],
    site: Option<&Site>,
    is_accounted_for: impl Fn(&EnvPath) -> bool,
) -> Result<Vec<Outside>, ImportError> {
    let mut found = Vec::new();
    for (path, file) in &prefix.files {
        if let FoundKind::Symlink(target) = &file.kind
            && !is_accounted_for(path)
            && leads_out(&prefix.text, path, target)
        {
            found.push(Outside {
                path: path.to_string(),
                target: String::from_utf8_lossy(target).into_owned(),
            });
        }
    }
    for dist in dists {
        if let Some(target) = dist.editable(prefix)? {
            let path = dist.direct_url_file();
            found.push(Outside { path, target });
        }
    }
    let Some(site) = site else { return Ok(found) };
    let inside = format!("{}/", prefix.text);
    for (path, name) in prefix.children(&site.site_packages) {
        if !(name.ends_with(".pth") || name.ends_with(".egg-link")) {
            continue;
        }
        let text = prefix.read(&path.to_string())?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines().map(str::trim);
        for target in lines.filter(|line| line.starts_with('/') && !line.starts_with(&inside) && **line != prefix.text)
        {
            found.push(Outside {
                path: path.to_string(),
                target: target.to_owned(),
            });
        }
    }
    Ok(found)
}

/// Whether a link at `path` leads to a place that is not below the prefix.
fn leads_out(prefix: &str, path: &EnvPath, target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        let inside = target.strip_prefix(prefix.as_bytes());
        return inside.is_none_or(|rest| !(rest.is_empty() || rest.starts_with(b"/")));
    }
    let mut depth = path.names().count() - 1;
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            b"" | b"." => {}
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_out_are_told_from_those_that_do_not() {
        let out = |path: &str, target: &str| leads_out("/e", &EnvPath::parse(path).unwrap(), target.as_bytes());
        for (path, target) in [("a", "/usr/x"), ("a/b", "../../x"), ("a", "/ex"), ("a", "..")] {
            assert!(out(path, target), "{path} -> {target}");
        }
        for (path, target) in [
            ("a", "b"),
            ("a/b", "../c/./d"),
            ("a", "/e/x"),
            ("a/b/c", "x/../../../y"),
        ] {
            assert!(!out(path, target), "{path} -> {target}");
        }
    }
}
