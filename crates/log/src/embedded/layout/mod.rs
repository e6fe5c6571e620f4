//! The byte layout of the embedded log. These are disk formats: what is written here is read by
//! every later version, so a change is a new [`FORMAT_VERSION`], never an edit.
//!
//! # The folder
//!
//! ```text
//! <log>/lock                        locked by the process that has the log open
//! <log>/identity                    which log this is: four lines of text, written once
//! <log>/00000000000000000001.log    segments, numbered from 1 without holes, 20 digits
//! <log>/00000000000000000002.log
//! <log>/….new                       a file being made; removed at start
//! ```
//!
//! `identity` and every segment are made under a name that ends in `.new`, synced, renamed, and
//! their folder is synced: a file that has its name has its header. The identity:
//!
//! ```text
//! tally-log 1
//! id 0193a6f0-7b3e-4c4a-9d3e-2f1b5c6d7e8f
//! partitions 16
//! crc32c 5f3a0c11            of the three lines above, with their line ends
//! ```
//!
//! # A segment
//!
//! ```text
//! | header | group | group | … | group | zeros, the length set ahead              while written
//! | header | group | group | … | group | footer |                                  sealed
//! ```
//!
//! Only the last segment may lack a footer: it is sealed before the next one is made. Integers are
//! little-endian. Header, groups and footer start at multiples of 8 bytes. Every checksum is a
//! CRC-32C. A *place* is a byte's distance from the start of its segment file; it is below 2^32.
//!
//! ## Header: 64 + 8 × partitions bytes
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `TALLYSEG` |
//! | 8 | 4 | format version |
//! | 12 | 4 | partitions |
//! | 16 | 16 | log id |
//! | 32 | 8 | segment number |
//! | 40 | 8 | when it was made, ms since 1970; no append time in it is earlier |
//! | 48 | 8 × partitions | next offset of each partition where the segment begins |
//! | then | 12 | zero |
//! | then | 4 | checksum of all bytes before it |
//!
//! ## Group: what one write and one sync made durable
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `TGRP` |
//! | 4 | 4 | checksum of bytes 8..40, seeded |
//! | 8 | 4 | bytes of the group, this header and the padding included; a multiple of 8 |
//! | 12 | 4 | records |
//! | 16 | 8 | append time of its records, ms since 1970; never falls from group to group |
//! | 24 | 8 | segment … |
//! | 32 | 8 | … and place up to which the log was synced when this group was written |
//! | 40 | | records, one after the other, then 0 to 7 zero bytes |
//!
//! ## Record: 24 bytes, key, value
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | checksum of bytes 4.., key and value included, seeded |
//! | 4 | 4 | partition |
//! | 8 | 8 | offset: the partition's last one plus 1 |
//! | 16 | 4 | bytes of the key |
//! | 20 | 4 | bytes of the value |
//!
//! ## Footer: 56 + 8 × partitions + (8 + 8 × partitions) × index entries bytes
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `TALLYEND` |
//! | 8 | 8 | records in the segment |
//! | 16 | 8 | groups in the segment |
//! | 24 | 8 | append time of the last group; when the segment was made where it has none |
//! | 32 | 4 | partitions |
//! | 36 | 4 | index entries |
//! | 40 | 8 × partitions | next offset of each partition where the segment ends |
//! | then | 8 + 8 × partitions each | index: place of a group, next offset of each partition there |
//! | end − 16 | 8 | place of the footer |
//! | end − 8 | 4 | checksum of all bytes of the footer before it, seeded |
//! | end − 4 | 4 | `TEND` |
//!
//! The footer ends the file, so it is found from the file's end. An index entry is made for the
//! first group and then about every [`index_interval`] bytes, which keeps the index below a
//! sixty-fourth of the data.
//!
//! # Seeds
//!
//! A checksum of a group, record or footer starts from a value that is made of the log's id, the
//! segment's number, the place, and which of the three it is. A copy of a frame at any other place
//! is not valid there, so no payload that holds one can pass for a frame.
//!
//! # Damaged or torn
//!
//! A group in an unsealed segment that is not whole and valid is *damaged* where a later valid
//! group says that the log was synced past it: it was acknowledged, and opening is refused. It is
//! *torn* where none says so: it was never acknowledged, or it is the very last group that was,
//! which no file alone can tell; what stands there is cut off and reported. Below a footer
//! everything was acknowledged. A group counts whole or not at all, so an append of many records
//! is never half there.

mod group;

use tally_domain::{LogId, Offset};

use super::index::Index;
pub(crate) use group::{GroupBuilder, GroupHeader, RecordFrame, may_be_group};

/// What this code writes, and the only version it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Bytes of a group's header.
pub const GROUP_HEADER: usize = 40;

/// Bytes of a record before its key.
pub const RECORD_HEADER: usize = 24;

/// Bytes at the end of a footer from which the rest is found.
pub const FOOTER_TAIL: usize = 16;

/// Where a segment's header says how many partitions there are.
pub(crate) const PARTITIONS_AT: u64 = 12;

const SEGMENT_MAGIC: &[u8; 8] = b"TALLYSEG";
const FOOTER_MAGIC: &[u8; 8] = b"TALLYEND";
const FOOTER_TAIL_MAGIC: &[u8; 4] = b"TEND";

/// At most how many bytes lie between two entries of the index, but for a group that is longer.
#[must_use]
pub fn index_interval(partitions: u32) -> u64 {
    (64 * 1024).max(512 * u64::from(partitions))
}

/// Bytes of a segment's header, which is where its first group starts.
#[must_use]
pub fn header_bytes(partitions: u32) -> u64 {
    64 + 8 * u64::from(partitions)
}

/// Bytes of a record with its header; `usize::MAX` where that is no number.
pub(crate) fn record_bytes(key: usize, value: usize) -> usize {
    RECORD_HEADER.saturating_add(key).saturating_add(value)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*field))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*field))
}

fn offsets_at(bytes: &[u8], at: usize, partitions: u32) -> Option<Vec<Offset>> {
    let len = usize::try_from(partitions).ok()?.checked_mul(8)?;
    let (offsets, _) = bytes.get(at..at.checked_add(len)?)?.as_chunks::<8>();
    Some(offsets.iter().map(|o| u64::from_le_bytes(*o)).collect())
}

/// Checksums start from here in one segment of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(log: LogId, segment: u64) -> Self {
        let id = crc32c::crc32c(log.as_bytes());
        Self(crc32c::crc32c_append(id, &segment.to_le_bytes()))
    }

    /// Different at every place: a checksum of the same bytes differs whenever its start does.
    fn at(self, place: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a place is below 2^32")]
        let place = place as u32;
        self.0 ^ place
    }

    fn record(self, place: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.at(place), bytes)
    }

    // Places of groups and footers are multiples of 8, which leaves two bits to tell them apart
    // from each other; a record never stands where a group's header could be looked for.
    fn group(self, place: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.at(place) ^ 1, bytes)
    }

    fn footer(self, place: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.at(place) ^ 2, bytes)
    }
}

/// How a segment begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log: LogId,
    pub(crate) number: u64,
    pub(crate) created_millis: u64,
    pub(crate) base: Vec<Offset>,
}

/// Why bytes are no header of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Written by another version of this code.
    OtherVersion(u32),
    /// Not what was written.
    Malformed(&'static str),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(SEGMENT_MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&len_u32(self.base.len()).to_le_bytes());
        bytes.extend_from_slice(self.log.as_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.created_millis.to_le_bytes());
        for offset in &self.base {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// `bytes` are as many as a header of the log's partitions has.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let malformed = HeaderError::Malformed;
        if !bytes.starts_with(SEGMENT_MAGIC) {
            return Err(malformed("it does not start with TALLYSEG"));
        }
        let short = malformed("the header is too short");
        let version = u32_at(bytes, 8).ok_or(short)?;
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(short)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            // Another version may have another header; a flipped bit is more likely with ours.
            return Err(if version == FORMAT_VERSION {
                malformed("the header's checksum is wrong")
            } else {
                HeaderError::OtherVersion(version)
            });
        }
        if version != FORMAT_VERSION {
            return Err(HeaderError::OtherVersion(version));
        }
        let partitions = u32_at(bytes, 12).ok_or(short)?;
        let log = bytes.get(16..).and_then(<[u8]>::first_chunk).ok_or(short)?;
        Ok(Self {
            log: LogId::from_bytes(*log),
            number: u64_at(bytes, 32).ok_or(short)?,
            created_millis: u64_at(bytes, 40).ok_or(short)?,
            base: offsets_at(bytes, 48, partitions).ok_or(short)?,
        })
    }
}

/// How far the log was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mark {
    pub(crate) segment: u64,
    pub(crate) place: u64,
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// Lengths that are written are bounded far below this by the options.
fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// How a sealed segment ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) records: u64,
    pub(crate) groups: u64,
    pub(crate) last_append_time_millis: u64,
    pub(crate) ends: Vec<Offset>,
    pub(crate) index: Index,
}

impl Footer {
    pub(crate) fn encode(&self, seed: Seed, place: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(FOOTER_MAGIC);
        bytes.extend_from_slice(&self.records.to_le_bytes());
        bytes.extend_from_slice(&self.groups.to_le_bytes());
        bytes.extend_from_slice(&self.last_append_time_millis.to_le_bytes());
        bytes.extend_from_slice(&len_u32(self.ends.len()).to_le_bytes());
        bytes.extend_from_slice(&len_u32(self.index.len()).to_le_bytes());
        for end in &self.ends {
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        for (group, offsets) in self.index.entries() {
            bytes.extend_from_slice(&group.to_le_bytes());
            for offset in offsets {
                bytes.extend_from_slice(&offset.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&place.to_le_bytes());
        let checksum = seed.footer(place, &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(FOOTER_TAIL_MAGIC);
        bytes
    }

    /// The footer's place, from the last bytes of a file of `size` bytes. Only the checksum of the
    /// whole footer proves it.
    pub(crate) fn place(tail: &[u8; FOOTER_TAIL], size: u64) -> Option<u64> {
        let place = u64_at(tail, 0)?;
        let end = size.checked_sub(FOOTER_TAIL as u64)?;
        (tail.ends_with(FOOTER_TAIL_MAGIC) && place <= end && place.is_multiple_of(8))
            .then_some(place)
    }

    /// `bytes` are all from `place` to the end of the file.
    pub(crate) fn decode(seed: Seed, place: u64, bytes: &[u8]) -> Result<Self, &'static str> {
        let short = "the footer is cut off";
        let (checked, tail) = bytes.split_last_chunk::<8>().ok_or(short)?;
        if u32_at(tail, 0) != Some(seed.footer(place, checked)) {
            return Err("the footer's checksum is wrong");
        }
        if !bytes.starts_with(FOOTER_MAGIC) || !tail.ends_with(FOOTER_TAIL_MAGIC) {
            return Err("the footer is not framed as one");
        }
        let partitions = u32_at(bytes, 32).ok_or(short)?;
        let entries = u32_at(bytes, 36).ok_or(short)?;
        let ends = offsets_at(bytes, 40, partitions).ok_or(short)?;
        let mut at = 40 + 8 * ends.len();
        let mut index = Index::new(partitions);
        for _ in 0..entries {
            let group = u64_at(bytes, at).ok_or(short)?;
            let offsets = offsets_at(bytes, at + 8, partitions).ok_or(short)?;
            index.push(group, &offsets);
            at += 8 + 8 * ends.len();
        }
        Ok(Self {
            records: u64_at(bytes, 8).ok_or(short)?,
            groups: u64_at(bytes, 16).ok_or(short)?,
            last_append_time_millis: u64_at(bytes, 24).ok_or(short)?,
            ends,
            index,
        })
    }
}
