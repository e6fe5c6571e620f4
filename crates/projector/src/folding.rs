//! Folds batches for a [worker](crate::worker): at once what memory has all for, and the rest when it is
//! loaded; then says what came of it to whoever waits.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::MutexGuard;
use tally_domain::{
    Applied, EventId, LetterFate, Outcome, Partition, PartitionState, Position, Record, Verdict,
};
use tally_log::Batch;

use crate::checkpoint::HalfDone;
use crate::error::StateError;
use crate::fresh::Fresh;
use crate::loader::{AtHand, Done, Job, Loaded, NotAtHand, Parked};
use crate::metrics::unix_seconds;
use crate::shared::{Shared, Slot};
use crate::waiters::{Deliveries, EventFate};

/// How much may wait for the loader, in bytes, before the worker waits too.
const PARKED_BYTES: usize = 8 << 20;

/// A partition's state while it is folded.
type HeldState<'a> = Option<(&'a Slot, MutexGuard<'a, PartitionState>)>;

/// Folds batches; its lists are used again.
pub(crate) struct Fold<'a> {
    shared: &'a Shared,
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<Done>,
    /// By partition: records that wait for values from the store.
    parked: Vec<Parked>,
    /// By partition: events somebody waits for.
    fates: Vec<Vec<(EventId, EventFate)>>,
    outcomes: Vec<u64>,
    fresh: Fresh<'a>,
    /// How many records were applied since they were counted last.
    records: usize,
    /// Whether there were any.
    dead_letters: bool,
}

impl<'a> Fold<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        jobs: mpsc::Sender<Job>,
        done: mpsc::Receiver<Done>,
    ) -> Self {
        let slots = &shared.slots;
        Self {
            shared,
            jobs,
            done,
            parked: slots.iter().map(|_| Parked::default()).collect(),
            fates: slots.iter().map(|_| Vec::new()).collect(),
            outcomes: vec![0; Outcome::ALL.len()],
            fresh: Fresh::new(shared),
            records: 0,
            dead_letters: false,
        }
    }

    /// Folds what can be folded at once, and parks the rest.
    pub(crate) fn batch(&mut self, batch: &Batch) -> Result<(), StateError> {
        let mut held: Vec<HeldState<'a>> = Vec::new();
        held.resize_with(self.shared.slots.len(), || None);
        // Dropped before the locks are: what a panic left half done is never written down.
        let _half_done = HalfDone(&self.shared.checkpointer);
        let mut parked = false;
        for record in batch.iter() {
            let position = record.position;
            let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
            let (Some(slot), Some(held), Some(waiting)) = (
                self.shared.slots.get(place),
                held.get_mut(place),
                self.parked.get_mut(place),
            ) else {
                return Err(StateError::NoSuchPartition(position.partition));
            };
            if !waiting.is_empty() {
                waiting.push(record);
                continue;
            }
            let (slot, state) = held.get_or_insert_with(|| (slot, slot.state.lock()));
            let hand = slot.at_hand();
            if self.record(state, position.partition, record.record(), &hand) == Err(NotAtHand)
                && let Some(waiting) = self.parked.get_mut(place)
            {
                waiting.push(record);
                parked = true;
            }
        }
        for (slot, state) in held.iter().flatten() {
            note(slot, state);
        }
        drop(held);
        self.count();
        if parked {
            self.ask()?;
        }
        Ok(())
    }

    /// Asks the loader for what parked records need and nobody asked for.
    fn ask(&mut self) -> Result<(), StateError> {
        for ((partition, slot), parked) in (0u32..).zip(&self.shared.slots).zip(&mut self.parked) {
            if parked.is_empty() {
                continue;
            }
            let told = self.shared.waiters.any(partition);
            let wanted = parked.ask(&slot.state.lock(), told);
            if let Some(wanted) = wanted
                && self.jobs.send(Job { partition, wanted }).is_err()
            {
                return Err(loader_ended());
            }
        }
        Ok(())
    }

    /// Folds what waited for values that are loaded now, and tells who waits for it. Where too much
    /// waits, it waits as well. Up to where all is applied, of what was read up to `read`.
    pub(crate) fn take_loaded(&mut self, read: &[Position]) -> Result<Vec<Position>, StateError> {
        let mut next = self.applied(read);
        loop {
            let waiting: usize = self.parked.iter().map(Parked::bytes).sum();
            let quit = self.shared.quit.load(Ordering::Acquire);
            let done = if waiting > PARKED_BYTES && !quit {
                match self.done.recv_timeout(Duration::from_millis(100)) {
                    Err(mpsc::RecvTimeoutError::Timeout) => continue,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return Err(loader_ended()),
                    Ok(done) => done,
                }
            } else {
                match self.done.try_recv() {
                    Err(mpsc::TryRecvError::Empty) => return Ok(next),
                    Err(mpsc::TryRecvError::Disconnected) => return Err(loader_ended()),
                    Ok(done) => done,
                }
            };
            let (partition, loaded) = done;
            let loaded = match loaded {
                // It was given up for that.
                Err(_) if self.shared.quit.load(Ordering::Acquire) => return Ok(next),
                loaded => self.shared.noted(loaded)?,
            };
            self.unpark(partition, loaded)?;
            next = self.tell(read);
        }
    }

    fn unpark(&mut self, partition: Partition, loaded: Loaded) -> Result<(), StateError> {
        let shared = self.shared;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let (Some(slot), Some(parked)) = (shared.slots.get(place), self.parked.get_mut(place))
        else {
            return Err(StateError::NoSuchPartition(partition));
        };
        parked.answered(loaded);
        let mut records = parked.take();
        let mut loaded = std::mem::take(&mut parked.loaded);
        let mut moved = false;
        {
            let mut state = slot.state.lock();
            let _half_done = HalfDone(&shared.checkpointer);
            let hand = AtHand::Loaded(&loaded);
            while let Some(record) = records.front() {
                if self.record(&mut state, partition, record.record(), &hand) == Err(NotAtHand) {
                    break;
                }
                records.pop_front();
                moved = true;
            }
            note(slot, &state);
        }
        if moved {
            // What was folded may have changed it.
            loaded.clear();
        }
        if let Some(parked) = self.parked.get_mut(place) {
            parked.loaded = loaded;
            parked.put_back(records);
        }
        self.count();
        self.ask()
    }

    /// A partition that is not read any more.
    pub(crate) fn give_up(&mut self, partition: Partition) {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        if let Some(parked) = self.parked.get_mut(place) {
            parked.give_up();
        }
    }

    /// Up to where all is applied, of what was read up to `read`.
    pub(crate) fn applied(&self, read: &[Position]) -> Vec<Position> {
        let applied = |position: &Position| {
            let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
            let waiting = self.parked.get(place).and_then(Parked::first_offset);
            Position {
                offset: waiting.unwrap_or(position.offset),
                ..*position
            }
        };
        read.iter().map(applied).collect()
    }

    fn record(
        &mut self,
        state: &mut PartitionState,
        partition: Partition,
        record: Record<'_>,
        hand: &AtHand<'_>,
    ) -> Result<(), NotAtHand> {
        let position = Position {
            partition,
            offset: record.offset,
        };
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let told = self.shared.waiters.any(partition);
        match state.apply_for(record, told, hand)? {
            Applied::Folded { event, outcome } => {
                self.folded(outcome);
                self.fresh.folded(position, &event, outcome);
                if told {
                    let (counters, toggles) = state.read(event.resource, &event.user, hand)?;
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
                if let Ok(entry) = tally_domain::decode_entry(record.value) {
                    self.fate(place, entry.id(), EventFate::DeadLetter(reason));
                }
            }
            Applied::Settled { settlement, fate } => {
                match fate {
                    LetterFate::Folded(outcome) => self.folded(outcome),
                    LetterFate::Still(_) | LetterFate::Dropped | LetterFate::Gone => {}
                }
                self.fate(place, settlement.id, EventFate::Settled(fate));
            }
            Applied::Already => {}
        }
        if let Some(slot) = self.shared.slots.get(place) {
            slot.folded_millis
                .store(record.append_time_millis, Ordering::Relaxed);
        }
        self.records += 1;
        Ok(())
    }

    fn folded(&mut self, outcome: Outcome) {
        if let Some(count) = self.outcomes.get_mut(outcome as usize) {
            *count += 1;
        }
    }

    fn fate(&mut self, place: usize, id: EventId, fate: EventFate) {
        if let Some(fates) = self.fates.get_mut(place) {
            fates.push((id, fate));
        }
    }

    /// Tells who waits what came of their events, of what was read up to `read`; up to where all is
    /// applied.
    pub(crate) fn tell(&mut self, read: &[Position]) -> Vec<Position> {
        let next = self.applied(read);
        self.complete(&next);
        next
    }

    pub(crate) fn complete(&mut self, positions: &[Position]) {
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

    /// Counts what was applied, before anybody is told, so that who is told finds it counted.
    fn count(&mut self) {
        if std::mem::take(&mut self.dead_letters) {
            self.shared.export.wake();
        }
        let records = std::mem::take(&mut self.records);
        if records == 0 {
            return;
        }
        let metrics = &self.shared.metrics;
        for (outcome, count) in Outcome::ALL.iter().zip(&mut self.outcomes) {
            if *count > 0 {
                metrics.folded(*outcome, std::mem::take(count));
            }
        }
        self.fresh.count();
        metrics
            .batch_records
            .observe(f64::from(u32::try_from(records).unwrap_or(u32::MAX)));
        metrics.last_progress.set(unix_seconds());
    }
}

fn note(slot: &Slot, state: &PartitionState) {
    slot.changed.store(state.changed(), Ordering::Relaxed);
    slot.note(state);
    slot.dead_letters
        .store(state.dead_letter_count(), Ordering::Relaxed);
    slot.dead_letters_ever
        .store(state.letter_counts().ever, Ordering::Release);
}

fn loader_ended() -> StateError {
    StateError::Failed("the thread that reads the state has ended".to_owned())
}
