//! The one thread that writes.
//!
//! It takes everything that waits, as far as one group may grow, gives out offsets, writes the
//! group, syncs it, publishes it to the readers, and tells who appended. While it syncs, the next
//! group's appends gather.
//!
//! - A failed *write* is undone by cutting the file off where it was; nothing was published, so
//!   the same offsets are given out again. It may go better later: where nobody appends, the
//!   writer tries once a second with zeros, which are no group, so that a disk with space again is
//!   noticed.
//! - After a failed *sync* nobody knows what the disk holds. The thread ends, and with it every
//!   append, until a restart reads what is there.
//! - A panic counts as a failed sync.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tally_domain::Offset;

use super::active::{Active, Failed};
use super::index::Index;
use super::layout::{GROUP_HEADER, GroupBuilder, Mark, RecordFrame, SegmentHeader, header_bytes};
use super::options::EmbeddedOptions;
use super::queue::{Ended, Pending, Stop, Work};
use super::segment::{self, Failure};
use super::shared::Shared;
use crate::contract::{AppendError, LogHealth};
use crate::storage::{File, Lock};

/// How often a log that can't be written is tried while nobody appends.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How many zeros are tried.
const PROBE_BYTES: usize = 64 * 1024;

/// The group's buffer keeps this much memory.
const KEEP_BYTES: usize = 1024 * 1024;

/// What the thread owns.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    /// Held as long as anything may be written.
    _lock: Arc<dyn Lock>,
    segment_bytes: u64,
    max_group_bytes: usize,
    /// None between sealing one and making the next.
    active: Option<Active>,
    /// The partitions' next offsets, as published.
    next: Vec<Offset>,
    /// As they will be after the current group.
    staged: Vec<Offset>,
    last_append_time_millis: u64,
    group: GroupBuilder,
    /// Accepted, not yet in a group.
    backlog: VecDeque<Pending>,
    /// In the group that is written now.
    current: Vec<Pending>,
    /// Something failed, and the thread goes on.
    unwell: bool,
    unfinished: Option<AppendError>,
}

impl Writer {
    /// Writes on in the last of the shared segments, which is new.
    pub(crate) fn new(
        shared: Arc<Shared>,
        lock: Arc<dyn Lock>,
        options: &EmbeddedOptions,
        file: Arc<dyn File>,
        last_append_time_millis: u64,
    ) -> Self {
        let state = shared.state.lock();
        let (mark, next) = (state.synced, state.heads.clone());
        drop(state);
        let active = Active::new(shared.identity.id, file, mark);
        Self {
            _lock: lock,
            segment_bytes: options.segment_bytes,
            max_group_bytes: options.max_group_bytes,
            active: Some(active),
            staged: next.clone(),
            next,
            last_append_time_millis,
            group: GroupBuilder::new(),
            backlog: VecDeque::new(),
            current: Vec::new(),
            unwell: false,
            unfinished: None,
            shared,
        }
    }

    /// Runs until the log is closed or can't be written any more.
    pub(crate) fn run(mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.step())) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    let why = "the log's writer panicked; its message is on standard error";
                    self.poison(&AppendError::FateUnknown(why.to_owned()), why);
                    break;
                }
            }
        }
        let unfinished = self.unfinished.take();
        self.shared.queue.ended(Ended { unfinished });
    }

    /// Does what there is to do; `false` at the end.
    fn step(&mut self) -> bool {
        let patience = self.unwell.then_some(PROBE_EVERY);
        match self.shared.queue.take(&mut self.backlog, patience) {
            Work::Appends => return self.one_group(),
            Work::Idle => return self.probe(),
            Work::Stop(Stop::Finish) => self.finish(),
            Work::Stop(Stop::Abandon) => self.abandon("the log was dropped without being closed"),
        }
        false
    }

    fn one_group(&mut self) -> bool {
        let bytes = self.gather();
        let written = self.write_group(bytes);
        let waiting = self.shared.queue.done(&self.current);
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.shared.metrics.queue_bytes.set(waiting);
        match written {
            Ok(()) => {
                self.time_current();
                for append in self.current.drain(..) {
                    acknowledge(append.done, append.results);
                }
                true
            }
            Err(Failed {
                error,
                poison: true,
            }) => {
                self.shared.metrics.sync_errors.inc();
                let why = error.to_string();
                self.poison(&error, &why);
                false
            }
            Err(Failed { error, .. }) => {
                self.failed_write(&error);
                self.fail_current(&error);
                true
            }
        }
    }

    /// Moves appends into the current group, as far as it may grow. Returns its bytes.
    fn gather(&mut self) -> usize {
        let mut bytes = GROUP_HEADER;
        while let Some(append) = self.backlog.front() {
            let with = bytes.saturating_add(append.frame_bytes);
            if !self.current.is_empty() && with.saturating_add(8) > self.max_group_bytes {
                break;
            }
            bytes = with;
            self.current.extend(self.backlog.pop_front());
        }
        bytes.next_multiple_of(8)
    }

    fn write_group(&mut self, bytes: usize) -> Result<(), Failed> {
        let records: usize = self.current.iter().map(|a| a.records.len()).sum();
        if records == 0 {
            return Ok(());
        }
        self.make_room(bytes as u64)
            .map_err(Failed::before_writing)?;
        let Some(active) = self.active.as_mut() else {
            let why = "there is no segment to write".to_owned();
            return Err(Failed::unknown(why));
        };
        let synced = active.at();
        let place = synced.place;
        self.group.begin(active.seed(), place);
        stage(
            &mut self.group,
            &mut self.current,
            &self.next,
            &mut self.staged,
        );
        let time = segment::unix_millis().max(self.last_append_time_millis);
        let bytes = self.group.finish(time, synced);
        let len = bytes.len() as u64;
        let started = Instant::now();
        active.write(bytes, records as u64, self.segment_bytes)?;
        let metrics = &self.shared.metrics;
        metrics
            .sync_duration
            .observe(started.elapsed().as_secs_f64());
        self.last_append_time_millis = time;
        self.group.shrink(KEEP_BYTES);
        self.publish(place, len, records);
        Ok(())
    }

    /// Lets the readers have the group that was just synced.
    fn publish(&mut self, place: u64, len: u64, records: usize) {
        let mut state = self.shared.state.lock();
        state.index.note(place, &self.next);
        state.heads.clone_from(&self.staged);
        state.synced.place = place + len;
        let bytes = state.bytes();
        if self.unwell {
            state.health = LogHealth::Ok;
        }
        drop(state);
        self.shared.moved.notify_all();
        std::mem::swap(&mut self.next, &mut self.staged);
        if std::mem::take(&mut self.unwell) {
            tracing::info!(log = self.shared.name, "the log can be written again");
        }
        let metrics = &self.shared.metrics;
        metrics.appended_records.inc_by(records as u64);
        metrics.appended_bytes.inc_by(len);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics.group_records.observe(records as f64);
        metrics
            .size_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Goes on to a new segment where this one has no room.
    fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        let full = |active: &Active| active.is_full(bytes, self.segment_bytes);
        if self.active.as_ref().is_some_and(full) {
            self.seal()?;
        }
        if self.active.is_none() {
            self.active = Some(self.next_segment()?);
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), Failure> {
        let Some(active) = &self.active else {
            return Ok(());
        };
        let index = self.shared.state.lock().index.clone();
        let time = self.last_append_time_millis;
        let footer_bytes = active.seal(time, self.next.clone(), index)?;
        // Readers stay below the mark, which the footer is not.
        self.shared.state.lock().sealed_bytes += footer_bytes;
        self.active = None;
        Ok(())
    }

    fn next_segment(&mut self) -> Result<Active, Failure> {
        let shared = &self.shared;
        let number = shared.state.lock().synced.segment + 1;
        let header = SegmentHeader {
            log: shared.identity.id,
            number,
            created_millis: segment::unix_millis().max(self.last_append_time_millis),
            base: self.next.clone(),
        };
        let (info, file) = segment::create(
            shared.storage.as_ref(),
            &shared.dir,
            &header,
            self.segment_bytes,
        )?;
        self.last_append_time_millis = header.created_millis;
        let mark = Mark {
            segment: number,
            place: header_bytes(shared.identity.partitions),
        };
        let mut state = shared.state.lock();
        state.sealed_bytes = state.bytes();
        state.segments.push(Arc::new(info));
        state.index = Index::new(shared.identity.partitions);
        state.synced = mark;
        let segments = state.segments.len();
        drop(state);
        shared.moved.notify_all();
        let metrics = &shared.metrics;
        metrics
            .segments
            .set(i64::try_from(segments).unwrap_or(i64::MAX));
        Ok(Active::new(shared.identity.id, file, mark))
    }

    /// Looks whether an unwell log can be written again.
    fn probe(&mut self) -> bool {
        let tried = match self.make_room(0) {
            Ok(()) => match &self.active {
                Some(active) => active.probe(PROBE_BYTES),
                None => Ok(()),
            },
            Err(Failure::Write(error)) => Err(error),
            Err(Failure::Sync(error)) => {
                let why = format!("the sync failed: {error}");
                self.shared.metrics.sync_errors.inc();
                self.poison(&AppendError::NotWritten(why.clone()), &why);
                return false;
            }
        };
        if tried.is_ok() {
            self.unwell = false;
            self.shared.state.lock().health = LogHealth::Ok;
            tracing::info!(log = self.shared.name, "the log can be written again");
        }
        true
    }

    fn failed_write(&mut self, error: &AppendError) {
        let metrics = &self.shared.metrics;
        let health = if let AppendError::DiskFull(why) = error {
            metrics.disk_full_errors.inc();
            LogHealth::DiskFull(why.clone())
        } else {
            metrics.write_errors.inc();
            LogHealth::Failed(error.to_string())
        };
        self.shared.state.lock().health = health;
        if !std::mem::replace(&mut self.unwell, true) {
            tracing::error!(
                log = self.shared.name,
                %error,
                "the log can't be written; trying again with every append and once a second"
            );
        }
    }

    /// Notes how long the current group's appends took, well or not.
    fn time_current(&self) {
        let now = Instant::now();
        let took = &self.shared.metrics.append_duration;
        for append in &self.current {
            let since = now.saturating_duration_since(append.began);
            took.observe(since.as_secs_f64());
        }
    }

    fn fail_current(&mut self, error: &AppendError) {
        self.time_current();
        if self.shared.queue.stopping() && !self.current.is_empty() {
            self.unfinished.get_or_insert_with(|| error.clone());
        }
        for append in self.current.drain(..) {
            refuse(append, error);
        }
    }

    /// The end after a failure: tells everybody who waits. The current group has the error given;
    /// of what stands behind it nothing was written.
    fn poison(&mut self, error: &AppendError, why: &str) {
        tracing::error!(
            log = self.shared.name,
            why,
            "the log takes no appends any more until it is opened again"
        );
        self.shared.state.lock().health = LogHealth::Failed(why.to_owned());
        self.fail_current(error);
        self.abandon(why);
    }

    /// Takes nothing more; whatever still waits was not written.
    fn abandon(&mut self, why: &str) {
        self.shared.queue.end(why, &mut self.backlog);
        let error = AppendError::NotWritten(why.to_owned());
        self.current.extend(self.backlog.drain(..));
        self.shared.queue.done(&self.current);
        self.fail_current(&error);
        self.closed(why);
    }

    /// A clean end: the footer spares the next start looking through the segment.
    fn finish(&mut self) {
        match self.seal() {
            Ok(()) => {}
            Err(Failure::Write(error) | Failure::Sync(error)) => tracing::warn!(
                log = self.shared.name,
                %error,
                "the last segment could not be sealed; the next start looks through it"
            ),
        }
        self.closed("the log was closed");
    }

    fn closed(&self, why: &str) {
        let mut state = self.shared.state.lock();
        if !matches!(state.health, LogHealth::Failed(_)) {
            state.health = LogHealth::Failed(why.to_owned());
        }
        drop(state);
        self.shared.metrics.queue_bytes.set(0);
    }
}

/// Gives every record its offset and puts it into the group. Nothing of it is true yet.
fn stage(
    group: &mut GroupBuilder,
    current: &mut [Pending],
    next: &[Offset],
    staged: &mut Vec<Offset>,
) {
    next.clone_into(staged);
    for append in current {
        for record in &append.records {
            let column = usize::try_from(record.partition).unwrap_or(usize::MAX);
            let Some(next) = staged.get_mut(column) else {
                // The queue takes none like it.
                let why = "there is no such partition".to_owned();
                append.results.push(Err(AppendError::NotWritten(why)));
                continue;
            };
            group.push(&RecordFrame {
                partition: record.partition,
                offset: *next,
                key: &record.key,
                value: &record.value,
            });
            append.results.push(Ok(*next));
            *next += 1;
        }
    }
}

fn refuse(mut append: Pending, error: &AppendError) {
    append.results.clear();
    let failed = append.records.iter().map(|_| Err(error.clone()));
    append.results.extend(failed);
    acknowledge(append.done, append.results);
}

/// Calls back. A callback that panics is a bug of whoever made it, and no reason to stop the log.
fn acknowledge(done: crate::contract::AppendDone, results: Vec<Result<Offset, AppendError>>) {
    if catch_unwind(AssertUnwindSafe(|| done(results))).is_err() {
        tracing::error!("a callback of an append panicked");
    }
}
