//! The prefix replaced on read: what a file looks like at a prefix, by the offsets recorded at ingest.
//!
//! The rules are those of conda's installers, followed to the byte. A text changes its length with every
//! occurrence; in a binary the rest of a C string moves forward and the gap before its NUL is filled with NUL, so
//! that nothing else moves. Nothing is searched here, and every function is total: an offset that cannot be true
//! gives an error, never a panic and never a byte from elsewhere.

use std::ops::Range;

use crate::placeholder::{Encoding, Occurrences, Placeholder};
use crate::shebang;

/// The placeholder of a file cannot be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The target is longer than the placeholder, and a binary has no room for it.
    #[error("the prefix of {target_bytes} bytes does not fit: the file has room for {max_bytes}")]
    PrefixTooLong {
        /// The length that was asked for.
        target_bytes: usize,
        /// The length that fits.
        max_bytes: usize,
    },
    /// The recorded offsets contradict each other or the size of the file.
    #[error("the recorded placeholder offsets do not fit the file")]
    BadOffsets,
}

/// A file as it looks at one prefix: pieces of the stored bytes and of the target, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pieces: Vec<Piece>,
    literals: Vec<u8>,
    size_bytes: u64,
}

/// Some bytes of the patched file, up to where the next piece starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Where it starts in the patched file.
    start: u64,
    from: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The stored file, from this offset.
    Stored(u64),
    /// [`Plan::literals`], from this offset.
    Literal(u64),
    Zeros,
}

impl Plan {
    /// Plans how the stored file of `stored_bytes` bytes looks at the prefix `target`.
    ///
    /// # Errors
    /// When the target does not fit into a binary, or the recorded offsets are not ascending inside the file.
    pub fn new(placeholder: &Placeholder, stored_bytes: u64, target: &str) -> Result<Self, PatchError> {
        let mut plan = Planner::new(&placeholder.prefix, target);
        match &placeholder.occurrences {
            Occurrences::Text { shebang, occurrences } => {
                plan.literal(&shebang::replace(shebang, &placeholder.prefix, target));
                plan.stored_until = shebang.len() as u64;
                for occurrence in occurrences {
                    plan.occurrence(occurrence.encoding, occurrence.offset_bytes)?;
                }
            }
            Occurrences::Binary { strings } => {
                for string in strings {
                    let gap = plan.gap_bytes(string.encoding)?;
                    for &offset in &string.offsets_bytes {
                        plan.occurrence(string.encoding, offset)?;
                    }
                    plan.stored(string.end_bytes)?;
                    plan.zeros(gap.saturating_mul(string.offsets_bytes.len() as u64));
                }
            }
        }
        plan.stored(stored_bytes)?;
        Ok(plan.finish())
    }

    /// The size of the patched file.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether the patched file has in `range` the bytes that the stored one has there.
    #[must_use]
    pub fn is_stored(&self, range: &Range<u64>) -> bool {
        let first = self.pieces.partition_point(|piece| piece.start <= range.start);
        let covering = &self.pieces[first.saturating_sub(1)..];
        covering
            .iter()
            .take_while(|piece| piece.start < range.end)
            .all(|piece| piece.from == Source::Stored(piece.start))
    }

    /// Fills `buffer` with the patched file from `offset`, reading the stored file through `read_stored(offset,
    /// buffer)`, which must fill the whole buffer. Returns how many bytes were there before the end of the file.
    ///
    /// # Errors
    /// What `read_stored` returns.
    pub fn read<E>(
        &self,
        offset: u64,
        buffer: &mut [u8],
        mut read_stored: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let wanted = usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buffer.len().min(wanted);
        let mut at = offset;
        let mut rest = &mut buffer[..len];
        let mut index = self
            .pieces
            .partition_point(|piece| piece.start <= offset)
            .saturating_sub(1);
        while !rest.is_empty() {
            let Some(piece) = self.pieces.get(index) else { break };
            let end = self.pieces.get(index + 1).map_or(self.size_bytes, |next| next.start);
            let available = usize::try_from(end - at).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(available.min(rest.len()));
            let inside = at - piece.start;
            match piece.from {
                Source::Stored(from) => read_stored(from + inside, now)?,
                Source::Literal(from) => {
                    let from = usize::try_from(from + inside).unwrap_or(usize::MAX);
                    now.copy_from_slice(&self.literals[from..from + now.len()]);
                }
                Source::Zeros => now.fill(0),
            }
            at += now.len() as u64;
            rest = later;
            index += 1;
        }
        Ok(len)
    }
}

/// The size of the patched file, without planning it.
///
/// # Errors
/// When the recorded offsets would make the size negative.
pub fn size_bytes(placeholder: &Placeholder, stored_bytes: u64, target: &str) -> Result<u64, PatchError> {
    let Occurrences::Text { shebang, occurrences } = &placeholder.occurrences else {
        return Ok(stored_bytes);
    };
    let mut size = i128::from(stored_bytes);
    size += shebang::replace(shebang, &placeholder.prefix, target).len() as i128 - shebang.len() as i128;
    let mut lengths = EncodedPair::cache(&placeholder.prefix, target);
    for occurrence in occurrences {
        let pair = lengths.get(occurrence.encoding);
        size += pair.target.len() as i128 - pair.placeholder_bytes as i128;
    }
    u64::try_from(size).map_err(|_| PatchError::BadOffsets)
}

/// Placeholder and target in one encoding.
struct EncodedPair {
    encoding: Encoding,
    placeholder_bytes: u64,
    target: Vec<u8>,
}

/// The pairs that were needed so far; nearly always one.
struct PairCache<'a> {
    placeholder: &'a str,
    target: &'a str,
    pairs: Vec<EncodedPair>,
}

impl EncodedPair {
    fn cache<'a>(placeholder: &'a str, target: &'a str) -> PairCache<'a> {
        PairCache {
            placeholder,
            target,
            pairs: Vec::new(),
        }
    }
}

impl PairCache<'_> {
    fn get(&mut self, encoding: Encoding) -> &EncodedPair {
        let index = match self.pairs.iter().position(|pair| pair.encoding == encoding) {
            Some(index) => index,
            None => {
                self.pairs.push(EncodedPair {
                    encoding,
                    placeholder_bytes: encoding.encode(self.placeholder).len() as u64,
                    target: encoding.encode(self.target),
                });
                self.pairs.len() - 1
            }
        };
        &self.pairs[index]
    }
}

/// Lays the pieces of a plan one behind the other.
struct Planner<'a> {
    pairs: PairCache<'a>,
    plan: Plan,
    /// How much of the stored file has been laid out or replaced.
    stored_until: u64,
}

impl<'a> Planner<'a> {
    fn new(placeholder: &'a str, target: &'a str) -> Self {
        Self {
            pairs: EncodedPair::cache(placeholder, target),
            plan: Plan {
                pieces: Vec::new(),
                literals: Vec::new(),
                size_bytes: 0,
            },
            stored_until: 0,
        }
    }

    /// The stored bytes up to `end`.
    fn stored(&mut self, end: u64) -> Result<(), PatchError> {
        let len = end.checked_sub(self.stored_until).ok_or(PatchError::BadOffsets)?;
        self.push(Source::Stored(self.stored_until), len);
        self.stored_until = end;
        Ok(())
    }

    /// The stored bytes up to an occurrence, and the target in its place.
    fn occurrence(&mut self, encoding: Encoding, offset: u64) -> Result<(), PatchError> {
        self.stored(offset)?;
        let pair = self.pairs.get(encoding);
        let placeholder_bytes = pair.placeholder_bytes;
        let from = self.plan.literals.len() as u64;
        let len = pair.target.len() as u64;
        self.plan.literals.extend(&pair.target);
        self.push(Source::Literal(from), len);
        self.stored_until = offset.checked_add(placeholder_bytes).ok_or(PatchError::BadOffsets)?;
        Ok(())
    }

    fn literal(&mut self, bytes: &[u8]) {
        let from = self.plan.literals.len() as u64;
        self.plan.literals.extend(bytes);
        self.push(Source::Literal(from), bytes.len() as u64);
    }

    fn zeros(&mut self, len: u64) {
        self.push(Source::Zeros, len);
    }

    /// What one occurrence in a binary leaves to be filled.
    fn gap_bytes(&mut self, encoding: Encoding) -> Result<u64, PatchError> {
        let pair = self.pairs.get(encoding);
        let target_bytes = pair.target.len() as u64;
        pair.placeholder_bytes
            .checked_sub(target_bytes)
            .ok_or(PatchError::PrefixTooLong {
                target_bytes: self.pairs.target.len(),
                max_bytes: self.pairs.placeholder.len(),
            })
    }

    fn push(&mut self, from: Source, len: u64) {
        if len > 0 {
            self.plan.pieces.push(Piece {
                start: self.plan.size_bytes,
                from,
            });
            self.plan.size_bytes = self.plan.size_bytes.saturating_add(len);
        }
    }

    fn finish(self) -> Plan {
        self.plan
    }
}

#[cfg(test)]
mod tests;
