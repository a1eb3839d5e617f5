//! Platform selectors: the `# [linux and not aarch64]` after a dependency, as conda-build and conda-lock know them.
//!
//! A comment in brackets that holds anything but platform names is a comment and nothing else.

use crate::subdir::Subdir;

/// A condition on the platform, in disjunctive form: any of the alternatives, each with all its terms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Selector {
    alternatives: Vec<Vec<Term>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    is_negated: bool,
    word: &'static str,
}

type Condition = fn(Subdir) -> bool;

/// The words that select, and what they hold for.
const WORDS: [(&str, Condition); 15] = [
    ("linux", |subdir| subdir.is_linux()),
    ("osx", |subdir| subdir.is_osx()),
    ("win", |subdir| subdir.is_windows()),
    ("unix", |subdir| subdir.is_linux() || subdir.is_osx()),
    ("linux32", |subdir| subdir.as_str() == "linux-32"),
    ("linux64", |subdir| subdir.as_str() == "linux-64"),
    ("osx64", |subdir| subdir.as_str() == "osx-64"),
    ("win32", |subdir| subdir.as_str() == "win-32"),
    ("win64", |subdir| subdir.as_str() == "win-64"),
    ("arm64", |subdir| matches!(subdir.as_str(), "osx-arm64" | "win-arm64")),
    ("aarch64", |subdir| subdir.as_str() == "linux-aarch64"),
    ("ppc64le", |subdir| subdir.as_str() == "linux-ppc64le"),
    ("s390x", |subdir| subdir.as_str() == "linux-s390x"),
    ("x86_64", |subdir| {
        matches!(subdir.as_str(), "linux-64" | "osx-64" | "win-64")
    }),
    ("x86", |subdir| {
        matches!(
            subdir.as_str(),
            "linux-32" | "linux-64" | "osx-64" | "win-32" | "win-64"
        )
    }),
];

impl Selector {
    /// The selector in the comment of a line, if it has one.
    pub(super) fn of_line(line: &str) -> Option<Self> {
        let (_, comment) = line.rsplit_once('#')?;
        let condition = comment.trim().strip_prefix('[')?.strip_suffix(']')?;
        let alternatives: Option<Vec<Vec<Term>>> = condition
            .split(" or ")
            .map(|alternative| alternative.split(" and ").map(Term::parse).collect())
            .collect();
        Some(Self {
            alternatives: alternatives?,
        })
    }

    pub(super) fn holds(&self, subdir: Subdir) -> bool {
        self.alternatives
            .iter()
            .any(|terms| terms.iter().all(|term| term.holds(subdir)))
    }
}

impl Term {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (is_negated, word) = match text.strip_prefix("not ") {
            Some(word) => (true, word.trim()),
            None => (false, text),
        };
        let (word, _) = WORDS.iter().find(|(known, _)| *known == word)?;
        Some(Self { is_negated, word })
    }

    fn holds(&self, subdir: Subdir) -> bool {
        let is_met = WORDS.iter().any(|(word, holds)| *word == self.word && holds(subdir));
        is_met != self.is_negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platforms_of(line: &str) -> Vec<&'static str> {
        let selector = Selector::of_line(line).unwrap();
        ["linux-64", "linux-aarch64", "osx-arm64", "win-64"]
            .into_iter()
            .filter(|subdir| selector.holds(subdir.parse().unwrap()))
            .collect()
    }

    #[test]
    fn words_select_platforms() {
        assert_eq!(platforms_of("  - a  # [linux]"), ["linux-64", "linux-aarch64"]);
        assert_eq!(
            platforms_of("  - a  # [unix and not aarch64]"),
            ["linux-64", "osx-arm64"]
        );
        assert_eq!(platforms_of("  - a #[win or osx]"), ["osx-arm64", "win-64"]);
        assert_eq!(platforms_of("  - a # pinned # [linux64]"), ["linux-64"]);
    }

    #[test]
    fn other_comments_select_nothing() {
        for line in [
            "- a",
            "- a # for [linux]",
            "- a # [docs]",
            "- a # [1]",
            "- a # []",
            "- a[build=x] # why",
        ] {
            assert_eq!(Selector::of_line(line), None, "{line}");
        }
    }
}
