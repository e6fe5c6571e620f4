//! The dead letters of the state, page by page: those that are written down, those that a
//! checkpoint took and could not write, and those that came since; without those that were settled.

use std::collections::{HashMap, HashSet};

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
        let life = self.life_soon()?;
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

/// What the store, and a checkpoint that could not be written, have of dead letters: of the
/// partition's own at `offsets`, and whether those at `origins` were folded here. It waits for a
/// checkpoint that is under way.
pub(crate) fn written(
    shared: &Shared,
    partition: Partition,
    offsets: &[Offset],
    origins: &[Position],
) -> Result<Written, StateError> {
    shared.checkpointer.hold(|unwritten| {
        let unwritten: HashMap<_, _> = unwritten.into_iter().flat_map(Redo::iter).collect();
        let get = |key: &[u8]| match unwritten.get(key) {
            Some(sealed) => Ok(sealed.map(<[u8]>::to_vec)),
            None => shared.store.get(key),
        };
        let mut written = Written::default();
        for offset in offsets {
            let key = layout::dead_letter_key(partition, *offset);
            let letter = match get(&key)? {
                Some(sealed) => {
                    let value = layout::open(&key, &sealed)?;
                    Some(layout::dead_letter_from(partition, &key, value)?)
                }
                None => None,
            };
            written.letters.push((*offset, letter));
        }
        for origin in origins {
            let key = layout::moved_key(partition, *origin);
            let sealed = get(&key)?;
            if let Some(sealed) = &sealed {
                layout::open(&key, sealed)?;
            }
            written.moved.push((*origin, sealed.is_some()));
        }
        Ok(written)
    })
}

/// As [`written`] finds it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) letters: Vec<(Offset, Option<DeadLetter>)>,
    pub(crate) moved: Vec<(Position, bool)>,
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
    // While no checkpoint runs, each letter is in one of the three, and older ones come first. One
    // that is settled meanwhile may still be seen.
    shared.checkpointer.hold(|unwritten| {
        let mut gone: HashSet<Offset> = slot.state.lock().gone_dead_letters().collect();
        let puts: Vec<_> = unwritten.into_iter().flat_map(Redo::iter).collect();
        let letters = puts.iter().filter_map(|(key, sealed)| {
            let found = stored(partition, key, sealed.unwrap_or_default())?;
            Some((found, sealed.is_some()))
        });
        let (mut waiting, mut removed) = (Vec::new(), HashSet::new());
        for (found, kept) in letters {
            if kept {
                removed.remove(&found.offset());
                waiting.push(found);
            } else {
                removed.insert(found.offset());
            }
        }
        gone.extend(removed);
        let mut visit = |found: &Found<'_>| {
            if gone.contains(&found.offset()) {
                return Ok(true);
            }
            visit(found)
        };
        let mut more = visit_stored(shared, from, &mut visit)?;
        for found in waiting.iter().filter(|found| found.offset() >= offset) {
            more = more && visit(found)?;
        }
        let state = slot.state.lock();
        for letter in state.new_dead_letters(offset) {
            if !more {
                break;
            }
            more = visit(&Found::New(letter))?;
        }
        Ok(state.letter_counts().ever)
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
