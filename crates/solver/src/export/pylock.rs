//! pylock.toml ([PEP 751](https://peps.python.org/pep-0751/)): the wheels of an environment, and nothing of its conda packages.

use std::fmt::Write as _;

use super::ExportError;
use crate::lock::LockedContents;
use crate::pypi::LockedWheel;

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
    if contents.wheels.is_empty() {
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
