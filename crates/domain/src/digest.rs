//! One number for a whole state: equal states have equal digests, however they came to be.
//!
//! Each item (a resource's counters, a user's toggles, a remembered key) is hashed with BLAKE3 and
//! the 256-bit hashes are added up modulo 2^256 (Bellare and Micciancio's AdHash), so items may
//! come in any order and a digest can be kept up to date item by item. Offsets and the log's
//! identity are not part of it. It finds mistakes and damage; it is no defence against somebody
//! who chooses the items.

use std::fmt;
use std::str::FromStr;

use crate::fold::FOLD_VERSION;
use crate::remembered::RememberedKey;
use crate::state::PartitionState;
use crate::words::{Counters, Resource, Toggles};

/// A sum of item hashes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Adds a resource's counters.
    pub fn add_counters(&mut self, resource: Resource, counters: &Counters) {
        let mut hasher = item(b'c', resource);
        let Counters {
            views,
            likes,
            shares,
            bookmarks,
            comments,
        } = *counters;
        for count in [views, likes, shares, bookmarks, comments] {
            hasher.update(&count.to_le_bytes());
        }
        self.add(&hasher);
    }

    /// Adds a user's toggles; nothing set adds nothing.
    pub fn add_toggles(&mut self, resource: Resource, user: &str, toggles: Toggles) {
        if toggles != Toggles::NONE {
            let mut hasher = item(b't', resource);
            hasher.update(&[toggles.to_bits()]);
            hasher.update(user.as_bytes());
            self.add(&hasher);
        }
    }

    /// Adds a remembered key at its sequence in its partition.
    pub fn add_key(&mut self, partition: u32, sequence: u64, key: &RememberedKey) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"k");
        hasher.update(&partition.to_le_bytes());
        hasher.update(&sequence.to_le_bytes());
        hasher.update(&key.to_bytes());
        self.add(&hasher);
    }

    /// Of what a partition's state has in memory.
    #[must_use]
    pub fn of(state: &PartitionState) -> Self {
        let mut digest = Self::default();
        for (resource, counters) in state.counters() {
            digest.add_counters(resource, &counters);
        }
        for (resource, user, toggles) in state.toggles() {
            digest.add_toggles(resource, user.as_str(), toggles);
        }
        for (sequence, key) in state.keys().holding() {
            digest.add_key(state.partition(), sequence, key);
        }
        digest
    }

    /// Adds all items of another digest.
    pub fn add_digest(&mut self, other: Self) {
        let mut carry = false;
        for (sum, part) in self.0.iter_mut().zip(other.0) {
            let (first, over) = sum.overflowing_add(part);
            let (second, over_again) = first.overflowing_add(u64::from(carry));
            *sum = second;
            carry = over || over_again;
        }
    }

    fn add(&mut self, hasher: &blake3::Hasher) {
        let hash = *hasher.finalize().as_bytes();
        let (words, _) = hash.as_chunks::<8>();
        let mut part = [0; 4];
        for (to, word) in part.iter_mut().zip(words) {
            *to = u64::from_le_bytes(*word);
        }
        self.add_digest(Self(part));
    }
}

fn item(kind: u8, resource: Resource) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind, resource.kind.code()]);
    hasher.update(&resource.id.get().to_le_bytes());
    hasher
}

/// `v<fold version>:` and 64 hex digits, the most significant first.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{FOLD_VERSION}:")?;
        self.0
            .iter()
            .rev()
            .try_for_each(|word| write!(f, "{word:016x}"))
    }
}

/// A text is no digest of this version of the fold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest of fold version {FOLD_VERSION}")]
pub struct NoDigest(String);

/// As it is displayed.
impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NoDigest(text.to_owned());
        let digits = text.strip_prefix(&format!("v{FOLD_VERSION}:"));
        let digits = digits.filter(|digits| digits.len() == 64 && digits.is_ascii());
        let (words, _) = digits.ok_or_else(wrong)?.as_bytes().as_chunks::<16>();
        let mut sum = [0; 4];
        for (to, word) in sum.iter_mut().rev().zip(words) {
            let word = std::str::from_utf8(word).map_err(|_| wrong())?;
            *to = u64::from_str_radix(word, 16).map_err(|_| wrong())?;
        }
        let digest = Self(sum);
        // A sign or an upper-case digit is another spelling.
        if digest.to_string() == text {
            Ok(digest)
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
