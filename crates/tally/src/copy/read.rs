//! Reading a log through, up to an end that is known.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tally_domain::{Offset, Position};
use tally_log::{Batch, BatchRecord, EventLog, LogReader, ReadError};

use super::{CopyError, Side};

/// How long one read waits for records.
const STEP: Duration = Duration::from_secs(1);
/// How long a log may give nothing that has more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether to read on.
pub(super) type OneMore = Result<ControlFlow<()>, CopyError>;

/// One of the two logs.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    log: &'a dyn EventLog,
    side: Side,
}

impl<'a> End<'a> {
    pub(super) fn new(log: &'a dyn EventLog, side: Side) -> Self {
        Self { log, side }
    }

    pub(super) fn log(&self) -> &'a dyn EventLog {
        self.log
    }

    fn failed(&self, error: ReadError) -> CopyError {
        let side = self.side;
        CopyError::Read { side, error }
    }

    /// Where each partition ends.
    pub(super) fn head(&self) -> Result<Vec<Offset>, CopyError> {
        self.log.head().map_err(|error| self.failed(error))
    }

    /// Where each partition begins, which must be its beginning.
    pub(super) fn beginning(&self) -> Result<Vec<Position>, CopyError> {
        let first = self.log.first().map_err(|error| self.failed(error))?;
        let positions = (0..).zip(first).map(|(partition, first)| {
            if first > 0 {
                let side = self.side;
                return Err(CopyError::Truncated {
                    side,
                    partition,
                    first,
                });
            }
            Ok(Position {
                partition,
                offset: first,
            })
        });
        positions.collect()
    }

    /// A reader of one position's partition, or of several.
    pub(super) fn reader(&self, from: &[Position]) -> Result<Reader<'_>, CopyError> {
        Ok(Reader {
            end: self,
            reader: self.log.reader(from).map_err(|error| self.failed(error))?,
            batch: Batch::new(),
        })
    }

    /// Hands over all records from the given positions up to `end`, by partition number, a batch at
    /// a time, until it is asked to break.
    pub(super) fn through(
        &self,
        from: &[Position],
        end: &[Offset],
        each: &mut dyn FnMut(&[BatchRecord<'_>]) -> OneMore,
    ) -> Result<(), CopyError> {
        let mut reader = self.reader(from)?;
        while let Some(batch) = reader.more(end)? {
            let below = batch.iter().filter(|record| below(end, record.position));
            if each(&below.collect::<Vec<_>>())?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// A reader that notices when nothing comes any more.
pub(super) struct Reader<'a> {
    end: &'a End<'a>,
    reader: Box<dyn LogReader>,
    batch: Batch,
}

impl Reader<'_> {
    /// The next records, perhaps some past `end` with them; `None` where all below it were read.
    pub(super) fn more(&mut self, end: &[Offset]) -> Result<Option<&Batch>, CopyError> {
        let until = Instant::now() + PATIENCE;
        let mut stood = self.reader.positions();
        loop {
            if !stood.iter().any(|position| below(end, *position)) {
                return Ok(None);
            }
            let read = self.reader.next(&mut self.batch, STEP);
            read.map_err(|error| self.end.failed(error))?;
            if !self.batch.is_empty() {
                return Ok(Some(&self.batch));
            }
            // It may have moved over a gap, to the end even.
            let stands = self.reader.positions();
            if stands == stood && Instant::now() >= until {
                let side = self.end.side;
                return Err(CopyError::Stalled { side });
            }
            stood = stands;
        }
    }
}

pub(super) fn below(end: &[Offset], position: Position) -> bool {
    let place = usize::try_from(position.partition).ok();
    let end = place.and_then(|place| end.get(place));
    end.is_some_and(|end| position.offset < *end)
}

/// How many offsets there are from the positions up to the ends: as many records, or fewer.
pub(super) fn offsets(from: &[Position], end: &[Offset]) -> u64 {
    let of = |position: &Position| {
        let place = usize::try_from(position.partition).ok();
        let end = place.and_then(|place| end.get(place));
        end.map_or(0, |end| end.saturating_sub(position.offset))
    };
    from.iter().map(of).sum()
}

pub(super) fn count(records: &[BatchRecord<'_>]) -> u64 {
    u64::try_from(records.len()).unwrap_or(u64::MAX)
}
