//! The door to PEP 508's parser, which panics at names that do not end as names do, and at letters behind a marker that take more than
//! a byte: they are found before it sees them.
//!
//! Knows the text of one requirement; nothing of the files that hold them.

use std::path::Path;

use pep508_rs::VerbatimUrl;

/// A requirement as PEP 508 writes it.
pub(crate) type Pep508 = pep508_rs::Requirement<VerbatimUrl>;

/// Reads a requirement; places in it are below `directory`.
///
/// # Errors
/// What is wrong with it, for a person to read.
pub(crate) fn parse(text: &str, directory: Option<&Path>) -> Result<Pep508, String> {
    check(text)?;
    let parsed = match directory {
        Some(directory) => Pep508::parse(text, directory),
        None => text.parse(),
    };
    parsed.map_err(|error| error.message.to_string())
}

/// Refuses what the parser panics at, such as `numpy_ >=1` and `requests[socks-]`: an identifier ends with a letter or digit, and a marker
/// has other letters than those of ASCII in its strings only.
///
/// # Errors
/// Which name it is, for a person to read.
pub(crate) fn check(text: &str) -> Result<(), String> {
    if let Some(letter) = text.split_once(';').and_then(|(_, marker)| foreign_letter(marker)) {
        return Err(format!("its marker holds `{letter}` outside of a string"));
    }
    let text = text.trim_start();
    let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if is_cut_short(name) {
        return Err(format!("the name `{name}` does not end with a letter or digit"));
    }
    let Some(extras) = rest.trim_start().strip_prefix('[') else {
        return Ok(());
    };
    let extras = extras.split_once(']').map_or(extras, |(extras, _)| extras);
    // The parser reads a name up to white space, and says itself what is wrong with the rest.
    let mut names = extras.split(',').filter_map(|extra| extra.split_whitespace().next());
    match names.find(|name| is_cut_short(name)) {
        Some(extra) => Err(format!(
            "the name of the extra `{extra}` does not end with a letter or digit"
        )),
        None => Ok(()),
    }
}

/// The first letter outside of the strings of a marker that is not of ASCII.
fn foreign_letter(marker: &str) -> Option<char> {
    let mut quote = None;
    marker.chars().find(|&letter| match quote {
        Some(open) => {
            quote = Some(open).filter(|_| letter != open);
            false
        }
        None => {
            quote = Some(letter).filter(|letter| matches!(letter, '\'' | '"'));
            !letter.is_ascii()
        }
    })
}

/// Whether a document of YAML may hold a requirement that [`check`] refuses: quick, and seldom true of one that holds none.
pub(crate) fn may_be_refused(document: &str) -> bool {
    if document.split_once(';').is_some_and(|(_, behind)| !behind.is_ascii()) {
        return true;
    }
    let (mut before, mut rest) = ("", document);
    while let Some(start) = rest.find(is_of_name) {
        let (between, word) = rest.split_at(start);
        let (word, behind) = word.split_at(word.find(|c| !is_of_name(c)).unwrap_or(word.len()));
        if is_cut_short(word) && may_begin(before, between) {
            return true;
        }
        (before, rest) = (word, behind);
    }
    // What stands for other characters (YAML 1.2.2, 5.7), or before a text (6.9).
    document.contains('\\')
        || document
            .match_indices(['!', '&'])
            .any(|(at, _)| is_property(document, at))
}

/// Whether a text, or the name of an extra, may begin behind the word `before` and what stands between.
fn may_begin(before: &str, between: &str) -> bool {
    between.contains(['\n', '\r'])
        || match between.trim_end_matches([' ', '\'', '"']).chars().next_back() {
            // In the middle of a text, such as the `3.12.*` of `python_abi 3.12.*`, unless the word is the mark of a list.
            None => matches!(before, "" | "-"),
            // Behind an operator stands a version, such as the `3.0.*` of `!=3.0.*` and `== '3.0.*'`.
            Some(c) => !"=<>|".contains(c),
        }
}

/// Whether the mark at `at` may begin the tag or the anchor of a text.
fn is_property(document: &str, at: usize) -> bool {
    let before = document[..at].chars().next_back();
    let after = document[at + 1..].chars().next();
    before.is_none_or(|c| c.is_whitespace() || "[{,:-".contains(c))
        && after.is_some_and(|c| c != '=' && !c.is_whitespace())
}

/// Whether the parser takes all of it for a name, and then does not.
fn is_cut_short(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(is_of_name)
        && name.ends_with(['-', '_', '.'])
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_with_a_letter_or_digit() {
        for refused in [
            "c-'",
            "numpy_ >=1",
            "a.[b]",
            "requests[socks-]",
            "a [b, c_ ] >=2",
            "a[b- c]",
        ] {
            assert!(check(refused).unwrap_err().contains("end with a letter"), "{refused}");
            assert!(may_be_refused(refused), "{refused}");
        }
        for fine in [
            "requests[socks]",
            "a[b-c,d_e]>=2",
            "./place-",
            "torch[build=cuda_]",
            "",
            "-",
            "a !=3.0.*",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn a_marker_has_foreign_letters_in_strings_only() {
        for refused in ["a; extra == 'x'\u{fffd}\u{fffd}", "a ; é", "a; extra == \"é\" ü or x"] {
            assert!(
                parse(refused, None).unwrap_err().contains("outside of a string"),
                "{refused}"
            );
            assert!(may_be_refused(refused), "{refused}");
        }
        for fine in [
            "a; extra == 'é'",
            "a @ https://h.example/é",
            "a; platform_version == \"'é'\"",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn whole_documents_are_looked_through_quickly() {
        for suspicious in [
            "- z- >=1",
            "- z[a-\n    ]",
            "- z [ b , a- ]",
            "- '\u{a0}z.;'",
            "- \"z[a\\x2d]\"",
            "z_",
            "- >\n  z- >=1",
            "- >-\n  z- >=1",
            "- !!str z- >=1",
            "- &a z- >=1",
            "[z- >=1]",
            "- ! 'z- >=1'",
            "- 'z- >=1'",
            "- !<tag:yaml.org,2002:str> z- >=1",
        ] {
            assert!(may_be_refused(suspicious), "{suspicious}");
        }
        for fine in [
            "- numpy>=1.2.*,!=3.0.*",
            "- numpy >=1.2.*, != 3.0.*",
            "- python_abi 3.12.* *_cp312",
            "- conda: ./a-1-0.conda?a=b&c=d\n",
            "build: py_0",
            "- llvm 22.1.7.*|22.1.8.*",
            "- a ; python_full_version == '3.4.*'",
            "name: \"-\"",
            "- tool ; python_version != '3'",
            "\u{20ac}",
        ] {
            assert!(!may_be_refused(fine), "{fine}");
        }
    }
}
