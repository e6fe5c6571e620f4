//! One life of the state: from the opening of its store until that is closed. What outlasts it is in
//! [`Lasting`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::{Offset, Partition, PartitionState, Position};
use tally_log::storage::Storage;
use tally_log::{EventLog, ReadError};

use crate::checkpoint::Checkpointer;
use crate::error::{OpenError, StateError};
use crate::export::{self, Bell};
use crate::hot::Hot;
use crate::lag::Lag;
use crate::measure::OldestLetter;
use crate::metrics::Metrics;
use crate::options::{Options, OtherFold};
use crate::projector::{PartitionStatus, Status};
use crate::renewal::{self, Opened, Renewal};
use crate::shared::{Shared, Slot};
use crate::store::{OpenStore, values};
use crate::waiters::{Deliveries, Waiters};
use crate::{invariants, worker};

/// How long a state that is to be closed is waited for, by whoever reads it just now.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// Between two looks whether anybody still does.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What stays when the state is opened again.
pub(crate) struct Lasting {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) hot: Arc<Hot>,
    pub(crate) store: Box<OpenStore>,
    pub(crate) waiters: Arc<Waiters>,
    /// Where dead letters are copied to.
    pub(crate) export: Mutex<Option<Arc<dyn EventLog>>>,
    /// By partition: events from there on came after the log was opened, and are not counted yet.
    pub(crate) fresh_from: OnceLock<Arc<[AtomicU64]>>,
    pub(crate) lag: Mutex<Lag>,
    /// By partition.
    pub(crate) oldest_letters: Mutex<Vec<OldestLetter>>,
    /// Whether answers come from a state of another fold.
    pub(crate) stale: Arc<AtomicBool>,
}

/// The state while its store is open, and the threads that work on it. Dropping it ends them without
/// a checkpoint.
pub(crate) struct Life {
    pub(crate) shared: Arc<Shared>,
    wakers: Vec<Box<dyn Fn() + Send + Sync>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Up to where a life before it has answered, by partition; empty where there was none.
    seen: Vec<Offset>,
    /// Where it is made beside a state of another fold.
    pub(crate) renewal: Option<Renewal>,
}

impl Life {
    /// Opens the state, and starts to follow the log; `seen` is up to where a life before has answered.
    pub(crate) fn begin(
        lasting: &Lasting,
        seen: Vec<Offset>,
        other_fold: OtherFold,
    ) -> Result<Self, OpenError> {
        let storage = &lasting.storage;
        let Opened {
            state: opened,
            dir,
            log,
            renewal,
        } = renewal::open(lasting, other_fold)?;
        let seen = match &renewal {
            // It has answered already.
            Some(renewal) => further(&seen, renewal.begins_at()),
            None => seen,
        };
        let next_offsets: Vec<Offset> = opened
            .partitions
            .iter()
            .map(PartitionState::next_offset)
            .collect();
        let head_at_start = log.head()?;
        let fresh_from = lasting.fresh_from.get_or_init(|| {
            let heads = head_at_start.iter();
            heads.map(|head| AtomicU64::new(*head)).collect()
        });
        let slots = opened.partitions.into_iter().map(|state| Slot {
            folded_millis: AtomicU64::new(time_of_last(&state)),
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
            waiters: Arc::clone(&lasting.waiters),
            store: opened.store,
            buckets: values::buckets_each(log.identity().partitions),
            metrics: lasting.metrics.clone(),
            hot: Arc::clone(&lasting.hot),
            checkpointer: Checkpointer::new(
                Arc::clone(storage),
                dir,
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
            head_at_start,
            fresh_from: Arc::clone(fresh_from),
            failure: Mutex::default(),
            running: Mutex::default(),
            ended: Condvar::new(),
            log,
            options: lasting.options.clone(),
        });
        lasting.waiters.again();
        let life = Self::start(shared, seen, renewal)?;
        if let Some(to) = &*lasting.export.lock() {
            life.export(to)?;
        }
        Ok(life)
    }

    fn start(
        shared: Arc<Shared>,
        seen: Vec<Offset>,
        renewal: Option<Renewal>,
    ) -> Result<Self, OpenError> {
        let mut life = Self {
            shared,
            wakers: Vec::new(),
            threads: Mutex::default(),
            seen,
            renewal,
        };
        let shared = &life.shared;
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
            life.wakers.push(reader.waker());
            life.spawn(format!("tally-fold-{worker}"), |shared| {
                worker::run(shared, reader)
            })?;
        }
        life.spawn("tally-checkpoint".to_owned(), crate::checkpoint::run)?;
        let every = life.shared.options.check_interval;
        if every > Duration::ZERO {
            life.watch(every)?;
        }
        Ok(life)
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

    /// Checks the state's invariants from now on. It may panic, and nothing but the checks ends.
    fn watch(&self, every: Duration) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        let body = move || {
            if catch_unwind(AssertUnwindSafe(|| invariants::run(&shared, every))).is_err() {
                tracing::error!("the check of the state's invariants panicked and has ended");
            }
        };
        let thread = std::thread::Builder::new().name("tally-check".to_owned());
        let thread = thread.spawn(body).map_err(OpenError::Thread)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Copies dead letters to a log from now on.
    pub(crate) fn export(&self, to: &Arc<dyn EventLog>) -> Result<(), OpenError> {
        let thread = export::start(&self.shared, to).map_err(OpenError::Thread)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Completes whoever waits for a position that is applied already.
    pub(crate) fn complete_positions(&self) {
        let mut deliveries = Deliveries::default();
        for (partition, slot) in (0..).zip(&self.shared.slots) {
            let next_offset = slot.next_offset.load(Ordering::SeqCst);
            let waiters = &self.shared.waiters;
            waiters.complete(partition, next_offset, [], &mut deliveries);
        }
        deliveries.send();
    }

    /// Up to where this life and those before it have answered, by partition.
    pub(crate) fn seen(&self) -> Vec<Offset> {
        let slots = self.shared.slots.iter();
        let next = slots.map(|slot| slot.next_offset.load(Ordering::SeqCst));
        further(&self.seen, next.collect())
    }

    /// Whether a partition's state is as far as any answer before.
    pub(crate) fn is_as_far(&self, partition: Partition) -> bool {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let seen = self.seen.get(place).copied().unwrap_or_default();
        let slot = self.shared.slot(partition);
        slot.is_none_or(|slot| slot.next_offset.load(Ordering::SeqCst) >= seen)
    }

    pub(crate) fn status(&self) -> Status {
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
            reopening: false,
            stale: self.old().is_some(),
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

    /// As [`Projector::stop`](crate::Projector::stop).
    pub(crate) fn stop(&self, until: Instant) -> Result<(), StateError> {
        let checkpoint = || self.shared.checkpointer.checkpoint(&self.shared);
        if self.renewal.is_some() {
            // It may have far to go, and the next start goes on from here.
            checkpoint()?;
            self.shared.quit.store(true, Ordering::Release);
            self.wake();
            return Ok(());
        }
        let head = match self.shared.log.head() {
            Ok(head) => head,
            Err(error) => {
                checkpoint()?;
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
        let written = checkpoint();
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

    /// Ends the threads, and closes the store once nobody reads it any more.
    pub(crate) fn end(self: Arc<Self>) -> Result<(), StateError> {
        self.quit();
        let until = Instant::now() + CLOSE_LIMIT;
        let mut life = self;
        loop {
            match Arc::try_unwrap(life) {
                Ok(_) => return Ok(()),
                Err(still) if Instant::now() >= until => {
                    drop(still);
                    return Err(StateError::TimedOut(
                        "closing the state for those who read it",
                    ));
                }
                Err(still) => life = still,
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn wake(&self) {
        self.wakers.iter().for_each(|wake| wake());
        self.shared.checkpointer.wake();
        self.shared.export.wake();
    }

    fn quit(&self) {
        self.shared.quit.store(true, Ordering::Release);
        self.wake();
        for thread in self.threads.lock().drain(..) {
            // A thread's panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// When the event folded last was made, in milliseconds since 1970, as far as its id says: 0 where it does
/// not.
fn time_of_last(state: &PartitionState) -> u64 {
    let made = state.last_event().and_then(|(_, id)| id.get_timestamp());
    made.map_or(0, |made| {
        let (seconds, nanos) = made.to_unix();
        seconds
            .saturating_mul(1_000)
            .saturating_add(u64::from(nanos / 1_000_000))
    })
}

/// Of two next offsets of each partition the further one; there may be none before.
fn further(before: &[Offset], mut now: Vec<Offset>) -> Vec<Offset> {
    for (now, before) in now.iter_mut().zip(before) {
        *now = (*now).max(*before);
    }
    now
}

impl Drop for Life {
    fn drop(&mut self) {
        self.quit();
    }
}
