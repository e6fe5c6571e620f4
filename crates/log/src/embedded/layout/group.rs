//! Groups and the records in them: as bytes, and back.

use tally_domain::{Offset, Partition};

use super::{GROUP_HEADER, Mark, RECORD_HEADER, Seed, len_u32, put, u32_at, u64_at};

const GROUP_MAGIC: &[u8; 4] = b"TGRP";

/// How a group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// Header and padding included.
    pub(crate) bytes: u64,
    pub(crate) records: u32,
    pub(crate) append_time_millis: u64,
    pub(crate) synced: Mark,
}

impl GroupHeader {
    fn encode(&self, seed: Seed, place: u64) -> [u8; GROUP_HEADER] {
        let mut header = [0; GROUP_HEADER];
        let bytes = len_u32(usize::try_from(self.bytes).unwrap_or(usize::MAX));
        put(&mut header, 8, &bytes.to_le_bytes());
        put(&mut header, 12, &self.records.to_le_bytes());
        put(&mut header, 16, &self.append_time_millis.to_le_bytes());
        put(&mut header, 24, &self.synced.segment.to_le_bytes());
        put(&mut header, 32, &self.synced.place.to_le_bytes());
        let checksum = seed.group(place, header.get(8..).unwrap_or_default());
        put(&mut header, 0, GROUP_MAGIC);
        put(&mut header, 4, &checksum.to_le_bytes());
        header
    }

    /// The header of the group at `place`, of which `bytes` are at least the header's.
    pub(crate) fn decode(seed: Seed, place: u64, bytes: &[u8]) -> Result<Self, &'static str> {
        let short = "the group's header is cut off";
        let header = bytes.first_chunk::<GROUP_HEADER>().ok_or(short)?;
        if !header.starts_with(GROUP_MAGIC) {
            return Err("no group starts there");
        }
        let checksum = u32_at(header, 4).ok_or(short)?;
        if checksum != seed.group(place, header.get(8..).ok_or(short)?) {
            return Err("the checksum of the group's header is wrong");
        }
        let group = Self {
            bytes: u64::from(u32_at(header, 8).ok_or(short)?),
            records: u32_at(header, 12).ok_or(short)?,
            append_time_millis: u64_at(header, 16).ok_or(short)?,
            synced: Mark {
                segment: u64_at(header, 24).ok_or(short)?,
                place: u64_at(header, 32).ok_or(short)?,
            },
        };
        if group.bytes < GROUP_HEADER as u64 || !group.bytes.is_multiple_of(8) {
            return Err("the group's length is impossible");
        }
        Ok(group)
    }
}

/// Whether a group's header may start here; cheap, for searching.
pub(crate) fn may_be_group(bytes: &[u8]) -> bool {
    bytes.starts_with(GROUP_MAGIC)
}

/// A record as it stands in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordFrame<'a> {
    pub(crate) partition: Partition,
    pub(crate) offset: Offset,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> RecordFrame<'a> {
    /// How many bytes the record has whose first bytes these are; not yet checked.
    #[inline]
    pub(crate) fn bytes(header: &[u8; RECORD_HEADER]) -> u64 {
        let len = |at| u64::from(u32_at(header, at).unwrap_or(u32::MAX));
        RECORD_HEADER as u64 + len(16) + len(20)
    }

    /// `frame` are all bytes of the record at `place`.
    #[inline]
    pub(crate) fn decode(seed: Seed, place: u64, frame: &'a [u8]) -> Result<Self, &'static str> {
        let short = "a record is cut off";
        let (checksum, checked) = frame.split_first_chunk::<4>().ok_or(short)?;
        if u32::from_le_bytes(*checksum) != seed.record(place, checked) {
            return Err("the checksum of a record is wrong");
        }
        let header = frame.first_chunk::<RECORD_HEADER>().ok_or(short)?;
        let key_len = usize::try_from(u32_at(header, 16).ok_or(short)?).map_err(|_| short)?;
        let payload = frame.get(RECORD_HEADER..).ok_or(short)?;
        let (key, value) = payload.split_at_checked(key_len).ok_or(short)?;
        Ok(Self {
            partition: u32_at(header, 4).ok_or(short)?,
            offset: u64_at(header, 8).ok_or(short)?,
            key,
            value,
        })
    }
}

/// Builds one group after another in one buffer.
#[derive(Debug)]
pub(crate) struct GroupBuilder {
    bytes: Vec<u8>,
    seed: Seed,
    place: u64,
    records: u32,
}

impl GroupBuilder {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            seed: Seed(0),
            place: 0,
            records: 0,
        }
    }

    /// Forgets what it has; the group will stand at `place`.
    pub(crate) fn begin(&mut self, seed: Seed, place: u64) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; GROUP_HEADER]);
        self.seed = seed;
        self.place = place;
        self.records = 0;
    }

    #[inline]
    pub(crate) fn push(&mut self, record: &RecordFrame<'_>) {
        let start = self.bytes.len();
        let mut header = [0; RECORD_HEADER];
        put(&mut header, 4, &record.partition.to_le_bytes());
        put(&mut header, 8, &record.offset.to_le_bytes());
        put(&mut header, 16, &len_u32(record.key.len()).to_le_bytes());
        put(&mut header, 20, &len_u32(record.value.len()).to_le_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(record.key);
        self.bytes.extend_from_slice(record.value);
        let checked = self.bytes.get(start + 4..).unwrap_or_default();
        let checksum = self.seed.record(self.place + start as u64, checked);
        put(&mut self.bytes, start, &checksum.to_le_bytes());
        self.records = self.records.saturating_add(1);
    }

    /// The whole group, ready to be written at its place.
    pub(crate) fn finish(&mut self, append_time_millis: u64, synced: Mark) -> &[u8] {
        let padded = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(padded, 0);
        let header = GroupHeader {
            bytes: padded as u64,
            records: self.records,
            append_time_millis,
            synced,
        };
        let header = header.encode(self.seed, self.place);
        put(&mut self.bytes, 0, &header);
        &self.bytes
    }

    /// Gives memory back that only an unusually large group needed.
    pub(crate) fn shrink(&mut self, keep: usize) {
        if self.bytes.capacity() > keep {
            self.bytes.clear();
            self.bytes.shrink_to(keep);
        }
    }
}
