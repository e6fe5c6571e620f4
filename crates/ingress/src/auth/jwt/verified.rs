//! Tokens that were found valid, so that a signature is checked once and not for each request: it
//! costs more than all the rest of one.
//!
//! It is a part of the keys, and goes with them: a token never outlives the key it was checked
//! with. What is kept is the SHA-256 of a token, its user and its end.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashMap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tally_domain::UserId;

/// So many threads at once hardly ever wait for each other.
const SHARDS: usize = 16;
/// Tokens of a shard; about 2 MB in all.
const MAX_TOKENS: usize = 1_024;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

type Shard = HashMap<Fingerprint, Entry, foldhash::fast::RandomState>;

struct Entry {
    user: UserId,
    /// The last second in which the token holds, since 1970.
    end: u64,
}

/// Valid tokens.
#[derive(Default)]
pub(super) struct Verified {
    shards: [Mutex<Shard>; SHARDS],
    spread: RandomState,
}

impl Verified {
    /// Whose a token is that was found valid and still holds at `now`, in seconds since 1970.
    pub(super) fn user(&self, token: Fingerprint, now: u64) -> Option<UserId> {
        let shard = self.shard(token)?.lock();
        let entry = shard.get(&token).filter(|entry| now <= entry.end)?;
        Some(entry.user.clone())
    }

    /// Remembers one that holds until `end`.
    pub(super) fn insert(&self, token: Fingerprint, user: UserId, end: u64, now: u64) {
        let Some(shard) = self.shard(token) else {
            return;
        };
        let mut shard = shard.lock();
        if shard.len() >= MAX_TOKENS {
            shard.retain(|_, entry| now <= entry.end);
        }
        if shard.len() >= MAX_TOKENS {
            // Rare, and they come back one by one.
            shard.clear();
        }
        shard.insert(token, Entry { user, end });
    }

    fn shard(&self, token: Fingerprint) -> Option<&Mutex<Shard>> {
        let hash = self.spread.hash_one(token);
        let place = usize::try_from(hash % SHARDS as u64).ok()?;
        self.shards.get(place)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u64) -> UserId {
        UserId::new(number.to_string()).unwrap()
    }

    fn token(number: u64) -> Fingerprint {
        Fingerprint::of(&number.to_le_bytes())
    }

    /// Protects against tokens that are remembered past their end, or as somebody else's.
    #[test]
    fn a_token_is_remembered_as_its_users_until_its_end() {
        let verified = Verified::default();
        verified.insert(token(1), user(1), 100, 50);
        verified.insert(token(2), user(2), 200, 50);
        assert_eq!(verified.user(token(1), 100), Some(user(1)));
        assert_eq!(verified.user(token(1), 101), None);
        assert_eq!(verified.user(token(2), 101), Some(user(2)));
        assert_eq!(verified.user(token(3), 50), None);
    }

    /// Protects memory: however many tokens there are, so many are remembered.
    #[test]
    fn only_so_many_are_remembered() {
        let verified = Verified::default();
        for number in 0..100_000 {
            verified.insert(token(number), user(number), 100, 50);
            assert_eq!(verified.user(token(number), 50), Some(user(number)));
        }
        assert!(verified.len() <= SHARDS * MAX_TOKENS);
        // Those that are over make room first.
        for number in 0..20_000 {
            verified.insert(token(number), user(number), 300, 200);
        }
        assert!(verified.len() <= SHARDS * MAX_TOKENS);
    }
}
