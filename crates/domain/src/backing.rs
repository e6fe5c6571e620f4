//! Where the state asks for what is not in memory, and what of it is to be written down.

use std::convert::Infallible;

use crate::dead_letter::{DeadLetter, LetterCounts};
use crate::partition::{Offset, Position};
use crate::remembered::RememberedKey;
use crate::words::{Counters, EventId, Resource, Toggles, UserId};

/// The state as it was last written down, for values that are not in memory.
pub trait Backing {
    /// Why it could not be read.
    type Error;

    /// A resource's counters; `None` where the resource has no events.
    ///
    /// # Errors
    /// Where the backing can't be read.
    fn counters(&self, resource: Resource) -> Result<Option<Counters>, Self::Error>;

    /// A user's toggles; `None` where nothing is set.
    ///
    /// # Errors
    /// Where the backing can't be read.
    fn toggles(&self, resource: Resource, user: &UserId) -> Result<Option<Toggles>, Self::Error>;

    /// The dead letter at an offset of the partition; `None` where none is kept there.
    ///
    /// # Errors
    /// Where the backing can't be read.
    fn dead_letter(&self, offset: Offset) -> Result<Option<DeadLetter>, Self::Error>;

    /// Whether the partition has folded the dead letter of another one that stands there.
    ///
    /// # Errors
    /// Where the backing can't be read.
    fn moved(&self, origin: Position) -> Result<bool, Self::Error>;
}

/// Nothing was ever written down: all there is is in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBacking;

impl Backing for NoBacking {
    type Error = Infallible;
    fn counters(&self, _: Resource) -> Result<Option<Counters>, Infallible> {
        Ok(None)
    }
    fn toggles(&self, _: Resource, _: &UserId) -> Result<Option<Toggles>, Infallible> {
        Ok(None)
    }
    fn dead_letter(&self, _: Offset) -> Result<Option<DeadLetter>, Infallible> {
        Ok(None)
    }
    fn moved(&self, _: Position) -> Result<bool, Infallible> {
        Ok(false)
    }
}

/// Everything that changed since the last `PartitionState::take_changes`, in the order in which
/// it first changed.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The offset of the next record to apply.
    pub next_offset: Offset,
    /// The last event that was folded.
    pub last_event: Option<(Offset, EventId)>,
    /// Changed counters.
    pub counters: Vec<(Resource, Counters)>,
    /// Changed toggles; nothing set means that the entry can go.
    pub toggles: Vec<(Resource, UserId, Toggles)>,
    /// New idempotency keys with their sequences, oldest first, in a row; not more than the last
    /// `Rules::key_count`. Written ones with sequences further back than that can go.
    pub keys: Vec<(u64, RememberedKey)>,
    /// New dead letters, in log order.
    pub dead_letters: Vec<DeadLetter>,
    /// Where dead letters stood that were written down before, and were replayed or dropped since.
    pub gone_dead_letters: Vec<Offset>,
    /// Where dead letters of other partitions stand that were folded here, for good.
    pub moved: Vec<Position>,
    /// How many dead letters there were, and are.
    pub letter_counts: LetterCounts,
}
