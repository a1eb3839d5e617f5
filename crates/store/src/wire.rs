//! Little-endian bytes with lengths before what varies: how layers, pack indexes and placeholder tables are
//! written, and read back from files that cannot be trusted.

use crate::digest::Digest;

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

/// Reads fields; `None` wherever the bytes end too early.
#[derive(Clone)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// A count of things that follow.
    ///
    /// # Panics
    /// At more than 4,294,967,295 of them, which the limits of everything written here exclude.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("counts are bounded before they are written"));
    }

    /// A length and the bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// How much [`with_digest`] adds.
pub(crate) const DIGEST_BYTES: usize = 32;

/// `content`, and after it its digest, by which [`without_digest`] tells that no byte is lost or changed.
pub(crate) fn with_digest(mut content: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(&content);
    content.extend(digest.as_bytes());
    content
}

/// What [`with_digest`] was given, if `bytes` still are what it made of that.
pub(crate) fn without_digest(bytes: &[u8]) -> Option<&[u8]> {
    let (content, digest) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
    (Digest::of(content) == Digest::from_bytes(*digest)).then_some(content)
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn raw(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A count of things that follow, each at least `min_size` bytes: a count that cannot be true is refused
    /// before anything is allocated for it.
    pub(crate) fn count(&mut self, min_size: usize) -> Option<usize> {
        let count = usize::try_from(self.u32()?).ok()?;
        (count.checked_mul(min_size)? <= self.0.len()).then_some(count)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.count(1)?;
        self.raw(len)
    }

    pub(crate) fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_owned()).ok()
    }
}
