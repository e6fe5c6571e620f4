//! The handle on everything the projector does.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tally_domain::{
    Counters, EventId, Offset, Partition, Position, Resource, Toggles, UserId, partition,
};
use tally_log::EventLog;
use tally_log::storage::Storage;
use tokio::sync::oneshot;

use crate::checkpoint::CheckpointReport;
use crate::dump::{self, PartitionDump, StateDump, StateSummary};
use crate::error::{OpenError, StateError};
use crate::hot::HotResource;
use crate::life::{Lasting, Life};
use crate::loader::{AtHand, Wanted};
use crate::metrics::Metrics;
use crate::options::{Options, OtherFold};
use crate::reopen::Reopening;
use crate::snapshot::clear_spool;
use crate::store::{OpenStore, SledStore, Store, StoreError};
use crate::waiters::{EventFate, Mailbox, TooManyWaiters, Waiters};

/// One resource and one user, as of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The resource's counters; zeros before its first event.
    pub counters: Counters,
    /// The user's toggles.
    pub toggles: Toggles,
    /// The newest record applied in the resource's partition; `None` before the first.
    pub position: Option<Position>,
    /// Whether it is as another version of the fold left it, which is being folded anew; or of a beginning of
    /// the log, where that can't be read any more.
    pub stale: bool,
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
    /// Whether there is no state at the moment, since it is being opened again: there are no
    /// partitions then.
    pub reopening: bool,
    /// Whether answers come from a state that another version of the fold wrote, while this one is made
    /// beside it.
    pub stale: bool,
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
///
/// Its state can be closed and opened again beneath it ([`reopen`](Self::reopen)): whoever waits goes
/// on waiting, and reads are refused for that moment.
pub struct Projector {
    pub(crate) lasting: Lasting,
    /// `None` while the state is opened again, and for good where that failed.
    pub(crate) current: RwLock<Option<Arc<Life>>>,
    /// One at a time.
    pub(crate) reopening: Mutex<Reopening>,
    /// One copy of the whole state at a time.
    pub(crate) copying: Mutex<()>,
    /// One run of snapshots at a time.
    pub(crate) snapshotting: Mutex<()>,
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
        let sled = move |dir: &Path| -> Result<Box<dyn Store>, StoreError> {
            Ok(Box::new(SledStore::open(dir, cache_bytes)?))
        };
        Self::open_on(Box::new(sled), log, storage, dir, options, registry)
    }

    /// The same on another store than sled.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        store: Box<OpenStore>,
        log: Arc<dyn EventLog>,
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: Options,
        registry: &prometheus::Registry,
    ) -> Result<Self, OpenError> {
        let lasting = Lasting {
            waiters: Arc::new(Waiters::new(log.identity().partitions, options.max_waiters)),
            metrics: Metrics::register(registry)?,
            hot: Arc::default(),
            log,
            storage,
            dir: dir.to_owned(),
            options,
            store,
            export: Mutex::default(),
            fresh_from: OnceLock::new(),
            lag: Mutex::default(),
            oldest_letters: Mutex::default(),
            stale: Arc::default(),
        };
        clear_spool(dir);
        let begin = |other_fold| Life::begin(&lasting, Vec::new(), other_fold);
        let life = match begin(lasting.options.other_fold) {
            // Somebody makes a state beside it, or has it open; whoever has it open still has it then.
            Err(OpenError::Held(held)) if lasting.options.other_fold == OtherFold::Serve => {
                tracing::warn!(%held, "a state of another fold can't answer meanwhile");
                begin(OtherFold::SetAside)?
            }
            life => life?,
        };
        Ok(Self {
            current: RwLock::new(Some(Arc::new(life))),
            lasting,
            reopening: Mutex::default(),
            copying: Mutex::default(),
            snapshotting: Mutex::default(),
        })
    }

    /// The log it follows.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.lasting.log
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
        self.lasting.waiters.add_event(partition, id, mailbox)
    }

    /// Completes a waiter whose event could not be appended, with an [`AppendRefused`] or an
    /// [`AppendError`].
    ///
    /// [`AppendRefused`]: tally_log::AppendRefused
    /// [`AppendError`]: tally_log::AppendError
    pub fn fail_event(&self, partition: Partition, id: EventId, why: impl Into<EventFate>) {
        self.lasting.waiters.fail_event(partition, id, why.into());
    }

    /// Lets a waiter go.
    pub fn forget_event(&self, partition: Partition, id: EventId) {
        self.lasting.waiters.forget_event(partition, id);
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
            .lasting
            .waiters
            .add_position(partition, offset, mailbox)?;
        // Applied meanwhile, or long ago: nobody else would complete it. The worker stores its
        // offset and then looks for waiters, and here it is the other way round; as all four
        // are sequentially consistent, one of the two sees the other. Where the state is opened
        // again, that looks too.
        if let Ok(life) = self.life()
            && let Some(slot) = life.shared.slot(partition)
        {
            let next_offset = slot.next_offset.load(Ordering::SeqCst);
            if next_offset > offset {
                let mut deliveries = crate::waiters::Deliveries::default();
                let waiters = &self.lasting.waiters;
                waiters.complete(partition, next_offset, [], &mut deliveries);
                deliveries.send();
            }
        }
        Ok(receiver)
    }

    /// A resource's counters and a user's toggles, with the position they are as of. It may block.
    ///
    /// # Errors
    /// Where the store can't be read; [`StateError::Reopening`] also where the state was opened again and
    /// is not as far yet as it was.
    pub fn read(&self, resource: Resource, user: &UserId) -> Result<View, StateError> {
        let partition = self.partition_of(resource);
        let usable = |life: &Life| life.old().is_some() || life.is_as_far(partition);
        let mut life = self.life_where(usable)?;
        if let Some(view) = life.read_old(partition, resource, user)? {
            return Ok(view);
        }
        if !life.is_as_far(partition) {
            drop(life);
            life = self.life_where(|life| life.is_as_far(partition))?;
        }
        Self::read_of(&life, partition, resource, user)
    }

    /// The same of the newest state there is, which may be older than one that was read before: for an
    /// answer that says so.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub fn read_newest(&self, resource: Resource, user: &UserId) -> Result<View, StateError> {
        let life = self.life_soon()?;
        let partition = self.partition_of(resource);
        if let Some(view) = life.read_old(partition, resource, user)? {
            return Ok(view);
        }
        let mut view = Self::read_of(&life, partition, resource, user)?;
        // Of a beginning of the log: less than was shown before.
        view.stale = life.renewal.is_some() && !life.is_as_far(partition);
        Ok(view)
    }

    fn partition_of(&self, resource: Resource) -> Partition {
        let partitions = self.lasting.log.identity().partitions;
        partition::partition_of(resource.key().as_bytes(), partitions)
    }

    fn read_of(
        life: &Life,
        number: Partition,
        resource: Resource,
        user: &UserId,
    ) -> Result<View, StateError> {
        let shared = &life.shared;
        let slot = shared
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
            let loaded = shared.noted(wanted.load(shared, number))?;
            state = slot.state.lock();
            // A value that was dropped meanwhile may have changed before. Sweeps are rare.
            if state.sweeps() == sweeps {
                read = state.read(resource, user, &AtHand::Loaded(&loaded));
                if let (Ok((counters, toggles)), false) = (read, shared.memory_is_short()) {
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
            stale: false,
        })
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.life() {
            Ok(life) => life.status(),
            Err(why) => Status {
                reopening: true,
                stale: false,
                partitions: Vec::new(),
                last_progress: Instant::now(),
                caught_up_once: false,
                started_at: Vec::new(),
                head_at_start: Vec::new(),
                // Where it failed, and not while it is under way.
                restart: self
                    .reopening
                    .try_lock()
                    .is_some_and(|reopening| reopening.failed),
                failure: Some(why.to_string()),
                waiters: self.lasting.waiters.count(),
                last_checkpoint: None,
                changed: 0,
                memory: 0,
            },
        }
    }

    /// What people do most with right now, at most so many resources: of events that came since this
    /// process opened the log, those that counted.
    #[must_use]
    pub fn hot(&self, most: usize) -> Vec<HotResource> {
        self.lasting.hot.top(most)
    }

    /// A copy of the whole state, each partition as of one position. It takes the memory of the whole
    /// state, so there is one at a time: another waits.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub fn dump(&self) -> Result<StateDump, StateError> {
        let _one = self.copying.lock();
        let life = self.life()?;
        life.shared.noted(dump::dump(&life.shared))
    }

    /// The whole state in a few numbers, each partition as of one position. It takes the memory of what
    /// a partition has in memory.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub fn summary(&self) -> Result<StateSummary, StateError> {
        let _one = self.copying.lock();
        let life = self.life()?;
        life.shared.noted(dump::summary(&life.shared))
    }

    /// A copy of one partition's state, as of one position. No checkpoint runs meanwhile.
    ///
    /// # Errors
    /// Where the store can't be read, or there is no such partition.
    pub fn dump_partition(&self, partition: Partition) -> Result<PartitionDump, StateError> {
        let life = self.life()?;
        life.shared.noted(dump::partition(&life.shared, partition))
    }

    /// Writes down what changed, now.
    ///
    /// # Errors
    /// Where it can't; nothing is lost by that, the log has it all.
    pub fn checkpoint(&self) -> Result<CheckpointReport, StateError> {
        let life = self.life()?;
        life.shared.checkpointer.checkpoint(&life.shared)
    }

    /// The clean end: applies everything the log holds now, then writes it down. Close the log to
    /// appends first. Where the log can't be reached, nobody knows how far to go: what is applied
    /// is written down, and the next start goes on from there.
    ///
    /// # Errors
    /// Where it can't be done within the deadline; the next start replays what is missing.
    pub fn stop(&self, deadline: Duration) -> Result<(), StateError> {
        let until = Instant::now() + deadline;
        // A state that is being opened again comes first.
        let Some(_one) = self.reopening.try_lock_until(until) else {
            return Err(StateError::TimedOut("opening the state again"));
        };
        self.life()?.stop(until)
    }
}
