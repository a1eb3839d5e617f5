//! What people call environments: `team/project:tag`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The tag of a name that is written without one: what is in use, as opposed to what is being tried.
pub const DEFAULT_TAG: &str = "current";

/// No part of a name is longer: with its tag it is the name of one file, which file systems limit to 255 bytes.
const MAX_PART_BYTES: usize = 100;

/// No name has more parts between slashes.
const MAX_PARTS: usize = 8;

/// A name without slashes that has only hexadecimal digits, and at least so many, would look like a signature.
const SIGNATURE_DIGITS: std::ops::RangeInclusive<usize> = crate::environment::MIN_PREFIX_DIGITS..=64;

/// The human name of an environment: `team/project:tag`, or `project:tag`.
///
/// Its parts and its tag start with an ASCII letter or digit, and go on with those, `.`, `_`, `-` and `+`. So a name is a
/// relative path that leads nowhere else, and no name is part of another's path, because only the tag follows a colon.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name {
    /// All before the colon.
    path: String,
    tag: String,
}

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name: {problem}; a name is `project:tag` or `team/project:tag`")]
pub struct InvalidName {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Name {
    /// All before the colon: what the tags are of.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What follows the colon.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |problem| {
            Err(InvalidName {
                text: text.to_owned(),
                problem,
            })
        };
        let (path, tag) = text.split_once(':').unwrap_or((text, DEFAULT_TAG));
        if path.split('/').count() > MAX_PARTS {
            return invalid("it has more than 8 parts");
        }
        for part in path.split('/').chain([tag]) {
            match part.as_bytes() {
                [] => return invalid("a part of it is empty"),
                bytes if bytes.len() > MAX_PART_BYTES => return invalid("a part of it is longer than 100 bytes"),
                [first, rest @ ..] => {
                    if !first.is_ascii_alphanumeric() {
                        return invalid("a part of it does not start with a letter or digit");
                    }
                    if !rest.iter().all(|&byte| is_name_byte(byte)) {
                        return invalid("it has a character other than letters, digits, `.`, `_`, `-` and `+`");
                    }
                }
            }
        }
        let is_like_a_signature = SIGNATURE_DIGITS.contains(&path.len())
            && path.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_like_a_signature {
            return invalid("it looks like a signature");
        }
        Ok(Self {
            path: path.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

/// Letters, digits and what else does no harm in a path, a shell or a table.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path, self.tag)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_refused() {
        for (text, whole) in [
            ("proj", "proj:current"),
            ("proj:qa", "proj:qa"),
            ("team/a.b/Proj-1+x:2026.1_rc", "team/a.b/Proj-1+x:2026.1_rc"),
            ("abcdef0:x", "abcdef0:x"),
            ("team/0123456789", "team/0123456789:current"),
        ] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), whole);
        }
        let long = "x".repeat(101);
        for text in [
            "",
            ":",
            "a:",
            ":a",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/..",
            "a/.b",
            "a:b:c",
            "a:b/c",
            "-a",
            "a b",
            "a\n",
            "ä",
            "a\0",
            "0123abcd",
            "0123abcd:x",
            "a/b/c/d/e/f/g/h/i",
            &long,
        ] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
    }
}
