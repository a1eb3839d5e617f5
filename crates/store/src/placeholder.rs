//! Where a file holds the prefix it was built for: found once at ingest, recorded, never searched for again.
//!
//! Conda packages carry a long placeholder path in texts and binaries, and installers rewrite it for every
//! directory they install into (CEP 34, `info/paths.json`: `prefix_placeholder` and `file_mode`). Here the
//! positions are recorded, and [`crate::patch`] replaces them when the file is read.

use crate::wire::{Reader, Writer};

/// How the characters of an occurrence are stored (draft CEP 179 names the same five).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// One byte an ASCII character.
    Utf8,
    /// Two bytes, low first.
    Utf16Le,
    /// Two bytes, high first.
    Utf16Be,
    /// Four bytes, low first.
    Utf32Le,
    /// Four bytes, high first.
    Utf32Be,
}

/// One occurrence in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextOccurrence {
    /// Where it starts, in bytes from the start of the file.
    pub offset_bytes: u64,
    /// How it is encoded.
    pub encoding: Encoding,
}

/// One C string of a binary with the occurrences in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CString {
    /// How the string and its occurrences are encoded.
    pub encoding: Encoding,
    /// Where the occurrences start, in bytes from the start of the file, ascending.
    pub offsets_bytes: Vec<u64>,
    /// Where the string's terminating NUL starts, or the size of the file where there is none.
    pub end_bytes: u64,
}

/// The occurrences of a file, by the rules of its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occurrences {
    /// `file_mode: text`: replacing changes the file's length, and the first line has rules of its own.
    Text {
        /// The first line with its newline where the file starts with `#!`, else empty. Occurrences in it are
        /// not listed.
        shebang: Vec<u8>,
        /// The other occurrences, by offset.
        occurrences: Vec<TextOccurrence>,
    },
    /// `file_mode: binary`: replacing keeps every length; what a string loses is filled with NUL.
    Binary {
        /// The strings, by offset, disjoint.
        strings: Vec<CString>,
    },
}

/// The prefix placeholder of one file and every place where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    /// The path that was written into the file when it was built.
    pub prefix: String,
    /// Where it stands.
    pub occurrences: Occurrences,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Utf8, Self::Utf16Le, Self::Utf16Be, Self::Utf32Le, Self::Utf32Be];

    /// `text` in this encoding.
    #[must_use]
    pub fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Self::Utf8 => text.as_bytes().to_owned(),
            Self::Utf16Le => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Self::Utf16Be => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            Self::Utf32Le => text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
            Self::Utf32Be => text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect(),
        }
    }

    fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.code() == code)
    }
}

impl Placeholder {
    /// Whether a target that differs from the placeholder changes the file.
    #[must_use]
    pub fn changes_content(&self) -> bool {
        match &self.occurrences {
            Occurrences::Text { shebang, occurrences } => {
                !occurrences.is_empty() || crate::shebang::may_change(shebang, &self.prefix)
            }
            Occurrences::Binary { strings } => !strings.is_empty(),
        }
    }

    /// The longest target prefix in bytes that fits, or none where any does (texts may grow).
    #[must_use]
    pub fn max_prefix_bytes(&self) -> Option<usize> {
        match &self.occurrences {
            Occurrences::Binary { strings } if !strings.is_empty() => Some(self.prefix.len()),
            _ => None,
        }
    }

    /// Appends the record; see `docs/format.md`, "placeholder record".
    pub(crate) fn write(&self, out: &mut Writer) {
        out.bytes(self.prefix.as_bytes());
        match &self.occurrences {
            Occurrences::Text { shebang, occurrences } => {
                out.u8(0);
                out.bytes(shebang);
                out.count(occurrences.len());
                for occurrence in occurrences {
                    out.u8(occurrence.encoding.code());
                    out.u64(occurrence.offset_bytes);
                }
            }
            Occurrences::Binary { strings } => {
                out.u8(1);
                out.count(strings.len());
                for string in strings {
                    out.u8(string.encoding.code());
                    out.u64(string.end_bytes);
                    out.count(string.offsets_bytes.len());
                    for &offset in &string.offsets_bytes {
                        out.u64(offset);
                    }
                }
            }
        }
    }

    /// Reads a record, or nothing when the bytes are not one.
    pub(crate) fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let prefix = bytes.string()?;
        let occurrences = match bytes.u8()? {
            0 => Occurrences::Text {
                shebang: bytes.bytes()?.to_owned(),
                occurrences: read_list(bytes, 9, |bytes| {
                    Some(TextOccurrence {
                        encoding: Encoding::from_code(bytes.u8()?)?,
                        offset_bytes: bytes.u64()?,
                    })
                })?,
            },
            1 => Occurrences::Binary {
                strings: read_list(bytes, 13, |bytes| {
                    Some(CString {
                        encoding: Encoding::from_code(bytes.u8()?)?,
                        end_bytes: bytes.u64()?,
                        offsets_bytes: read_list(bytes, 8, Reader::u64)?,
                    })
                })?,
            },
            _ => return None,
        };
        Some(Self { prefix, occurrences })
    }
}

/// Whether a path ends at `end`, and is not the beginning of a longer name.
#[must_use]
pub fn is_whole_path(text: &[u8], end: usize) -> bool {
    text.get(end)
        .is_none_or(|&next| !(next.is_ascii_alphanumeric() || matches!(next, b'_' | b'-' | b'.')))
}

fn read_list<'a, T>(
    bytes: &mut Reader<'a>,
    min_size: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = bytes.count(min_size)?;
    (0..count).map(|_| item(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_cut_ones_are_refused() {
        let placeholder = Placeholder {
            prefix: "/opt/place".into(),
            occurrences: Occurrences::Binary {
                strings: vec![CString {
                    encoding: Encoding::Utf16Be,
                    offsets_bytes: vec![3, 90],
                    end_bytes: 200,
                }],
            },
        };
        let mut out = Writer::default();
        placeholder.write(&mut out);
        let bytes = out.finish();
        assert_eq!(Placeholder::read(&mut Reader::new(&bytes)), Some(placeholder));
        for len in 0..bytes.len() {
            assert_eq!(Placeholder::read(&mut Reader::new(&bytes[..len])), None, "cut at {len}");
        }
    }
}
