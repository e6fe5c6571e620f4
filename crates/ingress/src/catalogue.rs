//! Which resources exist: a log of its own with one partition, and the set folded from it.
//!
//! A record's key is the resource's (`quest:42`), its value one change, version 1:
//!
//! ```json
//! {"v":1,"at":"2026-11-24T03:50:12.345Z","action":"add","resource_type":"quest","resource_id":42}
//! ```
//!
//! `action` is `add` or `retire`. Unknown fields are ignored; what an older reader must not ignore
//! needs a new `v`. A record that this build can't read is logged, counted and skipped.
//!
//! A thread follows the log, so that changes appended by others are seen too. [`Catalogue::add`]
//! and [`Catalogue::retire`] append and wait for that thread, so the set is changed in one way
//! only. Doing either twice is doing it once, so after any error a retry is safe.
//!
//! The set has 17 bytes a slot and is 44 to 87 % full: 20 to 39 bytes for each resource that
//! exists, so a million of them take 36 MB; a retired one takes nothing.

mod record;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hashbrown::HashSet;
use parking_lot::{Condvar, Mutex, RwLock};
use tally_domain::{Offset, Position, Resource};
use tally_log::blocking;
use tally_log::{AppendError, AppendRefused, Batch, EventLog, LogReader, NewRecord, ReadError};

use crate::clock::now;
use record::{Action, decode, record};

/// The log's only partition.
const PARTITION: u32 = 0;
/// How long the follower waits for records before it looks whether it shall end.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);
/// The pause after the log could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How many changes the set takes at once, before requests may look again.
const APPLIED_AT_ONCE: usize = 512;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// A change, from its append until it is visible.
    change: Duration,
    /// The log giving nothing while it is read for the first time.
    open: Duration,
}

const LIMITS: Limits = Limits {
    change: Duration::from_secs(10),
    open: Duration::from_secs(30),
};

/// Why the catalogue can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is another kind of log.
    #[error("the catalogue's log has {0} partitions, not 1: this is another log")]
    Partitions(u32),
    /// Its beginning is gone, and with it nobody knows which resources.
    #[error(
        "the catalogue's log begins at offset {first}: what was before is gone. Restore the log, or move it away and import the resources anew"
    )]
    Truncated {
        /// The first offset there is.
        first: Offset,
    },
    /// The log can't be read.
    #[error("the catalogue's log can't be read: {0}")]
    Read(#[from] ReadError),
    /// The log gives nothing.
    #[error("the catalogue's log ends at offset {head} and gives nothing from {at} on")]
    Stalled {
        /// Up to where it was read.
        at: Offset,
        /// Where it ends.
        head: Offset,
    },
    /// The thread that follows the log can't be started.
    #[error("the thread that follows the catalogue's log can't be started: {0}")]
    Thread(#[source] io::Error),
    /// Nothing was changed.
    #[error("nothing was changed: {0}")]
    Refused(#[from] AppendRefused),
    /// The log took the change and could not write any of it.
    #[error("nothing was changed: {0}")]
    NotWritten(#[source] AppendError),
    /// The log took the change and could not keep all of it.
    #[error("the change may be there in part, a retry is safe: {0}")]
    Append(#[from] AppendError),
    /// The log did not say in time whether it has the change.
    #[error(
        "the catalogue's log did not answer in time: the change may come or not, a retry is safe"
    )]
    Unanswered,
    /// The log has the change; it is not visible yet.
    #[error(
        "the change is in the log and was not visible in time{}",
        why.as_deref().map(|why| format!(": {why}")).unwrap_or_default()
    )]
    NotVisible {
        /// Why the log can't be read, where that is the reason.
        why: Option<String>,
    },
}

/// Which resources exist. Follows its log until it is dropped.
pub struct Catalogue {
    shared: Arc<Shared>,
    /// One change at a time, so that each says exactly how many it changed.
    changing: Mutex<()>,
    wake: Box<dyn Fn() + Send + Sync>,
    follower: Option<JoinHandle<()>>,
}

struct Shared {
    limits: Limits,
    log: Arc<dyn EventLog>,
    /// Read by every request; written in short turns.
    existing: RwLock<HashSet<Resource, foldhash::fast::RandomState>>,
    skipped: AtomicU64,
    ended: AtomicBool,
    progress: Mutex<Progress>,
    moved: Condvar,
}

struct Progress {
    /// The next offset: all below is in the set.
    next: Offset,
    /// Why the log can't be read at the moment.
    failure: Option<String>,
    /// Whether that is for good.
    given_up: bool,
}

impl Catalogue {
    /// Reads the log up to its head and starts to follow it. It blocks.
    ///
    /// # Errors
    /// [`CatalogueError`] where the log is another kind of log, is not whole, or can't be read.
    pub fn open(log: Arc<dyn EventLog>) -> Result<Self, CatalogueError> {
        Self::open_within(LIMITS, log)
    }

    fn open_within(limits: Limits, log: Arc<dyn EventLog>) -> Result<Self, CatalogueError> {
        let partitions = log.identity().partitions;
        if partitions != 1 {
            return Err(CatalogueError::Partitions(partitions));
        }
        let only = |offsets: Vec<Offset>| offsets.first().copied().unwrap_or_default();
        let (first, head) = (only(log.first()?), only(log.head()?));
        if first > 0 {
            return Err(CatalogueError::Truncated { first });
        }
        let mut reader = log.reader(&[Position {
            partition: PARTITION,
            offset: first,
        }])?;
        let shared = Arc::new(Shared {
            limits,
            log,
            existing: RwLock::default(),
            skipped: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            progress: Mutex::new(Progress {
                next: first,
                failure: None,
                given_up: false,
            }),
            moved: Condvar::new(),
        });
        shared.read_to(head, reader.as_mut())?;
        let wake = reader.waker();
        let following = Arc::clone(&shared);
        let follower = std::thread::Builder::new()
            .name("tally-catalogue".to_owned())
            .spawn(move || following.follow_guarded(reader.as_mut()))
            .map_err(CatalogueError::Thread)?;
        Ok(Self {
            shared,
            changing: Mutex::new(()),
            wake,
            follower: Some(follower),
        })
    }

    /// Whether the resource exists.
    #[must_use]
    pub fn contains(&self, resource: Resource) -> bool {
        self.shared.existing.read().contains(&resource)
    }

    /// All resources that exist, by type and then id.
    #[must_use]
    pub fn list(&self) -> Vec<Resource> {
        let mut all: Vec<Resource> = self.shared.existing.read().iter().copied().collect();
        all.sort_unstable();
        all
    }

    /// How many resources exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.existing.read().len()
    }

    /// Whether no resource exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records could not be read since it was opened.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.shared.skipped.load(Ordering::Relaxed)
    }

    /// Why changes are not seen any more, where that is so for good.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let progress = self.shared.progress.lock();
        progress.failure.clone().filter(|_| progress.given_up)
    }

    /// Makes resources exist; how many did not before. Blocks until that is durable and visible,
    /// 10 seconds at most.
    ///
    /// All of them go to the log in one append, which has bounds of its own: some ten thousand at
    /// a time are well within.
    ///
    /// # Errors
    /// [`CatalogueError`]; a retry is safe after any.
    pub fn add(&self, resources: &[Resource]) -> Result<usize, CatalogueError> {
        self.change(Action::Add, resources)
    }

    /// Makes resources not exist; how many did before. Their events and counters stay. Blocks
    /// as [`add`](Self::add) does.
    ///
    /// # Errors
    /// [`CatalogueError`]; a retry is safe after any.
    pub fn retire(&self, resources: &[Resource]) -> Result<usize, CatalogueError> {
        self.change(Action::Retire, resources)
    }

    fn change(&self, action: Action, resources: &[Resource]) -> Result<usize, CatalogueError> {
        let _changing = self.changing.lock();
        let until = Instant::now() + self.shared.limits.change;
        let mut seen: HashSet<Resource> = HashSet::with_capacity(resources.len());
        let mut new = Vec::with_capacity(resources.len());
        let existing = self.shared.existing.read();
        for resource in resources {
            let is_so = existing.contains(resource) == (action == Action::Add);
            if !is_so && seen.insert(*resource) {
                new.push(*resource);
            }
        }
        drop(existing);
        if new.is_empty() {
            return Ok(0);
        }
        let at = now();
        let records = new.iter().map(|resource| record(action, *resource, at));
        let last = self.shared.append(records.collect(), until)?;
        self.shared.wait_for(last, until)?;
        Ok(new.len())
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Under the lock: whoever looks at `ended` and then waits has either seen it or is waiting.
        drop(self.shared.progress.lock());
        self.shared.moved.notify_all();
        (self.wake)();
        if let Some(follower) = self.follower.take() {
            // A panic was reported when it happened.
            let _ = follower.join();
        }
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue")
            .field("resources", &self.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Appends, and waits until the log has all of it; the offset of the last record.
    fn append(&self, records: Vec<NewRecord>, until: Instant) -> Result<Offset, CatalogueError> {
        let answered = blocking::append(self.log.as_ref(), records)?;
        let left = until.saturating_duration_since(Instant::now());
        let answer = answered.recv_timeout(left);
        let results = answer.map_err(|_| CatalogueError::Unanswered)?;
        let none = results
            .iter()
            .all(|r| !matches!(r, Ok(_) | Err(AppendError::FateUnknown(_))));
        match results.into_iter().collect::<Result<Vec<Offset>, _>>() {
            Ok(offsets) => offsets.into_iter().max().ok_or(CatalogueError::Unanswered),
            Err(error) if none => Err(CatalogueError::NotWritten(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the record at `offset` is in the set.
    fn wait_for(&self, offset: Offset, until: Instant) -> Result<(), CatalogueError> {
        let mut progress = self.progress.lock();
        while progress.next <= offset {
            if self.moved.wait_until(&mut progress, until).timed_out() {
                let why = progress.failure.clone();
                return Err(CatalogueError::NotVisible { why });
            }
        }
        Ok(())
    }

    /// Reads up to `head` on this thread.
    fn read_to(&self, head: Offset, reader: &mut dyn LogReader) -> Result<(), CatalogueError> {
        let mut batch = Batch::new();
        let mut moved = Instant::now();
        let mut at = self.progress.lock().next;
        while at < head {
            reader.next(&mut batch, self.limits.open)?;
            let next = self.apply(&batch, reader);
            if next > at {
                moved = Instant::now();
            } else if moved.elapsed() >= self.limits.open {
                return Err(CatalogueError::Stalled { at, head });
            }
            at = next;
        }
        Ok(())
    }

    /// As [`follow`](Self::follow); a panic ends it as an error does from which there is no return.
    fn follow_guarded(&self, reader: &mut dyn LogReader) {
        if catch_unwind(AssertUnwindSafe(|| self.follow(reader))).is_err() {
            tracing::error!(
                "the catalogue's thread panicked: it sees no changes any more: restart"
            );
            let mut progress = self.progress.lock();
            progress.given_up = true;
            progress.failure = Some("its thread panicked; the service's log has the cause".into());
        }
    }

    /// Applies what comes until the catalogue is dropped.
    fn follow(&self, reader: &mut dyn LogReader) {
        let mut batch = Batch::new();
        while !self.ended.load(Ordering::Acquire) {
            match reader.next(&mut batch, FOLLOW_WAIT) {
                Ok(()) => {
                    self.apply(&batch, reader);
                }
                Err(error) => {
                    let given_up = reader.positions().is_empty();
                    self.failed(&error, given_up);
                    if given_up {
                        return;
                    }
                }
            }
        }
    }

    /// Takes note that the log can't be read, and waits a little; not where it is never read again.
    fn failed(&self, error: &ReadError, given_up: bool) {
        let mut progress = self.progress.lock();
        let why = error.to_string();
        if given_up {
            tracing::error!(%error, "the catalogue sees no changes any more: restart");
            progress.given_up = true;
            progress.failure = Some(why);
            return;
        }
        if progress.failure.as_ref() != Some(&why) {
            tracing::error!(
                %error,
                "the catalogue's log can't be read: changes are not seen; trying again every second"
            );
        }
        progress.failure = Some(why);
        let until = Instant::now() + RETRY_AFTER;
        while !self.ended.load(Ordering::Acquire) {
            if self.moved.wait_until(&mut progress, until).timed_out() {
                return;
            }
        }
    }

    /// Puts a batch into the set, in its order; the next offset after it.
    fn apply(&self, batch: &Batch, reader: &dyn LogReader) -> Offset {
        let mut changes = Vec::with_capacity(batch.len());
        let mut skipped = 0;
        for record in batch.iter() {
            match decode(record.value) {
                Ok(change) => changes.push(change),
                Err(why) => {
                    // One line for many of them.
                    if skipped == 0 {
                        let offset = record.position.offset;
                        tracing::error!(offset, why, "records of the catalogue are skipped");
                    }
                    skipped += 1;
                }
            }
        }
        self.skipped.fetch_add(skipped, Ordering::Relaxed);
        for turn in changes.chunks(APPLIED_AT_ONCE) {
            let mut existing = self.existing.write();
            for (action, resource) in turn {
                match action {
                    Action::Add => existing.insert(*resource),
                    Action::Retire => existing.remove(resource),
                };
            }
        }
        let read = batch.iter().last().map(|record| record.position.offset + 1);
        // The reader also moves over offsets that no record has.
        let stands = reader.positions().first().map(|position| position.offset);
        let mut progress = self.progress.lock();
        progress.next = progress.next.max(read.max(stands).unwrap_or_default());
        if progress.failure.take().is_some() {
            tracing::info!("the catalogue's log can be read again");
        }
        self.moved.notify_all();
        progress.next
    }
}

#[cfg(test)]
mod tests;
