//! Values that the fold needs and memory lacks, read from the store beside the fold.
//!
//! Where an event needs a value that is not in memory, the event is *parked* with all that follow it
//! in its partition, and the worker's loader, a thread of its own, reads what they need, for
//! [`JOB_RECORDS`] at a time; the other partitions are folded meanwhile. Only where more is parked than
//! the worker may hold does it wait for the store. While a partition is parked nothing changes in it:
//! thus what was read stays true until the fold takes it, whatever checkpoints are written and
//! whatever is dropped from memory meanwhile.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use hashbrown::HashMap;
use tally_domain::{
    Backing, Counters, DeadLetter, Entry, Event, Offset, Partition, PartitionState, Position,
    Record, Resource, SettleAction, Settlement, Toggles, UserId,
};
use tally_log::BatchRecord;

use crate::dead_letters::{Written, written};
use crate::error::StateError;
use crate::shared::Shared;
use crate::store::values::{EntryKey, EntryValue, find};

/// For how many records a job reads at most: its answer is waited for, and so is its end at a stop.
const JOB_RECORDS: usize = 1_000;

/// How many dead letters are read at once, which may be large: the records behind wait for the next.
const LETTERS_AT_ONCE: usize = 16;

/// What was read from the store of one partition.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    counters: HashMap<Resource, Option<Counters>>,
    toggles: HashMap<Resource, HashMap<UserId, Option<Toggles>>>,
    letters: HashMap<Offset, Option<DeadLetter>>,
    moved: HashMap<Position, bool>,
}

impl Loaded {
    pub(crate) fn extend(&mut self, more: Self) {
        self.counters.extend(more.counters);
        for (resource, users) in more.toggles {
            self.toggles.entry(resource).or_default().extend(users);
        }
        self.letters.extend(more.letters);
        self.moved.extend(more.moved);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What the fold can have without waiting.
pub(crate) enum AtHand<'a> {
    /// All there is is in memory.
    AllInMemory,
    /// What is in memory, and this.
    Loaded(&'a Loaded),
    /// What is in memory.
    InMemory,
}

/// A value has to be loaded first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAtHand;

impl Backing for AtHand<'_> {
    type Error = NotAtHand;

    fn counters(&self, resource: Resource) -> Result<Option<Counters>, NotAtHand> {
        match self {
            Self::AllInMemory => Ok(None),
            Self::Loaded(loaded) => loaded.counters.get(&resource).copied().ok_or(NotAtHand),
            Self::InMemory => Err(NotAtHand),
        }
    }

    fn toggles(&self, resource: Resource, user: &UserId) -> Result<Option<Toggles>, NotAtHand> {
        match self {
            Self::AllInMemory => Ok(None),
            Self::Loaded(loaded) => {
                // Who likes what has no events: nobody.
                if loaded.counters.get(&resource) == Some(&None) {
                    return Ok(None);
                }
                let users = loaded.toggles.get(&resource).ok_or(NotAtHand)?;
                users.get(user).copied().ok_or(NotAtHand)
            }
            Self::InMemory => Err(NotAtHand),
        }
    }

    // A checkpoint takes letters out of memory, so that never all there are is there.
    fn dead_letter(&self, offset: Offset) -> Result<Option<DeadLetter>, NotAtHand> {
        match self {
            Self::Loaded(loaded) => loaded.letters.get(&offset).cloned().ok_or(NotAtHand),
            Self::AllInMemory | Self::InMemory => Err(NotAtHand),
        }
    }

    fn moved(&self, origin: Position) -> Result<bool, NotAtHand> {
        match self {
            Self::Loaded(loaded) => loaded.moved.get(&origin).copied().ok_or(NotAtHand),
            Self::AllInMemory | Self::InMemory => Err(NotAtHand),
        }
    }
}

/// What is to be read from the store.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    counters: Vec<Resource>,
    toggles: Vec<(Resource, UserId)>,
    letters: Vec<Offset>,
    origins: Vec<Position>,
}

impl Wanted {
    /// Adds what memory lacks of a resource's counters, and of a user's toggles where `toggles`.
    pub(crate) fn add(
        &mut self,
        state: &PartitionState,
        resource: Resource,
        user: &UserId,
        toggles: bool,
    ) {
        if !state.has_counters(resource) {
            self.counters.push(resource);
        }
        if toggles && !state.has_toggles(resource, user) {
            self.toggles.push((resource, user.clone()));
        }
    }

    /// The same of an event.
    fn add_event(&mut self, state: &PartitionState, event: &Event, told: bool) {
        let Event {
            resource,
            user,
            interaction,
            ..
        } = event;
        self.add(state, *resource, user, told || interaction.sets_toggle());
    }

    /// Adds what memory lacks of a dead letter that is settled: first the letter, and once that is
    /// loaded, what its event needs.
    fn add_settlement(&mut self, state: &PartitionState, settled: &Settlement, loaded: &Loaded) {
        let origin = settled.origin;
        if origin.partition != state.partition() {
            if let Some(event) = &settled.event {
                self.add_event(state, event, false);
                if !state.has_moved(origin) && !loaded.moved.contains_key(&origin) {
                    self.origins.push(origin);
                }
            }
            return;
        }
        let letter = match state.dead_letter_in_memory(origin.offset) {
            Some(letter) => letter,
            None => match loaded.letters.get(&origin.offset) {
                Some(letter) => letter.as_ref(),
                None => {
                    if self.letters.len() < LETTERS_AT_ONCE {
                        self.letters.push(origin.offset);
                    }
                    None
                }
            },
        };
        match settled.action {
            SettleAction::Drop => {}
            SettleAction::Replay => {
                if let Some(Ok(event)) = letter.map(|letter| tally_domain::decode(&letter.value)) {
                    self.add_event(state, &event, false);
                }
            }
        }
    }

    /// Reads it, each bucket once for counters and once for toggles.
    pub(crate) fn load(self, shared: &Shared, partition: Partition) -> Result<Loaded, StateError> {
        self.load_while(shared, partition, || true)
    }

    /// The same; fails as soon as nobody `wants` it any more.
    fn load_while(
        self,
        shared: &Shared,
        partition: Partition,
        wants: impl Fn() -> bool,
    ) -> Result<Loaded, StateError> {
        let bucket = |bucket| {
            if wants() {
                shared.bucket(partition, bucket)
            } else {
                Err(StateError::Failed("it is being stopped".to_owned()))
            }
        };
        let mut loaded = Loaded::default();
        let counters = self.counters.into_iter();
        let counters = counters.map(|resource| (EntryKey::counters(resource), resource));
        let counters = counters.collect();
        each(counters, shared.buckets, bucket, |resource, value| {
            let counters = match value {
                Some(EntryValue::Counters(counters)) => Some(counters),
                Some(EntryValue::Toggles(..)) | None => None,
            };
            loaded.counters.insert(resource, counters);
        })?;
        let toggles = self.toggles.into_iter();
        // A resource without events has no users either.
        let toggles = toggles
            .filter(|(resource, _)| loaded.counters.get(resource) != Some(&None))
            .map(|(resource, user)| (EntryKey::toggles(resource, &user), (resource, user)));
        let toggles = toggles.collect();
        each(
            toggles,
            shared.buckets,
            bucket,
            |(resource, user), value| {
                let toggles = match value {
                    Some(EntryValue::Toggles(_, toggles)) => Some(toggles),
                    Some(EntryValue::Counters(_)) | None => None,
                };
                let users = loaded.toggles.entry(resource).or_default();
                users.insert(user, toggles);
            },
        )?;
        if !self.letters.is_empty() || !self.origins.is_empty() {
            let Written { letters, moved } =
                written(shared, partition, &self.letters, &self.origins)?;
            loaded.letters.extend(letters);
            loaded.moved.extend(moved);
        }
        Ok(loaded)
    }
}

/// Visits what the store says of each key.
fn each<T>(
    wanted: Vec<(EntryKey, T)>,
    buckets: u32,
    stored: impl Fn(u32) -> Result<Vec<u8>, StateError>,
    mut visit: impl FnMut(T, Option<EntryValue<'_>>),
) -> Result<(), StateError> {
    let bucketed = wanted.into_iter();
    let mut bucketed: Vec<_> = bucketed
        .map(|(key, what)| (key.bucket(buckets), key, what))
        .collect();
    bucketed.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    bucketed.dedup_by(|a, b| a.1 == b.1);
    let mut value = Vec::new();
    let mut at = None;
    for (bucket, key, what) in bucketed {
        if at != Some(bucket) {
            value = stored(bucket)?;
            at = Some(bucket);
        }
        visit(what, find(&value, &key)?);
    }
    Ok(())
}

/// A record that waits.
struct ParkedRecord {
    offset: Offset,
    append_time_millis: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// The records of a partition that wait for values, and those behind them.
#[derive(Default)]
pub(crate) struct Parked {
    records: VecDeque<ParkedRecord>,
    bytes: usize,
    /// Whether the loader has been asked.
    asked: bool,
    pub(crate) loaded: Loaded,
}

impl Parked {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How much memory the records take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of the first record that waits.
    pub(crate) fn first_offset(&self) -> Option<Offset> {
        self.records.front().map(|record| record.offset)
    }

    pub(crate) fn push(&mut self, record: BatchRecord<'_>) {
        self.bytes += record.key.len() + record.value.len() + size_of::<ParkedRecord>();
        self.records.push_back(ParkedRecord {
            offset: record.position.offset,
            append_time_millis: record.append_time_millis,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
        });
    }

    /// Takes the records away, to be folded one after the other until one has to wait again.
    pub(crate) fn take(&mut self) -> VecDeque<OwnedRecord> {
        self.bytes = 0;
        std::mem::take(&mut self.records)
            .into_iter()
            .map(OwnedRecord)
            .collect()
    }

    /// Puts those back that have to wait again.
    pub(crate) fn put_back(&mut self, records: VecDeque<OwnedRecord>) {
        for OwnedRecord(record) in records {
            self.bytes += record.key.len() + record.value.len() + size_of::<ParkedRecord>();
            self.records.push_back(record);
        }
    }

    /// What the loader shall read next, where it is not asked already.
    pub(crate) fn ask(&mut self, state: &PartitionState, told: bool) -> Option<Wanted> {
        if self.is_empty() || std::mem::replace(&mut self.asked, true) {
            return None;
        }
        let mut wanted = Wanted::default();
        for record in self.records.iter().take(JOB_RECORDS) {
            match tally_domain::decode_entry(&record.value) {
                Ok(Entry::Event(event)) => wanted.add_event(state, &event, told),
                Ok(Entry::Settlement(settled)) => {
                    wanted.add_settlement(state, &settled, &self.loaded);
                }
                Err(_) => {}
            }
        }
        Some(wanted)
    }

    pub(crate) fn answered(&mut self, loaded: Loaded) {
        self.asked = false;
        self.loaded.extend(loaded);
    }

    /// Forgets everything: the partition is not folded any more.
    pub(crate) fn give_up(&mut self) {
        let asked = self.asked;
        *self = Self {
            asked,
            ..Self::default()
        };
    }
}

/// A record that waited.
pub(crate) struct OwnedRecord(ParkedRecord);

impl OwnedRecord {
    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            offset: self.0.offset,
            append_time_millis: self.0.append_time_millis,
            key: &self.0.key,
            value: &self.0.value,
        }
    }
}

/// What a worker asks of its loader; at most one of each partition is under way.
pub(crate) struct Job {
    pub(crate) partition: Partition,
    pub(crate) wanted: Wanted,
}

/// What comes of a job.
pub(crate) type Done = (Partition, Result<Loaded, StateError>);

/// Reads until nobody asks any more, and wakes the worker after each answer.
pub(crate) fn run(
    shared: &Shared,
    jobs: &Receiver<Job>,
    done: &Sender<Done>,
    wake: &(dyn Fn() + Send + Sync),
) {
    for Job { partition, wanted } in jobs {
        let wants = || !shared.quit.load(Ordering::Acquire);
        let load = AssertUnwindSafe(|| wanted.load_while(shared, partition, wants));
        let loaded = std::panic::catch_unwind(load).unwrap_or_else(|_| {
            let why = "reading the store panicked; the service's log has the cause";
            Err(StateError::Failed(why.to_owned()))
        });
        if done.send((partition, loaded)).is_err() {
            return;
        }
        wake();
    }
}
