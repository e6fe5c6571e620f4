//! What the tests of the embedded log share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tally_domain::{Offset, Partition, Position};
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions, OpenError, Recovery};
use tally_log::{AppendError, AppendRefused, Batch, EventLog, LogMetrics, NewRecord, ReadError};

use tally_log::simulation::SimDisk;

/// Longer than anything takes that comes at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const PARTITIONS: u32 = 3;

pub(crate) const HEADER_BYTES: u64 = 64 + 8 * 3;

/// Of a group with one record of [`fill`] whose label has one character.
pub(crate) const GROUP_BYTES: u64 = 160;

pub(crate) fn dir() -> &'static Path {
    Path::new("/log")
}

pub(crate) fn segment(number: u64) -> PathBuf {
    dir().join(format!("{number:020}.log"))
}

pub(crate) fn last_segment(disk: &SimDisk) -> PathBuf {
    let mut files = disk.files();
    files.retain(|file| file.extension().is_some_and(|end| end == "log"));
    files.pop().unwrap()
}

/// Segments that hold a few groups.
pub(crate) fn small() -> EmbeddedOptions {
    EmbeddedOptions {
        partitions: PARTITIONS,
        segment_bytes: 4096,
        ..EmbeddedOptions::default()
    }
}

pub(crate) fn open_with(
    disk: &SimDisk,
    options: EmbeddedOptions,
) -> Result<(EmbeddedLog, Recovery), OpenError> {
    let metrics = LogMetrics::unregistered().unwrap();
    EmbeddedLog::open(Arc::new(disk.clone()), dir(), "test", options, &metrics)
}

pub(crate) fn open(disk: &SimDisk) -> (EmbeddedLog, Recovery) {
    open_with(disk, small()).unwrap()
}

pub(crate) type Results = Vec<Result<Offset, AppendError>>;

/// One append of one record for each partition and value given.
pub(crate) fn try_append(
    log: &EmbeddedLog,
    records: &[(Partition, Vec<u8>)],
) -> Result<Receiver<Results>, AppendRefused> {
    let (done, results) = mpsc::channel();
    let records = records.iter().map(|(partition, value)| NewRecord {
        partition: *partition,
        key: b"key".to_vec(),
        value: value.clone(),
        traceparent: None,
    });
    let done = move |all| done.send(all).unwrap_or_default();
    log.append(records.collect(), Box::new(done))?;
    Ok(results)
}

/// An append that must not be refused.
pub(crate) fn append(log: &EmbeddedLog, records: &[(Partition, Vec<u8>)]) -> Receiver<Results> {
    try_append(log, records).unwrap()
}

/// Appends one record and waits for what becomes of it.
pub(crate) fn append_one(
    log: &EmbeddedLog,
    partition: Partition,
    value: &[u8],
) -> Result<Offset, AppendError> {
    let results = append(log, &[(partition, value.to_vec())]);
    results.recv_timeout(PATIENCE).unwrap().remove(0)
}

/// Position and value of every record there is, partition by partition.
pub(crate) type Contents = Vec<(Position, Vec<u8>)>;

/// Appends `count` records of about 100 bytes, one by one.
pub(crate) fn fill(log: &EmbeddedLog, label: &str, count: u32) -> Contents {
    let mut all = Vec::new();
    for number in 0..count {
        let partition = number % PARTITIONS;
        let value = format!("{label} {number:90}").into_bytes();
        let offset = append_one(log, partition, &value).unwrap();
        all.push((Position { partition, offset }, value));
    }
    all.sort();
    all
}

pub(crate) fn from(offsets: &[Offset]) -> Vec<Position> {
    let pairs = (0..).zip(offsets);
    pairs
        .map(|(partition, offset)| Position {
            partition,
            offset: *offset,
        })
        .collect()
}

/// Reads everything up to the head.
pub(crate) fn read_all(log: &dyn EventLog) -> Result<Contents, ReadError> {
    read_from(log, &from(&log.first()?))
}

pub(crate) fn read_from(log: &dyn EventLog, start: &[Position]) -> Result<Contents, ReadError> {
    let mut ends = from(&log.head()?);
    ends.retain(|end| start.iter().any(|from| from.partition == end.partition));
    let mut reader = log.reader(start)?;
    let mut batch = Batch::new();
    let mut all = Vec::new();
    while reader.positions() != ends {
        reader.next(&mut batch, Duration::ZERO)?;
        assert!(!batch.is_empty(), "stands at {:?}", reader.positions());
        all.extend(batch.iter().map(|r| (r.position, r.value.to_vec())));
    }
    all.sort();
    Ok(all)
}
