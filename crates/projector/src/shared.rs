//! What workers, checkpointer and handle share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tally_domain::{
    Backing, Counters, Offset, Partition, PartitionState, Resource, Toggles, UserId,
};
use tally_log::EventLog;

use crate::checkpoint::Checkpointer;
use crate::error::StateError;
use crate::export::Bell;
use crate::metrics::Metrics;
use crate::projector::Options;
use crate::store::{Store, layout};
use crate::waiters::Waiters;

/// One partition's state, and what others may see of it without its lock.
pub(crate) struct Slot {
    pub(crate) state: Mutex<PartitionState>,
    /// All records below are applied and their waiters are about to be completed.
    pub(crate) next_offset: AtomicU64,
    pub(crate) changed: AtomicUsize,
    pub(crate) dead_letters: AtomicU64,
    /// How many values are in memory.
    pub(crate) in_memory: AtomicUsize,
    /// Whether the store held nothing of this partition when it was opened, and nothing was
    /// dropped from memory since: then what is not in memory is nowhere. Changed under the
    /// state's lock while no checkpoint runs.
    pub(crate) all_in_memory: AtomicBool,
}

/// What workers, checkpointer and handle share.
pub(crate) struct Shared {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) store: Box<dyn Store>,
    pub(crate) waiters: Waiters,
    pub(crate) metrics: Metrics,
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
    pub(crate) failure: Mutex<Option<String>>,
    /// How many threads run.
    pub(crate) running: Mutex<usize>,
    pub(crate) ended: Condvar,
}

impl Shared {
    pub(crate) fn slot(&self, partition: Partition) -> Option<&Slot> {
        self.slots.get(usize::try_from(partition).ok()?)
    }

    pub(crate) fn backing<'a>(&'a self, partition: Partition, slot: &Slot) -> StoreBacking<'a> {
        let store = if slot.all_in_memory.load(Ordering::Relaxed) {
            None
        } else {
            Some(self.store.as_ref())
        };
        StoreBacking { store, partition }
    }

    pub(crate) fn progressed(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress_millis.store(millis, Ordering::Relaxed);
    }

    /// Says for good why numbers will no longer move, and lets the waiters of `partitions` go.
    pub(crate) fn fail(&self, partitions: &[Partition], why: String) {
        tracing::error!(why, ?partitions, "the projector has stopped, or some of it");
        self.failure.lock().get_or_insert(why);
        for partition in partitions {
            self.waiters.abandon(*partition);
        }
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    pub(crate) fn changed(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| slot.changed.load(Ordering::Relaxed))
            .sum::<usize>()
            .saturating_add(self.checkpointer.unwritten())
    }

    pub(crate) fn in_memory(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| slot.in_memory.load(Ordering::Relaxed))
            .sum()
    }

    /// Drops from memory what the store has, where there is too much. Only after a checkpoint was
    /// written whole, and before the next one begins: what is unchanged is in the store then.
    pub(crate) fn forget_written(&self) {
        if self.in_memory() <= self.options.max_values_in_memory {
            return;
        }
        for slot in &self.slots {
            let mut state = slot.state.lock();
            slot.all_in_memory.store(false, Ordering::Relaxed);
            state.forget_unchanged();
            slot.in_memory.store(state.in_memory(), Ordering::Relaxed);
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

    /// Where the state turns out to be damaged, sees to it that the next start brings it back.
    pub(crate) fn noted<T>(&self, result: Result<T, StateError>) -> Result<T, StateError> {
        if let Err(StateError::Damaged(what)) = &result {
            self.checkpointer.mark_damaged(what);
        }
        result
    }
}

/// The store, as the fold sees it.
pub(crate) struct StoreBacking<'a> {
    store: Option<&'a dyn Store>,
    partition: Partition,
}

impl StoreBacking<'_> {
    fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        let Some(sealed) = self
            .store
            .map(|store| store.get(key))
            .transpose()?
            .flatten()
        else {
            return Ok(None);
        };
        layout::open(key, &sealed).and_then(read).map(Some)
    }
}

impl Backing for StoreBacking<'_> {
    type Error = StateError;

    fn counters(&self, resource: Resource) -> Result<Option<Counters>, StateError> {
        if self.store.is_none() {
            return Ok(None);
        }
        self.get(
            &layout::counters_key(self.partition, resource),
            layout::counters_from,
        )
    }

    fn toggles(&self, resource: Resource, user: &UserId) -> Result<Option<Toggles>, StateError> {
        if self.store.is_none() {
            return Ok(None);
        }
        self.get(
            &layout::toggles_key(self.partition, resource, user),
            layout::toggles_from,
        )
    }
}
