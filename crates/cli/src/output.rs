//! How results look: one table for people, one JSON document for programs.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use envfs_solver::write_document;
use serde::Serialize;

use crate::error::CliError;
use crate::printable::printable;

/// Prints a JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    line(&text)
}

/// Prints a line of a result.
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            // Whoever read our output has seen enough.
            io::ErrorKind::BrokenPipe => CliError::silent(0),
            _ => CliError::new("cannot write to standard output").because(error.to_string()),
        })
}

/// Tells the person at the terminal something.
pub(crate) fn note(text: &str) {
    // A closed standard error is nobody's failure.
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Opens the file to which a process in the background writes what it has to say.
pub(crate) fn open_log(path: Option<&Path>) -> Result<Option<File>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let file = File::options().create(true).append(true).open(path);
    file.map(Some)
        .map_err(|error| CliError::new(format!("cannot write the log `{}`", path.display())).because(error.to_string()))
}

/// Whether what is written to `path` is meant for standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Makes a directory, and what is missing above it.
pub(crate) fn make_directory(path: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(path).map_err(|error| CliError::at("make", path, &error))
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    write_document(path, bytes).map_err(|error| CliError::at("write", path, &error))
}

/// Prints rows under a heading, each column as wide as its widest cell; the columns named in `right` are aligned right.
pub(crate) fn table(heading: &[&str], right: &[usize], rows: &[Vec<String>]) -> Result<(), CliError> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let print = |cells: &[&str]| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if right.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        line(cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    print(heading)?;
    rows.iter()
        .try_for_each(|row| print(&row.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// A number of bytes as people read it, in powers of 1024.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A count with its noun: `1 package`, `3 packages`.
pub(crate) fn count(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Seconds since 1970-01-01 UTC.
pub(crate) fn now_unix_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs())
}

/// How long ago a moment was, in its largest unit.
pub(crate) fn age(unix_s: u64) -> String {
    span(now_unix_s().saturating_sub(unix_s))
}

/// A span of time in its largest unit.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 30].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]
        );
    }
}
