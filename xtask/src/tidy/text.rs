//! Rules about single files: the opening comment, length, leftovers, links, paths and hosts that belong to one machine.
//!
//! The patterns are put together from parts, so that this file does not break the rules it checks.

use std::path::Path;

use super::code::{is_test_file, shipping_lines};
use super::{Finding, Source};

/// A file of more lines than this is refused.
const MAX_LINES: usize = 700;
/// A file of more lines than this is on its way there.
const WARN_LINES: usize = 500;

/// What nobody leaves behind.
const LEFTOVERS: [&str; 5] = [
    concat!("to", "do!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("#[ig", "nore"),
];

/// What only the command line may do (and xtask and tests, which are command lines of their own).
const COMMAND_LINE_ONLY: [&str; 7] = [
    "println!",
    "eprintln!",
    "print!(",
    "eprint!(",
    "env::var",
    "process::exit",
    "env::args",
];

/// The one room of the store that changes files, and the ways to do so.
const WRITING_ROOM: &str = "crates/store/src/durable.rs";
const WRITING: [&str; 17] = [
    "fs::write(",
    "fs::rename(",
    "fs::remove_",
    "fs::create_dir",
    "fs::hard_link(",
    "fs::copy(",
    "fs::set_permissions(",
    "::symlink(",
    "OpenOptions",
    "File::create",
    "File::options",
    "DirBuilder",
    "tempfile::",
    ".set_len(",
    ".write_all_at(",
    ".sync_all(",
    ".sync_data(",
];

/// Directories that exist on one machine only, and words that only its keepers know.
const MACHINE_PATHS: [&str; 4] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/tmp/pl", "an"),
    concat!(".libr", "ary/"),
];

/// Hosts of package registries: clients find them by their own settings.
const REGISTRY_HOSTS: [&str; 6] = [
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("deb.", "debian.org"),
    concat!("registry.", "npmjs.org"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
];

/// Checks one file.
pub(super) fn check(source: &Source, root: &Path, findings: &mut Vec<Finding>) {
    check_lines(source, findings);
    if source.is_rust() {
        check_rust(source, findings);
    }
    if source.path.extension().is_some_and(|extension| extension == "md") {
        check_links(source, root, findings);
    }
}

fn check_rust(source: &Source, findings: &mut Vec<Finding>) {
    if !source.text.starts_with("//!") {
        findings.push(Finding::error(
            source,
            1,
            "a file opens with `//!`: what this room is, and what it must not know",
        ));
    }
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        findings.push(Finding::error(
            source,
            0,
            format!("{lines} lines; {MAX_LINES} is the limit: make two rooms of it"),
        ));
    } else if lines > WARN_LINES {
        findings.push(Finding::warning(
            source,
            0,
            format!("{lines} lines; a file stays near {WARN_LINES}"),
        ));
    }
    if !is_library(source) || is_test_file(&source.path) {
        return;
    }
    for line in shipping_lines(&source.text) {
        if let Some(call) = COMMAND_LINE_ONLY.iter().find(|call| line.text.contains(**call)) {
            let message = format!("`{call}` in a library: only crates/cli prints, reads the environment or exits");
            findings.push(Finding::error(source, line.number, message));
        }
        let may_write = !source.path.starts_with("crates/store") || source.path == Path::new(WRITING_ROOM);
        if let Some(call) = WRITING.iter().find(|call| !may_write && line.text.contains(**call)) {
            let message = format!("`{call}` in the store: everything is written through {WRITING_ROOM}");
            findings.push(Finding::error(source, line.number, message));
        }
    }
}

fn check_lines(source: &Source, findings: &mut Vec<Finding>) {
    for (index, line) in source.text.lines().enumerate() {
        let mut report = |message: String| findings.push(Finding::error(source, index + 1, message));
        if line.ends_with([' ', '\t']) {
            report("white space at the end of the line".to_owned());
        }
        for word in LEFTOVERS {
            if contains_word(line, word) {
                report(format!("`{word}` is left over"));
            }
        }
        for path in MACHINE_PATHS {
            if contains_word(line, path) {
                report(format!("`{path}` exists on one machine only"));
            }
        }
        for host in REGISTRY_HOSTS {
            if line.contains(host) {
                report(format!("`{host}`: name the registry, not its host"));
            }
        }
    }
}

/// Every link of a markdown file to a file must lead to one.
fn check_links(source: &Source, root: &Path, findings: &mut Vec<Finding>) {
    let directory = root.join(source.path.parent().unwrap_or(Path::new("")));
    let mut in_code = false;
    for (index, line) in source.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in link_targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:") || path.is_empty();
            if !elsewhere && !directory.join(path).exists() {
                findings.push(Finding::error(
                    source,
                    index + 1,
                    format!("the link to {target} leads nowhere"),
                ));
            }
        }
    }
}

/// The targets of `[text](target)` in a line, outside of code spans.
fn link_targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut from = 0;
    while let Some(start) = line[from..].find("](").map(|at| from + at + 2) {
        let Some(length) = line[start..].find(')') else { break };
        if line[..start].matches('`').count().is_multiple_of(2) {
            targets.push(&line[start..start + length]);
        }
        from = start + length;
    }
    targets
}

/// Whether a line has the word, and not as a part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open_end = !word.ends_with(is_word);
        !before.is_some_and(is_word) && (open_end || !after.is_some_and(is_word))
    })
}

fn is_library(source: &Source) -> bool {
    ["crates/store", "crates/solver", "crates/fuse"]
        .iter()
        .any(|library| source.path.starts_with(library))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(contains_word("a FOO: b", "FOO"));
        assert!(!contains_word("FOOO", "FOO"));
        assert!(contains_word("in '/x/y'", "/x/"));
        assert!(!contains_word("net/x/y", "/x/"));
    }

    #[test]
    fn links_in_code_spans_are_not_links() {
        assert_eq!(link_targets("[a](b.md#c) `[x](y)` [d](e)"), ["b.md#c", "e"]);
    }
}
