//! A log in files, with faults on demand.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use parking_lot::Mutex;
use tally_domain::{Offset, Position};
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::storage::RealStorage;
use tally_log::{
    AppendDone, AppendError, AppendRefused, BatchRecord, EventLog, LogHealth, LogIdentity,
    LogMetrics, LogReader, NewRecord, ReadError, TraceParent,
};
use tempfile::TempDir;

use super::PARTITIONS;
use crate::copy::Side;
use crate::copy::read::End;

/// What becomes of the next append.
pub(super) enum Fault {
    /// Nothing.
    None,
    /// It is refused, and taken when it comes again.
    QueueFull,
    /// It is refused.
    Closed,
    /// Nothing of it is written.
    NotWritten,
    /// All of it but the first record is written.
    FirstMissing,
    /// It is written, and so is a record of somebody else.
    Foreign(NewRecord),
}

/// A log in a folder of its own, with faults on demand.
pub(super) struct TestLog {
    pub(super) log: EmbeddedLog,
    pub(super) faults: Mutex<VecDeque<Fault>>,
    /// Where partition 2 says that it begins.
    pub(super) first: Offset,
    /// Of everything that was appended.
    pub(super) traces: Mutex<Vec<Option<TraceParent>>>,
    _dir: TempDir,
}

impl TestLog {
    pub(super) fn with_partitions(partitions: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            partitions,
            segment_bytes: 1 << 20,
            ..EmbeddedOptions::default()
        };
        let metrics = LogMetrics::unregistered().unwrap();
        let opened = EmbeddedLog::open(Arc::new(RealStorage), dir.path(), "t", options, &metrics);
        Self {
            log: opened.unwrap().0,
            faults: Mutex::default(),
            first: 0,
            traces: Mutex::default(),
            _dir: dir,
        }
    }

    pub(super) fn new() -> Self {
        Self::with_partitions(PARTITIONS)
    }

    /// A log that has these records.
    pub(super) fn of(records: &[NewRecord]) -> Self {
        let log = Self::new();
        log.add(records);
        log
    }

    pub(super) fn add(&self, records: &[NewRecord]) {
        for chunk in records.chunks(1_000) {
            let (answer, answered) = sync_channel(1);
            let done = Box::new(move |results| answer.send(results).unwrap());
            self.log.append(chunk.to_vec(), done).unwrap();
            assert!(answered.recv().unwrap().iter().all(Result::is_ok));
        }
    }

    pub(super) fn faulty(faults: impl IntoIterator<Item = Fault>) -> Self {
        let log = Self::new();
        *log.faults.lock() = faults.into_iter().collect();
        log
    }

    /// Keys and values by partition.
    pub(super) fn records(&self) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut records = vec![Vec::new(); self.identity().partitions as usize];
        let end = End::new(self, Side::Source);
        let (from, head) = (end.beginning().unwrap(), end.head().unwrap());
        let mut each = |batch: &[BatchRecord<'_>]| {
            for record in batch {
                let pair = (record.key.to_vec(), record.value.to_vec());
                records[record.position.partition as usize].push(pair);
            }
            Ok(ControlFlow::Continue(()))
        };
        end.through(&from, &head, &mut each).unwrap();
        records
    }
}

impl EventLog for TestLog {
    fn identity(&self) -> LogIdentity {
        self.log.identity()
    }

    fn append(&self, mut records: Vec<NewRecord>, done: AppendDone) -> Result<(), AppendRefused> {
        let traces = records.iter().map(|record| record.traceparent);
        self.traces.lock().extend(traces);
        match self.faults.lock().pop_front().unwrap_or(Fault::None) {
            Fault::None => self.log.append(records, done),
            Fault::QueueFull => Err(AppendRefused::QueueFull { queued_bytes: 1 }),
            Fault::Closed => Err(AppendRefused::Closed("as the test wants it".to_owned())),
            Fault::NotWritten => {
                let error = AppendError::NotWritten("as the test wants it".to_owned());
                done(records.iter().map(|_| Err(error.clone())).collect());
                Ok(())
            }
            Fault::FirstMissing => {
                records.remove(0);
                let error = AppendError::TimedOut("as the test wants it".to_owned());
                let done = Box::new(|mut results: Vec<_>| {
                    results.insert(0, Err(error));
                    done(results);
                });
                self.log.append(records, done)
            }
            Fault::Foreign(record) => {
                records.push(record);
                let done = Box::new(|mut results: Vec<_>| {
                    results.pop();
                    done(results);
                });
                self.log.append(records, done)
            }
        }
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        self.log.reader(from)
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        let mut first = self.log.first()?;
        first[2] = self.first;
        Ok(first)
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        self.log.head()
    }

    fn health(&self) -> LogHealth {
        self.log.health()
    }

    fn stalled_for(&self) -> Option<Duration> {
        self.log.stalled_for()
    }

    fn close(&self, deadline: Duration) -> Result<(), AppendError> {
        self.log.close(deadline)
    }
}
