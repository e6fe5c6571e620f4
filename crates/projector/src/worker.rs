//! The loop that reads, folds and completes waiters.
//!
//! A worker folds a fixed set of partitions, and nobody else folds them. It holds a partition's
//! lock for one batch; only reads and the checkpoint ever ask for it meanwhile.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;
use tally_domain::{Applied, EventId, Outcome, Partition, PartitionState, Position, Verdict};
use tally_log::{Batch, BatchRecord, LogReader, ReadError};

use crate::checkpoint::HalfDone;
use crate::error::{StateError, with_causes};
use crate::metrics::unix_seconds;
use crate::shared::{Shared, Slot};
use crate::waiters::{Deliveries, EventFate};

/// How long a read waits for records before the worker looks whether it shall end.
const READ_WAIT: Duration = Duration::from_millis(500);

/// How long a worker waits before it asks a log again that could not be read.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the log can't be read")]
    Read(#[from] ReadError),
    #[error("the state can't be read, restart to recover")]
    State(#[from] StateError),
    #[error("too much changed since the state could be written down last, restart to recover")]
    Full,
}

/// Runs until the projector stops. Whatever ends it early, a panic too, is said in the status.
pub(crate) fn run(shared: &Shared, mut reader: Box<dyn LogReader>) {
    let partitions: Vec<u32> = reader
        .positions()
        .into_iter()
        .map(|position| position.partition)
        .collect();
    let why = match std::panic::catch_unwind(AssertUnwindSafe(|| follow(shared, reader.as_mut()))) {
        Ok(Ok(())) => return,
        Ok(Err(ended)) => with_causes(&ended),
        Err(_) => "a fold worker panicked; the service's log has the cause".to_owned(),
    };
    shared.fail(&partitions, why);
}

fn follow(shared: &Shared, reader: &mut dyn LogReader) -> Result<(), Ended> {
    let mut batch = Batch::new();
    let mut fold = Fold::new(shared);
    let mut at = reader.positions();
    while !at.is_empty() && !finished(shared, &at) {
        match reader.next(&mut batch, READ_WAIT) {
            Ok(()) => {
                let next = reader.positions();
                fold.batch(&batch, &next)?;
                if next != at {
                    shared.log.applied(&next);
                    at = next;
                }
            }
            Err(ReadError::Unavailable(why)) => {
                tracing::warn!(why, "the log can't be read; trying again");
                shared.checkpointer.pause(RETRY_WAIT);
            }
            Err(error @ ReadError::OutOfRange { partition, .. }) => {
                at = without(shared, reader, partition, error)?;
            }
            Err(error @ (ReadError::Damaged { .. } | ReadError::Replaced(_))) => {
                return Err(error.into());
            }
        }
        wait_for_checkpoint(shared)?;
    }
    Ok(())
}

/// Where the reader has given the partition up, stops only that one, and returns where the others
/// are.
fn without(
    shared: &Shared,
    reader: &dyn LogReader,
    partition: Partition,
    error: ReadError,
) -> Result<Vec<Position>, Ended> {
    let left = reader.positions();
    if left.iter().any(|position| position.partition == partition) {
        return Err(error.into());
    }
    shared.fail(&[partition], with_causes(&Ended::from(error)));
    Ok(left)
}

fn finished(shared: &Shared, positions: &[Position]) -> bool {
    if shared.quit.load(Ordering::Acquire) {
        return true;
    }
    let Some(stop_at) = shared.stop_at.get() else {
        return false;
    };
    positions.iter().all(|position| {
        let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
        stop_at
            .get(place)
            .is_none_or(|offset| position.offset >= *offset)
    })
}

/// Calls for a checkpoint where many values changed, and waits where far too many did: memory is
/// bounded by it. Where there are no more checkpoints, the worker ends.
fn wait_for_checkpoint(shared: &Shared) -> Result<(), Ended> {
    let enough = shared.options.checkpoint_changes;
    if shared.changed() < enough {
        return Ok(());
    }
    shared.checkpointer.wake();
    while shared.changed() >= enough.saturating_mul(4) && !shared.quit.load(Ordering::Acquire) {
        if shared.checkpointer.has_given_up() {
            return Err(Ended::Full);
        }
        shared.checkpointer.pause(Duration::from_millis(100));
    }
    Ok(())
}

/// Folds batches; its lists are used again.
struct Fold<'a> {
    shared: &'a Shared,
    /// By partition: events somebody waits for.
    fates: Vec<Vec<(EventId, EventFate)>>,
    outcomes: Vec<u64>,
    /// Whether the batch had any.
    dead_letters: bool,
}

impl<'a> Fold<'a> {
    fn new(shared: &'a Shared) -> Self {
        let fates = shared.slots.iter().map(|_| Vec::new()).collect();
        Self {
            shared,
            fates,
            outcomes: vec![0; Outcome::ALL.len()],
            dead_letters: false,
        }
    }

    fn batch(&mut self, batch: &Batch, positions: &[Position]) -> Result<(), Ended> {
        let mut held: Vec<Option<(&Slot, MutexGuard<'_, PartitionState>)>> = Vec::new();
        held.resize_with(self.shared.slots.len(), || None);
        // Dropped before the locks are: what a panic left half done is never written down.
        let _half_done = HalfDone(&self.shared.checkpointer);
        for record in batch.iter() {
            self.record(&mut held, record)?;
        }
        for (slot, state) in held.iter().flatten() {
            slot.changed.store(state.changed(), Ordering::Relaxed);
            slot.in_memory.store(state.in_memory(), Ordering::Relaxed);
            slot.dead_letters
                .store(state.dead_letter_count(), Ordering::Relaxed);
        }
        drop(held);
        // Before anybody is told, so that who is told finds it counted.
        if !batch.is_empty() {
            self.count(batch.len());
        }
        if std::mem::take(&mut self.dead_letters) {
            self.shared.export.wake();
        }
        self.complete(positions);
        Ok(())
    }

    fn record(
        &mut self,
        held: &mut [Option<(&'a Slot, MutexGuard<'a, PartitionState>)>],
        record: BatchRecord<'_>,
    ) -> Result<(), Ended> {
        let position = record.position;
        let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
        let missing = StateError::NoSuchPartition(position.partition);
        let Some(slot) = self.shared.slots.get(place) else {
            return Err(missing.into());
        };
        let Some(held) = held.get_mut(place) else {
            return Err(missing.into());
        };
        let (_, state) = held.get_or_insert_with(|| (slot, slot.state.lock()));
        let backing = self.shared.backing(position.partition, slot);
        match self.shared.noted(state.apply(record.record(), &backing))? {
            Applied::Folded { event, outcome } => {
                if let Some(count) = self.outcomes.get_mut(outcome as usize) {
                    *count += 1;
                }
                if self.shared.waiters.any(position.partition) {
                    let read = state.read(event.resource, &event.user, &backing);
                    let (counters, toggles) = self.shared.noted(read)?;
                    let counters = counters.unwrap_or_default();
                    let verdict = Verdict {
                        outcome,
                        position,
                        counters,
                        toggles,
                    };
                    self.fate(place, event.id, EventFate::Folded(verdict));
                }
            }
            Applied::DeadLetter(reason) => {
                self.shared.metrics.dead_letter(reason);
                self.dead_letters = true;
                tracing::warn!(
                    partition = position.partition,
                    offset = position.offset,
                    reason = reason.as_str(),
                    "a record can't be folded and is kept as a dead letter"
                );
                // Its waiter knows the event's id, which a dead letter of ours still has.
                if let Ok(event) = tally_domain::decode(record.value) {
                    self.fate(place, event.id, EventFate::DeadLetter(reason));
                }
            }
            Applied::Already => {}
        }
        Ok(())
    }

    fn fate(&mut self, place: usize, id: EventId, fate: EventFate) {
        if let Some(fates) = self.fates.get_mut(place) {
            fates.push((id, fate));
        }
    }

    fn complete(&mut self, positions: &[Position]) {
        let waiters = &self.shared.waiters;
        let mut deliveries = Deliveries::default();
        let mut moved = false;
        for position in positions {
            let Some(slot) = self.shared.slot(position.partition) else {
                continue;
            };
            // Sequentially consistent: see `Projector::wait_for_position`.
            let before = slot.next_offset.swap(position.offset, Ordering::SeqCst);
            moved |= before != position.offset;
            let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
            let Some(fates) = self.fates.get_mut(place) else {
                continue;
            };
            if waiters.any(position.partition) {
                let fates = fates.drain(..);
                waiters.complete(position.partition, position.offset, fates, &mut deliveries);
            }
            fates.clear();
        }
        // Over a gap too, where there is nothing to count.
        if moved {
            self.shared.progressed();
        }
        deliveries.send();
    }

    fn count(&mut self, records: usize) {
        let metrics = &self.shared.metrics;
        for (outcome, count) in Outcome::ALL.iter().zip(&mut self.outcomes) {
            if *count > 0 {
                metrics.folded(*outcome, std::mem::take(count));
            }
        }
        metrics
            .batch_records
            .observe(f64::from(u32::try_from(records).unwrap_or(u32::MAX)));
        metrics.last_progress.set(unix_seconds());
    }
}
