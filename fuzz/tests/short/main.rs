//! All targets in short, where there is no engine: bytes that are right, what fuzzing has kept, and thousands that are nearly so,
//! the same in every run.
//!
//! `ENVFS_TEST_FUZZ_ROUNDS` says how many are made of them for each target; `ENVFS_FUZZ_CORPUS` names a directory into which
//! those that are right are written, for libFuzzer to start from.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const ROUNDS: usize = 300;

#[test]
fn no_bytes_make_a_reader_panic() {
    let rounds = std::env::var("ENVFS_TEST_FUZZ_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    for (name, target) in envfs_fuzz::TARGETS {
        let mut seeds = seeds::of(name);
        assert!(!seeds.is_empty(), "{name} has nothing to start from");
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut kept = envfs_tests::program::files_below(&kept);
        kept.sort();
        seeds.extend(kept.iter().map(|path| std::fs::read(path).unwrap()));
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let changed = (0..rounds.unwrap_or(ROUNDS))
            .map(|_| random.changed(&seeds))
            .collect::<Vec<_>>();
        for (number, bytes) in seeds.iter().chain(&changed).enumerate() {
            if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
                let kept = std::env::temp_dir().join(format!("envfs-fuzz-{name}-{number}"));
                std::fs::write(&kept, bytes).unwrap();
                panic!("{name} panics at the bytes in {}", kept.display());
            }
        }
    }
}

#[test]
fn the_corpus_is_written_where_it_is_wanted() {
    let Some(corpus) = std::env::var_os("ENVFS_FUZZ_CORPUS") else {
        return;
    };
    for (name, _) in envfs_fuzz::TARGETS {
        let directory = Path::new(&corpus).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (number, bytes) in seeds::of(name).iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number}")), bytes).unwrap();
        }
    }
}

/// Numbers that look random (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 1).unwrap() % end.max(1)
    }

    /// One of the seeds with a few changes, as a fuzzer makes them.
    fn changed(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            let len = self.below(64.min(bytes.len() - at + 1));
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)],
                2 => drop(bytes.drain(at..at + len)),
                3 => {
                    let piece = bytes[at..at + len].to_vec();
                    bytes.splice(at..at, piece);
                }
                4 => {
                    let number = [0, 1, u32::MAX, 1 << 31, 0x7FFF_FFFF][self.below(5)].to_le_bytes();
                    bytes
                        .iter_mut()
                        .skip(at)
                        .zip(number)
                        .for_each(|(byte, new)| *byte = new);
                }
                5 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    bytes.truncate(at);
                    bytes.extend(&other[from..]);
                }
                _ => bytes.truncate(bytes.len() - len.min(bytes.len())),
            }
        }
        bytes
    }
}
