//! One log copied into another, of whatever kind both are, and the proof that both fold to the same
//! state.
//!
//! ```text
//!  begin:  the destination must be the beginning of the source, byte for byte   [compare]
//!  run:    what the source has more, in order, one chunk at a time              [append]
//!  prove:  the digest of both, each folded in memory                            [fold]
//! ```
//!
//! Each partition is copied in its order. The time at which a record was appended is not carried
//! over: the destination gives its own, which is later. For the fold that makes one difference: an
//! event that lay too far in the future when the source took it is a dead letter there, and would
//! count in the copy. So it is left out, counted and named; in its place stands a drop of nothing.
//! Where the source has folded it by a replay, the event itself stands in the place of the replay.
//! Every other record is copied as it stands, those that are no events too.
//!
//! A replay or a drop names its dead letter by offset. So where the source has gaps, and the copy
//! other offsets, one that comes after a gap can't be copied, and the copy ends there.
//!
//! A copy that was interrupted is continued by doing it again: what is there is compared, what is
//! missing is appended. Nothing is appended before all that is there has been compared.
//!
//! Only [`EventLog`] is known here. The state of both logs is folded in memory, one after the other:
//! that takes as much as the counters, toggles and keys take, whatever the number of events.

mod append;
mod compare;
mod fold;
mod read;

use std::ops::ControlFlow;

use tally_domain::{
    Applied, DeadLetterReason, Digest, Entry, EventId, EventTime, LetterFate, Offset, Partition,
    Position, SettleAction, Settlement, decode_entry, encode_settlement,
};
use tally_log::{AppendError, AppendRefused, BatchRecord, EventLog, ReadError, TraceParent};

use append::Writer;
use fold::Fold;
use read::End;

/// What a copy is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It compares what the destination holds with the source.
    Comparing,
    /// It appends.
    Copying,
    /// It folds the destination.
    Proving,
}

/// Who wants to know how far a copy is.
pub(crate) trait Watch {
    /// A step begins, and goes over so many offsets at most.
    fn begins(&mut self, step: Step, offsets: u64);

    /// So many more records are done.
    fn moved(&mut self, records: u64);

    /// A record of the source is not copied.
    fn left_out(&mut self, position: Position);
}

/// Which of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// Why a copy ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error(
        "the source has {from} partitions and the destination {to}: a resource would be in another one. Make the destination with {from} (setting log.partitions)"
    )]
    Partitions { from: u32, to: u32 },
    #[error(
        "partition {partition} of the {side} begins at offset {first}: what was before is gone, so a copy would not be a copy"
    )]
    Truncated {
        side: Side,
        partition: Partition,
        first: Offset,
    },
    #[error(
        "the destination is not the beginning of the source: in partition {partition} they differ at offset {to} of the destination, {}. Nothing was copied. Copy to an empty log",
        from.map_or_else(
            || "where the source has no more records".to_owned(),
            |offset| format!("which is offset {offset} of the source"),
        )
    )]
    Differs {
        partition: Partition,
        from: Option<Offset>,
        to: Offset,
    },
    #[error(
        "partition {partition} of the source has a replay or drop of a dead letter at offset {offset}, which names it by its offset, and after the gaps in the source the copy has other offsets. Such a log can't be copied"
    )]
    OtherOffsets {
        partition: Partition,
        offset: Offset,
    },
    #[error("the {side} can't be read: {error}")]
    Read { side: Side, error: ReadError },
    #[error("the {side} gives nothing more, although there is more in it")]
    Stalled { side: Side },
    #[error("{copied} records were copied, then the destination took no more: {error}. {}", next(*.gap))]
    Append {
        copied: u64,
        error: AppendError,
        gap: bool,
    },
    #[error(
        "{copied} records were copied, then the destination took no more: {error}. {}",
        next(false)
    )]
    Refused { copied: u64, error: AppendRefused },
    #[error(
        "{copied} records were copied, then the destination did not answer any more. {}",
        next(false)
    )]
    Unanswered { copied: u64 },
}

/// What to do after an append that failed.
fn next(gap: bool) -> &'static str {
    if gap {
        "Records after the one that failed were written, so the destination can't be continued: empty it, and copy again"
    } else {
        "Running it again continues"
    }
}

/// What became of the source's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Copied {
    /// Appended now.
    pub(crate) copied: u64,
    /// In the destination before.
    pub(crate) already_there: u64,
    /// Not copied, since they would count.
    pub(crate) left_out: u64,
    /// Whether the source has gaps, so that its offsets are others in the copy.
    gaps: bool,
}

/// The digests of what both logs fold to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) source: Digest,
    pub(crate) destination: Digest,
}

/// A copy on its way.
pub(crate) struct Copying<'a> {
    source: End<'a>,
    destination: End<'a>,
    /// The source's head when it began: what comes later is not copied.
    end: Vec<Offset>,
    /// By partition: where the source is read on.
    next: Vec<Position>,
    /// The source's state, up to there.
    fold: Fold,
    done: Copied,
}

/// What becomes of a record of the source.
struct Fate {
    /// Which event it is, where it is one.
    event: Option<EventId>,
    /// What the destination gets in its place.
    instead: Option<Instead>,
}

/// A key and a value.
#[derive(Clone)]
struct Instead {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Fate {
    /// As the destination gets it.
    fn record<'a>(&'a self, record: BatchRecord<'a>) -> BatchRecord<'a> {
        match &self.instead {
            Some(Instead { key, value }) => BatchRecord {
                key,
                value,
                ..record
            },
            None => record,
        }
    }
}

impl<'a> Copying<'a> {
    /// Begins a copy: makes sure that the destination is the beginning of the source. It blocks.
    ///
    /// # Errors
    /// [`CopyError`]; nothing was appended.
    pub(crate) fn begin(
        source: &'a dyn EventLog,
        destination: &'a dyn EventLog,
        watch: &mut dyn Watch,
    ) -> Result<Self, CopyError> {
        let partitions = source.identity().partitions;
        let to = destination.identity().partitions;
        if partitions != to {
            let from = partitions;
            return Err(CopyError::Partitions { from, to });
        }
        let source = End::new(source, Side::Source);
        let destination = End::new(destination, Side::Destination);
        let mut copying = Self {
            end: source.head()?,
            next: source.beginning()?,
            fold: Fold::new(partitions),
            done: Copied::default(),
            source,
            destination,
        };
        copying.compare(watch)?;
        Ok(copying)
    }

    /// Appends what the destination does not have, and returns once it is durable there.
    ///
    /// # Errors
    /// [`CopyError`]; what was appended stays.
    pub(crate) fn run(&mut self, watch: &mut dyn Watch) -> Result<Copied, CopyError> {
        watch.begins(Step::Copying, read::offsets(&self.next, &self.end));
        let mut writer = Writer::new(self.destination.log());
        let left_out = self.done.left_out;
        let (fold, done) = (&mut self.fold, &mut self.done);
        let next = std::mem::take(&mut self.next);
        self.source.through(&next, &self.end, &mut |records| {
            for record in records {
                let fate = fate(fold, done, *record, watch)?;
                let trace = fate.event.map(TraceParent::of_event);
                writer.push(fate.record(*record), trace)?;
            }
            watch.moved(read::count(records));
            Ok(ControlFlow::Continue(()))
        })?;
        let left_out = self.done.left_out.saturating_sub(left_out);
        self.done.copied = writer.finish()?.saturating_sub(left_out);
        Ok(self.done)
    }

    /// Folds the destination, up to its head now, and says what both logs fold to.
    ///
    /// # Errors
    /// [`CopyError`].
    pub(crate) fn prove(self, watch: &mut dyn Watch) -> Result<Proof, CopyError> {
        let source = self.fold.digest();
        // One state in memory at a time.
        drop(self.fold);
        let (from, end) = (self.destination.beginning()?, self.destination.head()?);
        watch.begins(Step::Proving, read::offsets(&from, &end));
        let mut fold = Fold::new(self.destination.log().identity().partitions);
        self.destination.through(&from, &end, &mut |records| {
            for record in records {
                fold.apply(*record);
            }
            watch.moved(read::count(records));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Proof {
            source,
            destination: fold.digest(),
        })
    }
}

/// Folds a record of the source, and says what the destination gets of it.
fn fate(
    fold: &mut Fold,
    done: &mut Copied,
    record: BatchRecord<'_>,
    watch: &mut dyn Watch,
) -> Result<Fate, CopyError> {
    let Position { partition, offset } = record.position;
    done.gaps |= fold.next_offset(partition) != Some(offset);
    let as_it_is = |event| Fate {
        event,
        instead: None,
    };
    Ok(match fold.apply(record) {
        Some(Applied::DeadLetter(DeadLetterReason::FutureTime)) => {
            done.left_out += 1;
            watch.left_out(record.position);
            let whole = Instead {
                key: record.key.to_vec(),
                value: record.value.to_vec(),
            };
            fold.left_out.insert(record.position, whole);
            nothing(record)
        }
        Some(Applied::Settled { .. }) if done.gaps => {
            return Err(CopyError::OtherOffsets { partition, offset });
        }
        Some(Applied::Settled { settlement, fate }) => match fate {
            // What was too early there would not be here.
            LetterFate::Still(DeadLetterReason::FutureTime) => nothing(record),
            LetterFate::Folded(_) => Fate {
                event: Some(settlement.id),
                instead: fold.left_out.get(&settlement.origin).cloned(),
            },
            LetterFate::Still(_) | LetterFate::Dropped | LetterFate::Gone => {
                as_it_is(Some(settlement.id))
            }
        },
        Some(Applied::Folded { event, .. }) => as_it_is(Some(event.id)),
        Some(Applied::DeadLetter(_) | Applied::Already) | None => as_it_is(None),
    })
}

/// A drop of nothing, of the same bytes whenever it is made: it keeps the offsets behind it as they
/// are. In the destination no record before it has that offset.
fn nothing(record: BatchRecord<'_>) -> Fate {
    let (id, at) = match decode_entry(record.value) {
        Ok(Entry::Event(event)) => (event.id, event.at),
        Ok(Entry::Settlement(settlement)) => (settlement.id, settlement.at),
        Err(_) => (EventId::nil(), EventTime::from_millis(0)),
    };
    let value = encode_settlement(&Settlement {
        id,
        at,
        action: SettleAction::Drop,
        origin: record.position,
        event: None,
    });
    Fate {
        event: Some(id),
        instead: Some(Instead {
            key: Vec::new(),
            value,
        }),
    }
}

#[cfg(test)]
mod tests;
