//! Values in memory that can be dropped, those first that were not used lately.
//!
//! A table with a clock's hand (Corbató's second chance, 1968): the hand goes over the table's
//! places; a value that was used since it came by last stays for one more turn, one that was not
//! goes. A value that changed since it was written down last always stays. Each call moves the
//! hand over a few places only, so that whoever calls holds the partition's lock but shortly. Where the
//! hand stands is the caller's: it is the same part of the way in all tables that are swept together.

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hash};

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashTable};

use crate::state::PartitionState;
use crate::words::{Resource, UserId};

/// A value in memory.
#[derive(Debug, Clone)]
pub(crate) struct Held<K, V> {
    key: K,
    pub(crate) value: V,
    /// Since it was written down last.
    pub(crate) changed: bool,
    /// Since the hand came by last.
    used: Cell<bool>,
}

/// A key's own memory, beside what stands in the table.
pub(crate) trait HeldKey: Hash + Eq {
    fn heap_bytes(&self) -> usize;
}

impl HeldKey for Resource {
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl HeldKey for (Resource, UserId) {
    fn heap_bytes(&self) -> usize {
        self.1.heap_bytes()
    }
}

/// A toggles key that is looked up: it hashes as the tuple does.
#[derive(Hash)]
pub(crate) struct OfUser<'a>(pub(crate) Resource, pub(crate) &'a UserId);

impl Equivalent<(Resource, UserId)> for OfUser<'_> {
    fn equivalent(&self, key: &(Resource, UserId)) -> bool {
        self.0 == key.0 && *self.1 == key.1
    }
}

/// The values of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Cells<K, V> {
    table: HashTable<Held<K, V>>,
    /// Seeded anew for each table, so that nobody can choose resources that all fall into one place.
    /// It decides what is dropped first, and no result: those do not depend on any order.
    hasher: RandomState,
    heap_bytes: usize,
}

impl<K: HeldKey, V> Cells<K, V> {
    /// What a value is counted as, in bytes: its place, and the places that a table keeps empty.
    pub(crate) const BYTES: usize = (size_of::<Held<K, V>>() + 1) * 3 / 2;

    pub(crate) fn new() -> Self {
        Self {
            table: HashTable::new(),
            hasher: RandomState::default(),
            heap_bytes: 0,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.table.len() * Self::BYTES + self.heap_bytes
    }

    pub(crate) fn get<Q: Hash + Equivalent<K>>(&self, key: &Q) -> Option<&Held<K, V>> {
        let same = |held: &Held<K, V>| key.equivalent(&held.key);
        let held = self.table.find(self.hasher.hash_one(key), same)?;
        held.used.set(true);
        Some(held)
    }

    pub(crate) fn get_mut<Q: Hash + Equivalent<K>>(&mut self, key: &Q) -> Option<&mut Held<K, V>> {
        let same = |held: &Held<K, V>| key.equivalent(&held.key);
        let held = self.table.find_mut(self.hasher.hash_one(key), same)?;
        held.used.set(true);
        Some(held)
    }

    /// Adds a value whose key is not there.
    pub(crate) fn insert(&mut self, key: K, value: V, changed: bool) {
        self.heap_bytes += key.heap_bytes();
        let hash = self.hasher.hash_one(&key);
        let held = Held {
            key,
            value,
            changed,
            used: Cell::new(true),
        };
        self.table
            .insert_unique(hash, held, |held| self.hasher.hash_one(&held.key));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.table.iter().map(|held| (&held.key, &held.value))
    }

    /// How many places the hand goes over in one turn.
    pub(crate) fn places(&self) -> usize {
        self.table.num_buckets()
    }

    /// Moves the hand from one part of a [`TURN`](crate::PartitionState::TURN) to another, which is at
    /// most a turn further; whether anything was dropped.
    pub(crate) fn sweep(&mut self, from: u64, to: u64) -> bool {
        let places = self.places();
        let place = |part: u64| {
            let many = u128::from(part) * places as u128 / u128::from(PartitionState::TURN);
            usize::try_from(many).unwrap_or(usize::MAX)
        };
        let mut dropped = false;
        for place in place(from)..place(to) {
            let Ok(entry) = self.table.get_bucket_entry(place % places) else {
                continue;
            };
            let held = entry.get();
            if !held.changed && !held.used.replace(false) {
                self.heap_bytes -= held.key.heap_bytes();
                entry.remove();
                dropped = true;
            }
        }
        dropped
    }

    /// Gives memory back where the table is far too large for what is in it.
    pub(crate) fn shrink(&mut self) {
        if self.table.capacity() > 4 * self.table.len() + 64 {
            self.table
                .shrink_to(self.table.len(), |held| self.hasher.hash_one(&held.key));
        }
    }
}
