//! The suite that every [`EventLog`] must pass.
//!
//! An implementation gives a [`TestLog`] and says `tally_log::conformance_suite!(make)` in an
//! integration test, where `make` is a function that returns a new one; that makes one `#[test]`
//! of every promise. The suite assumes no more than the contract does: offsets may have gaps, only
//! the order within a partition is fixed, and a log is reached through its traits alone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is a test suite: it fails by panicking"
)]

mod appending;
mod opening;
mod reading;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use tally_domain::{Offset, Partition, Position};

use crate::batch::Batch;
use crate::contract::{AppendError, EventLog, LogReader, NewRecord};

pub use appending::*;
pub use opening::*;
pub use reading::*;

/// How many partitions a log under test has.
pub const PARTITIONS: u32 = 4;

/// At most how many records wait in a log that was opened with a small queue.
pub const SMALL_QUEUE_RECORDS: usize = 1_000;

/// Longer than anything takes that comes at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A log that is not there yet, and what differs between implementations.
pub trait TestLog {
    /// Opens the log; the first call makes it, empty, with [`PARTITIONS`] partitions. What was
    /// opened before is closed or dropped. Where the log is kept in pieces, those shall be small.
    fn open(&self) -> Arc<dyn EventLog>;

    /// The same, with a queue that holds at most [`SMALL_QUEUE_RECORDS`].
    fn open_with_small_queue(&self) -> Arc<dyn EventLog>;

    /// Ends a log that was opened as if its process had been killed.
    fn kill(&self, log: Arc<dyn EventLog>) {
        drop(log);
    }

    /// Removes some of the oldest records of a log that is not open, and not all of those that the
    /// suite's largest tests append.
    fn remove_oldest(&self);
}

/// Makes a `#[test]` of every promise; see [`conformance`](self).
#[macro_export]
macro_rules! conformance_suite {
    ($make:expr) => {
        $crate::conformance_suite! { $make;
            // appending
            acknowledged_records_have_rising_offsets
            one_append_keeps_its_order
            every_append_is_called_back_once
            threads_append_at_once
            an_invalid_record_refuses_its_whole_append
            records_may_be_empty_or_large
            a_full_queue_refuses_at_once
            closing_finishes_what_was_accepted
            nothing_is_appended_after_closing
            // reading
            what_was_appended_is_read_in_order
            a_reader_starts_at_any_position
            a_reader_has_its_partitions_alone
            positions_outside_are_refused
            removed_records_are_out_of_range
            a_truncation_removes_the_oldest_alone
            a_reader_waits_for_what_comes
            a_wake_is_never_lost
            a_wait_ends_without_records
            readers_do_not_disturb_each_other
            batches_are_bounded
            append_times_do_not_fall
            // opening
            an_empty_log_starts_at_its_head
            the_identity_never_changes
            acknowledged_records_survive_closing
            acknowledged_records_survive_a_kill
            a_kill_calls_everybody_back
        }
    };
    ($make:expr; $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::conformance::$name(&$make());
            }
        )*
    };
}

/// A record as it was appended or read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    position: Position,
    key: Vec<u8>,
    value: Vec<u8>,
}

fn record(partition: Partition, value: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord {
        partition,
        key: format!("key {partition}").into_bytes(),
        value: value.into(),
        traceparent: None,
    }
}

type Results = Vec<Result<Offset, AppendError>>;

/// Appends and does not wait; the results come out of the channel.
fn append(log: &dyn EventLog, records: Vec<NewRecord>) -> Receiver<Results> {
    let (done, results) = mpsc::channel();
    let done = move |all| done.send(all).unwrap_or_default();
    log.append(records, Box::new(done)).unwrap();
    results
}

/// Waits for the results of an append and checks that every record was taken.
fn acknowledged(results: &Receiver<Results>) -> Vec<Offset> {
    let results = results.recv_timeout(PATIENCE).unwrap();
    results.into_iter().map(Result::unwrap).collect()
}

/// Appends, waits, and says what the log holds now.
fn append_all(log: &dyn EventLog, records: Vec<NewRecord>) -> Vec<Held> {
    let offsets = acknowledged(&append(log, records.clone()));
    assert_eq!(offsets.len(), records.len());
    held(records, offsets)
}

fn held(records: Vec<NewRecord>, offsets: Vec<Offset>) -> Vec<Held> {
    let pairs = records.into_iter().zip(offsets);
    pairs
        .map(|(record, offset)| Held {
            position: Position {
                partition: record.partition,
                offset,
            },
            key: record.key,
            value: record.value,
        })
        .collect()
}

/// Some records for all partitions, in appends of 1 to 8 records.
fn fill(log: &dyn EventLog, label: &str, appends: usize) -> Vec<Held> {
    let mut all = Vec::new();
    for number in 0..appends {
        let records = (0..=number % 8).map(|place| {
            let partition = Partition::try_from((number + place) % 4).unwrap();
            record(partition, format!("{label} {number}/{place}"))
        });
        all.extend(append_all(log, records.collect()));
    }
    all
}

/// The positions of all partitions at these offsets.
fn positions(offsets: &[Offset]) -> Vec<Position> {
    let pairs = (0..).zip(offsets);
    pairs
        .map(|(partition, offset)| Position {
            partition,
            offset: *offset,
        })
        .collect()
}

/// Reads until the reader stands where it is told.
fn read_to(reader: &mut dyn LogReader, ends: &[Position]) -> Vec<Held> {
    let deadline = Instant::now() + PATIENCE;
    let mut batch = Batch::new();
    let mut read = Vec::new();
    while reader.positions() != ends {
        assert!(
            Instant::now() < deadline,
            "stands at {:?}",
            reader.positions()
        );
        reader.next(&mut batch, Duration::from_millis(100)).unwrap();
        read.extend(batch.iter().map(|record| Held {
            position: record.position,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
        }));
    }
    read
}

/// Reads all that is there.
fn read_all(log: &dyn EventLog) -> Vec<Held> {
    let mut reader = log.reader(&positions(&log.first().unwrap())).unwrap();
    read_to(reader.as_mut(), &positions(&log.head().unwrap()))
}

/// The records of one partition, in their order.
fn of(partition: Partition, records: &[Held]) -> Vec<&Held> {
    let of = records
        .iter()
        .filter(|held| held.position.partition == partition);
    of.collect()
}

/// Nothing is said about the order between partitions.
fn assert_same(read: &[Held], appended: &[Held]) {
    for partition in 0..PARTITIONS {
        assert_eq!(of(partition, read), of(partition, appended));
    }
}

fn assert_rising(records: &[Held]) {
    for partition in 0..PARTITIONS {
        for pair in of(partition, records).windows(2) {
            assert!(
                pair[0].position.offset < pair[1].position.offset,
                "{pair:?}"
            );
        }
    }
}
