//! One partition's dead letters, as far as they are in memory: what came, and what went, since the
//! last checkpoint. The others are asked of the backing.

use std::collections::{BTreeMap, BTreeSet};

use crate::backing::{Backing, Changes};
use crate::dead_letter::{DeadLetter, LetterCounts};
use crate::partition::{Offset, Position};

#[derive(Debug, Clone, Default)]
pub(crate) struct Letters {
    new: BTreeMap<Offset, DeadLetter>,
    /// Settled ones that the backing may have.
    gone: BTreeSet<Offset>,
    /// Dead letters of other partitions that were folded here.
    moved: BTreeSet<Position>,
    load: usize,
    pub(crate) counts: LetterCounts,
}

/// A letter counts once more for every 128 bytes of its record.
fn load(letter: &DeadLetter) -> usize {
    1 + (letter.key.len() + letter.value.len()) / 128
}

impl Letters {
    pub(crate) fn keep(&mut self, letter: DeadLetter) {
        self.counts.ever += 1;
        self.load += load(&letter);
        self.new.insert(letter.position.offset, letter);
    }

    /// What memory knows of the letter at an offset; `None` where only the backing can tell.
    pub(crate) fn in_memory(&self, offset: Offset) -> Option<Option<&DeadLetter>> {
        match self.new.get(&offset) {
            Some(letter) => Some(Some(letter)),
            None => self.gone.contains(&offset).then_some(None),
        }
    }

    pub(crate) fn find<B: Backing>(
        &self,
        offset: Offset,
        backing: &B,
    ) -> Result<Option<DeadLetter>, B::Error> {
        match self.in_memory(offset) {
            Some(letter) => Ok(letter.cloned()),
            None => backing.dead_letter(offset),
        }
    }

    /// Lets a letter go that was found.
    pub(crate) fn settle(&mut self, offset: Offset) {
        self.counts.settled += 1;
        match self.new.remove(&offset) {
            Some(letter) => self.load = self.load.saturating_sub(load(&letter)),
            None => {
                self.gone.insert(offset);
            }
        }
    }

    pub(crate) fn has_moved(&self, origin: Position) -> bool {
        self.moved.contains(&origin)
    }

    pub(crate) fn moved<B: Backing>(
        &self,
        origin: Position,
        backing: &B,
    ) -> Result<bool, B::Error> {
        Ok(self.has_moved(origin) || backing.moved(origin)?)
    }

    pub(crate) fn note_moved(&mut self, origin: Position) {
        self.moved.insert(origin);
    }

    pub(crate) fn new_from(&self, offset: Offset) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.new.range(offset..).map(|(_, letter)| letter)
    }

    pub(crate) fn gone(&self) -> impl Iterator<Item = Offset> {
        self.gone.iter().copied()
    }

    pub(crate) fn changed(&self) -> usize {
        self.load + self.gone.len() + self.moved.len()
    }

    pub(crate) fn take(&mut self, changes: &mut Changes) {
        self.load = 0;
        changes.letter_counts = self.counts;
        changes.dead_letters = std::mem::take(&mut self.new).into_values().collect();
        changes.gone_dead_letters = std::mem::take(&mut self.gone).into_iter().collect();
        changes.moved = std::mem::take(&mut self.moved).into_iter().collect();
    }
}
