//! `@EXPLICIT`: one URL per line, with its digest. Wheels have no place in it.

use std::fmt::Write as _;

use super::ExportError;
use crate::lock::LockedContents;
use crate::package::link_order;

/// # Errors
/// Two packages share a name.
pub(super) fn write(contents: &LockedContents) -> Result<String, ExportError> {
    let mut text = format!("# platform: {}\n@EXPLICIT\n", contents.subdir);
    let ordered = link_order(contents.packages.clone()).map_err(|source| crate::lock::LockError::Package {
        path: "@EXPLICIT".into(),
        source,
    })?;
    for package in ordered {
        // Every conda reads an MD5 here, only new ones a SHA-256.
        let digest = match (package.md5(), package.sha256()) {
            (Some(md5), _) => format!("#{}", hex::encode(md5)),
            (None, Some(sha256)) => format!("#sha256:{}", hex::encode(sha256)),
            (None, None) => String::new(),
        };
        let url = crate::network::without_credentials(&package.record().url);
        let _ = writeln!(text, "{url}{digest}");
    }
    Ok(text)
}
