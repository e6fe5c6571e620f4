//! Counters and toggles, packed: many of them stand in one value of the store, a *bucket*.
//!
//! sled keeps about 300 bytes in memory for each dozen keys, so a key for each user's toggles would
//! take more memory than the toggles themselves do in this process. Thus what a partition holds
//! is spread over a fixed number of buckets by a hash; all partitions together have [`BUCKETS`].
//! Millions of values are then some tens to hundreds in a bucket, and a checkpoint that changes
//! several of one bucket writes it once.
//!
//! A bucket is a row of entries, in no order:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the resource's type |
//! | 1 to 10 | its id, as a LEB128 varint |
//! | 1 | length of the user's name; 0: these are the resource's counters |
//! | n | the user's name |
//! | 1, or 5 varints | toggles, or counters: views, likes, shares, bookmarks, comments |

use tally_domain::remembered::RememberedKey;
use tally_domain::{Counters, Partition, Resource, ResourceType, Toggles, UserId};

use super::layout;
use crate::error::StateError;

/// How many buckets all partitions have together, about.
pub const BUCKETS: u32 = 1 << 18;

/// How many buckets each of so many partitions has.
#[must_use]
pub fn buckets_each(partitions: u32) -> u32 {
    (BUCKETS / partitions.max(1)).max(16)
}

/// What stands for a resource's counters or a user's toggles: the beginning of their entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryKey(Vec<u8>);

impl EntryKey {
    /// A resource's counters.
    #[must_use]
    pub fn counters(resource: Resource) -> Self {
        Self::of(resource, "")
    }

    /// A user's toggles.
    #[must_use]
    pub fn toggles(resource: Resource, user: &UserId) -> Self {
        Self::of(resource, user.as_str())
    }

    fn of(resource: Resource, user: &str) -> Self {
        let mut key = Vec::with_capacity(12 + user.len());
        key.push(resource.kind.code());
        put_varint(&mut key, resource.id.get());
        // A user is at most 128 bytes.
        key.push(u8::try_from(user.len()).unwrap_or(u8::MAX));
        key.extend_from_slice(user.as_bytes());
        Self(key)
    }

    /// In which of a partition's buckets it stands.
    #[must_use]
    pub fn bucket(&self, buckets: u32) -> u32 {
        // Not a hash that somebody could fill one bucket with.
        let hash = *blake3::hash(&self.0).as_bytes();
        let (word, _) = hash.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        u32::from_le_bytes(*word) % buckets.max(1)
    }
}

/// The key of a bucket in the store.
#[must_use]
pub fn bucket_key(partition: Partition, bucket: u32) -> Vec<u8> {
    let mut key = layout::prefix(layout::VALUES, partition);
    key.extend_from_slice(&bucket.to_be_bytes());
    key
}

/// One entry of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// All of it but its value.
    key: &'a [u8],
    /// The whole entry.
    whole: &'a [u8],
    /// The resource.
    pub resource: Resource,
    /// What it says.
    pub value: EntryValue<'a>,
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryValue<'a> {
    /// The resource's counters.
    Counters(Counters),
    /// A user's toggles on it.
    Toggles(&'a str, Toggles),
}

/// A changed entry: its bucket, its key, and its value; `None` where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its bucket.
    pub bucket: u32,
    key: EntryKey,
    value: Option<Vec<u8>>,
}

impl Change {
    /// A resource's counters.
    #[must_use]
    pub fn counters(resource: Resource, counters: &Counters, buckets: u32) -> Self {
        let key = EntryKey::counters(resource);
        let Counters {
            views,
            likes,
            shares,
            bookmarks,
            comments,
        } = *counters;
        let mut value = Vec::with_capacity(8);
        for count in [views, likes, shares, bookmarks, comments] {
            put_varint(&mut value, count);
        }
        Self {
            bucket: key.bucket(buckets),
            key,
            value: Some(value),
        }
    }

    /// A user's toggles; those with nothing set go.
    #[must_use]
    pub fn toggles(resource: Resource, user: &UserId, toggles: Toggles, buckets: u32) -> Self {
        let key = EntryKey::toggles(resource, user);
        let value = (toggles != Toggles::NONE).then(|| vec![toggles.to_bits()]);
        Self {
            bucket: key.bucket(buckets),
            key,
            value,
        }
    }
}

/// The entries of a bucket's value, without its checksum.
///
/// # Errors
/// [`StateError::Damaged`], from the items; after one there are no more.
pub fn entries(mut value: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, StateError>> {
    std::iter::from_fn(move || {
        if value.is_empty() {
            return None;
        }
        let Some((entry, rest)) = entry(value) else {
            value = &[];
            let what = "a bucket has another shape than this version writes";
            return Some(Err(StateError::Damaged(what.to_owned())));
        };
        value = rest;
        Some(Ok(entry))
    })
}

/// How many values a put of a checkpoint has: buckets and chunks of remembered keys have many. A dead
/// letter counts as in the state that it is taken from.
#[must_use]
pub fn count_in(key: &[u8], sealed: Option<&[u8]>) -> usize {
    let Some((value, _)) = sealed.and_then(<[u8]>::split_last_chunk::<4>) else {
        return 1;
    };
    match key.first() {
        Some(&layout::VALUES) => entries(value).count(),
        Some(b'k') => value.len() / RememberedKey::BYTES,
        Some(b'd') => 1 + value.len() / 128,
        Some(_) | None => 1,
    }
}

/// What a bucket says of a key.
///
/// # Errors
/// [`StateError::Damaged`].
pub fn find<'a>(value: &'a [u8], key: &EntryKey) -> Result<Option<EntryValue<'a>>, StateError> {
    for entry in entries(value) {
        let entry = entry?;
        if entry.key == key.0 {
            return Ok(Some(entry.value));
        }
    }
    Ok(None)
}

/// A bucket's value with changes made to it, each to another entry; empty where nothing is left.
///
/// # Errors
/// [`StateError::Damaged`].
pub fn merged(value: &[u8], changes: &[Change]) -> Result<Vec<u8>, StateError> {
    let mut merged = Vec::with_capacity(value.len() + 24 * changes.len() + 4);
    for entry in entries(value) {
        let entry = entry?;
        if !changes.iter().any(|change| change.key.0 == entry.key) {
            merged.extend_from_slice(entry.whole);
        }
    }
    for Change { key, value, .. } in changes {
        if let Some(value) = value {
            merged.extend_from_slice(&key.0);
            merged.extend_from_slice(value);
        }
    }
    Ok(merged)
}

fn entry(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (id, rest) = take_varint(rest)?;
    let (user_len, rest) = rest.split_first()?;
    let (user, rest) = rest.split_at_checked(usize::from(*user_len))?;
    let (key, _) = bytes.split_at_checked(bytes.len() - rest.len())?;
    let (value, rest) = if user.is_empty() {
        let (views, rest) = take_varint(rest)?;
        let (likes, rest) = take_varint(rest)?;
        let (shares, rest) = take_varint(rest)?;
        let (bookmarks, rest) = take_varint(rest)?;
        let (comments, rest) = take_varint(rest)?;
        let counters = Counters {
            views,
            likes,
            shares,
            bookmarks,
            comments,
        };
        (EntryValue::Counters(counters), rest)
    } else {
        let (bits, rest) = rest.split_first()?;
        let user = std::str::from_utf8(user).ok()?;
        (EntryValue::Toggles(user, Toggles::from_bits(*bits)?), rest)
    };
    let (whole, _) = bytes.split_at_checked(bytes.len() - rest.len())?;
    let entry = Entry {
        key,
        whole,
        resource: Resource::new(ResourceType::from_code(*kind)?, id).ok()?,
        value,
    };
    Some((entry, rest))
}

fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // The low seven bits.
        to.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    to.push(u8::try_from(number).unwrap_or(0));
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (place, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        let shift = u32::try_from(7 * place).ok()?;
        if part.leading_zeros() < shift {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: whatever is put into a bucket is found there, the last value of each, and nothing
    /// that went; and the largest numbers have a place.
    #[test]
    fn a_bucket_is_a_map() {
        let resource = |id| Resource::new(ResourceType::Quest, id).unwrap();
        let user = |name: &str| UserId::new(name).unwrap();
        let counters = |views| Counters {
            views,
            likes: u64::MAX,
            ..Counters::default()
        };
        let liked = Toggles::from_bits(1).unwrap();
        let long = user(&"ü".repeat(64));
        let last = resource(i64::MAX as u64);
        let first = [
            Change::counters(resource(1), &counters(1), 16),
            Change::counters(last, &counters(300), 16),
            Change::toggles(resource(1), &user("1"), liked, 16),
            Change::toggles(last, &long, liked, 16),
        ];
        let value = merged(&[], &first).unwrap();
        let second = [
            Change::counters(resource(1), &counters(2), 16),
            Change::toggles(resource(1), &user("1"), Toggles::NONE, 16),
            Change::toggles(resource(2), &user("nobody"), Toggles::NONE, 16),
        ];
        let value = merged(&value, &second).unwrap();
        let of = |key| find(&value, &key).unwrap();
        assert_eq!(entries(&value).count(), 3);
        assert_eq!(
            of(EntryKey::counters(resource(1))),
            Some(EntryValue::Counters(counters(2)))
        );
        assert_eq!(
            of(EntryKey::counters(last)),
            Some(EntryValue::Counters(counters(300)))
        );
        assert_eq!(of(EntryKey::toggles(resource(1), &user("1"))), None);
        assert_eq!(
            of(EntryKey::toggles(last, &long)),
            Some(EntryValue::Toggles(long.as_str(), liked))
        );
        // Cut anywhere inside an entry it is damage, never fewer entries.
        let cut = value.len() - 1;
        assert!(entries(&value[..cut]).any(|entry| entry.is_err()));
    }

    /// Protects: no bytes make it panic or go on for ever.
    #[test]
    fn any_bytes_are_entries_or_damage() {
        let mut seed = 7u64;
        for length in 0..400 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8 & 0x8f
                })
                .collect();
            assert!(entries(&bytes).count() <= length);
        }
    }
}
