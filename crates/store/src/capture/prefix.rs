//! Where a file that was written names the mount path: a text can be made to follow it, a binary cannot.

use memchr::memmem;

use crate::path::EnvPath;
use crate::placeholder::{Encoding, Occurrences, Placeholder, TextOccurrence, is_whole_path};

/// Where a file names the mount path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Nowhere.
    Nowhere,
    /// In a text, at places that are replaced when it is read.
    InText(Placeholder),
    /// In a binary, which is good at this path only.
    InBinary,
}

/// Where `content`, the file at `path`, names `prefix`.
pub(super) fn find(content: &[u8], prefix: &str, path: &EnvPath) -> Named {
    let is_text = !content.contains(&0) && std::str::from_utf8(content).is_ok();
    if !is_text {
        // Python corrects what bytecode says of its place.
        let is_bytecode = path.as_bytes().ends_with(b".pyc");
        return match is_bytecode || occurrences(content, 0, prefix).is_empty() {
            true => Named::Nowhere,
            false => Named::InBinary,
        };
    }
    let shebang_bytes = if content.starts_with(b"#!") {
        let newline = memchr::memchr(b'\n', content);
        newline.map_or(content.len(), |newline| newline + 1)
    } else {
        0
    };
    let placeholder = Placeholder {
        prefix: prefix.to_owned(),
        occurrences: Occurrences::Text {
            shebang: content[..shebang_bytes].to_owned(),
            occurrences: occurrences(content, shebang_bytes, prefix),
        },
    };
    match placeholder.changes_content() {
        true => Named::InText(placeholder),
        false => Named::Nowhere,
    }
}

fn occurrences(content: &[u8], start: usize, prefix: &str) -> Vec<TextOccurrence> {
    memmem::find_iter(&content[start..], prefix.as_bytes())
        .map(|at| start + at)
        .filter(|&at| is_whole_path(content, at + prefix.len()))
        .map(|at| TextOccurrence {
            offset_bytes: at as u64,
            encoding: Encoding::Utf8,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_follow_their_prefix_and_binaries_do_not() {
        let path = |path: &str| EnvPath::parse(path).unwrap();
        let text = find(b"#!/bin/sh\ncd /p/x; cd /p-q; cd /p", "/p", &path("a"));
        let Named::InText(Placeholder {
            occurrences: Occurrences::Text { shebang, occurrences },
            ..
        }) = text
        else {
            panic!("{text:?}")
        };
        assert_eq!(shebang, b"#!/bin/sh\n");
        assert_eq!(
            occurrences.iter().map(|found| found.offset_bytes).collect::<Vec<_>>(),
            [13, 31]
        );
        assert_eq!(find(b"nothing /px", "/p", &path("a")), Named::Nowhere);
        assert_eq!(find(b"\x7fELF\0/p/lib\0", "/p", &path("a")), Named::InBinary);
        assert_eq!(find(b"\x7fELF\0/p/lib\0", "/p", &path("a.pyc")), Named::Nowhere);
    }
}
