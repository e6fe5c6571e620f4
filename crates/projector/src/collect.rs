//! What a checkpoint writes: of each partition, everything that changed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use tally_domain::state::Changes;
use tally_domain::{Offset, Partition};

use crate::error::StateError;
use crate::redo::Redo;
use crate::shared::{Shared, Slot};
use crate::store::layout::{self, Place};
use crate::store::values::{Change, bucket_key, merged};

/// A redo that begins with the checkpoint's number, so that a store that has lost some of a
/// checkpoint shows another number there than at the end.
pub(crate) fn begun(number: u64) -> Redo {
    let mut redo = Redo::default();
    put(&mut redo, layout::BEGUN, layout::number_value(number));
    redo
}

/// Adds a put with its checksum.
pub(crate) fn put(redo: &mut Redo, key: &[u8], value: Vec<u8>) {
    redo.put(key, Some(&layout::seal(key, value)));
}

/// How large a redo grows, in bytes, before the next partition has to wait for another: it stands in
/// memory. One partition's part may make it larger.
const REDO_BYTES: u64 = 16 << 20;

/// Adds what changed since the offsets `done` in the partitions from `place` on, and moves those on,
/// until the redo is large; the place of the next partition. What stands in `redo` already is what
/// the store will hold.
pub(crate) fn collect(
    redo: &mut Redo,
    shared: &Shared,
    done: &mut [Offset],
    place: usize,
) -> Result<usize, StateError> {
    let unwritten = redo.clone();
    let unwritten: HashMap<_, _> = unwritten.iter().collect();
    let partitions = (0u32..).zip(&shared.slots).zip(done).enumerate();
    for (next, ((partition, slot), done)) in partitions.skip(place) {
        if next > place && redo.byte_len() >= REDO_BYTES {
            return Ok(next);
        }
        let Some(changes) = take(redo, partition, slot, done) else {
            continue;
        };
        let stored = |bucket| match unwritten.get(&*bucket_key(partition, bucket)) {
            Some(Some(sealed)) => {
                let key = bucket_key(partition, bucket);
                layout::open(&key, sealed).map(<[u8]>::to_vec)
            }
            Some(None) => Ok(Vec::new()),
            None => shared.bucket(partition, bucket),
        };
        add_values(redo, partition, &changes, shared.buckets, stored)?;
    }
    Ok(shared.slots.len())
}

/// Takes a partition's changes, and adds all but counters and toggles; `None` where there are none.
fn take(redo: &mut Redo, partition: Partition, slot: &Slot, done: &mut Offset) -> Option<Changes> {
    let mut state = slot.state.lock();
    if state.next_offset() == *done {
        return None;
    }
    let changes = state.take_changes();
    redo.add_changed(slot.changed.swap(0, Ordering::Relaxed));
    let next_key = state.keys().next_sequence();
    // A chunk is written whole, so the first one begins before the first new key.
    let first_new = changes
        .keys
        .first()
        .map_or(next_key, |(sequence, _)| *sequence);
    let chunk_start = first_new - first_new % layout::KEYS_PER_CHUNK;
    let key_count = state.rules().key_count;
    let keys: Vec<_> = if changes.keys.is_empty() {
        Vec::new()
    } else {
        state
            .keys()
            .since(chunk_start)
            .map(|(sequence, key)| (sequence, *key))
            .collect()
    };
    drop(state);

    let place = Place {
        next_offset: changes.next_offset,
        last_event: changes.last_event,
        letters: changes.letter_counts,
        next_key,
    };
    put(redo, &layout::partition_key(partition), place.to_value());
    for chunk in
        keys.chunk_by(|(a, _), (b, _)| a / layout::KEYS_PER_CHUNK == b / layout::KEYS_PER_CHUNK)
    {
        let Some((first, _)) = chunk.first() else {
            continue;
        };
        let mut value = first.to_le_bytes().to_vec();
        chunk
            .iter()
            .for_each(|(_, key)| value.extend_from_slice(&key.to_bytes()));
        put(
            redo,
            &layout::chunk_key(partition, *first, key_count),
            value,
        );
    }
    for letter in &changes.dead_letters {
        let key = layout::dead_letter_key(partition, letter.position.offset);
        put(redo, &key, layout::dead_letter_value(letter));
    }
    for offset in &changes.gone_dead_letters {
        redo.put(&layout::dead_letter_key(partition, *offset), None);
    }
    for origin in &changes.moved {
        put(redo, &layout::moved_key(partition, *origin), Vec::new());
    }
    *done = changes.next_offset;
    Some(changes)
}

/// Adds the buckets of a partition that changed, whole.
fn add_values(
    redo: &mut Redo,
    partition: Partition,
    changes: &Changes,
    buckets: u32,
    stored: impl Fn(u32) -> Result<Vec<u8>, StateError>,
) -> Result<(), StateError> {
    let counters = changes.counters.iter();
    let counters =
        counters.map(|(resource, counters)| Change::counters(*resource, counters, buckets));
    let toggles = changes.toggles.iter();
    let toggles = toggles
        .map(|(resource, user, toggles)| Change::toggles(*resource, user, *toggles, buckets));
    let mut changed: Vec<Change> = counters.chain(toggles).collect();
    changed.sort_unstable_by_key(|change| change.bucket);
    for changed in changed.chunk_by(|a, b| a.bucket == b.bucket) {
        let Some(bucket) = changed.first().map(|change| change.bucket) else {
            continue;
        };
        let key = bucket_key(partition, bucket);
        let value = merged(&stored(bucket)?, changed)?;
        if value.is_empty() {
            redo.put(&key, None);
        } else {
            put(redo, &key, value);
        }
    }
    Ok(())
}
