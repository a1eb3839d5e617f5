//! Waiting for the next request without going to sleep too early: to wake a sleeping process takes the kernel several times
//! as long as to answer, and requests come in runs.
//!
//! Nobody else may pay for it: one thread at a time waits awake, for less than it takes to wake it, only while a processor
//! has nothing else to do, and less and less often where no request comes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::connection::Connection;

/// How long to wait awake. Longer cost others more than it gave (FUSE requests of a program follow each other within 5 to
/// 30 us).
const LIMIT: Duration = Duration::from_micros(40);

/// After how many waits to look again whether a processor is idle.
const LOOK_EVERY: u32 = 8;

/// How many waits are left out at most after those in which nothing came.
const MAX_LEFT_OUT: u32 = 32;

/// What the threads of one server share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Whether one of them waits awake.
    is_taken: AtomicBool,
    /// `/proc/loadavg`, whose fourth field says how many processes want to run (proc_loadavg(5)).
    load: Option<File>,
    processors: u32,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            is_taken: AtomicBool::new(false),
            load: File::open("/proc/loadavg").ok(),
            processors: u32::try_from(processors).unwrap_or(u32::MAX),
        }
    }

    /// Whether there are processors for all that want to run, this thread among them.
    fn has_idle_processor(&self) -> bool {
        let mut text = [0; 64];
        let running = self
            .load
            .as_ref()
            .and_then(|load| load.read_at(&mut text, 0).ok())
            .and_then(|len| running(&text[..len]));
        self.processors > 1 && running.is_some_and(|running| running <= self.processors)
    }
}

/// What one thread knows of its last waits.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    waits: u32,
    is_allowed: bool,
    left_out: u32,
    to_leave_out: u32,
}

impl Patience {
    /// Waits a little for a request, if that is likely to be worth it. The thread may then go to sleep.
    pub(crate) fn wait(&mut self, shared: &Shared, connection: &Connection) {
        if self.left_out < self.to_leave_out {
            self.left_out += 1;
            return;
        }
        if self.waits.is_multiple_of(LOOK_EVERY) {
            self.is_allowed = shared.has_idle_processor();
        }
        self.waits = self.waits.wrapping_add(1);
        if !self.is_allowed || shared.is_taken.swap(true, Ordering::Acquire) {
            return;
        }
        let start = Instant::now();
        let came = loop {
            if connection.is_asked() {
                break true;
            }
            if start.elapsed() > LIMIT {
                break false;
            }
            std::hint::spin_loop();
        };
        shared.is_taken.store(false, Ordering::Release);
        self.left_out = 0;
        self.to_leave_out = if came {
            0
        } else {
            (self.to_leave_out * 2 + 1).min(MAX_LEFT_OUT)
        };
    }
}

/// How many processes want to run, as `/proc/loadavg` says.
pub(crate) fn running(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    text.split(' ').nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_says_how_many_want_to_run() {
        assert_eq!(running(b"0.20 0.18 0.12 1/80 11206\n"), Some(1));
        assert_eq!(running(b"0.20 0.18"), None);
        assert_eq!(running(b""), None);
        assert!(running(&std::fs::read("/proc/loadavg").unwrap()).is_some());
    }
}
