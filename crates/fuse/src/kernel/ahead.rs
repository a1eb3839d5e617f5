//! Reading the files of a trace ahead of the program, in the background.
//!
//! A program that ends soon must not wait behind what a longer one would need. So at first a few files are read, and the
//! further the program comes, the further ahead of it. Where recorded runs differ, what all of them opened is read at once,
//! and more only when the program goes on beyond it.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use envfs_store::trace::Trace;

use crate::residency;

/// So many wait for the disk at once.
const THREADS: usize = 4;

/// So many files are read before the program has opened any: the interpreter and its libraries.
const FIRST_FILES: usize = 16;

/// No more files are read ahead of the program.
const WINDOW: usize = 768;

/// So many files, neighbours in the trace, are read in the order in which they lie on the disk.
const BATCH: usize = 128;

/// A file to be read.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Its place in the trace.
    pub(super) place: usize,
    pub(super) path: PathBuf,
    pub(super) pieces: Vec<Range<u64>>,
}

/// How far reading may go.
pub(super) struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
    /// How many files at the start of the trace are no sign that the program goes on.
    common: usize,
}

struct State {
    wanted: std::vec::IntoIter<Wanted>,
    /// The first place that is not to be read yet.
    limit: usize,
    is_over: bool,
}

impl Ahead {
    pub(super) fn new(trace: &Trace, mut wanted: Vec<Wanted>) -> Self {
        let common = Some(trace.common())
            .filter(|&common| common < trace.files.len())
            .unwrap_or_default();
        // Objects have a directory each two digits, small files one for each pack, in which their names are their order.
        wanted
            .chunks_mut(BATCH)
            .for_each(|batch| batch.sort_by(|a, b| a.path.cmp(&b.path)));
        Self {
            state: Mutex::new(State {
                wanted: wanted.into_iter(),
                limit: common.max(FIRST_FILES),
                is_over: false,
            }),
            changed: Condvar::new(),
            common,
        }
    }

    /// Reads with some threads while `watch` runs, which tells by [`Ahead::reached`] where the program is.
    pub(super) fn during<T>(&self, watch: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| self.read());
            }
            let result = watch();
            self.lock().is_over = true;
            self.changed.notify_all();
            result
        })
    }

    /// The program opened the file at `place` of the trace.
    pub(super) fn reached(&self, place: usize) {
        if place < self.common {
            return;
        }
        let mut state = self.lock();
        let limit = place + (place + FIRST_FILES).min(WINDOW);
        if limit > state.limit {
            state.limit = limit;
            drop(state);
            self.changed.notify_all();
        }
    }

    fn read(&self) {
        while let Some(wanted) = self.next() {
            if let Ok(file) = File::open(&wanted.path) {
                residency::read_ahead(&file, &wanted.pieces);
            }
        }
    }

    fn next(&self) -> Option<Wanted> {
        let mut state = self.lock();
        loop {
            let place = state.wanted.as_slice().first()?.place;
            if state.is_over {
                return None;
            }
            if place < state.limit {
                return state.wanted.next();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use envfs_store::trace::Opened;
    use envfs_store::tree::NodeId;

    use super::*;

    fn ahead(runs: &[usize]) -> Ahead {
        let mut trace = Trace::default();
        for &count in runs {
            let run: Vec<_> = (0..u32::try_from(count).unwrap())
                .map(|node| Opened {
                    node: NodeId(node),
                    pieces: Vec::new(),
                })
                .collect();
            trace.add(&run);
        }
        let wanted = (0..trace.files.len())
            .map(|place| Wanted {
                place,
                path: PathBuf::from("/nowhere"),
                pieces: Vec::new(),
            })
            .collect();
        Ahead::new(&trace, wanted)
    }

    /// How many files would be read without waiting.
    fn readable(ahead: &Ahead) -> usize {
        let state = ahead.lock();
        state
            .wanted
            .as_slice()
            .iter()
            .filter(|wanted| wanted.place < state.limit)
            .count()
    }

    #[test]
    fn the_further_the_program_comes_the_further_is_read() {
        let one = ahead(&[2000]);
        assert_eq!(readable(&one), FIRST_FILES);
        one.reached(9);
        assert_eq!(readable(&one), 18 + FIRST_FILES);
        one.reached(1100);
        assert_eq!(readable(&one), 1100 + WINDOW);
        one.reached(10);
        assert_eq!(readable(&one), 1100 + WINDOW);
    }

    #[test]
    fn what_all_runs_opened_is_no_sign_that_one_goes_on() {
        let two = ahead(&[2000, 120]);
        assert_eq!(readable(&two), 120);
        two.reached(119);
        assert_eq!(readable(&two), 120);
        two.reached(120);
        assert_eq!(readable(&two), 240 + FIRST_FILES);
    }

    #[test]
    fn reading_ends_with_the_watch() {
        let ahead = ahead(&[2000]);
        ahead.during(|| ahead.reached(3));
        assert!(readable(&ahead) <= 6 + FIRST_FILES);
    }
}
