//! A clock that says something else than the machine's, for the commands that are given it, and that can be put forward and back while
//! they run (libfaketime).
//!
//! Files are dated by the kernel as ever, as by a file server whose clock is right, and waiting takes as long as ever: only
//! what a program asks for, the time of day, is another.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::data::skip;

/// Where Debian's `libfaketime` puts the library for programs with threads, below a directory for each kind of machine.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// How far a clock is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// It is right.
    Right,
    /// It is ahead by so many days.
    AheadDays(u32),
    /// It is behind by so many days.
    BehindDays(u32),
    /// It stands where those without a battery begin: ten seconds after the beginning of 1970, and goes on from there.
    Begins,
}

/// A clock of its own.
pub struct Clock {
    library: PathBuf,
    setting: PathBuf,
}

impl Clock {
    /// A right one, whose setting is a file in `directory`; none, said loudly, where there is no library for it.
    ///
    /// # Panics
    /// When its setting cannot be written.
    #[must_use]
    pub fn new(directory: &Path, name: &str) -> Option<Self> {
        let machines = std::fs::read_dir(LIBRARIES).into_iter().flatten().flatten();
        let mut libraries = machines.map(|machine| machine.path().join(LIBRARY));
        let Some(library) = libraries.find(|library| library.exists()) else {
            skip("a clock that is wrong: libfaketime is not installed");
            return None;
        };
        let clock = Self {
            library,
            setting: directory.join(name),
        };
        clock.set(Off::Right);
        Some(clock)
    }

    /// Puts it there, also for programs that run.
    ///
    /// # Panics
    /// When its setting cannot be written.
    pub fn set(&self, off: Off) {
        let text = match off {
            Off::Right => "+0".to_owned(),
            Off::AheadDays(days) => format!("+{days}d"),
            Off::BehindDays(days) => format!("-{days}d"),
            Off::Begins => {
                let age = std::time::UNIX_EPOCH.elapsed().unwrap();
                format!("-{}", age.as_secs() - 10)
            }
        };
        // Whoever reads it finds the old or the new one.
        let draft = self.setting.with_extension("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, &self.setting).unwrap();
    }

    /// Puts it to each of these in turn, again and again, while `work` is done. Says how often it jumped.
    pub fn jumps<R>(&self, between: &[Off], work: impl FnOnce() -> R) -> (R, usize) {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let jumper = scope.spawn(|| {
                let mut jumps = 0;
                while !is_over.load(Ordering::Relaxed) {
                    self.set(between[jumps % between.len()]);
                    jumps += 1;
                    // Short beside what a command takes, and never the same.
                    std::thread::sleep(Duration::from_millis(3 + jumps as u64 * 7 % 23));
                }
                jumps
            });
            let ended = EndsWhenDropped(&is_over);
            let result = work();
            drop(ended);
            let jumps = jumper.join().unwrap();
            self.set(Off::Right);
            (result, jumps)
        })
    }

    /// What makes a command and all that it starts go by this clock.
    pub fn settings(&self) -> [(&'static str, std::ffi::OsString); 5] {
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.setting.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }

    /// Makes it go by this clock.
    pub fn rules<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.settings())
    }
}

/// Also when what is done meanwhile panics.
struct EndsWhenDropped<'a>(&'a AtomicBool);

impl Drop for EndsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
