//! What goes along with the start of a program on a mount that the kernel serves: a process that notes what is opened, for
//! the first runs of an environment, and reads ahead what earlier runs opened, where memory is cold. It ends by itself.
//!
//! Opens are seen by fanotify(7): the program is not stopped, and pays about a microsecond for each. Where that is not
//! possible nothing is noted, and nothing fails.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use envfs_store::store::Location;
use envfs_store::trace::{self, MAX_FILES, Opened, Trace};
use envfs_store::tree::{NodeId, Tree};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::ahead::{Ahead, Wanted};
use super::{KernelError, Overlay, erofs};
use crate::causes::with_causes;
use crate::keep::{self, Attached};
use crate::process;
use crate::residency;
use crate::service::Service;

/// How long the first open is waited for.
const FIRST_LIMIT: Duration = Duration::from_secs(60);

/// A program that has opened nothing for so long has started.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// It is not watched longer than this.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);

/// A process that goes along with a run, until this is dropped. It then notes what it saw and ends: nobody waits for it, because the
/// kernel takes some ten milliseconds to let go of what watches opens.
#[derive(Debug)]
pub(crate) struct Companion {
    /// Its end is the sign.
    _sign: io::PipeWriter,
}

/// Starts a process that goes along with what is started on `overlay`, the mount of `service`, if there is something to do,
/// until the mount is gone. To be called before the mount is attached, so that nothing is missed; what is returned is to be dropped
/// when it is. Only before threads are started.
pub(crate) fn accompany_mount(service: &Service, overlay: &Overlay) -> Option<io::PipeWriter> {
    let (attached, attaching) = io::pipe().ok()?;
    accompany(service, overlay, End::Unmounted(attached), &[attaching.as_fd()])?;
    Some(attaching)
}

/// The same for a run, until what is returned is dropped or this process ends.
pub(crate) fn accompany_run(service: &Service, overlay: &Overlay) -> Option<Companion> {
    let (end, sign) = io::pipe().ok()?;
    accompany(service, overlay, End::Dismissed(end), &[sign.as_fd()])?;
    Some(Companion { _sign: sign })
}

fn accompany(service: &Service, overlay: &Overlay, end: End, let_go: &[BorrowedFd<'_>]) -> Option<Pid> {
    // A start without company is slower when it is cold, and nothing else.
    let failed = |error: &dyn std::error::Error| tracing::info!("not accompanied: {}", with_causes(error));
    let company = Company::of(service, overlay, end)
        .inspect_err(|error| failed(error))
        .ok()??;
    let let_go: Vec<_> = let_go.iter().copied().chain([overlay.mount.as_fd()]).collect();
    let spawned = process::spawn(&let_go, || u8::from(company.run().is_err()));
    spawned.inspect_err(|error| failed(error)).ok()
}

/// What ends the process, beside the end of the start.
enum End {
    /// The mount is not there any more, once the other end of this pipe is closed.
    Unmounted(io::PipeReader),
    /// The other end of this pipe is closed.
    Dismissed(io::PipeReader),
}

struct Company<'a> {
    service: &'a Service,
    overlay: &'a Overlay,
    /// The image of the names.
    image: Vec<u8>,
    is_cold: bool,
    opens: Fanotify,
    end: End,
}

impl<'a> Company<'a> {
    /// None where there is nothing to do.
    fn of(service: &'a Service, overlay: &'a Overlay, end: End) -> Result<Option<Self>, KernelError> {
        let runs = Trace::runs_of(&service.store, &service.tree);
        // The names are read by every start.
        let is_cold = runs > 0 && File::open(&overlay.image).is_ok_and(|image| residency::is_cold(&image));
        if !is_cold && runs >= trace::RECORDED_RUNS {
            return Ok(None);
        }
        let watch = || -> nix::Result<Fanotify> {
            let flags = InitFlags::FAN_CLASS_NOTIF
                | InitFlags::FAN_CLOEXEC
                | InitFlags::FAN_NONBLOCK
                | InitFlags::FAN_UNLIMITED_QUEUE;
            let event_flags = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC;
            let opens = Fanotify::init(flags, event_flags)?;
            let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
            opens.mark(mark, MaskFlags::FAN_OPEN, &overlay.mount, Some(Path::new(".")))?;
            Ok(opens)
        };
        let opens = watch().map_err(|errno| super::Refused {
            action: "see what is opened",
            file_system: "fanotify",
            source: errno.into(),
        })?;
        Ok(Some(Self {
            service,
            overlay,
            image: Vec::new(),
            is_cold,
            opens,
            end,
        }))
    }

    fn run(mut self) -> Result<(), KernelError> {
        let _ = SigSet::empty().thread_set_mask();
        let _ = keep::go_to_background(None);
        let mut kept = vec![self.opens.as_fd()];
        let (End::Dismissed(end) | End::Unmounted(end)) = &self.end;
        kept.push(end.as_fd());
        let _ = process::close_all_but(&kept);
        self.image = std::fs::read(&self.overlay.image).unwrap_or_default();
        let mut run = Run::default();
        if self.is_cold {
            let trace = Trace::load(&self.service.store, &self.service.tree).unwrap_or_default();
            let ahead = Ahead::new(&trace, self.wanted(&trace));
            let places: HashMap<NodeId, usize> = trace.files.iter().map(|file| file.node).zip(0..).collect();
            ahead.during(|| {
                self.watch(&mut run, |node| {
                    if let Some(&place) = places.get(&node) {
                        ahead.reached(place);
                    }
                });
            });
        } else {
            self.watch(&mut run, |_| {});
        }
        self.note(run)
    }

    /// The files of the trace, with their paths.
    fn wanted(&self, trace: &Trace) -> Vec<Wanted> {
        let tree = self.tree();
        let mut wanted = Vec::new();
        for (place, file) in trace.files.iter().enumerate() {
            // Of another tree, or damaged: it helps nobody, and harms nobody.
            if let Ok(node) = tree.node(file.node)
                && let Ok(Some(path)) = self.overlay.cache.content_file(node)
            {
                let pieces = file.pieces.clone();
                wanted.push(Wanted { place, path, pieces });
            }
        }
        wanted
    }

    /// Notes what is opened until the program has started. Calls `opened` for each file once.
    fn watch(&self, run: &mut Run, mut opened: impl FnMut(NodeId)) {
        let start = Instant::now();
        let attached = Attached::mount(self.service);
        // proc_pid_mounts(5): a change of the mounts is an event of priority.
        let mounts = File::open("/proc/self/mountinfo").ok();
        let mut is_attached = false;
        loop {
            let limit = if run.files.is_empty() { FIRST_LIMIT } else { IDLE_LIMIT };
            let mut ready = vec![PollFd::new(self.opens.as_fd(), PollFlags::POLLIN)];
            ready.extend(match &self.end {
                End::Unmounted(_) if is_attached => mounts
                    .as_ref()
                    .map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)),
                End::Dismissed(end) | End::Unmounted(end) => Some(PollFd::new(end.as_fd(), PollFlags::POLLIN)),
            });
            let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
            match nix::poll::poll(&mut ready, timeout) {
                Err(Errno::EINTR) => continue,
                Ok(count) if count > 0 => {}
                _ => return,
            }
            let is_called = ready.get(1).is_some_and(|end| end.any().unwrap_or(false));
            is_attached |= is_called;
            let is_over = is_called && (matches!(self.end, End::Dismissed(_)) || attached.is_gone());
            let Ok(events) = self.opens.read_events() else {
                if is_over || start.elapsed() > WHOLE_LIMIT {
                    return;
                }
                continue;
            };
            // Each holds the mount: they are let go before anything else is done.
            let nodes: Vec<_> = events
                .iter()
                .filter_map(|event| nix::sys::stat::fstat(event.fd()?).ok())
                .filter_map(|stat| erofs::node_of(&self.image, stat.st_ino))
                .collect();
            drop(events);
            for node in nodes {
                if run.seen.insert(node) {
                    run.files.push((node, self.is_cold_object(node)));
                    opened(node);
                }
            }
            if is_over || run.files.len() >= MAX_FILES || start.elapsed() > WHOLE_LIMIT {
                return;
            }
        }
    }

    /// Whether a node is a whole object that is hardly in memory, so that it can be told what of it is read.
    fn is_cold_object(&self, node: NodeId) -> bool {
        self.open_object(node).is_some_and(|file| residency::is_cold(&file))
    }

    fn open_object(&self, node: NodeId) -> Option<File> {
        let node = self.tree().node(node).ok()?;
        match node.location().ok()? {
            Location::Object => File::open(self.service.store.object_path(&node.digest())).ok(),
            Location::Pack(..) => None,
        }
    }

    /// Adds the run to what is known, if it is one of the first.
    fn note(&self, run: Run) -> Result<(), KernelError> {
        let store = &self.service.store;
        let _adding = store.reserve(&format!("trace-{}", self.service.tree))?;
        let mut trace = Trace::load(store, &self.service.tree).unwrap_or_default();
        if run.files.is_empty() || !trace.wants_more() {
            return Ok(());
        }
        let opened: Vec<_> = run
            .files
            .into_iter()
            .map(|(node, was_cold)| Opened {
                node,
                pieces: self
                    .open_object(node)
                    .filter(|_| was_cold)
                    .map(|file| residency::cached_pieces(&file))
                    .unwrap_or_default(),
            })
            .collect();
        trace.add(&opened);
        Ok(trace.save(store, &self.service.tree)?)
    }

    fn tree(&self) -> &Tree {
        self.service.view.tree()
    }
}

/// What was opened.
#[derive(Default)]
struct Run {
    seen: HashSet<NodeId>,
    /// With whether it was a large file that was not in memory.
    files: Vec<(NodeId, bool)>,
}
