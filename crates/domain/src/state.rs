//! One partition's state, to which records are applied in log order.
//!
//! What is in memory wins; what is not is asked of a [`Backing`], the state as it was last
//! written down. Every change is noted, so that the next checkpoint writes each changed value
//! once.

mod settle;

pub use crate::backing::{Backing, Changes, NoBacking};
use crate::cells::{Cells, OfUser};
use crate::codec::{Entry, decode_entry};
use crate::dead_letter::{DeadLetterReason, LetterCounts, LetterFate, Settlement};
use crate::fold::{Outcome, Rules, decide};
use crate::letters::Letters;
use crate::partition::{Offset, Partition, Position};
use crate::remembered::{Fingerprint, RememberedKey, RememberedKeys, Seen};
use crate::words::{Counters, Event, EventId, EventTime, Resource, Toggles, UserId};

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
    /// It was a replay or a drop of a dead letter.
    Settled {
        /// What it was.
        settlement: Settlement,
        /// What became of the letter.
        fate: LetterFate,
    },
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

/// One partition's state.
#[derive(Debug, Clone)]
pub struct PartitionState {
    partition: Partition,
    partitions: u32,
    rules: Rules,
    next_offset: Offset,
    last_event: Option<(Offset, EventId)>,
    counters: Cells<Resource, Counters>,
    toggles: Cells<(Resource, UserId), Toggles>,
    /// Where the clock's hand stands in each table, in parts of a [`TURN`](Self::TURN).
    hand: u64,
    sweeps: u64,
    keys: RememberedKeys,
    keys_taken: u64,
    changed_counters: Vec<Resource>,
    changed_toggles: Vec<(Resource, UserId)>,
    letters: Letters,
}

impl PartitionState {
    /// A whole turn of [`sweep`](Self::sweep).
    pub const TURN: u64 = 1 << 32;

    /// The state before the first record of `partition`, in a log of `partitions`.
    #[must_use]
    pub fn new(partition: Partition, partitions: u32, rules: Rules) -> Self {
        Self {
            partition,
            partitions,
            rules,
            next_offset: 0,
            last_event: None,
            counters: Cells::new(),
            toggles: Cells::new(),
            hand: 0,
            sweeps: 0,
            keys: RememberedKeys::new(rules),
            keys_taken: 0,
            changed_counters: Vec::new(),
            changed_toggles: Vec::new(),
            letters: Letters::default(),
        }
    }

    /// Continues from what was written down; `self` is new. `first_key` is the sequence of the first of `keys`,
    /// which are all from there on, or at least the last [`Rules::key_count`]; the next key's
    /// where there are none.
    pub fn restore(
        &mut self,
        next_offset: Offset,
        last_event: Option<(Offset, EventId)>,
        letter_counts: LetterCounts,
        first_key: u64,
        keys: impl IntoIterator<Item = RememberedKey>,
    ) {
        self.next_offset = next_offset;
        self.last_event = last_event;
        self.letters.counts = letter_counts;
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

    /// How many dead letters there are.
    #[must_use]
    pub fn dead_letter_count(&self) -> u64 {
        self.letters.counts.now()
    }

    /// How many values wait for the next [`take_changes`](Self::take_changes): a measure of the
    /// memory they take, so a dead letter counts once more for every 128 bytes of its record.
    #[must_use]
    pub fn changed(&self) -> usize {
        let keys = self.keys.next_sequence() - self.keys_taken.max(self.keys.first_sequence());
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        self.changed_counters.len() + self.changed_toggles.len() + keys + self.letters.changed()
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
        self.apply_for(record, false, backing)
    }

    /// The same; `told` where somebody waits for the event: a [`read`](Self::read) of its resource
    /// and user with the same backing then succeeds, whatever the event is.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_for<B: Backing>(
        &mut self,
        record: Record<'_>,
        told: bool,
        backing: &B,
    ) -> Result<Applied, B::Error> {
        if record.offset < self.next_offset {
            return Ok(Applied::Already);
        }
        let applied = match decode_entry(record.value) {
            Ok(Entry::Event(event)) => match self.judge(&event, record.append_time_millis) {
                Ok(()) => {
                    let outcome = self.fold(&event, told, backing)?;
                    self.last_event = Some((record.offset, event.id));
                    Applied::Folded { event, outcome }
                }
                Err((reason, detail)) => self.keep(record, reason, &detail),
            },
            Ok(Entry::Settlement(settlement)) => self.settle(record, settlement, backing)?,
            Err(error) => self.keep(record, error.reason(), &error.to_string()),
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
        let counters = match self.counters.get(&resource) {
            Some(held) => Some(held.value),
            None => backing.counters(resource)?,
        };
        let toggles = match self.toggles.get(&OfUser(resource, user)) {
            Some(held) => held.value,
            None => backing.toggles(resource, user)?.unwrap_or_default(),
        };
        Ok((counters, toggles))
    }

    /// Whether a resource's counters are in memory.
    #[must_use]
    pub fn has_counters(&self, resource: Resource) -> bool {
        self.counters.get(&resource).is_some()
    }

    /// Whether a user's toggles on a resource are in memory.
    #[must_use]
    pub fn has_toggles(&self, resource: Resource, user: &UserId) -> bool {
        self.toggles.get(&OfUser(resource, user)).is_some()
    }

    /// Takes what changed since the last call; the values stay in memory. They are not given out
    /// again: a caller that can't write them down keeps them for its next try.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes {
            next_offset: self.next_offset,
            last_event: self.last_event,
            keys: self
                .keys
                .since(self.keys_taken)
                .map(|(at, key)| (at, *key))
                .collect(),
            ..Changes::default()
        };
        self.keys_taken = self.keys.next_sequence();
        self.letters.take(&mut changes);
        changes.counters.reserve(self.changed_counters.len());
        for resource in self.changed_counters.drain(..) {
            if let Some(held) = self.counters.get_mut(&resource) {
                held.changed = false;
                changes.counters.push((resource, held.value));
            }
        }
        changes.toggles.reserve(self.changed_toggles.len());
        for (resource, user) in self.changed_toggles.drain(..) {
            if let Some(held) = self.toggles.get_mut(&OfUser(resource, &user)) {
                held.changed = false;
                changes.toggles.push((resource, user, held.value));
            }
        }
        changes
    }

    /// How much memory the values and the remembered keys take, in bytes. Values are counted as in a
    /// table that is two thirds full; one that has just grown takes half more than that, and while it
    /// grows the old one stands beside it.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.counters.bytes() + self.toggles.bytes() + self.keys.bytes()
    }

    /// How many places [`sweep`](Self::sweep) goes over in one turn.
    #[must_use]
    pub fn places(&self) -> usize {
        self.counters.places().max(self.toggles.places())
    }

    /// How many sweeps there were that dropped something: where it is the same at two moments, what
    /// was not in memory at the first was not changed up to the second, unless it is there now.
    #[must_use]
    pub fn sweeps(&self) -> u64 {
        self.sweeps
    }

    /// Goes over a part of each table, of [`TURN`](Self::TURN) at most, from where the last call ended,
    /// and drops what has neither changed since the last [`take_changes`](Self::take_changes) nor been
    /// used since the last turn. The part is the same of each, so that none turns faster. Only for a
    /// caller whose backing answers with those changes already: a dropped value is asked of it when it
    /// is next needed.
    pub fn sweep(&mut self, part: u64) {
        let end = self.hand + part.min(Self::TURN);
        let counters = self.counters.sweep(self.hand, end);
        let toggles = self.toggles.sweep(self.hand, end);
        self.hand = end % Self::TURN;
        self.sweeps += u64::from(counters || toggles);
    }

    /// Gives memory back where sweeps left the tables nearly empty.
    pub fn shrink(&mut self) {
        self.counters.shrink();
        self.toggles.shrink();
    }

    /// Drops all that has not changed since the last [`take_changes`](Self::take_changes), as
    /// [`sweep`](Self::sweep) does.
    pub fn forget_unchanged(&mut self) {
        self.sweep(Self::TURN);
        self.sweep(Self::TURN);
        self.shrink();
    }

    /// Every resource in memory with its counters, in no order.
    pub fn counters(&self) -> impl Iterator<Item = (Resource, Counters)> {
        self.counters
            .iter()
            .map(|(resource, counters)| (*resource, *counters))
    }

    /// Every user's toggles in memory, nothing-set ones too, in no order.
    pub fn toggles(&self) -> impl Iterator<Item = (Resource, &UserId, Toggles)> {
        self.toggles
            .iter()
            .map(|((resource, user), toggles)| (*resource, user, *toggles))
    }

    /// Whether an event that the log took then belongs here and now.
    fn judge(
        &self,
        event: &Event,
        append_time_millis: u64,
    ) -> Result<(), (DeadLetterReason, String)> {
        let home = event.resource.partition(self.partitions);
        if home != self.partition {
            let detail = format!("{} belongs to partition {home}", event.resource);
            return Err((DeadLetterReason::WrongPartition, detail));
        }
        let latest = append_time_millis.saturating_add(self.rules.max_ahead_millis);
        if event.at.as_millis() > latest {
            let taken = EventTime::from_millis(append_time_millis);
            let detail = format!(
                "event time {} lies past {taken}, when the log took it",
                event.at
            );
            return Err((DeadLetterReason::FutureTime, detail));
        }
        Ok(())
    }

    fn fold<B: Backing>(
        &mut self,
        event: &Event,
        told: bool,
        backing: &B,
    ) -> Result<Outcome, B::Error> {
        let switches = event.interaction.sets_toggle();
        self.load(event, switches, told, backing)?;
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
        let Some(counters) = self.counters.get_mut(&event.resource) else {
            return Ok(Outcome::NoChange);
        };
        let mut toggles = if switches {
            self.toggles.get_mut(&OfUser(event.resource, &event.user))
        } else {
            None
        };
        let before = toggles.as_ref().map_or(Toggles::NONE, |held| held.value);
        let (outcome, counters_after, toggles_after) =
            decide(counters.value, before, event.interaction);
        if counters.value != counters_after {
            counters.value = counters_after;
            if !std::mem::replace(&mut counters.changed, true) {
                self.changed_counters.push(event.resource);
            }
        }
        if let Some(toggles) = toggles.as_mut().filter(|held| held.value != toggles_after) {
            toggles.value = toggles_after;
            if !std::mem::replace(&mut toggles.changed, true) {
                self.changed_toggles
                    .push((event.resource, event.user.clone()));
            }
        }
        Ok(outcome)
    }

    /// Brings what the event touches into memory, and where somebody is told of it what they are
    /// told. A resource's first event of any kind makes its counters exist. Everything is read
    /// before anything is kept.
    fn load<B: Backing>(
        &mut self,
        event: &Event,
        switches: bool,
        told: bool,
        backing: &B,
    ) -> Result<(), B::Error> {
        let Event { resource, user, .. } = event;
        let new_counters = match self.counters.get(resource) {
            Some(_) => None,
            None => Some(backing.counters(*resource)?),
        };
        let new_toggles =
            if (switches || told) && self.toggles.get(&OfUser(*resource, user)).is_none() {
                let toggles = backing.toggles(*resource, user)?;
                // Who only looks at a resource takes no memory there.
                if switches {
                    Some(toggles.unwrap_or_default())
                } else {
                    toggles
                }
            } else {
                None
            };
        if let Some(counters) = new_counters {
            if counters.is_none() {
                self.changed_counters.push(*resource);
            }
            self.counters
                .insert(*resource, counters.unwrap_or_default(), counters.is_none());
        }
        if let Some(toggles) = new_toggles {
            self.toggles
                .insert((*resource, user.clone()), toggles, false);
        }
        Ok(())
    }

    /// Keeps what a [`read`](Self::read) gave. Values in memory stay as they are; for others the
    /// caller sees to it that they are as of now.
    pub fn keep_read(
        &mut self,
        resource: Resource,
        user: &UserId,
        counters: Option<Counters>,
        toggles: Toggles,
    ) {
        if let Some(counters) = counters {
            if self.counters.get(&resource).is_none() {
                self.counters.insert(resource, counters, false);
            }
            if self.toggles.get(&OfUser(resource, user)).is_none() {
                self.toggles
                    .insert((resource, user.clone()), toggles, false);
            }
        }
    }
}
