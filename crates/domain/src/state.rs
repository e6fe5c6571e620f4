//! One partition's state, to which records are applied in log order.
//!
//! What is in memory wins; what is not is asked of a [`Backing`], the state as it was last
//! written down. Every change is noted, so that the next checkpoint writes each changed value
//! once.

use std::convert::Infallible;

use hashbrown::HashMap;

use crate::codec::decode;
use crate::dead_letter::{DeadLetter, DeadLetterReason};
use crate::fold::{Outcome, Rules, decide};
use crate::partition::{Offset, Partition, Position};
use crate::remembered::{Fingerprint, RememberedKey, RememberedKeys, Seen};
use crate::words::{
    Counters, Event, EventId, EventTime, InteractionType, Resource, Toggles, UserId,
};

type Hasher = foldhash::fast::FixedState;

/// One record of the log, as the fold sees it.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: Offset,
    /// When the log took it, in milliseconds since 1970.
    pub append_time_millis: u64,
    /// Its key.
    pub key: &'a [u8],
    /// Its value: an event, or something that is not one.
    pub value: &'a [u8],
}

/// The state as it was last written down, for values that are not in memory.
pub trait Backing {
    /// Why it could not be read.
    type Error;

    /// A resource's counters; `None` where the resource has no events.
    ///
    /// # Errors
    /// Where the backing can't be read.
    fn counters(&self, resource: Resource) -> Result<Option<Counters>, Self::Error>;

    /// A user's toggles; `None` where nothing is set.
    ///
    /// # Errors
    /// Where the backing can't be read.
    fn toggles(&self, resource: Resource, user: &UserId) -> Result<Option<Toggles>, Self::Error>;
}

/// Nothing was ever written down: all there is is in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBacking;

impl Backing for NoBacking {
    type Error = Infallible;
    fn counters(&self, _: Resource) -> Result<Option<Counters>, Infallible> {
        Ok(None)
    }
    fn toggles(&self, _: Resource, _: &UserId) -> Result<Option<Toggles>, Infallible> {
        Ok(None)
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was an event, and was folded.
    Folded {
        /// The event.
        event: Event,
        /// What the fold made of it.
        outcome: Outcome,
    },
    /// It can't be folded, and was kept as a dead letter.
    DeadLetter(DeadLetterReason),
    /// It lies below the next offset: it was applied before.
    Already,
}

/// An event's outcome, with the state as of that event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What the fold made of it.
    pub outcome: Outcome,
    /// Where it stands in the log.
    pub position: Position,
    /// The resource's counters, this event included.
    pub counters: Counters,
    /// The user's toggles, this event included.
    pub toggles: Toggles,
}

/// Everything that changed since the last [`PartitionState::take_changes`], in the order in which
/// it first changed.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The offset of the next record to apply.
    pub next_offset: Offset,
    /// The last event that was folded.
    pub last_event: Option<(Offset, EventId)>,
    /// Changed counters.
    pub counters: Vec<(Resource, Counters)>,
    /// Changed toggles; nothing set means that the entry can go.
    pub toggles: Vec<(Resource, UserId, Toggles)>,
    /// New idempotency keys with their sequences, oldest first, in a row; not more than the last
    /// [`Rules::key_count`]. Written ones with sequences further back than that can go.
    pub keys: Vec<(u64, RememberedKey)>,
    /// New dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// How many dead letters there ever were.
    pub dead_letter_count: u64,
}

#[derive(Debug, Clone, Default)]
struct Cell<T> {
    value: T,
    changed: bool,
}

#[derive(Debug, Clone)]
struct ResourceCell {
    counters: Cell<Counters>,
    toggles: HashMap<UserId, Cell<Toggles>, Hasher>,
}

impl ResourceCell {
    fn new(value: Counters, changed: bool) -> Self {
        Self {
            counters: Cell { value, changed },
            toggles: HashMap::default(),
        }
    }
}

/// One partition's state.
#[derive(Debug, Clone)]
pub struct PartitionState {
    partition: Partition,
    partitions: u32,
    rules: Rules,
    next_offset: Offset,
    last_event: Option<(Offset, EventId)>,
    resources: HashMap<Resource, ResourceCell, Hasher>,
    in_memory: usize,
    keys: RememberedKeys,
    keys_taken: u64,
    changed_counters: Vec<Resource>,
    changed_toggles: Vec<(Resource, UserId)>,
    new_dead_letters: Vec<DeadLetter>,
    new_dead_letter_load: usize,
    dead_letter_count: u64,
}

impl PartitionState {
    /// The state before the first record of `partition`, in a log of `partitions`.
    #[must_use]
    pub fn new(partition: Partition, partitions: u32, rules: Rules) -> Self {
        Self {
            partition,
            partitions,
            rules,
            next_offset: 0,
            last_event: None,
            resources: HashMap::default(),
            in_memory: 0,
            keys: RememberedKeys::new(rules),
            keys_taken: 0,
            changed_counters: Vec::new(),
            changed_toggles: Vec::new(),
            new_dead_letters: Vec::new(),
            new_dead_letter_load: 0,
            dead_letter_count: 0,
        }
    }

    /// Continues from what was written down; `self` is new. `first_key` is the sequence of the first of `keys`,
    /// which are all from there on, or at least the last [`Rules::key_count`]; the next key's
    /// where there are none.
    pub fn restore(
        &mut self,
        next_offset: Offset,
        last_event: Option<(Offset, EventId)>,
        dead_letter_count: u64,
        first_key: u64,
        keys: impl IntoIterator<Item = RememberedKey>,
    ) {
        self.next_offset = next_offset;
        self.last_event = last_event;
        self.dead_letter_count = dead_letter_count;
        self.keys.restore_from(first_key, keys);
        self.keys_taken = self.keys.next_sequence();
    }

    /// The partition's number.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The rules it folds by.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The offset of the next record to apply.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The last event that was folded, and where.
    #[must_use]
    pub fn last_event(&self) -> Option<(Offset, EventId)> {
        self.last_event
    }

    /// How many records were kept as dead letters.
    #[must_use]
    pub fn dead_letter_count(&self) -> u64 {
        self.dead_letter_count
    }

    /// The dead letters kept since the last [`take_changes`](Self::take_changes), in log order.
    #[must_use]
    pub fn new_dead_letters(&self) -> &[DeadLetter] {
        &self.new_dead_letters
    }

    /// How many values wait for the next [`take_changes`](Self::take_changes): a measure of the
    /// memory they take, so a dead letter counts once more for every 128 bytes of its record.
    #[must_use]
    pub fn changed(&self) -> usize {
        let keys = self.keys.next_sequence() - self.keys_taken.max(self.keys.first_sequence());
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        self.changed_counters.len() + self.changed_toggles.len() + keys + self.new_dead_letter_load
    }

    /// The keys that hold.
    #[must_use]
    pub fn keys(&self) -> &RememberedKeys {
        &self.keys
    }

    /// Applies one record. A record below the next offset changes nothing; offsets may skip.
    ///
    /// # Errors
    /// Where the backing can't be read; the state is then unchanged.
    pub fn apply<B: Backing>(
        &mut self,
        record: Record<'_>,
        backing: &B,
    ) -> Result<Applied, B::Error> {
        if record.offset < self.next_offset {
            return Ok(Applied::Already);
        }
        let applied = match self.readable(record) {
            Ok(event) => {
                let outcome = self.fold(&event, backing)?;
                self.last_event = Some((record.offset, event.id));
                Applied::Folded { event, outcome }
            }
            Err((reason, detail)) => {
                self.keep(record, reason, &detail);
                Applied::DeadLetter(reason)
            }
        };
        self.next_offset = record.offset.saturating_add(1);
        Ok(applied)
    }

    /// A resource's counters and one user's toggles; `None` counters where it has no events.
    ///
    /// # Errors
    /// Where the backing can't be read.
    pub fn read<B: Backing>(
        &self,
        resource: Resource,
        user: &UserId,
        backing: &B,
    ) -> Result<(Option<Counters>, Toggles), B::Error> {
        let cell = self.resources.get(&resource);
        let counters = match cell {
            Some(cell) => Some(cell.counters.value),
            None => backing.counters(resource)?,
        };
        let toggles = match cell.and_then(|cell| cell.toggles.get(user)) {
            Some(toggles) => toggles.value,
            None => backing.toggles(resource, user)?.unwrap_or_default(),
        };
        Ok((counters, toggles))
    }

    /// Takes what changed since the last call; the values stay in memory. They are not given out
    /// again: a caller that can't write them down keeps them for its next try.
    pub fn take_changes(&mut self) -> Changes {
        self.new_dead_letter_load = 0;
        let mut changes = Changes {
            next_offset: self.next_offset,
            last_event: self.last_event,
            dead_letters: std::mem::take(&mut self.new_dead_letters),
            dead_letter_count: self.dead_letter_count,
            keys: self
                .keys
                .since(self.keys_taken)
                .map(|(at, key)| (at, *key))
                .collect(),
            ..Changes::default()
        };
        self.keys_taken = self.keys.next_sequence();
        changes.counters.reserve(self.changed_counters.len());
        for resource in self.changed_counters.drain(..) {
            if let Some(cell) = self.resources.get_mut(&resource) {
                cell.counters.changed = false;
                changes.counters.push((resource, cell.counters.value));
            }
        }
        changes.toggles.reserve(self.changed_toggles.len());
        for (resource, user) in self.changed_toggles.drain(..) {
            let cell = self.resources.get_mut(&resource);
            if let Some(cell) = cell.and_then(|cell| cell.toggles.get_mut(&user)) {
                cell.changed = false;
                changes.toggles.push((resource, user, cell.value));
            }
        }
        changes
    }

    /// How many values are in memory: resources' counters, and users' toggles on them.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// Drops from memory what has not changed since the last [`take_changes`](Self::take_changes),
    /// to keep memory bounded. Only for a caller whose backing answers with those changes already:
    /// a dropped value is asked of it when it is next needed.
    pub fn forget_unchanged(&mut self) {
        let mut kept = 0;
        self.resources.retain(|_, cell| {
            cell.toggles.retain(|_, toggles| toggles.changed);
            let keep = cell.counters.changed || !cell.toggles.is_empty();
            kept += if keep { 1 + cell.toggles.len() } else { 0 };
            keep
        });
        self.in_memory = kept;
    }

    /// Every resource in memory with its counters, in no order.
    pub fn counters(&self) -> impl Iterator<Item = (Resource, Counters)> {
        self.resources
            .iter()
            .map(|(resource, cell)| (*resource, cell.counters.value))
    }

    /// Every user's toggles in memory, nothing-set ones too, in no order.
    pub fn toggles(&self) -> impl Iterator<Item = (Resource, &UserId, Toggles)> {
        self.resources.iter().flat_map(|(resource, cell)| {
            cell.toggles
                .iter()
                .map(|(user, toggles)| (*resource, user, toggles.value))
        })
    }

    fn readable(&self, record: Record<'_>) -> Result<Event, (DeadLetterReason, String)> {
        let event = decode(record.value).map_err(|error| (error.reason(), error.to_string()))?;
        let home = event.resource.partition(self.partitions);
        if home != self.partition {
            let detail = format!("{} belongs to partition {home}", event.resource);
            return Err((DeadLetterReason::WrongPartition, detail));
        }
        let latest = record
            .append_time_millis
            .saturating_add(self.rules.max_ahead_millis);
        if event.at.as_millis() > latest {
            let taken = EventTime::from_millis(record.append_time_millis);
            let detail = format!(
                "event time {} lies past {taken}, when the log took it",
                event.at
            );
            return Err((DeadLetterReason::FutureTime, detail));
        }
        Ok(event)
    }

    fn fold<B: Backing>(&mut self, event: &Event, backing: &B) -> Result<Outcome, B::Error> {
        let switches = match event.interaction {
            InteractionType::View | InteractionType::Share | InteractionType::Comment => false,
            InteractionType::Like
            | InteractionType::Unlike
            | InteractionType::Bookmark
            | InteractionType::Unbookmark => true,
        };
        self.load(event, switches, backing)?;
        // From here on nothing can fail, so an event is folded whole or not at all.
        let key = event.idempotency_key.as_ref().map(|key| RememberedKey {
            fingerprint: Fingerprint::of(&event.user, event.resource, key),
            at: event.at,
            interaction: event.interaction,
        });
        if let Some(key) = key {
            match self.keys.seen(key.fingerprint, key.at, key.interaction) {
                Seen::New => self.keys.remember(key),
                Seen::Same => return Ok(Outcome::Duplicate),
                Seen::Other => return Ok(Outcome::Conflict),
            }
        }
        let Some(cell) = self.resources.get_mut(&event.resource) else {
            return Ok(Outcome::NoChange);
        };
        let mut toggles = if switches {
            cell.toggles.get_mut(&event.user)
        } else {
            None
        };
        let before = toggles.as_ref().map_or(Toggles::NONE, |cell| cell.value);
        let (outcome, counters_after, toggles_after) =
            decide(cell.counters.value, before, event.interaction);
        if cell.counters.value != counters_after {
            cell.counters.value = counters_after;
            if !std::mem::replace(&mut cell.counters.changed, true) {
                self.changed_counters.push(event.resource);
            }
        }
        if let Some(toggles) = toggles.as_mut().filter(|cell| cell.value != toggles_after) {
            toggles.value = toggles_after;
            if !std::mem::replace(&mut toggles.changed, true) {
                self.changed_toggles
                    .push((event.resource, event.user.clone()));
            }
        }
        Ok(outcome)
    }

    /// Brings what the event touches into memory. A resource's first event of any kind makes its
    /// counters exist. Everything is read before anything is kept.
    fn load<B: Backing>(
        &mut self,
        event: &Event,
        switches: bool,
        backing: &B,
    ) -> Result<(), B::Error> {
        let Event { resource, user, .. } = event;
        let cell = self.resources.get(resource);
        let new_cell = match cell {
            Some(_) => None,
            None => Some(match backing.counters(*resource)? {
                Some(value) => ResourceCell::new(value, false),
                None => ResourceCell::new(Counters::default(), true),
            }),
        };
        let wanted = switches && !cell.is_some_and(|cell| cell.toggles.contains_key(user));
        let new_toggles = if wanted {
            Some(Cell {
                value: backing.toggles(*resource, user)?.unwrap_or_default(),
                changed: false,
            })
        } else {
            None
        };
        if let Some(cell) = new_cell {
            if cell.counters.changed {
                self.changed_counters.push(*resource);
            }
            self.resources.insert(*resource, cell);
            self.in_memory += 1;
        }
        if let Some(toggles) = new_toggles
            && let Some(cell) = self.resources.get_mut(resource)
        {
            cell.toggles.insert(user.clone(), toggles);
            self.in_memory += 1;
        }
        Ok(())
    }

    fn keep(&mut self, record: Record<'_>, reason: DeadLetterReason, detail: &str) {
        self.dead_letter_count += 1;
        self.new_dead_letter_load += 1 + (record.key.len() + record.value.len()) / 128;
        self.new_dead_letters.push(DeadLetter {
            position: Position {
                partition: self.partition,
                offset: record.offset,
            },
            reason,
            // It may quote the record, which may be long.
            detail: detail.chars().take(DeadLetter::MAX_DETAIL_CHARS).collect(),
            append_time_millis: record.append_time_millis,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
        });
    }
}
