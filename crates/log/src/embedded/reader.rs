//! Reads below the synced mark, in append order, without a lock against the writer.
//!
//! A reader stands in one segment at a place. Where it enters a segment it starts as near to its
//! positions as the index knows, and segments that hold nothing for it are passed over. Everything
//! that it goes over is checked, records of partitions that it does not read too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tally_domain::{Offset, Partition, Position};

use super::frames::{Wrong, group_at, padding_at, record_at};
use super::index::Index;
use super::layout::{Footer, GROUP_HEADER, Mark, RECORD_HEADER, Seed, header_bytes};
use super::segment::{self, FileEnd, SegmentInfo};
use super::shared::{Shared, State};
use super::window::Window;
use crate::batch::Batch;
use crate::bounds::BATCH_BYTES;
use crate::contract::{LogReader, ReadError};

pub(crate) struct EmbeddedReader {
    shared: Arc<Shared>,
    woken: Arc<AtomicBool>,
    /// By partition; `None` where it is not read.
    next: Vec<Option<Offset>>,
    /// How far the log was synced when the reader last looked.
    synced: Mark,
    at: Place,
}

/// Where a reader stands.
struct Place {
    segment: Arc<SegmentInfo>,
    seed: Seed,
    window: Window,
    /// Of the next group, or of the next record of `group`.
    place: u64,
    group: Option<InGroup>,
    /// Of a sealed segment, once it is known: where its data ends, and its next offsets there.
    end: Option<(u64, Vec<Offset>)>,
}

/// The rest of a group that is partly read.
#[derive(Clone, Copy)]
struct InGroup {
    end: u64,
    records: u32,
    append_time_millis: u64,
}

/// What a step did.
enum Progress {
    /// It may go on.
    More,
    /// The batch is full.
    Full,
    /// All that is synced was read.
    AtMark,
}

impl EmbeddedReader {
    pub(crate) fn open(shared: Arc<Shared>, from: &[Position]) -> Result<Self, ReadError> {
        let mut next = vec![None; shared.state.lock().heads.len()];
        for position in from {
            in_range(&shared.state.lock(), *position)?;
            let column = usize::try_from(position.partition).unwrap_or(usize::MAX);
            if let Some(next) = next.get_mut(column) {
                *next = Some(position.offset);
            }
        }
        let (at, synced) = seek(&shared, &next)?;
        Ok(Self {
            woken: Arc::default(),
            next,
            synced,
            at,
            shared,
        })
    }

    /// Reads to the end of a group, or until the batch is full.
    fn step(&mut self, batch: &mut Batch) -> Result<Progress, ReadError> {
        let limit = if self.at.segment.number == self.synced.segment {
            self.synced.place
        } else {
            self.at.sealed_end(&self.shared)?.0
        };
        if self.at.group.is_none() {
            if self.at.place >= limit {
                if self.at.segment.number == self.synced.segment {
                    return Ok(Progress::AtMark);
                }
                self.nothing_is_missing()?;
                (self.at, self.synced) = seek(&self.shared, &self.next)?;
                return Ok(Progress::More);
            }
            self.at.enter_group(&self.shared, limit)?;
        }
        if !self.records(batch)? {
            return Ok(Progress::Full);
        }
        self.at.leave_group(&self.shared)?;
        Ok(Progress::More)
    }

    /// Reads the records of the current group; `false` where the batch is full before.
    fn records(&mut self, batch: &mut Batch) -> Result<bool, ReadError> {
        let at = &mut self.at;
        while let Some(group) = at.group.as_mut().filter(|group| group.records > 0) {
            let read = record_at(&mut at.window, at.seed, at.place, group.end);
            let (record, len) = match read {
                Ok(Ok(found)) => found,
                Ok(Err(wrong)) => return Err(at.damaged(&self.shared, wrong)),
                Err(error) => return Err(at.io(&self.shared, &error)),
            };
            let column = usize::try_from(record.partition).unwrap_or(usize::MAX);
            if let Some(Some(next)) = self.next.get_mut(column)
                && record.offset >= *next
            {
                if record.offset > *next {
                    return Err(at.damaged(&self.shared, "records are missing before this one"));
                }
                let bytes = batch.byte_len() + batch.len() * RECORD_HEADER;
                let with = (bytes as u64).saturating_add(len);
                if !batch.is_empty() && with > BATCH_BYTES as u64 {
                    return Ok(false);
                }
                batch.push(
                    record.partition,
                    record.offset,
                    group.append_time_millis,
                    record.key,
                    record.value,
                );
                *next += 1;
            }
            group.records -= 1;
            at.place += len;
        }
        Ok(true)
    }

    /// At the end of a sealed segment the reader must have all that the footer speaks of. Without
    /// this a group that is not there would be read over.
    fn nothing_is_missing(&mut self) -> Result<(), ReadError> {
        let (_, ends) = self.at.sealed_end(&self.shared)?;
        let mut pairs = self.next.iter().zip(ends);
        if pairs.any(|(next, end)| next.is_some_and(|next| next < *end)) {
            return Err(self
                .at
                .damaged(&self.shared, "records are missing before the footer"));
        }
        Ok(())
    }

    /// Waits until there is more to read; `false` where the reader was woken or the time is up.
    fn wait(&mut self, deadline: Option<Instant>) -> bool {
        let mut state = self.shared.state.lock();
        loop {
            if self.woken.swap(false, Ordering::AcqRel) {
                return false;
            }
            // Looked at first: what comes may be of other partitions, and never end.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            if state.synced > self.synced {
                self.synced = state.synced;
                return true;
            }
            match deadline {
                Some(deadline) => {
                    self.shared.moved.wait_until(&mut state, deadline);
                }
                None => self.shared.moved.wait(&mut state),
            }
        }
    }
}

impl LogReader for EmbeddedReader {
    fn next(&mut self, batch: &mut Batch, wait: Duration) -> Result<(), ReadError> {
        batch.clear();
        let deadline = Instant::now().checked_add(wait);
        // All that is there now is read, however long it takes to pass over other partitions.
        self.synced = self.shared.state.lock().synced;
        loop {
            match self.step(batch) {
                Ok(Progress::Full) => return Ok(()),
                Ok(Progress::AtMark) => {
                    if !batch.is_empty() || !self.wait(deadline) {
                        return Ok(());
                    }
                }
                Ok(Progress::More) => {
                    if batch.is_empty() && self.woken.swap(false, Ordering::AcqRel) {
                        return Ok(());
                    }
                }
                // What is whole before it is good; the next call finds it again.
                Err(_) if !batch.is_empty() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn positions(&self) -> Vec<Position> {
        let all = (0..).zip(&self.next);
        let position = |(partition, next): (Partition, &Option<Offset>)| {
            next.map(|offset| Position { partition, offset })
        };
        all.filter_map(position).collect()
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        let (shared, woken) = (Arc::clone(&self.shared), Arc::clone(&self.woken));
        Box::new(move || {
            woken.store(true, Ordering::Release);
            // A reader that looked before this waits by now.
            drop(shared.state.lock());
            shared.moved.notify_all();
        })
    }
}

impl Place {
    /// Where the data of this segment ends, which is sealed, and its next offsets there.
    fn sealed_end(&mut self, shared: &Shared) -> Result<(u64, &[Offset]), ReadError> {
        if self.end.is_none() {
            let (place, footer) = self.footer(shared)?;
            self.end = Some((place, footer.ends));
        }
        Ok(match &self.end {
            Some((place, ends)) => (*place, ends),
            None => (0, &[]),
        })
    }

    /// The footer of this segment, which is sealed.
    fn footer(&self, shared: &Shared) -> Result<(u64, Footer), ReadError> {
        let file = self.window.file().as_ref();
        let partitions = shared.identity.partitions;
        let end = file
            .size()
            .and_then(|size| segment::read_end(file, self.seed, size, partitions));
        match end.map_err(|error| self.io(shared, &error))? {
            FileEnd::Sealed(place, footer) => Ok((place, footer)),
            FileEnd::Bad(place, wrong) => Err(damaged(shared, &self.segment, place, wrong)),
            FileEnd::Open(place) => Err(damaged(
                shared,
                &self.segment,
                place,
                "the footer is not there",
            )),
        }
    }

    fn enter_group(&mut self, shared: &Shared, limit: u64) -> Result<(), ReadError> {
        match group_at(&mut self.window, self.seed, self.place, limit) {
            Ok(Ok(group)) => {
                self.group = Some(InGroup {
                    end: self.place + group.bytes,
                    records: group.records,
                    append_time_millis: group.append_time_millis,
                });
                self.place += GROUP_HEADER as u64;
                Ok(())
            }
            Ok(Err(wrong)) => Err(self.damaged(shared, wrong)),
            Err(error) => Err(self.io(shared, &error)),
        }
    }

    /// Goes on behind a group whose records were all read.
    fn leave_group(&mut self, shared: &Shared) -> Result<(), ReadError> {
        let Some(group) = self.group else {
            return Ok(());
        };
        match padding_at(&mut self.window, self.place, group.end) {
            Ok(Ok(())) => {
                self.place = group.end;
                self.group = None;
                Ok(())
            }
            Ok(Err(wrong)) => Err(self.damaged(shared, wrong)),
            Err(error) => Err(self.io(shared, &error)),
        }
    }

    fn damaged(&mut self, shared: &Shared, wrong: Wrong) -> ReadError {
        // Whoever tries again reads again.
        self.window.forget();
        damaged(shared, &self.segment, self.place, wrong)
    }

    fn io(&self, shared: &Shared, error: &io::Error) -> ReadError {
        unreadable(shared, &self.segment, self.place, error)
    }
}

fn damaged(shared: &Shared, segment: &SegmentInfo, place: u64, wrong: Wrong) -> ReadError {
    shared.metrics.damage_errors.inc();
    ReadError::Damaged {
        place: format!("{}, byte {place}", segment.path.display()),
        what: wrong.to_owned(),
    }
}

fn unreadable(shared: &Shared, segment: &SegmentInfo, place: u64, error: &io::Error) -> ReadError {
    let kind = error.kind();
    if kind == io::ErrorKind::UnexpectedEof {
        damaged(shared, segment, place, "the file ends before")
    } else if kind == io::ErrorKind::NotFound && is_cut_off(shared, segment) {
        let path = segment.path.display();
        ReadError::Unavailable(format!(
            "{path} was removed meanwhile: the log's beginning was cut off. Run it again"
        ))
    } else if kind == io::ErrorKind::NotFound {
        damaged(shared, segment, place, "the file is not there")
    } else {
        ReadError::Unavailable(format!("{}: {error}", segment.path.display()))
    }
}

/// Whether a segment that is not there any more was removed as the oldest: here, which is known, or by the
/// process that writes the log. Then a later one is there, and none before it.
fn is_cut_off(shared: &Shared, segment: &SegmentInfo) -> bool {
    if !shared.foreign {
        return shared.is_removed(segment.number);
    }
    let names = shared.storage.list(&shared.dir).unwrap_or_default();
    let first = names
        .iter()
        .filter_map(|name| segment::number_of(name))
        .min();
    first.is_some_and(|first| first > segment.number)
}

fn in_range(state: &State, position: Position) -> Result<(), ReadError> {
    let Position { partition, offset } = position;
    let column = usize::try_from(partition).unwrap_or(usize::MAX);
    let first = state.first().get(column).copied().unwrap_or_default();
    let head = state.heads.get(column).copied();
    if head.is_some_and(|head| (first..=head).contains(&offset)) {
        return Ok(());
    }
    Err(ReadError::OutOfRange {
        partition,
        wanted: offset,
        first,
        head: head.unwrap_or_default(),
    })
}

/// The place from which everything at and above the given positions can be read, and how far the
/// log is synced: in the last segment where a reader has everything.
fn seek(shared: &Shared, next: &[Option<Offset>]) -> Result<(Place, Mark), ReadError> {
    let state = shared.state.lock();
    let synced = state.synced;
    let last = state.segments.len().saturating_sub(1);
    let mut at = last;
    for (column, offset) in behind(next, &state.heads) {
        let begins_before = |segment: &Arc<SegmentInfo>| {
            let base = segment.base.get(column);
            base.is_some_and(|base| *base <= offset)
        };
        let after = state.segments.partition_point(begins_before);
        at = at.min(after.saturating_sub(1));
    }
    let Some(segment) = state.segments.get(at).map(Arc::clone) else {
        return Err(ReadError::Unavailable("the log has no segment".to_owned()));
    };
    let start = (at == last).then(|| start_in(&state.index, next, &state.heads, synced.place));
    drop(state);
    let file = shared.storage.open(&segment.path);
    let file = file.map_err(|error| unreadable(shared, &segment, 0, &error))?;
    let mut place = Place {
        seed: Seed::new(shared.identity.id, segment.number),
        segment,
        window: Window::new(file),
        place: start.unwrap_or_default(),
        group: None,
        end: None,
    };
    if start.is_none() {
        let (end, footer) = place.footer(shared)?;
        place.place = start_in(&footer.index, next, &footer.ends, end);
        place.end = Some((end, footer.ends));
    }
    Ok((place, synced))
}

/// The partitions, by number, whose reader has not all that is below `ends`.
fn behind<'a>(
    next: &'a [Option<Offset>],
    ends: &'a [Offset],
) -> impl Iterator<Item = (usize, Offset)> + 'a {
    let pairs = next.iter().zip(ends).enumerate();
    pairs.filter_map(|(column, (next, end))| Some((column, next.filter(|next| next < end)?)))
}

/// Where to start in a segment that ends at `end` with the next offsets `ends`.
fn start_in(index: &Index, next: &[Option<Offset>], ends: &[Offset], end: u64) -> u64 {
    let partitions = u32::try_from(ends.len()).unwrap_or(u32::MAX);
    let located = behind(next, ends).map(|(column, offset)| {
        let partition = Partition::try_from(column).unwrap_or(Partition::MAX);
        let located = index.locate(partition, offset);
        located.unwrap_or_else(|| header_bytes(partitions))
    });
    located.min().unwrap_or(end)
}
