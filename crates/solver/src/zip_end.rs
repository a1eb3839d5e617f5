//! The end of a zip file: how many members it has, and that nobody can read it as another file.
//!
//! A zip is read from its end, and readers differ in where they look for it: what stands before the first member, behind
//! the last record, or in two ends that disagree, is seen by some and not by others. Archives of packages need none of it.
//! Follows the `.ZIP` file format specification (APPNOTE 6.3.10, 4.3.14 to 4.3.16); knows nothing of members.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const END_MAGIC: [u8; 4] = *b"PK\x05\x06";
const END_BYTES: usize = 22;
const LOCATOR64_MAGIC: [u8; 4] = *b"PK\x06\x07";
const LOCATOR64_BYTES: usize = 20;
const END64_MAGIC: [u8; 4] = *b"PK\x06\x06";
const END64_BYTES: usize = 56;
const MEMBER_MAGIC: [u8; 4] = *b"PK\x03\x04";

/// A comment is at most so long.
const MAX_COMMENT_BYTES: usize = 0xFFFF;

/// The fields of an end that say where the central directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Directory {
    members: u64,
    size_bytes: u64,
    offset_bytes: u64,
}

/// The number of members of the zip in `file`, which starts with the first of them and ends with its only end.
///
/// # Errors
/// It cannot be read (outside), or says what is wrong with it (inside).
pub(crate) fn members(file: &File) -> io::Result<Result<u64, String>> {
    let len = file.metadata()?.len();
    let tail_bytes = len.min((END_BYTES + MAX_COMMENT_BYTES + LOCATOR64_BYTES + END64_BYTES) as u64);
    let mut tail = vec![0; usize::try_from(tail_bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut tail, len - tail_bytes)?;
    let mut head = [0; 4];
    if len >= head.len() as u64 {
        file.read_exact_at(&mut head, 0)?;
    }
    Ok(check(head, &tail, len))
}

fn check(head: [u8; 4], tail: &[u8], len: u64) -> Result<u64, String> {
    let Some(at) = tail.windows(END_MAGIC.len()).rposition(|window| window == END_MAGIC) else {
        return Err("it does not end as a zip file does; it may be cut off".to_owned());
    };
    let end = &tail[at..];
    let comment_bytes = end.get(20..END_BYTES).map(number);
    if comment_bytes.is_none_or(|comment_bytes| END_BYTES as u64 + comment_bytes != end.len() as u64) {
        return Err("it goes on behind the end of its zip directory".to_owned());
    }
    if number(&end[4..6]) != 0 || number(&end[6..8]) != 0 || end[8..10] != end[10..12] {
        return Err("it is a part of a zip file of several parts".to_owned());
    }
    let plain = Directory {
        members: number(&end[10..12]),
        size_bytes: number(&end[12..16]),
        offset_bytes: number(&end[16..20]),
    };
    let end_at = len - end.len() as u64;
    let (directory, directory_end) = match end64(tail, at, len)? {
        Some((long, end64_at)) => (agreed(plain, long)?, end64_at),
        None => (plain, end_at),
    };
    if directory.offset_bytes.checked_add(directory.size_bytes) != Some(directory_end) {
        return Err("its zip directory is not where its end says".to_owned());
    }
    if head != MEMBER_MAGIC && !(directory.members == 0 && directory_end == 0) {
        return Err("it does not start with the first member of its zip directory".to_owned());
    }
    Ok(directory.members)
}

/// The end for large files, which stands before the other one, and where it starts.
fn end64(tail: &[u8], end_at: usize, len: u64) -> Result<Option<(Directory, u64)>, String> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR64_BYTES) else {
        return Ok(None);
    };
    let locator = &tail[locator_at..end_at];
    if locator[..4] != LOCATOR64_MAGIC {
        return Ok(None);
    }
    let wrong = || "the end of its zip directory for large files is not where it should be".to_owned();
    let tail_at = len - tail.len() as u64;
    let at = locator_at.checked_sub(END64_BYTES).ok_or_else(wrong)?;
    let end = &tail[at..locator_at];
    if end[..4] != END64_MAGIC || number(&locator[8..16]) != tail_at + at as u64 {
        return Err(wrong());
    }
    if number(&end[4..12]) != (END64_BYTES - 12) as u64 || end[24..32] != end[32..40] {
        return Err(wrong());
    }
    let directory = Directory {
        members: number(&end[32..40]),
        size_bytes: number(&end[40..48]),
        offset_bytes: number(&end[48..56]),
    };
    Ok(Some((directory, tail_at + at as u64)))
}

/// What both ends say: a field of the plain one that is full says nothing.
fn agreed(plain: Directory, long: Directory) -> Result<Directory, String> {
    let agrees = |plain: u64, full: u64, long: u64| plain == full || plain == long;
    let all_agree = agrees(plain.members, 0xFFFF, long.members)
        && agrees(plain.size_bytes, 0xFFFF_FFFF, long.size_bytes)
        && agrees(plain.offset_bytes, 0xFFFF_FFFF, long.offset_bytes);
    match all_agree {
        true => Ok(long),
        false => Err("the two ends of its zip directory disagree".to_owned()),
    }
}

/// A little-endian number of at most 8 bytes.
fn number(field: &[u8]) -> u64 {
    field
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    fn zip(comment: &str, large: bool) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().large_file(large);
        zip.start_file("a", options).unwrap();
        zip.write_all(b"content").unwrap();
        zip.set_comment(comment).unwrap();
        zip.finish().unwrap().into_inner()
    }

    fn members_of(bytes: &[u8]) -> Result<u64, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        members(&file).unwrap()
    }

    #[test]
    fn whole_files_are_taken() {
        assert_eq!(members_of(&zip("", false)), Ok(1));
        assert_eq!(members_of(&zip("a comment", false)), Ok(1));
        assert_eq!(members_of(&zip("", true)), Ok(1));
        let empty = zip::ZipWriter::new(Cursor::new(Vec::new()))
            .finish()
            .unwrap()
            .into_inner();
        assert_eq!(members_of(&empty), Ok(0));
    }

    /// One member, whose directory two ends describe.
    fn with_end64(members: u64, locator: impl Fn(u64) -> u64, plain_members: u16) -> Vec<u8> {
        let whole = zip("", false);
        let (content, end) = whole.split_at(whole.len() - END_BYTES);
        let at = content.len() as u64;
        let (size, offset) = (number(&end[12..16]), number(&end[16..20]));
        let mut bytes = content.to_vec();
        bytes.extend(END64_MAGIC);
        bytes.extend(44_u64.to_le_bytes());
        bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for field in [members, members, size, offset] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(LOCATOR64_MAGIC);
        bytes.extend([0; 4]);
        bytes.extend(locator(at).to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(&end[..8]);
        bytes.extend([plain_members.to_le_bytes(), plain_members.to_le_bytes()].concat());
        bytes.extend([0xFF; 8]);
        bytes.extend([0, 0]);
        bytes
    }

    #[test]
    fn large_files_have_two_ends_that_agree() {
        assert_eq!(members_of(&with_end64(1, |at| at, 0xFFFF)), Ok(1));
        assert_eq!(members_of(&with_end64(1, |at| at, 1)), Ok(1));
        for (bytes, expected) in [
            (with_end64(1, |at| at, 2), "disagree"),
            (with_end64(1, |at| at - 1, 1), "not where it should be"),
            (with_end64(1, |_| u64::MAX, 1), "not where it should be"),
        ] {
            let message = members_of(&bytes).unwrap_err();
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }

    #[test]
    fn what_two_readers_see_differently_is_refused() {
        let whole = zip("", false);
        let end = whole.len() - END_BYTES;
        let changed = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] ^= byte;
            bytes
        };
        for (bytes, expected) in [
            (whole[..end].to_vec(), "may be cut off"),
            ([&whole[..], b"more"].concat(), "goes on behind"),
            ([b"#!/bin/sh\n", &whole[..]].concat(), "not where its end says"),
            (zip("PK\x05\x06 in a comment", false), "goes on behind"),
            (changed(end + 4, 1), "several parts"),
            (changed(end + 8, 2), "several parts"),
            (changed(end + 12, 1), "not where its end says"),
            (changed(0, 1), "does not start with the first member"),
        ] {
            let message = members_of(&bytes).unwrap_err();
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }
}
