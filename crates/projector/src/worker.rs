//! The loop that reads, folds and completes waiters.
//!
//! A worker folds a fixed set of partitions, and nobody else folds them. It holds a partition's
//! lock for one batch; only reads and the checkpoint ever ask for it meanwhile.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::MutexGuard;
use tally_domain::{
    Applied, EventId, LetterFate, Outcome, Partition, PartitionState, Position, Record, Verdict,
};
use tally_log::{Batch, LogReader, ReadError};

use crate::checkpoint::HalfDone;
use crate::error::{StateError, with_causes};
use crate::loader::{self, AtHand, Done, Job, Loaded, NotAtHand, Parked};
use crate::metrics::unix_seconds;
use crate::shared::{Shared, Slot};
use crate::waiters::{Deliveries, EventFate};

/// How long a read waits for records before the worker looks whether it shall end.
const READ_WAIT: Duration = Duration::from_millis(500);

/// How long a worker waits before it asks a log again that could not be read.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// How much may wait for the loader, in bytes, before the worker waits too.
const PARKED_BYTES: usize = 8 << 20;

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

impl Ended {
    /// Whether another start finds things in order.
    fn restart_helps(&self) -> bool {
        match self {
            // What the log says stays as it is.
            Self::Read(_) => false,
            Self::State(_) | Self::Full => true,
        }
    }
}

/// Runs until the projector stops. Whatever ends it early, a panic too, is said in the status.
pub(crate) fn run(shared: &Shared, mut reader: Box<dyn LogReader>) {
    let partitions: Vec<u32> = reader
        .positions()
        .into_iter()
        .map(|position| position.partition)
        .collect();
    let (why, restart) =
        match std::panic::catch_unwind(AssertUnwindSafe(|| with_loader(shared, reader.as_mut()))) {
            Ok(Ok(())) => return,
            Ok(Err(ended)) => (with_causes(&ended), ended.restart_helps()),
            Err(_) => {
                let why = "a fold worker panicked; the service's log has the cause";
                (why.to_owned(), true)
            }
        };
    shared.fail(&partitions, why, restart);
}

/// Folds, with a thread beside it that reads from the store what the fold needs.
fn with_loader(shared: &Shared, reader: &mut dyn LogReader) -> Result<(), Ended> {
    let ((jobs, to_do), (done, loaded)) = (mpsc::channel(), mpsc::channel());
    let wake = reader.waker();
    std::thread::scope(|scope| {
        let load = move || loader::run(shared, &to_do, &done, wake.as_ref());
        let named = std::thread::Builder::new().name("tally-load".to_owned());
        let spawned = named.spawn_scoped(scope, load);
        spawned.map_err(|error| {
            StateError::Failed(format!(
                "a thread that reads the state can't start: {error}"
            ))
        })?;
        // Ends before the scope does, and with it the jobs, and with those the thread.
        follow(shared, reader, Fold::new(shared, jobs, loaded))
    })
}

fn follow(shared: &Shared, reader: &mut dyn LogReader, mut fold: Fold<'_>) -> Result<(), Ended> {
    let mut batch = Batch::new();
    let mut read = reader.positions();
    let mut at = read.clone();
    while !at.is_empty() && !finished(shared, &at) {
        match reader.next(&mut batch, READ_WAIT) {
            Ok(()) => {
                fold.batch(&batch)?;
                read = reader.positions();
            }
            Err(ReadError::Unavailable(why)) => {
                tracing::warn!(why, "the log can't be read; trying again");
                shared.checkpointer.pause(RETRY_WAIT);
            }
            Err(error @ ReadError::OutOfRange { partition, .. }) => {
                read = without(shared, reader, partition, error)?;
                fold.give_up(partition);
            }
            Err(error @ (ReadError::Damaged { .. } | ReadError::Replaced(_))) => {
                return Err(error.into());
            }
        }
        // What is decided waits for no value of another.
        fold.tell(&read);
        let next = fold.take_loaded(&read)?;
        if next != at {
            shared.log.applied(&next);
            at = next;
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
    shared.fail(&[partition], with_causes(&Ended::from(error)), false);
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

/// Calls for a checkpoint where many values changed or memory is short, and waits where far too many
/// changed or memory is full: it is bounded by that. A checkpoint that failed lets the fold go on,
/// but not past twice the memory. Where there are no more checkpoints, the worker ends.
fn wait_for_checkpoint(shared: &Shared) -> Result<(), Ended> {
    let enough = shared.options.checkpoint_changes;
    if shared.changed() < enough && !shared.memory_is_short() {
        return Ok(());
    }
    let checkpointer = &shared.checkpointer;
    let round = checkpointer.rounds();
    checkpointer.wake();
    let mut asked = round;
    let too_much = || {
        shared.changed() >= enough.saturating_mul(4)
            || shared.memory_is_exceeded()
            // One checkpoint drops what can be dropped; one that failed is tried again in its time.
            || (shared.memory_is_full()
                && checkpointer.rounds() == round
                && checkpointer.unwritten() == 0
                && !checkpointer.has_given_up())
    };
    while too_much() && !shared.quit.load(Ordering::Acquire) {
        if checkpointer.has_given_up() {
            return Err(Ended::Full);
        }
        checkpointer.pause(Duration::from_millis(100));
        // One that went well may not have been enough, where others brought values meanwhile; one that
        // failed comes again in its time.
        let now = checkpointer.rounds();
        if std::mem::replace(&mut asked, now) != now {
            checkpointer.wake();
        }
    }
    Ok(())
}

/// A partition's state while it is folded.
type HeldState<'a> = Option<(&'a Slot, MutexGuard<'a, PartitionState>)>;

/// Folds batches; its lists are used again.
struct Fold<'a> {
    shared: &'a Shared,
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<Done>,
    /// By partition: records that wait for values from the store.
    parked: Vec<Parked>,
    /// By partition: events somebody waits for.
    fates: Vec<Vec<(EventId, EventFate)>>,
    outcomes: Vec<u64>,
    /// How many records were applied since they were counted last.
    records: usize,
    /// Whether there were any.
    dead_letters: bool,
}

impl<'a> Fold<'a> {
    fn new(shared: &'a Shared, jobs: mpsc::Sender<Job>, done: mpsc::Receiver<Done>) -> Self {
        let slots = &shared.slots;
        Self {
            shared,
            jobs,
            done,
            parked: slots.iter().map(|_| Parked::default()).collect(),
            fates: slots.iter().map(|_| Vec::new()).collect(),
            outcomes: vec![0; Outcome::ALL.len()],
            records: 0,
            dead_letters: false,
        }
    }

    /// Folds what can be folded at once, and parks the rest.
    fn batch(&mut self, batch: &Batch) -> Result<(), Ended> {
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
                return Err(StateError::NoSuchPartition(position.partition).into());
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
    fn ask(&mut self) -> Result<(), Ended> {
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
    fn take_loaded(&mut self, read: &[Position]) -> Result<Vec<Position>, Ended> {
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

    fn unpark(&mut self, partition: Partition, loaded: Loaded) -> Result<(), Ended> {
        let shared = self.shared;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let (Some(slot), Some(parked)) = (shared.slots.get(place), self.parked.get_mut(place))
        else {
            return Err(StateError::NoSuchPartition(partition).into());
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
    fn give_up(&mut self, partition: Partition) {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        if let Some(parked) = self.parked.get_mut(place) {
            parked.give_up();
        }
    }

    /// Up to where all is applied, of what was read up to `read`.
    fn applied(&self, read: &[Position]) -> Vec<Position> {
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
    fn tell(&mut self, read: &[Position]) -> Vec<Position> {
        let next = self.applied(read);
        self.complete(&next);
        next
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

fn loader_ended() -> Ended {
    StateError::Failed("the thread that reads the state has ended".to_owned()).into()
}
