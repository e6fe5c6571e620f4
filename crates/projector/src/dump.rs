//! A consistent copy of the whole state, for people and for proofs.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use tally_domain::{Counters, Digest, Offset, Partition, Resource, Toggles, UserId};

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
            add_partition(&mut dump, shared, partition, slot)?;
        }
        Ok::<(), StateError>(())
    })?;
    dump.counters
        .sort_unstable_by_key(|(resource, _)| *resource);
    dump.toggles
        .sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    for (resource, counters) in &dump.counters {
        dump.digest.add_counters(*resource, counters);
    }
    for (resource, user, toggles) in &dump.toggles {
        dump.digest.add_toggles(*resource, user.as_str(), *toggles);
    }
    Ok(dump)
}

fn add_partition(
    dump: &mut StateDump,
    shared: &Shared,
    partition: Partition,
    slot: &Slot,
) -> Result<(), StateError> {
    let mut counters: BTreeMap<Resource, Counters>;
    let mut toggles: BTreeMap<(Resource, UserId), Toggles>;
    {
        let state = slot.state.lock();
        counters = state.counters().collect();
        toggles = state
            .toggles()
            .map(|(r, user, set)| ((r, user.clone()), set))
            .collect();
        for (sequence, key) in state.keys().holding() {
            dump.digest.add_key(partition, sequence, key);
            dump.remembered_keys += 1;
        }
        dump.positions.push(state.next_offset());
        dump.dead_letters += state.dead_letter_count();
    }
    if !slot.all_in_memory.load(Ordering::Relaxed) {
        scan(shared, layout::VALUES, partition, |value| {
            for entry in entries(value) {
                let Entry {
                    resource, value, ..
                } = entry?;
                match value {
                    EntryValue::Counters(stored) => {
                        counters.entry(resource).or_insert(stored);
                    }
                    EntryValue::Toggles(user, stored) => {
                        let user = UserId::new(user)
                            .map_err(|error| StateError::Damaged(error.to_string()))?;
                        toggles.entry((resource, user)).or_insert(stored);
                    }
                }
            }
            Ok(())
        })?;
    }
    dump.counters.extend(counters);
    let set = toggles
        .into_iter()
        .filter(|(_, toggles)| *toggles != Toggles::NONE);
    dump.toggles
        .extend(set.map(|((resource, user), toggles)| (resource, user, toggles)));
    Ok(())
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
