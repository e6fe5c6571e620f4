//! A snapshot's bytes, little endian, written and read in one pass:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `TALLYSN1` |
//! | 4 | length of the header |
//! | n | [`Header`], JSON |
//! | … | values: key length u16 (never 0), value length u32, key, value |
//! | 2 | 0: no more values |
//! | 8 | how many values |
//! | 32 | BLAKE3 of all before |
//!
//! Keys and values are the [store's](crate::store::layout) of one partition, in their order, each value
//! with its own checksum; the partition's place in the log is among them. `TALLYSN1` is the version: another
//! shape has another.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tally_domain::{Offset, Partition};

use super::{SnapshotError, SnapshotName};
use crate::identity::Identity;
use crate::store::layout::{self, Place};

const MAGIC: &[u8; 8] = b"TALLYSN1";
const MAX_HEADER: usize = 64 << 10;
/// The store's values are a few MiB at most.
const MAX_VALUE: usize = 256 << 20;
const BUFFER: usize = 256 << 10;

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Whose state it is, by which fold and in which layout.
    pub identity: Identity,
    /// The partition.
    pub partition: Partition,
    /// Everything below is in it.
    pub next_offset: Offset,
    /// When it was taken, in milliseconds since 1970.
    pub made_millis: u64,
}

impl Header {
    /// How the snapshot is called.
    #[must_use]
    pub fn name(&self) -> SnapshotName {
        SnapshotName {
            log: self.identity.log,
            partition: self.partition,
            next_offset: self.next_offset,
            made_millis: self.made_millis,
            fold_version: self.identity.fold_version,
            layout: self.identity.layout,
        }
    }
}

type KeyAndValue = (Vec<u8>, Vec<u8>);

/// What is shown each key and value of a snapshot.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), SnapshotError> + 'a;

/// Writes one.
pub(super) struct Writer {
    file: BufWriter<File>,
    check: blake3::Hasher,
    values: u64,
    bytes: u64,
}

impl Writer {
    pub(super) fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let mut writer = Self {
            file: BufWriter::with_capacity(BUFFER, File::create(path)?),
            check: blake3::Hasher::new(),
            values: 0,
            bytes: 0,
        };
        let header = serde_json::to_vec(header)?;
        let length = u32::try_from(header.len()).map_err(io::Error::other)?;
        writer.add(MAGIC)?;
        writer.add(&length.to_le_bytes())?;
        writer.add(&header)?;
        Ok(writer)
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or_default();
        self.file.write_all(bytes)
    }

    pub(super) fn value(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let key_len = u16::try_from(key.len()).map_err(io::Error::other)?;
        let value_len = u32::try_from(value.len()).map_err(io::Error::other)?;
        self.add(&key_len.to_le_bytes())?;
        self.add(&value_len.to_le_bytes())?;
        self.add(key)?;
        self.add(value)?;
        self.values += 1;
        Ok(())
    }

    /// Ends it, durably; how many values and bytes it has.
    pub(super) fn end(mut self) -> io::Result<(u64, u64)> {
        self.add(&0_u16.to_le_bytes())?;
        self.add(&self.values.to_le_bytes())?;
        let check = *self.check.finalize().as_bytes();
        self.file.write_all(&check)?;
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        Ok((self.values, self.bytes + 32))
    }
}

/// Reads one, and keeps the checksum of what it read.
struct Reader {
    file: BufReader<File>,
    check: blake3::Hasher,
    name: String,
    path: String,
}

impl Reader {
    fn open(path: &Path, name: &str) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(SnapshotError::spool(path, "read"))?;
        Ok(Self {
            file: BufReader::with_capacity(BUFFER, file),
            check: blake3::Hasher::new(),
            name: name.to_owned(),
            path: path.display().to_string(),
        })
    }

    fn damaged(&self, what: &str) -> SnapshotError {
        SnapshotError::Damaged {
            name: self.name.clone(),
            what: what.to_owned(),
        }
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), SnapshotError> {
        self.file.read_exact(into).map_err(|cause| {
            if cause.kind() == io::ErrorKind::UnexpectedEof {
                return self.damaged("it ends too early");
            }
            SnapshotError::Spool {
                path: self.path.clone(),
                doing: "read",
                cause,
            }
        })?;
        self.check.update(into);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: usize, most: usize) -> Result<Vec<u8>, SnapshotError> {
        if length > most {
            return Err(self.damaged("a length in it is larger than any that is written"));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn length(&mut self) -> Result<usize, SnapshotError> {
        let length = u32::from_le_bytes(self.array()?);
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn header(&mut self) -> Result<Header, SnapshotError> {
        if self.array::<8>()? != *MAGIC {
            return Err(self.damaged("it does not begin as snapshots of this version do"));
        }
        let length = self.length()?;
        let header = self.bytes(length, MAX_HEADER)?;
        serde_json::from_slice(&header).map_err(|error| self.damaged(&error.to_string()))
    }

    /// The next key and value; `None` past the last, where the end is as it must be.
    fn value(&mut self, count: u64) -> Result<Option<KeyAndValue>, SnapshotError> {
        let key_len = u16::from_le_bytes(self.array()?);
        if key_len == 0 {
            return self.end(count).map(|()| None);
        }
        let value_len = self.length()?;
        let key = self.bytes(key_len.into(), usize::from(u16::MAX))?;
        let value = self.bytes(value_len, MAX_VALUE)?;
        Ok(Some((key, value)))
    }

    fn end(&mut self, count: u64) -> Result<(), SnapshotError> {
        if u64::from_le_bytes(self.array()?) != count {
            return Err(self.damaged("values are missing"));
        }
        let wanted = self.check.finalize();
        if wanted != blake3::Hash::from_bytes(self.array()?) {
            return Err(self.damaged("it fails its checksum"));
        }
        if self.file.fill_buf().is_ok_and(<[u8]>::is_empty) {
            return Ok(());
        }
        Err(self.damaged("something follows its end"))
    }
}

/// Reads a snapshot to its end and compares every checksum and every key; `name` is for errors.
///
/// # Errors
/// [`SnapshotError::Damaged`]; where the file can't be read.
pub fn check(path: &Path, name: &str) -> Result<(Header, Place), SnapshotError> {
    read(path, name, &mut |_, _| Ok(()))
}

/// The same, and shows each key and value on the way.
pub(super) fn read(
    path: &Path,
    name: &str,
    visit: &mut Visit<'_>,
) -> Result<(Header, Place), SnapshotError> {
    let mut reader = Reader::open(path, name)?;
    let header = reader.header()?;
    let place_key = layout::partition_key(header.partition);
    let (mut count, mut place, mut before) = (0, None, Vec::new());
    while let Some((key, value)) = reader.value(count)? {
        let of_partition = layout::partition_prefixes(header.partition)
            .iter()
            .any(|prefix| key.starts_with(prefix));
        if !of_partition || key <= before {
            return Err(reader.damaged("a key in it is none of its partition's, or out of order"));
        }
        let opened = layout::open(&key, &value);
        let content = opened.map_err(|error| reader.damaged(&error.to_string()))?;
        if key == place_key {
            let read = Place::from_value(content);
            place = Some(read.map_err(|error| reader.damaged(&error.to_string()))?);
        }
        visit(&key, &value)?;
        count += 1;
        before = key;
    }
    match place {
        Some(place) if place.next_offset == header.next_offset => Ok((header, place)),
        Some(_) | None => Err(reader.damaged("its place in the log is another than it says")),
    }
}
