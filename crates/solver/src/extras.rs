//! Names of extras that PEP 508 forbids and whose parser panics at: found before it sees them.

/// The first name between brackets behind a name that does not end with a letter or digit, such as `socks-` of
/// `requests[socks-]` (PEP 508: an identifier ends with one).
pub(crate) fn invalid(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once('[') {
        rest = inside;
        let is_behind_name = before.trim_end().ends_with(|c: char| c.is_ascii_alphanumeric());
        let extras = inside.split_once(']').map_or(inside, |(extras, _)| extras);
        let found = extras
            .split(',')
            .map(str::trim)
            .find(|name| name.ends_with(['-', '_', '.']));
        if is_behind_name && found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_end_with_a_letter_or_digit() {
        assert_eq!(invalid("requests[socks-]"), Some("socks-"));
        assert_eq!(invalid("requests [a, b_ ] >=2"), Some("b_"));
        for valid in [
            "requests[socks]",
            "requests[a-b,c_d]>=2",
            "- [a-]",
            "key: [a-]",
            "requests",
        ] {
            assert_eq!(invalid(valid), None, "{valid}");
        }
    }
}
