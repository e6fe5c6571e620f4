//! What is written in the store: keys, values, and their checksums.
//!
//! | key | value |
//! |---|---|
//! | `i` | the state's [identity](crate::identity), JSON |
//! | `b`, `e` | the number of the last checkpoint (u64): `b` is its first put, `e` its last |
//! | `p` partition | next offset, last event's offset + 1 (0: none) and id, dead letters ever and settled, next key sequence |
//! | `v` partition bucket | [counters and toggles](super::values), packed; absent where there are none |
//! | `k` partition slot | sequence of the first key, then 1 to 256 remembered keys |
//! | `d` partition offset | a dead letter, JSON; absent once it is replayed or dropped |
//! | `m` partition partition offset | nothing: the first partition has folded the dead letter that stands at the others |
//!
//! Integers in keys are big endian, so that keys sort as their parts do; in values little endian.
//! partition, bucket and slot are u32, offset u64. Every value ends in the
//! CRC-32C of key and value (u32 LE), since what a cache gives back must not be taken on trust.

use tally_domain::dead_letter::DeadLetterReason;
use tally_domain::remembered::RememberedKey;
use tally_domain::{DeadLetter, EventId, LetterCounts, Offset, Partition, Position};

use crate::error::StateError;

/// The version of all this. State of another version is rebuilt from the log.
pub const VERSION: u32 = 3;

/// The oldest version of which counters, toggles and places in the log are still read, for answers while the
/// log is folded anew.
pub const OLDEST_READ: u32 = 2;

/// The kind of the keys of counters and toggles.
pub const VALUES: u8 = b'v';

/// The kind of the keys of dead letters of other partitions that were folded.
pub const MOVED: u8 = b'm';

/// How many remembered keys stand in one value.
pub const KEYS_PER_CHUNK: u64 = 256;

/// The key of the state's identity.
pub const IDENTITY: &[u8] = b"i";

/// The key of a checkpoint's first put. A store that has lost its newest writes shows another
/// number here than at [`ENDED`], unless it has lost the whole checkpoint.
pub const BEGUN: &[u8] = b"b";

/// The key of a checkpoint's last put.
pub const ENDED: &[u8] = b"e";

/// Appends the checksum to a value.
#[must_use]
pub fn seal(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let check = crc32c::crc32c_append(crc32c::crc32c(key), &value);
    value.extend_from_slice(&check.to_le_bytes());
    value
}

/// The value without its checksum.
///
/// # Errors
/// [`StateError::Damaged`] where the checksum is another.
pub fn open<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], StateError> {
    let damaged =
        || StateError::Damaged(format!("the value of key {} fails its checksum", hex(key)));
    let (value, check) = sealed.split_last_chunk::<4>().ok_or_else(damaged)?;
    let wanted = crc32c::crc32c_append(crc32c::crc32c(key), value);
    if u32::from_le_bytes(*check) == wanted {
        Ok(value)
    } else {
        Err(damaged())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All keys of one kind in one partition start with this.
#[must_use]
pub fn prefix(kind: u8, partition: Partition) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// What the keys of a partition begin with, in their order.
#[must_use]
pub fn partition_prefixes(partition: Partition) -> [Vec<u8>; 5] {
    [b'd', b'k', MOVED, b'p', VALUES].map(|kind| prefix(kind, partition))
}

/// The key of a partition's place in the log.
#[must_use]
pub fn partition_key(partition: Partition) -> Vec<u8> {
    prefix(b'p', partition)
}

/// The key of a chunk of remembered keys; `slots` is how many chunks the ring has.
#[must_use]
pub fn chunk_key(partition: Partition, sequence: u64, key_count: u32) -> Vec<u8> {
    let slots = u64::from(key_count)
        .div_ceil(KEYS_PER_CHUNK)
        .saturating_add(1);
    let slot = u32::try_from(sequence / KEYS_PER_CHUNK % slots).unwrap_or(u32::MAX);
    let mut key = prefix(b'k', partition);
    key.extend_from_slice(&slot.to_be_bytes());
    key
}

/// The key of a dead letter.
#[must_use]
pub fn dead_letter_key(partition: Partition, offset: Offset) -> Vec<u8> {
    let mut key = prefix(b'd', partition);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// The key that says that a partition has folded the dead letter of another one.
#[must_use]
pub fn moved_key(partition: Partition, origin: Position) -> Vec<u8> {
    let mut key = prefix(MOVED, partition);
    key.extend_from_slice(&origin.partition.to_be_bytes());
    key.extend_from_slice(&origin.offset.to_be_bytes());
    key
}

/// A partition's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The next record to apply.
    pub next_offset: Offset,
    /// The last event that was folded.
    pub last_event: Option<(Offset, EventId)>,
    /// Dead letters.
    pub letters: LetterCounts,
    /// How many idempotency keys ever came.
    pub next_key: u64,
}

/// A reader of little-endian parts.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn u64(&mut self) -> Option<u64> {
        let (part, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*part))
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (part, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(part)
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn wrong(what: &str) -> StateError {
    StateError::Damaged(format!("{what} has another shape than this version writes"))
}

impl Place {
    /// As a value.
    #[must_use]
    pub fn to_value(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(60);
        let (offset, id) = self
            .last_event
            .map_or((0, EventId::nil()), |(o, id)| (o + 1, id));
        value.extend_from_slice(&self.next_offset.to_le_bytes());
        value.extend_from_slice(&offset.to_le_bytes());
        value.extend_from_slice(id.as_bytes());
        value.extend_from_slice(&self.letters.ever.to_le_bytes());
        value.extend_from_slice(&self.letters.settled.to_le_bytes());
        value.extend_from_slice(&self.next_key.to_le_bytes());
        value
    }

    /// From a value.
    ///
    /// # Errors
    /// [`StateError::Damaged`].
    pub fn from_value(value: &[u8]) -> Result<Self, StateError> {
        Self::from_value_of(VERSION, value)
    }

    /// The same of a state whose layout has another version, from [`OLDEST_READ`] on.
    ///
    /// # Errors
    /// [`StateError::Damaged`].
    pub fn from_value_of(layout: u32, value: &[u8]) -> Result<Self, StateError> {
        let read = || {
            let mut parts = Parts(value);
            let next_offset = parts.u64()?;
            let offset = parts.u64()?;
            let id = EventId::from_bytes(*parts.array::<16>()?);
            let place = Self {
                next_offset,
                last_event: offset.checked_sub(1).map(|offset| (offset, id)),
                letters: LetterCounts {
                    ever: parts.u64()?,
                    settled: match layout {
                        // None could be.
                        0..=2 => 0,
                        _ => parts.u64()?,
                    },
                },
                next_key: parts.u64()?,
            };
            parts.end().map(|()| place)
        };
        read().ok_or_else(|| wrong("a partition's place"))
    }
}

/// A checkpoint's number as a value.
#[must_use]
pub fn number_value(number: u64) -> Vec<u8> {
    // Room for the checksum.
    let mut value = Vec::with_capacity(12);
    value.extend_from_slice(&number.to_le_bytes());
    value
}

/// A checkpoint's number from a value.
///
/// # Errors
/// [`StateError::Damaged`].
pub fn number_from(value: &[u8]) -> Result<u64, StateError> {
    let number = value.try_into().map(u64::from_le_bytes);
    number.map_err(|_| wrong("a checkpoint's number"))
}

/// Remembered keys from a chunk's value, with their sequences.
///
/// # Errors
/// [`StateError::Damaged`].
pub fn chunk_from(value: &[u8]) -> Result<(u64, Vec<RememberedKey>), StateError> {
    let read = || {
        let mut parts = Parts(value);
        let first = parts.u64()?;
        let (keys, rest) = parts.0.as_chunks::<{ RememberedKey::BYTES }>();
        if !rest.is_empty() || keys.is_empty() {
            return None;
        }
        let keys: Option<Vec<_>> = keys.iter().map(RememberedKey::from_bytes).collect();
        Some((first, keys?))
    };
    read().ok_or_else(|| wrong("a chunk of remembered keys"))
}

#[derive(serde::Serialize, serde::Deserialize)]
struct StoredDeadLetter {
    reason: DeadLetterReason,
    detail: String,
    append_time_millis: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A dead letter as a value.
#[must_use]
pub fn dead_letter_value(letter: &DeadLetter) -> Vec<u8> {
    let stored = StoredDeadLetter {
        reason: letter.reason,
        detail: letter.detail.clone(),
        append_time_millis: letter.append_time_millis,
        key: letter.key.clone(),
        value: letter.value.clone(),
    };
    // Strings, integers and bytes always serialise into memory.
    serde_json::to_vec(&stored).unwrap_or_default()
}

/// The dead letter of a partition in a key and its value.
///
/// # Errors
/// [`StateError::Damaged`].
pub fn dead_letter_from(
    partition: Partition,
    key: &[u8],
    value: &[u8],
) -> Result<DeadLetter, StateError> {
    let offset = key.get(5..).and_then(|offset| offset.try_into().ok());
    let stored: Option<StoredDeadLetter> = serde_json::from_slice(value).ok();
    let (Some(offset), Some(stored)) = (offset, stored) else {
        return Err(wrong("a dead letter"));
    };
    Ok(DeadLetter {
        position: Position {
            partition,
            offset: Offset::from_be_bytes(offset),
        },
        reason: stored.reason,
        detail: stored.detail,
        append_time_millis: stored.append_time_millis,
        key: stored.key,
        value: stored.value,
    })
}
