//! What strangers wrote, made safe to print: names in archives and words of scripts must not steer the terminal.

use std::borrow::Cow;

/// The text, with control characters but newlines and tabs written out.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_steers_is_written_out() {
        assert_eq!(printable("a\n\tb ä"), "a\n\tb ä");
        assert_eq!(printable("a\u{1b}[2J\r\u{9b}"), "a\\u{1b}[2J\\r\\u{9b}");
    }
}
