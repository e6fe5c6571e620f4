//! A consistent copy of the whole state, for people and for proofs.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use tally_domain::{
    Counters, Digest, Offset, Partition, PartitionState, Resource, Toggles, UserId,
};

use crate::error::StateError;
use crate::shared::{Shared, Slot};
use crate::store::values::{Entry, EntryValue, entries};
use crate::store::{StoreError, layout};

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDump {
    /// Of every partition, the next offset the copy is as of.
    pub positions: Vec<Offset>,
    /// The digest of counters, toggles and remembered keys.
    pub digest: Digest,
    /// Every resource that has events, by type then id.
    pub counters: Vec<(Resource, Counters)>,
    /// Every user with something set, by type, id, then user.
    pub toggles: Vec<(Resource, UserId, Toggles)>,
    /// How many records were kept as dead letters.
    pub dead_letters: u64,
    /// How many idempotency keys hold.
    pub remembered_keys: u64,
}

/// The state of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDump {
    /// The partition.
    pub partition: Partition,
    /// The next offset the copy is as of.
    pub next_offset: Offset,
    /// The digest of its remembered keys alone.
    pub keys: Digest,
    /// Every resource that has events, by type then id.
    pub counters: Vec<(Resource, Counters)>,
    /// Every user with something set, by type, id, then user.
    pub toggles: Vec<(Resource, UserId, Toggles)>,
    /// How many records were kept as dead letters.
    pub dead_letters: u64,
    /// How many idempotency keys hold.
    pub remembered_keys: u64,
}

impl PartitionDump {
    /// What of a partition's state is in memory: all of it, where nothing was ever dropped.
    #[must_use]
    pub fn of(state: &PartitionState) -> Self {
        let mut keys = Digest::default();
        let mut remembered_keys = 0;
        for (sequence, key) in state.keys().holding() {
            keys.add_key(state.partition(), sequence, key);
            remembered_keys += 1;
        }
        let set = state.toggles().filter(|(_, _, set)| *set != Toggles::NONE);
        let mut dump = Self {
            partition: state.partition(),
            next_offset: state.next_offset(),
            keys,
            counters: state.counters().collect(),
            toggles: set.map(|(r, user, set)| (r, user.clone(), set)).collect(),
            dead_letters: state.dead_letter_count(),
            remembered_keys,
        };
        dump.sort();
        dump
    }

    fn sort(&mut self) {
        self.counters
            .sort_unstable_by_key(|(resource, _)| *resource);
        self.toggles
            .sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    }

    /// The digest of its counters, toggles and remembered keys.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digest = self.keys;
        for (resource, counters) in &self.counters {
            digest.add_counters(*resource, counters);
        }
        for (resource, user, toggles) in &self.toggles {
            digest.add_toggles(*resource, user.as_str(), *toggles);
        }
        digest
    }
}

pub(crate) fn dump(shared: &Shared) -> Result<StateDump, StateError> {
    let mut dump = StateDump {
        positions: Vec::with_capacity(shared.slots.len()),
        digest: Digest::default(),
        counters: Vec::new(),
        toggles: Vec::new(),
        dead_letters: 0,
        remembered_keys: 0,
    };
    // While no checkpoint runs, the store holds what the last one wrote, and whatever changed
    // since is in memory, which wins.
    shared.checkpointer.hold(|_| {
        for (partition, slot) in (0..).zip(&shared.slots) {
            let part = copied(shared, partition, slot)?;
            dump.digest.add_digest(part.digest());
            dump.positions.push(part.next_offset);
            dump.counters.extend(part.counters);
            dump.toggles.extend(part.toggles);
            dump.dead_letters += part.dead_letters;
            dump.remembered_keys += part.remembered_keys;
        }
        Ok::<(), StateError>(())
    })?;
    dump.counters
        .sort_unstable_by_key(|(resource, _)| *resource);
    dump.toggles
        .sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    Ok(dump)
}

pub(crate) fn partition(
    shared: &Shared,
    partition: Partition,
) -> Result<PartitionDump, StateError> {
    let slot = shared.slot(partition);
    let slot = slot.ok_or(StateError::NoSuchPartition(partition))?;
    shared
        .checkpointer
        .hold(|_| copied(shared, partition, slot))
}

/// A copy of a partition's state, which lets the fold go on while it looks into the store.
fn copied(shared: &Shared, partition: Partition, slot: &Slot) -> Result<PartitionDump, StateError> {
    let (mut dump, unset) = {
        let state = slot.state.lock();
        let unset = state.toggles().filter(|(_, _, set)| *set == Toggles::NONE);
        let unset: Vec<_> = unset.map(|(r, user, _)| (r, user.clone())).collect();
        (PartitionDump::of(&state), unset)
    };
    if slot.all_in_memory.load(Ordering::Relaxed) {
        return Ok(dump);
    }
    // What is in memory wins.
    let in_memory: HashSet<Resource> = dump.counters.iter().map(|(r, _)| *r).collect();
    let set = dump.toggles.iter().map(|(r, user, _)| (*r, user.clone()));
    let known: HashSet<(Resource, UserId)> = set.chain(unset).collect();
    scan(shared, layout::VALUES, partition, |value| {
        for entry in entries(value) {
            let Entry {
                resource, value, ..
            } = entry?;
            match value {
                EntryValue::Counters(stored) if !in_memory.contains(&resource) => {
                    dump.counters.push((resource, stored));
                }
                EntryValue::Toggles(user, stored) => {
                    let user = UserId::new(user)
                        .map_err(|error| StateError::Damaged(error.to_string()))?;
                    let known = known.contains(&(resource, user.clone()));
                    if !known && stored != Toggles::NONE {
                        dump.toggles.push((resource, user, stored));
                    }
                }
                EntryValue::Counters(_) => {}
            }
        }
        Ok(())
    })?;
    dump.sort();
    Ok(dump)
}

/// Visits all values of a kind in a partition, their checksums checked.
fn scan(
    shared: &Shared,
    kind: u8,
    partition: Partition,
    mut visit: impl FnMut(&[u8]) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let mut damage = None;
    let scanned = shared
        .store
        .scan(&layout::prefix(kind, partition), &mut |key, sealed| {
            layout::open(key, sealed)
                .and_then(&mut visit)
                .map_err(|error| {
                    let why = error.to_string();
                    damage = Some(error);
                    StoreError::ended(why)
                })
        });
    match damage {
        Some(error) => Err(error),
        None => Ok(scanned?),
    }
}
