//! Tars written block by block, with headers that lie.

/// The bytes of a tar, without its end.
#[derive(Clone, Default)]
pub(super) struct Blocks(Vec<u8>);

/// A header to be filled in: a regular file of no bytes.
pub(super) fn header(kind: u8, name: &[u8]) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header
}

impl Blocks {
    /// The same with a header whose sum is right, and content that is filled up.
    pub(super) fn with(mut self, mut header: tar::Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.raw(content)
    }

    /// The same with a regular file that says how large it is.
    pub(super) fn file(self, name: &[u8], content: &[u8]) -> Self {
        let mut header = header(b'0', name);
        header.set_size(content.len() as u64);
        self.with(header, content)
    }

    /// The same with an entry without content; `link` may be empty.
    pub(super) fn entry(self, kind: u8, name: &[u8], link: &[u8]) -> Self {
        let mut header = header(kind, name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        self.with(header, b"")
    }

    /// The same with an extension (`L`, `K`, `x`, `g`).
    pub(super) fn extension(self, kind: u8, content: &[u8]) -> Self {
        let mut header = header(kind, b"extension");
        header.set_size(content.len() as u64);
        self.with(header, content)
    }

    /// The same with an extended header (pax).
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.extension(b'x', &content)
    }

    /// The same with bytes, filled up to a whole block.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The tar, with its end.
    pub(super) fn ended(&self) -> Vec<u8> {
        [self.0.as_slice(), &[0; 1024]].concat()
    }

    /// The tar, cut off or going on as it is.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A record of an extended header: it starts with its own length.
pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}
