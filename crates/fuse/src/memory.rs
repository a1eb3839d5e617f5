//! What a server must know of the one before it: what was agreed with the kernel, and which files the kernel reads itself.
//!
//! It lives in a file without a name (memfd_create(2)) that the keeper and all servers of a mount hold, so it survives each
//! of them and goes with the last. Each change is one write(2) below a page, which happens or does not.
//!
//! ```text
//! 0    "envfsmem"
//! 8    u32 1 once the kernel is agreed with   u32 passthrough   u32 resend   u32 0
//! 24   per registered file: u64 inode, 0 if the place is free; i32 backing id; u32 0
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::MFdFlags;

use crate::process::ProcessError;
use crate::protocol::connection::BackingId;
use crate::protocol::init::Agreed;

/// The first bytes: what follows is ours.
const MAGIC: [u8; 8] = *b"envfsmem";

/// Where the registered files start.
const RECORDS_OFFSET: u64 = 24;

const RECORD_BYTES: usize = 16;

/// The memory of one mount's servers.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
    /// How many records there are, free ones too. Of this process alone: a new server counts anew.
    records: AtomicU64,
}

/// A place for one registered file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u64);

/// A file that an earlier server has registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) inode: u64,
    pub(crate) id: BackingId,
    pub(crate) place: Place,
}

impl Memory {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        let file = File::from(nix::sys::memfd::memfd_create(c"envfs-server", MFdFlags::MFD_CLOEXEC)?);
        file.write_all_at(&MAGIC, 0)?;
        Ok(Self {
            file,
            records: AtomicU64::new(0),
        })
    }

    /// The same for another server.
    pub(crate) fn again(&self) -> Result<Self, ProcessError> {
        Ok(Self {
            file: self.file.try_clone().map_err(ProcessError::io("copy a descriptor"))?,
            records: AtomicU64::new(0),
        })
    }

    /// What was agreed, once it is.
    pub(crate) fn agreed(&self) -> Option<Agreed> {
        let mut bytes = [0; 12];
        self.file.read_exact_at(&mut bytes, 8).ok()?;
        let [is_agreed, passthrough, resend] = [0, 4, 8].map(|at| bytes[at..at + 4] != [0; 4]);
        is_agreed.then_some(Agreed { passthrough, resend })
    }

    /// Before the kernel hears of it: what was agreed.
    pub(crate) fn set_agreed(&self, agreed: Agreed) -> io::Result<()> {
        let words = [1, u32::from(agreed.passthrough), u32::from(agreed.resend), 0];
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        self.file.write_all_at(&bytes, 8)
    }

    /// The files that are registered.
    pub(crate) fn registered(&self) -> io::Result<Vec<Remembered>> {
        let len = self.file.metadata()?.len().saturating_sub(RECORDS_OFFSET);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0) / RECORD_BYTES * RECORD_BYTES];
        self.file.read_exact_at(&mut bytes, RECORDS_OFFSET)?;
        self.records
            .store((bytes.len() / RECORD_BYTES) as u64, Ordering::Relaxed);
        let records = bytes.as_chunks::<RECORD_BYTES>().0.iter().zip(0..);
        Ok(records
            .map(|(record, place)| Remembered {
                inode: u64::from_ne_bytes(*record.first_chunk().unwrap_or(&[0; 8])),
                id: BackingId(i32::from_ne_bytes([record[8], record[9], record[10], record[11]])),
                place: Place(place),
            })
            .filter(|record| record.inode != 0)
            .collect())
    }

    /// Notes a registered file, in `place` or a new one, before the kernel uses it for a program.
    pub(crate) fn remember(&self, inode: u64, id: BackingId, place: Option<Place>) -> io::Result<Place> {
        let place = place.unwrap_or_else(|| Place(self.records.fetch_add(1, Ordering::Relaxed)));
        self.write(place, inode, id)?;
        Ok(place)
    }

    /// Frees a place, before the registration is taken back.
    pub(crate) fn forget(&self, place: Place) -> io::Result<()> {
        self.write(place, 0, BackingId(0))
    }

    fn write(&self, place: Place, inode: u64, id: BackingId) -> io::Result<()> {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&inode.to_ne_bytes());
        record[8..12].copy_from_slice(&id.0.to_ne_bytes());
        self.file
            .write_all_at(&record, RECORDS_OFFSET + place.0 * RECORD_BYTES as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_server_knows_what_the_one_before_knew() {
        let memory = Memory::new().unwrap();
        assert_eq!(memory.agreed(), None);
        assert_eq!(memory.registered().unwrap(), []);
        let agreed = Agreed {
            passthrough: true,
            resend: false,
        };
        memory.set_agreed(agreed).unwrap();
        let first = memory.remember(7, BackingId(1), None).unwrap();
        let second = memory.remember(9, BackingId(2), None).unwrap();
        assert_eq!(memory.agreed(), Some(agreed));
        memory.forget(first).unwrap();
        let left = Remembered {
            inode: 9,
            id: BackingId(2),
            place: second,
        };
        assert_eq!(memory.registered().unwrap(), [left]);
        // A freed place is taken again, a new one is beyond all others.
        assert_eq!(memory.remember(11, BackingId(3), Some(first)).unwrap(), first);
        let third = memory.remember(13, BackingId(4), None).unwrap();
        assert_ne!(third, second);
        assert_eq!(memory.registered().unwrap().len(), 3);
    }
}
