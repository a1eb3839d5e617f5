//! The first line of a script after its prefix is replaced.
//!
//! Linux cuts a `#!` line at 127 bytes (`BINPRM_BUF_SIZE` is 128 and holds the newline) and splits it at spaces,
//! so a long or spaced interpreter path goes through `/bin/sh` (Python) or `/usr/bin/env` (others), as every
//! conda installer does it.

use std::borrow::Cow;

/// The longest first line in bytes, without its newline, that Linux reads whole.
const MAX_SHEBANG_BYTES: usize = 127;

/// Whether the first line could look different at some prefix.
pub(crate) fn may_change(shebang: &[u8], placeholder: &str) -> bool {
    let line = without_newline(shebang).0;
    let Ok(text) = std::str::from_utf8(line) else {
        return true;
    };
    text.contains(placeholder) || text.len() > MAX_SHEBANG_BYTES
}

/// The first line (`shebang`, with its newline if it has one) with `placeholder` replaced by `target`. Bytes that
/// are not UTF-8 become U+FFFD, as in the installers.
pub(crate) fn replace(shebang: &[u8], placeholder: &str, target: &str) -> Vec<u8> {
    if shebang.is_empty() {
        return Vec::new();
    }
    let (line, newline) = without_newline(shebang);
    let line = String::from_utf8_lossy(line);
    let mut replaced = replace_line(&line, placeholder, target).into_owned().into_bytes();
    replaced.extend(newline);
    replaced
}

fn replace_line<'a>(line: &'a str, placeholder: &str, target: &str) -> Cow<'a, str> {
    if target.contains(' ') {
        if !line.contains(placeholder) {
            return Cow::Borrowed(line);
        }
        // The line is taken apart while its path has no spaces, and only then filled in.
        return through_launcher(line).replace(placeholder, target).into();
    }
    let replaced = line.replace(placeholder, target);
    if replaced.len() <= MAX_SHEBANG_BYTES || !replaced.starts_with("#!") {
        replaced.into()
    } else {
        through_launcher(&replaced).into_owned().into()
    }
}

/// Lets a launcher that has no limit start the interpreter. A line that names no absolute path stays as it is.
fn through_launcher(line: &str) -> Cow<'_, str> {
    let Some((interpreter, arguments)) = split(line) else {
        return Cow::Borrowed(line);
    };
    let name = interpreter.rsplit('/').next().unwrap_or(interpreter);
    Cow::Owned(if is_python(name) {
        // Shell reads the quotes as nothing and runs the interpreter; Python reads a string and goes on.
        format!("#!/bin/sh\n'''exec' \"{interpreter}\"{arguments} \"$0\" \"$@\" #'''")
    } else {
        format!("#!/usr/bin/env {name}{arguments}")
    })
}

/// The interpreter's path (a space in it is escaped by `\`) and the rest of the line.
fn split(line: &str) -> Option<(&str, &str)> {
    let command = line.strip_prefix("#!")?.trim_start_matches(' ');
    if !command.starts_with('/') || line.contains('\n') {
        return None;
    }
    let mut end = 0;
    while let Some(next) = command[end..].chars().next() {
        if command[end..].starts_with("\\ ") {
            end += 2;
        } else if matches!(next, ' ' | '\r' | '\t') {
            break;
        } else {
            end += next.len_utf8();
        }
    }
    Some(command.split_at(end))
}

/// `python`, `python3`, `python3.12`, but not `python3.12.1` or `python-config`.
fn is_python(name: &str) -> bool {
    let Some(version) = name.strip_prefix("python") else {
        return false;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    version.is_empty()
        || match version.split_once('.') {
            Some((major, minor)) => is_number(major) && is_number(minor),
            None => is_number(version),
        }
}

fn without_newline(line: &[u8]) -> (&[u8], &[u8]) {
    match line.last() {
        Some(b'\n') => line.split_at(line.len() - 1),
        _ => (line, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(line: &str, target: &str) -> String {
        String::from_utf8(replace(line.as_bytes(), "/old", target)).unwrap()
    }

    #[test]
    fn short_lines_are_replaced_in_place() {
        assert_eq!(replaced("#!/old/bin/python\n", "/new"), "#!/new/bin/python\n");
        assert_eq!(replaced("#!/usr/bin/perl", "/new"), "#!/usr/bin/perl");
    }

    #[test]
    fn spaces_and_long_paths_go_through_a_launcher() {
        assert_eq!(
            replaced("#!/old/bin/python3.12 -E\n", "/a b"),
            "#!/bin/sh\n'''exec' \"/a b/bin/python3.12\" -E \"$0\" \"$@\" #'''\n"
        );
        assert_eq!(replaced("#!/old/bin/perl -w\n", "/a b"), "#!/usr/bin/env perl -w\n");
        let long = format!("/{}", "x".repeat(130));
        assert_eq!(replaced("#! /old/bin/Rscript\n", &long), "#!/usr/bin/env Rscript\n");
        assert_eq!(
            replaced("#!/old/bin/python\n", &long),
            format!("#!/bin/sh\n'''exec' \"{long}/bin/python\" \"$0\" \"$@\" #'''\n")
        );
    }

    #[test]
    fn the_limit_is_127_bytes_without_the_newline() {
        let target = format!("/{}", "x".repeat(127 - "#!/".len() - "/bin/sh".len()));
        assert!(replaced("#!/old/bin/sh\n", &target).starts_with("#!/x"));
        assert!(replaced("#!/old/bin/sh\n", &format!("{target}x")).starts_with("#!/usr/bin/env sh"));
    }
}
