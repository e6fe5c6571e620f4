//! Why a record could not be folded. The partition goes on; the record is kept and counted.

use serde::{Deserialize, Serialize};

use crate::partition::Position;

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
