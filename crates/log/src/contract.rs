//! What a log promises.
//!
//! A log has a fixed number of partitions. A record is a key and a value, both bytes, at an
//! offset of a partition.
//!
//! ```text
//!  partition 3:   [ first ............ synced records ............ head )  in flight
//!                   ^ first position                               ^ the offset after the last
//!                                                                    readable record
//! ```
//!
//! - **Order.** Offsets of a partition strictly increase in append order; they may have gaps.
//!   Records of one [`EventLog::append`] call for one partition stay in their order. Nothing is
//!   said about order between partitions.
//! - **Durability.** A record is *acknowledged* (its `Ok(offset)` given to [`AppendDone`]) only
//!   when it survives the death of the process and of the machine: embedded after the sync, Kafka
//!   after all in-sync replicas have it. A record is *readable* only once it is durable; it may
//!   become readable just before its acknowledgement runs.
//! - **Unacknowledged** records may be there after a restart, whole, or not there; never half.
//! - **Append time** is given by the log, in milliseconds since 1970, and never falls within a
//!   partition as far as the log can help it.
//! - **First** moves up when old records are removed; **head** never falls while the log is open.

use std::time::Duration;

use tally_domain::{LogId, Offset, Partition, Position};

use crate::batch::Batch;
use crate::trace::TraceParent;

/// A record on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Where it goes; `partition_of(key)` for anything but a test of what goes wrong.
    pub partition: Partition,
    /// Its key, at most 64 KiB.
    pub key: Vec<u8>,
    /// Its value, at most 1 MiB.
    pub value: Vec<u8>,
    /// The trace it belongs to. A log whose records have headers hands it on; others drop it.
    pub traceparent: Option<TraceParent>,
}

/// Which log this is. State belongs to exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// Made when the log was created, never again.
    pub id: LogId,
    /// How many partitions it has, fixed when it was created.
    pub partitions: u32,
}

/// Called exactly once for an append that was not refused, on a thread of the log, with one
/// result per record in the order given. It must not block.
pub type AppendDone = Box<dyn FnOnce(Vec<Result<Offset, AppendError>>) + Send>;

/// Why an append was refused. Nothing was written, nothing will be: a retry is safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// The queue of waiting appends is at its bound.
    #[error("the log's append queue is full ({queued_bytes} bytes wait)")]
    QueueFull {
        /// What waits already.
        queued_bytes: usize,
    },
    /// A record is over the log's limits, or names a partition that is not there.
    #[error("the record can't be appended: {0}")]
    Invalid(String),
    /// The log takes no appends any more: an earlier sync failed, or it was closed.
    #[error("the log takes no appends: {0}")]
    Closed(String),
    /// The brokers are away. They are asked again all the while; appends are taken as soon as one
    /// answers.
    #[error("the log's brokers can't be reached: {0}")]
    Unreachable(String),
}

/// Why an accepted append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It is certain that the record is not in the log: a retry is safe.
    #[error("the record was not written: {0}")]
    NotWritten(String),
    /// It is certain that the record is not in the log, since the disk is full.
    #[error("the record was not written, the disk is full: {0}")]
    DiskFull(String),
    /// It is certain that the record is not in the log: no broker took it within the deadline.
    #[error("the record was not written in time: {0}")]
    TimedOut(String),
    /// It is certain that the record is not in the log: we may not write it.
    #[error("the record was not written, the log refuses us: {0}")]
    Unauthorized(String),
    /// It is certain that the record is not in the log: it is larger than the log takes.
    #[error("the record was not written, it is too large for the log: {0}")]
    TooLarge(String),
    /// The record may be in the log, now, soon, or after a restart: it may still become readable.
    /// Only a retry with the same idempotency key is safe.
    #[error("the record may or may not have been written: {0}")]
    FateUnknown(String),
}

/// Why a log can't be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The position lies before the first record, or past the head.
    #[error(
        "offset {wanted} of partition {partition} is not in the log, which holds {first} up to {head}"
    )]
    OutOfRange {
        /// The partition.
        partition: Partition,
        /// What was asked for.
        wanted: Offset,
        /// The first offset there is.
        first: Offset,
        /// The offset after the last.
        head: Offset,
    },
    /// Bytes that were acknowledged can't be read back as they were written.
    #[error("the log is damaged at {place}: {what}. Restore the file from a backup")]
    Damaged {
        /// File and byte, or partition and offset.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// The storage or the broker can't be reached.
    #[error("the log can't be read: {0}")]
    Unavailable(String),
    /// Another log has come into its place. Nothing of that one is given out.
    #[error("the log was replaced: {0}")]
    Replaced(String),
}

/// Whether the log takes appends, for readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogHealth {
    /// It does.
    Ok,
    /// It does not, and as a rule only a restart changes that.
    Failed(String),
    /// The disk is full; appends are tried again as they come.
    DiskFull(String),
    /// The broker is away; it may come back.
    Unreachable(String),
}

/// What a truncation removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Truncated {
    /// How many records, over all partitions.
    pub records: u64,
    /// How many bytes, where the log can tell.
    pub bytes: Option<u64>,
}

/// Why the oldest records can't be removed. Some of them may be gone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TruncateError {
    /// The log keeps all it has.
    #[error("this log can't be truncated")]
    Unsupported,
    /// The storage or the broker.
    #[error("the log can't be truncated: {0}")]
    Failed(String),
}

/// A record that was read by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneRecord {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// The record at a reader's only position, or `None` where that is a gap.
fn first_from(
    mut reader: Box<dyn LogReader>,
    position: Position,
) -> Result<Option<OneRecord>, ReadError> {
    /// The position is below the head, so this is only ever as long as the log needs to answer.
    const AT_MOST: Duration = Duration::from_secs(30);
    let mut batch = Batch::new();
    reader.next(&mut batch, AT_MOST)?;
    let first = batch
        .iter()
        .next()
        .filter(|record| record.position == position);
    Ok(first.map(|record| OneRecord {
        key: record.key.to_vec(),
        value: record.value.to_vec(),
    }))
}

/// A durable, partitioned, append-only log. See the [module](self) for what it promises.
pub trait EventLog: Send + Sync + 'static {
    /// Which log this is.
    fn identity(&self) -> LogIdentity;

    /// Appends records. Returns at once; `done` is called later, exactly once, unless the append
    /// is refused. All records of one call become durable together or fail alike where the
    /// implementation can see to it (embedded: always; Kafka: record by record).
    ///
    /// # Errors
    /// [`AppendRefused`]: nothing of it was or will be written, and `done` is not called.
    fn append(&self, records: Vec<NewRecord>, done: AppendDone) -> Result<(), AppendRefused>;

    /// A reader that starts at the given positions, one per partition it shall read. A position's
    /// offset may be the head (wait for what comes); below the first or past the head it is
    /// [`ReadError::OutOfRange`].
    ///
    /// # Errors
    /// [`ReadError`].
    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError>;

    /// The first offset of every partition, by partition number; the head where it is empty.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`].
    fn first(&self) -> Result<Vec<Offset>, ReadError>;

    /// The offset after the last readable record of every partition, by partition number. It is
    /// asked of the log itself, never of a reader.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`].
    fn head(&self) -> Result<Vec<Offset>, ReadError>;

    /// Whether it takes appends.
    fn health(&self) -> LogHealth;

    /// For how long appends have waited without one being finished, well or not; `None` where none
    /// waits. A disk or a broker that hangs gives no error, only this.
    fn stalled_for(&self) -> Option<Duration>;

    /// The records that stand exactly at these positions, in the order given; `None` where an
    /// offset is a gap. Each position lies below the head.
    ///
    /// # Errors
    /// [`ReadError`].
    fn records_at(&self, positions: &[Position]) -> Result<Vec<Option<OneRecord>>, ReadError> {
        let one = |position: &Position| first_from(self.reader(&[*position])?, *position);
        positions.iter().map(one).collect()
    }

    /// Says up to which positions records were applied, for tools that show how far a log's readers
    /// are. It is of no other consequence: nothing is ever resumed from it. It returns at once.
    fn applied(&self, _next: &[Position]) {}

    /// Removes the oldest records, as far as that can be done without removing any at or past these
    /// offsets, which are given by partition number. Offsets stay what they are, and what comes goes on
    /// after the last, also where none is left. A reader that has not read yet what is removed is refused
    /// there.
    ///
    /// # Errors
    /// [`TruncateError`].
    fn truncate(&self, _below: &[Offset]) -> Result<Truncated, TruncateError> {
        Err(TruncateError::Unsupported)
    }

    /// Finishes what was accepted, within the deadline, and takes no more. Readers go on reading
    /// what is there. Called again, it says the same again.
    ///
    /// # Errors
    /// Where not everything that was accepted could be finished.
    fn close(&self, deadline: Duration) -> Result<(), AppendError>;
}

/// Reads a set of partitions, each in offset order, mixed as the log likes. It blocks: it belongs
/// on a thread of its own.
pub trait LogReader: Send {
    /// Replaces `batch` with the next records: at least one where there is one within `wait`,
    /// none otherwise, and at most about 1 MiB (a single larger record comes alone). Returns
    /// early with an empty batch when another thread calls the waker.
    ///
    /// # Errors
    /// [`ReadError`]; the reader stands where it stood. Where it can go on without the partition
    /// that an [`OutOfRange`](ReadError::OutOfRange) names, that one is no longer among its
    /// [`positions`](Self::positions).
    fn next(&mut self, batch: &mut Batch, wait: Duration) -> Result<(), ReadError>;

    /// The next position of every partition it reads: all records below were returned. It also
    /// moves over gaps, so that a reader that has returned everything stands at the head.
    fn positions(&self) -> Vec<Position>;

    /// Wakes a blocked [`next`](Self::next) from another thread.
    fn waker(&self) -> Box<dyn Fn() + Send + Sync>;
}
