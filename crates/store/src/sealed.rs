//! Documents that tell by themselves whether they are whole, and whether they stand where they were put: JSON whose last
//! field is the digest of all that is before it, and of its own place. Drawn in `docs/format.md`, "sealed documents".
//!
//! What is named by its content needs no seal. Knows nothing of what documents say.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// What stands before the digest, and after it. Another spelling would be read as a document without a seal.
const BEFORE: &[u8] = b",\"digest\":\"";
const AFTER: &[u8] = b"\"}\n";

/// The hexadecimal digits of a digest.
const DIGITS: usize = 64;

/// A document that was read.
pub(crate) struct Opened<T> {
    pub(crate) document: T,
    /// Whether it has a seal. Those of older versions have none.
    pub(crate) is_sealed: bool,
}

/// The bytes of `document`, an object of JSON, which is to stand at `place` in its store.
pub(crate) fn seal(place: &str, document: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(document)?;
    bytes.pop();
    let digest = digest(place, &bytes);
    bytes.extend(BEFORE);
    bytes.extend(digest.to_string().as_bytes());
    bytes.extend(AFTER);
    Ok(bytes)
}

/// Reads the bytes of the file at `path`, which is `place` in its store. A type that refuses fields it does not know makes
/// sure that a seal that was damaged is not taken for none.
pub(crate) fn open<T: DeserializeOwned>(path: &Path, place: &str, bytes: &[u8]) -> Result<Opened<T>> {
    let parse = |text: &[u8]| serde_json::from_slice(text).map_err(|error| Error::corrupt(path, error.to_string()));
    let Some((content, named)) = split(bytes) else {
        return Ok(Opened {
            document: parse(bytes)?,
            is_sealed: false,
        });
    };
    if digest(place, content).to_string().as_bytes() != named {
        return Err(Error::corrupt(path, "its bytes are not those that were written there"));
    }
    Ok(Opened {
        document: parse(&[content, b"}"].concat())?,
        is_sealed: true,
    })
}

/// What the digest is of, and its digits.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.strip_suffix(AFTER)?;
    let (bytes, digits) = bytes.split_at_checked(bytes.len().checked_sub(DIGITS)?)?;
    Some((bytes.strip_suffix(BEFORE)?, digits))
}

fn digest(place: &str, content: &[u8]) -> Digest {
    Digest::of(&[place.as_bytes(), b"\0", content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        number: u32,
        text: String,
    }

    #[test]
    fn any_damage_and_any_other_place_is_seen() {
        let document = Document {
            number: 7,
            text: "a \"digest\":\"".into(),
        };
        let path = Path::new("x");
        let bytes = seal("refs/a", &document).unwrap();
        let read = |place: &str, bytes: &[u8]| open::<Document>(path, place, bytes);
        let opened = read("refs/a", &bytes).unwrap();
        assert!(opened.is_sealed);
        assert_eq!(opened.document, document);
        assert!(read("refs/b", &bytes).is_err());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(read("refs/a", &flipped).is_err(), "bit {bit} of {at}");
            }
            assert!(read("refs/a", &bytes[..at]).is_err(), "cut at {at}");
        }
        // What older versions wrote has no seal.
        let old = serde_json::to_vec(&document).unwrap();
        let opened = read("refs/b", &old).unwrap();
        assert!(!opened.is_sealed);
        assert_eq!(opened.document, document);
    }
}
