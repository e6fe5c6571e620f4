//! The durable log in files of our own, for one process.
//!
//! ```text
//!  append ──► queue ──► writer thread: one write + one sync for all that waits ──► segment files
//!                            │ then publishes how far it is synced                     ▲
//!                            ▼                                                         │ pread
//!                          shared ──────────────── "it moved" ───────────────────► readers
//! ```
//!
//! The one idea: **an acknowledged record is synced, and nothing else is ever read.** The writer
//! moves one mark, the place up to which the log is synced; readers stay below it, so a reader
//! never sees a record that a crash could take back, and needs no lock against the writer. The
//! price of a sync is shared by all appends that gathered during the one before.
//!
//! In reading order:
//!
//! - [`layout`]: the bytes on disk, and what counts as damaged and what as torn
//! - `queue`: appends on their way to the writer: bounded, and in order
//! - `writer`: the thread that writes; `active` is the segment that it writes
//! - `shared`: what the writer publishes
//! - `reader`: reads below the mark; `index` tells where to start
//! - `recovery`: what is done when a log is opened
//! - [`check`](fn@check): reads every checksum of a log that is not open
//! - [`LogView`]: reads a log that another process has open
//! - `patrol`: reads sealed segments in the background, to find damage
//! - [`repair`](fn@repair): cuts one off where it is whole before
//! - `truncate`: removes the oldest segments
//! - `segment`, `frames`, `window`, `identity`: files, frames and buffers that these share
//!
//! Dropped without [`close`](EventLog::close), the log ends as if the process was killed, except
//! that everybody who waits is told.

mod active;
mod check;
mod frames;
mod identity;
mod index;
pub mod layout;
mod options;
mod patrol;
mod queue;
mod reader;
mod recovery;
mod repair;
mod segment;
mod shared;
mod truncate;
mod view;
mod window;
mod writer;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tally_domain::{Offset, Position};

pub use check::{CheckReport, Torn, check, check_copy};
pub use options::{Damage, EmbeddedOptions, OpenError};
pub use recovery::Recovery;
pub use repair::{Cut, RepairError, repair};
pub use view::{LogFile, LogView};

use crate::contract::{
    AppendDone, AppendError, AppendRefused, EventLog, LogHealth, LogIdentity, LogReader, NewRecord,
    ReadError, TruncateError, Truncated,
};
use crate::metrics::LogMetrics;
use crate::storage::{Lock, Storage};
use index::Index;
use layout::{Mark, header_bytes};
use queue::{Queue, Stop};
use reader::EmbeddedReader;
use recovery::Opened;
use shared::{Shared, State};
use writer::Writer;

/// The file that is locked while a log is open.
const LOCK: &str = "lock";

/// An event log in a folder. See the [module](self).
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    running: Mutex<Running>,
    stop: Arc<patrol::Stop>,
}

/// What goes when the log is closed.
struct Running {
    writer: Option<JoinHandle<()>>,
    /// The writer has it too, so the folder stays locked as long as anything may be written.
    lock: Option<Arc<dyn Lock>>,
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog")
            .field("dir", &self.shared.dir)
            .field("identity", &self.shared.identity)
            .finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or creates it where there is none, and says what was found. `name`
    /// is its label in `metrics` and its own log lines. All that is readable afterwards is synced,
    /// also what a killed process wrote and could not sync any more.
    ///
    /// The folder is locked until the log is closed or dropped.
    ///
    /// # Errors
    /// [`OpenError`]. Whatever is not there as it was acknowledged is refused, and then nothing
    /// was changed.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &Path,
        name: &str,
        options: EmbeddedOptions,
        metrics: &LogMetrics,
    ) -> Result<(Self, Recovery), OpenError> {
        options.check()?;
        storage
            .create_dir_all(dir)
            .map_err(OpenError::io("created", dir))?;
        let lock = lock(storage.as_ref(), dir)?;
        let opened = recovery::open(storage.as_ref(), dir, &options)?;
        let (file, time) = (opened.file, opened.last_append_time_millis);
        let recovery = opened.recovery.clone();
        let opened = Opened {
            file: Arc::clone(&file),
            ..opened
        };
        let shared = Arc::new(share(storage, dir, name, &options, metrics, opened));
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&lock), &options, file, time);
        let writer = thread::Builder::new()
            .name(format!("{name}-writer"))
            .spawn(|| writer.run())
            .map_err(OpenError::io("written by a thread of its own", dir))?;
        let log = Self {
            shared,
            running: Mutex::new(Running {
                writer: Some(writer),
                lock: Some(lock),
            }),
            stop: Arc::default(),
        };
        log.start_patrol(options.check_rate)
            .map_err(OpenError::io("checked by a thread of its own", dir))?;
        Ok((log, recovery))
    }

    /// A log that nobody writes here.
    fn without_writer(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            running: Mutex::new(Running {
                writer: None,
                lock: None,
            }),
            stop: Arc::default(),
        }
    }

    fn start_patrol(&self, rate: u64) -> io::Result<()> {
        if rate == 0 {
            return Ok(());
        }
        let (shared, stop) = (Arc::clone(&self.shared), Arc::clone(&self.stop));
        // Nobody waits for its end: it only reads, and what it reads from may hang.
        thread::Builder::new()
            .name(format!("{}-patrol", shared.name))
            .spawn(move || patrol::run(&shared, &stop, rate))
            .map(drop)
    }

    /// Waits for the writer, which was told to end, and gives the folder free.
    fn release(&self) {
        self.stop.stop();
        let mut running = self.running.lock();
        let (writer, lock) = (running.writer.take(), running.lock.take());
        drop(running);
        // A callback may drop the last handle, on the writer's own thread.
        if let Some(writer) = writer.filter(|w| w.thread().id() != thread::current().id())
            && writer.join().is_err()
        {
            tracing::error!(
                log = self.shared.name,
                "the log's writer panicked at its end"
            );
        }
        drop(lock);
    }
}

fn lock(storage: &dyn Storage, dir: &Path) -> Result<Arc<dyn Lock>, OpenError> {
    let path = dir.join(LOCK);
    let lock = storage.lock(&path);
    match lock.map_err(OpenError::io("locked", &path))? {
        Some(lock) => Ok(Arc::from(lock)),
        None => Err(OpenError::Locked {
            dir: dir.to_owned(),
        }),
    }
}

fn share(
    storage: Arc<dyn Storage>,
    dir: &Path,
    name: &str,
    options: &EmbeddedOptions,
    metrics: &LogMetrics,
    opened: Opened,
) -> Shared {
    let metrics = metrics.of(name);
    let synced = Mark {
        segment: opened.segments.last().map_or(1, |last| last.number),
        place: header_bytes(opened.identity.partitions),
    };
    let state = State {
        segments: opened.segments,
        synced,
        heads: opened.heads,
        index: Index::new(opened.identity.partitions),
        health: LogHealth::Ok,
        sealed_bytes: opened.sealed_bytes,
    };
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.segments.set(gauge(state.segments.len() as u64));
    metrics.size_bytes.set(gauge(state.bytes()));
    metrics.queue_bytes.set(0);
    metrics.torn_bytes.inc_by(opened.recovery.cut_bytes);
    Shared {
        storage,
        dir: dir.to_owned(),
        name: name.to_owned(),
        identity: opened.identity,
        metrics,
        foreign: false,
        queue: Queue::new(options),
        state: Mutex::new(state),
        truncating: Mutex::default(),
        moved: Condvar::new(),
    }
}

impl EventLog for EmbeddedLog {
    fn identity(&self) -> LogIdentity {
        self.shared.identity
    }

    fn append(&self, records: Vec<NewRecord>, done: AppendDone) -> Result<(), AppendRefused> {
        let accepted = self.shared.queue.push(records, done);
        if let Err(AppendRefused::QueueFull { .. }) = accepted {
            self.shared.metrics.refused.inc();
        }
        accepted
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        let reader = EmbeddedReader::open(Arc::clone(&self.shared), from)?;
        Ok(Box::new(reader))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        Ok(self.shared.state.lock().first().to_vec())
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        Ok(self.shared.state.lock().heads.clone())
    }

    fn stalled_for(&self) -> Option<Duration> {
        self.shared.queue.stalled_for()
    }

    fn health(&self) -> LogHealth {
        self.shared.state.lock().health.clone()
    }

    fn truncate(&self, below: &[Offset]) -> Result<Truncated, TruncateError> {
        truncate::truncate(&self.shared, below)
    }

    fn close(&self, deadline: Duration) -> Result<(), AppendError> {
        self.shared.queue.close("it was closed", Stop::Finish);
        let Some(ended) = self.shared.queue.wait_for_end(deadline) else {
            let why = format!("the log could not finish within {deadline:?}");
            return Err(AppendError::FateUnknown(why));
        };
        self.release();
        ended.unfinished.map_or(Ok(()), Err)
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.shared.queue.close("it was dropped", Stop::Abandon);
        self.release();
    }
}
