//! The threads that receive the kernel's requests and answer them: one, and a second as soon as the first may be kept by
//! the disk.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;

use crate::adapter::Adapter;
use crate::process;
use crate::protocol::connection::{Connection, REQUEST_BYTES};
use crate::protocol::patience::{Patience, Shared};
use crate::protocol::request::{Operation, Request};

/// Two, so that one read from a slow disk does not hold up all others.
const MAX_READERS: usize = 2;

/// A reader's calls are not deep. Only the pages that are touched exist.
const STACK_BYTES: usize = 256 * 1024;

/// After so many requests, the next time that nobody asks, what was needed to answer them is let go.
const TIDY_EVERY: u32 = 256;

/// What all readers of one connection share.
#[derive(Debug)]
pub(crate) struct Readers {
    connection: Connection,
    adapter: Adapter,
    patience: Shared,
    /// How many there are.
    count: AtomicUsize,
    /// How many of them wait for a request.
    waiting: AtomicUsize,
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
    Readers::start_one(&Arc::new(Readers {
        connection,
        adapter,
        patience: Shared::new(),
        count: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
        _running: running,
    }))
}

impl Readers {
    fn start_one(this: &Arc<Self>) -> io::Result<Running> {
        this.count.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(this);
        let started = thread::Builder::new()
            .name("envfs-reader".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let result = Self::read(&shared);
                shared.count.fetch_sub(1, Ordering::Relaxed);
                result
            });
        if started.is_err() {
            this.count.fetch_sub(1, Ordering::Relaxed);
        }
        started
    }

    /// Answers one request after the other until the mount is gone.
    fn read(this: &Arc<Self>) -> io::Result<()> {
        let mut buffer = Box::new([0; REQUEST_BYTES]);
        let mut scratch = Vec::new();
        let mut patience = Patience::default();
        let mut untidy = 0;
        loop {
            this.waiting.fetch_add(1, Ordering::Relaxed);
            patience.wait(&this.patience, &this.connection);
            if untidy >= TIDY_EVERY && !this.connection.is_asked() {
                untidy = 0;
                this.tidy(&mut scratch);
            }
            let received = this.connection.receive(&mut buffer);
            this.waiting.fetch_sub(1, Ordering::Relaxed);
            let Some(message) = received? else { return Ok(()) };
            let Some(request) = Request::parse(message) else {
                continue;
            };
            untidy += 1;
            this.let_others_answer(&request);
            // Whatever goes wrong with one file, the others are served.
            let answered = catch_unwind(AssertUnwindSafe(|| {
                this.adapter.answer(&this.connection, &request, &mut scratch);
            }));
            if answered.is_err() {
                this.connection.refuse(request.unique, Errno::EIO);
            }
        }
    }

    /// Starts another reader if this one may have to wait for the disk, and nobody else would answer meanwhile.
    fn let_others_answer(self: &Arc<Self>, request: &Request<'_>) {
        let may_wait = matches!(
            request.operation,
            Operation::Read(_) | Operation::Open | Operation::GetXattr { .. }
        );
        if may_wait
            && self.waiting.load(Ordering::Relaxed) == 0
            && self.count.load(Ordering::Relaxed) < MAX_READERS
            && let Err(error) = Self::start_one(self)
        {
            tracing::debug!("one reader has to do: {error}");
        }
    }

    /// Gives back the memory that only a run of requests needs.
    fn tidy(&self, scratch: &mut Vec<u8>) {
        *scratch = Vec::new();
        self.adapter.tidy();
        process::trim_heap();
    }
}
