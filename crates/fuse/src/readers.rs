//! The threads that receive the kernel's requests and answer them: one, and a second while the disk is slow.
//!
//! As long as everything is in memory, two would only take turns, each to be woken from sleep. The second is started when
//! an answer has taken long, and waits aside when answers are fast again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::adapter::Adapter;
use crate::protocol::connection::{Connection, REQUEST_BYTES};
use crate::protocol::patience::{Patience, Shared};
use crate::protocol::request::Request;

/// An answer that took longer waited for the disk.
const SLOW: Duration = Duration::from_millis(1);

/// For so many requests after a slow one there is a second reader, so that the disk does not hold up all others.
const HELPED_REQUESTS: u32 = 64;

/// A reader's calls are not deep. Only the pages that are touched exist.
const STACK_BYTES: usize = 256 * 1024;

/// When so much memory may have been touched for answers, it is let go the next time that nobody asks.
const TIDY_AT_BYTES: usize = 512 * 1024;

/// What a request touches of the index, beside what it sends: the kernel maps 64 KiB at a time, of which some are there.
const TOUCHED_BYTES: usize = 16 * 1024;

/// What the readers of one connection share.
#[derive(Debug)]
pub(crate) struct Readers {
    connection: Connection,
    adapter: Adapter,
    patience: Shared,
    /// For how many requests more the second reader helps.
    helped: AtomicU32,
    /// The second reader, once there is one; none if it cannot be started.
    helper: OnceLock<Option<Thread>>,
    is_over: AtomicBool,
    /// Closed with the last of them.
    _running: io::PipeWriter,
}

/// The first reader.
pub(crate) type Running = JoinHandle<io::Result<()>>;

/// Starts to answer. `running` is closed when all is over: when the mount is gone, or the connection fails.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn start(connection: Connection, adapter: Adapter, running: io::PipeWriter) -> io::Result<Running> {
    let readers = Arc::new(Readers {
        connection,
        adapter,
        patience: Shared::new(),
        helped: AtomicU32::new(0),
        helper: OnceLock::new(),
        is_over: AtomicBool::new(false),
        _running: running,
    });
    spawn(move || {
        let result = Readers::read(&readers, || true);
        readers.is_over.store(true, Ordering::Relaxed);
        if let Some(Some(helper)) = readers.helper.get() {
            helper.unpark();
        }
        result
    })
}

fn spawn(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Running> {
    thread::Builder::new()
        .name("envfs-reader".into())
        .stack_size(STACK_BYTES)
        .spawn(work)
}

impl Readers {
    /// Answers one request after the other until the mount is gone, or it is not `wanted` any more.
    fn read(this: &Arc<Self>, wanted: impl Fn() -> bool) -> io::Result<()> {
        let mut buffer = Box::new([0; REQUEST_BYTES]);
        let mut scratch = Vec::new();
        let mut patience = Patience::default();
        let mut untidy_bytes = 0;
        while wanted() {
            patience.wait(&this.patience, &this.connection);
            if untidy_bytes >= TIDY_AT_BYTES && !this.connection.is_asked() {
                untidy_bytes = 0;
                scratch = Vec::new();
                this.adapter.tidy();
            }
            let Some(message) = this.connection.receive(&mut buffer)? else {
                break;
            };
            let Some(request) = Request::parse(message) else {
                continue;
            };
            let start = Instant::now();
            // Whatever goes wrong with one file, the others are served.
            let answered = catch_unwind(AssertUnwindSafe(|| {
                this.adapter.answer(&this.connection, &request, &mut scratch);
            }));
            if answered.is_err() {
                this.connection.refuse(request.unique, Errno::EIO);
            }
            untidy_bytes += TOUCHED_BYTES + scratch.len();
            this.note(start.elapsed());
        }
        Ok(())
    }

    /// Lets the second reader help for a while after an answer that took long.
    fn note(self: &Arc<Self>, took: Duration) {
        if took < SLOW {
            let less = |helped: u32| helped.checked_sub(1);
            let _ = self.helped.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            return;
        }
        self.helped.store(HELPED_REQUESTS, Ordering::Relaxed);
        let helper = self.helper.get_or_init(|| {
            let shared = Arc::clone(self);
            match spawn(move || Self::help(&shared)) {
                Ok(started) => Some(started.thread().clone()),
                Err(error) => {
                    tracing::debug!("one reader has to do: {error}");
                    None
                }
            }
        });
        if let Some(helper) = helper {
            helper.unpark();
        }
    }

    /// What the second reader does.
    fn help(this: &Arc<Self>) -> io::Result<()> {
        while !this.is_over.load(Ordering::Relaxed) {
            Self::read(this, || this.helped.load(Ordering::Relaxed) > 0)?;
            if this.is_over.load(Ordering::Relaxed) {
                break;
            }
            if this.helped.load(Ordering::Relaxed) == 0 {
                thread::park();
            }
        }
        Ok(())
    }
}
