//! The handle on everything the projector does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::{
    Counters, EventId, Offset, Partition, PartitionState, Position, Resource, Toggles, UserId,
    partition,
};
use tally_log::storage::Storage;
use tally_log::{EventLog, ReadError};
use tokio::sync::oneshot;

use crate::checkpoint::{CheckpointReport, Checkpointer};
use crate::dump::{self, StateDump};
use crate::error::{OpenError, StateError};
use crate::export::Bell;
use crate::loader::{AtHand, Wanted};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::shared::{Shared, Slot};
use crate::store::{OpenStore, SledStore, Store, StoreError, values};
use crate::waiters::{EventFate, Mailbox, TooManyWaiters, Waiters};
use crate::{identity, worker};

/// One resource and one user, as of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The resource's counters; zeros before its first event.
    pub counters: Counters,
    /// The user's toggles.
    pub toggles: Toggles,
    /// The newest record applied in the resource's partition; `None` before the first.
    pub position: Option<Position>,
}

/// How far one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: Partition,
    /// All records below this offset are applied.
    pub next_offset: Offset,
    /// Records kept as dead letters, and not settled.
    pub dead_letters: u64,
}

/// How far the projector is, and whether it goes on.
#[derive(Debug, Clone)]
pub struct Status {
    /// Every partition, by number.
    pub partitions: Vec<PartitionStatus>,
    /// When a record was applied last; the start, before the first.
    pub last_progress: Instant,
    /// Whether everything the log held at the start has been applied.
    pub caught_up_once: bool,
    /// Where each partition stood at the start: with the log's head at the start, the measure of
    /// a replay's progress.
    pub started_at: Vec<Offset>,
    /// The log's head at the start.
    pub head_at_start: Vec<Offset>,
    /// Why the projector has stopped, or some of it, where it has.
    pub failure: Option<String>,
    /// Whether it has, and another start repairs it: what is damaged is then rebuilt from the log.
    pub restart: bool,
    /// How many requests wait.
    pub waiters: usize,
    /// When a checkpoint finished last.
    pub last_checkpoint: Option<Instant>,
    /// How many values wait for the next checkpoint.
    pub changed: usize,
    /// How much memory counters, toggles and remembered keys take, in bytes.
    pub memory: usize,
}

/// Follows a log, folds it, and answers from the state. Dropping it ends its threads without a
/// checkpoint, as a crash would; [`stop`](Self::stop) is the clean end.
pub struct Projector {
    pub(crate) shared: Arc<Shared>,
    wakers: Vec<Box<dyn Fn() + Send + Sync>>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Projector {
    /// Opens the state in `dir` and starts to follow the log; a replay goes on in the background
    /// (see [`Status::caught_up_once`]).
    ///
    /// # Errors
    /// [`OpenError`]: each says what to do.
    pub fn open(
        log: Arc<dyn EventLog>,
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: Options,
        registry: &prometheus::Registry,
    ) -> Result<Self, OpenError> {
        let cache_bytes = options.sled_cache_bytes;
        let sled = |dir: &Path| -> Result<Box<dyn Store>, StoreError> {
            Ok(Box::new(SledStore::open(dir, cache_bytes)?))
        };
        Self::open_on(&sled, log, storage, dir, options, registry)
    }

    /// The same on another store than sled.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        store: &OpenStore<'_>,
        log: Arc<dyn EventLog>,
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: Options,
        registry: &prometheus::Registry,
    ) -> Result<Self, OpenError> {
        let metrics = Metrics::register(registry)?;
        let opened = identity::open_state(log.as_ref(), storage.as_ref(), dir, store, &metrics)?;
        let next_offsets: Vec<Offset> = opened
            .partitions
            .iter()
            .map(PartitionState::next_offset)
            .collect();
        let slots = opened.partitions.into_iter().map(|state| Slot {
            memory: AtomicUsize::new(state.memory()),
            keys_memory: AtomicUsize::new(state.keys().bytes()),
            next_offset: AtomicU64::new(state.next_offset()),
            changed: AtomicUsize::new(0),
            dead_letters: AtomicU64::new(state.dead_letter_count()),
            dead_letters_ever: AtomicU64::new(state.letter_counts().ever),
            all_in_memory: AtomicBool::new(opened.empty),
            state: Mutex::new(state),
        });
        let shared = Arc::new(Shared {
            slots: slots.collect(),
            waiters: Waiters::new(log.identity().partitions, options.max_waiters),
            store: opened.store,
            buckets: values::buckets_each(log.identity().partitions),
            metrics,
            checkpointer: Checkpointer::new(
                storage,
                PathBuf::from(dir),
                opened.identity,
                opened.checkpoint,
                next_offsets.clone(),
            ),
            export: Bell::default(),
            stop_at: OnceLock::new(),
            quit: AtomicBool::new(false),
            started: Instant::now(),
            progress_millis: AtomicU64::new(0),
            started_at: next_offsets,
            head_at_start: log.head()?,
            failure: Mutex::default(),
            running: Mutex::default(),
            ended: Condvar::new(),
            log,
            options,
        });
        Self::start(shared)
    }

    fn start(shared: Arc<Shared>) -> Result<Self, OpenError> {
        let mut projector = Self {
            shared,
            wakers: Vec::new(),
            threads: Mutex::default(),
        };
        let shared = &projector.shared;
        let workers = shared.options.workers.clamp(1, shared.slots.len().max(1));
        let mut readers = Vec::new();
        for worker in 0..workers {
            let mine = (0u32..)
                .zip(&shared.started_at)
                .skip(worker)
                .step_by(workers);
            let from: Vec<Position> = mine
                .map(|(partition, offset)| Position {
                    partition,
                    offset: *offset,
                })
                .collect();
            readers.push(shared.log.reader(&from)?);
        }
        for (worker, reader) in readers.into_iter().enumerate() {
            projector.wakers.push(reader.waker());
            projector.spawn(format!("tally-fold-{worker}"), |shared| {
                worker::run(shared, reader)
            })?;
        }
        projector.spawn("tally-checkpoint".to_owned(), crate::checkpoint::run)?;
        Ok(projector)
    }

    fn spawn(
        &self,
        name: String,
        work: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        *shared.running.lock() += 1;
        let named = name.clone();
        let body = move || {
            if catch_unwind(AssertUnwindSafe(|| work(&shared))).is_err() {
                // The thread that writes may be the one that ended.
                shared.checkpointer.give_up();
                let why = format!("the thread {named} panicked; the service's log has the cause");
                shared.fail(&[], why, true);
            }
            shared.thread_ended();
        };
        let thread = std::thread::Builder::new().name(name).spawn(body);
        self.threads.lock().push(thread.map_err(OpenError::Thread)?);
        Ok(())
    }

    /// The log it follows.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.shared.log
    }

    /// Registers a waiter for an event; do so before appending it. The receiver's sender is
    /// dropped when the partition is not folded any more. A receiver given up is to be followed
    /// by [`forget_event`](Self::forget_event).
    ///
    /// # Errors
    /// [`TooManyWaiters`].
    pub fn wait_for_event(
        &self,
        partition: Partition,
        id: EventId,
        mailbox: &Mailbox,
    ) -> Result<oneshot::Receiver<EventFate>, TooManyWaiters> {
        self.shared.waiters.add_event(partition, id, mailbox)
    }

    /// Completes a waiter whose event could not be appended, with an [`AppendRefused`] or an
    /// [`AppendError`].
    ///
    /// [`AppendRefused`]: tally_log::AppendRefused
    /// [`AppendError`]: tally_log::AppendError
    pub fn fail_event(&self, partition: Partition, id: EventId, why: impl Into<EventFate>) {
        self.shared.waiters.fail_event(partition, id, why.into());
    }

    /// Lets a waiter go.
    pub fn forget_event(&self, partition: Partition, id: EventId) {
        self.shared.waiters.forget_event(partition, id);
    }

    /// Waits until the record at a position is applied; at once where it is already. The caller
    /// sees to it that the position is in the log.
    ///
    /// # Errors
    /// [`TooManyWaiters`].
    pub fn wait_for_position(
        &self,
        position: Position,
        mailbox: &Mailbox,
    ) -> Result<oneshot::Receiver<()>, TooManyWaiters> {
        let Position { partition, offset } = position;
        let receiver = self
            .shared
            .waiters
            .add_position(partition, offset, mailbox)?;
        // Applied meanwhile, or long ago: nobody else would complete it. The worker stores its
        // offset and then looks for waiters, and here it is the other way round; as all four
        // are sequentially consistent, one of the two sees the other.
        if let Some(slot) = self.shared.slot(partition) {
            let next_offset = slot.next_offset.load(Ordering::SeqCst);
            if next_offset > offset {
                let mut deliveries = crate::waiters::Deliveries::default();
                self.shared
                    .waiters
                    .complete(partition, next_offset, [], &mut deliveries);
                deliveries.send();
            }
        }
        Ok(receiver)
    }

    /// A resource's counters and a user's toggles, with the position they are as of.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub fn read(&self, resource: Resource, user: &UserId) -> Result<View, StateError> {
        let partitions = self.shared.log.identity().partitions;
        let number = partition::partition_of(resource.key().as_bytes(), partitions);
        let slot = self
            .shared
            .slot(number)
            .ok_or(StateError::NoSuchPartition(number))?;
        let mut state = slot.state.lock();
        let mut read = state.read(resource, user, &slot.at_hand());
        while read.is_err() {
            let mut wanted = Wanted::default();
            wanted.add(&state, resource, user, true);
            let sweeps = state.sweeps();
            // The fold must not wait for the store.
            drop(state);
            let loaded = self.shared.noted(wanted.load(&self.shared, number))?;
            state = slot.state.lock();
            // A value that was dropped meanwhile may have changed before. Sweeps are rare.
            if state.sweeps() == sweeps {
                read = state.read(resource, user, &AtHand::Loaded(&loaded));
                if let (Ok((counters, toggles)), false) = (read, self.shared.memory_is_short()) {
                    state.keep_read(resource, user, counters, toggles);
                    slot.note(&state);
                }
            }
        }
        let (counters, toggles) = read.unwrap_or_default();
        let newest = state.next_offset().checked_sub(1);
        Ok(View {
            counters: counters.unwrap_or_default(),
            toggles,
            position: newest.map(|offset| Position {
                partition: number,
                offset,
            }),
        })
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let partitions: Vec<PartitionStatus> = (0..)
            .zip(&shared.slots)
            .map(|(partition, slot)| PartitionStatus {
                partition,
                next_offset: slot.next_offset.load(Ordering::Acquire),
                dead_letters: slot.dead_letters.load(Ordering::Relaxed),
            })
            .collect();
        let failure = shared.failure();
        let mut both = partitions.iter().zip(&shared.head_at_start);
        let progress = Duration::from_millis(shared.progress_millis.load(Ordering::Relaxed));
        Status {
            caught_up_once: both.all(|(partition, head)| partition.next_offset >= *head),
            partitions,
            last_progress: shared.started + progress,
            started_at: shared.started_at.clone(),
            head_at_start: shared.head_at_start.clone(),
            restart: failure.as_ref().is_some_and(|failure| failure.restart),
            failure: failure.map(|failure| failure.why),
            waiters: shared.waiters.count(),
            last_checkpoint: shared.checkpointer.last(),
            changed: shared.changed(),
            memory: shared.memory(),
        }
    }

    /// Brings the gauges up to date that change by themselves: call before each scrape.
    pub fn refresh_metrics(&self) {
        let status = self.status();
        let metrics = &self.shared.metrics;
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let head = self.shared.log.head().ok();
        for partition in &status.partitions {
            let label = partition.partition.to_string();
            let next = partition.next_offset;
            metrics
                .next_offset
                .with_label_values(&[&label])
                .set(gauge(next));
            let place = usize::try_from(partition.partition).unwrap_or(usize::MAX);
            if let Some(head) = head.as_ref().and_then(|head| head.get(place)) {
                let lag = gauge(head.saturating_sub(next));
                metrics.lag_records.with_label_values(&[&label]).set(lag);
            }
        }
        let dead_letters = status
            .partitions
            .iter()
            .map(|partition| partition.dead_letters)
            .sum();
        metrics.dead_letters.set(gauge(dead_letters));
        metrics
            .waiters
            .set(i64::try_from(status.waiters).unwrap_or(i64::MAX));
        metrics
            .memory
            .set(i64::try_from(status.memory).unwrap_or(i64::MAX));
        metrics
            .changed_values
            .set(i64::try_from(status.changed).unwrap_or(i64::MAX));
        if let Ok(bytes) = self.shared.store.disk_bytes() {
            metrics.checkpoint.store_bytes.set(gauge(bytes));
        }
    }

    /// A copy of the whole state, each partition as of one position. No checkpoint runs meanwhile.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub fn dump(&self) -> Result<StateDump, StateError> {
        self.shared.noted(dump::dump(&self.shared))
    }

    /// Writes down what changed, now.
    ///
    /// # Errors
    /// Where it can't; nothing is lost by that, the log has it all.
    pub fn checkpoint(&self) -> Result<CheckpointReport, StateError> {
        self.shared.checkpointer.checkpoint(&self.shared)
    }

    /// The clean end: applies everything the log holds now, then writes it down. Close the log to
    /// appends first. Where the log can't be reached, nobody knows how far to go: what is applied
    /// is written down, and the next start goes on from there.
    ///
    /// # Errors
    /// Where it can't be done within the deadline; the next start replays what is missing.
    pub fn stop(&self, deadline: Duration) -> Result<(), StateError> {
        let until = Instant::now() + deadline;
        let head = match self.shared.log.head() {
            Ok(head) => head,
            Err(error) => {
                self.checkpoint()?;
                self.shared.quit.store(true, Ordering::Release);
                self.wake();
                return match error {
                    ReadError::Unavailable(why) => {
                        tracing::warn!(
                            why,
                            "the log can't be reached; what was applied is written down"
                        );
                        Ok(())
                    }
                    ReadError::OutOfRange { .. }
                    | ReadError::Damaged { .. }
                    | ReadError::Replaced(_) => Err(StateError::Failed(error.to_string())),
                };
            }
        };
        // A second call finds the first one's offsets: they serve as well.
        let _ = self.shared.stop_at.set(head);
        self.wake();
        let mut running = self.shared.running.lock();
        while *running > 0 {
            if self
                .shared
                .ended
                .wait_until(&mut running, until)
                .timed_out()
            {
                self.shared.quit.store(true, Ordering::Release);
                return Err(StateError::TimedOut("applying what the log holds"));
            }
        }
        drop(running);
        let written = self.checkpoint();
        if let Some(why) = self.shared.failure() {
            return Err(StateError::Failed(why.why));
        }
        written?;
        let stop_at = self.shared.stop_at.get().into_iter().flatten();
        let mut slots = self.shared.slots.iter().zip(stop_at);
        // An earlier stop that timed out has ended the threads before their work was done.
        if slots.any(|(slot, offset)| slot.next_offset.load(Ordering::Acquire) < *offset) {
            return Err(StateError::TimedOut("applying what the log holds"));
        }
        Ok(())
    }

    fn wake(&self) {
        self.wakers.iter().for_each(|wake| wake());
        self.shared.checkpointer.wake();
        self.shared.export.wake();
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Release);
        self.wake();
        for thread in self.threads.lock().drain(..) {
            // A thread's panic was reported when it happened.
            let _ = thread.join();
        }
    }
}
