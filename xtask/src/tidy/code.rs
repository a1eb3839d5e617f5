//! Rust source as tidy sees it: lines without comments, and without what is compiled only for tests.
//!
//! A scanner, not a parser: it relies on rustfmt's layout, which another check enforces.

/// A line of code that ships: its number from 1, and its text without a comment.
pub(super) struct Line<'a> {
    pub(super) number: usize,
    pub(super) text: &'a str,
}

/// The lines of a file that ship.
pub(super) fn shipping_lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut all = text.lines().enumerate();
    while let Some((index, line)) = all.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            skip_item(line, &mut all);
            continue;
        }
        lines.push(Line {
            number: index + 1,
            text: without_comment(line),
        });
    }
    lines
}

/// Whether a file is compiled only for tests.
pub(super) fn is_test_file(path: &std::path::Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests") || path.iter().any(|part| part == "tests" || part == "benches")
}

/// Skips the item after `#[cfg(test)]`: up to the brace that closes it, or to a semicolon.
fn skip_item<'a>(first: &'a str, rest: &mut impl Iterator<Item = (usize, &'a str)>) {
    let indent = first.len() - first.trim_start().len();
    let mut line = first.trim_start().trim_start_matches("#[cfg(test)]").trim_end();
    loop {
        let closes_itself = line.matches('{').count() == line.matches('}').count();
        if line.ends_with(';') || (line.contains('{') && closes_itself) {
            return;
        }
        if line.ends_with('{') {
            let closing = format!("{}}}", " ".repeat(indent));
            rest.by_ref().find(|(_, line)| line.trim_end() == closing);
            return;
        }
        match rest.next() {
            Some((_, next)) => line = next.trim_end(),
            None => return,
        }
    }
}

/// The line up to a comment. A `//` in a string literal stays if a quote is open before it.
pub(super) fn without_comment(line: &str) -> &str {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| from + at) {
        if line[..at].matches('"').count().is_multiple_of(2) {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_comments_do_not_ship() {
        let text =
            "a; // x\n#[cfg(test)]\nmod tests {\n    b;\n}\nlet c = \"http://x\"; // y\n#[cfg(test)]\nmod t;\nd\n";
        let lines: Vec<(usize, String)> = shipping_lines(text)
            .iter()
            .map(|line| (line.number, line.text.trim().to_owned()))
            .collect();
        let expected = [(1, "a;"), (6, "let c = \"http://x\";"), (9, "d")].map(|(n, text)| (n, text.to_owned()));
        assert_eq!(lines, expected);
    }
}
