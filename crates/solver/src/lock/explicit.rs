//! `@EXPLICIT`: one URL of a conda archive per line, with its digest after `#`.
//!
//! ```text
//! # platform: linux-64
//! @EXPLICIT
//! https://host/channel/linux-64/zlib-1.3.1-h0_0.conda#0123...   (MD5, or SHA-256, also as sha256:0123...)
//! ```
//!
//! Written by `conda list --explicit`, micromamba, conda-lock and pixi. Knows nothing of the other formats.

use std::path::{Path, PathBuf};

use url::Url;

use super::{DEFAULT_ENVIRONMENT, Lock, LockError, LockFormat, LockedEnvironment, LockedPlatform};
use crate::package::LockedPackage;
use crate::subdir::Subdir;

pub(super) fn parse(text: &str, path: &Path) -> Result<Lock, LockError> {
    let mut declared = None;
    let mut packages = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = Place { path, line: index + 1 };
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            if let Some(subdir) = comment.trim_start().strip_prefix("platform:") {
                declared = Some(subdir.trim().parse().map_err(|error| place.error(&error))?);
            }
        } else if !line.is_empty() && line != "@EXPLICIT" {
            packages.push(parse_entry(line, &place)?);
        }
    }
    let subdir = subdir_of(declared, &packages, path)?;
    Ok(Lock {
        path: path.to_owned(),
        format: LockFormat::Explicit,
        environments: vec![LockedEnvironment {
            name: DEFAULT_ENVIRONMENT.to_owned(),
            channels: Vec::new(),
            platforms: vec![LockedPlatform {
                name: subdir.to_string(),
                subdir,
                packages,
                wheels: Vec::new(),
                sources: Vec::new(),
                unbuilt: Vec::new(),
            }],
        }],
    })
}

struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn error(&self, reason: &dyn std::fmt::Display) -> LockError {
        LockError::Line {
            path: PathBuf::from(self.path),
            line: self.line,
            reason: reason.to_string(),
        }
    }
}

fn parse_entry(line: &str, place: &Place<'_>) -> Result<LockedPackage, LockError> {
    // micromamba may add the channel's name or a comment after the URL.
    let text = line.split_whitespace().next().unwrap_or(line);
    let url = parse_url(text, place)?;
    let (mut md5, mut sha256) = (None, None);
    if let Some(fragment) = url.fragment() {
        let unknown = || {
            place.error(&format!(
                "'#{fragment}' is not a digest: it must be an MD5 (32 hexadecimal digits) or a SHA-256 (64, also after sha256:)"
            ))
        };
        let digits = fragment
            .strip_prefix("sha256:")
            .or_else(|| fragment.strip_prefix("md5:"))
            .unwrap_or(fragment);
        let bytes = hex::decode(digits).map_err(|_| unknown())?;
        match bytes.len() {
            16 if !fragment.starts_with("sha256:") => md5 = bytes.try_into().ok(),
            32 if !fragment.starts_with("md5:") => sha256 = bytes.try_into().ok(),
            _ => return Err(unknown()),
        }
    }
    LockedPackage::from_archive_url(&url, md5, sha256).map_err(|error| place.error(&error))
}

/// conda also allows paths of files here.
fn parse_url(text: &str, place: &Place<'_>) -> Result<Url, LockError> {
    if text.contains("://") {
        return Url::parse(text).map_err(|error| place.error(&format!("'{text}' is not a URL: {error}")));
    }
    let (file, fragment) = text
        .split_once('#')
        .map_or((text, None), |(file, fragment)| (file, Some(fragment)));
    let folder = place.path.parent().unwrap_or(Path::new("."));
    let absolute = std::path::absolute(folder.join(file));
    let url = absolute.ok().and_then(|file| Url::from_file_path(file).ok());
    let mut url =
        url.ok_or_else(|| place.error(&format!("'{text}' is neither the URL nor the path of a conda package")))?;
    url.set_fragment(fragment);
    Ok(url)
}

/// What the file says, else what its packages are for.
fn subdir_of(declared: Option<Subdir>, packages: &[LockedPackage], path: &Path) -> Result<Subdir, LockError> {
    let mut subdir = declared.unwrap_or(Subdir::NOARCH);
    for package in packages {
        let Ok(of_package) = package.subdir().parse::<Subdir>() else {
            continue;
        };
        if of_package == Subdir::NOARCH || of_package == subdir {
            continue;
        }
        if subdir != Subdir::NOARCH {
            return Err(LockError::Malformed {
                path: path.to_owned(),
                format: "@EXPLICIT file",
                reason: format!(
                    "{} is for {of_package} but the file is for {subdir}",
                    package.redacted_url()
                ),
            });
        }
        subdir = of_package;
    }
    Ok(subdir)
}
