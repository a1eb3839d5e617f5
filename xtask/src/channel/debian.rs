//! Debian's packages as a source of native software: fetching, unpacking, and laying files out as conda does.
//!
//! Nothing is installed: `apt-get download` and `dpkg-deb` work as any user, in directories of our own. This room knows
//! Debian's file layout and nothing of Python or of conda's documents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::package::files_below;
use crate::{sh, system};

/// Debian packages on disk: name to file.
pub(super) struct Debs(BTreeMap<String, PathBuf>);

/// Fetches the Debian packages that are not in `cache` yet.
///
/// # Errors
/// When apt cannot fetch one; the message says which Debian release is needed.
pub(super) fn fetch(names: &[&str], cache: &Path) -> Result<Debs> {
    fs::create_dir_all(cache)?;
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| cached(name, cache).is_none())
        .collect();
    if !missing.is_empty() {
        sh::say(&format!(
            "downloading {} Debian packages to {}: {}",
            missing.len(),
            cache.display(),
            missing.join(" ")
        ));
        download(&missing, cache)?;
    }
    let file = |name: &&str| Some(((*name).to_owned(), cached(name, cache)?));
    let debs: BTreeMap<_, _> = names.iter().filter_map(file).collect();
    if debs.len() < names.len() {
        bail!(
            "apt-get download left some of these out of {}: {}",
            cache.display(),
            names.join(" ")
        );
    }
    Ok(Debs(debs))
}

impl Debs {
    /// The file of a package.
    ///
    /// # Errors
    /// When it was not among those fetched.
    pub(super) fn file(&self, name: &str) -> Result<&Path> {
        self.0
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("no Debian package {name} was fetched"))
    }

    /// The upstream version in Debian's version: without epoch, revision and repackaging marks.
    ///
    /// # Errors
    /// When the package was not fetched.
    pub(super) fn upstream_version(&self, name: &str) -> Result<String> {
        let file = self
            .file(name)?
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let version = file.split('_').nth(1).unwrap_or_default();
        Ok(upstream_version(version))
    }

    /// Unpacks a package into a directory, as it is.
    ///
    /// # Errors
    /// When dpkg-deb fails.
    pub(super) fn unpack(&self, name: &str, into: &Path) -> Result<()> {
        fs::create_dir_all(into)?;
        sh::run_quiet(sh::command("dpkg-deb").arg("--extract").arg(self.file(name)?).arg(into))
    }
}

/// Downloads packages; when apt's lists are missing or too old for that, they are fetched first.
fn download(names: &[&str], cache: &Path) -> Result<()> {
    let once = || sh::run_quiet(sh::command("apt-get").arg("download").args(names).current_dir(cache));
    if once().is_ok() {
        return Ok(());
    }
    system::update_package_lists()?;
    once().context(
        "the channel is made of Debian 12's packages (python3.11); on another release add its bookworm source to apt",
    )
}

/// Moves the files of an unpacked Debian package to where conda packages have them, and returns its copyright texts.
///
/// What belongs to Debian alone (documentation, menus, /etc) stays behind.
///
/// # Errors
/// When a file cannot be moved.
pub(super) fn lay_out(unpacked: &Path, payload: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut licenses = BTreeMap::new();
    for source in files_below(unpacked)? {
        let relative = source.strip_prefix(unpacked)?.to_string_lossy().into_owned();
        if let Some(package) = relative
            .strip_prefix("usr/share/doc/")
            .and_then(|rest| rest.strip_suffix("/copyright"))
        {
            if let Ok(text) = fs::read(&source) {
                licenses.insert(format!("{package}.txt"), text);
            }
            continue;
        }
        let absolute_link = fs::read_link(&source).is_ok_and(|target| target.is_absolute());
        let Some(path) = conda_path(&relative).filter(|_| !absolute_link) else {
            continue;
        };
        let destination = payload.join(path);
        if let Some(parent) = destination.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&source, &destination)
            .with_context(|| format!("cannot move {relative} to {}", destination.display()))?;
    }
    Ok(licenses)
}

/// Where conda keeps a file of Debian's, relative to the prefix.
fn conda_path(debian: &str) -> Option<String> {
    const MOVES: [(&str, &str); 10] = [
        ("usr/lib/x86_64-linux-gnu/", "lib/"),
        ("lib/x86_64-linux-gnu/", "lib/"),
        ("usr/lib/python3.11/", "lib/python3.11/"),
        ("usr/bin/", "bin/"),
        ("bin/", "bin/"),
        ("etc/ssl/openssl.cnf", "ssl/openssl.cnf"),
        ("lib/terminfo/", "share/terminfo/"),
        ("usr/share/terminfo/", "share/terminfo/"),
        ("usr/share/ca-certificates/", "share/ca-certificates/"),
        ("usr/share/zoneinfo/", "share/zoneinfo/"),
    ];
    // Copies of the whole time zone tree with other leap second rules; nobody's default.
    const LEFT_BEHIND: [&str; 2] = ["usr/share/zoneinfo/posix/", "usr/share/zoneinfo/right/"];
    if LEFT_BEHIND.iter().any(|prefix| debian.starts_with(prefix)) {
        return None;
    }
    MOVES
        .iter()
        .find_map(|(from, to)| debian.strip_prefix(from).map(|rest| format!("{to}{rest}")))
}

/// `1%3a1.2.13.dfsg-1` is 1.2.13.
fn upstream_version(debian: &str) -> String {
    let without_epoch = debian.rsplit("%3a").next().unwrap_or(debian);
    let without_revision = without_epoch
        .rsplit_once('-')
        .map_or(without_epoch, |(version, _)| version);
    let marks = [".dfsg", "+dfsg", "~", "+"];
    let end = marks
        .iter()
        .filter_map(|mark| without_revision.find(mark))
        .min()
        .unwrap_or(without_revision.len());
    without_revision[..end].to_owned()
}

fn cached(name: &str, cache: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(cache)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    let prefix = format!("{name}_");
    files.into_iter().rfind(|path| {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        file_name.starts_with(&prefix) && file_name.ends_with(".deb")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_versions_become_upstream_versions() {
        for (debian, upstream) in [
            ("3.11.2-6+deb12u7", "3.11.2"),
            ("1%3a1.2.13.dfsg-1", "1.2.13"),
            ("3.0.20-1~deb12u1", "3.0.20"),
            ("20230311+deb12u1", "20230311"),
            ("1%3a4.4.33-2", "4.4.33"),
        ] {
            assert_eq!(upstream_version(debian), upstream);
        }
    }

    #[test]
    fn files_go_where_conda_has_them() {
        assert_eq!(
            conda_path("lib/x86_64-linux-gnu/libz.so.1").as_deref(),
            Some("lib/libz.so.1")
        );
        assert_eq!(conda_path("usr/bin/python3.11").as_deref(), Some("bin/python3.11"));
        assert_eq!(conda_path("usr/share/doc/zlib1g/changelog.gz"), None);
        assert_eq!(conda_path("usr/share/zoneinfo/right/UTC"), None);
    }
}
