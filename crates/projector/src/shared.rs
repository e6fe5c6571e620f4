//! What workers, checkpointer and handle share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tally_domain::{Offset, Partition, PartitionState};
use tally_log::EventLog;

use crate::checkpoint::Checkpointer;
use crate::error::{StateError, with_causes};
use crate::export::Bell;
use crate::hot::Hot;
use crate::loader::AtHand;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::store::{Store, StoreError, sealed_value, values};
use crate::waiters::Waiters;

/// One partition's state, and what others may see of it without its lock.
pub(crate) struct Slot {
    pub(crate) state: Mutex<PartitionState>,
    /// All records below are applied and their waiters are about to be completed.
    pub(crate) next_offset: AtomicU64,
    /// When the log took the record folded last, in milliseconds since 1970; 0 before the first.
    pub(crate) folded_millis: AtomicU64,
    pub(crate) changed: AtomicUsize,
    pub(crate) dead_letters: AtomicU64,
    /// Those that were settled included.
    pub(crate) dead_letters_ever: AtomicU64,
    /// How much memory its values and its remembered keys take, in bytes.
    pub(crate) memory: AtomicUsize,
    /// The keys' part of it.
    pub(crate) keys_memory: AtomicUsize,
    /// Whether the store held nothing of this partition when it was opened, and nothing was
    /// dropped from memory since: then what is not in memory is nowhere. Changed under the
    /// state's lock while no checkpoint runs.
    pub(crate) all_in_memory: AtomicBool,
}

/// How many places of a partition's tables, the largest at most, are gone over while its lock is held.
const SWEEP_PLACES: usize = 4_096;

/// Values that take less than this many bytes never hold up the fold whatever comes of checkpoints.
const LEAST_EXCESS: usize = 64 << 10;

/// Why the projector has stopped, or some of it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// Whether another start repairs it.
    pub(crate) restart: bool,
}

/// What workers, checkpointer and handle share.
pub(crate) struct Shared {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) store: Box<dyn Store>,
    /// How many buckets of values each partition has in the store.
    pub(crate) buckets: u32,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) metrics: Metrics,
    pub(crate) hot: Arc<Hot>,
    pub(crate) options: Options,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) export: Bell,
    /// Set once: workers end when they reach these offsets.
    pub(crate) stop_at: OnceLock<Vec<Offset>>,
    /// Workers and checkpointer end at once.
    pub(crate) quit: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) progress_millis: AtomicU64,
    pub(crate) started_at: Vec<Offset>,
    pub(crate) head_at_start: Vec<Offset>,
    /// As [`Lasting`](crate::life::Lasting) has it.
    pub(crate) fresh_from: Arc<[AtomicU64]>,
    pub(crate) failure: Mutex<Option<Failure>>,
    /// How many threads run.
    pub(crate) running: Mutex<usize>,
    pub(crate) ended: Condvar,
}

impl Shared {
    pub(crate) fn slot(&self, partition: Partition) -> Option<&Slot> {
        self.slots.get(usize::try_from(partition).ok()?)
    }

    /// The value of a bucket in the store, without its checksum; empty where there is none.
    pub(crate) fn bucket(&self, partition: Partition, bucket: u32) -> Result<Vec<u8>, StateError> {
        let key = values::bucket_key(partition, bucket);
        Ok(sealed_value(self.store.as_ref(), &key)?.unwrap_or_default())
    }

    pub(crate) fn progressed(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress_millis.store(millis, Ordering::Relaxed);
    }

    /// Says for good why numbers will no longer move, and lets the waiters of `partitions` go, unless
    /// another start goes on with them.
    pub(crate) fn fail(&self, partitions: &[Partition], why: String, restart: bool) {
        tracing::error!(why, ?partitions, "the projector has stopped, or some of it");
        let mut failure = self.failure.lock();
        match failure.as_mut() {
            Some(failure) => failure.restart |= restart,
            None => *failure = Some(Failure { why, restart }),
        }
        drop(failure);
        for partition in partitions.iter().filter(|_| !restart) {
            self.waiters.abandon(*partition);
        }
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    pub(crate) fn changed(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| slot.changed.load(Ordering::Relaxed))
            .sum::<usize>()
            .saturating_add(self.checkpointer.unwritten())
    }

    /// How much memory values and remembered keys take, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let memory = |slot: &Slot| slot.memory.load(Ordering::Relaxed);
        self.slots.iter().map(memory).sum()
    }

    /// What values take of it, in bytes.
    fn values_memory(&self) -> usize {
        self.memory().saturating_sub(self.keys_memory())
    }

    /// What remembered keys take of it, in bytes. They are never dropped.
    fn keys_memory(&self) -> usize {
        let keys = |slot: &Slot| slot.keys_memory.load(Ordering::Relaxed);
        self.slots.iter().map(keys).sum()
    }

    /// The values' share of the budget, in bytes: what remembered keys leave, and at least a quarter
    /// however many there are. Values alone are measured by it, as only they can be dropped.
    fn room(&self) -> usize {
        let memory = self.options.memory;
        memory.saturating_sub(self.keys_memory()).max(memory / 4)
    }

    /// Whether values shall be dropped.
    pub(crate) fn memory_is_short(&self) -> bool {
        self.values_memory() > self.room() / 8 * 7
    }

    /// Whether the fold has to wait until some are.
    pub(crate) fn memory_is_full(&self) -> bool {
        self.values_memory() > self.room()
    }

    /// Whether it has to wait whatever comes of checkpoints: those that fail let it go on until then,
    /// but drop nothing.
    pub(crate) fn memory_is_exceeded(&self) -> bool {
        // One batch may bring more than twice a tiny budget.
        self.values_memory() > self.room().saturating_mul(2).max(LEAST_EXCESS)
    }

    /// Drops from memory what the store has and nobody used lately, where there is too much. Only
    /// while no checkpoint is under way and none failed: what is unchanged is in the store then. A
    /// partition's lock is held for a part of its tables at a time; at the end, where nearly nothing is
    /// left in them, for making them smaller.
    pub(crate) fn drop_unused(&self) {
        if !self.memory_is_short() {
            return;
        }
        let target = self.room() / 4 * 3;
        let places = self.slots.iter().map(|slot| slot.state.lock().places());
        let steps = places.max().unwrap_or(0).div_ceil(SWEEP_PLACES).max(1);
        // The same part of each table, large or small: a hand that turns faster than the others would
        // find what is used most not used since, and drop it first.
        let part = PartitionState::TURN.div_ceil(u64::try_from(steps).unwrap_or(u64::MAX));
        // The first turn takes the marks of use away.
        for _ in 0..steps.saturating_mul(3) {
            for slot in &self.slots {
                let mut state = slot.state.lock();
                slot.all_in_memory.store(false, Ordering::Relaxed);
                state.sweep(part);
                slot.note(&state);
            }
            if self.values_memory() <= target {
                break;
            }
        }
        for slot in &self.slots {
            slot.state.lock().shrink();
        }
    }

    /// Whether the checkpoint thread has nobody left to write for.
    pub(crate) fn stopped(&self) -> bool {
        self.quit.load(Ordering::Acquire)
            || (self.stop_at.get().is_some() && *self.running.lock() <= 1)
    }

    pub(crate) fn thread_ended(&self) {
        *self.running.lock() -= 1;
        self.ended.notify_all();
        self.checkpointer.wake();
    }

    /// Where the state turns out to be damaged, sees to it that the next start brings it back, and
    /// says that there must be one.
    pub(crate) fn noted<T>(&self, result: Result<T, StateError>) -> Result<T, StateError> {
        if let Err(error) = &result {
            let what = match error {
                StateError::Damaged(what) => Some(what.clone()),
                StateError::Store(StoreError {
                    doing,
                    why,
                    damage: true,
                }) => Some(format!("{doing}: {why}")),
                StateError::Store(_)
                | StateError::Redo { .. }
                | StateError::NoSuchPartition(_)
                | StateError::Renewing
                | StateError::Reopening
                | StateError::TimedOut(_)
                | StateError::Failed(_) => None,
            };
            if let Some(what) = &what {
                self.checkpointer.mark_damaged(what);
            }
            if what.is_some() || matches!(error, StateError::Store(_)) {
                let why = format!("{}; restart to recover", with_causes(error));
                self.fail(&[], why, true);
            }
        }
        result
    }
}

impl Slot {
    /// Shows others what the state takes.
    pub(crate) fn note(&self, state: &PartitionState) {
        self.memory.store(state.memory(), Ordering::Relaxed);
        self.keys_memory
            .store(state.keys().bytes(), Ordering::Relaxed);
    }

    /// What can be had of the partition without waiting. To be called under the state's lock.
    pub(crate) fn at_hand(&self) -> AtHand<'static> {
        if self.all_in_memory.load(Ordering::Relaxed) {
            AtHand::AllInMemory
        } else {
            AtHand::InMemory
        }
    }
}
