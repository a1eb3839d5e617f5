//! What the first runs of an environment opened, in order: what the next cold start reads ahead. Drawn in
//! `docs/format.md`, "trace".
//!
//! A trace belongs to a tree, so that all who mount it share it. It is never the truth: without it, or with a wrong one,
//! a start is slower and nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::tree::NodeId;
use crate::wire::{self, Reader, Writer};

/// The first bytes of every trace, with the version. A reader ignores any other, so a change needs a new number.
const MAGIC: [u8; 8] = *b"envfstr1";

/// So many runs are recorded, then no more: programs that differ are in it, and recording ends.
pub const RECORDED_RUNS: u32 = 3;

/// No more files are kept, so that a trace is small (some 30 KB for an import of pandas).
pub const MAX_FILES: usize = 16_384;

/// No more pieces of one file are kept.
pub const MAX_PIECES: usize = 64;

/// What the runs of an environment opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// How many runs it is of.
    pub runs: u32,
    /// In the order in which they were opened first.
    pub files: Vec<TracedFile>,
}

/// One file of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedFile {
    /// Which one.
    pub node: NodeId,
    /// In how many runs it was opened.
    pub runs: u32,
    /// Which bytes of a large file were read, where that is known; else all may have been.
    pub pieces: Vec<Range<u64>>,
}

/// One file that a run opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Which one.
    pub node: NodeId,
    /// As [`TracedFile::pieces`].
    pub pieces: Vec<Range<u64>>,
}

impl Trace {
    /// The trace of the tree called `tree`, if there is one that can be read.
    #[must_use]
    pub fn load(store: &Store, tree: &Digest) -> Option<Self> {
        Self::parse(&std::fs::read(path(store, tree)).ok()?)
    }

    /// Keeps it for the tree called `tree`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn save(&self, store: &Store, tree: &Digest) -> Result<()> {
        durable::create_directory(&store.path("traces"))?;
        durable::write_evictable(&store.path("tmp"), &path(store, tree), &self.to_bytes())
    }

    /// Whether further runs are to be recorded.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.runs < RECORDED_RUNS
    }

    /// How many runs the trace of the tree called `tree` is of, by its first bytes alone, which nothing vouches for.
    #[must_use]
    pub fn runs_of(store: &Store, tree: &Digest) -> u32 {
        let read = || {
            let mut head = [0; MAGIC.len() + size_of::<u32>()];
            File::open(path(store, tree)).ok()?.read_exact(&mut head).ok()?;
            let mut fields = Reader::new(&head);
            (fields.array()? == MAGIC).then(|| fields.u32())?
        };
        read().unwrap_or(0)
    }

    /// Adds what one more run opened, each file once. What is new comes behind what that run opened before it.
    pub fn add(&mut self, run: &[Opened]) {
        let mut places: HashMap<NodeId, usize> = HashMap::new();
        for (place, file) in self.files.iter().enumerate() {
            places.insert(file.node, place);
        }
        let mut new: Vec<(usize, TracedFile)> = Vec::new();
        let mut behind = 0;
        for opened in run {
            if let Some(&place) = places.get(&opened.node) {
                let file = &mut self.files[place];
                file.runs = file.runs.saturating_add(1);
                file.add_pieces(&opened.pieces);
                behind = behind.max(place + 1);
            } else {
                let file = TracedFile {
                    node: opened.node,
                    runs: 1,
                    pieces: opened.pieces.clone(),
                };
                new.push((behind, file));
            }
        }
        new.sort_by_key(|(behind, _)| *behind);
        let mut new = new.into_iter().peekable();
        let mut merged = Vec::with_capacity(self.files.len() + new.len());
        for (place, file) in std::mem::take(&mut self.files).into_iter().enumerate() {
            while let Some((_, file)) = new.next_if(|(behind, _)| *behind <= place) {
                merged.push(file);
            }
            merged.push(file);
        }
        merged.extend(new.map(|(_, file)| file));
        merged.truncate(MAX_FILES);
        self.files = merged;
        self.runs = self.runs.saturating_add(1);
    }

    /// How many files at its start every run opened: what even the shortest needs.
    #[must_use]
    pub fn common(&self) -> usize {
        self.files.iter().take_while(|file| file.runs == self.runs).count()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&MAGIC);
        out.u32(self.runs);
        out.count(self.files.len());
        for file in &self.files {
            out.u32(file.node.0);
            out.u32(file.runs);
            out.count(file.pieces.len());
            for piece in &file.pieces {
                out.u64(piece.start);
                out.u64(piece.end);
            }
        }
        wire::with_digest(out.finish())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(wire::without_digest(bytes)?);
        if fields.array()? != MAGIC {
            return None;
        }
        let runs = fields.u32()?;
        let count = fields.count(12)?;
        let files = (0..count)
            .map(|_| TracedFile::parse(&mut fields))
            .collect::<Option<_>>()?;
        fields.is_empty().then_some(Self { runs, files })
    }
}

impl TracedFile {
    /// Two runs need what either needed. Of a run that does not know, what the other knows is taken.
    fn add_pieces(&mut self, pieces: &[Range<u64>]) {
        let mut all: Vec<Range<u64>> = self.pieces.iter().chain(pieces).cloned().collect();
        all.sort_by_key(|piece| piece.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for piece in all {
            match merged.last_mut() {
                Some(last) if last.end >= piece.start => last.end = last.end.max(piece.end),
                _ => merged.push(piece),
            }
        }
        merged.truncate(MAX_PIECES);
        self.pieces = merged;
    }

    fn parse(fields: &mut Reader<'_>) -> Option<Self> {
        let (node, runs) = (NodeId(fields.u32()?), fields.u32()?);
        let count = fields.count(16).filter(|&count| count <= MAX_PIECES)?;
        let pieces = (0..count)
            .map(|_| Some(fields.u64()?..fields.u64()?))
            .collect::<Option<_>>()?;
        Some(Self { node, runs, pieces })
    }
}

/// Forgets the trace of the tree called `tree`. Says whether there was one.
///
/// # Errors
/// When the store cannot be written.
pub fn reset(store: &Store, tree: &Digest) -> Result<bool, Error> {
    let path = path(store, tree);
    let was_there = path.exists();
    durable::remove(&path)?;
    Ok(was_there)
}

/// Checks the traces of this store, and gives each that is damaged.
pub(crate) fn damaged(store: &Store) -> Result<(u64, Vec<Error>)> {
    let paths = crate::store::list(&store.path("traces"))?;
    let is_damaged = |path: &&PathBuf| std::fs::read(path).is_ok_and(|bytes| Trace::parse(&bytes).is_none());
    let damaged = paths.iter().filter(is_damaged);
    let errors = damaged.map(|path| Error::corrupt(path, "it is no trace")).collect();
    Ok((paths.len() as u64, errors))
}

/// Removes the traces of trees that are not in their places.
pub(crate) fn sweep(store: &Store) -> Result<(), Error> {
    for path in crate::store::list(&store.path("traces"))? {
        let tree = path.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok());
        if tree.is_none_or(|tree| !store.tree_path(&tree).exists()) {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

fn path(store: &Store, tree: &Digest) -> PathBuf {
    store.path("traces").join(tree.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_was_recorded_for_ever_is_no_failure() {
        let mut trace = Trace {
            runs: u32::MAX,
            files: Vec::new(),
        };
        trace.add(&[]);
        assert_eq!(trace.runs, u32::MAX);
    }

    fn run(nodes: &[u32]) -> Vec<Opened> {
        nodes
            .iter()
            .map(|&node| Opened {
                node: NodeId(node),
                pieces: Vec::new(),
            })
            .collect()
    }

    fn order(trace: &Trace) -> Vec<u32> {
        trace.files.iter().map(|file| file.node.0).collect()
    }

    #[test]
    fn runs_are_merged_in_their_order() {
        let mut trace = Trace::default();
        assert!(trace.wants_more());
        trace.add(&run(&[1, 2, 5, 9]));
        trace.add(&run(&[1, 2, 3, 4, 9, 8]));
        assert_eq!(order(&trace), [1, 2, 3, 4, 5, 9, 8]);
        assert_eq!((trace.common(), trace.runs), (2, 2));
        trace.add(&run(&[7]));
        assert_eq!((order(&trace)[0], trace.common()), (7, 0));
        assert!(!trace.wants_more());
    }

    #[test]
    fn pieces_of_a_file_are_those_of_all_runs() {
        let opened = |pieces: &[Range<u64>]| {
            vec![Opened {
                node: NodeId(1),
                pieces: pieces.to_vec(),
            }]
        };
        let mut trace = Trace::default();
        for pieces in [&[0..10, 50..60][..], &[], &[5..20, 40..50]] {
            trace.add(&opened(pieces));
        }
        assert_eq!(trace.files[0].pieces, [0..20, 40..60]);
    }

    #[test]
    fn a_trace_is_kept_and_a_damaged_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let tree = Digest::of(b"tree");
        assert_eq!(Trace::load(&store, &tree), None);
        let mut trace = Trace::default();
        trace.add(&run(&[3, 1]));
        trace.files[0].pieces.push(7..9);
        trace.save(&store, &tree).unwrap();
        assert_eq!(Trace::load(&store, &tree), Some(trace.clone()));
        let bytes = trace.to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Trace::parse(&damaged), None, "flipped at {at}");
            assert_eq!(Trace::parse(&bytes[..at]), None, "cut at {at}");
        }
        assert!(reset(&store, &tree).unwrap());
        assert!(!reset(&store, &tree).unwrap());
        assert_eq!(Trace::load(&store, &tree), None);
    }
}
