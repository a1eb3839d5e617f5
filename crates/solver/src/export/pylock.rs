//! pylock.toml ([PEP 751](https://peps.python.org/pep-0751/)): the wheels and sources of an environment, and nothing of its conda packages.

use std::fmt::Write as _;

use super::ExportError;
use crate::lock::LockedContents;
use crate::pypi::LockedWheel;
use crate::source::{LockedSource, SourcePlace};

/// # Errors
/// A wheel has no digest, which the format demands.
pub(super) fn write(contents: &LockedContents) -> Result<String, ExportError> {
    let mut text = "lock-version = \"1.0\"\ncreated-by = \"envfs\"\n".to_owned();
    let python = contents.packages.iter().find(|package| package.name() == "python");
    if let Some(python) = python {
        // The wheels were chosen for this Python.
        let version = python.version();
        let mut numbers = version.split('.');
        if let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) {
            let _ = writeln!(text, "requires-python = \"=={major}.{minor}.*\"");
        }
    }
    for wheel in &contents.wheels {
        package(&mut text, wheel)?;
    }
    for source in &contents.sources {
        source_package(&mut text, source)?;
    }
    if contents.wheels.is_empty() && contents.sources.is_empty() {
        text.push_str("packages = []\n");
    }
    Ok(text)
}

fn package(text: &mut String, wheel: &LockedWheel) -> Result<(), ExportError> {
    let sha256 = wheel.sha256().ok_or_else(|| ExportError::NoDigest {
        package: wheel.to_string(),
        format: "pylock.toml",
    })?;
    let url = crate::network::without_credentials(wheel.parsed_url());
    let size = wheel
        .size_bytes()
        .map_or_else(String::new, |size_bytes| format!(", size = {size_bytes}"));
    let _ = write!(
        text,
        "\n[[packages]]\nname = \"{}\"\nversion = \"{}\"\n",
        wheel.name(),
        wheel.version()
    );
    if let Some(python) = wheel.requires_python() {
        let _ = writeln!(text, "requires-python = {}", serde_json::Value::from(python));
    }
    let file = format!(
        "{{ url = \"{url}\"{size}, hashes = {{ sha256 = \"{}\" }} }}",
        hex::encode(sha256)
    );
    // What does not come from an index is an archive, so that installers write where it came from (PEP 610).
    let _ = match wheel.direct_url() {
        Some(_) => writeln!(text, "archive = {file}"),
        None => writeln!(text, "wheels = [{file}]"),
    };
    Ok(())
}

fn source_package(text: &mut String, source: &LockedSource) -> Result<(), ExportError> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let public = |url| quoted(crate::network::without_credentials(url).as_str());
    let _ = writeln!(text, "\n[[packages]]\nname = \"{}\"", source.name());
    // The version of a directory changes with it (PEP 751, `packages.version`).
    if let Some(version) = source.version().filter(|_| !source.is_directory()) {
        let _ = writeln!(text, "version = \"{version}\"");
    }
    let inside = |subdirectory: &Option<String>| {
        let inside = subdirectory
            .as_deref()
            .map(|inside| format!(", subdirectory = {}", quoted(inside)));
        inside.unwrap_or_default()
    };
    let _ = match source.place() {
        SourcePlace::Archive {
            url,
            sha256,
            subdirectory,
            is_direct,
        } => {
            let sha256 = sha256.ok_or_else(|| ExportError::NoDigest {
                package: source.to_string(),
                format: "pylock.toml",
            })?;
            let key = if *is_direct { "archive" } else { "sdist" };
            let (url, digits) = (public(url), hex::encode(sha256));
            let inside = inside(subdirectory);
            writeln!(
                text,
                "{key} = {{ url = {url}{inside}, hashes = {{ sha256 = \"{digits}\" }} }}"
            )
        }
        SourcePlace::Repository {
            url,
            commit,
            requested,
            subdirectory,
        } => {
            let requested = requested
                .as_deref()
                .map(|text| format!(", requested-revision = {}", quoted(text)));
            let (url, requested, inside) = (public(url), requested.unwrap_or_default(), inside(subdirectory));
            writeln!(
                text,
                "vcs = {{ type = \"git\", url = {url}{requested}, commit-id = \"{commit}\"{inside} }}"
            )
        }
        SourcePlace::Directory { path, is_editable } => {
            let path = quoted(path.to_string_lossy().as_ref());
            writeln!(text, "directory = {{ path = {path}, editable = {is_editable} }}")
        }
    };
    Ok(())
}
