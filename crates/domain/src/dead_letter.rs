//! Why a record could not be folded, and what is decided about it later. The partition goes on; the
//! record is kept and counted until a replay folds it or a drop gives it up.

use serde::{Deserialize, Serialize};

use crate::fold::Outcome;
use crate::partition::Position;
use crate::words::{Event, EventId, EventTime};

/// What was wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// Not an event.
    Undecodable,
    /// An event of a newer schema version than this build knows.
    UnknownVersion,
    /// The resource belongs to another partition.
    WrongPartition,
    /// The event's time lies too far past the time at which the log took it.
    FutureTime,
}

impl DeadLetterReason {
    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::Undecodable,
        Self::UnknownVersion,
        Self::WrongPartition,
        Self::FutureTime,
    ];

    /// The word as it stands in JSON and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::UnknownVersion => "unknown_version",
            Self::WrongPartition => "wrong_partition",
            Self::FutureTime => "future_time",
        }
    }
}

/// A record that could not be folded, as state keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it stands in the log.
    pub position: Position,
    /// What was wrong, as a word.
    pub reason: DeadLetterReason,
    /// What was wrong, for a person; at most [`Self::MAX_DETAIL_CHARS`] characters.
    pub detail: String,
    /// When the log took it.
    pub append_time_millis: u64,
    /// The record's key.
    pub key: Vec<u8>,
    /// The record's value.
    pub value: Vec<u8>,
}

impl DeadLetter {
    /// The longest [`detail`](Self::detail), in characters.
    pub const MAX_DETAIL_CHARS: usize = 200;
}

/// What to do with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettleAction {
    /// Fold it now, where it can be.
    Replay,
    /// Give it up.
    Drop,
}

impl SettleAction {
    /// Every action.
    pub const ALL: &'static [Self] = &[Self::Replay, Self::Drop];

    /// The word as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Drop => "drop",
        }
    }
}

/// A replay or a drop of a dead letter: an event of the log, so that every fold decides alike.
///
/// It stands in the letter's own partition, whose state has the letter: only there can a fold tell
/// whether it is still one. Where the letter's event belongs in another partition, the replay stands
/// in that one and brings the event along; the fold there remembers the origin for good, so that
/// another replay of it counts nothing. The letter then goes by a drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Its identity.
    pub id: EventId,
    /// When it was decided; the fold does not look at it.
    pub at: EventTime,
    /// What was decided.
    pub action: SettleAction,
    /// Where the dead letter stands in the log.
    pub origin: Position,
    /// The letter's event, in a replay outside the letter's partition.
    pub event: Option<Box<Event>>,
}

/// What a replay or a drop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterFate {
    /// It was folded, and is no dead letter any more; a duplicate where it had been folded before.
    Folded(Outcome),
    /// It still can't be folded: nothing changed.
    Still(DeadLetterReason),
    /// It was given up.
    Dropped,
    /// There is no such dead letter, or not any more: nothing changed.
    Gone,
}

/// How many dead letters a partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LetterCounts {
    /// Records that were ever kept.
    pub ever: u64,
    /// Of those, how many were replayed or dropped.
    pub settled: u64,
}

impl LetterCounts {
    /// How many there are.
    #[must_use]
    pub fn now(self) -> u64 {
        self.ever.saturating_sub(self.settled)
    }
}
