//! What servers of one mount write down for the one that takes their place if they are killed: lines, in their order.
//!
//! Like [`crate::memory`] it lives in a file without a name (memfd_create(2)) that the keeper and all servers hold, so it survives each
//! of them and goes with the last. A server may be killed while it writes: what does not parse was told to nobody, and counts for nothing.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::MFdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The journal of one mount's servers.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        let file = nix::sys::memfd::memfd_create(c"envfs-journal", MFdFlags::MFD_CLOEXEC)?;
        Ok(Self { file: file.into() })
    }

    /// The same, for another server or another part of this one: all write behind what is there.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
        })
    }

    /// Writes a line down, before anybody relies on it.
    pub(crate) fn add(&self, line: &impl Serialize) -> io::Result<()> {
        // Also behind half a line of who was killed.
        let mut text = b"\n".to_vec();
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        // One descriptor behind all copies: it stands at the end.
        (&self.file).write_all(&text)
    }

    /// All lines.
    pub(crate) fn lines<T: DeserializeOwned>(&self) -> io::Result<Vec<T>> {
        let mut text = vec![0; usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut text, 0)?;
        let lines = text.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_it_adds_behind_the_others() {
        let journal = Journal::new().unwrap();
        assert_eq!(journal.lines::<String>().unwrap(), Vec::<String>::new());
        journal.add(&"first").unwrap();
        let other = journal.again().unwrap();
        assert_eq!(other.lines::<String>().unwrap(), ["first"]);
        other.add(&"second\nline").unwrap();
        journal.add(&"third").unwrap();
        assert_eq!(other.lines::<String>().unwrap(), ["first", "second\nline", "third"]);
        // Killed in the middle of one.
        (&other.file).write_all(b"\n\"four").unwrap();
        journal.add(&"fifth").unwrap();
        assert_eq!(
            other.lines::<String>().unwrap(),
            ["first", "second\nline", "third", "fifth"]
        );
    }
}
