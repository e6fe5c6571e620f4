//! Which idempotency keys still hold.
//!
//! A key holds for [`Rules::key_millis`] of event time after its first event, or until
//! [`Rules::key_count`] newer keys have come in its partition, whichever is first. So the last
//! `key_count` keys are all that need remembering: a queue of them, and a table from fingerprint to
//! place in it. Memory is 32 bytes a key for the queue and about 10 for the table: 42 MB for a million keys,
//! once there are [`Rules::key_count`] in each partition; up to twice that on the way there.

use std::collections::VecDeque;
use std::io::Write as _;

use hashbrown::HashTable;

use crate::fold::Rules;
use crate::words::{EventTime, IdempotencyKey, InteractionType, Resource, UserId};

/// What stands for (user, resource, key): the first 16 bytes of a BLAKE3 hash, so that nobody can
/// make their key collide with another user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of a key in its scope.
    #[must_use]
    pub fn of(user: &UserId, resource: Resource, key: &IdempotencyKey) -> Self {
        const LONGEST: usize = 2 + 8 + UserId::MAX_BYTES + IdempotencyKey::MAX_BYTES;
        let mut buffer = [0; LONGEST];
        let mut rest = buffer.as_mut_slice();
        // A user is at most 128 bytes, so one length byte keeps the parts apart.
        let user_len = u8::try_from(user.as_str().len()).unwrap_or(u8::MAX);
        let id = resource.id.get().to_le_bytes();
        for part in [
            [resource.kind.code(), user_len].as_slice(),
            &id,
            user.as_str().as_bytes(),
            key.as_str().as_bytes(),
        ] {
            let wrote = rest.write_all(part);
            debug_assert!(wrote.is_ok(), "the buffer is as long as the longest parts");
        }
        let unused = rest.len();
        let (parts, _) = buffer.split_at(LONGEST - unused);
        // In one piece, since a hasher that takes pieces costs more than all else here.
        let hash = *blake3::hash(parts).as_bytes();
        let (fingerprint, _) = hash.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        Self(*fingerprint)
    }

    fn hash(self) -> u64 {
        let (first, _) = self.0.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        u64::from_le_bytes(*first)
    }
}

/// One remembered key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedKey {
    /// The key in its scope.
    pub fingerprint: Fingerprint,
    /// The time of its first event.
    pub at: EventTime,
    /// What that event did.
    pub interaction: InteractionType,
}

impl RememberedKey {
    /// The length of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 24;

    /// Fingerprint, then time in milliseconds (7 bytes LE), then the interaction's code.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (fingerprint, rest) = bytes.split_at_mut(16);
        fingerprint.copy_from_slice(&self.fingerprint.0);
        let packed = self.at.as_millis() | u64::from(self.interaction.code()) << 56;
        rest.copy_from_slice(&packed.to_le_bytes());
        bytes
    }

    /// From [`to_bytes`](Self::to_bytes); `None` where the interaction is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (fingerprint, rest) = bytes.split_first_chunk::<16>()?;
        let (packed, _) = rest.split_first_chunk::<8>()?;
        let packed = u64::from_le_bytes(*packed);
        Some(Self {
            fingerprint: Fingerprint(*fingerprint),
            at: EventTime::from_millis(packed & 0x00ff_ffff_ffff_ffff),
            interaction: InteractionType::from_code(u8::try_from(packed >> 56).ok()?)?,
        })
    }
}

/// What is known of a key when an event with it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It does not hold, or never came.
    New,
    /// It came with the same interaction.
    Same,
    /// It came with another interaction.
    Other,
}

/// The keys of one partition that still hold.
#[derive(Debug, Clone)]
pub struct RememberedKeys {
    rules: Rules,
    /// The last keys, at most `key_count`, oldest first. The last one's sequence is `next - 1`.
    recent: VecDeque<RememberedKey>,
    /// For each fingerprint in `recent`, the low half of the sequence of its latest key there.
    /// `recent` is shorter than 2^32, so the low half says which one is meant.
    latest: HashTable<u32>,
    next: u64,
}

impl RememberedKeys {
    /// No keys.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            recent: VecDeque::new(),
            latest: HashTable::new(),
            next: 0,
        }
    }

    /// How much memory they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.recent.capacity() * size_of::<RememberedKey>() + self.latest.allocation_size()
    }

    /// How many keys ever came; the next one's sequence.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The sequence of the oldest key that is still remembered; the next one's where there is none.
    #[must_use]
    pub fn first_sequence(&self) -> u64 {
        self.next
            .saturating_sub(u64::try_from(self.recent.len()).unwrap_or(u64::MAX))
    }

    /// What is known of a key, for an event of time `at`. An event from before the key's first
    /// event (clocks of two servers differ) is within its time.
    #[must_use]
    pub fn seen(&self, key: Fingerprint, at: EventTime, interaction: InteractionType) -> Seen {
        let window = Window::of(self);
        let Some(first) = self
            .latest
            .find(key.hash(), |low| window.holds(*low, key))
            .and_then(|low| window.get(*low))
        else {
            return Seen::New;
        };
        if at.as_millis().saturating_sub(first.at.as_millis()) >= self.rules.key_millis {
            Seen::New
        } else if first.interaction == interaction {
            Seen::Same
        } else {
            Seen::Other
        }
    }

    /// Remembers a key that was [`Seen::New`]; the oldest is forgotten where there are
    /// [`Rules::key_count`].
    pub fn remember(&mut self, key: RememberedKey) {
        let most = usize::try_from(self.rules.key_count.max(1)).unwrap_or(usize::MAX);
        if self.recent.len() >= most {
            self.forget_oldest();
        }
        // The same key may stand here still, its time being up: from now on the new one counts.
        self.unlink(key.fingerprint, |_| true);
        let low = low_half(self.next);
        self.next += 1;
        self.recent.push_back(key);
        let window = Window::of_parts(&self.recent, self.next);
        self.latest
            .insert_unique(key.fingerprint.hash(), low, |low| window.hash(*low));
    }

    /// The remembered keys with sequences from `from` on, oldest first. A key that came again
    /// after its time was up stands here twice; only the later one counts.
    pub fn since(&self, from: u64) -> impl Iterator<Item = (u64, &RememberedKey)> {
        let first = self.first_sequence();
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        (first..).zip(&self.recent).skip(skipped)
    }

    /// The keys that hold, for the digest: superseded ones left out.
    pub fn holding(&self) -> impl Iterator<Item = (u64, &RememberedKey)> {
        let window = Window::of(self);
        self.since(0).filter(move |(sequence, key)| {
            let low = low_half(*sequence);
            let this = |found: &u32| *found == low && window.holds(low, key.fingerprint);
            self.latest.find(key.fingerprint.hash(), this).is_some()
        })
    }

    /// Forgets all and continues with `keys`, the first of which has this sequence. More than
    /// [`Rules::key_count`] may be given; the last ones count.
    pub fn restore_from(&mut self, sequence: u64, keys: impl IntoIterator<Item = RememberedKey>) {
        self.recent.clear();
        self.latest.clear();
        self.next = sequence;
        for key in keys {
            self.remember(key);
        }
    }

    fn forget_oldest(&mut self) {
        let low = low_half(self.first_sequence());
        if let Some(oldest) = self.recent.front().map(|key| key.fingerprint) {
            self.unlink(oldest, |found| found == low);
            self.recent.pop_front();
        }
    }

    /// Takes a fingerprint out of the table, where it stands for a sequence that `wanted` accepts.
    fn unlink(&mut self, key: Fingerprint, wanted: impl Fn(u32) -> bool) {
        let window = Window::of_parts(&self.recent, self.next);
        let matches = |low: &u32| window.holds(*low, key) && wanted(*low);
        if let Ok(entry) = self.latest.find_entry(key.hash(), matches) {
            entry.remove();
        }
    }
}

/// The remembered keys by the low half of their sequence.
#[derive(Clone, Copy)]
struct Window<'a> {
    recent: &'a VecDeque<RememberedKey>,
    first: u32,
}

impl<'a> Window<'a> {
    fn of(keys: &'a RememberedKeys) -> Self {
        Self::of_parts(&keys.recent, keys.next)
    }

    fn of_parts(recent: &'a VecDeque<RememberedKey>, next: u64) -> Self {
        let held = u64::try_from(recent.len()).unwrap_or(u64::MAX);
        Self {
            recent,
            first: low_half(next.saturating_sub(held)),
        }
    }

    fn get(self, low: u32) -> Option<&'a RememberedKey> {
        self.recent
            .get(usize::try_from(low.wrapping_sub(self.first)).ok()?)
    }

    fn holds(self, low: u32, key: Fingerprint) -> bool {
        self.get(low).is_some_and(|held| held.fingerprint == key)
    }

    fn hash(self, low: u32) -> u64 {
        self.get(low).map_or(0, |held| held.fingerprint.hash())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the high half is not wanted"
)]
fn low_half(sequence: u64) -> u32 {
    sequence as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the documented cost of a key, and that it stays when keys go on coming.
    #[test]
    fn a_full_partition_takes_what_is_documented() {
        let mut keys = RememberedKeys::new(Rules::CURRENT);
        let count = u64::from(Rules::CURRENT.key_count);
        let mut full = 0;
        for number in 0..2 * count {
            let mut fingerprint = [0; 16];
            let (first, _) = fingerprint.split_at_mut(8);
            // Spread over the table, as a hash is.
            let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            first.copy_from_slice(&spread.to_le_bytes());
            keys.remember(RememberedKey {
                fingerprint: Fingerprint(fingerprint),
                at: EventTime::from_millis(number),
                interaction: InteractionType::View,
            });
            if number + 1 == count {
                full = keys.bytes();
            }
        }
        let each = full / usize::try_from(count).unwrap();
        assert!((32..=44).contains(&each), "{each}");
        assert!(
            keys.bytes() <= full * 5 / 4,
            "{} after {full}",
            keys.bytes()
        );
    }

    /// Protects: memory follows from N (promise 9): the table has an entry for each key that
    /// holds and no other, however many were forgotten, superseded or restored over.
    #[test]
    fn the_table_has_an_entry_for_each_key_that_holds_and_no_other() {
        let key_count = 8;
        let rules = Rules {
            key_count,
            ..Rules::CURRENT
        };
        // Every key comes again after five others, so that it supersedes itself in the queue.
        let key = |number: u64| RememberedKey {
            fingerprint: Fingerprint([u8::try_from(number % 5 + number / 50 * 5).unwrap(); 16]),
            at: EventTime::from_millis(number),
            interaction: InteractionType::View,
        };
        let mut keys = RememberedKeys::new(rules);
        for number in 0..1_000 {
            keys.remember(key(number));
            if number % 70 == 69 {
                keys.restore_from(number, [key(number)]);
            }
            let last = (keys.first_sequence()..keys.next_sequence()).map(key);
            let distinct: std::collections::BTreeSet<_> = last.map(|k| k.fingerprint.0).collect();
            assert_eq!(keys.latest.len(), distinct.len());
            assert_eq!(keys.holding().count(), distinct.len());
            // The later one counts.
            assert_eq!(keys.holding().last(), Some((number, &key(number))));
            assert!(keys.recent.capacity() <= key_count as usize);
        }
    }
}
