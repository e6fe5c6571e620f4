//! Appends on their way to the writer thread: bounded, and in order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::Offset;

use super::layout::record_bytes;
use super::options::EmbeddedOptions;
use crate::bounds;
use crate::contract::{AppendDone, AppendError, AppendRefused, NewRecord};

/// What an append costs in memory besides its records' bytes, about.
const RECORD_OVERHEAD: usize = 96;

/// One accepted append.
pub(crate) struct Pending {
    pub(crate) records: Vec<NewRecord>,
    pub(crate) done: AppendDone,
    /// When it was accepted.
    pub(crate) began: Instant,
    /// Bytes of its records in a group.
    pub(crate) frame_bytes: usize,
    /// Filled by the writer, given to `done` once they are true.
    pub(crate) results: Vec<Result<Offset, AppendError>>,
}

impl Pending {
    fn cost(&self) -> usize {
        let overhead = self.records.len().saturating_add(1) * RECORD_OVERHEAD;
        self.frame_bytes.saturating_add(overhead)
    }
}

/// How the writer shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// After all that was accepted, with a footer.
    Finish,
    /// At once, like a killed process, except that everybody is told.
    Abandon,
}

/// How the writer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The first error of an append that was accepted before the log was asked to finish and
    /// failed after.
    pub(crate) unfinished: Option<AppendError>,
}

pub(crate) struct Queue {
    state: Mutex<QueueState>,
    work: Condvar,
    ended: Condvar,
    partitions: u32,
    max_append_bytes: usize,
    max_bytes: usize,
    max_records: usize,
}

#[derive(Default)]
struct QueueState {
    pending: VecDeque<Pending>,
    /// Of everything accepted and not yet done.
    bytes: usize,
    records: usize,
    /// Since when appends have waited without one being finished.
    waiting_since: Option<Instant>,
    writer_sleeps: bool,
    stop: Option<Stop>,
    closed: Option<String>,
    ended: Option<Ended>,
}

/// What the writer found.
pub(crate) enum Work {
    /// The given list has something in it.
    Appends,
    /// Nothing came in the given time.
    Idle,
    /// Nothing is left, and it shall end.
    Stop(Stop),
}

impl Queue {
    pub(crate) fn new(options: &EmbeddedOptions) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            partitions: options.partitions,
            max_append_bytes: options.max_append_bytes(),
            max_bytes: options.max_queue_bytes,
            max_records: options.max_queue_records,
        }
    }

    /// Bytes of an append's records in a group.
    fn check(&self, records: &[NewRecord]) -> Result<usize, AppendRefused> {
        bounds::check(records, self.partitions)?;
        let frames = records
            .iter()
            .map(|record| record_bytes(record.key.len(), record.value.len()));
        let bytes = frames.fold(0_usize, usize::saturating_add);
        if bytes > self.max_append_bytes {
            return Err(AppendRefused::Invalid(format!(
                "{bytes} bytes in one append are over the limit of {}",
                self.max_append_bytes
            )));
        }
        Ok(bytes)
    }

    pub(crate) fn push(
        &self,
        records: Vec<NewRecord>,
        done: AppendDone,
    ) -> Result<(), AppendRefused> {
        let frame_bytes = self.check(&records)?;
        let count = records.len();
        let pending = Pending {
            results: Vec::with_capacity(count),
            records,
            done,
            began: Instant::now(),
            frame_bytes,
        };
        let cost = pending.cost();
        let mut state = self.state.lock();
        if let Some(why) = &state.closed {
            return Err(AppendRefused::Closed(why.clone()));
        }
        // Something always fits into an empty queue, so that no append is refused for ever.
        let bytes = state.bytes.saturating_add(cost);
        let records = state.records.saturating_add(count);
        if state.bytes > 0 && (bytes > self.max_bytes || records > self.max_records) {
            return Err(AppendRefused::QueueFull {
                queued_bytes: state.bytes,
            });
        }
        state.bytes = bytes;
        state.records = records;
        state.waiting_since.get_or_insert_with(Instant::now);
        state.pending.push_back(pending);
        let wake = std::mem::take(&mut state.writer_sleeps);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// For the writer: everything that waits, or what else there is to do. Blocks up to `patience`
    /// where there is nothing.
    pub(crate) fn take(&self, into: &mut VecDeque<Pending>, patience: Option<Duration>) -> Work {
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut state = self.state.lock();
        loop {
            if state.stop == Some(Stop::Abandon) {
                return Work::Stop(Stop::Abandon);
            }
            if into.is_empty() {
                std::mem::swap(into, &mut state.pending);
            }
            if !into.is_empty() {
                return Work::Appends;
            }
            if let Some(stop) = state.stop {
                return Work::Stop(stop);
            }
            state.writer_sleeps = true;
            let timed_out = match deadline {
                Some(deadline) => self.work.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.work.wait(&mut state);
                    false
                }
            };
            state.writer_sleeps = false;
            if timed_out && state.pending.is_empty() && state.stop.is_none() {
                return Work::Idle;
            }
        }
    }

    /// Frees the places of appends that are done. Returns how many bytes still wait.
    pub(crate) fn done(&self, appends: &[Pending]) -> usize {
        let cost = appends.iter().map(Pending::cost).sum();
        let records = appends.iter().map(|append| append.records.len()).sum();
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(cost);
        state.records = state.records.saturating_sub(records);
        state.waiting_since = (state.bytes > 0).then(Instant::now);
        state.bytes
    }

    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        let since = self.state.lock().waiting_since;
        since.map(|since| since.elapsed())
    }

    /// Takes no more appends, for the reason given, and asks the writer to stop.
    pub(crate) fn close(&self, why: &str, stop: Stop) {
        let mut state = self.state.lock();
        // Abandoning overrules finishing; nothing overrules abandoning.
        if state.stop.is_none() || stop == Stop::Abandon {
            state.stop = Some(stop);
        }
        state.closed.get_or_insert_with(|| why.to_owned());
        drop(state);
        self.work.notify_one();
    }

    /// For the writer that ends: nothing is taken from now on, and this is what still waits.
    pub(crate) fn end(&self, why: &str, into: &mut VecDeque<Pending>) {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| why.to_owned());
        into.append(&mut state.pending);
    }

    /// The writer's last word.
    pub(crate) fn ended(&self, ended: Ended) {
        self.state.lock().ended = Some(ended);
        self.ended.notify_all();
    }

    /// Whether the writer was asked to stop.
    pub(crate) fn stopping(&self) -> bool {
        self.state.lock().stop.is_some()
    }

    /// How the writer ended; `None` where it does not within the time given.
    pub(crate) fn wait_for_end(&self, patience: Duration) -> Option<Ended> {
        let mut state = self.state.lock();
        self.ended
            .wait_while_for(&mut state, |state| state.ended.is_none(), patience);
        state.ended.clone()
    }
}
