//! The traces that are replayed: of an import, recorded at the plain directory; and such as are written down at once.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::synthetic::{LARGE_FILE, LARGE_FILE_BYTES};
use super::timing::python;
use crate::sh;

/// What is imported.
pub(super) const IMPORT: &str = "import numpy, pandas, sklearn";

/// How much a sequential reader asks for at once, as `cp` and `cat` do.
const READ_BYTES: usize = 128 * 1024;

/// A map is read a byte in every cache line: all of it passes through the processor.
const CACHE_LINE_BYTES: usize = 64;

/// Fewer calls than this are not the import.
const LEAST_CALLS: usize = 3000;

/// Writes all of them into a directory, for the real environment at a prefix.
///
/// # Errors
/// When the import cannot be recorded, or a directory not be listed.
pub(super) fn write(directory: &Path, replayer: &Path, prefix: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("import"), record_import(directory, replayer, prefix)?)?;
    let mut names = Vec::new();
    list(prefix, "", &mut names)?;
    let mut stats = String::new();
    let mut negatives = String::new();
    for name in &names {
        let _ = writeln!(stats, "lstat {name}");
        let _ = writeln!(negatives, "lstat {name}.missing");
    }
    fs::write(directory.join("stat"), stats)?;
    fs::write(directory.join("negative"), negatives)?;
    let reads = format!("read 3 {READ_BYTES}\n").repeat(LARGE_FILE_BYTES.div_ceil(READ_BYTES) + 1);
    fs::write(
        directory.join("sequential"),
        format!("open 3 {LARGE_FILE}\n{reads}close 3\n"),
    )?;
    let mapped = format!("open 3 {LARGE_FILE}\nmap 3 {LARGE_FILE_BYTES} 0 {CACHE_LINE_BYTES}\nclose 3\n");
    fs::write(directory.join("mapped"), mapped)?;
    Ok(())
}

/// Recorded where nothing can be written, as contenders are: what an import writes is not in it.
fn record_import(directory: &Path, replayer: &Path, prefix: &Path) -> Result<String> {
    let log = directory.join("import.strace");
    let mut traced = sh::command("strace");
    traced.args(["-y", "-s", "8", "-o"]).arg(&log);
    traced.arg(python(prefix).get_program()).args(["-B", "-c", IMPORT]);
    sh::run_quiet(traced.env_remove("PYTHONPATH").env_remove("PYTHONHOME"))?;
    let mut record = sh::command(replayer);
    let trace = sh::capture(record.arg("record").arg(&log).arg(prefix))?;
    let calls = trace.lines().count();
    if calls < LEAST_CALLS {
        bail!("the recorded import has only {calls} calls: see {}", log.display());
    }
    Ok(format!("{trace}\n"))
}

/// Every name below a directory, in the order in which it lists them.
fn list(directory: &Path, relative: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory.join(relative))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = if relative.is_empty() {
            name
        } else {
            format!("{relative}/{name}")
        };
        // A trace has one call a line.
        if name.contains('\n') {
            continue;
        }
        names.push(name.clone());
        if entry.file_type()?.is_dir() {
            list(directory, &name, names)?;
        }
    }
    Ok(())
}
