//! What becomes of dead letters: kept, and later replayed or dropped.

use super::{Applied, Backing, NoBacking, PartitionState, Record};
use crate::codec::{Entry, decode_entry};
use crate::dead_letter::{
    DeadLetter, DeadLetterReason, LetterCounts, LetterFate, SettleAction, Settlement,
};
use crate::fold::Outcome;
use crate::partition::{Offset, Position};
use crate::words::Event;

impl PartitionState {
    /// How many dead letters there were, and are.
    #[must_use]
    pub fn letter_counts(&self) -> LetterCounts {
        self.letters.counts
    }

    /// The dead letters at `from` and above that were kept since the last
    /// [`take_changes`](Self::take_changes) and not settled, in log order.
    pub fn new_dead_letters(&self, from: Offset) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.letters.new_from(from)
    }

    /// Where dead letters stood that were settled since the last [`take_changes`](Self::take_changes)
    /// and are no [`new_dead_letters`](Self::new_dead_letters).
    pub fn gone_dead_letters(&self) -> impl Iterator<Item = Offset> {
        self.letters.gone()
    }

    /// The dead letter at an offset, or that it is gone, as far as memory knows; `None` where the
    /// backing has to be asked.
    #[must_use]
    pub fn dead_letter_in_memory(&self, offset: Offset) -> Option<Option<&DeadLetter>> {
        self.letters.in_memory(offset)
    }

    /// Whether memory knows that a dead letter of another partition was folded here.
    #[must_use]
    pub fn has_moved(&self, origin: Position) -> bool {
        self.letters.has_moved(origin)
    }

    /// Applies one record, for who has all of the state in memory and never writes it down.
    pub fn apply_in_memory(&mut self, record: Record<'_>) -> Applied {
        /// How many changes are noted before they are forgotten.
        const NOTED: usize = 100_000;
        let Ok(applied) = self.apply(record, &NoBacking);
        if self.changed() > NOTED {
            self.forget_changes();
        }
        applied
    }

    /// Forgets which values changed, for who never writes them down. Dead letters stay: their replay
    /// is still to come.
    fn forget_changes(&mut self) {
        let letters = std::mem::take(&mut self.letters);
        self.take_changes();
        self.letters = letters;
    }

    pub(super) fn keep(
        &mut self,
        record: Record<'_>,
        reason: DeadLetterReason,
        detail: &str,
    ) -> Applied {
        self.letters.keep(DeadLetter {
            position: Position {
                partition: self.partition,
                offset: record.offset,
            },
            reason,
            // It may quote the record, which may be long.
            detail: detail.chars().take(DeadLetter::MAX_DETAIL_CHARS).collect(),
            append_time_millis: record.append_time_millis,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
        });
        Applied::DeadLetter(reason)
    }

    /// Decides a replay or a drop, whole or not at all.
    pub(super) fn settle<B: Backing>(
        &mut self,
        record: Record<'_>,
        settlement: Settlement,
        backing: &B,
    ) -> Result<Applied, B::Error> {
        let origin = settlement.origin;
        let fate = if origin.partition == self.partition {
            self.settle_own(record, settlement.action, origin.offset, backing)?
        } else if let Some(event) = &settlement.event {
            self.move_here(record, event, origin, backing)?
        } else {
            let action = settlement.action.as_str();
            let home = origin.partition;
            let detail = format!("a {action} of a dead letter belongs to partition {home}");
            return Ok(self.keep(record, DeadLetterReason::WrongPartition, &detail));
        };
        self.last_event = Some((record.offset, settlement.id));
        Ok(Applied::Settled { settlement, fate })
    }

    /// A letter of this partition: it counts for as long as it is one, so never twice.
    fn settle_own<B: Backing>(
        &mut self,
        record: Record<'_>,
        action: SettleAction,
        offset: Offset,
        backing: &B,
    ) -> Result<LetterFate, B::Error> {
        let Some(letter) = self.letters.find(offset, backing)? else {
            return Ok(LetterFate::Gone);
        };
        let fate = match action {
            SettleAction::Drop => LetterFate::Dropped,
            SettleAction::Replay => match decode_entry(&letter.value) {
                Ok(Entry::Event(event)) => self.fold_now(record, &event, backing)?,
                Ok(Entry::Settlement(_)) => LetterFate::Still(letter.reason),
                Err(error) => LetterFate::Still(error.reason()),
            },
        };
        match fate {
            LetterFate::Folded(_) | LetterFate::Dropped => self.letters.settle(offset),
            LetterFate::Still(_) | LetterFate::Gone => {}
        }
        Ok(fate)
    }

    /// A letter of another partition, whose event belongs here: it counts the first time.
    fn move_here<B: Backing>(
        &mut self,
        record: Record<'_>,
        event: &Event,
        origin: Position,
        backing: &B,
    ) -> Result<LetterFate, B::Error> {
        if self.letters.moved(origin, backing)? {
            return Ok(LetterFate::Folded(Outcome::Duplicate));
        }
        let fate = self.fold_now(record, event, backing)?;
        match fate {
            LetterFate::Folded(_) => self.letters.note_moved(origin),
            LetterFate::Still(_) | LetterFate::Dropped | LetterFate::Gone => {}
        }
        Ok(fate)
    }

    /// Folds a letter's event as one that the log took with the record of its replay.
    fn fold_now<B: Backing>(
        &mut self,
        record: Record<'_>,
        event: &Event,
        backing: &B,
    ) -> Result<LetterFate, B::Error> {
        match self.judge(event, record.append_time_millis) {
            Ok(()) => Ok(LetterFate::Folded(self.fold(event, false, backing)?)),
            Err((reason, _)) => Ok(LetterFate::Still(reason)),
        }
    }
}
