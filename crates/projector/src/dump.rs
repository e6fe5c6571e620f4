//! A consistent copy of the whole state, for people and for proofs.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use tally_domain::remembered::RememberedKey;
use tally_domain::{
    Counters, Digest, Offset, Partition, PartitionState, Resource, Toggles, UserId,
};

use crate::error::StateError;
use crate::shared::{Shared, Slot};
use crate::store::values::{Entry, EntryValue, entries};
use crate::store::{layout, try_scan};

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
        let (mut dump, keys) = Self::copied(state);
        dump.sort();
        dump.digest_keys(&keys);
        dump
    }

    /// As quick as can be, since the fold waits: neither sorted nor with a digest of the keys.
    fn copied(state: &PartitionState) -> (Self, Vec<(u64, RememberedKey)>) {
        let keys: Vec<_> = state.keys().holding().map(|(n, key)| (n, *key)).collect();
        let toggles = state.toggles().map(|(r, user, set)| (r, user.clone(), set));
        let dump = Self {
            partition: state.partition(),
            next_offset: state.next_offset(),
            keys: Digest::default(),
            counters: state.counters().collect(),
            toggles: toggles.collect(),
            dead_letters: state.dead_letter_count(),
            remembered_keys: u64::try_from(keys.len()).unwrap_or(u64::MAX),
        };
        (dump, keys)
    }

    fn digest_keys(&mut self, keys: &[(u64, RememberedKey)]) {
        for (sequence, key) in keys {
            self.keys.add_key(self.partition, *sequence, key);
        }
    }

    fn sort(&mut self) {
        self.toggles.retain(|(_, _, set)| *set != Toggles::NONE);
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
    for number in partitions(shared) {
        let part = partition(shared, number)?;
        dump.digest.add_digest(part.digest());
        dump.positions.push(part.next_offset);
        dump.counters.extend(part.counters);
        dump.toggles.extend(part.toggles);
        dump.dead_letters += part.dead_letters;
        dump.remembered_keys += part.remembered_keys;
    }
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
    #[derive(Default)]
    struct All {
        counters: Vec<(Resource, Counters)>,
        toggles: Vec<(Resource, UserId, Toggles)>,
    }
    impl Visitor for All {
        fn counters(&mut self, resource: Resource, counters: Counters) {
            self.counters.push((resource, counters));
        }
        fn toggles(&mut self, resource: Resource, user: &UserId, set: Toggles) {
            self.toggles.push((resource, user.clone(), set));
        }
    }
    let mut all = All::default();
    let mut dump = visit(shared, partition, &mut all)?;
    (dump.counters, dump.toggles) = (all.counters, all.toggles);
    dump.sort();
    Ok(dump)
}

/// What there is to know of a whole state in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSummary {
    /// Of every partition, the next offset that it is as of.
    pub positions: Vec<Offset>,
    /// The digest of counters, toggles and remembered keys.
    pub digest: Digest,
    /// How many resources have events.
    pub resources: u64,
    /// How many users have something set, each resource by itself.
    pub toggles: u64,
    /// How many records were kept as dead letters.
    pub dead_letters: u64,
    /// How many idempotency keys hold.
    pub remembered_keys: u64,
}

/// Goes over the state, and keeps none of it.
pub(crate) fn summary(shared: &Shared) -> Result<StateSummary, StateError> {
    struct Summing(StateSummary);
    impl Visitor for Summing {
        fn counters(&mut self, resource: Resource, counters: Counters) {
            self.0.resources += 1;
            self.0.digest.add_counters(resource, &counters);
        }
        fn toggles(&mut self, resource: Resource, user: &UserId, set: Toggles) {
            self.0.toggles += 1;
            self.0.digest.add_toggles(resource, user.as_str(), set);
        }
    }
    let mut summing = Summing(StateSummary {
        positions: Vec::with_capacity(shared.slots.len()),
        digest: Digest::default(),
        resources: 0,
        toggles: 0,
        dead_letters: 0,
        remembered_keys: 0,
    });
    for number in partitions(shared) {
        let part = visit(shared, number, &mut summing)?;
        let summary = &mut summing.0;
        summary.positions.push(part.next_offset);
        summary.digest.add_digest(part.keys);
        summary.dead_letters += part.dead_letters;
        summary.remembered_keys += part.remembered_keys;
    }
    Ok(summing.0)
}

fn partitions(shared: &Shared) -> std::ops::Range<Partition> {
    0..u32::try_from(shared.slots.len()).unwrap_or(u32::MAX)
}

/// Is shown each value of a partition's state, in no order.
pub(crate) trait Visitor {
    /// Of a resource that has events.
    fn counters(&mut self, resource: Resource, counters: Counters);
    /// Of a user that has something set.
    fn toggles(&mut self, resource: Resource, user: &UserId, set: Toggles);
}

/// Shows a partition's state as of one position, which is in what it returns, together with all but
/// counters and toggles. The fold goes on while it looks into the store, and no checkpoint does: so
/// the store holds what the last one wrote, and whatever changed since is in memory, which wins.
pub(crate) fn visit(
    shared: &Shared,
    partition: Partition,
    visitor: &mut dyn Visitor,
) -> Result<PartitionDump, StateError> {
    let slot = shared.slot(partition);
    let slot = slot.ok_or(StateError::NoSuchPartition(partition))?;
    shared
        .checkpointer
        .hold(|_| visit_held(shared, partition, slot, visitor))
}

fn visit_held(
    shared: &Shared,
    partition: Partition,
    slot: &Slot,
    visitor: &mut dyn Visitor,
) -> Result<PartitionDump, StateError> {
    let (mut dump, keys) = PartitionDump::copied(&slot.state.lock());
    dump.digest_keys(&keys);
    let counters = std::mem::take(&mut dump.counters);
    let toggles = std::mem::take(&mut dump.toggles);
    for (resource, counters) in &counters {
        visitor.counters(*resource, *counters);
    }
    let set = toggles.iter().filter(|(_, _, set)| *set != Toggles::NONE);
    for (resource, user, set) in set {
        visitor.toggles(*resource, user, *set);
    }
    if slot.all_in_memory.load(Ordering::Relaxed) {
        return Ok(dump);
    }
    let in_memory: HashSet<Resource> = counters.into_iter().map(|(r, _)| r).collect();
    let known = toggles.into_iter().map(|(r, user, _)| (r, user));
    let known: HashSet<(Resource, UserId)> = known.collect();
    scan(shared, layout::VALUES, partition, |value| {
        for entry in entries(value) {
            let Entry {
                resource, value, ..
            } = entry?;
            match value {
                EntryValue::Counters(stored) if !in_memory.contains(&resource) => {
                    visitor.counters(resource, stored);
                }
                EntryValue::Toggles(user, stored) => {
                    let user = UserId::new(user)
                        .map_err(|error| StateError::Damaged(error.to_string()))?;
                    let of = (resource, user);
                    if stored != Toggles::NONE && !known.contains(&of) {
                        visitor.toggles(resource, &of.1, stored);
                    }
                }
                EntryValue::Counters(_) => {}
            }
        }
        Ok(())
    })?;
    Ok(dump)
}

/// Visits all values of a kind in a partition, their checksums checked.
fn scan(
    shared: &Shared,
    kind: u8,
    partition: Partition,
    mut visit: impl FnMut(&[u8]) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let prefix = layout::prefix(kind, partition);
    try_scan(shared.store.as_ref(), &prefix, |key, sealed| {
        visit(layout::open(key, sealed)?)
    })
}
