//! How records come out of a log: many at once, in one buffer that is used again.

use tally_domain::state::Record;
use tally_domain::{Offset, Partition, Position};

/// A batch of records in one buffer.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    position: Position,
    append_time_millis: u64,
    start: usize,
    key_len: usize,
    value_len: usize,
}

/// One record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRecord<'a> {
    /// Where it stands.
    pub position: Position,
    /// When the log took it, in milliseconds since 1970.
    pub append_time_millis: u64,
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> BatchRecord<'a> {
    /// As the fold takes it.
    #[must_use]
    pub fn record(self) -> Record<'a> {
        Record {
            offset: self.position.offset,
            append_time_millis: self.append_time_millis,
            key: self.key,
            value: self.value,
        }
    }
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    /// Adds a record.
    pub fn push(
        &mut self,
        partition: Partition,
        offset: Offset,
        append_time_millis: u64,
        key: &[u8],
        value: &[u8],
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.entries.push(Entry {
            position: Position { partition, offset },
            append_time_millis,
            start,
            key_len: key.len(),
            value_len: value.len(),
        });
    }

    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes of keys and values.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The records, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = BatchRecord<'_>> {
        self.entries.iter().filter_map(|entry| {
            let (key, rest) = self
                .bytes
                .get(entry.start..)?
                .split_at_checked(entry.key_len)?;
            Some(BatchRecord {
                position: entry.position,
                append_time_millis: entry.append_time_millis,
                key,
                value: rest.get(..entry.value_len)?,
            })
        })
    }
}
