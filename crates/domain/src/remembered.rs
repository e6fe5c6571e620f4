//! Which idempotency keys still hold.
//!
//! A key holds for [`Rules::key_millis`] of event time after its first event, or until
//! [`Rules::key_count`] newer keys have come in its partition, whichever is first. So the last
//! `key_count` keys are all that need remembering: a ring, written round and round, and a table
//! from fingerprint to place. Memory is 24 bytes a key plus about 8 for the table.

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
        let mut hasher = blake3::Hasher::new();
        // A user is at most 128 bytes, so one length byte keeps the parts apart.
        hasher.update(&[
            resource.kind.code(),
            u8::try_from(user.as_str().len()).unwrap_or(u8::MAX),
        ]);
        hasher.update(&resource.id.get().to_le_bytes());
        hasher.update(user.as_str().as_bytes());
        hasher.update(key.as_str().as_bytes());
        let mut fingerprint = [0; 16];
        hasher.finalize_xof().fill(&mut fingerprint);
        Self(fingerprint)
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
    /// The key of sequence `s` stands at `s % key_count`.
    ring: Vec<RememberedKey>,
    /// Places in `ring`, by fingerprint; a superseded place is not in it.
    table: HashTable<u32>,
    next: u64,
}

impl RememberedKeys {
    /// No keys.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ring: Vec::new(),
            table: HashTable::new(),
            next: 0,
        }
    }

    /// How many keys ever came; the next one's sequence.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// What is known of a key, for an event of time `at`.
    #[must_use]
    pub fn seen(&self, key: Fingerprint, at: EventTime, interaction: InteractionType) -> Seen {
        let Some(first) = self.find(key).and_then(|place| self.at_place(place)) else {
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

    /// Remembers a key that was [`Seen::New`]; the oldest is forgotten where the ring is full.
    pub fn remember(&mut self, key: RememberedKey) {
        let place = self.place(self.next);
        if let Some(oldest) = self.at_place(place).copied() {
            if self.find(oldest.fingerprint) == Some(place) {
                self.remove(oldest.fingerprint);
            }
        }
        self.remove(key.fingerprint);
        match usize::try_from(place)
            .ok()
            .and_then(|place| self.ring.get_mut(place))
        {
            Some(slot) => *slot = key,
            None => self.ring.push(key),
        }
        let ring = &self.ring;
        self.table
            .insert_unique(key.fingerprint.hash(), place, |place| hash_at(ring, *place));
        self.next += 1;
    }

    /// The remembered keys with sequences from `from` on, oldest first. A key that came again
    /// after its time was up stands here twice; only the later one counts.
    pub fn since(&self, from: u64) -> impl Iterator<Item = (u64, &RememberedKey)> {
        let oldest = self
            .next
            .saturating_sub(u64::from(self.rules.key_count.max(1)));
        (from.max(oldest)..self.next)
            .filter_map(|sequence| Some((sequence, self.at_place(self.place(sequence))?)))
    }

    /// The keys that hold, for the digest: superseded ones left out.
    pub fn holding(&self) -> impl Iterator<Item = (u64, &RememberedKey)> {
        self.since(0)
            .filter(|(sequence, key)| self.find(key.fingerprint) == Some(self.place(*sequence)))
    }

    /// Continues at a sequence, where all older keys are forgotten: the start of restoring.
    pub fn restore_from(&mut self, sequence: u64, keys: impl IntoIterator<Item = RememberedKey>) {
        let count = u64::from(self.rules.key_count.max(1));
        self.ring.clear();
        self.table.clear();
        // Places before the first restored key hold it too, until they are written.
        let mut keys = keys.into_iter().peekable();
        if let Some(first) = keys.peek() {
            let filled = if sequence >= count { count } else { sequence };
            self.ring
                .resize(usize::try_from(filled).unwrap_or(usize::MAX), *first);
        }
        self.next = sequence;
        for key in keys {
            self.remember(key);
        }
    }

    fn place(&self, sequence: u64) -> u32 {
        u32::try_from(sequence % u64::from(self.rules.key_count.max(1))).unwrap_or(0)
    }

    fn at_place(&self, place: u32) -> Option<&RememberedKey> {
        self.ring.get(usize::try_from(place).ok()?)
    }

    fn find(&self, key: Fingerprint) -> Option<u32> {
        let matches = |place: &u32| self.at_place(*place).is_some_and(|k| k.fingerprint == key);
        self.table.find(key.hash(), matches).copied()
    }

    fn remove(&mut self, key: Fingerprint) {
        let ring = &self.ring;
        let matches = |place: &u32| {
            usize::try_from(*place)
                .ok()
                .and_then(|p| ring.get(p))
                .is_some_and(|k| k.fingerprint == key)
        };
        if let Ok(entry) = self.table.find_entry(key.hash(), matches) {
            entry.remove();
        }
    }
}

fn hash_at(ring: &[RememberedKey], place: u32) -> u64 {
    usize::try_from(place)
        .ok()
        .and_then(|p| ring.get(p))
        .map_or(0, |key| key.fingerprint.hash())
}
