//! The fold: what one event does to the values it touches.
//!
//! [`decide`] is the whole rule book. It sees the values before, and returns the values after;
//! finding and keeping them is [`crate::state`]'s work.

use serde::{Deserialize, Serialize};

use crate::words::{Counters, InteractionType, Toggles};

/// The version of everything in this crate that decides a number. State built by another version
/// is rebuilt from the log.
pub const FOLD_VERSION: u32 = 2;

/// The versioned rules: they are part of the state's identity, never configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long an idempotency key holds, in milliseconds of event time after its first event.
    pub key_millis: u64,
    /// How many newer keys in its partition a key outlives.
    pub key_count: u32,
    /// How far an event's time may lie past the log's append time, in milliseconds.
    pub max_ahead_millis: u64,
}

impl Rules {
    /// The rules of [`FOLD_VERSION`].
    pub const CURRENT: Self = Self {
        key_millis: 24 * 60 * 60 * 1_000,
        key_count: 1 << 18,
        max_ahead_millis: 5 * 60 * 1_000,
    };
}

/// What the fold made of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The state changed.
    Applied,
    /// The state already said so: a like of what is liked.
    NoChange,
    /// The same idempotency key with the same interaction came before.
    Duplicate,
    /// The same idempotency key with another interaction came before.
    Conflict,
    /// A counting rule said no.
    Filtered,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Self] = &[
        Self::Applied,
        Self::NoChange,
        Self::Duplicate,
        Self::Conflict,
        Self::Filtered,
    ];

    /// The word as it stands in JSON and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NoChange => "no_change",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Filtered => "filtered",
        }
    }
}

/// What an interaction does to one resource and one user, whose key (if it had one) is new.
///
/// A toggle moves its counter only when it changes, so a counter always equals the number of
/// users with the toggle set. A counter that reached `u64::MAX` stays there.
#[must_use]
pub fn decide(
    counters: Counters,
    toggles: Toggles,
    interaction: InteractionType,
) -> (Outcome, Counters, Toggles) {
    let mut after = (Outcome::Applied, counters, toggles);
    let (outcome, c, t) = (&mut after.0, &mut after.1, &mut after.2);
    match interaction {
        InteractionType::View => c.views = c.views.saturating_add(1),
        InteractionType::Share => c.shares = c.shares.saturating_add(1),
        InteractionType::Comment => c.comments = c.comments.saturating_add(1),
        InteractionType::Like => *outcome = turn(&mut t.liked, &mut c.likes, true),
        InteractionType::Unlike => *outcome = turn(&mut t.liked, &mut c.likes, false),
        InteractionType::Bookmark => *outcome = turn(&mut t.bookmarked, &mut c.bookmarks, true),
        InteractionType::Unbookmark => *outcome = turn(&mut t.bookmarked, &mut c.bookmarks, false),
    }
    after
}

fn turn(toggle: &mut bool, counter: &mut u64, to: bool) -> Outcome {
    if *toggle == to {
        return Outcome::NoChange;
    }
    *toggle = to;
    *counter = if to {
        counter.saturating_add(1)
    } else {
        counter.saturating_sub(1)
    };
    Outcome::Applied
}
