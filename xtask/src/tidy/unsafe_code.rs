//! Where code is `unsafe`: what the table of docs/security.md says must be what the files have, no more and no less.
//!
//! The compiler denies it elsewhere; this room sees to it that a new exception is written down where people look for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::code::without_comment;
use super::{Finding, Source};

/// The page with the table.
const PAGE: &str = "docs/security.md";

/// How the table begins: a line for each file, and how many times.
const HEADER: &str = "| file | unsafe | what for |";

/// What opens something that the compiler does not check, as rustfmt writes it; put together, so as not to find itself.
const OPENINGS: [&str; 6] = [
    concat!("uns", "afe {"),
    concat!("uns", "afe fn"),
    concat!("uns", "afe impl"),
    concat!("uns", "afe trait"),
    concat!("uns", "afe extern"),
    concat!("#[uns", "afe("),
];

/// Compares the table with the files.
pub(super) fn check(sources: &[Source], findings: &mut Vec<Finding>) {
    let Some(page) = sources.iter().find(|source| source.path == Path::new(PAGE)) else {
        findings.extend(sources.iter().filter(|source| source.is_rust()).filter_map(|source| {
            let line = *lines(source).first()?;
            Some(Finding::error(
                source,
                line,
                format!("there is no {PAGE} to list this in"),
            ))
        }));
        return;
    };
    let mut listed = listed(page, findings);
    for source in sources.iter().filter(|source| source.is_rust()) {
        let found = lines(source);
        let (line, count) = listed.remove(&source.path).unwrap_or((0, 0));
        if count == found.len() {
            continue;
        }
        let message = format!("{} unsafe places, and {count} in the table of {PAGE}", found.len());
        match found.last() {
            Some(last) => findings.push(Finding::error(source, *last, message)),
            None => findings.push(Finding::error(
                page,
                line,
                format!("{}: {message}", source.path.display()),
            )),
        }
    }
    for (path, (line, _)) in listed {
        findings.push(Finding::error(page, line, format!("there is no {}", path.display())));
    }
}

/// The lines of a file that open something unsafe, from 1.
fn lines(source: &Source) -> Vec<usize> {
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, line)| {
            let code = without_comment(line);
            OPENINGS.iter().any(|opening| code.contains(opening))
        })
        .map(|(index, _)| index + 1)
        .collect()
}

/// The files in the table, each with its line there, and how many times it is said to be unsafe.
fn listed(page: &Source, findings: &mut Vec<Finding>) -> BTreeMap<PathBuf, (usize, usize)> {
    let mut listed = BTreeMap::new();
    let lines = page.text.lines().enumerate();
    let rows = lines
        .skip_while(|(_, line)| *line != HEADER)
        .skip(2)
        .take_while(|(_, line)| line.starts_with('|'));
    for (index, row) in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let entry = match cells.as_slice() {
            ["", path, count, reason, ""] if !reason.is_empty() => count
                .parse()
                .ok()
                .map(|count| (PathBuf::from(path.trim_matches('`')), count)),
            _ => None,
        };
        match entry {
            Some((path, count)) => drop(listed.insert(path, (index + 1, count))),
            None => findings.push(Finding::error(
                page,
                index + 1,
                "a row says a file, how many, and what for",
            )),
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.into(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn what_is_not_listed_and_what_is_gone_is_found() {
        let opening = OPENINGS[0];
        let page = source(
            PAGE,
            &format!(
                "# Page\n\n{HEADER}\n| --- | --- | --- |\n| `a.rs` | 2 | maps |\n| `b.rs` | 1 | maps |\n| `c.rs` | 1 | maps |\n| `d.rs` | many | maps |\n\n| x |\n"
            ),
        );
        let sources = [
            page,
            source(
                "a.rs",
                &format!("let a = {opening} b() }};\nlet c = {opening}\n    d()\n}};\n// {opening} }}\n"),
            ),
            source("b.rs", "fn safe() {}\n"),
            source("e.rs", &format!("fn e() {{\n    {opening} f() }}\n}}\n")),
        ];
        let mut findings = Vec::new();
        check(&sources, &mut findings);
        findings.sort();
        let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
        let expected = [
            "docs/security.md:6: error: b.rs: 0 unsafe places, and 1 in the table of docs/security.md",
            "docs/security.md:7: error: there is no c.rs",
            "docs/security.md:8: error: a row says a file, how many, and what for",
            "e.rs:2: error: 1 unsafe places, and 0 in the table of docs/security.md",
        ];
        assert_eq!(found, expected);

        let mut findings = Vec::new();
        check(&sources[3..], &mut findings);
        assert_eq!(findings.len(), 1, "without the page nothing is listed");
    }
}
