//! Appending in chunks: while one is on its way, the next one gathers.
//!
//! Only one is ever on its way. Were a chunk to fail with another behind it, that other one might be
//! taken, and the destination would not be the beginning of the source any more.

use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tally_domain::Partition;
use tally_log::blocking::{self, AppendResults};
use tally_log::{AppendError, Batch, BatchRecord, EventLog, NewRecord, TraceParent};

use super::CopyError;

/// At most how many records are one chunk.
const RECORDS: usize = 8_192;
/// At most how many bytes, unless a single record has more. Below the smallest bound on what may wait.
const BYTES: usize = 1 << 20;
/// How long the destination may take to finish a chunk.
const ANSWER: Duration = Duration::from_secs(120);
/// How long its queue may stay full although nothing of ours is in it.
const ROOM: Duration = Duration::from_secs(30);

/// Appends records in their order.
pub(super) struct Writer<'a> {
    log: &'a dyn EventLog,
    gathered: Batch,
    traces: Vec<Option<TraceParent>>,
    /// The partitions of the chunk's records, and where its results come.
    on_its_way: Option<(Vec<Partition>, Receiver<AppendResults>)>,
    acknowledged: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(log: &'a dyn EventLog) -> Self {
        Self {
            log,
            gathered: Batch::new(),
            traces: Vec::new(),
            on_its_way: None,
            acknowledged: 0,
        }
    }

    /// Takes one more record, in its own partition.
    ///
    /// # Errors
    /// [`CopyError`] of records that were pushed before.
    pub(super) fn push(
        &mut self,
        record: BatchRecord<'_>,
        trace: Option<TraceParent>,
    ) -> Result<(), CopyError> {
        let size = record.key.len() + record.value.len();
        let full = self.gathered.len() >= RECORDS || self.gathered.byte_len() + size > BYTES;
        if full && !self.gathered.is_empty() {
            self.send()?;
        }
        let (at, time) = (record.position, record.append_time_millis);
        self.gathered
            .push(at.partition, at.offset, time, record.key, record.value);
        self.traces.push(trace);
        Ok(())
    }

    /// Returns once everything is durable: how many records.
    ///
    /// # Errors
    /// [`CopyError`].
    pub(super) fn finish(mut self) -> Result<u64, CopyError> {
        if !self.gathered.is_empty() {
            self.send()?;
        }
        self.wait()?;
        Ok(self.acknowledged)
    }

    /// Sends what was gathered, once the chunk before is durable.
    fn send(&mut self) -> Result<(), CopyError> {
        self.wait()?;
        let until = Instant::now() + ROOM;
        let sent = blocking::append_when_room(self.log, || self.records(), until, || Ok(()));
        let answered = sent.map_err(|error| CopyError::Refused {
            copied: self.acknowledged,
            error,
        })?;
        let partitions = self.gathered.iter().map(|record| record.position.partition);
        self.on_its_way = Some((partitions.collect(), answered));
        self.gathered.clear();
        self.traces.clear();
        Ok(())
    }

    fn records(&self) -> Vec<NewRecord> {
        let both = self.gathered.iter().zip(&self.traces);
        both.map(|(record, traceparent)| NewRecord {
            partition: record.position.partition,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
            traceparent: *traceparent,
        })
        .collect()
    }

    /// Waits for the chunk that is on its way.
    fn wait(&mut self) -> Result<(), CopyError> {
        let Some((partitions, answered)) = self.on_its_way.take() else {
            return Ok(());
        };
        let Ok(results) = answered.recv_timeout(ANSWER) else {
            let copied = self.acknowledged;
            return Err(CopyError::Unanswered { copied });
        };
        let mut failed = None;
        let mut broken = BTreeSet::new();
        let mut gap = false;
        for (partition, result) in partitions.into_iter().zip(results) {
            match result {
                Ok(_) => {
                    self.acknowledged += 1;
                    gap |= broken.contains(&partition);
                }
                Err(error) => {
                    // What may be there after all is compared the next time.
                    if !matches!(error, AppendError::FateUnknown(_)) {
                        broken.insert(partition);
                    }
                    failed = failed.or(Some(error));
                }
            }
        }
        match failed {
            Some(error) => Err(CopyError::Append {
                copied: self.acknowledged,
                error,
                gap,
            }),
            None => Ok(()),
        }
    }
}
