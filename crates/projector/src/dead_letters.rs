//! The dead letters of the state, page by page: those that are written down, those that a
//! checkpoint took and could not write, and those that came since.

use tally_domain::{DeadLetter, Offset, Partition, Position};

use crate::error::StateError;
use crate::projector::Projector;
use crate::redo::Redo;
use crate::shared::Shared;
use crate::store::{StoreError, layout};

/// A page ends after the letter with which it reaches so many bytes of keys and values.
const PAGE_BYTES: usize = 1 << 20;

impl Projector {
    /// The dead letters of `from`'s partition from its offset on, in offset order: `at_most` of
    /// them, and fewer where they are large (about 1 MiB, a larger one comes alone). None where
    /// there are no more.
    ///
    /// # Errors
    /// [`StateError`] where there is no such partition, or the store can't be read.
    pub fn dead_letters(
        &self,
        from: Position,
        at_most: usize,
    ) -> Result<Vec<DeadLetter>, StateError> {
        let life = self.life()?;
        life.shared.noted(page(&life.shared, from, at_most))
    }
}

/// As [`Projector::dead_letters`].
pub(crate) fn page(
    shared: &Shared,
    from: Position,
    at_most: usize,
) -> Result<Vec<DeadLetter>, StateError> {
    let mut page = Page {
        letters: Vec::new(),
        next: from.offset,
        room: PAGE_BYTES,
        at_most,
    };
    visit(shared, from, &mut |letter| page.add(letter))?;
    Ok(page.letters)
}

/// How many dead letters a partition ever had, and how many of them lie at `from` or above.
pub(crate) fn count(shared: &Shared, from: Position) -> Result<(u64, u64), StateError> {
    let (mut above, mut next) = (0, from.offset);
    let all = visit(shared, from, &mut |found| {
        if found.offset() >= next {
            above += 1;
            next = found.offset().saturating_add(1);
        }
        Ok(true)
    })?;
    Ok((all, above))
}

/// A dead letter, as it was found.
enum Found<'a> {
    Stored {
        partition: Partition,
        offset: Offset,
        key: &'a [u8],
        sealed: &'a [u8],
    },
    New(&'a DeadLetter),
}

impl Found<'_> {
    fn offset(&self) -> Offset {
        match self {
            Self::Stored { offset, .. } => *offset,
            Self::New(letter) => letter.position.offset,
        }
    }

    fn read(&self) -> Result<DeadLetter, StateError> {
        match self {
            Self::Stored {
                partition,
                key,
                sealed,
                ..
            } => layout::dead_letter_from(*partition, key, layout::open(key, sealed)?),
            Self::New(letter) => Ok((*letter).clone()),
        }
    }
}

struct Page {
    letters: Vec<DeadLetter>,
    /// What lies below was added.
    next: Offset,
    room: usize,
    at_most: usize,
}

impl Page {
    /// Adds a letter; whether there is room for more.
    fn add(&mut self, found: &Found<'_>) -> Result<bool, StateError> {
        if self.room == 0 || self.letters.len() >= self.at_most {
            return Ok(false);
        }
        // A checkpoint that broke off is in the store in part, and waits to be written as a whole.
        if found.offset() < self.next {
            return Ok(true);
        }
        let letter = found.read()?;
        self.next = letter.position.offset.saturating_add(1);
        let bytes = letter.key.len().saturating_add(letter.value.len());
        self.room = self.room.saturating_sub(bytes);
        self.letters.push(letter);
        Ok(true)
    }
}

type VisitLetter<'a> = dyn FnMut(&Found<'_>) -> Result<bool, StateError> + 'a;

/// Visits the dead letters at `from` and above, the older ones first, until the visitor has
/// enough; how many the partition ever had.
fn visit(shared: &Shared, from: Position, visit: &mut VisitLetter<'_>) -> Result<u64, StateError> {
    let Position { partition, offset } = from;
    let missing = StateError::NoSuchPartition(partition);
    let slot = shared.slot(partition).ok_or(missing)?;
    // While no checkpoint runs, each letter is in one of the three, and older ones come first.
    shared.checkpointer.hold(|unwritten| {
        let mut more = visit_stored(shared, from, visit)?;
        for (key, sealed) in unwritten.into_iter().flat_map(Redo::iter) {
            match stored(partition, key, sealed.unwrap_or_default()) {
                Some(found) if more && found.offset() >= offset => more = visit(&found)?,
                Some(_) | None => {}
            }
        }
        let state = slot.state.lock();
        let new = state.new_dead_letters();
        let below = new.partition_point(|letter| letter.position.offset < offset);
        for letter in new.iter().skip(below) {
            if !more {
                break;
            }
            more = visit(&Found::New(letter))?;
        }
        Ok(state.dead_letter_count())
    })
}

/// The dead letter that a put is, where it is one of the partition.
fn stored<'a>(partition: Partition, key: &'a [u8], sealed: &'a [u8]) -> Option<Found<'a>> {
    let offset = key.strip_prefix(&*layout::prefix(b'd', partition))?;
    Some(Found::Stored {
        partition,
        offset: Offset::from_be_bytes(offset.try_into().ok()?),
        key,
        sealed,
    })
}

/// The same of what is in the store; whether the visitor wants more.
fn visit_stored(
    shared: &Shared,
    from: Position,
    visit: &mut VisitLetter<'_>,
) -> Result<bool, StateError> {
    let Position { partition, offset } = from;
    let prefix = layout::prefix(b'd', partition);
    let first = layout::dead_letter_key(partition, offset);
    // The scan ends at an error only.
    let mut ended: Result<bool, StateError> = Ok(true);
    let scanned = shared.store.scan_from(&prefix, &first, &mut |key, sealed| {
        ended = match stored(partition, key, sealed) {
            Some(found) => visit(&found),
            None => Ok(true),
        };
        if matches!(ended, Ok(true)) {
            return Ok(());
        }
        Err(StoreError::ended("there is enough"))
    });
    match (ended, scanned) {
        (Ok(true), scanned) => scanned.map(|()| true).map_err(StateError::Store),
        (ended, _) => ended,
    }
}
